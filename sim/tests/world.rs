//! The world with a toy in it: faults do what they say, are felt where they reach live work, and every verdict comes out.
#![cfg(madsim)]

mod test_product;

use std::time::Duration;

use lychgate_sim::explore::run::{Options, run_here};
use lychgate_sim::link::faults::{CLOSE, CONNECTION_REFUSED, CUT, DELAY, HALF_OPEN, REPLY_LOST, TRICKLE, WEDGE};
use lychgate_sim::plan::seed::{Purpose, Seed};
use lychgate_sim::plan::{EventMatch, Fault, Kind, Lifetime, Plan, ServiceManager, Trigger};
use lychgate_sim::trace::recorder::Recorder;
use lychgate_sim::trace::verdict::{Report, Verdict};
use lychgate_sim::world::process_faults::{SIGKILL, SIGTERM};
use rand_chacha::rand_core::Rng;
use test_product::{Jobs, Toys, fault, on, plan, quirky};

fn run(plan: &Plan<Jobs>) -> Report {
    run_seed(plan, 1)
}

fn run_seed(plan: &Plan<Jobs>, seed: u64) -> Report {
    run_here::<Toys>("toy", plan, Seed(seed), &Options { strict: true, ..Options::default() })
}

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn one(kind: Kind, target: &str, trigger: Trigger, length: Lifetime) -> Report {
    run(&plan(vec![fault(kind, target, trigger, length)]))
}

/// The trace, as JSON.
fn trace(plan: &Plan<Jobs>, name: &str) -> (Report, Vec<serde_json::Value>) {
    let path = std::env::temp_dir().join(format!("sim-world-{}-{name}.jsonl", std::process::id()));
    let options = Options { strict: true, trace: Some(path.clone()), ..Options::default() };
    let report = run_here::<Toys>("toy", plan, Seed(1), &options);
    let text = std::fs::read_to_string(&path).expect("the trace was written");
    std::fs::remove_file(&path).expect("it is there");
    (report, text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect())
}

fn times(trace: &[serde_json::Value], event: &str) -> Vec<f64> {
    let at = |line: &serde_json::Value| {
        line["at"]["secs"].as_f64().expect("seconds") + line["at"]["nanos"].as_f64().expect("nanoseconds") / 1e9
    };
    trace.iter().filter(|line| line["what"]["event"] == event).map(at).collect()
}

#[test]
fn a_healthy_run_passes_and_repeats() {
    let first = run(&plan(Vec::new()));
    assert_eq!(first.verdict, Verdict::Passed, "{first:#?}");
    assert_eq!(first.story, ["ann/1 begins", "ann/1 is done"]);
    assert_eq!(first.reached["stepped"], 5);
    assert_eq!(first.armed, ["promptness"]);
    assert_eq!(first.digest, run(&plan(Vec::new())).digest);
    assert_ne!(first.digest, run_seed(&plan(Vec::new()), 2).digest);
}

#[test]
fn a_byte_and_a_nanosecond_change_the_digest() {
    let digest = run(&plan(Vec::new())).digest;
    assert_ne!(digest, run(&quirky("other byte")).digest);
    assert_ne!(digest, run(&quirky("nanosecond")).digest);
}

#[test]
fn the_order_of_two_deliveries_changes_the_digest() {
    let digest = |order: [&[u8]; 2]| {
        let mut recorder = Recorder::new(None, "toy", 1).expect("no file, no error");
        order.iter().for_each(|bytes| recorder.chunk("a->b", 1, true, bytes, secs(1)));
        recorder.digest()
    };
    assert_ne!(digest([b"one", b"other"]), digest([b"other", b"one"]));
    assert_ne!(digest([b"one", b"other"]), digest([b"oneo", b"ther"]));
}

