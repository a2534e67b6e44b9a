//! `conformance`: the stand-ins beside the real servers. What is compared stands in the test targets that are named
//! `conformance`, in whatever package; this runs them on both runtimes, and knows which servers they need.

use std::path::{Path, PathBuf};
use std::process::Command;

use console::style;

use super::{Outcome, Usage};

const EXAMPLES: &str = "\
Each server is started by the test that needs it, on a free port of loopback and with files of its own, and ends with it;
servers that run here already are left alone.

Examples:
  cargo sim conformance                         all of it
  cargo sim conformance redis                   what has `redis` in its name
  PROPTEST_CASES=2000 cargo sim conformance any the random part, for longer
  INSTA_UPDATE=always cargo sim conformance     write down what the real servers say, and compare with that

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

/// The programs that the tests start: each with the places beyond PATH where Debian has it, and its package.
const PROGRAMS: &[(&str, &str, &str)] = &[
    ("redis-server", "", "redis-server"),
    ("redis-cli", "", "redis-tools"),
    ("rabbitmq-server", "/usr/lib/rabbitmq/bin", "rabbitmq-server"),
    ("epmd", "", "rabbitmq-server"),
    ("initdb", "/usr/lib/postgresql", "postgresql"),
    ("postgres", "/usr/lib/postgresql", "postgresql"),
    ("psql", "", "postgresql-client"),
];

/// Runs the tests of both runtimes.
pub(super) fn conformance(args: &Args, root: &Path) -> Outcome {
    let mut missing: Vec<&str> =
        PROGRAMS.iter().filter(|(name, place, _)| !is_there(name, place)).map(|p| p.2).collect();
    missing.dedup();
    if !missing.is_empty() {
        return Err(Usage(format!("servers are missing; on Debian: apt-get install -y {}", missing.join(" "))));
    }
    // The real servers speak first: their words are what is kept.
    let arms = [("the real servers", vec!["real", "test"]), ("the stand-ins", vec!["test"])];
    for (what, line) in &arms {
        println!("{}", style(format!("{what}: building")).bold());
        if !cargo(root, line, &["--no-run"])? {
            return Ok(7);
        }
    }
    let word: Vec<&str> = args.word.as_deref().into_iter().collect();
    for (what, line) in &arms {
        println!("{}", style(what).bold());
        let mut rest = vec!["--"];
        rest.extend(line.contains(&"real").then_some("--include-ignored"));
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
    command.current_dir(root).args(line).args(["--workspace", "--locked", "--test", TARGET]).args(rest);
    let status = command.status().map_err(|error| Usage(format!("cargo does not start: {error}")))?;
    Ok(status.success())
}

/// In PATH, in `place`, or in the `bin` of a version there.
fn is_there(name: &str, place: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let versions = std::fs::read_dir(place).into_iter().flatten().flatten().map(|entry| entry.path().join("bin"));
    let places = std::env::split_paths(&path).chain([PathBuf::from(place)]).chain(versions);
    places.into_iter().any(|place| place.join(name).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_where_they_are() {
        assert!(is_there("sh", ""));
        assert!(!is_there("no-such-server", "/usr/lib/postgresql"));
    }
}
