//! Whoever types something wrong is told what is wrong, where, and what would have been right, with exit code 2.

use libtest_mimic::Failed;

use crate::Tests;
use crate::sim::{command, file, said, sim, wedged_redis};

pub const TESTS: Tests = &[
    ("bad input: an unknown scenario", unknown_scenario),
    ("bad input: a file that is not there", no_file),
    ("bad input: an unknown key", unknown_key),
    ("bad input: an unknown key of a user", unknown_key_of_user),
    ("bad input: a wrong unit", wrong_unit),
    ("bad input: an event that no code emits", unknown_event),
    ("bad input: a link that is not there", unknown_link),
    ("bad input: a seed that is no number", no_seed),
    ("bad input: a truncated plan", truncated),
    ("bad input: everything wrong is said at once", all_at_once),
    ("bad input: an unknown flag", unknown_flag),
    ("bad input: a bug that nobody knows, and what does not go together", unknown_bug),
    ("bad input: files that cannot be written or read", unusable_files),
    ("bad input: output that goes nowhere", full_disk),
    ("bad input: no command takes it for a verdict on the product", never_a_verdict),
];

/// What is said of an edited `wedged_redis` begins with its path, line and column.
fn refused(test: &str, edits: &[(&str, &str)], place: &str, words: &[&str]) -> Result<(), Failed> {
    let file = file("bad_input", &format!("{test}.toml"), &wedged_redis(edits)?)?;
    let place = format!("error: {file}:{place}: ");
    sim(["run", &file])?.expect(2, &[&[place.as_str()], words].concat())
}

fn unknown_scenario() -> Result<(), Failed> {
    let words = ["unknown scenario `wedged_reddis`: did you mean `wedged_redis`?", "`cargo sim list` shows all"];
    sim(["run", "wedged_reddis"])?.expect(2, &words)?;
    sim(["replay", "swamr@3"])?.expect(2, &["did you mean `swarm`?"])
}

fn no_file() -> Result<(), Failed> {
    sim(["run", "scenarios/none.toml"])?.expect(2, &["scenarios/none.toml: No such file"])
}

fn unknown_key() -> Result<(), Failed> {
    let words = ["unknown key in a fault `untl`", "did you mean `until`?", "\n    untl = "];
    refused("unknown_key", &[("until =", "untl =")], "20:1", &words)?;
    // One that is needed is missed first, where its table begins.
    let words = ["a fault needs `target`", "unknown key in a fault `targett`", "did you mean `target`?"];
    refused("needed_key", &[("target =", "targett =")], "16:1", &words)
}

fn unknown_key_of_user() -> Result<(), Failed> {
    refused("unknown_key_of_user", &[("takes =", "taks =")], "14:1", &["unknown field `taks`", "did you mean `takes`?"])
}

