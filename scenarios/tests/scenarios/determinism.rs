//! A seed's digest is the same alone, in a batch, in any order, on any worker; and nothing smaller than a nanosecond
//! hides in it. After a difference, `cargo sim check-determinism swarm@SEED` shows the first event that differs.

use std::collections::BTreeMap;

use libtest_mimic::Failed;

use crate::Tests;
use crate::sim::{command, edited, file, report, reported, sim};

/// So many seeds, of drawn plans with every kind of fault.
const SEEDS: &str = "1..61";

pub const TESTS: Tests = &[
    ("digests are the same in any order, on any worker, and alone", any_arrangement),
    ("a nanosecond of a delay changes the digest", a_nanosecond),
    ("a repro runs on its own seed", own_seed),
    ("two processes tell the same of a seed, step by step", in_step),
    ("a drawn plan that is printed runs as it was drawn", printed),
];

/// The digests of a sweep, by scenario and seed.
fn digests(name: &str, args: &[&str]) -> Result<BTreeMap<String, String>, Failed> {
    let path = file("determinism", name, "")?;
    let sweep = ["run", "swarm", "--seeds", SEEDS, "--keep-going", "--no-shrink", "--digests", &path];
    // Whether the runs passed is the business of other tests.
    let said = sim(sweep.iter().chain(args))?;
    let lines = std::fs::read_to_string(&path)?;
    let pairs = lines.lines().filter_map(|line| line.rsplit_once(' '));
    let digests: BTreeMap<String, String> = pairs.map(|(run, digest)| (run.to_owned(), digest.to_owned())).collect();
    match digests.len() {
        60 if digests.values().all(|digest| digest.len() == 64) => Ok(digests),
        count => Err(format!("60 digests were expected, not {count}: {lines}\n{}", said.all()).into()),
    }
}

fn any_arrangement() -> Result<(), Failed> {
    let forwards = digests("forwards", &[])?;
    for (name, args) in [("backwards", &["--backwards"] as &[_]), ("two jobs", &["--jobs", "2"])] {
        let other = digests(name, args)?;
        if let Some((run, digest)) = forwards.iter().find(|(run, digest)| other.get(*run) != Some(*digest)) {
            return Err(format!("{run}: {digest} forwards, {:?} with {name}", other.get(run)).into());
        }
    }
    for seed in [2_u64, 17, 60] {
        let mut alone = command(["one", "swarm", "--seed", &seed.to_string()]);
        // RealServer, and with more on its stack.
        alone.current_dir(env!("CARGO_TARGET_TMPDIR")).env("UNRELATED", "x".repeat(3000));
        let digest = reported(alone)?["digest"].clone();
        let batch = &forwards[&format!("swarm {seed}")];
        if digest != batch.as_str() {
            return Err(format!("swarm {seed}: {batch} in a batch, {digest} alone").into());
        }
    }
    Ok(())
}

fn a_nanosecond() -> Result<(), Failed> {
    let digest = |name: &str, by: &str| {
        let delay = format!("kind = \"delay\"\nby = \"{by}\"");
        let text = edited(include_str!("../../stories/wedged_redis.toml"), &[(r#"kind = "wedge""#, &delay)])?;
        let report = report(&file("nanosecond", &format!("{name}.toml"), &text)?, 1)?;
        match report["faults"][0]["felt"].is_number() {
            true => Ok(report["digest"].clone()),
            false => Err(Failed::from(format!("the delay was not felt: {report}"))),
        }
    };
    let exact = digest("exact", "200ms")?;
    if exact != digest("again", "200000000ns")? {
        return Err("the same delay, written otherwise, gave another digest".into());
    }
    if exact == digest("longer", "200000001ns")? {
        return Err("a delay longer by a nanosecond gave the same digest".into());
    }
    Ok(())
}

fn own_seed() -> Result<(), Failed> {
    let text = format!("{}\n[repro]\nseed = 4711\n", include_str!("../../stories/wedged_redis.toml"));
    let path = file("determinism", "own_seed.repro.toml", &text)?;
    sim(["run", &path])?.expect(0, &["own_seed, seed 4711", "1 of 1 seeds passed"])
}

fn in_step() -> Result<(), Failed> {
    for what in ["swarm@3", "wedged_redis@2", "owner_killed@1"] {
        sim(["check-determinism", what])?.expect(0, &["equal: ", " items, "])?;
    }
    Ok(())
}

fn printed() -> Result<(), Failed> {
    for seed in [1_u64, 17, 794] {
        let plan = sim(["plan", &format!("swarm@{seed}")])?;
        plan.expect(0, &[])?;
        let path = file("determinism", &format!("swarm-{seed}.toml"), &plan.out)?;
        let (drawn, read) = (report("swarm", seed)?, report(&path, seed)?);
        if drawn["digest"] != read["digest"] {
            return Err(format!("swarm@{seed}: {} as drawn, {} as printed", drawn["digest"], read["digest"]).into());
        }
    }
    Ok(())
}
