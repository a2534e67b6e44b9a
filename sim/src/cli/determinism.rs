//! `check-determinism`: one seed in two processes, compared while they run. Each is started anew, with addresses, an
//! environment and a working directory of its own; what follows from any of them shows here and nowhere else.
//!
//! Both stream their [items](crate::trace::step) and are read in step; a pipe that is full makes the faster one wait. So nothing
//! grows with the length of a run, and neither goes on for long after the first difference.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::os::fd::FromRawFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};

use console::style;

use super::choose::choose;
use super::replay::chosen;
use super::{Outcome, WALL_MAX, options, write};
use crate::cli::report;
use crate::cli::table::cut;
use crate::explore::divergence::{AFTER, BEFORE, Divergence, Surroundings};
use crate::explore::run::{Options, run_here};
use crate::plan::seed::Seed;
use crate::trace::step::{Line, Step, Steps};
use crate::trace::verdict::{Report, Verdict};
use crate::world::product::Product;

/// So many lines of each side wait to be compared, beside what the pipe holds.
const LINES_WAITING: usize = 64;

/// What is added to the environment of the second process: it moves the stack by as much.
const BALLAST: usize = 40 << 10;

/// A printed item is cut to this.
const ITEM_CHARS: usize = 200;

/// One of the two processes.
struct Process {
    child: Child,
    lines: Receiver<io::Result<Line>>,
    around: Surroundings,
}

/// What came of the comparison.
enum Compared {
    /// Not one difference: how many items there were, and what came of both.
    Equal(u64, Box<Report>),
    Different(Box<Divergence>),
}

/// `check-determinism NAME@SEED`.
pub(super) fn check<P: Product>(what: &str, json: Option<&Path>) -> Outcome {
    let (chosen, seed) = chosen::<P>(what)?;
    if let Some(path) = json {
        write(path, "")?;
    }
    // The second process stands elsewhere: a file is named so that it finds it from there.
    let handle = match std::fs::canonicalize(&chosen.handle) {
        Ok(path) if chosen.handle.contains(['/', '.']) => path.display().to_string(),
        _ => chosen.handle.clone(),
    };
    println!("{}, seed {seed}, in two processes", style(&chosen.name).bold());
    let here = std::env::current_dir()?;
    let mut first = Process::begin(&handle, seed, here, 0)?;
    let mut second = Process::begin(&handle, seed, std::env::temp_dir(), BALLAST)?;
    let compared = in_step(&first, &second);
    let around = [first.around.clone(), second.around.clone()];
    first.end();
    second.end();
    let (said, verdict) = match compared {
        Ok(Compared::Equal(items, report)) => {
            println!(
                "{}: {items} items, {} events, digest {}",
                style("equal").green().bold(),
                report.events,
                report.digest
            );
            println!("both {}", report::word(report.verdict));
            let equal =
                serde_json::json!({ "equal": true, "digest": report.digest, "items": items, "events": report.events });
            (equal, Verdict::Passed)
        }
        Ok(Compared::Different(divergence)) => {
            tell(&divergence, &around, &format!("{}, seed {seed}", chosen.name));
            let cause = divergence.cause(&around);
            (serde_json::json!({ "equal": false, "divergence": divergence, "cause": cause }), Verdict::Nondeterministic)
        }
        Err(error) => {
            println!("{}: {error}", style("error").red().bold());
            (serde_json::json!({ "equal": null, "error": error }), Verdict::Error)
        }
    };
    if let Some(path) = json {
        let mut said = said;
        said["scenario"] = chosen.name.as_str().into();
        said["seed"] = seed.into();
        write(path, &format!("{said}\n"))?;
    }
    Ok(verdict.exit_code())
}

/// The hidden side of it: runs one seed and streams what happens to standard output.
pub(super) fn stream<P: Product>(what: &str, seed: u64) -> Outcome {
    let chosen = choose::<P>(what)?;
    let out = Arc::new(only_for_items()?);
    let options = Options { items: Some(out.clone()), ..options(!chosen.drawn()) };
    let report = run_here::<P>(&chosen.name, &chosen.plan(seed), Seed(seed), &options);
    let mut items = Steps::new(out);
    items.write(&Line::End(Box::new(report)))?;
    items.flush()?;
    Ok(0)
}

/// Standard output as it was. What the product prints goes to standard error from here on, and spoils no line.
fn only_for_items() -> io::Result<File> {
    // SAFETY: both are calls on descriptors that every process has; what dup gives is open, and nobody else owns it.
    unsafe {
        let out = libc::dup(1);
        if out == -1 || libc::dup2(2, 1) == -1 {
            return Err(io::Error::last_os_error());
        }
        Ok(File::from_raw_fd(out))
    }
}