fn wrong_unit() -> Result<(), Failed> {
    let words = ["`parsecs` is no unit of time; the units are ns us ms s m h d"];
    refused("wrong_unit", &[(r#"after = "10s""#, r#"after = "10 parsecs""#)], "19:53", &words)?;
    refused("no_unit", &[(r#"takes = "30s""#, r#"takes = "30""#)], "14:9", &["`30` has no unit after `30`"])
}

fn unknown_event() -> Result<(), Failed> {
    let words = ["unknown event `caled`; did you mean `called`?"];
    refused("unknown_event", &[(r#"event = "called""#, r#"event = "caled""#)], "19:16", &words)?;
    let words = ["unknown event `unshow`; did you mean `unshown`?"];
    refused("unreachable_event", &[(r#""unshown""#, r#""unshow""#)], "3:40", &words)
}

fn unknown_link() -> Result<(), Failed> {
    let words = ["unknown link for `wedge` `executor-2->redis`", "did you mean `executor-1->redis`?"];
    refused("unknown_link", &[("executor-1->redis", "executor-2->redis")], "18:10", &words)
}

fn no_seed() -> Result<(), Failed> {
    sim(["run", "calm", "--seed", "ten"])?.expect(2, &["`ten` is no seed", "as in `--seed 17`"])?;
    sim(["run", "calm", "--seeds", "5..5"])?.expect(2, &["`5..5` holds no seed", "as in `--seeds 1..101`"])?;
    sim(["replay", "calm@ten"])?.expect(2, &["`ten` is no seed", "as in `swarm@17`"])?;
    for name in crate::sim::SEEDS_ENV {
        let mut command = command(["run", "calm"]);
        command.env(name, "ten");
        said(command)?.expect(2, &[&format!("{name}=`ten` is no whole number from 0; as in `{name}=17`")])?;
    }
    Ok(())
}

/// Wherever it was cut, it is refused or, where the rest stands for itself, passed on as less: never taken for whole.
fn truncated() -> Result<(), Failed> {
    let whole = wedged_redis(&[])?;
    let cut = whole.find(" = \"30s\"").ok_or("the story has no 30s any more")? + 4;
    let path = file("bad_input", "truncated.toml", &whole[..cut])?;
    sim(["run", &path])?.expect(2, &[&format!("error: {path}:14:"), "(the file ends here)"])?;
    let step = 23;
    for cut in (0..whole.trim_end().len()).step_by(step) {
        let path = file("bad_input", &format!("truncated_at_{cut}.toml"), &whole[..cut])?;
        let said = sim(["run", &path, "--seed", "1"])?;
        match said.code {
            Some(2) if said.err.starts_with(&format!("error: {path}:")) => {}
            Some(6) => {}
            code => return Err(format!("cut at {cut}: {code:?}, of:\n{}", said.all()).into()),
        }
    }
    Ok(())
}

fn all_at_once() -> Result<(), Failed> {
    let edits = [("takes =", "taks ="), (r#""no_zombies""#, r#""no_zombie""#), ("kind =", "kid =")];
    refused(
        "all_at_once",
        &edits,
        "2:9",
        &["did you mean `no_zombies`?", "did you mean `takes`?", "did you mean `kind`?"],
    )
}

fn unknown_flag() -> Result<(), Failed> {
    sim(["run", "calm", "--sed", "4"])?.expect(2, &["unexpected argument '--sed'", "'--seed'"])?;
    sim(["runn", "calm"])?.expect(2, &["unrecognized subcommand 'runn'", "'run'"])
}

fn unknown_bug() -> Result<(), Failed> {
    let words = ["unknown bug `terminal-write-last`", "did you mean `terminal-write-lost`?"];
    sim(["known-bugs", "terminal-write-last"])?.expect(2, &words)?;
    sim(["known-bugs", "--measure", "terminal-write-last"])?.expect(2, &words)?;
    sim(["known-bugs", "--within", "5", "terminal-write-lost"])?.expect(2, &["--measure"])?;
    sim(["known-bugs", "--measure", "--within", "0"])?.expect(2, &["1..=1000000"])?;
    sim(["known-bugs", "--measure", "--swarm"])?.expect(2, &["cannot be used with '--swarm'"])?;
    sim(["run", "swarm", "--naive", "--strict"])?.expect(2, &["cannot be used with '--strict'"])
}

fn unusable_files() -> Result<(), Failed> {
    let nowhere = "target/no/such/folder/file";
    let no_file = [&format!("error: {nowhere}: No such file")[..]];
    sim(["run", "calm", "--seed", "1", "--json", nowhere])?.expect(2, &no_file)?;
    sim(["run", "calm", "--seed", "1", "--digests", nowhere])?.expect(2, &no_file)?;
    sim(["run", "calm", "--seed", "1", "--covered-by", nowhere])?.expect(2, &no_file)?;
    sim(["replay", "calm@1", "--trace", nowhere])?.expect(2, &no_file)?;
    sim(["check-determinism", "calm@1", "--json", nowhere])?.expect(2, &no_file)
}

fn full_disk() -> Result<(), Failed> {
    let mut full = command(["list"]);
    full.stdout(std::fs::OpenOptions::new().write(true).open("/dev/full")?);
    full.stderr(std::process::Stdio::piped());
    let output = full.spawn()?.wait_with_output()?;
    let says = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.code() != Some(7) || !says.contains("send the output elsewhere") || says.contains("panicked") {
        return Err(format!("{:?} of:\n{says}", output.status.code()).into());
    }
    Ok(())
}

/// Each command with something that it cannot use: a usage error or the harness's own, whatever the command.
fn never_a_verdict() -> Result<(), Failed> {
    let garbage = file("bad_input", "garbage.toml", "\u{1}[[[")?;
    let empty = file("bad_input", "empty.toml", "")?;
    let other = file("bad_input", "other.toml", "[package]\nname = \"a manifest\"\n")?;
    let whats = ["nosuch", "nosuch@1", "swarm@", "swarm@-1", "/", "none.toml", &garbage, &empty, &other];
    for command in ["run", "replay", "plan", "check-determinism", "one", "stream"] {
        for what in whats {
            let words: &[&str] = match command {
                "one" | "stream" => &[command, what, "--seed", "1"],
                _ => &[command, what],
            };
            refuses(words)?;
        }
    }
    for words in
        [&["known-bugs", "nosuch"][..], &["list", "nosuch"], &["nosuch"], &["run"], &["run", "calm", "--jobs", "0"]]
    {
        refuses(words)?;
    }
    Ok(())
}

fn refuses(words: &[&str]) -> Result<(), Failed> {
    let said = sim(words)?;
    match said.code {
        Some(2) if said.err.starts_with("error: ") => Ok(()),
        code => Err(format!("{words:?} gives {code:?}, of:\n{}", said.all()).into()),
    }
}
