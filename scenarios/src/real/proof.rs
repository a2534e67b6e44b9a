//! The proof that the known bugs are as bad in the real world: each is put into a copy of the tree, and the binary that is
//! built of it must break there what it breaks in the simulation. Its one law: a catch counts where the clean binary, told
//! the same story, passes.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use lychgate_sim::cli::table::Table;
use lychgate_sim::explore::known_bugs::{KnownBug, Recipe, Verdict as Caught, Workshop, load};
use lychgate_sim::plan::Plan;
use lychgate_sim::real::programs;
use serde::Serialize;

use super::{Report, ServerRegistry, Verdict, planned, print, tell};
use crate::real::known_bugs::{RealKnownBugs, Story};
use crate::users::LychgateWorkload;

/// The stories that are told at once. They mostly wait; with more of them two cores are late with what they wait for.
const AT_ONCE: usize = 4;
/// Where the binaries are built, from the workspace.
const HOME: &str = "target/real-known-bugs";

/// What is to be proved, and what came of it.
#[derive(Debug, Serialize)]
pub struct Proof {
    /// The clean binary, by story.
    clean: Vec<Clean>,
    known_bugs: Vec<Row>,
}

/// How the clean binary tells a story.
#[derive(Debug, Serialize)]
struct Clean {
    story: String,
    verdict: Verdict,
    seconds: f64,
}

/// What came of a bug.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    story: String,
    expected: String,
    fired: Option<String>,
    verdict: Caught,
    seconds: f64,
}

/// A story to be told with a binary.
struct Task {
    story: Story,
    plan: Plan<LychgateWorkload>,
    binary: PathBuf,
    /// What is wrong with the binary.
    bug: Option<KnownBug>,
}

impl Proof {
    /// Builds, tells and prints: the bugs with these names, or all that are told outside.
    ///
    /// # Errors
    /// What is missing, or why a bug is not told.
    pub fn of(names: &[String], stand_ins: bool, house: &ServerRegistry) -> Result<Proof, String> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
        let told = RealKnownBugs::load();
        let bugs = told.choose(load(&root.join("scenarios/known-bugs"))?, names)?;
        if !stand_ins {
            programs::installed()?;
        }
        let mut proof = Proof { clean: Vec::new(), known_bugs: Vec::new() };
        let tasks = proof.tasks(bugs, &workshop(root)?)?;
        let reports = tell_all(&tasks, stand_ins, house);
        for (task, report) in tasks.iter().zip(reports) {
            proof.take(task, &report?);
        }
        proof.print();
        if names.is_empty() {
            told.untold.iter().for_each(|(name, why)| println!("{name} is not told outside: {why}"));
        }
        Ok(proof)
    }

    /// Whether all were caught, and the clean binary passed all of their stories.
    pub fn holds(&self) -> bool {
        self.clean.iter().all(|clean| clean.verdict == Verdict::Passed)
            && self.known_bugs.iter().all(|row| row.verdict == Caught::Caught)
    }

    /// Writes it to a file, for machines.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), String> {
        let text = serde_json::to_string(self).map_err(|error| error.to_string())?;
        std::fs::write(path, text + "\n").map_err(|error| format!("{}: {error}", path.display()))
    }

    /// Builds a binary of each bug and a clean one, and makes their tasks; the row of a stale one is written at once.
    fn tasks(&mut self, bugs: Vec<(KnownBug, Story)>, workshop: &Workshop) -> Result<Vec<Task>, String> {
        let failed = |error: std::io::Error| format!("{HOME}: {error}");
        let clean =
            workshop.clean().map_err(failed)?.map_err(|says| format!("the clean tree does not build\n{says}"))?;
        let mut tasks = Vec::new();
        for (bug, story) in bugs {
            println!("{}: {}", bug.name, bug.about);
            match workshop.put_back(&bug).map_err(failed)? {
                Ok(binary) => {
                    let (_, plan) = planned(&story)?;
                    if !tasks.iter().any(|task: &Task| task.bug.is_none() && task.story == story) {
                        let (story, plan) = (story.clone(), plan.clone());
                        tasks.push(Task { story, plan, binary: clean.clone(), bug: None });
                    }
                    tasks.push(Task { story, plan, binary, bug: Some(bug) });
                }
                Err(says) => {
                    println!("{}: {says}", Caught::Stale.styled());
                    self.known_bugs.push(Row::new(&bug, &story));
                }
            }
        }
        Ok(tasks)
    }

    /// Writes down what came of a story. A clean one is told before those with a bug.
    fn take(&mut self, task: &Task, report: &Report) {
        let (story, seconds) = (task.story.to_string(), report.wall_seconds);
        let Some(bug) = &task.bug else {
            return self.clean.push(Clean { story, verdict: report.verdict, seconds });
        };
        let (mut verdict, fired) = caught(bug, report);
        if !self.clean.iter().any(|clean| clean.story == story && clean.verdict == Verdict::Passed) {
            verdict = Caught::Missed;
        }
        self.known_bugs.push(Row { fired, verdict, seconds, ..Row::new(bug, &task.story) });
    }

    fn print(&self) {
        let seconds = |seconds: f64| format!("{seconds:.0}");
        let mut clean = Table::new(&["the clean binary in", "verdict", ">seconds"]);
        for Clean { story, verdict, seconds: took } in &self.clean {
            clean.row([story.clone(), verdict.key(), seconds(*took)]);
        }
        let mut bugs = Table::new(&["bug", "story", "expected", "fired", "verdict", ">seconds"]);
        for row in &self.known_bugs {
            let fired = row.fired.clone().unwrap_or_else(|| "-".to_owned());
            let (name, story, expected) = (row.name.clone(), row.story.clone(), row.expected.clone());
            bugs.row([name, story, expected, fired, row.verdict.styled(), seconds(row.seconds)]);
        }
        for table in [clean, bugs] {
            println!();
            table.print();
        }
    }
}

