//! Builds a patched tree and runs what was built; every step shows that it goes on.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::cli::spinner;
use crate::table::seconds;
use crate::verdict::{Report, Verdict};

/// Where everything about known bugs lies.
#[derive(Debug)]
pub(super) struct Places {
    /// The workspace.
    pub(super) root: PathBuf,
    /// Its patched copy.
    pub(super) tree: PathBuf,
    /// The copy's build.
    pub(super) target: PathBuf,
    /// The patched binaries, by the name of the bug.
    pub(super) bin: PathBuf,
    /// The binary of the clean tree.
    pub(super) clean: PathBuf,
}

impl Places {
    /// Below the workspace's target directory.
    pub(super) fn of(root: &Path) -> io::Result<Self> {
        let home = root.join("target/known-bugs");
        let bin = home.join("bin");
        std::fs::create_dir_all(&bin)?;
        let (tree, target) = (home.join("tree"), home.join("target"));
        Ok(Places { root: root.to_path_buf(), tree, target, bin, clean: std::env::current_exe()? })
    }

    /// The profile directory that has the dependencies: that of the clean binary if it is a release build.
    pub(super) fn built(&self) -> PathBuf {
        match self.clean.parent() {
            Some(dir) if dir.ends_with("release") => dir.to_path_buf(),
            _ => self.root.join("target/release"),
        }
    }
}

/// The packages that a patch makes be built anew.
const OURS: [&str; 3] = ["lychgate", "lychgate-sim", "lychgate-scenarios"];

/// What a finished step said.
pub(super) struct Said {
    pub(super) status: ExitStatus,
    pub(super) out: String,
    pub(super) err: String,
}

/// Runs `command` with its output in files under `target/known-bugs`, saying `what` is going on.
pub(super) fn step(what: &str, command: &mut Command, places: &Places) -> io::Result<Said> {
    let log = |name: &str| places.bin.with_file_name(name);
    let (out, err) = (log("stdout.log"), log("stderr.log"));
    let mut child = command.stdin(Stdio::null()).stdout(File::create(&out)?).stderr(File::create(&err)?).spawn()?;
    let spinner = spinner(what);
    let began = Instant::now();
    let plain = !console::user_attended_stderr();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        spinner.tick();
        std::thread::sleep(Duration::from_millis(20));
    };
    spinner.finish_and_clear();
    if plain {
        eprintln!("  {what}: {}", seconds(began.elapsed().as_secs_f64()));
    }
    let read = |path| std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    Ok(Said { status, out: read(out)?, err: read(err)? })
}

/// Builds the patched tree and keeps its binary as `name`. The inner error is what the compiler said.
pub(super) fn build(name: &str, places: &Places) -> io::Result<Result<PathBuf, String>> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args(["build", "--release", "--offline", "-p", "lychgate-scenarios", "--bin", "sim", "--target-dir"])
        .arg(&places.target)
        // Dependencies stay as they were built; of our own packages a build counts more than the runs that it is for. What
        // a seed does is the same at every level.
        .args(OURS.iter().flat_map(|package| {
            let quick = |key: &str| format!("profile.release.package.{package}.{key}");
            ["--config".to_owned(), quick("opt-level=1"), "--config".to_owned(), quick("debug=false")]
        }))
        .current_dir(&places.tree)
        .env("CARGO_INCREMENTAL", "1")
        .env("CARGO_TERM_COLOR", "never");
    // `cargo run` tells its child about the package that it runs; another cargo must not hear it.
    for (key, _) in std::env::vars_os() {
        let known = key.to_string_lossy();
        if ["CARGO_PKG_", "CARGO_MANIFEST", "CARGO_BIN", "CARGO_CRATE", "CARGO_PRIMARY"]
            .iter()
            .any(|p| known.starts_with(p))
        {
            cargo.env_remove(&key);
        }
    }
    let said = step(&format!("{name}: building"), &mut cargo, places)?;
    if !said.status.success() {
        let first = said.err.lines().skip_while(|line| !line.starts_with("error"));
        return Ok(Err(first.take(6).collect::<Vec<_>>().join("\n")));
    }
    let kept = places.bin.join(name);
    // A binary that still runs cannot be written to, but its name can be given to another.
    _ = std::fs::remove_file(&kept);
    std::fs::copy(places.target.join("release/sim"), &kept)?;
    Ok(Ok(kept))
}

