//! What strikes processes, with a toy in the world: a pause keeps still and goes on, a lost host says nothing more, a
//! rolling restart takes one after another, and one cause kills several at once.
#![cfg(madsim)]

mod test_product;

use std::time::Duration;

use lychgate_sim::explore::run::{Options, run_here};
use lychgate_sim::link::HALF_OPEN;
use lychgate_sim::link::faults::WEDGE;
use lychgate_sim::plan::seed::{Purpose, Seed};
use lychgate_sim::plan::{EventMatch, Fault, Kind, Lifetime, Plan, ServiceManager, Trigger};
use lychgate_sim::trace::verdict::{Report, Verdict};
use lychgate_sim::world::process_faults::{
    HOST_LOSS, LOST_SIGNAL, PANIC, PAUSE, RECONFIGURE, ROLLING_RESTART, SCALE_DOWN, SCALE_UP, SIGKILL, SIGTERM,
};
use rand_chacha::rand_core::Rng;
use serde_json::Value;
use test_product::{Jobs, Toys, fault, on, plan};

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn after(event: &str, nth: u32, seconds: u64) -> Trigger {
    Trigger::On(EventMatch { after: secs(seconds), ..on(event, nth) })
}

/// A worker whose destructors would do what is forbidden, and that hears no SIGTERM.
fn stubborn(mut plan: Plan<Jobs>) -> Plan<Jobs> {
    plan.config.insert("worker-1".into(), [("STUBBORN".to_owned(), "1".to_owned())].into());
    plan
}

fn workers(count: usize, faults: Vec<Fault>) -> Plan<Jobs> {
    let mut plan = plan(faults);
    plan.topology.insert("worker".into(), count);
    plan
}

/// The events of a run on seed 1: when, of which process, which.
struct Trace(Vec<(f64, String, Value)>);

impl Trace {
    fn of(plan: &Plan<Jobs>, name: &str) -> (Report, Trace) {
        let path = std::env::temp_dir().join(format!("sim-processes-{}-{name}.jsonl", std::process::id()));
        let options = Options { trace: Some(path.clone()), ..Options::default() };
        let report = run_here::<Toys>("toy", plan, Seed(1), &options);
        let text = std::fs::read_to_string(&path).expect("the trace was written");
        std::fs::remove_file(&path).expect("it is there");
        assert_eq!(report.verdict, Verdict::Passed, "{report:#?}");
        let event = |line: &str| {
            let line: Value = serde_json::from_str(line).expect("JSON");
            let at = line["at"]["secs"].as_f64()? + line["at"]["nanos"].as_f64()? / 1e9;
            Some((at, line["process"].as_str()?.to_owned(), line["what"].clone()))
        };
        (report, Trace(text.lines().filter_map(event).collect()))
    }

    /// When `process` (or any, if empty) had each such event.
    fn times(&self, process: &str, event: &str) -> Vec<f64> {
        let wanted =
            |line: &&(f64, String, Value)| (process.is_empty() || line.1 == process) && line.2["event"] == event;
        self.0.iter().filter(wanted).map(|line| line.0).collect()
    }
}

#[test]
fn a_paused_process_stands_still_and_goes_on() {
    let between = Trigger::On(EventMatch { after: Duration::from_millis(500), ..on("stepped", 2) });
    let pause = fault(Kind::of(&PAUSE), "worker-1", between, Lifetime::Lasts(secs(40)));
    let (report, trace) = Trace::of(&plan(vec![pause]), "pause");
    // Nothing was closed meanwhile, so nothing was done twice.
    assert_eq!(report.reached["stepped"], 5);
    assert_eq!((report.reached["paused"], report.reached["resumed"]), (1, 1));
    assert_eq!(report.story[1..3], ["worker-1 is paused", "worker-1 goes on"]);
    let steps = trace.times("", "stepped");
    assert!((40.5..40.6).contains(&(steps[2] - steps[1])), "{steps:?}");
    let closed = trace.times("", "link_closed");
    assert!(closed.iter().all(|at| *at > steps[4]), "{closed:?}");
    assert!(report.faults[0].felt.is_some());
}

