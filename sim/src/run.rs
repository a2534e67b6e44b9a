//! One run as a forked child of a single-threaded parent. (This copy makes its reports up.)

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::path::PathBuf;
use std::time::Duration;

use crate::plan::Plan;
use crate::product::{Product, Workload};
use crate::seed::Seed;
use crate::verdict::{FaultReport, Report, Verdict};

/// How to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the trace goes.
    pub trace: Option<PathBuf>,
    /// Wall time after which the run is given up.
    pub wall_max: Duration,
    /// Whether idle faults make a drawn run vacuous.
    pub strict: bool,
}

/// A run that is going.
pub struct Child {
    /// Its process id.
    pub pid: i32,
    pipe: std::fs::File,
}

impl Child {
    /// Readable once the report is there.
    pub fn fd(&self) -> RawFd {
        self.pipe.as_raw_fd()
    }
    /// When it is given up.
    pub fn deadline(&self) -> std::time::Instant {
        std::time::Instant::now() + Duration::from_secs(60)
    }
    /// Waits for the report.
    pub fn finish(mut self) -> Report {
        let mut text = String::new();
        self.pipe.read_to_string(&mut text).expect("a pipe can be read");
        unsafe { libc::waitpid(self.pid, std::ptr::null_mut(), 0) };
        serde_json::from_str(&text).expect("a report")
    }
}

/// Runs in this process.
pub fn run_here<P: Product>(scenario: &str, plan: &Plan<P::Workload>, seed: Seed, _: &Options) -> Report {
    let boom =
        plan.faults.iter().any(|f| f.kind.name() == "wedge") && seed.0 % 5 == 3 && !plan.users.users().is_empty();
    let breach = crate::judge::Breach {
        says: "ann/1 is still shown as running".into(),
        since: Some(Duration::from_secs(12)),
        due: Some(Duration::from_secs(72)),
    };
    Report {
        scenario: scenario.into(),
        seed: seed.0,
        verdict: if boom { Verdict::Violated } else { Verdict::Passed },
        invariant: boom.then(|| "no_zombies".into()),
        breach: boom.then_some(breach),
        digest: format!("{:016x}", seed.number(&crate::plan::print(plan))),
        events: 10,
        virtual_seconds: 61.5,
        wall_seconds: 0.01,
        armed: vec!["no_zombies".into()],
        reached: BTreeMap::new(),
        faults: plan
            .faults
            .iter()
            .map(|f| FaultReport {
                kind: f.kind.name().into(),
                targets: f.targets.clone(),
                struck: Some(1.0),
                felt: Some(2.0),
                times_felt: 1,
            })
            .collect(),
        story: vec!["ann says hello".into(); 30],
        because: vec![],
    }
}

/// Runs in a child.
pub fn fork_run<P: Product>(scenario: &str, plan: &Plan<P::Workload>, seed: Seed, options: &Options) -> Child {
    let mut fds = [0; 2];
    unsafe { libc::pipe(fds.as_mut_ptr()) };
    let pid = unsafe { libc::fork() };
    let [mut near, mut far] = fds.map(|fd| unsafe { std::fs::File::from_raw_fd(fd) });
    if pid == 0 {
        let report = run_here::<P>(scenario, plan, seed, options);
        let _ = near.flush();
        let _ = far.write_all(&serde_json::to_vec(&report).unwrap());
        unsafe { libc::_exit(0) };
    }
    Child { pid, pipe: near }
}
