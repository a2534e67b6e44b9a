//! The command line as typed, and what each command calls. Exit codes are those of [`Verdict`](crate::trace::verdict::Verdict); 2 is a usage
//! error, and every usage error shows what would have been right.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use super::workspace::{Built, Workspace};
use super::{conformance, crash_points, determinism, known_bugs, list, replay, run, seeds};
use crate::explore::run::Options;
use crate::trace::verdict::Verdict;
use crate::world::product::Product;

/// A run that takes longer than this in wall time is given up: a thousand times what the slowest scenario needs.
pub(super) const WALL_MAX: Duration = Duration::from_secs(120);

const EXAMPLES: &str = "\
Examples:
  {sim} | every scenario on a handful of seeds
  {sim} list events | the words that plans may use
  {sim} run wedged_redis --seeds 1..101 | one scenario on seeds 1 to 100
  {sim} run my.toml --seed 7 | a plan of your own
  {sim} replay swarm@17 | tell the story of one seed
  {sim} plan swarm@17 > my.toml | the plan that a seed draws, to edit
  {sim} check-determinism swarm@17 | the same seed in two processes, compared step by step
  {sim} crash-points pool_close | kill an executor after each event of a story
  {sim} known-bugs | put historical bugs back in and see them caught
  {sim} conformance | compare the stand-ins with real servers

Exit codes: 0 passed, 1 violated, 2 usage, 3 no progress, 4 panicked, 5 nondeterministic,
6 vacuous (passed, but proves nothing; of many drawn plans also: void, work was hardly done even where nothing
disturbed it), 7 error of the harness. Of many runs the worst counts.
Environment: SIM_SEED or MADSIM_TEST_SEED is the first seed, MADSIM_TEST_NUM the number of seeds.";

const RUN_EXAMPLES: &str = "\
Examples:
  {sim} run wedged_redis | on a handful of seeds
  {sim} run swarm --seed 17 | on one
  {sim} run swarm --seeds 1..501 | on seeds 1 to 500, as many at once as there are cores
  {sim} run swarm --seeds 1..501 --backwards --digests d.txt
 | the same in reverse; digests do not change
  {sim} run scenarios/repros/x.repro.toml | a repro, on its own seed";

const DETERMINISM_EXAMPLES: &str = "\
Both processes are started anew, with other addresses; the second one has another environment and working directory.
Where they part, the first event of each side is shown, what came before it, and the likely cause. Exit code 5 if they
part, 0 if not. One run in a hundred of every sweep is checked by its digest anyway.

Examples:
  {sim} check-determinism swarm@17
  {sim} check-determinism my.toml@7 --json found.json";

const REPLAY_EXAMPLES: &str = "\
Examples:
  {sim} replay swarm@17
  {sim} replay target/sim/findings/swarm-17.repro.toml --trace trace.jsonl";

/// Runs the product in a simulated world in which things go wrong, and judges it from outside.
#[derive(Debug, Parser)]
#[command(name = "sim", version, after_help = EXAMPLES)]
struct Line {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Lists the words: scenarios (the default), faults, events, invariants or settings.
    List {
        /// What to list.
        #[arg(value_enum, default_value_t)]
        what: list::What,
    },
    /// Runs a scenario, or a plan in a file, on one seed or many.
    #[command(after_help = RUN_EXAMPLES)]
    Run(RunArgs),
    /// Runs one seed and tells its story.
    #[command(after_help = REPLAY_EXAMPLES)]
    Replay {
        /// NAME@SEED, or the file of a plan.
        what: String,
        /// Writes every event to this file, a JSON object a line.
        #[arg(long, value_name = "FILE")]
        trace: Option<PathBuf>,
    },
    /// Prints the plan of a seed in the format of scenario files.
    Plan {
        /// NAME@SEED, or the file of a plan.
        what: String,
    },
    /// Runs one seed in two processes at once and shows where they part, if they do.
    #[command(after_help = DETERMINISM_EXAMPLES)]
    CheckDeterminism {
        /// NAME@SEED, or the file of a plan.
        what: String,
        /// Writes what came of it to this file.
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
    },
    /// Kills a process after each event of a story, one run each, and shows which of these break something.
    CrashPoints(crash_points::Args),
    /// Puts historical bugs back into a copy of the tree, one at a time, and shows that they are caught.
    KnownBugs(known_bugs::Args),
    /// Compares the stand-ins with real servers, which it starts.
    Conformance(conformance::Args),
    /// Runs one seed and prints its report as JSON: the second process of a confirmation.
    #[command(hide = true)]
    One {
        what: String,
        #[arg(long)]
        seed: u64,
    },
    /// Runs one seed and streams all that happens: each of the two processes of `check-determinism`.
    #[command(hide = true)]
    Stream {
        what: String,
        #[arg(long)]
        seed: u64,
    },
}