#[test]
fn who_connects_to_a_paused_process_waits() {
    let early = Trigger::On(on("link_opened", 1));
    let pause = fault(Kind::of(&PAUSE), "worker-1", early, Lifetime::Lasts(secs(20)));
    let (report, trace) = Trace::of(&plan(vec![pause]), "waits");
    assert_eq!((report.reached["paused"], report.reached["link_opened"]), (1, 2), "{report:#?}");
    let (opened, claimed) = (trace.times("ann", "link_opened")[0], trace.times("", "claimed")[0]);
    assert!(opened < 1.0 && (20.0..20.1).contains(&claimed), "{opened} {claimed}");
    // It served nobody: nobody felt it.
    assert_eq!(report.faults[0].felt, None);
}

#[test]
fn a_signal_waits_for_a_paused_process_and_its_grace_does_not() {
    let pause = |length| fault(Kind::of(&PAUSE), "worker-1", Trigger::On(on("stepped", 2)), Lifetime::Lasts(length));
    let term = || fault(Kind::of(&SIGTERM), "worker-1", after("stepped", 2, 1), Lifetime::Instant);
    let mut short = plan(vec![pause(secs(3)), term()]);
    short.users.steps = 3;
    let (report, trace) = Trace::of(&short, "short");
    assert_eq!((report.reached["exited"], report.reached.get("killed")), (1, None), "{report:#?}");
    assert!(trace.times("", "exited")[0] > trace.times("", "resumed")[0]);
    // Its grace is 5 s.
    let (report, trace) = Trace::of(&plan(vec![pause(secs(60)), term()]), "long");
    assert_eq!((report.reached["killed"], report.reached.get("resumed")), (1, None), "{report:#?}");
    let (told, killed) = (trace.times("", "signalled")[0], trace.times("", "killed")[0]);
    assert!((5.0..5.1).contains(&(killed - told)), "{told} to {killed}");
}

#[test]
fn a_kill_of_a_paused_process_lets_it_make_no_step() {
    let pause = fault(Kind::of(&PAUSE), "worker-1", Trigger::On(on("stepped", 2)), Lifetime::Lasts(secs(20)));
    let kill = fault(Kind::of(&SIGKILL), "worker-1", after("stepped", 2, 5), Lifetime::Instant);
    let (report, trace) = Trace::of(&stubborn(plan(vec![pause, kill])), "killed");
    assert_eq!((report.reached["killed"], report.reached["booted"]), (1, 2));
    assert!(!report.reached.contains_key("resumed") && !report.reached.contains_key("drained"), "{report:#?}");
    // Neither is its next life paused.
    assert_eq!(report.reached["stepped"], 2 + 5);
    let steps = trace.times("", "stepped");
    assert!(steps[6] - trace.times("", "killed")[0] < 10.0, "{steps:?}");
}

#[test]
fn one_pause_of_two_keeps_it_still() {
    let pause = |trigger, length| fault(Kind::of(&PAUSE), "worker-1", trigger, Lifetime::Lasts(length));
    let two = vec![pause(Trigger::On(on("stepped", 2)), secs(10)), pause(after("stepped", 2, 5), secs(15))];
    let (report, trace) = Trace::of(&plan(two), "two");
    assert_eq!((report.reached["paused"], report.reached["resumed"]), (1, 1));
    let still = trace.times("", "resumed")[0] - trace.times("", "paused")[0];
    assert!((20.0..20.1).contains(&still), "{still}");
}

#[test]
fn healing_resumes() {
    let pause = Fault {
        targets: vec!["worker-1".into(), "worker-2".into()],
        ..fault(Kind::of(&PAUSE), "", Trigger::On(on("told", 1)), Lifetime::UntilHeal)
    };
    let (report, trace) = Trace::of(&workers(2, vec![pause]), "healing");
    assert_eq!((report.reached["paused"], report.reached["resumed"]), (2, 2), "{report:#?}");
    let heal = trace.0.iter().find(|line| line.2["name"] == "heal").expect("a phase");
    assert_eq!(trace.times("", "resumed"), [heal.0; 2]);
}

