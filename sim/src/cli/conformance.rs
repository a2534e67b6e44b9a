//! `conformance`: the stand-ins beside the real servers. What is compared stands in the test targets that are named
//! `conformance`, in whatever package; this runs them on both runtimes, and knows which servers they need.

use std::path::Path;
use std::process::Command;

use console::style;

use super::{Outcome, Usage};
use crate::explore::simulated::SIMULATED;
use crate::real::programs;

const EXAMPLES: &str = "\
Each server is started by the test that needs it, on a free port of loopback and with files of its own, and ends with it;
servers that run here already are left alone.

Examples:
  {sim} conformance | all of it
  {sim} conformance redis | what has `redis` in its name
  PROPTEST_CASES=2000 {sim} conformance any | the random part, for longer
  INSTA_UPDATE=always {sim} conformance | write down what the real servers say, and compare with that

Exit codes: 0 alike, 1 they differ, 2 usage or a server that is missing, 7 it does not build.";

/// `conformance`.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Only tests with this word in their name.
    word: Option<String>,
}

/// The test targets' name.
const TARGET: &str = "conformance";

/// Runs the tests of both runtimes.
pub(super) fn conformance(args: &Args, root: &Path) -> Outcome {
    programs::installed().map_err(Usage)?;
    // The real servers speak first: their words are what is kept.
    // Each runtime has a target directory of its own.
    let simulated = [&SIMULATED[..], &["--config", "build.target-dir='target/sim'", "test"]].concat();
    let arms = [("the real servers", &["test"][..]), ("the stand-ins", &simulated)];
    for (what, line) in arms {
        println!("{}", style(format!("{what}: building")).bold());
        if !cargo(root, line, &["--no-run"])? {
            return Ok(7);
        }
    }
    let word: Vec<&str> = args.word.as_deref().into_iter().collect();
    for (what, line) in arms {
        println!("{}", style(what).bold());
        let mut rest = vec!["--"];
        rest.extend((line == ["test"]).then_some("--include-ignored"));
        rest.extend(&word);
        if !cargo(root, line, &rest)? {
            println!(
                "{}: what differs is shown above; a stand-in follows the real server",
                style("differ").red().bold()
            );
            return Ok(1);
        }
    }
    println!("{}", style("alike").green().bold());
    Ok(0)
}

fn cargo(root: &Path, line: &[&str], rest: &[&str]) -> Result<bool, Usage> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root).args(line).args(["--locked", "--test", TARGET]).args(rest);
    let status = command.status().map_err(|error| Usage(format!("cargo does not start: {error}")))?;
    Ok(status.success())
}
