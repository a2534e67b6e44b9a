//! `replay` tells the story of one seed, `plan` prints what the seed draws, `one` is the second process of a confirmation.

use std::path::PathBuf;

use console::style;

use super::choose::{Chosen, choose};
use super::{Outcome, Usage, options, seeds, write};
use crate::cli::report;
use crate::explore::run::{Options, fork_run};
use crate::explore::spinner::seconds;
use crate::explore::sweep::judged;
use crate::plan::seed::Seed;
use crate::plan::{self, Plan, Repro};
use crate::trace::verdict::{Report, Verdict};
use crate::world::product::Product;
use crate::world::words;

/// Runs one seed and prints its story.
pub(super) fn replay<P: Product>(what: &str, trace: Option<PathBuf>) -> Outcome {
    let (chosen, seed) = chosen::<P>(what)?;
    let plan = chosen.plan(seed);
    if let Some(path) = &trace {
        write(path, "")?;
    }
    println!("{}, seed {seed}: {}", style(&chosen.name).bold(), plan.about);
    for (nth, fault) in plan.faults.iter().enumerate() {
        println!("fault {}: {}", nth + 1, plan::told(fault));
    }
    let traced = trace.clone();
    let report =
        fork_run::<P>(&chosen.name, &plan, Seed(seed), &Options { trace, ..options(!chosen.drawn()) }).finish();
    if !report.story.is_empty() {
        println!("\nthe story:");
        report.story.iter().for_each(|line| println!("  {line}"));
    }
    println!();
    verdict(&report, &judged(report.clone(), &plan.expect));
    if let Some(path) = traced {
        println!("trace: {}", path.display());
    }
    Ok(judged(report, &plan.expect).verdict.exit_code())
}

/// What came of it, without the story that has been told.
fn verdict(report: &Report, judged: &Report) {
    if report.verdict == Verdict::Passed && judged.verdict == Verdict::Passed {
        report::excuses(report).iter().for_each(|line| println!("{line}"));
        println!("{}", style("passed").green().bold());
    } else {
        let told = Report { story: Vec::new(), because: judged.because.clone(), ..report.clone() };
        let mut lines = report::failure(&told, &report::Around::default());
        lines.pop();
        println!("{}", style(&lines[0]).red().bold());
        lines[1..].iter().for_each(|line| println!("{line}"));
        if judged.verdict == Verdict::Passed {
            println!("{}", style("as the plan expects").green().bold());
        }
    }
    println!(
        "{} events in {} of virtual time, {} here; digest {}",
        report.events,
        seconds(report.virtual_seconds),
        seconds(report.wall_seconds),
        report.digest
    );
}

/// Prints the plan of a seed. What is drawn says with which seed, so that the file runs as it was drawn.
pub(super) fn plan<P: Product>(what: &str) -> Outcome {
    let (chosen, seed) = chosen::<P>(what)?;
    let plan = chosen.plan(seed);
    let drawn = chosen.drawn().then(|| Repro { seed, ..Repro::default() });
    let repro = drawn.or_else(|| plan.repro.clone());
    let text = plan::print(&Plan { repro, ..plan });
    print!("{text}");
    // A drawn plan that cannot be read back is a fault of the drawing.
    words::parse::<P>(&format!("{}@{seed}", chosen.name), &text)?;
    Ok(0)
}

/// Runs one seed and prints its report as JSON.
pub(super) fn one<P: Product>(what: &str, seed: u64) -> Outcome {
    let chosen = choose::<P>(what)?;
    let report = fork_run::<P>(&chosen.name, &chosen.plan(seed), Seed(seed), &options(!chosen.drawn())).finish();
    println!("{}", serde_json::to_string(&report)?);
    Ok(0)
}

/// What `NAME@SEED` or the file of a plan stands for.
pub(super) fn chosen<P: Product>(what: &str) -> Result<(Chosen<P::Workload>, u64), Usage> {
    let (name, seed) = seeds::named(what)?;
    let chosen = choose::<P>(name)?;
    let seed = match seed.or(chosen.own_seed()) {
        Some(seed) => seed,
        None => seeds::from_env()?.unwrap_or(1),
    };
    Ok((chosen, seed))
}