#[test]
fn a_lost_host_says_nothing_more() {
    let loss = fault(Kind::of(&HOST_LOSS), "worker-1", Trigger::On(on("stepped", 2)), Lifetime::Instant);
    let (report, trace) = Trace::of(&stubborn(plan(vec![loss])), "loss");
    assert_eq!(report.reached["stepped"], 2 + 5);
    assert!(!report.reached.contains_key("drained"), "its destructors were heard: {report:#?}");
    assert_eq!(report.story[1..4], ["the machine of worker-1 is gone", "worker-1 is killed", "worker-1 boots again"]);
    let (lost, again) = (trace.times("", "killed")[0], trace.times("", "booted")[1]);
    assert!((2.0..2.1).contains(&(again - lost)), "the service manager's delay: {lost} to {again}");
    // Its user hears of it when the old connection expires, no sooner, and asks anew a second later.
    let claimed = trace.times("", "claimed")[1];
    let expired = again + HALF_OPEN.as_secs_f64();
    assert!((expired + 1.0..expired + 1.2).contains(&claimed), "booted at {again}, claimed at {claimed}");
    assert!(report.faults[0].felt.is_some());
}

#[test]
fn who_connects_to_a_lost_host_waits_for_its_next_life() {
    let loss = fault(Kind::of(&HOST_LOSS), "worker-1", Trigger::At(Duration::from_millis(1)), Lifetime::Instant);
    let (report, trace) = Trace::of(&plan(vec![loss]), "away");
    assert_eq!((report.reached["killed"], report.reached["stepped"]), (1, 5), "{report:#?}");
    assert!(trace.times("ann", "link_opened")[0] < 1.0);
    let (again, claimed) = (trace.times("", "booted")[1], trace.times("", "claimed")[0]);
    assert!((again..again + 2.0).contains(&claimed), "booted at {again}, claimed at {claimed}");
}

#[test]
fn a_rolling_restart_takes_one_after_another() {
    let rolling = Fault {
        targets: vec!["worker-2".into(), "worker-1".into(), "worker-3".into()],
        ..fault(Kind::of(&ROLLING_RESTART), "", Trigger::On(on("stepped", 2)), Lifetime::Instant)
    };
    let (report, trace) = Trace::of(&workers(3, vec![rolling]), "rolling");
    assert_eq!(report.reached["stepped"], 5, "the worker drained: {report:#?}");
    let told = ["worker-2", "worker-1", "worker-3"].map(|process| trace.times(process, "signalled")[0]);
    let booted = ["worker-2", "worker-1", "worker-3"].map(|process| trace.times(process, "booted")[1]);
    assert_eq!((told[1], told[2]), (booted[0], booted[1]), "each when the one before is there again");
    assert_eq!(trace.times("", "fault_struck"), told);
    assert_eq!(trace.times("", "fault_healed"), [told[2]; 3]);
    let heal = trace.0.iter().find(|line| line.2["name"] == "heal").expect("a phase");
    assert!(heal.0 >= told[2], "chaos lasts until the last was told");
}

#[test]
fn one_cause_kills_several_and_they_boot_together() {
    let kill = Fault {
        targets: vec!["worker-1".into(), "worker-2".into()],
        ..fault(Kind::of(&SIGKILL), "", Trigger::On(on("stepped", 2)), Lifetime::Instant)
    };
    let (_, trace) = Trace::of(&workers(2, vec![kill]), "group");
    let killed = trace.times("", "killed");
    assert_eq!(killed[0], killed[1]);
    let again = [trace.times("worker-1", "booted")[1], trace.times("worker-2", "booted")[1]];
    // Two tasks of the service manager, one after the other: the world's clock takes 100 ns a step at most.
    assert!((again[0] - again[1]).abs() < 0.000_001, "{again:?}");
}

