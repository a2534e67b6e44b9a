//! Stories outside of the simulation: the plans of scenarios, against real servers or the stand-ins, with the binary's
//! processes. `scenarios/real/times.toml` says which, and how long things take where time is real.

pub mod known_bugs;
mod proof;
mod server_registry;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use lychgate_sim::plan::{Alternatives, Plan};
pub use lychgate_sim::real::RealServer;
use lychgate_sim::real::servers::{self, Server};
use lychgate_sim::real::{Options, run, time_scale};
pub use lychgate_sim::trace::verdict::{Report, Verdict};
use lychgate_sim::world::product::{Boot, Product, Source};
use lychgate_sim::world::words;
use serde::Deserialize;

pub use self::proof::Proof;
pub use self::server_registry::ServerRegistry;
use crate::real::known_bugs::Story;
use crate::users::LychgateWorkload;
use crate::{Lychgate, roles};

/// The longest story takes a quarter of it where nothing else runs.
const WALL_MAX: Duration = Duration::from_secs(300);

/// The user and the database of a real Postgres that was just made.
const POSTGRES: &str = "postgres";

/// What a story is told with outside.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RealStory {
    /// The seeds whose plans are told; the first, if nothing is said.
    #[serde(default)]
    pub seeds: Vec<usize>,
    /// Real times by the plan's.
    #[serde(default)]
    times: BTreeMap<String, String>,
    /// As `[config]` of a plan; it wins over the plan's own.
    #[serde(default)]
    config: BTreeMap<String, BTreeMap<String, String>>,
}

/// Every story that is told outside, by name.
///
/// # Panics
/// `scenarios/real/times.toml` cannot be read.
pub fn stories() -> BTreeMap<String, RealStory> {
    let text = include_str!("../real/times.toml");
    let mut stories: BTreeMap<String, RealStory> =
        toml::from_str(text).unwrap_or_else(|error| panic!("scenarios/real/times.toml: {error}"));
    let all = stories.remove("all").unwrap_or_default();
    for outside in stories.values_mut() {
        for (scope, settings) in &all.config {
            let own = outside.config.entry(scope.clone()).or_default();
            settings.iter().for_each(|(name, value)| _ = own.entry(name.clone()).or_insert_with(|| value.clone()));
        }
        if outside.seeds.is_empty() {
            outside.seeds.push(1);
        }
    }
    stories
}

/// The plan of a story in compressed time.
///
/// # Errors
/// What is wrong with it.
pub fn plan(name: &str, seed: usize, outside: &RealStory) -> Result<Plan<LychgateWorkload>, String> {
    let scenario = Lychgate::scenarios().into_iter().find(|scenario| scenario.name == name);
    let Some(Source::File { path, text }) = scenario.map(|scenario| scenario.source) else {
        return Err(format!("there is no file scenarios/stories/{name}.toml"));
    };
    let text = Alternatives::of(&path, &text).map_err(|error| error.to_string())?.text(seed.saturating_sub(1));
    // Of alternatives some are left out, and their times with them.
    let times = outside.times.iter().filter(|(was, _)| text.contains(&format!("\"{was}\"")));
    let times = times.map(|(was, is)| (was.clone(), is.clone())).collect();
    let text =
        time_scale::compressed(&text, &times).map_err(|says| format!("scenarios/real/times.toml: {name}: {says}"))?;
    let mut plan = words::parse::<Lychgate>(&path, &text).map_err(|errors| errors.to_string())?;
    for (scope, settings) in &outside.config {
        plan.config.entry(scope.clone()).or_default().extend(settings.clone());
    }
    Ok(plan)
}

/// The seed of a story, and the plan in compressed time that it draws.
///
/// # Errors
/// What is wrong with it.
pub fn planned(story: &Story) -> Result<(usize, Plan<LychgateWorkload>), String> {
    let outside = stories().remove(&story.name).unwrap_or_default();
    let seed = story.seed.or(outside.seeds.first().copied()).unwrap_or(1);
    Ok((seed, plan(&story.name, seed, &outside)?))
}

/// Real servers of one story. They end when this is dropped.
pub struct Servers {
    postgres: Server,
    redis: Server,
    rabbitmq: Server,
}

impl Servers {
    /// Starts all of them, fresh. They end with this thread, too.
    ///
    /// # Panics
    /// One is not installed, with what installs it, or does not come up.
    pub fn start() -> Servers {
        // On this thread, one after the other: a server ends with the thread that started it.
        let (postgres, redis) = (servers::postgres::start(), servers::redis::start());
        Servers { postgres, redis, rabbitmq: servers::rabbit::start() }
    }

    /// Where they are, by the service whose stand-in each replaces.
    pub fn elsewhere(&self) -> BTreeMap<&'static str, RealServer> {
        [
            ("postgres", RealServer { addr: self.postgres.addr }),
            ("redis", RealServer { addr: self.redis.addr }),
            ("rabbitmq", RealServer { addr: self.rabbitmq.addr }),
        ]
        .into()
    }
}

/// Tells a story with processes of `binary`, against these servers, and the stand-ins of all others.
pub fn tell(
    name: &str,
    plan: &Plan<LychgateWorkload>,
    binary: &Path,
    servers: BTreeMap<&'static str, RealServer>,
    trace: Option<PathBuf>,
) -> Report {
    let (binary, real) = (binary.to_owned(), servers.contains_key("postgres"));
    let command = move |boot: &Boot| {
        let mut environment = roles::environment_of(boot);
        if let Some(link) = boot.links.get("postgres").filter(|_| real) {
            environment.insert("LYCHGATE_POSTGRES".into(), format!("postgres://{POSTGRES}@{link}/{POSTGRES}"));
        }
        let mut command = Command::new(&binary);
        command.arg(boot.role).env_clear().envs(environment);
        command
    };
    run::<Lychgate>(name, plan, Options { servers, command: Box::new(command), trace, wall_max: WALL_MAX })
}

/// Prints the story of a report, and what is wrong with it.
pub fn print(report: &Report) {
    report.story.iter().for_each(|line| println!("  {line}"));
    report.because.iter().for_each(|because| println!("because: {because}"));
    if let Some(breach) = &report.breach {
        println!("broken: {}", breach.says);
    }
}
