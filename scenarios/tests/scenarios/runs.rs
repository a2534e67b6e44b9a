//! A test per scenario and a test per repro. `cargo test swarm` runs one; `SIM_SEED=17 cargo test swarm` runs one seed of
//! it, `PROPTEST_CASES=500 cargo test swarm` seeds 1 to 500. What a failing test says is what `cargo sim` says.

use std::path::Path;
use std::thread::available_parallelism;

use libtest_mimic::{Failed, Trial};
use lychgate_scenarios::Lychgate;
use lychgate_scenarios::users::LychgateWorkload;
use lychgate_sim::plan::Alternatives;
use lychgate_sim::world::product::{Product, Source};

use crate::sim::{SEEDS_ENV, command, file, said, workspace};

/// So many seeds show whether timing matters to a story.
const STORY_SEEDS: u64 = 5;

/// Stories that go on for days: one seed each.
const LONG: [&str; 1] = ["long_uptime"];

/// So many drawn plans fit into a few seconds on one core.
const DRAWN_SEEDS: u64 = 40;

/// Every scenario, every repro, and that there is no file which no test runs.
pub fn trials() -> Vec<Trial> {
    let mut trials: Vec<Trial> = Lychgate::scenarios()
        .into_iter()
        .map(|scenario| Trial::test(scenario.name.clone(), move || run(&scenario.name, &scenario.source)))
        .collect();
    let repros = files("scenarios/repros", ".repro.toml");
    trials.extend(repros.into_iter().map(|path| Trial::test(format!("repro {path}"), move || repro(&path))));
    trials.push(Trial::test("a wedge costs one connection", a_wedge_costs_one_connection));
    trials.push(Trial::test("every file in scenarios/ is a scenario", every_file_is_a_scenario));
    trials
}

fn run(name: &str, source: &Source<LychgateWorkload>) -> Result<(), Failed> {
    let (drawn, least) = match source {
        Source::Drawn { .. } => (true, DRAWN_SEEDS),
        Source::File { .. } if LONG.contains(&name) => (false, 1),
        // Every alternative that the file offers.
        Source::File { path, text } => (false, STORY_SEEDS.max(Alternatives::of(path, text)?.count() as u64)),
    };
    let jobs = available_parallelism().map_or(1, usize::from).to_string();
    // What the stand-ins are asked, and no real server beside them, is a promise that nobody has checked.
    let covered = workspace().join("snapshots/conformance_shapes.snap").display().to_string();
    let mut command = command(["run", name, "--jobs", &jobs, "--covered-by", &covered]);
    let set = |name: &str| std::env::var_os(name);
    let cases = match set("PROPTEST_CASES").filter(|_| drawn) {
        Some(text) => {
            Some(text.to_str().and_then(|text| text.parse().ok()).filter(|cases| *cases > 0).ok_or_else(|| {
                format!("PROPTEST_CASES={} is no number of seeds; as in `PROPTEST_CASES=500`", text.to_string_lossy())
            })?)
        }
        None => None,
    };
    if SEEDS_ENV.iter().all(|name| set(name).is_none()) {
        let count: u64 = cases.unwrap_or(least);
        command.args(["--seeds", &format!("1..={count}")]);
    } else {
        if let Some(cases) = cases {
            command.env("MADSIM_TEST_NUM", cases.to_string());
        }
        SEEDS_ENV.iter().filter_map(|name| Some((name, set(name)?))).for_each(|(name, value)| {
            command.env(name, value);
        });
    }
    let said = said(command)?;
    if said.code == Some(0) { Ok(()) } else { Err(said.all().into()) }
}

/// On its own seed, and with the outcome that it names: `passed` once its bug is gone for good.
fn repro(path: &str) -> Result<(), Failed> {
    let said = said(command(["run", path]))?;
    if said.code == Some(0) { Ok(()) } else { Err(said.all().into()) }
}

/// The safety net saves each of three runs, and each wedge costs the executor one connection to Redis more.
fn a_wedge_costs_one_connection() -> Result<(), Failed> {
    let trace = file("a_wedge_costs_one_connection", "trace.jsonl", "")?;
    let count = |scenario: &str, words: &[&str]| {
        said(command(["replay", scenario, "--trace", &trace]))?.expect(0, &[])?;
        let lines = std::fs::read_to_string(&trace)?;
        Ok::<_, Failed>(lines.lines().filter(|line| words.iter().all(|word| line.contains(word))).count())
    };
    let opened = ["link_opened", "executor-1->redis"];
    let calm = count("calm@1", &opened)?;
    for seed in 1..=STORY_SEEDS {
        let scenario = format!("wedged_redis_thrice@{seed}");
        let (saved, lines) = (count(&scenario, &["\"saved\""])?, count(&scenario, &opened)?);
        if saved != 3 || lines > calm + 3 {
            return Err(format!("{scenario}: {saved} runs saved, {lines} connections; calm has {calm}").into());
        }
    }
    Ok(())
}

fn every_file_is_a_scenario() -> Result<(), Failed> {
    let known: Vec<String> = Lychgate::scenarios()
        .into_iter()
        .filter_map(|scenario| match scenario.source {
            Source::File { path, .. } => Some(path),
            Source::Drawn { .. } => None,
        })
        .collect();
    let files = files("scenarios/stories", ".toml");
    let strange = files.iter().find(|path| !known.contains(path) && !path.ends_with("Cargo.toml"));
    match strange {
        Some(path) => Err(format!("{path} is in nobody's list: add it to `scenarios` in scenarios/src/lib.rs").into()),
        None => Ok(()),
    }
}

/// The files in a directory of the workspace whose names end so, as paths from the workspace, sorted.
fn files(dir: &str, end: &str) -> Vec<String> {
    let entries = std::fs::read_dir(workspace().join(dir)).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut paths: Vec<String> =
        names.filter(|name| name.ends_with(end)).map(|name| Path::new(dir).join(name).display().to_string()).collect();
    paths.sort();
    paths
}
