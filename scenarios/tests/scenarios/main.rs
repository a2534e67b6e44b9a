//! The stories, each as a test of its own name, and what is promised of the binary that tells them.
//! Its one law: no run happens in this process. It has threads, and a run is a child of a process that has none.

mod bad_input;
mod crash_points;
mod determinism;
mod processes;
mod runs;
mod sim;
mod snapshots;
mod vacuity;

use libtest_mimic::{Arguments, Failed, Trial};

fn main() {
    let args = Arguments::from_args();
    // On the production runtime there is no world to tell stories of.
    let trials = if cfg!(madsim) { trials() } else { Vec::new() };
    libtest_mimic::run(&args, trials).exit();
}

fn trials() -> Vec<Trial> {
    let trials = [
        runs::trials(),
        snapshots::trials(),
        named(vacuity::TESTS),
        vacuity::without_faults(),
        named(determinism::TESTS),
        named(bad_input::TESTS),
        named(processes::TESTS),
        named(crash_points::TESTS),
    ];
    trials.into_iter().flatten().collect()
}

/// Tests by name.
type Tests = &'static [(&'static str, fn() -> Result<(), Failed>)];

fn named(tests: Tests) -> Vec<Trial> {
    tests.iter().map(|(name, test)| Trial::test(*name, test)).collect()
}
