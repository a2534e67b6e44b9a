//! What the simulation says of a tree with a bug in it: sweeps and replays of the binary that was built of it.

use std::io;
use std::ops::Range;
use std::path::Path;
use std::process::Command;

use serde::Deserialize;

use super::workshop::{Recipe, Workshop};
use crate::explore::simulated::SIMULATED;
use crate::trace::verdict::{Report, Verdict};

/// How the simulation, a binary of `package`, is built of a patched tree: as it is built anyway, so that dependencies stay as
/// they are. But for what is tested, where that is a package of its own: to optimise it anew with each bug takes three times as long as
/// to compile it, and a bug's runs are few.
pub(crate) fn recipe(package: &str, binary: &'static str, own: Vec<String>) -> Recipe {
    let tested = own.iter().filter(|name| *name != package && *name != env!("CARGO_PKG_NAME"));
    let quickly = tested.flat_map(|name| ["--config".to_owned(), format!("profile.dev.package.{name}.opt-level=0")]);
    let build = ["build", "-p", package, "--bin", binary].map(str::to_owned);
    let words = SIMULATED.map(str::to_owned).into_iter().chain(quickly).chain(build).collect();
    Recipe { binary, profile: "debug", words, own }
}

/// What a sweep of one scenario came to.
pub(crate) struct Swept {
    /// How many seeds were run.
    pub(crate) seeds: usize,
    /// The first run that failed, other than by proving nothing.
    pub(crate) failed: Option<Line>,
    /// The failure report, its replay line left out.
    pub(crate) report: Vec<String>,
    /// What it said where it did not come to an end.
    pub(crate) odd: Option<String>,
    /// Processor time of the runs.
    pub(crate) cpu_seconds: f64,
}

/// What is swept.
pub(crate) struct Sweep<'a> {
    pub(crate) scenario: &'a str,
    pub(crate) seeds: Range<u64>,
    /// Whether invariants do not count.
    pub(crate) naive: bool,
}

/// A run, as in the JSON of a sweep.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Line {
    pub(crate) seed: u64,
    pub(crate) verdict: Verdict,
    pub(crate) invariant: Option<String>,
    pub(crate) digest: String,
}

impl Line {
    /// The invariant that fired, or the verdict that is none's.
    pub(crate) fn fired(&self) -> String {
        self.invariant.clone().unwrap_or_else(|| self.verdict.key())
    }
}

/// Sweeps with `binary`, until a seed fails.
pub(crate) fn sweep(name: &str, binary: &Path, swept: &Sweep<'_>, workshop: &Workshop) -> io::Result<Swept> {
    #[derive(Deserialize)]
    struct Runs {
        runs: Vec<Line>,
    }
    let json = workshop.file("runs.json");
    _ = std::fs::remove_file(&json);
    let Sweep { scenario, seeds: Range { start, end }, naive } = swept;
    let mut command = Command::new(binary);
    command.args(["run", scenario, "--seeds", &format!("{start}..{end}"), "--no-shrink", "--past-vacuous"]);
    command.args(naive.then_some("--naive")).arg("--json").arg(&json).current_dir(&workshop.root);
    let judged = if *naive { ", judged naively" } else { "" };
    let what = format!("{name}: {scenario} on seeds {start} to {}{judged}", end - 1);
    let said = workshop.step("run", &what, &mut command)?;
    let cpu_seconds = said.cpu_seconds;
    let runs = std::fs::read(&json).ok().and_then(|bytes| serde_json::from_slice::<Runs>(&bytes).ok());
    let Some(Runs { runs }) = runs else {
        let last = said.err.lines().chain(said.out.lines()).next_back().unwrap_or("it said nothing").to_owned();
        let odd = Some(format!("{}: {last}", said.status));
        return Ok(Swept { seeds: 0, failed: None, report: Vec::new(), odd, cpu_seconds });
    };
    let bad = |run: &&Line| !matches!(run.verdict, Verdict::Passed | Verdict::Vacuous);
    let failed = runs.iter().find(bad).cloned();
    let report = failed.as_ref().map(|run| excerpt(&said.out, scenario, run.seed)).unwrap_or_default();
    Ok(Swept { seeds: runs.len(), failed, report, odd: None, cpu_seconds })
}

/// The failure report of `seed` in what a sweep printed, up to its replay line.
fn excerpt(out: &str, scenario: &str, seed: u64) -> Vec<String> {
    let head = format!(": {scenario}, seed {seed}");
    let lines = out.lines().skip_while(|line| !line.ends_with(&head));
    lines.take_while(|line| !line.starts_with("replay it: ")).map(str::to_owned).collect()
}

/// The report of one more run in a process of its own.
pub(crate) fn again(binary: &Path, scenario: &str, seed: u64, workshop: &Workshop) -> io::Result<Option<Report>> {
    let mut command = Command::new(binary);
    command.args(["one", scenario, "--seed", &seed.to_string()]).current_dir(&workshop.root);
    let said = workshop.step("run", &format!("{scenario}@{seed}: replaying"), &mut command)?;
    Ok(said.out.lines().next_back().and_then(|line| serde_json::from_str::<Report>(line).ok()))
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