#[derive(Args, Debug)]
pub(super) struct RunArgs {
    /// The name of a scenario (see `list`), or the file of a plan.
    pub(super) what: String,
    /// One seed.
    #[arg(long, value_name = "N", conflicts_with = "seeds", allow_hyphen_values = true, value_parser = seeds::one)]
    pub(super) seed: Option<u64>,
    /// Many seeds; the last one is excluded.
    #[arg(long, value_name = "A..B", allow_hyphen_values = true, value_parser = seeds::range)]
    pub(super) seeds: Option<seeds::Range>,
    /// So many runs at once; as many as there are processor cores, unless said. Reports do not depend on it.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=256))]
    pub(super) jobs: Option<u64>,
    /// The last seed first. Reports do not depend on it.
    #[arg(long)]
    pub(super) backwards: bool,
    /// Runs the remaining seeds after a failure.
    #[arg(long)]
    pub(super) keep_going: bool,
    /// Fails a sweep that proves less than it seems to: a kind of fault never felt, an invariant never armed.
    #[arg(long)]
    pub(super) strict: bool,
    /// Fails a sweep in which some kind of fault was felt fewer than N times in one of the moments that matter most.
    #[arg(long, value_name = "N")]
    pub(super) felt_at_least: Option<u64>,
    /// No invariant counts: a run fails only if the product panics or comes to no end, as for a test that has no judge.
    #[arg(long, conflicts_with = "strict")]
    pub(super) naive: bool,
    /// Does not look for a smaller plan that fails the same way.
    #[arg(long)]
    pub(super) no_shrink: bool,
    /// Fails if anything was said to Redis, RabbitMQ or Postgres whose shape is no line of this file.
    #[arg(long, value_name = "FILE")]
    pub(super) covered_by: Option<PathBuf>,
    /// Goes on after a run that proves nothing.
    #[arg(long, hide = true)]
    pub(super) past_vacuous: bool,
    /// Writes what came of each run to this file.
    #[arg(long, value_name = "FILE")]
    pub(super) json: Option<PathBuf>,
    /// Writes `SCENARIO SEED DIGEST` for each run to this file, sorted.
    #[arg(long, value_name = "FILE")]
    pub(super) digests: Option<PathBuf>,
}

/// What the user asked wrongly; the whole text to print.
#[derive(Debug)]
pub(super) struct Usage(pub(super) String);

impl<E: std::error::Error> From<E> for Usage {
    fn from(error: E) -> Self {
        Usage(error.to_string())
    }
}

/// The exit code of a command that ran.
pub(super) type Outcome = Result<i32, Usage>;

/// Runs the command line of a product, whose binary was built as `built` says.
pub fn main<P: Product>(built: &Built) -> ExitCode {
    // A reader that goes away, as in `… | head`, ends us quietly.
    // SAFETY: no thread exists yet, and no handler is replaced.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    tell_of_lost_output();
    let matches = taught(Line::command().bin_name(P::command()), P::command()).get_matches();
    let line = Line::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let workspace = Workspace::find(built);
    let code = dispatch::<P>(line, &workspace).unwrap_or_else(|Usage(says)| {
        eprintln!("{} {says}", console::style("error:").for_stderr().red().bold());
        2
    });
    ExitCode::from(u8::try_from(code).unwrap_or(7))
}

