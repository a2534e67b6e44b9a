//! The stranger's service of `examples/stranger`, if Python and redis-py are here: the plan passes, and its bug is found.
#![cfg(not(madsim))]

#[path = "../examples/stranger/till.rs"]
mod till;

use lychgate_sim::trace::verdict::{Report, Verdict};

#[test]
fn a_service_in_python_is_put_through_a_plan() {
    let Some(python) = till::python() else {
        eprintln!("skipped: python3 cannot `import redis`: {}", till::INSTALL);
        return;
    };
    let bug = std::thread::spawn(move || tell(python, true));
    let report = tell(python, false);
    assert_eq!(report.verdict, Verdict::Passed, "{report:#?}");
    let report = bug.join().expect("it tells its story");
    assert_eq!((report.verdict, report.invariant.as_deref()), (Verdict::Violated, Some("counted_once")), "{report:#?}");
}

/// Once more if it was late, or too late to show anything: a machine with much else to do is slow. What is broken stays so.
fn tell(python: &'static str, bug: bool) -> Report {
    let report = till::tell(python, bug);
    if !matches!(report.verdict, Verdict::NoProgress | Verdict::Vacuous) {
        return report;
    }
    eprintln!("told once more, for this may be the machine's doing: {report:#?}");
    till::tell(python, bug)
}