#[test]
fn a_kill_at_a_request_lets_that_request_through() {
    let trigger = Trigger::OnRequest {
        link: "worker-1->store".into(),
        matches: "STEP ann/1 3".into(),
        nth: 1,
        after: Duration::ZERO,
    };
    let report = one(Kind::of(&SIGKILL), "worker-1", trigger, Lifetime::Instant);
    assert_eq!(report.verdict, Verdict::Passed, "{report:#?}");
    assert_eq!(report.reached["stepped"], 3 + 5);
}

#[test]
fn a_wedge_holds_and_releases() {
    let wedge = fault(Kind::of(&WEDGE), "worker-1->store", Trigger::On(on("stepped", 2)), Lifetime::Lasts(secs(5)));
    let (report, trace) = trace(&plan(vec![wedge]), "wedge");
    assert_eq!(report.verdict, Verdict::Passed, "{report:#?}");
    assert_eq!(trace[0]["scenario"], "toy");
    // The answer to step 2 comes when the wedge heals, before the worker gives up: no step happens twice.
    assert_eq!(report.reached["stepped"], 5);
    assert_eq!((report.reached["unanswered"], report.reached["answered_late"]), (2, 2), "{report:#?}");
    let steps = times(&trace, "stepped");
    assert!((5.0..7.0).contains(&(steps[2] - steps[1])), "{steps:?}");
    assert_eq!(report.story[1..3], ["worker-1->store wedges", "worker-1->store heals"]);
    assert_eq!(report.faults[0].times_felt, 1);
}

#[test]
fn what_a_wedge_held_is_delivered_though_the_process_hung_up() {
    let trigger = Trigger::OnRequest {
        link: "worker-1->store".into(),
        matches: "STEP ann/1 3".into(),
        nth: 1,
        after: Duration::ZERO,
    };
    let report = one(Kind::of(&WEDGE), "worker-1->store", trigger, Lifetime::Lasts(secs(15)));
    assert_eq!(report.verdict, Verdict::Passed, "{report:#?}");
    // Held before it was carried, given up after 10 s, tried again, and carried both times at the heal.
    assert_eq!(report.reached["stepped"], 6);
    assert_eq!(report.faults[0].times_felt, 3, "the request, the connect and the second request");
}

#[test]
fn a_lost_reply_was_carried_out() {
    let kind = Kind::of(&REPLY_LOST).with("matches", "STEP ann/1 3");
    let report = one(kind, "worker-1->store", Trigger::At(Duration::ZERO), Lifetime::Instant);
    assert_eq!(report.verdict, Verdict::Passed, "{report:#?}");
    assert_eq!(report.reached["stepped"], 6);
    assert_eq!(report.story.last().map(String::as_str), Some("ann/1 is done"));
}

#[test]
fn a_close_closes_and_keeps_closing() {
    let once = one(Kind::of(&CLOSE), "worker-1->store", Trigger::On(on("stepped", 2)), Lifetime::Instant);
    assert_eq!(once.verdict, Verdict::Passed, "{once:#?}");
    assert_eq!(once.reached["stepped"], 6);
    let long = one(Kind::of(&CLOSE), "worker-1->store", Trigger::On(on("stepped", 2)), Lifetime::Lasts(secs(4)));
    assert_eq!(long.verdict, Verdict::Passed, "{long:#?}");
    assert!(long.faults[0].times_felt > 5, "{long:#?}");
}

#[test]
fn who_dials_is_refused_and_what_stands_goes_on() {
    let refused = fault(
        Kind::of(&CONNECTION_REFUSED),
        "worker-1->store",
        Trigger::On(on("stepped", 2)),
        Lifetime::Lasts(secs(4)),
    );
    let kept = run(&plan(vec![refused.clone()]));
    assert_eq!(kept.verdict, Verdict::Vacuous, "nobody dials whose connection stands: {kept:#?}");
    assert_eq!(kept.reached["stepped"], 5, "{kept:#?}");
    let close = Fault { kind: Kind::of(&CLOSE), length: Lifetime::Instant, ..refused.clone() };
    let both = plan(vec![refused, close]);
    let (report, trace) = trace(&both, "refused");
    assert_eq!(report.verdict, Verdict::Passed, "{report:#?}");
    assert!(report.faults[0].times_felt > 2, "{report:#?}");
    let (struck, healed) = (times(&trace, "fault_struck")[0], times(&trace, "fault_healed")[1]);
    assert!((4.0..4.001).contains(&(healed - struck)), "{struck} to {healed}");
    let opened = times(&trace, "link_opened");
    assert!(!opened.iter().any(|at| (struck..healed).contains(at)), "{opened:?}");
    assert!(opened.iter().any(|at| (healed..healed + 2.0).contains(at)), "{opened:?}");
    assert_eq!(report.digest, run(&both).digest);
}