fn dispatch<P: Product>(line: Line, workspace: &Workspace) -> Outcome {
    let root = &workspace.root;
    match line.command {
        None => run::everything::<P>(root),
        Some(Command::List { what }) => list::list::<P>(what),
        Some(Command::Run(args)) => run::run::<P>(&args, root),
        Some(Command::Replay { what, trace }) => replay::replay::<P>(&what, trace),
        Some(Command::Plan { what }) => replay::plan::<P>(&what),
        Some(Command::Conformance(args)) => conformance::conformance(&args, root),
        Some(Command::CrashPoints(args)) => crash_points::crash_points::<P>(&args, root),
        Some(Command::KnownBugs(args)) => known_bugs::known_bugs(&args, workspace),
        Some(Command::CheckDeterminism { what, json }) => determinism::check::<P>(&what, json.as_deref()),
        Some(Command::One { what, seed }) => replay::one::<P>(&what, seed),
        Some(Command::Stream { what, seed }) => determinism::stream::<P>(&what, seed),
    }
}

/// `command` with the line that people type, `sim`, in its examples and in those of its subcommands.
fn taught(mut command: clap::Command, sim: &str) -> clap::Command {
    if let Some(examples) = command.get_after_help().map(|text| aligned(&text.to_string(), sim)) {
        command = command.after_help(examples);
    }
    command.mut_subcommands(|subcommand| taught(subcommand, sim))
}

/// Examples as text: `{sim}` is what people type, and what follows a ` | ` stands in a column of its own.
fn aligned(examples: &str, sim: &str) -> String {
    let examples = examples.replace("{sim}", sim);
    let parts: Vec<_> = examples.lines().map(|line| line.split_once(" | ").unwrap_or((line, ""))).collect();
    let explained = parts.iter().filter(|(_, says)| !says.is_empty());
    let width = explained.map(|(typed, _)| typed.chars().count() + 3).max().unwrap_or_default();
    let lines = parts.iter().map(|(typed, says)| match says.is_empty() {
        true => (*typed).to_owned(),
        false => format!("{typed:<width$}{says}"),
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Writes a file that the user asked for.
pub(super) fn write(path: &Path, text: &str) -> Result<(), Usage> {
    std::fs::write(path, text).map_err(|error| Usage(format!("{}: {error}", path.display())))
}

/// Reads a file that the user named.
pub(super) fn read(path: &Path) -> Result<String, Usage> {
    std::fs::read_to_string(path).map_err(|error| Usage(format!("{}: {error}", path.display())))
}

/// Output that cannot be written is no panic of anybody's: the user is told, and the exit code is the harness's.
fn tell_of_lost_output() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let text = info.payload().downcast_ref::<String>().map_or("", String::as_str);
        if !text.starts_with("failed printing to ") {
            return before(info);
        }
        // Standard error may be lost as well: nothing more can be said then.
        _ = writeln!(std::io::stderr(), "error: {text}: free some space, or send the output elsewhere");
        std::process::exit(Verdict::Error.exit_code());
    }));
}

/// `strict` where a run that proves nothing must say so: for plans that somebody wrote. Of drawn plans the sweep is judged.
pub(super) fn options(strict: bool) -> Options {
    Options { wall_max: WALL_MAX, strict, ..Options::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_well_formed_and_teaches() {
        Line::command().debug_assert();
        let help = taught(Line::command(), "cargo sim").render_long_help().to_string();
        for word in ["known-bugs", "replay swarm@17", "Exit codes", "SIM_SEED"] {
            assert!(help.contains(word), "{help}");
        }
        for hidden in ["\n  one", "\n  stream"] {
            assert!(!help.contains(hidden), "the hidden command shows:\n{help}");
        }
    }

    #[test]
    fn seeds_that_are_none_are_shown_how() {
        for line in [["--seed", "ten"], ["--seeds", "5..2"], ["--seeds", "a..b"], ["--seed", "-1"]] {
            let error = Line::try_parse_from(["sim", "run", "swarm"].iter().chain(&line)).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains("as in"), "{error}");
        }
    }

    #[test]
    fn examples_name_what_people_type_and_stand_in_columns() {
        let says = aligned("Examples:\n  {sim} | all\n  {sim} run x | one\n  {sim} run x --long y\n | and so", "go");
        assert_eq!(says, "Examples:\n  go         all\n  go run x   one\n  go run x --long y\n             and so");
    }
}