impl Process {
    fn begin(handle: &str, seed: u64, dir: PathBuf, ballast: usize) -> io::Result<Process> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["stream", handle, "--seed", &seed.to_string()])
            .current_dir(&dir)
            .env("SIM_BALLAST", "x".repeat(ballast))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let around = Surroundings { pid: child.id(), dir };
        let (tell, lines) = sync_channel(LINES_WAITING);
        let out = child.stdout.take().ok_or_else(|| io::Error::other("a child without output"))?;
        // This process forks nothing, so it may have threads.
        std::thread::spawn(move || {
            for line in lines_of(out) {
                // Nobody listens any more once a difference was found.
                if tell.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Process { child, lines, around })
    }

    /// The next line; `None` if it ended without a word.
    fn next(&self) -> Result<Option<Line>, String> {
        match self.lines.recv_timeout(WALL_MAX) {
            Ok(Ok(line)) => Ok(Some(line)),
            Ok(Err(error)) => Err(format!("process {} cannot be understood: {error}", self.around.pid)),
            Err(RecvTimeoutError::Disconnected) => Ok(None),
            Err(RecvTimeoutError::Timeout) => {
                Err(format!("process {} has said nothing for {} s", self.around.pid, WALL_MAX.as_secs()))
            }
        }
    }

    /// `item`, and some of those that follow.
    fn rest(&self, item: Option<Step>) -> Vec<Step> {
        let mut items: Vec<Step> = item.into_iter().collect();
        while !items.is_empty() && items.len() < AFTER {
            match self.next() {
                Ok(Some(Line::Step(item))) => items.push(item),
                _ => break,
            }
        }
        items
    }

    fn end(&mut self) {
        // It may have ended by itself: then there is nothing to kill, and it is only waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lines_of(out: ChildStdout) -> impl Iterator<Item = io::Result<Line>> {
    BufReader::with_capacity(1 << 16, out).lines().map(|line| serde_json::from_str(&line?).map_err(io::Error::other))
}

/// Reads both until they differ or have ended.
fn in_step(first: &Process, second: &Process) -> Result<Compared, String> {
    let mut before: Vec<Step> = Vec::new();
    let mut count = 0;
    loop {
        let item = |line| match line {
            Some(Line::Step(item)) => Some(item),
            _ => None,
        };
        match (first.next()?, second.next()?) {
            (Some(Line::Step(one)), Some(Line::Step(other))) if one.digest == other.digest => {
                count += 1;
                if before.len() == BEFORE {
                    before.remove(0);
                }
                before.push(one);
            }
            (Some(Line::End(one)), Some(Line::End(other))) => return ended(count, *one, &other),
            (None, None) => {
                return Err(format!(
                    "both processes died after {count} items; `one` in place of `check-determinism` shows how"
                ));
            }
            (one, other) => {
                let sides = [first.rest(item(one)), second.rest(item(other))];
                return Ok(Compared::Different(Box::new(Divergence { item: count + 1, before, sides })));
            }
        }
    }
}

/// Both have told the same to the end: they must also have come to the same.
fn ended(count: u64, one: Report, other: &Report) -> Result<Compared, String> {
    if one.verdict == Verdict::Error || (one.verdict, &one.digest) != (other.verdict, &other.digest) {
        let words =
            [&one, other].map(|report| format!("{} ({})", report::word(report.verdict), report.because.join("; ")));
        return Err(format!("{count} items are the same; then the first ends {}, the second {}", words[0], words[1]));
    }
    Ok(Compared::Equal(count, Box::new(one)))
}

fn tell(divergence: &Divergence, around: &[Surroundings; 2], run: &str) {
    let headline = format!("nondeterministic: {run}, item {} differs", divergence.item);
    println!("{}", style(headline).red().bold());
    if !divergence.before.is_empty() {
        println!("the same in both until then:");
        divergence.before.iter().for_each(|item| println!("  {}", told(item, 0)));
    }
    let skip = divergence.equal_chars().saturating_sub(ITEM_CHARS / 2);
    for (side, name) in divergence.sides.iter().zip(["first", "second"]) {
        match side.first() {
            Some(item) => println!("the {name} process goes on:\n  {}", told(item, skip)),
            None => println!("the {name} process has ended"),
        }
    }
    println!("likely cause: {}", divergence.cause(around).says());
}

/// One line for `item`, without the first `skip` characters of what it was.
fn told(item: &Step, skip: usize) -> String {
    let place = if item.place.is_empty() { "the world" } else { &item.place };
    let what: String = item.what.chars().skip(skip).collect();
    let what = if skip > 0 { format!("…{what}") } else { what };
    format!("{:.9}s  {place}  {}", item.at.as_secs_f64(), cut(&what, ITEM_CHARS))
}
