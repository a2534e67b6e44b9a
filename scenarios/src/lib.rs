//! Where the product and the simulated world meet. Start at [`Lychgate`]: it says how each role boots ([`roles`]), what
//! users do ([`users`]), how to read what happened ([`reader`] makes [`events`]), and what must hold ([`invariants`]).
//! Stories are the `*.toml` files in `stories/`, each a scenario of its own by being there; [`swarm`] draws its own.

pub mod agents;
pub mod answers;
pub mod dev;
pub mod events;
pub mod fault_admin;
pub mod invariants;
pub mod moments;
pub mod names;
pub mod reader;
#[cfg(not(madsim))]
pub mod real;
pub mod roles;
pub mod settings;
pub mod swarm;
pub mod told;
pub mod users;

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use lychgate::limits::Limits;
use lychgate_sim::plan::seed::Seed;
use lychgate_sim::plan::{Plan, ServiceWords, Setting};
use lychgate_sim::standins::engine::Engine;
use lychgate_sim::standins::postgres::Postgres;
use lychgate_sim::standins::provider::Provider;
use lychgate_sim::standins::redis::Redis;
use lychgate_sim::standins::{StandIn, engine, postgres, provider, rabbit, redis};
use lychgate_sim::trace::invariant::Invariant;
use lychgate_sim::world::product::{Boot, Moments, Product, Reader, Role, Scenario, Source, User};

use crate::events::Did;
use crate::invariants::Deadlines;
use crate::reader::LychgateReader;
use crate::settings::Settings;
use crate::users::{LychgateWorkload, UserSpec};

/// The system under test.
pub struct Lychgate;

/// The stories: name and text of each file in `stories/`, as `build.rs` lists them.
const STORIES: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/stories.rs"));

/// The product's settings.
static SETTINGS: std::sync::LazyLock<Vec<Setting>> = std::sync::LazyLock::new(|| {
    let settings = lychgate::config::SETTINGS.iter();
    settings.map(|(name, says, default)| Setting { name, says, default }).collect()
});

/// The longest that everything which must follow healing may take, apart from what the model takes: takeovers, sweeps,
/// attempts.
const SETTLE_MAX: Duration = Duration::from_secs(2 * 3600);

impl Product for Lychgate {
    type Event = Did;
    type Workload = LychgateWorkload;

    fn roles() -> &'static [Role] {
        roles::ROLES
    }

    fn settings() -> &'static [Setting] {
        &SETTINGS
    }

    fn services(plan: &Plan<LychgateWorkload>, seed: Seed) -> Vec<Arc<dyn StandIn>> {
        vec![
            Arc::new(Postgres::new()),
            Arc::new(Redis::new()),
            Arc::new(rabbit::Rabbit::new(broker())),
            Arc::new(Provider::new(users::script(&plan.users))),
            Arc::new(Engine::new(seed.key("engine"))),
        ]
    }

    fn service_words() -> &'static [&'static ServiceWords] {
        static WORDS: &[&ServiceWords] = &[
            &redis::faults::WORDS,
            &rabbit::faults::WORDS,
            &postgres::faults::WORDS,
            &engine::faults::WORDS,
            &provider::faults::WORDS,
        ];
        WORDS
    }

    fn boot(boot: Boot) -> BoxFuture<'static, i32> {
        roles::boot(boot).boxed()
    }

    fn users(plan: &Plan<LychgateWorkload>, _: Seed) -> Vec<User<Did>> {
        users::users(plan)
    }

    fn reader(_: &Plan<LychgateWorkload>) -> Box<dyn Reader<Did>> {
        Box::new(LychgateReader::default())
    }

    fn invariants(plan: &Plan<LychgateWorkload>) -> Vec<Box<dyn Invariant<Did>>> {
        invariants::all(deadlines(plan), &Settings::of(plan), slots(plan))
    }

    fn moments() -> Box<dyn Moments<Did>> {
        Box::new(moments::LychgateMoments::default())
    }

    fn command() -> &'static str {
        "cargo sim"
    }

    fn crates() -> &'static [&'static str] {
        &["lychgate"]
    }

    fn settle_max(plan: &Plan<LychgateWorkload>) -> Duration {
        SETTLE_MAX + plan.users.0.iter().map(UserSpec::busy).max().unwrap_or_default()
    }

    fn scenarios() -> Vec<Scenario<LychgateWorkload>> {
        let story = |(name, text): &(&str, &str)| Scenario {
            name: (*name).to_owned(),
            source: Source::File { path: format!("scenarios/stories/{name}.toml"), text: (*text).to_owned() },
        };
        let drawn = Scenario { name: "swarm".into(), source: Source::Drawn { about: swarm::ABOUT, draw: swarm::draw } };
        STORIES.iter().map(story).chain([drawn]).collect()
    }
}

/// The broker as it has to be configured: a delivery stays unacknowledged as long as its run goes.
fn broker() -> rabbit::Settings {
    rabbit::Settings { consumer_timeout: Some(Duration::from_secs(6 * 3600)), ..rabbit::Settings::default() }
}

/// The runs that an executor works on at once: the most of any.
fn slots(plan: &Plan<LychgateWorkload>) -> usize {
    let set = plan.config.values().filter_map(|settings| settings.get("LYCHGATE_SLOTS")?.parse().ok());
    set.max().unwrap_or(Limits::default().slots)
}

/// The deadlines that a plan's settings make: the longest of any executor's.
fn deadlines(plan: &Plan<LychgateWorkload>) -> Deadlines {
    let longest = |name: &str, default: Duration| {
        let set = plan.config.values().filter_map(|settings| settings.get(name));
        let set = set.filter_map(|text| lychgate_sim::plan::duration::parse(text).ok());
        set.max().unwrap_or(default)
    };
    let limits = Limits::default();
    Deadlines {
        takeover_after: longest("LYCHGATE_TAKEOVER_AFTER", limits.takeover_after),
        queued_claim_after: longest("LYCHGATE_QUEUED_CLAIM_AFTER", limits.queued_claim_after),
        sweep_max: longest("LYCHGATE_SWEEP_MAX", limits.sweep_max),
        freshness: longest("LYCHGATE_FRESHNESS", limits.freshness),
    }
}
