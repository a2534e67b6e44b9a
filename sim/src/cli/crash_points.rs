//! `crash-points`: a story once for each of its events and each process that could be struck there, and which of these break
//! something. Each that does is kept as a file, which a second process has replayed.

mod asked;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use console::style;
use indicatif::ProgressBar;
use serde::Serialize;

use self::asked::{known, never, struck};
use super::run::{bar, cores};
use super::{Outcome, Usage, failing, options, replay, seeds, write};
use crate::cli::report::word;
use crate::cli::table::{Table, cut};
use crate::explore::crash_points::{Cue, Harm, Point, Strike, Window, cues, expectant, spread};
use crate::explore::rerun::Rerun;
use crate::explore::run::{Options, fork_run};
use crate::explore::spinner::seconds;
use crate::explore::sweep::{Next, Running, sweep};
use crate::plan::seed::Seed;
use crate::plan::{self, Plan, Workload, duration};
use crate::trace::verdict::{FaultReport, Report, Verdict};
use crate::world::product::Product;
use crate::world::words;

const EXAMPLES: &str = "\
The story runs once and its events are listed, up to where everything heals. Then it runs once more for each of them and for
each process that lives then, which is struck directly after that event, before anything else happens. The invariants
judge as ever; what the story must reach is not asked of these runs. What breaks something is kept as the file of a plan, whose
fault hangs on that event; a second process has replayed it before it is told.

A window is FROM..TO. Each is an event (see `list events`), after a colon its session, after another which one, from 1:
`claimed:ann/1:2`. TO is counted from FROM, and either may be left out.

Examples:
  {sim} crash-points pool_close | an executor is killed after each event
  {sim} crash-points pool_close --window signalled..exited | while it drains
  {sim} crash-points switch_holder_killed --target agent | a container
  {sim} crash-points rolling_restart --kind cut --lasts 2m | it reaches nobody for two minutes
  {sim} crash-points rolling_restart --kind pair --at-most 100
 | told to stop, and killed before it has

Exit codes: 0 if all points pass, else that of the worst, as `run` has them: 1 violated, 3 no progress, 4 panicked,
5 nondeterministic, 7 error of the harness; 2 usage. A story that breaks without any strike is told first.";

/// So many pairs are tried, unless more are asked for: their number grows with the square of the events.
const PAIRS_MAX: usize = 300;

/// How long a cut lasts unless the command line says otherwise: longer than most remote calls are waited for.
const CUT_LASTS: Duration = Duration::from_secs(30);

/// Times on the way from a child lose less than this.
const SAME_SECONDS: f64 = 1e-6;

/// `crash-points`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// The name of a scenario (see `list`), or the file of a plan.
    what: String,
    /// The seed of all of these runs: 1, or that of a repro, unless said.
    #[arg(long, value_name = "N", allow_hyphen_values = true, value_parser = seeds::one)]
    seed: Option<u64>,
    /// Strikes between two events only, and at both.
    #[arg(long, value_name = "FROM..TO", value_parser = Window::parse)]
    window: Option<Window>,
    /// What befalls the process.
    #[arg(long, value_enum, default_value_t)]
    kind: Harm,
    /// Whom it befalls: a role, or one process. Without: each process that the service manager boots and no user reaches.
    #[arg(long, value_name = "ROLE")]
    target: Option<String>,
    /// How long a cut lasts; 30s, unless said.
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    lasts: Option<Duration>,
    /// Tries at most so many points, spread evenly over all; of pairs 300, unless said.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    at_most: Option<u64>,
    /// So many runs at once; as many as there are processor cores, unless said. Reports do not depend on it.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=256))]
    jobs: Option<u64>,
    /// Where what breaks something is kept; target/crash-points, unless said.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Writes what came of each point to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What all of these runs share.
struct Stage<'a, W> {
    name: &'a str,
    command: &'static str,
    story: Plan<W>,
    seed: u64,
    jobs: usize,
    out: PathBuf,
    root: &'a Path,
}

/// What came of one point.
#[derive(Debug, Serialize)]
struct Row {
    /// The events after which it strikes.
    after: String,
    /// Virtual time of the last of them, in seconds.
    at_seconds: f64,
    process: String,
    /// The faults, in one line.
    faults: String,
    verdict: Verdict,
    invariant: Option<String>,
    /// What is wrong, if anything is.
    says: Option<String>,
    digest: String,
    /// The file that repeats it, if it breaks something.
    repro: Option<String>,
    /// The line to paste, if it breaks something.
    replay: Option<String>,
    #[serde(skip)]
    virtual_seconds: f64,
}

