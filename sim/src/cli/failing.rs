//! What is done about a failure before it is printed: a second process confirms it, a drawn plan is made smaller, and the
//! smaller plan is kept as a repro.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use console::style;
use sha2::{Digest, Sha256};

use super::choose::Chosen;
use super::{WALL_MAX, options};
use crate::cli::report::{self, Around};
use crate::explore::rerun::Rerun;
use crate::explore::run::fork_run;
use crate::explore::shrink::{Trial, shrink};
use crate::explore::spinner::spinner;
use crate::explore::sweep::Running;
use crate::plan::seed::Seed;
use crate::plan::{self, Expect, Plan, Repro, Workload};
use crate::trace::verdict::{Report, Verdict};
use crate::world::product::Product;
use crate::world::words;

/// So long may the search for a smaller plan take in all. A reader waits this long for a better report, not longer.
const SHRINK_MAX: Duration = Duration::from_secs(60);

/// A second process may take as long as the first, and a moment to be started and to say why it gave up.
pub(super) const SECOND_MAX: Duration = WALL_MAX.saturating_add(Duration::from_secs(10));

/// Runs the seed of `report`, if it is a violation, in a process of its own, started anew, and turns the report into a
/// nondeterministic one if that run differs.
pub(super) fn confirmed(report: Report, handle: &str) -> Report {
    if report.verdict != Verdict::Violated {
        return report;
    }
    match Rerun::begin(handle, report.seed, SECOND_MAX) {
        Ok(second) => compared(report, second.finish()),
        Err(error) => unconfirmed(report, Verdict::Error, format!("no second process: {error}")),
    }
}

/// `report` in the light of what a second process came to. A run without a digest was ended from outside: of that there
/// is nothing to compare.
pub(super) fn compared(report: Report, second: Report) -> Report {
    let unfinished = report.digest.is_empty() && report.verdict != Verdict::Panicked;
    if unfinished || second.digest == report.digest && second.verdict == report.verdict {
        return report;
    }
    if second.digest.is_empty() && second.verdict != Verdict::Panicked {
        return unconfirmed(report, Verdict::Error, second.because.join("; "));
    }
    let (before, after) = (report::word(report.verdict), report::word(second.verdict));
    let says =
        format!("{before} with digest {}, in a second process {after} with digest {}", report.digest, second.digest);
    unconfirmed(report, Verdict::Nondeterministic, says)
}

fn unconfirmed(report: Report, verdict: Verdict, why: String) -> Report {
    let mut because = vec![why];
    because.extend(report.because);
    Report { verdict, because, ..report }
}

/// Prints `report`, of a run of `chosen` that failed and was confirmed. Looks for a smaller plan first if `smaller`, and
/// returns the file in which that is kept.
pub(super) fn tell<P: Product>(
    report: &Report,
    chosen: &Chosen<P::Workload>,
    smaller: bool,
    root: &Path,
) -> Option<String> {
    let promises = words::invariants::<P>();
    let promise = promises.iter().find(|(name, _)| Some(*name) == report.invariant.as_deref()).map(|(_, says)| *says);
    let mut kept = None;
    let mut around = Around { promise, replay: again(report, chosen), smaller: None };
    if smaller && chosen.drawn() && report.verdict == Verdict::Violated {
        let found = smaller_plan::<P>(report, chosen, root);
        let path = root.join("target/sim/findings").join(format!("{}-{}.repro.toml", chosen.name, report.seed));
        match keep(&path, &found.file) {
            Ok(()) => {
                let path = from_here(&path);
                around.smaller = Some((format!("{} replay {path}", P::command()), found.shown));
                kept = Some(path);
            }
            Err(error) => {
                // It was expensive to find, so it is not lost with the file.
                println!("\n{}: {error}; save what stands between the lines as a file of your own:", path.display());
                println!("-----\n{}-----", found.file);
            }
        }
    }
    let lines = report::failure(report, &around);
    println!();
    println!("{}", style(&lines[0]).red().bold());
    lines[1..].iter().for_each(|line| println!("{line}"));
    kept
}

/// The line to paste: it replays a failure, and of two runs that differ it shows where.
pub(super) fn again<W: Workload>(report: &Report, chosen: &Chosen<W>) -> String {
    match report.verdict {
        Verdict::Nondeterministic => chosen.check(report.seed),
        _ => chosen.replay(report.seed),
    }
}

/// A smaller plan that breaks the same invariant.
struct Smaller {
    /// The text of its file.
    file: String,
    /// The part of it that is worth showing.
    shown: String,
}

