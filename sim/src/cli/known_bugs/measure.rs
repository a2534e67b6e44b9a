//! `known-bugs --measure`: how soon each bug shows. Its one law: a number is a median over ranges of seeds that share none,
//! so that no lucky seed is a result.

use std::ops::Range;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use console::style;
use serde::Serialize;

use super::{Args, KnownBug, Places, SWARM, Verdict, put_back_all};
use crate::cli::table::Table;
use crate::cli::workspace::Workspace;
use crate::cli::{Outcome, Usage, failing, read, write};
use crate::explore::known_bugs::trial::{self, Sweep};
use crate::trace::verdict;

/// So many ranges: an odd number, so that one of them is in the middle.
const RANGES: u64 = 5;
/// So many seeds of the swarm in each at most, unless said: on two cores a development build passes them in a few minutes.
const WITHIN: u64 = 2000;

/// Between these lines of the README stands the table.
const BEGIN: &str = "<!-- known-bugs: begin -->";
const END: &str = "<!-- known-bugs: end -->";
const HEAD: &str = "\
| bug | own scenario | seeds | cpu s | swarm: seeds | cpu s | naive: seeds | cpu s | measured |
|---|---|--:|--:|--:|--:|--:|--:|---|
";

/// Measures the bugs and tells of them.
pub(super) fn measure(bugs: &[KnownBug], args: &Args, workspace: &Workspace, folder: &Path) -> Outcome {
    let readme = args.write.then(|| folder.parent().unwrap_or(folder).join("README.md"));
    // What has no place is better known before the night than after it.
    if let Some(readme) = &readme {
        table_in(readme, &read(readme)?)?;
    }
    let when = format!("{}, {:.7}", today(), failing::commit(&workspace.root));
    let known: Vec<String> = super::load(folder).map_err(Usage)?.into_iter().map(|bug| bug.name).collect();
    let places = Places::of(workspace)?;
    let limits = Limits { own: args.seeds, swarm: args.within.unwrap_or(WITHIN) };
    let mut rows: Vec<Row> = Vec::new();
    let mut stale = 0;
    put_back_all(bugs, &places, |bug, built| {
        let binary = match built {
            Ok(binary) => binary,
            Err(says) => {
                println!("{}: {says}", Verdict::Stale.styled());
                stale += 1;
                return Ok(());
            }
        };
        rows.push(Row::of(bug, &binary, &limits, &places, &when)?);
        // A night that is cut short leaves what it has.
        if let Some(path) = &args.json {
            write(path, &format!("{}\n", serde_json::json!({ "measured": rows, "stale": stale })))?;
        }
        if let Some(readme) = &readme {
            write(readme, &with_rows(readme, &read(readme)?, &rows, &known)?)?;
        }
        Ok(())
    })?;
    print(&rows);
    readme.iter().for_each(|readme| println!("written into {}", failing::from_here(readme)));
    Ok(i32::from(stale > 0))
}

/// So many seeds of a range at most.
struct Limits {
    own: u64,
    swarm: u64,
}

/// What was measured of a bug.
#[derive(Clone, Debug, Serialize)]
struct Row {
    name: String,
    /// The first of its own scenarios.
    scenario: String,
    /// In its own scenarios, one after the other; none where they are but the swarm.
    own: Option<Search>,
    swarm: Search,
    /// In the swarm, if no invariant counts.
    naive: Search,
    /// The day and the commit.
    measured: String,
}

/// One way to look for a bug, in each range of seeds.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Search {
    /// So many seeds in each range at most.
    within: u64,
    tries: Vec<Try>,
    /// Until it shows, of the ranges in the middle; `None` where it does not.
    median_seeds: Option<u64>,
    median_cpu_seconds: f64,
}

/// What came of one range.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Try {
    /// How many seeds it took until the bug showed, if it did.
    seeds: Option<u64>,
    /// What fired.
    fired: Option<String>,
    /// Until it showed, its confirmation in a second process included, or until the end of the range.
    cpu_seconds: f64,
}

impl Row {
    /// Looks for the bug in all three ways.
    fn of(bug: &KnownBug, binary: &Path, limits: &Limits, places: &Places, when: &str) -> Result<Row, Usage> {
        let own: Vec<&str> = bug.scenarios.iter().map(String::as_str).filter(|scenario| *scenario != SWARM).collect();
        let search = |scenarios: &[&str], within, naive| {
            let one =
                |nth| tried(&bug.name, binary, scenarios, &(nth * within + 1..(nth + 1) * within + 1), naive, places);
            Search::of(within, one)
        };
        let row = Row {
            name: bug.name.clone(),
            scenario: bug.scenarios.first().cloned().unwrap_or_default(),
            own: if own.is_empty() { None } else { Some(search(&own, limits.own, false)?) },
            swarm: search(&[SWARM], limits.swarm, false)?,
            naive: search(&[SWARM], limits.swarm, true)?,
            measured: when.to_owned(),
        };
        let [_, _, seeds, cpu, swarm, swarm_cpu, naive, naive_cpu, _] = row.cells();
        println!(
            "its own scenario: {seeds} seeds, {cpu} s; the swarm: {swarm}, {swarm_cpu} s; naively: {naive}, {naive_cpu} s"
        );
        Ok(row)
    }

