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
];

/// What is said of an edited `wedged_redis` begins with its path, line and column.
fn refused(test: &str, edits: &[(&str, &str)], place: &str, words: &[&str]) -> Result<(), Failed> {
    let file = file("bad_input", &format!("{test}.toml"), &wedged_redis(edits)?)?;
    let place = format!("error: {file}:{place}: ");
    sim(["run", &file])?.expect(2, &[&[place.as_str()], words].concat())
}

fn unknown_scenario() -> Result<(), Failed> {
    let words = ["unknown scenario `wedged_reddis`", "`calm`", "did you mean `wedged_redis`?"];
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
