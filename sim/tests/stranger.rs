//! The stranger's service of `examples/stranger`, if Python and redis-py are here: the plan passes, and its bug is found.
#![cfg(real)]

#[path = "../examples/stranger/till.rs"]
mod till;

use lychgate_sim::verdict::Verdict;

#[test]
fn a_service_in_python_is_put_through_a_plan() {
    if !till::installed() {
        eprintln!("skipped: python3 cannot `import redis`: {}", till::INSTALL);
        return;
    }
    let bug = std::thread::spawn(|| till::tell(true));
    let report = till::tell(false);
    assert_eq!(report.verdict, Verdict::Passed, "{report:#?}");
    let report = bug.join().expect("it tells its story");
    assert_eq!((report.verdict, report.invariant.as_deref()), (Verdict::Violated, Some("counted_once")), "{report:#?}");
}
