//! A product that is never booted: enough of one to read, print, sweep and shrink plans in tests.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};

use crate::plan::seed::Seed;
use crate::plan::{Plan, ServiceWords, Setting};
use crate::standins::StandIn;
use crate::standins::clock;
use crate::standins::observation::Observation;
use crate::standins::provider::faults as provider;
use crate::standins::redis::faults as redis;
use crate::trace::event::{Event, ProductEvent};
use crate::trace::invariant::{Breach, Invariant, Obligation};
use crate::world::product::{Boot, Origin, Product, Reader, Role, Scenario, Source, User, Workload};

/// The product.
pub struct TestProduct;

/// The one event of the test product.
#[derive(Clone, Debug, Serialize)]
pub struct TurnStarted;

impl ProductEvent for TurnStarted {
    const NAMES: &'static [&'static str] = &["turn_started", "run_ended", "checkpointed"];
    fn name(&self) -> &'static str {
        "turn_started"
    }
    fn session(&self) -> Option<&str> {
        None
    }
    fn story(&self) -> Option<String> {
        None
    }
}

/// The users.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Visitors(pub Vec<Visitor>);

/// One user.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Visitor {
    /// As `ann`.
    pub name: String,
    /// What is said, a session each.
    #[serde(default)]
    pub says: Vec<Say>,
}

/// One message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Say {
    /// The words.
    pub text: String,
    /// When.
    #[serde(with = "crate::plan::duration")]
    pub at: Duration,
}

impl Workload for Visitors {
    fn sessions(&self) -> Vec<String> {
        let of = |user: &Visitor| (1..=user.says.len()).map(|n| format!("{}/{n}", user.name)).collect::<Vec<_>>();
        self.0.iter().flat_map(of).collect()
    }
    fn users(&self) -> Vec<String> {
        self.0.iter().map(|user| user.name.clone()).collect()
    }
    fn smaller(&self) -> Vec<Self> {
        let mut smaller: Vec<Self> = Vec::new();
        for nth in 0..self.0.len() {
            let mut fewer = self.clone();
            fewer.0.remove(nth);
            smaller.push(fewer);
        }
        for (nth, user) in self.0.iter().enumerate() {
            if user.says.len() > 1 {
                let mut quieter = self.clone();
                quieter.0[nth].says.pop();
                smaller.push(quieter);
            }
        }
        smaller
    }
}

struct NoZombies;

impl Invariant<TurnStarted> for NoZombies {
    fn name(&self) -> &'static str {
        "no_zombies"
    }
    fn says(&self) -> &'static str {
        "what ended is shown as ended"
    }
    fn observe(&mut self, _: &Event<TurnStarted>) -> Result<(), Breach> {
        Ok(())
    }
    fn pending(&self) -> Vec<Obligation> {
        Vec::new()
    }
    fn armed(&self) -> bool {
        true
    }
}

impl Product for TestProduct {
    type Event = TurnStarted;
    type Workload = Visitors;

    fn roles() -> &'static [Role] {
        const ROLES: &[Role] = &[
            Role {
                name: "gateway",
                services: &["redis", "postgres"],
                port: Some(80),
                count: 1,
                grace: Duration::from_secs(30),
                restart_delay: Duration::from_secs(1),
                contained: None,
            },
            Role {
                name: "executor",
                services: &["redis", "postgres", "rabbit"],
                port: None,
                count: 2,
                grace: Duration::from_secs(30),
                restart_delay: Duration::from_secs(1),
                contained: None,
            },
        ];
        ROLES
    }
    fn settings() -> &'static [Setting] {
        const {
            &[
                Setting { name: "TOY_TAKEOVER_AFTER", says: "when a silent owner's work is anybody's", default: "5s" },
                Setting { name: "TOY_SLOTS", says: "visitors at once", default: "4" },
            ]
        }
    }
    fn services(_: &Plan<Visitors>, _: Seed) -> Vec<Arc<dyn StandIn>> {
        Vec::new()
    }
    fn service_words() -> &'static [&'static ServiceWords] {
        static REDIS: ServiceWords = ServiceWords {
            name: "redis",
            http: false,
            faults: &[
                &clock::AHEAD,
                &redis::RESTART,
                &redis::FLUSH,
                &provider::REFUSE,
                &provider::STALL,
                &provider::TRUNCATE,
                &provider::MALFORMED,
            ],
        };
        static WORDS: &[&ServiceWords] = &[&REDIS, &crate::standins::postgres::faults::WORDS];
        WORDS
    }
    fn boot(_: Boot) -> BoxFuture<'static, i32> {
        Box::pin(std::future::ready(0))
    }
    fn users(_: &Plan<Visitors>, _: Seed) -> Vec<User<TurnStarted>> {
        Vec::new()
    }
    fn reader(_: &Plan<Visitors>) -> Box<dyn Reader<TurnStarted>> {
        Box::new(Blind)
    }
    fn invariants(_: &Plan<Visitors>) -> Vec<Box<dyn Invariant<TurnStarted>>> {
        vec![Box::new(NoZombies)]
    }
    fn command() -> &'static str {
        "cargo sim"
    }

    fn crates() -> &'static [&'static str] {
        &[env!("CARGO_CRATE_NAME")]
    }

    fn settle_max(_: &Plan<Visitors>) -> Duration {
        Duration::from_secs(60)
    }
    fn scenarios() -> Vec<Scenario<Visitors>> {
        let quiet = "about = \"Nothing goes wrong\"\narms = [\"no_zombies\"]\n".to_owned();
        vec![
            Scenario {
                name: "quiet".into(),
                source: Source::File { path: "scenarios/quiet.toml".into(), text: quiet },
            },
            Scenario {
                name: "swarm".into(),
                source: Source::Drawn {
                    about: "Everything goes wrong",
                    draw: |_| crate::world::words::bare::<TestProduct>(),
                },
            },
        ]
    }
}

struct Blind;

impl Reader<TurnStarted> for Blind {
    fn read(&mut self, _: &Observation, _: &Origin) -> Vec<TurnStarted> {
        Vec::new()
    }
    fn mentioned(&self, _: &[u8]) -> Option<String> {
        None
    }
    fn served_by(&self, _: &str) -> Option<String> {
        None
    }
}