/// `crash-points NAME`.
pub(super) fn crash_points<P: Product>(args: &Args, root: &Path) -> Outcome {
    let began = Instant::now();
    let (chosen, seed) = replay::chosen::<P>(&args.what)?;
    let seed = args.seed.unwrap_or(seed);
    let story = chosen.plan(seed);
    if story.expect.verdict != "passed" {
        let says = format!("{} expects a violation: crash points are of a story that passes", chosen.name);
        return Err(Usage(says));
    }
    if args.lasts.is_some() && args.kind != Harm::Cut {
        return Err(Usage("`--lasts` says how long a cut lasts: add `--kind cut`, or leave it out".to_owned()));
    }
    let valid = words::vocabulary::<P>();
    let processes = struck(args.target.as_deref(), &valid, &story, &chosen.name).map_err(Usage)?;
    let window = args.window.clone().unwrap_or_default();
    window.named().try_for_each(|event| known(event, &valid, &story, P::command())).map_err(Usage)?;
    if let Some(path) = &args.json {
        write(path, "")?;
    }
    let out = args.out.clone().unwrap_or_else(|| root.join("target/crash-points"));
    std::fs::create_dir_all(&out).map_err(|error| Usage(format!("{}: {error}", out.display())))?;
    let jobs = args.jobs.and_then(|jobs| usize::try_from(jobs).ok()).unwrap_or_else(cores);
    let stage = Stage { name: &chosen.name, command: P::command(), story, seed, jobs, out, root };
    println!("{}, seed {seed}: {}", style(&chosen.name).bold(), chosen.about);
    let listing = Options { anchors: true, ..options(false) };
    let plan = expectant(&stage.story, &processes[0]);
    let calm = fork_run::<P>(stage.name, &plan, Seed(seed), &listing).finish();
    if calm.verdict != Verdict::Passed {
        return Ok(stage.broken_already(calm, plan));
    }
    let cues = cues(&calm.anchors, &stage.story.users.sessions(), &processes);
    let places = window.among(&calm.anchors).map_err(|event| never(&event, &calm.anchors, stage.name, seed))?;
    let all = at_each::<P>(&cues[places], args, &stage.story);
    if all.is_empty() {
        let says = format!(
            "none of {} lives at any of these events: widen `--window`, or name another `--target`",
            processes.join(", ")
        );
        return Err(Usage(says));
    }
    let most = args.at_most.and_then(|most| usize::try_from(most).ok());
    let points = match args.kind {
        Harm::Pair => pairs::<P>(&all, most.unwrap_or(PAIRS_MAX), &processes, &stage, &listing)?,
        Harm::Kill | Harm::Cut => sampled(all, most),
    };
    let rows = strike::<P>(&points, &stage);
    Ok(tell(&rows, &stage, began, args.json.as_deref())?.exit_code())
}

/// A point for each event and each process that lives then; of a pair its first strike.
fn at_each<P: Product>(cues: &[Cue], args: &Args, story: &Plan<P::Workload>) -> Vec<Point> {
    let links = words::links::<P>(story);
    let point = |cue: &Cue, process: &String| match args.kind {
        Harm::Kill => Point::kill(cue, process),
        Harm::Cut => Point::cut(cue, process, &links, args.lasts.unwrap_or(CUT_LASTS)),
        Harm::Pair => Point::signal(cue, process),
    };
    cues.iter()
        .flat_map(|cue| cue.alive.keys().map(move |process| (cue, process)))
        .map(|(cue, process)| point(cue, process))
        .collect()
}

/// At most `most` of them; says how many that are.
fn sampled(all: Vec<Point>, most: Option<usize>) -> Vec<Point> {
    let count = all.len();
    let places = spread(count, most.unwrap_or(count));
    match places.len() {
        tried if tried < count => println!("{tried} of {count} points are tried, spread evenly."),
        _ => println!("{count} points are tried."),
    }
    places.into_iter().map(|place| all[place].clone()).collect()
}