#[test]
fn a_fault_comes_back_until_everything_heals() {
    let delay = Kind::of(&DELAY).with("by", Duration::from_millis(400));
    let slow = fault(delay, "worker-1->store", Trigger::On(on("claimed", 1)), Lifetime::Lasts(secs(1)));
    let (report, trace) = trace(&plan(vec![Fault { every: Some(secs(2)), ..slow }]), "every");
    assert_eq!(report.verdict, Verdict::Passed, "{report:#?}");
    let struck = times(&trace, "fault_struck");
    assert!(struck.len() > 1, "{struck:?}");
    assert!(struck.windows(2).all(|pair| (3.0..3.001).contains(&(pair[1] - pair[0]))), "{struck:?}");
    assert_eq!(report.reached["fault_healed"], report.reached["fault_struck"]);
}

#[test]
fn a_delay_delays_in_both_directions() {
    let delay = Kind::of(&DELAY).with("by", secs(1));
    let slow = fault(delay, "worker-1->store", Trigger::On(on("claimed", 1)), Lifetime::Until(on("done", 1)));
    let (report, trace) = trace(&plan(vec![slow]), "delay");
    assert_eq!(report.verdict, Verdict::Passed, "{report:#?}");
    let steps = times(&trace, "stepped");
    assert!((3.0..3.1).contains(&(steps[2] - steps[1])), "one second of work, two of delay: {steps:?}");
}

#[test]
fn a_kill_begins_a_new_incarnation() {
    let kill = fault(Kind::of(&SIGKILL), "worker-1", Trigger::On(on("stepped", 3)), Lifetime::Instant);
    let mut plan = plan(vec![kill]);
    plan.config.insert("worker-1".into(), [("STUBBORN".to_owned(), "1".to_owned())].into());
    let (report, trace) = trace(&plan, "kill");
    assert_eq!(report.verdict, Verdict::Passed, "{report:#?}");
    assert_eq!(report.story[1..3], ["worker-1 is killed", "worker-1 boots again"]);
    assert_eq!(report.reached["stepped"], 3 + 5);
    // Its destructors wrote a forbidden step and logged; neither was heard.
    assert!(!report.reached.contains_key("drained"));
    let claims: Vec<_> = trace.iter().filter(|line| line["what"]["event"] == "claimed").collect();
    assert_eq!((&claims[0]["incarnation"], &claims[1]["incarnation"]), (&1.into(), &2.into()));
}

#[test]
fn a_signal_drains_or_ends_in_a_kill() {
    let term = || fault(Kind::of(&SIGTERM), "worker-1", Trigger::On(on("stepped", 3)), Lifetime::Instant);
    let drained = run(&plan(vec![term()]));
    assert_eq!(drained.verdict, Verdict::Passed, "{drained:#?}");
    assert_eq!((drained.reached["exited"], drained.reached["drained"]), (1, 1));
    assert!(!drained.reached.contains_key("killed"));
    let mut stubborn = plan(vec![term()]);
    stubborn.users.steps = 12;
    stubborn.config.insert("worker".into(), [("STUBBORN".to_owned(), "1".to_owned())].into());
    let killed = run(&stubborn);
    assert_eq!(killed.verdict, Verdict::Passed, "{killed:#?}");
    assert_eq!((killed.reached["signalled"], killed.reached["killed"]), (1, 1));
    assert!(!killed.reached.contains_key("exited"));
}

