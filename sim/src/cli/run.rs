//! `run` sweeps one scenario over seeds; without arguments every scenario gets a handful.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::RawFd;
use std::path::Path;
use std::time::Instant;

use console::style;
use indicatif::{ProgressBar, ProgressStyle};

use super::choose::{self, Chosen, choose};
use super::{Outcome, RunArgs, Usage, failing, options, read, seeds, write};
use crate::cli::report::{self, word};
use crate::cli::table::{Table, cut};
use crate::explore::rerun::Rerun;
use crate::explore::run::{Child, Options, fork_run};
use crate::explore::spinner::seconds;
use crate::explore::sweep::{Ground, Next, Reach, Running, Task, judged, sweep, tasks};
use crate::plan::Workload;
use crate::plan::seed::Seed;
use crate::trace::verdict::{Report, Verdict};
use crate::world::product::Product;
use crate::world::words;

/// How to sweep.
struct How {
    jobs: usize,
    /// How many seeds earlier sweeps of this command had.
    before: usize,
    keep_going: bool,
    shrink: bool,
    past_vacuous: bool,
    /// Whether no invariant counts.
    naive: bool,
    /// Whether to keep the shapes of what is said to services.
    shapes: bool,
}

/// One process of a sweep.
enum Going {
    Run(Child),
    Check(Rerun),
}

impl Running for Going {
    fn fd(&self) -> RawFd {
        match self {
            Going::Run(child) => child.fd(),
            Going::Check(second) => second.fd(),
        }
    }

    fn deadline(&self) -> Instant {
        match self {
            Going::Run(child) => child.deadline(),
            Going::Check(second) => second.deadline(),
        }
    }

    fn finish(self) -> Report {
        match self {
            Going::Run(child) => child.finish(),
            Going::Check(second) => second.finish(),
        }
    }

    fn abandon(self) {
        match self {
            Going::Run(child) => child.abandon(),
            Going::Check(second) => second.abandon(),
        }
    }
}

/// What came of one sweep.
struct Swept {
    reports: Vec<Report>,
    /// How many of them a second process has confirmed, or not.
    checked: usize,
    reach: Reach,
    /// Why it shows nothing although every seed has passed: nothing was done.
    void: Vec<String>,
    /// What was said to services, if it was asked for.
    shapes: BTreeSet<String>,
    worst: Verdict,
    wall_seconds: f64,
}

/// `run NAME|FILE`.
pub(super) fn run<P: Product>(args: &RunArgs, root: &Path) -> Outcome {
    let chosen = choose::<P>(&args.what)?;
    let range = range(args, &chosen)?;
    let mut seeds = range.seeds();
    if args.backwards {
        seeds.reverse();
    }
    // What cannot be written is better known before the night than after it.
    for path in [&args.json, &args.digests].into_iter().flatten() {
        write(path, "")?;
    }
    println!("{}, {}: {}", style(&chosen.name).bold(), told(range), chosen.about);
    let covered = args.covered_by.as_deref().map(read).transpose()?;
    let shapes = covered.is_some();
    let jobs = args.jobs.and_then(|jobs| usize::try_from(jobs).ok()).unwrap_or_else(cores);
    let how = How {
        jobs,
        before: 0,
        keep_going: args.keep_going,
        shrink: !args.no_shrink,
        past_vacuous: args.past_vacuous,
        naive: args.naive,
        shapes,
    };
    let bar = bar(seeds.len());
    let mut swept = swept::<P>(&chosen, &seeds, &how, &bar, root);
    bar.finish_and_clear();
    println!();
    if chosen.drawn() {
        tell_reach(&swept.reach);
        tell_void(&swept.void);
        if args.strict && swept.worst == Verdict::Passed && !swept.reach.missing().is_empty() {
            println!("{}: this sweep proves less than it seems to", style("vacuous").yellow().bold());
            swept.reach.missing().iter().for_each(|line| println!("  {line}"));
            swept.worst = Verdict::Vacuous;
        }
    }
    let seldom = args.felt_at_least.map(|least| swept.reach.seldom(least)).unwrap_or_default();
    if swept.worst == Verdict::Passed && !seldom.is_empty() {
        println!("{}: too few faults came when they matter most", style("vacuous").yellow().bold());
        seldom.iter().for_each(|line| println!("  {line}"));
        swept.worst = Verdict::Vacuous;
    }
    if let Some(covered) = covered.filter(|_| swept.worst == Verdict::Passed) {
        swept.worst = tell_uncovered(&swept.shapes, &covered);
    }
    summary(&swept, seeds.len());
    if let Some(path) = &args.json {
        write(path, &format!("{}\n", report::json(&swept.reports, &swept.reach.floors, &swept.void)))?;
    }
    if let Some(path) = &args.digests {
        write(path, &report::digests(&swept.reports))?;
    }
    Ok(swept.worst.exit_code())
}

