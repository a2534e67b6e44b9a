//! `known-bugs`: each must fire the invariant that its header names, on seeds that the clean tree passes.

mod measure;

use std::path::{Path, PathBuf};
use std::sync::mpsc::sync_channel;

use console::style;
use serde::Serialize;

use super::workspace::Workspace;
use super::{Outcome, Usage, write};
use crate::cli::table::Table;
use crate::explore::known_bugs::trial::{self, Sweep, Swept};
use crate::explore::known_bugs::{KnownBug, Verdict, Workshop, chosen, load};

const EXAMPLES: &str = "\
Examples:
  {sim} known-bugs | all of them
  {sim} known-bugs terminal-write-lost | one
  {sim} known-bugs --swarm --json bugs.json | all, by the swarm as well, for machines
  {sim} known-bugs --measure --write | how soon each shows, kept in the table beside them
  {sim} known-bugs --measure --within 500 terminal-write-lost
 | of one, and the swarm looks no further

A binary is kept in target/known-bugs/bin, and taken again while its patch and the tree stay what they are.
Verdicts: caught (the expected invariant fired, and the clean tree passes), wrong_invariant (something else fired),
missed (nothing fired), stale (the patch no longer applies or builds). Exit code 0 if all were caught, else 1; of
--measure 0 if all could be built.";

/// `known-bugs`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Known bugs by name; without names all of them.
    names: Vec<String>,
    /// So many seeds of each scenario at most.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    seeds: u64,
    /// Lets the scenario `swarm` look for them as well.
    #[arg(long)]
    swarm: bool,
    /// So many seeds of the swarm at most.
    #[arg(long, value_name = "N", default_value_t = 2000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    swarm_seeds: u64,
    /// Measures: over five ranges of seeds, how many it takes until the bug shows in its own scenarios, in the swarm, and in
    /// the swarm if no invariant counts, only panics and runs without an end; and how much processor time.
    #[arg(long, conflicts_with_all = ["swarm", "swarm_seeds"])]
    measure: bool,
    /// So many seeds of the swarm in each range at most [default: 2000].
    #[arg(long, value_name = "N", requires = "measure", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    within: Option<u64>,
    /// Writes what was measured into the table of the README.md beside the folder of the bugs, after each bug. Lines of bugs that
    /// were not measured stay.
    #[arg(long, requires = "measure")]
    write: bool,
    /// Writes what came of each to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// The scenario that draws everything from the seed.
const SWARM: &str = "swarm";

/// Where bugs are put back, and where they are not.
#[derive(Debug)]
struct Places {
    workshop: Workshop,
    /// The binary of the clean tree.
    clean: PathBuf,
}

impl Places {
    /// Below the workspace's target directory, with the dependencies of the clean binary if cargo put it there.
    fn of(workspace: &Workspace) -> std::io::Result<Places> {
        let Workspace { root, built } = workspace;
        let clean = std::env::current_exe()?;
        let debug = match clean.parent() {
            Some(dir) if dir.ends_with("sim/debug") => dir.to_path_buf(),
            _ => root.join("target/sim/debug"),
        };
        let recipe = trial::recipe(built.package, built.binary, workspace.packages());
        Ok(Places { workshop: Workshop::new(root, &root.join("target/known-bugs"), &debug, recipe)?, clean })
    }
}

/// A line of the table.
#[derive(Clone, Debug, Serialize)]
struct Row {
    name: String,
    incident: String,
    expected: String,
    fired: Option<String>,
    verdict: Verdict,
    /// Until the first failure, by the scenarios of the bug.
    seeds: usize,
    /// Until the first failure, by the swarm, if it looked and found.
    swarm_seeds: Option<usize>,
    /// Of the runs, without the build.
    cpu_seconds: f64,
}