/// What a sweep of one scenario came to.
pub(super) struct Swept {
    /// How many seeds were run.
    pub(super) seeds: usize,
    /// The first run that failed, other than by proving nothing.
    pub(super) failed: Option<Line>,
    /// The failure report, its replay line left out.
    pub(super) report: Vec<String>,
    /// What it said where it did not come to an end.
    pub(super) odd: Option<String>,
}

/// A run, as in the JSON of a sweep.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Line {
    pub(super) seed: u64,
    pub(super) verdict: Verdict,
    pub(super) invariant: Option<String>,
    pub(super) digest: String,
}

impl Line {
    /// The invariant that fired, or the verdict that is none's.
    pub(super) fn fired(&self) -> String {
        self.invariant.clone().unwrap_or_else(|| verdict_key(self.verdict))
    }
}

fn verdict_key(verdict: Verdict) -> String {
    serde_json::to_value(verdict).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

/// Runs `scenario` on seeds from 1 to before `end` with `binary`, until one fails.
pub(super) fn sweep(name: &str, binary: &Path, scenario: &str, end: u64, places: &Places) -> io::Result<Swept> {
    #[derive(Deserialize)]
    struct Runs {
        runs: Vec<Line>,
    }
    let json = places.bin.with_file_name("runs.json");
    _ = std::fs::remove_file(&json);
    let mut command = Command::new(binary);
    command.args(["run", scenario, "--seeds", &format!("1..{end}"), "--no-shrink", "--past-vacuous", "--json"]);
    command.arg(&json).current_dir(&places.root);
    let said = step(&format!("{name}: {scenario} on seeds 1 to {}", end - 1), &mut command, places)?;
    let runs = std::fs::read(&json).ok().and_then(|bytes| serde_json::from_slice::<Runs>(&bytes).ok());
    let Some(Runs { runs }) = runs else {
        let last = said.err.lines().chain(said.out.lines()).next_back().unwrap_or("it said nothing").to_owned();
        return Ok(Swept { seeds: 0, failed: None, report: Vec::new(), odd: Some(format!("{}: {last}", said.status)) });
    };
    let bad = |run: &&Line| !matches!(run.verdict, Verdict::Passed | Verdict::Vacuous);
    let failed = runs.iter().find(bad).cloned();
    let report = failed.as_ref().map(|run| excerpt(&said.out, scenario, run.seed)).unwrap_or_default();
    Ok(Swept { seeds: runs.len(), failed, report, odd: None })
}

/// The failure report of `seed` in what a sweep printed, up to its replay line.
fn excerpt(out: &str, scenario: &str, seed: u64) -> Vec<String> {
    let head = format!(": {scenario}, seed {seed}");
    let lines = out.lines().skip_while(|line| !line.ends_with(&head));
    lines.take_while(|line| !line.starts_with("replay it: ")).map(str::to_owned).collect()
}

/// The digest of one more run in a process of its own.
pub(super) fn digest(binary: &Path, scenario: &str, seed: u64, places: &Places) -> io::Result<Option<String>> {
    let mut command = Command::new(binary);
    command.args(["one", scenario, "--seed", &seed.to_string()]).current_dir(&places.root);
    let said = step(&format!("{scenario}@{seed}: replaying"), &mut command, places)?;
    let report = said.out.lines().next_back().and_then(|line| serde_json::from_str::<Report>(line).ok());
    Ok(report.map(|report| report.digest))
}

/// Processor time of all children so far.
pub(super) fn cpu_seconds() -> f64 {
    // SAFETY: zeros are a valid rusage, and the pointer is of a live one.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_CHILDREN, &raw mut usage);
        usage
    };
    let of = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    of(usage.ru_utime) + of(usage.ru_stime)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_of_the_seed_is_found() {
        let out = "swarm, seeds 1 to 9: x\n\nvacuous: swarm, seed 1\nreplay it: a\n\nviolated no_zombies: swarm, seed 3\n  broken\nreplay it: b\n\n3 of 4\n";
        assert_eq!(excerpt(out, "swarm", 3), ["violated no_zombies: swarm, seed 3", "  broken"]);
    }
}
