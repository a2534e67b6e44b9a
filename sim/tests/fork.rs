//! Runs in forked children. No test harness: its threads would make forking unsafe.

#[cfg(madsim)]
mod toy;

#[cfg(not(madsim))]
fn main() {}

#[cfg(madsim)]
fn main() {
    use lychgate_sim::run::{Options, fork_run};
    use lychgate_sim::seed::Seed;
    use lychgate_sim::verdict::Verdict;
    use std::time::Duration;
    use toy::{Toys, plan, quirky};

    if std::env::args().any(|argument| argument == "--list") {
        return println!("fork: test");
    }
    let fork = |plan: &_, seed, options: &Options| fork_run::<Toys>("toy", plan, Seed(seed), options);
    let options = Options::default();
    let healthy = plan(Vec::new());
    let alone = fork(&healthy, 7, &options).finish();
    assert_eq!(alone.verdict, Verdict::Passed, "{alone:#?}");
    let other = fork(&healthy, 8, &options).finish();
    assert_ne!(other.digest, alone.digest);
    let (one, two) = (fork(&healthy, 7, &options), fork(&healthy, 7, &options));
    assert_eq!(two.finish().digest, alone.digest, "after another seed");
    assert_eq!(one.finish().digest, alone.digest, "beside another child");
    let panicked = fork(&quirky("unlucky"), 7, &options).finish();
    assert_eq!(panicked.verdict, Verdict::Panicked, "{panicked:#?}");
    assert!(panicked.because[0].contains("unlucky"), "{panicked:#?}");
    let hurried = fork(&healthy, 7, &Options { wall_max: Duration::ZERO, ..options }).finish();
    assert_eq!(hurried.verdict, Verdict::NoProgress, "{hurried:#?}");
    assert!(hurried.because[0].starts_with("wall clock"), "{hurried:#?}");
    // Spelled out so that a second process can be compared with this one.
    println!("fork: ok, digest of seed 7 is {}", alone.digest);
}
