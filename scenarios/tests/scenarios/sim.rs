//! The `sim` binary as its users have it: arguments in; exit code and words out.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use libtest_mimic::Failed;

/// What asks for other seeds than the command line does.
pub const SEEDS_ENV: [&str; 3] = ["SIM_SEED", "MADSIM_TEST_SEED", "MADSIM_TEST_NUM"];

/// What came of one call.
#[derive(Debug)]
pub struct Said {
    /// Its exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// Its standard output.
    pub out: String,
    /// Its standard error.
    pub err: String,
}

impl Said {
    /// Both outputs, as a person would see them.
    pub fn all(&self) -> String {
        format!("{}{}", self.err, self.out)
    }

    /// Whether it exited with `code` and said each of `words`.
    pub fn expect(&self, code: i32, words: &[&str]) -> Result<(), Failed> {
        let all = self.all();
        if self.code != Some(code) {
            return Err(format!("exit code {code} was expected, not {:?}, of:\n{all}", self.code).into());
        }
        match words.iter().find(|word| !all.contains(*word)) {
            Some(word) => Err(format!("`{word}` was expected in:\n{all}").into()),
            None => Ok(()),
        }
    }
}

/// The binary, in a clean environment: no seed of the caller's, no colour.
pub fn command<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sim"));
    command.args(args).stdin(Stdio::null()).current_dir(workspace()).env_remove("CLICOLOR_FORCE").env_remove("COLUMNS");
    SEEDS_ENV.iter().for_each(|name| _ = command.env_remove(name));
    command
}

/// Runs `command` to its end.
pub fn said(mut command: Command) -> Result<Said, Failed> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    Ok(Said { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) })
}

/// Runs the binary with `args`.
pub fn sim<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Result<Said, Failed> {
    said(command(args))
}

/// The report of one run of a scenario or file, alone in a process started for it.
pub fn report(what: &str, seed: u64) -> Result<serde_json::Value, Failed> {
    reported(command(["one", what, "--seed", &seed.to_string()]))
}

/// The report that a call of `one` prints.
pub fn reported(one: Command) -> Result<serde_json::Value, Failed> {
    let said = said(one)?;
    said.expect(0, &[])?;
    serde_json::from_str(&said.out).map_err(|error| format!("no report: {error}, in:\n{}", said.all()).into())
}

/// The root of the workspace, where people type `cargo sim`.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package lies in the workspace").to_path_buf()
}

/// A file with this text, in a directory that belongs to `test` alone.
pub fn file(test: &str, name: &str, text: &str) -> Result<String, Failed> {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(test);
    std::fs::create_dir_all(&dir)?;
    let path = dir.join(name);
    std::fs::write(&path, text)?;
    Ok(path.to_str().ok_or("the target directory is no UTF-8")?.to_owned())
}

/// `wedged_redis` with the first occurrence of each text on the left replaced by that on the right.
pub fn wedged_redis(edits: &[(&str, &str)]) -> Result<String, Failed> {
    edited(include_str!("../../stories/wedged_redis.toml"), edits)
}

/// `text`, edited; an edit that finds nothing fails, so that no test edits less than it means to.
pub fn edited(text: &str, edits: &[(&str, &str)]) -> Result<String, Failed> {
    edits.iter().try_fold(text.to_owned(), |text, (from, to)| match text.contains(from) {
        true => Ok(text.replacen(from, to, 1)),
        false => Err(format!("`{from}` is not in the story any more:\n{text}").into()),
    })
}