/// Each of the signals, which are spread evenly, with kills that are spread evenly over what is left of that life.
fn pairs<P: Product>(
    signals: &[Point],
    most: usize,
    processes: &[String],
    stage: &Stage<'_, P::Workload>,
    listing: &Options,
) -> Result<Vec<Point>, Usage> {
    // As many signals as kills after each.
    let side = most.isqrt().max(1);
    let chosen = spread(signals.len(), side);
    let each = most.div_ceil(chosen.len().max(1));
    let sessions = stage.story.users.sessions();
    let (mut pairs, mut possible) = (Vec::new(), 0);
    let bar = bar(chosen.len());
    bar.set_message("what follows a signal");
    let begin = |place: usize| {
        let plan = expectant(&signals[place].within(&stage.story), &signals[place].process);
        fork_run::<P>(stage.name, &plan, Seed(stage.seed), listing)
    };
    sweep(&chosen, stage.jobs, begin, |place, report| {
        bar.inc(1);
        // A signal that breaks something is a point by itself.
        pairs.extend((report.verdict != Verdict::Passed).then(|| signals[place].clone()));
        let after = signals[place].then_killed(&cues(&report.anchors, &sessions, processes));
        possible += after.len();
        pairs.extend(spread(after.len(), each).into_iter().map(|place| after[place].clone()));
        Next::GoOn
    });
    bar.finish_and_clear();
    if pairs.is_empty() {
        let says =
            "nothing happens between any of these signals and the end of the life that it ends: widen `--window`";
        return Err(Usage(says.to_owned()));
    }
    println!(
        "{} of {} signals are tried, each with at most {each} of the {possible} kills that can follow them: {} points, spread \
         evenly.",
        chosen.len(),
        signals.len(),
        pairs.len()
    );
    Ok(pairs)
}

/// Runs each of the points; what breaks something is kept and confirmed.
fn strike<P: Product>(points: &[Point], stage: &Stage<'_, P::Workload>) -> Vec<Row> {
    let places: Vec<usize> = (0..points.len()).collect();
    let bar = bar(points.len());
    bar.set_message(stage.name.to_owned());
    let begin = |place: usize| {
        fork_run::<P>(stage.name, &points[place].within(&stage.story), Seed(stage.seed), &options(false))
    };
    let mut rows = Vec::new();
    sweep(&places, stage.jobs, begin, |place, report| {
        rows.push(stage.judged(&points[place], report, &bar));
        bar.inc(1);
        Next::GoOn
    });
    bar.finish_and_clear();
    rows
}

impl<W: Workload> Stage<'_, W> {
    fn judged(&self, point: &Point, report: Report, bar: &ProgressBar) -> Row {
        let mut report = came_as_listed(point, report);
        let mut kept = None;
        if report.verdict != Verdict::Passed {
            bar.suspend(|| {
                let path = self.out.join(format!("{}-{}-{}.repro.toml", self.name, self.seed, point.name()));
                let about = format!("{} on seed {}: {}", self.name, self.seed, point.faults());
                report = self.kept(&path, Plan { about, ..point.within(&self.story) }, report.clone());
                kept = Some(failing::from_here(&path));
            });
        }
        let last = &point.strikes[point.strikes.len() - 1];
        let says = report.breach.as_ref().map(|breach| breach.says.clone()).or_else(|| report.because.first().cloned());
        Row {
            after: point.told(),
            at_seconds: last.at.as_secs_f64(),
            process: point.process.clone(),
            faults: point.faults(),
            verdict: report.verdict,
            invariant: report.invariant,
            says,
            digest: report.digest,
            replay: kept.as_ref().map(|path| self.replay(path)),
            repro: kept,
            virtual_seconds: report.virtual_seconds,
        }
    }

    /// `report` of `plan`, which is kept in a file, in the light of a second process that was given that file.
    fn kept(&self, path: &Path, mut plan: Plan<W>, report: Report) -> Report {
        plan.arms = report.invariant.iter().cloned().collect();
        let text = plan::print(&failing::as_repro(plan, &report, self.root));
        if let Err(error) = failing::keep(path, &text) {
            let because = vec![format!("{}: {error}", path.display())];
            return Report { verdict: Verdict::Error, because, ..report };
        }
        // Of an error of the harness nothing is confirmed.
        if report.verdict == Verdict::Error {
            return report;
        }
        match Rerun::begin(&path.display().to_string(), self.seed, failing::SECOND_MAX) {
            Ok(second) => failing::compared(report, second.finish()),
            Err(error) => {
                Report { verdict: Verdict::Error, because: vec![format!("no second process: {error}")], ..report }
            }
        }
    }

    fn replay(&self, path: &str) -> String {
        format!("{} replay {path}@{}", self.command, self.seed)
    }

    /// Tells of a story that breaks by itself; its exit code.
    fn broken_already(&self, report: Report, plan: Plan<W>) -> i32 {
        let path = self.out.join(format!("{}-{}-unstruck.repro.toml", self.name, self.seed));
        let report = self.kept(&path, Plan { must_reach: Vec::new(), ..plan }, report);
        let (what, says) = (report.fired(), report.breach.as_ref().map(|breach| breach.says.clone()));
        let says = says.or_else(|| report.because.first().cloned()).unwrap_or_default();
        println!("\n{} {what}, although nothing was struck: {says}", style(word(report.verdict)).red().bold());
        println!("replay it: {}", self.replay(&failing::from_here(&path)));
        report.verdict.exit_code()
    }
}