/// Puts the bugs back and tells which were caught.
pub(super) fn known_bugs(args: &Args, workspace: &Workspace) -> Outcome {
    let Some(folder) = workspace.built.known_bugs.map(|folder| workspace.root.join(folder)) else {
        println!("{} keeps no known bugs", workspace.built.package);
        return Ok(0);
    };
    let bugs = chosen(load(&folder).map_err(Usage)?, &args.names).map_err(Usage)?;
    if bugs.is_empty() {
        println!("{} holds no patch", folder.display());
        return Ok(0);
    }
    if let Some(path) = &args.json {
        write(path, "")?;
    }
    if args.measure {
        return measure::measure(&bugs, args, workspace, &folder);
    }
    let places = Places::of(workspace)?;
    let rows = put_back_all(&bugs, &places, |bug, built| look_for(bug, built, args, &places))?;
    print(&rows);
    if let Some(path) = &args.json {
        let text = serde_json::json!({ "known_bugs": rows });
        write(path, &format!("{text}\n"))?;
    }
    Ok(i32::from(rows.iter().any(|row| row.verdict != Verdict::Caught)))
}

/// The binary with a bug in it, or what keeps it from being built.
type Built = Result<PathBuf, String>;

/// Puts one bug after the other back, and has `each` look for it. Meanwhile the next is built.
fn put_back_all<T>(
    bugs: &[KnownBug],
    places: &Places,
    mut each: impl FnMut(&KnownBug, Built) -> Result<T, Usage>,
) -> Result<Vec<T>, Usage> {
    std::thread::scope(|scope| {
        let (ready, builds) = sync_channel::<std::io::Result<Built>>(1);
        scope.spawn(move || {
            // The other side goes away when a bug could not be put back at all: then nothing is left to be built.
            bugs.iter().all(|bug| ready.send(places.workshop.put_back(bug)).is_ok())
        });
        let mut rows = Vec::new();
        for (bug, built) in bugs.iter().zip(builds) {
            println!("{}: {}", style(&bug.name).bold(), bug.about);
            rows.push(each(bug, built?)?);
            println!();
        }
        Ok(rows)
    })
}

/// Runs what was built, until it is caught or every seed has passed.
fn look_for(bug: &KnownBug, built: Built, args: &Args, places: &Places) -> Result<Row, Usage> {
    let mut row = Row {
        name: bug.name.clone(),
        incident: bug.incident.clone(),
        expected: bug.expected.join(", "),
        fired: None,
        verdict: Verdict::Missed,
        seeds: 0,
        swarm_seeds: None,
        cpu_seconds: 0.0,
    };
    let binary = match built {
        Ok(binary) => binary,
        Err(says) => {
            println!("{}: {says}", Verdict::Stale.styled());
            return Ok(Row { verdict: Verdict::Stale, ..row });
        }
    };
    for scenario in bug.scenarios.iter().filter(|scenario| *scenario != SWARM) {
        if row.verdict != Verdict::Caught {
            let found = hunt(bug, &binary, scenario, args.seeds, places)?;
            row.seeds += found.seeds;
            row.take(found);
        }
    }
    if args.swarm || bug.scenarios.iter().any(|scenario| scenario == SWARM) {
        let found = hunt(bug, &binary, SWARM, args.swarm_seeds, places)?;
        row.swarm_seeds = (found.verdict == Verdict::Caught).then_some(found.seeds);
        row.take(found);
    }
    Ok(row)
}

impl Row {
    /// Counts what one scenario came to; of several the best counts.
    fn take(&mut self, found: Found) {
        self.cpu_seconds += found.cpu_seconds;
        if found.verdict > self.verdict || (self.fired.is_none() && found.fired.is_some()) {
            self.verdict = self.verdict.max(found.verdict);
            self.fired = found.fired;
        }
    }
}

/// What one scenario came to.
#[derive(Debug)]
struct Found {
    verdict: Verdict,
    fired: Option<String>,
    seeds: usize,
    cpu_seconds: f64,
}

