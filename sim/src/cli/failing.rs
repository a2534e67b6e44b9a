//! What is done about a failure before it is printed: a second process confirms it, a drawn plan is made smaller, and the
//! smaller plan is kept as a repro.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use console::style;
use sha2::{Digest, Sha256};

use super::choose::Chosen;
use super::options;
use crate::plan::{self, Expect, Plan, Repro, words};
use crate::product::Product;
use crate::report::{self, Around};
use crate::run::fork_run;
use crate::seed::Seed;
use crate::shrink::{Trial, shrink};
use crate::verdict::{Report, Verdict};

/// So long may the search for a smaller plan take in all. A reader waits this long for a better report, not longer.
const SHRINK_MAX: Duration = Duration::from_secs(60);

/// Runs the seed of `report`, if it is a violation, in a process of its own, started anew, and turns the report into a nondeterministic one if
/// that run differs. Forks share the addresses of their parent; a new process does not.
pub(super) fn confirmed(report: Report, handle: &str) -> Report {
    if report.verdict != Verdict::Violated {
        return report;
    }
    let second = second(handle, report.seed);
    compared(report, second)
}

/// `report` in the light of what a second process came to.
fn compared(report: Report, second: Result<Report, String>) -> Report {
    let (verdict, says) = match second {
        Ok(second) if second.digest == report.digest && second.verdict == report.verdict => return report,
        Ok(second) => {
            let (before, after) = (report::word(report.verdict), report::word(second.verdict));
            let says = format!(
                "{before} with digest {}, in a second process {after} with digest {}",
                report.digest, second.digest
            );
            (Verdict::Nondeterministic, says)
        }
        Err(error) => (Verdict::Error, format!("the second process of the confirmation failed: {error}")),
    };
    let mut because = vec![says];
    because.extend(report.because);
    Report { verdict, because, ..report }
}

fn second(handle: &str, seed: u64) -> Result<Report, String> {
    let exe = std::env::current_exe().map_err(|error| error.to_string())?;
    let output = Command::new(exe)
        .args(["one", handle, "--seed", &seed.to_string()])
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().next_back().unwrap_or("");
    serde_json::from_str(line).map_err(|error| {
        let said = String::from_utf8_lossy(&output.stderr);
        format!("{error} ({}): {}", output.status, said.lines().next_back().unwrap_or("it said nothing"))
    })
}

/// Prints `report`, of a run of `chosen` that failed and was confirmed. Looks for a smaller plan first if `smaller`.
pub(super) fn tell<P: Product>(report: &Report, chosen: &Chosen<P::Workload>, smaller: bool, root: &Path) {
    let promises = words::invariants::<P>();
    let promise = promises.iter().find(|(name, _)| Some(*name) == report.invariant.as_deref()).map(|(_, says)| *says);
    let mut around = Around { promise, replay: chosen.replay(report.seed), smaller: None };
    if smaller && chosen.drawn() && report.verdict == Verdict::Violated {
        match smaller_plan::<P>(report, chosen, root) {
            Ok(found) => around.smaller = Some(found),
            Err(error) => eprintln!("the smaller plan could not be kept: {error}"),
        }
    }
    let lines = report::failure(report, &around);
    println!();
    println!("{}", style(&lines[0]).red().bold());
    lines[1..].iter().for_each(|line| println!("{line}"));
}

/// The smallest plan found that breaks the same invariant: its file, and the part of its text that is worth showing.
fn smaller_plan<P: Product>(
    report: &Report,
    chosen: &Chosen<P::Workload>,
    root: &Path,
) -> std::io::Result<(String, String)> {
    let began = Instant::now();
    let mut plan = chosen.plan(report.seed);
    // What the sweep wanted of the drawn plan is no matter of the smaller one.
    plan.must_reach.clear();
    plan.arms = report.invariant.iter().cloned().collect();
    let spinner = super::run::spinner("looking for a smaller plan");
    let shrunk = shrink(&plan, |candidate| {
        if began.elapsed() > SHRINK_MAX {
            return Trial::OutOfTime;
        }
        spinner.tick();
        trial::<P>(candidate, report)
    });
    spinner.finish_and_clear();
    // A reader of the report knows what the rest of the file says.
    let shown = plan::print(&Plan { arms: Vec::new(), ..shrunk.plan.clone() });
    let about = format!("{} on seed {}, made smaller in {} trials", report.scenario, report.seed, shrunk.trials);
    let text = plan::print(&as_repro(Plan { about, ..shrunk.plan }, report, root));
    let dir = root.join("target/sim/findings");
    std::fs::create_dir_all(&dir)?;
    let path = dir.join(format!("{}-{}.repro.toml", chosen.name, report.seed));
    std::fs::write(&path, &text)?;
    let path = path.strip_prefix(std::env::current_dir()?).map(PathBuf::from).unwrap_or(path);
    Ok((path.display().to_string(), shown))
}