/// Two faults of any of these kinds anywhere in the first ten seconds.
fn wild(seed: u64) -> Plan<Jobs> {
    let mut dice = Seed(seed).stream(Purpose::Faults);
    let mut draw = |sides: u32| u64::from(dice.next_u32() % sides);
    let mut faults = Vec::new();
    for _ in 0..3 {
        let kind = match draw(6) {
            0 | 1 => Kind::of(&PAUSE),
            2 => Kind::of(&HOST_LOSS),
            3 => Kind::of(&ROLLING_RESTART),
            4 => Kind::of(&SIGKILL),
            _ => Kind::of(&WEDGE),
        };
        let target = if kind.on_link() { "worker-1->store" } else { "worker-1" };
        let trigger = Trigger::At(Duration::from_micros(draw(10_000_000)));
        faults.push(fault(kind, target, trigger, Lifetime::Lasts(Duration::from_millis(draw(9_000)))));
    }
    plan(faults)
}

#[test]
fn whatever_strikes_the_job_is_done_and_the_run_repeats() {
    for seed in 0..100 {
        let run = || run_here::<Toys>("wild", &wild(seed), Seed(seed), &Options::default());
        let report = run();
        // A host that is lost twice keeps its user waiting for longer than is prompt.
        let late =
            report.verdict == Verdict::Violated && report.breach.as_ref().is_some_and(|breach| breach.due.is_some());
        assert!(report.verdict == Verdict::Passed || late, "{seed}: {report:#?}");
        assert_eq!(report.digest, run().digest, "{seed}: {report:#?}");
    }
}

/// The service manager's ways with the workers.
fn managed(mut plan: Plan<Jobs>, manager: ServiceManager) -> Plan<Jobs> {
    plan.service.insert("worker".into(), manager);
    plan
}

#[test]
fn a_signal_that_is_lost_ends_in_a_kill() {
    let lost = fault(Kind::of(&LOST_SIGNAL), "worker-1", Trigger::On(on("stepped", 2)), Lifetime::Instant);
    let mut long = plan(vec![lost]);
    long.users.steps = 9;
    let (report, trace) = Trace::of(&long, "lost");
    assert!(!report.reached.contains_key("signalled") && !report.reached.contains_key("drained"), "{report:#?}");
    let (told, killed) = (trace.times("", "fault_struck")[0], trace.times("", "killed")[0]);
    assert!((5.0..5.1).contains(&(killed - told)), "its grace: {told} to {killed}");
    assert!(report.faults[0].felt.is_some());
}

#[test]
fn who_serves_on_before_its_signal_has_so_much_less_time_afterwards() {
    let term = || fault(Kind::of(&SIGTERM), "worker-1", Trigger::On(on("stepped", 2)), Lifetime::Instant);
    let mut two = stubborn(plan(vec![term(), term()]));
    two.users.steps = 9;
    let two = managed(two, ServiceManager { pre_stop: Some(secs(3)), ..ServiceManager::default() });
    let (report, trace) = Trace::of(&two, "pre_stop");
    assert_eq!(report.reached["signalled"], 1, "both wait for the same moment: {report:#?}");
    let (told, signalled) = (trace.times("", "fault_struck")[0], trace.times("", "signalled")[0]);
    let killed = trace.times("", "killed")[0];
    assert!((3.0..3.1).contains(&(signalled - told)) && (5.0..5.1).contains(&(killed - told)), "{signalled} {killed}");
}

#[test]
fn a_panic_closes_everything_at_once() {
    let panic = fault(Kind::of(&PANIC), "worker-1", Trigger::On(on("stepped", 2)), Lifetime::Instant);
    let (report, trace) = Trace::of(&stubborn(plan(vec![panic])), "panic");
    assert_eq!((report.reached["panicked"], report.reached.get("killed")), (1, None), "{report:#?}");
    assert!(!report.reached.contains_key("drained"), "its destructors were heard: {report:#?}");
    assert_eq!(report.story[1..3], ["worker-1 panics and is gone", "worker-1 boots again"]);
    let (died, closed) = (trace.times("", "panicked")[0], trace.times("", "link_closed")[0]);
    assert!(closed - died < 0.001, "{died} {closed}");
    assert!(report.faults[0].felt.is_some());
}