/// Lets one scenario look for `bug`, tells what it found, and checks that it is found again and only there.
fn hunt(bug: &KnownBug, binary: &Path, scenario: &str, seeds: u64, places: &Places) -> Result<Found, Usage> {
    let swept = Sweep { scenario, seeds: 1..seeds + 1, naive: false };
    let Swept { seeds, failed, report, odd, cpu_seconds } = trial::sweep(&bug.name, binary, &swept, &places.workshop)?;
    let missed = |fired| Found { verdict: Verdict::Missed, fired, seeds, cpu_seconds };
    if let Some(odd) = odd {
        println!("{}: {scenario} did not come to an end: {odd}", Verdict::Missed.styled());
        return Ok(missed(None));
    }
    let Some(run) = failed else {
        println!("{}: {scenario} passed on {seeds} seeds", Verdict::Missed.styled());
        return Ok(missed(None));
    };
    report.iter().for_each(|line| println!("{line}"));
    let shown = binary.strip_prefix(std::env::current_dir()?).unwrap_or(binary).display();
    println!("replay it: {shown} replay {scenario}@{}", run.seed);
    let fired = run.fired();
    let again = trial::again(binary, scenario, run.seed, &places.workshop)?;
    if again.is_none_or(|again| again.digest != run.digest) {
        println!("{}: replayed, its digest is another", style("nondeterministic").red().bold());
        let fired = Some("nondeterministic".to_owned());
        return Ok(Found { verdict: Verdict::WrongInvariant, fired, seeds, cpu_seconds });
    }
    println!("replayed in another process: the same digest {}", run.digest);
    let swept = Sweep { seeds: 1..run.seed + 1, ..swept };
    let clean = trial::sweep("the clean tree", &places.clean, &swept, &places.workshop)?;
    if let Some(error) = clean.odd.or_else(|| clean.failed.map(|run| format!("{} on seed {}", run.fired(), run.seed))) {
        println!("{}: the clean tree fails there as well: {error}", Verdict::Missed.styled());
        return Ok(missed(Some(fired)));
    }
    println!("the clean tree passes {scenario} on seeds 1 to {}", run.seed);
    let verdict = if bug.expected.contains(&fired) { Verdict::Caught } else { Verdict::WrongInvariant };
    Ok(Found { verdict, fired: Some(fired), seeds, cpu_seconds })
}

fn print(rows: &[Row]) {
    let columns = ["bug", "incident", "expected", "fired", "verdict", ">seeds", ">by swarm", ">cpu seconds"];
    let mut table = Table::new(&columns);
    for row in rows {
        table.row([
            row.name.clone(),
            row.incident.clone(),
            row.expected.clone(),
            row.fired.clone().unwrap_or_else(|| "-".to_owned()),
            row.verdict.styled(),
            row.seeds.to_string(),
            row.swarm_seeds.map_or_else(|| "-".to_owned(), |seeds| seeds.to_string()),
            format!("{:.1}", row.cpu_seconds),
        ]);
    }
    table.print();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> Row {
        Row {
            name: "x".into(),
            incident: "000".into(),
            expected: "no_zombies".into(),
            fired: None,
            verdict: Verdict::Missed,
            seeds: 3,
            swarm_seeds: None,
            cpu_seconds: 0.5,
        }
    }

    #[test]
    fn json_has_the_shape_that_machines_know() {
        let json = serde_json::to_value(Row { verdict: Verdict::WrongInvariant, ..row() }).unwrap();
        assert_eq!(
            json.to_string(),
            r#"{"cpu_seconds":0.5,"expected":"no_zombies","fired":null,"incident":"000","name":"x","seeds":3,"swarm_seeds":null,"verdict":"wrong_invariant"}"#
        );
    }

    #[test]
    fn the_best_of_several_scenarios_counts() {
        let mut row = row();
        let found = |verdict, fired: Option<&str>| Found {
            verdict,
            fired: fired.map(str::to_owned),
            seeds: 1,
            cpu_seconds: 0.1,
        };
        row.take(found(Verdict::WrongInvariant, Some("terminal_once")));
        row.take(found(Verdict::Missed, None));
        assert_eq!((row.verdict, row.fired.as_deref()), (Verdict::WrongInvariant, Some("terminal_once")));
        row.take(found(Verdict::Caught, Some("no_zombies")));
        assert_eq!((row.verdict, row.fired.as_deref()), (Verdict::Caught, Some("no_zombies")));
    }
}