/// Whether `candidate` breaks what `report` says is broken. One that no file could say is no candidate.
fn trial<P: Product>(candidate: &Plan<P::Workload>, report: &Report) -> Trial {
    if plan::parse::<P>("candidate", &plan::print(candidate)).is_err() {
        return Trial::Holds;
    }
    let again = fork_run::<P>(&report.scenario, candidate, Seed(report.seed), &options(false)).finish();
    let same = again.verdict == Verdict::Violated && again.invariant == report.invariant;
    if same { Trial::Breaks } else { Trial::Holds }
}

fn as_repro<W>(plan: Plan<W>, report: &Report, root: &Path) -> Plan<W> {
    let expect = Expect { verdict: "violated".to_owned(), invariant: report.invariant.clone() };
    let repro = Repro { seed: report.seed, commit: commit(root), toolchain: toolchain(), lock: lock(root) };
    Plan { expect, repro: Some(repro), ..plan }
}

/// The commit that is checked out, read without git.
fn commit(root: &Path) -> String {
    let unknown = || "unknown".to_owned();
    let Ok(head) = std::fs::read_to_string(root.join(".git/HEAD")) else { return unknown() };
    let Some(name) = head.trim().strip_prefix("ref: ") else { return head.trim().to_owned() };
    if let Ok(commit) = std::fs::read_to_string(root.join(".git").join(name)) {
        return commit.trim().to_owned();
    }
    let packed = std::fs::read_to_string(root.join(".git/packed-refs")).unwrap_or_default();
    let line = packed.lines().find(|line| line.ends_with(name));
    line.and_then(|line| line.split(' ').next()).map_or_else(unknown, str::to_owned)
}

fn toolchain() -> String {
    let output = Command::new("rustc").arg("--version").stderr(Stdio::null()).output();
    let said = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default();
    if said.is_empty() { "unknown".to_owned() } else { said }
}

fn lock(root: &Path) -> String {
    match std::fs::read(root.join("Cargo.lock")) {
        Ok(bytes) => Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect(),
        Err(_) => "unknown".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::report;
    use crate::toy::Toy;

    #[test]
    fn only_what_a_second_process_has_seen_is_a_violation() {
        let first = report("swarm", 17, Verdict::Violated);
        assert_eq!(compared(first.clone(), Ok(first.clone())), first);
        let other = Report { digest: "else".to_owned(), ..first.clone() };
        let told = compared(first.clone(), Ok(other));
        assert_eq!(told.verdict, Verdict::Nondeterministic);
        assert_eq!(told.because, ["violated with digest d17, in a second process violated with digest else"]);
        assert_eq!(compared(first, Err("it said nothing".to_owned())).verdict, Verdict::Error);
    }

    #[test]
    fn a_repro_says_what_must_break_and_where_it_came_from() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let plan = Plan { about: "x".to_owned(), ..words::bare::<Toy>() };
        let repro = as_repro(plan, &report("swarm", 17, Verdict::Violated), root);
        assert_eq!(plan::parse::<Toy>("repro", &plan::print(&repro)).unwrap(), repro);
        assert_eq!(repro.expect.invariant.as_deref(), Some("no_zombies"));
        let origin = repro.repro.unwrap();
        assert_eq!(origin.seed, 17);
        assert_eq!(origin.lock.len(), 64);
        assert!(origin.toolchain.starts_with("rustc") || origin.toolchain == "unknown");
    }
}