    /// As in both tables.
    fn cells(&self) -> [String; 9] {
        let nothing = || ["-".to_owned(), "-".to_owned()];
        let [seeds, cpu] = self.own.as_ref().map_or_else(nothing, Search::cells);
        let ([swarm, swarm_cpu], [naive, naive_cpu]) = (self.swarm.cells(), self.naive.cells());
        let (name, scenario, measured) = (self.name.clone(), self.scenario.clone(), self.measured.clone());
        [name, scenario, seeds, cpu, swarm, swarm_cpu, naive, naive_cpu, measured]
    }
}

impl Search {
    /// Tries one range after the other, until the median is known: it is a miss once most of them are.
    fn of(within: u64, mut one: impl FnMut(u64) -> Result<Try, Usage>) -> Result<Search, Usage> {
        let mut tries: Vec<Try> = Vec::new();
        for nth in 0..RANGES {
            tries.push(one(nth)?);
            let missed = tries.iter().filter(|tried| tried.seeds.is_none()).count() as u64;
            if missed > RANGES / 2 {
                break;
            }
        }
        // A range without it took more seeds than any.
        let mut seeds: Vec<u64> = tries.iter().map(|tried| tried.seeds.unwrap_or(u64::MAX)).collect();
        seeds.resize(RANGES as usize, u64::MAX);
        seeds.sort_unstable();
        let median_seeds = Some(seeds[seeds.len() / 2]).filter(|seeds| *seeds != u64::MAX);
        let mut cpu: Vec<f64> = tries.iter().map(|tried| tried.cpu_seconds).collect();
        cpu.sort_unstable_by(f64::total_cmp);
        Ok(Search { within, median_seeds, median_cpu_seconds: cpu[cpu.len() / 2], tries })
    }

    /// Seeds, with the ranges in which it showed if these are not all, and processor seconds.
    fn cells(&self) -> [String; 2] {
        let found = self.tries.iter().filter(|tried| tried.seeds.is_some()).count();
        let cpu = format!("{:.1}", self.median_cpu_seconds);
        match self.median_seeds {
            Some(seeds) if found as u64 == RANGES => [seeds.to_string(), cpu],
            Some(seeds) => [format!("{seeds} ({found}/{RANGES})"), cpu],
            None => [format!(">{}", self.within), format!(">{cpu}")],
        }
    }
}

/// Looks for a bug on one range of seeds in one scenario after the other. What the clean tree fails as well is no bug's.
fn tried(
    name: &str,
    binary: &Path,
    scenarios: &[&str],
    seeds: &Range<u64>,
    naive: bool,
    places: &Places,
) -> Result<Try, Usage> {
    let (mut taken, mut cpu_seconds) = (0, 0.0);
    for &scenario in scenarios {
        let swept = trial::sweep(name, binary, &Sweep { scenario, seeds: seeds.clone(), naive }, &places.workshop)?;
        taken += swept.seeds as u64;
        cpu_seconds += swept.cpu_seconds;
        if let Some(odd) = swept.odd {
            println!("{scenario} did not come to an end: {odd}");
        }
        let Some(run) = swept.failed else { continue };
        let clean = trial::again(&places.clean, scenario, run.seed, &places.workshop)?;
        let passes = clean
            .as_ref()
            .is_some_and(|run| matches!(run.verdict, verdict::Verdict::Passed | verdict::Verdict::Vacuous));
        if passes {
            return Ok(Try { seeds: Some(taken), fired: Some(run.fired()), cpu_seconds });
        }
        println!("{}: the clean tree fails {scenario}@{} as well", style("no catch").red().bold(), run.seed);
    }
    Ok(Try { seeds: None, fired: None, cpu_seconds })
}

fn print(rows: &[Row]) {
    let columns =
        ["bug", "own scenario", ">seeds", ">cpu s", ">swarm: seeds", ">cpu s", ">naive: seeds", ">cpu s", "measured"];
    let mut table = Table::new(&columns);
    rows.iter().for_each(|row| table.row(row.cells()));
    table.print();
}