#[test]
fn a_plan_may_have_its_own_service_manager() {
    let term = fault(Kind::of(&SIGTERM), "worker-1", Trigger::On(on("stepped", 3)), Lifetime::Instant);
    let mut stubborn = plan(vec![term]);
    stubborn.config.insert("worker".into(), [("STUBBORN".to_owned(), "1".to_owned())].into());
    let manager = ServiceManager { grace: Some(secs(1)), restart_delay: Some(secs(7)), ..ServiceManager::default() };
    stubborn.service.insert("worker".into(), manager);
    let (report, trace) = trace(&stubborn, "manager");
    assert_eq!(report.verdict, Verdict::Passed, "{report:#?}");
    let (told, killed) = (times(&trace, "signalled")[0], times(&trace, "killed")[0]);
    assert!((1.0..1.01).contains(&(killed - told)), "{told} to {killed}");
    let again = times(&trace, "booted")[1];
    assert!((7.0..7.1).contains(&(again - killed)), "{killed} to {again}");
}

#[test]
fn faults_that_nobody_felt_are_vacuous() {
    let claimed = || Trigger::On(on("claimed", 1));
    let idle: Vec<(&str, Fault)> = vec![
        ("zero-long", fault(Kind::of(&WEDGE), "worker-1->store", claimed(), Lifetime::Lasts(Duration::ZERO))),
        ("unused link", fault(Kind::of(&WEDGE), "worker-1->spare", claimed(), Lifetime::Lasts(secs(3)))),
        ("closed unused link", fault(Kind::of(&CLOSE), "worker-1->spare", claimed(), Lifetime::Instant)),
        ("too late", fault(Kind::of(&WEDGE), "worker-1->store", Trigger::On(on("told", 1)), Lifetime::Lasts(secs(3)))),
        ("killed idle", fault(Kind::of(&SIGKILL), "worker-1", Trigger::On(on("told", 1)), Lifetime::Instant)),
        ("never", fault(Kind::of(&WEDGE), "worker-1->store", Trigger::On(on("drained", 1)), Lifetime::Instant)),
    ];
    for (name, fault) in idle {
        let report = run(&plan(vec![fault]));
        assert_eq!(report.verdict, Verdict::Vacuous, "{name}: {report:#?}");
        assert_eq!(report.because.len(), 1, "{name}: {report:#?}");
    }
}

#[test]
fn a_breach_stops_the_run() {
    let report = run(&quirky("evil"));
    assert_eq!(report.verdict, Verdict::Violated, "{report:#?}");
    assert_eq!(report.invariant.as_deref(), Some("promptness"));
    assert!(!report.reached.contains_key("done"));
}

#[test]
fn a_missed_deadline_is_a_breach_with_its_times() {
    let report = one(Kind::of(&WEDGE), "worker-1->store", Trigger::On(on("stepped", 2)), Lifetime::UntilHeal);
    assert_eq!(report.verdict, Verdict::Violated, "{report:#?}");
    let breach = report.breach.expect("a breach");
    let (since, due) = (breach.since.expect("since"), breach.due.expect("due"));
    assert_eq!(due - since, secs(100));
    assert!((due.as_secs_f64()..due.as_secs_f64() + 0.1).contains(&report.virtual_seconds), "{due:?}");
}

#[test]
fn a_fault_without_an_end_stands_a_while_though_users_have_left() {
    let wedge = fault(Kind::of(&WEDGE), "worker-1->store", Trigger::On(on("told", 1)), Lifetime::UntilHeal);
    let (_, trace) = trace(&plan(vec![wedge]), "stands");
    let (struck, healed) = (times(&trace, "fault_struck")[0], times(&trace, "fault_healed")[0]);
    assert!((60.0..62.0).contains(&(healed - struck)), "{struck} to {healed}");
}