#[test]
fn short_lives_make_for_longer_and_longer_delays() {
    let panics =
        (1..=4).map(|nth| fault(Kind::of(&PANIC), "worker-1", Trigger::On(on("claimed", nth)), Lifetime::Instant));
    let manager = ServiceManager { restart_max: Some(secs(10)), ..ServiceManager::default() };
    let (_, trace) = Trace::of(&managed(plan(panics.collect()), manager), "loop");
    let (died, booted) = (trace.times("", "panicked"), trace.times("", "booted"));
    let delays: Vec<f64> = died.iter().zip(&booted[1..]).map(|(died, booted)| (booted - died).round()).collect();
    assert_eq!(delays, [2.0, 4.0, 8.0, 10.0]);
}

#[test]
fn who_answers_no_probe_is_killed() {
    let pause =
        |length| fault(Kind::of(&PAUSE), "worker-1", Trigger::On(on("stepped", 2)), Lifetime::Lasts(secs(length)));
    let probed = ServiceManager { probe: Some(secs(5)), ..ServiceManager::default() };
    let (report, trace) = Trace::of(&managed(plan(vec![pause(100)]), probed), "probe");
    // Three in a row, each 5 s after the one before has failed, which takes 1 s; the first some time within 5 s.
    assert_eq!(report.reached["killed"], 1, "its next life answers: {report:#?}");
    let still = trace.times("", "killed")[0] - trace.times("", "paused")[0];
    assert!((13.0..18.1).contains(&still), "{still}: {report:#?}");
    let (report, _) = Trace::of(&managed(plan(vec![pause(11)]), probed), "patience");
    assert!(!report.reached.contains_key("killed"), "two misses are forgiven: {report:#?}");
    // One that is about to exit is asked as well.
    let term = fault(Kind::of(&SIGTERM), "worker-1", Trigger::On(on("stepped", 2)), Lifetime::Instant);
    let patient = ServiceManager { grace: Some(secs(60)), ..probed };
    let (report, _) = Trace::of(&managed(plan(vec![term, pause(100)]), patient), "draining");
    assert_eq!((report.reached["killed"], report.reached.get("exited")), (1, None), "{report:#?}");
}

/// One worker waits to be called.
fn pair(faults: Vec<Fault>) -> Plan<Jobs> {
    let mut plan = workers(2, faults);
    let waits = ServiceManager { first_boot: Some(secs(24 * 3600)), ..ServiceManager::default() };
    plan.service.insert("worker-2".into(), waits);
    plan
}

#[test]
fn one_comes_and_one_goes_for_good() {
    let up = fault(Kind::of(&SCALE_UP), "worker-2", Trigger::On(on("stepped", 2)), Lifetime::Instant);
    let down = fault(Kind::of(&SCALE_DOWN), "worker-2", after("stepped", 2, 1), Lifetime::Instant);
    let (report, trace) = Trace::of(&pair(vec![up, down]), "scale");
    let (called, came) = (trace.times("", "fault_struck")[0], trace.times("worker-2", "booted")[0]);
    assert!((0.0..0.000_001).contains(&(came - called)), "{called} {came}");
    assert_eq!((report.reached["booted"], report.reached["exited"]), (2, 1), "it does not come back: {report:#?}");
    // Nobody called it: nobody felt it.
    assert_eq!(report.faults[0].felt, None);
}

#[test]
fn who_was_not_called_boots_when_everything_heals() {
    let (report, trace) = Trace::of(&pair(Vec::new()), "uncalled");
    let heal = trace.0.iter().find(|line| line.2["name"] == "heal").expect("a phase");
    let came = trace.times("worker-2", "booted")[0];
    assert!((0.0..0.000_001).contains(&(came - heal.0)), "{came}: {report:#?}");
}

#[test]
fn a_replacement_comes_before_the_other_goes() {
    let replaced = Fault {
        targets: vec!["worker-1".into(), "worker-2".into()],
        ..fault(Kind::of(&RECONFIGURE), "", Trigger::On(on("stepped", 2)), Lifetime::Instant)
    };
    let (report, trace) = Trace::of(&pair(vec![replaced]), "replaced");
    assert_eq!(trace.times("worker-1", "signalled"), trace.times("worker-2", "booted"));
    assert_eq!((report.reached["booted"], report.reached["exited"]), (2, 1), "{report:#?}");
    assert_eq!(trace.times("", "fault_healed"), [trace.times("worker-2", "booted")[0]; 2]);
    assert!(report.faults[0].felt.is_some());
}