/// The processor cores that this process may use.
pub(super) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Every scenario on a handful of seeds, but those that take days.
pub(super) fn everything<P: Product>(root: &Path) -> Outcome {
    let mut scenarios = Vec::new();
    let mut malformed = Vec::new();
    for chosen in choose::all::<P>() {
        match chosen {
            Ok(chosen) => scenarios.push(chosen),
            Err(Usage(says)) => malformed.push(says),
        }
    }
    let (scenarios, long): (Vec<_>, Vec<_>) = scenarios.into_iter().partition(Chosen::is_short);
    println!("Every scenario on a handful of seeds; `{} --help` shows what else there is.\n", P::command());
    let total = scenarios.iter().map(|chosen| chosen.handful().seeds().len()).sum();
    let bar = bar(total);
    let mut table = Table::new(&["scenario", "about", ">seeds", ">passed", ">virtual time", ">wall time", ""]);
    let (mut worst, mut before, mut checked) = (Verdict::Passed, 0, 0);
    let mut void = Vec::new();
    for chosen in &scenarios {
        let how = How {
            jobs: cores(),
            before,
            keep_going: true,
            shrink: true,
            past_vacuous: false,
            naive: false,
            shapes: false,
        };
        let seeds = chosen.handful().seeds();
        before += seeds.len();
        let swept = swept::<P>(chosen, &seeds, &how, &bar, root);
        worst = worst.worse(swept.worst);
        checked += swept.checked;
        table.row(row(chosen, &swept));
        void.extend(swept.void);
    }
    bar.finish_and_clear();
    println!();
    table.print();
    tell_void(&void);
    println!("\n{checked} runs were checked for determinism in a process of their own.");
    for chosen in long {
        println!("Left out, as it takes days: `{} run {}`.", P::command(), chosen.handle);
    }
    if malformed.is_empty() { Ok(worst.exit_code()) } else { Err(Usage(malformed.join("\n"))) }
}

