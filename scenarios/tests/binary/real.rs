//! The same plans against real servers: processes of the binary, signals, relays, a Redis, a RabbitMQ and a PostgreSQL for
//! each story. The verdict must be the simulation's, and the story too, up to timing.
#![cfg(not(madsim))]

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;

use lychgate_scenarios::real::{RealServer, RealStory, Report, Servers, Verdict, plan, stories, tell};

const BINARY: &str = env!("CARGO_BIN_EXE_lychgate");

/// All at once: they mostly wait.
#[test]
#[ignore = "needs real servers, says which are missing: `cargo test --test real -- --include-ignored`"]
fn the_stories_are_the_simulations_own() {
    let mut stories = stories();
    let names = ["concurrent_subscription_failures", "pool_close", "sigkill_during_drain", "wedged_redis"];
    let stories = names.map(|name| (name, stories.remove(name).expect("times.toml has it"))).into_iter();
    let told: Vec<Result<(), String>> = std::thread::scope(|scope| {
        let telling = |(name, outside): (&'static str, RealStory)| {
            scope.spawn(move || {
                let first = story(name, &outside);
                let Err(Wrong::Timing(why)) = first else { return first.map_err(Wrong::said) };
                // A machine with much else to do is slow; what goes wrong twice is not the machine.
                eprintln!("told once more: {why}");
                story(name, &outside).map_err(Wrong::said)
            })
        };
        let telling: Vec<_> = stories.map(telling).collect();
        telling.into_iter().map(|story| story.join().expect("it tells its story")).collect()
    });
    let wrong: Vec<String> = told.into_iter().filter_map(Result::err).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What is wrong with a story.
enum Wrong {
    /// Slowness can explain it: it came too late, or too late to show anything, or what happened was another story.
    Timing(String),
    /// Nothing excuses it.
    Broken(String),
}

impl Wrong {
    fn said(self) -> String {
        let (Wrong::Timing(why) | Wrong::Broken(why)) = self;
        why
    }
}

/// Tells a story once, with servers of its own.
fn story(name: &str, outside: &RealStory) -> Result<(), Wrong> {
    let plan = plan(name, 1, outside).map_err(Wrong::Broken)?;
    let servers = Servers::start();
    let report = tell(name, &plan, Path::new(BINARY), servers.elsewhere(), None);
    judge(&report).map_err(|why| {
        let why = format!("{name}: {why}\n{report:#?}");
        match report.verdict {
            Verdict::NoProgress | Verdict::Vacuous | Verdict::Passed => Wrong::Timing(why),
            _ => Wrong::Broken(why),
        }
    })
}

fn judge(report: &Report) -> Result<(), String> {
    if report.verdict != Verdict::Passed {
        return Err(format!("{:?}", report.verdict));
    }
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("snapshots/story_{}.snap", report.scenario));
    let kept = std::fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
    let (_, simulated) = kept.split_once("\n---\n").ok_or("the snapshot has no header")?;
    let (simulated, real): (Vec<&str>, Vec<&str>) =
        (simulated.lines().collect(), report.story.iter().map(String::as_str).collect());
    alike(&simulated, &real)
}

/// Whether two stories differ in timing alone: the same things happen, and to each run in the same order. How often
/// something is tried is timing; when a user looks is, too, and whose calls are refused before their agent has moved.
fn alike(simulated: &[&str], real: &[&str]) -> Result<(), String> {
    let happened = |story: &[&str]| story.iter().map(|line| what(line)).collect::<BTreeSet<_>>();
    let (theirs, ours) = (happened(simulated), happened(real));
    let missing: Vec<_> = theirs.difference(&ours).collect();
    let new: Vec<_> = ours.difference(&theirs).collect();
    if !missing.is_empty() || !new.is_empty() {
        return Err(format!("only simulated: {missing:?}; only real: {new:?}"));
    }
    // A drain marks a run while the run goes on: which comes first, the mark or the next checkpoint, is timing.
    [" marks ", " is checkpointed"].into_iter().try_for_each(|left_out| same_order(simulated, real, left_out))
}

/// Whether the lines about each run, but for those with `left_out` in them, come in the same order.
fn same_order(simulated: &[&str], real: &[&str], left_out: &str) -> Result<(), String> {
    let (theirs, ours) = (by_run(simulated, left_out), by_run(real, left_out));
    match theirs.iter().find(|(run, lines)| ours.get(*run) != Some(lines)) {
        None => Ok(()),
        Some((run, lines)) => Err(format!("of {run} the simulation tells {lines:?}, this {:?}", ours.get(run))),
    }
}

/// A line without what is timing in it.
fn what(line: &str) -> String {
    match line.split_once("'s call for ") {
        Some((agent, run_and_status)) => {
            format!("{agent}'s call with {}", run_and_status.rsplit(' ').next().unwrap_or_default())
        }
        None => line.to_owned(),
    }
}

/// The lines about each run but those with `left_out` in them, in order, each where it comes first.
fn by_run<'s>(story: &[&'s str], left_out: &str) -> BTreeMap<&'s str, Vec<&'s str>> {
    let elsewhere = |line: &str| ["the user", "the provider"].iter().any(|who| line.starts_with(who));
    let mut runs: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for line in story.iter().filter(|line| !elsewhere(line) && !line.contains(left_out)) {
        for run in line.split([' ', ':']).filter(|word| word.contains('#')) {
            let lines = runs.entry(run).or_default();
            if !lines.contains(line) {
                lines.push(line);
            }
        }
    }
    runs
}

/// Nobody makes a real server a replica; that it was not done must not go unsaid.
#[test]
fn what_ails_a_service_is_refused_where_a_real_server_stands_in_its_place() {
    let plan = plan("redis_ill", 2, &RealStory::default()).expect("there is such a story");
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 1));
    let servers = [("redis", RealServer { addr: nowhere })].into();
    let report = tell("redis_ill", &plan, Path::new(BINARY), servers, None);
    assert_eq!(report.verdict, Verdict::Error, "{report:#?}");
    assert!(report.because[0].contains("fault 1: nothing here does `readonly` to a real redis"), "{report:#?}");
}

#[test]
fn stories_that_differ_in_more_than_timing_are_told_apart() {
    let story =
        ["agent-1 is ready", "a/1#1 is accepted", "a/1#1 is completed", "the user sees that a/1#1 is completed"];
    let [ready, accepted, completed, seen] = story;
    assert_eq!(alike(&story, &[accepted, completed, completed, ready, seen]), Ok(()));
    let drained = ["executor-1 marks a/1#1", "turn 1 of a/1#1 is checkpointed", "a/1#1 is interrupted"];
    let [marks, checkpointed, interrupted] = drained;
    assert_eq!(alike(&drained, &[checkpointed, marks, interrupted]), Ok(()));
    assert!(alike(&drained, &[marks, interrupted, checkpointed]).is_err());
    assert!(alike(&drained, &[checkpointed, interrupted, marks]).is_err());
    assert!(alike(&story, &[ready, accepted, seen]).is_err_and(|why| why.contains("is completed")));
    assert!(alike(&story, &[ready, completed, accepted, seen]).is_err());
    assert!(alike(&story, &[ready, accepted, completed, seen, "executor-1 is killed"]).is_err());
}
