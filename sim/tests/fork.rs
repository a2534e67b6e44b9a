//! Runs in forked children. No test harness: its threads would make forking unsafe.

#[cfg(madsim)]
mod test_product;

#[cfg(not(madsim))]
fn main() {}

#[cfg(madsim)]
fn main() {
    match std::env::args().nth(1).as_deref() {
        Some("--list") => println!("fork: test"),
        Some("digests") => println!("{}", forked::digests(0..forked::SEEDS).join("\n")),
        _ => {
            forked::verdicts();
            forked::promise();
            println!("fork: ok");
        }
    }
}

#[cfg(madsim)]
mod forked {
    use super::test_product::{Jobs, Toys, plan, quirky};
    use lychgate_sim::explore::run::{Child, Options, fork_run};
    use lychgate_sim::plan::Plan;
    use lychgate_sim::plan::seed::Seed;
    use lychgate_sim::trace::verdict::Verdict;
    use std::process::Command;
    use std::time::Duration;

    /// Enough for every source of chance to show itself.
    pub const SEEDS: u64 = 30;

    fn fork(plan: &Plan<Jobs>, seed: u64) -> Child {
        fork_run::<Toys>("toy", plan, Seed(seed), &Options::default())
    }

    pub fn digests(seeds: impl Iterator<Item = u64>) -> Vec<String> {
        let digest = |seed| {
            let report = fork(&quirky("chance"), seed).finish();
            assert_eq!(report.verdict, Verdict::Passed, "{report:#?}");
            report.digest
        };
        seeds.map(digest).collect()
    }

    /// A child's report comes through whatever happens to it.
    pub fn verdicts() {
        let panicked = fork(&quirky("unlucky"), 7).finish();
        assert_eq!(panicked.verdict, Verdict::Panicked, "{panicked:#?}");
        assert!(panicked.because[0].contains("unlucky"), "{panicked:#?}");
        let options = Options { wall_max: Duration::ZERO, ..Options::default() };
        let hurried = fork_run::<Toys>("toy", &plan(Vec::new()), Seed(7), &options).finish();
        assert_eq!(hurried.verdict, Verdict::NoProgress, "{hurried:#?}");
        assert!(hurried.because[0].starts_with("wall clock"), "{hurried:#?}");
        let killed = fork(&quirky("hang"), 7);
        // SAFETY: the child is not reaped before `finish`.
        unsafe { libc::kill(killed.pid, libc::SIGKILL) };
        assert_eq!(killed.finish().verdict, Verdict::Error);
    }

    /// A seed's digest is the same alone, in a batch, in any order, beside others, in another process.
    pub fn promise() {
        let forward = digests(0..SEEDS);
        let distinct: std::collections::BTreeSet<_> = forward.iter().collect();
        assert_eq!(distinct.len(), forward.len(), "each seed is another run");
        let mut backward = digests((0..SEEDS).rev());
        backward.reverse();
        assert_eq!(forward, backward, "the order of seeds");
        let ballast: Vec<u8> = vec![7; 1 << 24];
        let beside: Vec<_> = (0..SEEDS).map(|seed| fork(&quirky("chance"), seed)).collect();
        let beside: Vec<_> = beside.into_iter().map(|child| child.finish().digest).collect();
        assert_eq!(forward, beside, "{} bytes of ballast, and others at work", ballast.len());
        let program = std::env::current_exe().expect("this program has a path");
        for salt in ["", "another environment"] {
            let out =
                Command::new(&program).arg("digests").env("SALT", salt).current_dir("/").output().expect("it runs");
            let out = String::from_utf8(out.stdout).expect("hexadecimal");
            assert_eq!(forward, out.lines().collect::<Vec<_>>(), "a process of its own");
        }
    }
}