impl Row {
    /// The row of a bug whose story has not been told.
    fn new(bug: &KnownBug, story: &Story) -> Row {
        Row {
            name: bug.name.clone(),
            story: story.to_string(),
            expected: bug.expected.join(", "),
            fired: None,
            verdict: Caught::Stale,
            seconds: 0.0,
        }
    }
}

/// Where the processes are built. What `cargo build` has built has the same dependencies.
fn workshop(root: &Path) -> Result<Workshop, String> {
    let built = root.join("target/debug");
    if !built.is_dir() {
        return Err(format!("there is no {}: `cargo build` makes it", built.display()));
    }
    // All packages are chosen, so that dependencies have the features that they have been built with.
    let words = ["build", "--workspace", "--bin", "lychgate"].map(str::to_owned).into();
    let own = ["lychgate", "lychgate-sim", "lychgate-scenarios"].map(str::to_owned).into();
    let recipe = Recipe { binary: "lychgate", profile: "debug", words, own };
    Workshop::new(root, &root.join(HOME), &built, recipe).map_err(|error| format!("{HOME}: {error}"))
}

/// Tells all, some at once; the reports are in the order of the tasks.
fn tell_all(tasks: &[Task], stand_ins: bool, house: &ServerRegistry) -> Vec<Result<Report, String>> {
    let next = AtomicUsize::new(0);
    let work = || {
        let take = || tasks.iter().enumerate().nth(next.fetch_add(1, Ordering::Relaxed));
        std::iter::from_fn(take).map(|(nth, task)| (nth, task.tell_twice(stand_ins, house))).collect::<Vec<_>>()
    };
    let mut reports: Vec<Result<Report, String>> =
        tasks.iter().map(|task| Err(format!("{} was not told to its end, as is said above", task.name()))).collect();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(work)).collect();
        for (nth, report) in workers.into_iter().filter_map(|worker| worker.join().ok()).flatten() {
            reports[nth] = Ok(report);
        }
    });
    reports
}

impl Task {
    /// Once more, if slowness can explain what came of it: what goes wrong twice is not the machine.
    fn tell_twice(&self, stand_ins: bool, house: &ServerRegistry) -> Report {
        let first = self.tell(stand_ins, house);
        let slow = matches!(first.verdict, Verdict::NoProgress | Verdict::Vacuous | Verdict::Passed);
        if self.is_as_expected(&first) || !slow {
            return first;
        }
        println!("{}: told once more", self.name());
        self.tell(stand_ins, house)
    }

    fn tell(&self, stand_ins: bool, house: &ServerRegistry) -> Report {
        let tell = |elsewhere| tell(&self.story.name, &self.plan, &self.binary, elsewhere, None);
        let report = if stand_ins { tell([].into()) } else { house.tell(tell) };
        println!("{}: {} after {:.0} s", self.name(), report.fired(), report.wall_seconds);
        if !self.is_as_expected(&report) {
            print(&report);
        }
        report
    }

    fn is_as_expected(&self, report: &Report) -> bool {
        match &self.bug {
            Some(bug) => caught(bug, report).0 == Caught::Caught,
            None => report.verdict == Verdict::Passed,
        }
    }

    fn name(&self) -> String {
        let with = self.bug.as_ref().map_or("the clean binary", |bug| &bug.name);
        format!("{} with {with}", self.story)
    }
}

/// Whether what fired is what `bug` is expected to break.
fn caught(bug: &KnownBug, report: &Report) -> (Caught, Option<String>) {
    if matches!(report.verdict, Verdict::Passed | Verdict::Vacuous) {
        return (Caught::Missed, None);
    }
    let fired = report.fired();
    let verdict = if bug.expected.contains(&fired) { Caught::Caught } else { Caught::WrongInvariant };
    (verdict, Some(fired))
}