/// A point whose events did not come when they were listed is none: what was done there was done to another run.
fn came_as_listed(point: &Point, report: Report) -> Report {
    let own = &report.faults[report.faults.len().saturating_sub(point.strikes.len())..];
    let came = |(strike, fault): (&Strike, &FaultReport)| {
        fault.struck.is_some_and(|struck| (struck - strike.at.as_secs_f64()).abs() < SAME_SECONDS)
    };
    // A run that was ended from outside, or broke before, tells of no fault.
    if report.digest.is_empty() || own.len() == point.strikes.len() && point.strikes.iter().zip(own).all(came) {
        return report;
    }
    let because = vec![format!("the run is another before {} than the one whose events were listed", point.told())];
    Report { verdict: Verdict::Error, because, ..report }
}

/// Prints what broke, and writes down everything.
fn tell<W>(rows: &[Row], stage: &Stage<'_, W>, began: Instant, json: Option<&Path>) -> Result<Verdict, Usage> {
    let worst = rows.iter().fold(Verdict::Passed, |worst, row| worst.worse(row.verdict));
    let broken: Vec<&Row> = rows.iter().filter(|row| row.verdict != Verdict::Passed).collect();
    println!();
    if !broken.is_empty() {
        let mut table = Table::new(&["struck after", ">at", "process", "breaks", "because", "replay it"]);
        broken.iter().for_each(|row| table.row(row.cells()));
        table.print();
        println!();
    }
    let virtual_seconds: f64 = rows.iter().map(|row| row.virtual_seconds).sum();
    let took = format!("{} of virtual time in {}", seconds(virtual_seconds), seconds(began.elapsed().as_secs_f64()));
    match worst {
        Verdict::Passed => println!("{}: all {} points pass; {took}", style("passed").green().bold(), rows.len()),
        worst => {
            let (count, all) = (broken.len(), rows.len());
            println!("{}: {count} of {all} points break something; {took}", style(word(worst)).red().bold());
        }
    }
    if let Some(path) = json {
        let said = serde_json::json!({
            "scenario": stage.name,
            "seed": stage.seed,
            "verdict": worst,
            "points": rows,
        });
        write(path, &format!("{said}\n"))?;
    }
    Ok(worst)
}

impl Row {
    fn cells(&self) -> [String; 6] {
        let says = self.says.as_deref().and_then(|says| says.lines().next()).unwrap_or_default();
        [
            self.after.clone(),
            duration::print(Duration::from_millis((self.at_seconds * 1e3) as u64)),
            self.process.clone(),
            self.invariant.clone().unwrap_or_else(|| word(self.verdict).to_owned()),
            cut(says, 90),
            self.replay.clone().unwrap_or_default(),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::EventMatch;
    use crate::trace::verdict::tests::report;

    #[test]
    fn what_was_struck_at_another_time_is_no_verdict_on_the_product() {
        let event = EventMatch { event: "booted".into(), session: None, nth: 1, after: Duration::ZERO };
        let at = |seconds| Cue { seq: 1, at: Duration::from_secs(seconds), event: event.clone(), alive: [].into() };
        let struck_at_two = report("quiet", 1, Verdict::Violated);
        let point = |seconds| Point::kill(&at(seconds), "executor-1");
        assert_eq!(came_as_listed(&point(2), struck_at_two.clone()), struck_at_two);
        assert_eq!(came_as_listed(&point(3), struck_at_two).verdict, Verdict::Error);
    }
}
