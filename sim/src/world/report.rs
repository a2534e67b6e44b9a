//! What came of a run: from what the monitor knows at its end to a report.

use std::collections::BTreeMap;

use crate::plan::Plan;
use crate::plan::seed::Seed;
use crate::trace::event::ProductEvent;
use crate::trace::verdict::{Report, Verdict};
use crate::world::dispatcher::Dispatcher;
use crate::world::monitor::Stop;
use crate::world::nodes::NodeId;

/// How a run came to its end.
pub(crate) enum Lived {
    /// The run settled, or did not because of these obligations.
    Settled(Vec<String>),
    /// Something panicked: what it said, and on which node.
    #[cfg_attr(not(madsim), expect(dead_code, reason = "a panic ends the program there"))]
    Panicked { says: String, node: Option<NodeId> },
}

/// What is said of a panic of the harness, and what to do where a stand-in was asked what it does not know.
fn harness_panicked(says: &str) -> Vec<String> {
    let untaught = says.contains("stand-in").then(|| {
        "a stand-in answers only what it was taught: ask for something else, or teach it in the file named above what the \
         real server answers, with a case of `conformance` that shows it"
            .to_owned()
    });
    std::iter::once(format!("the harness panicked: {says}")).chain(untaught).collect()
}

/// The report of a run that has lived, or panicked, or made no progress. One that proves nothing is vacuous if `strict`.
pub(crate) fn build_report<O: ProductEvent, W>(
    dispatcher: &Dispatcher<O>,
    scenario: &str,
    plan: &Plan<W>,
    seed: Seed,
    strict: bool,
    lived: Lived,
) -> Report {
    // Whatever panics while it holds the monitor is the judge's: the product never does.
    let judging = dispatcher.is_poisoned();
    dispatcher.look(|monitor| {
        monitor.close();
        let broken = monitor.recorder.flush();
        let mut report = blank(scenario, seed, Verdict::Passed, String::new());
        report.because.clear();
        report.digest = monitor.recorder.digest();
        report.events = monitor.recorder.events();
        report.virtual_seconds = monitor.now().as_secs_f64();
        report.reached = monitor.recorder.reached();
        report.faults = monitor.nemesis.report();
        report.story = monitor.recorder.story().to_vec();
        report.anchors = monitor.recorder.anchors().to_vec();
        let armed = monitor.invariants.iter().filter(|invariant| invariant.armed());
        report.armed = armed.map(|invariant| invariant.name().to_owned()).collect();
        let floors = monitor.invariants.iter();
        let floors = floors.filter_map(|invariant| Some((invariant.name().to_owned(), invariant.floor()?)));
        report.floors = floors.collect();
        report.excuses = monitor.excuses.report(monitor.now());
        match (lived, monitor.stop(), broken) {
            (Lived::Panicked { says, node }, ..) => {
                let product = !judging && node.is_some_and(|node| monitor.is_of_product(node));
                report.verdict = if product { Verdict::Panicked } else { Verdict::Error };
                report.because = if product { vec![says] } else { harness_panicked(&says) };
            }
            (_, Some(Stop::Error(why)), _) => {
                (report.verdict, report.because) = (Verdict::Error, vec![why.clone()]);
            }
            (_, Some(Stop::Breach { invariant, breach }), _) => {
                report.verdict = Verdict::Violated;
                report.invariant = Some(invariant.clone());
                report.breach = Some(breach.clone());
            }
            (_, _, Some(why)) => (report.verdict, report.because) = (Verdict::Error, vec![why]),
            (Lived::Settled(mut because), ..) if !because.is_empty() => {
                because.extend(monitor.warnings());
                (report.verdict, report.because) = (Verdict::NoProgress, because);
            }
            _ if strict => {
                report.because = vacuity(plan, &report);
                if !report.because.is_empty() {
                    report.verdict = Verdict::Vacuous;
                }
            }
            _ => {}
        }
        report
    })
}

/// What a run of this plan should have shown and did not.
fn vacuity<W>(plan: &Plan<W>, report: &Report) -> Vec<String> {
    let mut because = Vec::new();
    for (number, fault) in report.faults.iter().enumerate() {
        let name = format!("fault {} ({} on {})", number + 1, fault.kind, fault.targets.join(", "));
        match (fault.struck, fault.felt) {
            (None, _) => because.push(format!("{name} never struck: its trigger did not come")),
            (_, None) => because.push(format!("{name} was not felt by any live work")),
            _ => {}
        }
    }
    let unseen = plan.must_reach.iter().filter(|event| !report.reached.contains_key(*event));
    because.extend(unseen.map(|event| format!("{event} must be reached and was not")));
    let unarmed = plan.arms.iter().filter(|invariant| !report.armed.contains(invariant));
    because.extend(unarmed.map(|invariant| format!("{invariant} was not put to the test")));
    because
}

/// A report without a run.
pub(crate) fn blank(scenario: &str, seed: Seed, verdict: Verdict, because: String) -> Report {
    Report {
        scenario: scenario.to_owned(),
        seed: seed.0,
        verdict,
        invariant: None,
        breach: None,
        digest: String::new(),
        events: 0,
        virtual_seconds: 0.0,
        wall_seconds: 0.0,
        armed: Vec::new(),
        floors: BTreeMap::new(),
        excuses: Vec::new(),
        reached: BTreeMap::new(),
        faults: Vec::new(),
        story: Vec::new(),
        because: vec![because],
        repro: None,
        shapes: Vec::new(),
        anchors: Vec::new(),
    }
}