/// Sweeps, and tells of the first failure in the order of the seeds.
fn swept<P: Product>(chosen: &Chosen<P::Workload>, seeds: &[u64], how: &How, bar: &ProgressBar, root: &Path) -> Swept {
    let began = Instant::now();
    let mut reports: Vec<Report> = Vec::new();
    let mut reach = Reach::over(&words::vocabulary::<P>(), P::moments().names());
    let mut worst = Verdict::Passed;
    let mut failed = false;
    // What a plan arms says nothing where no invariant counts.
    let options = Options { shapes: how.shapes, naive: how.naive, ..options(!chosen.drawn() && !how.naive) };
    let mut shapes = BTreeSet::new();
    bar.set_message(chosen.name.clone());
    let begin = |task| match task {
        Task::Run(seed) => Going::Run(fork_run::<P>(&chosen.name, &chosen.plan(seed), Seed(seed), &options)),
        Task::Check(seed) => match Rerun::begin(&chosen.handle, seed, failing::SECOND_MAX) {
            Ok(second) => Going::Check(second),
            Err(error) => panic!("no second process for seed {seed}: {error}"),
        },
    };
    let (mut second, mut checked) = (None, 0);
    // A second process judges, and so does not end when this one does: there is nothing to compare.
    let mut tasks = tasks(seeds, how.before);
    tasks.retain(|task| !how.naive || matches!(task, Task::Run(_)));
    sweep(&tasks, how.jobs, begin, |task, report| {
        if let Task::Check(_) = task {
            second = Some(report);
            return Next::GoOn;
        }
        bar.inc(1);
        let report = match second.take() {
            Some(second) => {
                checked += 1;
                failing::compared(report, second)
            }
            None => report,
        };
        reach.add(&report);
        shapes.extend(report.shapes.iter().cloned());
        let expected = chosen.plan(report.seed).expect;
        let mut report = judged(report, &expected);
        let idle = how.past_vacuous && report.verdict == Verdict::Vacuous;
        if report.verdict != Verdict::Passed && !idle {
            let first = !failed;
            failed = true;
            // A failure is reported only once a second process has seen it.
            report = bar.suspend(|| {
                if first { first_failure::<P>(report, chosen, how, root) } else { one_more(report, chosen) }
            });
        }
        worst = worst.worse(report.verdict);
        // What has been told is not kept: the parent stays small, so that forking it stays cheap.
        let faults = if report.verdict == Verdict::Passed { Vec::new() } else { report.faults };
        reports.push(Report { story: Vec::new(), reached: BTreeMap::new(), faults, shapes: Vec::new(), ..report });
        if failed && !how.keep_going { Next::Stop } else { Next::GoOn }
    });
    // A plan that somebody wrote says in `must_reach` what must come of it.
    let whole = chosen.drawn() && reports.len() == seeds.len();
    let void = if whole && worst == Verdict::Passed { reach.void(|seed| chosen.replay(seed)) } else { Vec::new() };
    if !void.is_empty() {
        worst = Verdict::Vacuous;
    }
    Swept { reports, checked, reach, void, shapes, worst, wall_seconds: began.elapsed().as_secs_f64() }
}

/// A sweep that is void says so before its summary.
fn tell_void(void: &[String]) {
    if !void.is_empty() {
        println!("{}: every seed has passed, and shows nothing", style("void").red().bold());
        void.iter().for_each(|line| println!("  {line}"));
    }
}

fn first_failure<P: Product>(report: Report, chosen: &Chosen<P::Workload>, how: &How, root: &Path) -> Report {
    let report = failing::confirmed(report, &chosen.handle);
    let repro = failing::tell::<P>(&report, chosen, how.shrink, root);
    Report { repro, ..report }
}

fn one_more<W: Workload>(report: Report, chosen: &Chosen<W>) -> Report {
    let report = failing::confirmed(report, &chosen.handle);
    println!("{}; {}", report::headline(&report), failing::again(&report, chosen));
    report
}

/// The seeds that the command line asks for, or else the environment, the repro, or a handful.
fn range<W: Workload>(args: &RunArgs, chosen: &Chosen<W>) -> Result<seeds::Range, Usage> {
    if let Some(range) = args.seeds {
        return Ok(range);
    }
    if let Some(seed) = args.seed {
        return Ok(seeds::Range::only(seed));
    }
    let own = chosen.own_seed();
    Ok(match (seeds::from_env()?, seeds::count_from_env()?) {
        (Some(first), count) => seeds::Range::counted(first, count.unwrap_or(1)),
        (None, Some(count)) => seeds::Range::counted(own.unwrap_or(1), count),
        (None, None) => own.map_or_else(|| chosen.handful(), seeds::Range::only),
    })
}

fn told(range: seeds::Range) -> String {
    match range.last - range.first {
        0 => format!("seed {}", range.first),
        _ => format!("seeds {} to {}", range.first, range.last),
    }
}