/// Where the lines of the table stand in `text`.
fn table_in(readme: &Path, text: &str) -> Result<Range<usize>, Usage> {
    let begin = text.find(BEGIN).map(|at| at + BEGIN.len());
    let end = begin.and_then(|begin| Some(begin + text[begin..].find(END)?));
    begin.zip(end).map(|(begin, end)| begin..end).ok_or_else(|| {
        let says =
            format!("{}: the table has no place: write the lines `{BEGIN}` and `{END}` into it", readme.display());
        Usage(says)
    })
}

/// `text` with these rows in its table. Those of other `known` bugs stay as they are.
fn with_rows(readme: &Path, text: &str, rows: &[Row], known: &[String]) -> Result<String, Usage> {
    let place = table_in(readme, text)?;
    let line_of = |name: &str| {
        let start = format!("| `{name}` |");
        let new = rows.iter().find(|row| row.name == name).map(|row| {
            let [name, scenario, rest @ ..] = row.cells();
            format!("| `{name}` | `{scenario}` | {} |", rest.join(" | "))
        });
        new.or_else(|| text[place.clone()].lines().find(|line| line.starts_with(&start)).map(str::to_owned))
    };
    let lines: String = known.iter().filter_map(|name| line_of(name)).map(|line| line + "\n").collect();
    Ok(format!("{}\n{HEAD}{lines}{}", &text[..place.start], &text[place.end..]))
}

/// The day, as 2026-11-30, in UTC.
fn today() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    day(since.as_secs() / 86_400)
}

/// The day that is so many after the first of January 1970.
fn day(mut left: u64) -> String {
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut year = 1970;
    while left >= 365 + u64::from(leap(year)) {
        left -= 365 + u64::from(leap(year));
        year += 1;
    }
    let months = [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while left >= months[month] {
        left -= months[month];
        month += 1;
    }
    format!("{year}-{:02}-{:02}", month + 1, left + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search(seeds: &[Option<u64>]) -> Search {
        let mut cpu = 10.0;
        let one = |nth| {
            cpu -= 1.0;
            Ok(Try { seeds: seeds[usize::try_from(nth).unwrap()], fired: None, cpu_seconds: cpu })
        };
        Search::of(2000, one).unwrap()
    }

    fn row(name: &str) -> Row {
        Row {
            name: name.into(),
            scenario: "calm".into(),
            own: None,
            swarm: search(&[Some(4); 5]),
            naive: search(&[None; 5]),
            measured: "2026-11-30, 0123456".into(),
        }
    }

    #[test]
    fn the_middle_of_five_counts() {
        let told = |seeds: &[Option<u64>]| search(seeds).cells();
        assert_eq!(told(&[Some(9), Some(1), Some(30), Some(2), Some(5)]), ["5", "7.0"]);
        assert_eq!(told(&[None, Some(1), Some(30), None, Some(5)]), ["30 (3/5)", "7.0"]);
        // Three misses are most of five: nobody looks any further.
        assert_eq!(told(&[None, Some(1), None, None, Some(5)]), [">2000", ">8.0"]);
        assert_eq!(search(&[None; 5]).tries.len(), 3);
    }

    #[test]
    fn a_table_keeps_the_rows_of_others() {
        let readme = Path::new("README.md");
        let Usage(says) = with_rows(readme, "no table", &[], &[]).unwrap_err();
        assert!(says.contains("README.md") && says.contains(BEGIN), "{says}");
        let known = ["a", "b", "c"].map(str::to_owned);
        let empty = format!("before\n{BEGIN}\n{END}\nafter\n");
        let first = with_rows(readme, &empty, &[row("a"), row("c")], &known).unwrap();
        let line =
            |name: &str| format!("| `{name}` | `calm` | - | - | 4 | 7.0 | >2000 | >8.0 | 2026-11-30, 0123456 |\n");
        assert_eq!(first, format!("before\n{BEGIN}\n{HEAD}{}{}{END}\nafter\n", line("a"), line("c")));
        // What is no bug any more goes.
        let second = with_rows(readme, &first, &[row("b")], &known[..2]).unwrap();
        assert_eq!(second, format!("before\n{BEGIN}\n{HEAD}{}{}{END}\nafter\n", line("a"), line("b")));
    }

    #[test]
    fn days_are_told_as_on_a_calendar() {
        let days = [0, 58, 59, 789, 790, 19_782, 19_783, 20_787];
        let told = [
            "1970-01-01",
            "1970-02-28",
            "1970-03-01",
            "1972-02-29",
            "1972-03-01",
            "2024-02-29",
            "2024-03-01",
            "2026-11-30",
        ];
        assert_eq!(days.map(day), told);
    }
}