#[test]
fn a_hang_says_what_it_waits_for() {
    let report = run(&quirky("hang"));
    assert_eq!(report.verdict, Verdict::NoProgress, "{report:#?}");
    assert!(report.because.contains(&"user ann has not ended".to_owned()), "{report:#?}");
}

#[test]
fn a_panic_is_reported_with_its_words() {
    let product = run(&quirky("unlucky"));
    assert_eq!(product.verdict, Verdict::Panicked, "{product:#?}");
    assert!(product.because[0].contains("unlucky step"), "{product:#?}");
    let stand_in = run(&quirky("store panics"));
    assert!(stand_in.because[0].contains("the store does not know this"), "{stand_in:#?}");
}

/// Two faults of any kind anywhere in the first ten seconds, each at most nine seconds long.
fn wild(seed: u64) -> Plan<Jobs> {
    let mut dice = Seed(seed).stream(Purpose::Faults);
    let mut draw = |sides: u32| u64::from(dice.next_u32() % sides);
    let mut faults = Vec::new();
    for _ in 0..2 {
        let kind = match draw(10) {
            0 => Kind::of(&WEDGE),
            1 => Kind::of(&CLOSE),
            2 => Kind::of(&REPLY_LOST),
            3 => Kind::of(&DELAY).with("by", Duration::from_millis(1 + draw(900))),
            4 => Kind::of(&SIGTERM),
            5 => Kind::of(&HALF_OPEN),
            6 => Kind::of(&TRICKLE).with("bytes", 1 + draw(8) as u32).with("by", Duration::from_millis(1 + draw(400))),
            7 => Kind::of(&CUT),
            8 => Kind::of(&CONNECTION_REFUSED),
            _ => Kind::of(&SIGKILL),
        };
        let target = match (kind.on_link(), draw(2)) {
            (false, _) => "worker-1",
            (true, 0) => "worker-1->store",
            (true, _) => "ann->worker-1",
        };
        let trigger = Trigger::At(Duration::from_micros(draw(10_000_000)));
        faults.push(fault(kind, target, trigger, Lifetime::Lasts(Duration::from_millis(draw(9_000)))));
    }
    plan(faults)
}

#[test]
fn whatever_strikes_the_job_is_done_and_the_run_repeats() {
    let mut felt = 0;
    for seed in 0..150 {
        let run = || run_here::<Toys>("wild", &wild(seed), Seed(seed), &Options::default());
        let report = run();
        assert_eq!(report.verdict, Verdict::Passed, "{report:#?}");
        assert_eq!(report.reached["told"], 1, "{report:#?}");
        assert_eq!(report.digest, run().digest, "{report:#?}");
        felt += report.faults.iter().filter(|fault| fault.felt.is_some()).count();
    }
    assert!(felt > 100, "only {felt} of 300 faults were felt");
}

#[test]
fn a_target_that_is_not_there_is_an_error() {
    let link = one(Kind::of(&WEDGE), "worker-9->store", Trigger::At(secs(1)), Lifetime::UntilHeal);
    assert_eq!(link.verdict, Verdict::Error, "{link:#?}");
    let process = one(Kind::of(&SIGKILL), "worker-9", Trigger::At(secs(1)), Lifetime::Instant);
    assert_eq!(process.verdict, Verdict::Error, "{process:#?}");
}

#[test]
fn one_cause_takes_several_targets_and_cues_wait_for_their_session() {
    let cue = EventMatch { event: "stepped".into(), session: Some("ann/1".into()), nth: 2, after: secs(1) };
    let targets = vec!["worker-1->store".into(), "ann->worker-1".into()];
    let length = Lifetime::Until(EventMatch { after: secs(2), ..on("unanswered", 1) });
    let both = Fault::new(Kind::of(&WEDGE), targets, Trigger::On(cue), length);
    let report = run(&plan(vec![both]));
    assert_eq!(report.verdict, Verdict::Passed, "{report:#?}");
    assert_eq!(report.reached["fault_struck"], 2);
    assert_eq!(report.reached["fault_healed"], 2);
}