fn row<W>(chosen: &Chosen<W>, swept: &Swept) -> [String; 7] {
    let passed = swept.reports.iter().filter(|report| report.verdict == Verdict::Passed).count();
    let virtual_seconds: f64 = swept.reports.iter().map(|report| report.virtual_seconds).sum();
    let verdict = match swept.worst {
        Verdict::Passed => style("passed").green(),
        worst => style(word(worst)).red().bold(),
    };
    [
        chosen.name.clone(),
        cut(&chosen.about, 60),
        swept.reports.len().to_string(),
        passed.to_string(),
        seconds(virtual_seconds),
        seconds(swept.wall_seconds),
        verdict.to_string(),
    ]
}

/// What was said to a service and is compared with no real server proves less than it seems to.
fn tell_uncovered(shapes: &BTreeSet<String>, covered: &str) -> Verdict {
    let covered: BTreeSet<&str> = covered.lines().collect();
    let missing: Vec<_> = shapes.iter().filter(|shape| !covered.contains(shape.as_str())).collect();
    if missing.is_empty() {
        return Verdict::Passed;
    }
    println!("{}: no conformance body compares this with the real server", style("vacuous").yellow().bold());
    missing.iter().for_each(|shape| println!("  {shape}"));
    Verdict::Vacuous
}

/// So many lines of a sweep's table of excuses, the longest first.
const EXCUSES: usize = 10;

fn tell_reach(reach: &Reach) {
    let percent = |count: usize| format!("{:.0} %", 100.0 * count as f64 / reach.runs.max(1) as f64);
    let moments = reach.moments.values().next().into_iter().flat_map(|counts| counts.keys());
    let moments: Vec<String> = moments.map(|moment| format!(">times in a {moment}")).collect();
    let heads: Vec<&str> = ["fault", ">drawn", ">felt"].into_iter().chain(moments.iter().map(String::as_str)).collect();
    let mut faults = Table::new(&heads);
    for (kind, (drawn, felt)) in &reach.faults {
        let times = reach.moments[kind].values().map(u64::to_string);
        faults.row([kind.clone(), percent(*drawn), percent(*felt)].into_iter().chain(times));
    }
    let mut armed = Table::new(&["invariant", ">armed"]);
    for (name, count) in &reach.armed {
        armed.row([name.clone(), percent(*count)]);
    }
    for table in [faults, armed] {
        table.print();
        println!();
    }
    let mut longest: Vec<_> = reach.excuses.iter().collect();
    longest.sort_by(|(_, (_, one)), (_, (_, other))| other.total_cmp(one));
    let mut excuses = Table::new(&["no deadline of", "while there was", ">in runs", ">virtual time"]);
    for ((invariant, kind), (runs, length)) in longest.into_iter().take(EXCUSES) {
        excuses.row([invariant.clone(), kind.clone(), percent(*runs), seconds(*length)]);
    }
    if !reach.excuses.is_empty() {
        excuses.print();
        println!();
    }
    for (name, Ground { floor, .. }) in &reach.floors {
        println!("work that nothing disturbed, as {name} sees it: {} of {} done\n", floor.kept, floor.promised);
    }
}

fn summary(swept: &Swept, asked: usize) {
    let passed = swept.reports.iter().filter(|report| report.verdict == Verdict::Passed).count();
    let virtual_seconds: f64 = swept.reports.iter().map(|report| report.virtual_seconds).sum();
    let verdict = match swept.worst {
        Verdict::Passed => style("passed").green().bold(),
        worst => style(word(worst)).red().bold(),
    };
    let left = match asked - swept.reports.len() {
        0 => String::new(),
        left => format!(", {left} not run after the failure (--keep-going runs them)"),
    };
    println!(
        "{verdict}: {passed} of {} seeds passed{left}; {} of virtual time in {}; {} checked for determinism",
        swept.reports.len(),
        seconds(virtual_seconds),
        seconds(swept.wall_seconds),
        swept.checked
    );
}

/// A bar that shows only on a terminal. It has no ticker: that would be a thread in the forking parent.
pub(super) fn bar(length: usize) -> ProgressBar {
    let style =
        ProgressStyle::with_template("{msg} [{bar:40}] {pos}/{len}, {eta} left").expect("the template is valid");
    ProgressBar::new(length as u64).with_style(style.progress_chars("=> "))
}