/// The smallest plan found that breaks the same invariant.
fn smaller_plan<P: Product>(report: &Report, chosen: &Chosen<P::Workload>, root: &Path) -> Smaller {
    let began = Instant::now();
    let mut plan = chosen.plan(report.seed);
    // What the sweep wanted of the drawn plan is no matter of the smaller one.
    plan.must_reach.clear();
    plan.arms = report.invariant.iter().cloned().collect();
    let spinner = spinner("looking for a smaller plan");
    let shrunk = shrink(&plan, |candidate| {
        if began.elapsed() > SHRINK_MAX {
            return Trial::OutOfTime;
        }
        spinner.tick();
        trial::<P>(candidate, report)
    });
    spinner.finish_and_clear();
    // A reader of the report knows what the rest of the file says.
    let shown = plan::print(&Plan { arms: Vec::new(), ..shrunk.plan.clone() });
    let about = format!("{} on seed {}, made smaller in {} trials", report.scenario, report.seed, shrunk.trials);
    Smaller { file: plan::print(&as_repro(Plan { about, ..shrunk.plan }, report, root)), shown }
}

/// Writes a file and the folders above it.
pub(super) fn keep(path: &Path, text: &str) -> std::io::Result<()> {
    path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
    std::fs::write(path, text)
}

/// A path as somebody types it who stands in the current directory.
pub(super) fn from_here(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(here).unwrap_or(path).display().to_string()
}

/// Whether `candidate` breaks what `report` says is broken. One that no file could say is no candidate.
fn trial<P: Product>(candidate: &Plan<P::Workload>, report: &Report) -> Trial {
    if words::parse::<P>("candidate", &plan::print(candidate)).is_err() {
        return Trial::Holds;
    }
    let again = fork_run::<P>(&report.scenario, candidate, Seed(report.seed), &options(false)).finish();
    let same = again.verdict == Verdict::Violated && again.invariant == report.invariant;
    if same { Trial::Breaks } else { Trial::Holds }
}

/// `plan` with the seed of `report` and where that came from; if an invariant broke, that is what it expects.
pub(super) fn as_repro<W>(plan: Plan<W>, report: &Report, root: &Path) -> Plan<W> {
    let broken = report.invariant.clone();
    let expect = match broken {
        Some(_) => Expect { verdict: "violated".to_owned(), invariant: broken },
        None => plan.expect.clone(),
    };
    Plan { expect, repro: Some(origin(report.seed, root)), ..plan }
}

/// The seed of a plan, with the tree and the toolchain that it was run with.
fn origin(seed: u64, root: &Path) -> Repro {
    Repro { seed, commit: commit(root), toolchain: toolchain(), lock: lock(root) }
}

/// The commit that is checked out, read without git.
pub(super) fn commit(root: &Path) -> String {
    let unknown = || "unknown".to_owned();
    let Ok(head) = std::fs::read_to_string(root.join(".git/HEAD")) else { return unknown() };
    let Some(name) = head.trim().strip_prefix("ref: ") else { return head.trim().to_owned() };
    if let Ok(commit) = std::fs::read_to_string(root.join(".git").join(name)) {
        return commit.trim().to_owned();
    }
    let packed = std::fs::read_to_string(root.join(".git/packed-refs")).unwrap_or_default();
    let line = packed.lines().find(|line| line.ends_with(name));
    line.and_then(|line| line.split(' ').next()).map_or_else(unknown, str::to_owned)
}

fn toolchain() -> String {
    let output = Command::new("rustc").arg("--version").stderr(Stdio::null()).output();
    let said = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default();
    if said.is_empty() { "unknown".to_owned() } else { said }
}

fn lock(root: &Path) -> String {
    match std::fs::read(root.join("Cargo.lock")) {
        Ok(bytes) => Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect(),
        Err(_) => "unknown".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::verdict::tests::report;
    use crate::world::test_product::TestProduct;

    #[test]
    fn only_what_a_second_process_has_seen_is_a_violation() {
        let first = report("swarm", 17, Verdict::Violated);
        assert_eq!(compared(first.clone(), first.clone()), first);
        let other = Report { digest: "else".to_owned(), ..first.clone() };
        let told = compared(first.clone(), other);
        assert_eq!(told.verdict, Verdict::Nondeterministic);
        assert_eq!(told.because, ["violated with digest d17, in a second process violated with digest else"]);
        let silent = Report { verdict: Verdict::Error, digest: String::new(), ..first.clone() };
        assert_eq!(compared(first, silent).verdict, Verdict::Error);
    }

    #[test]
    fn a_repro_says_what_must_break_and_where_it_came_from() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let plan = Plan { about: "x".to_owned(), ..words::bare::<TestProduct>() };
        let repro = as_repro(plan, &report("swarm", 17, Verdict::Violated), root);
        assert_eq!(words::parse::<TestProduct>("repro", &plan::print(&repro)).unwrap(), repro);
        assert_eq!(repro.expect.invariant.as_deref(), Some("no_zombies"));
        let origin = repro.repro.unwrap();
        assert_eq!(origin.seed, 17);
        assert_eq!(origin.lock.len(), 64);
        assert!(origin.toolchain.starts_with("rustc") || origin.toolchain == "unknown");
    }
}
