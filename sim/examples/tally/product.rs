//! The binding: what the world must know of this service. Everything in it is either data or one line to the service.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt};
use lychgate_sim::plan::seed::Seed;
use lychgate_sim::plan::{Plan, ServiceWords, Setting};
use lychgate_sim::standins::rabbit::{Rabbit, Settings};
use lychgate_sim::standins::redis::Redis;
use lychgate_sim::standins::{StandIn, rabbit, redis};
use lychgate_sim::trace::invariant::Invariant;
use lychgate_sim::world::product::{Boot, Product, Reader, Role, Scenario, Source, User};

use super::counted_once::CountedOnce;
use super::customers::{self, Customers};
use super::events::{Did, Ledger};
use super::objects::{self, Objects};
use super::receipted::Receipted;
use super::{swarm, till, worker};

/// The system under test.
pub struct Tally;

/// Each process reaches each of its services through a link of its own, and faults act on links: `worker-1->redis`.
static ROLES: [Role; 2] = [
    Role {
        name: "till",
        services: &["rabbitmq"],
        port: Some(7000),
        count: 1,
        grace: Duration::from_secs(5),
        restart_delay: Duration::from_secs(2),
        contained: None,
    },
    Role {
        name: "worker",
        services: &["rabbitmq", "redis", "objects"],
        port: None,
        count: 1,
        grace: Duration::from_secs(5),
        restart_delay: Duration::from_secs(2),
        contained: None,
    },
];

/// What `[config.worker]` of a plan may set.
const SETTINGS: &[Setting] = &[Setting {
    name: "TALLY_BUG",
    says: "the mistake of a worker: count-then-ack or ack-then-receipt",
    default: "none",
}];

impl Product for Tally {
    type Event = Did;
    type Workload = Customers;

    fn roles() -> &'static [Role] {
        &ROLES
    }

    fn settings() -> &'static [Setting] {
        SETTINGS
    }

    fn service_words() -> &'static [&'static ServiceWords] {
        static WORDS: &[&ServiceWords] = &[&redis::faults::WORDS, &rabbit::faults::WORDS, &objects::WORDS];
        WORDS
    }

    fn services(_: &Plan<Customers>, _: Seed) -> Vec<Arc<dyn StandIn>> {
        vec![Arc::new(Rabbit::new(Settings::default())), Arc::new(Redis::new()), Arc::new(Objects::default())]
    }

    /// One life of one process, until it ends or SIGTERM comes. There is nothing to finish: what a worker has not
    /// acknowledged comes again, and a customer without an answer asks again.
    fn boot(mut boot: Boot) -> BoxFuture<'static, i32> {
        let broker = boot.links["rabbitmq"];
        async move {
            let life = match (boot.role, boot.listen) {
                ("till", Some(listen)) => till::serve(listen, broker).map(|ended| i32::from(ended.is_err())).boxed(),
                ("worker", _) => {
                    let bug = boot.config.get("TALLY_BUG").map(String::as_str);
                    let settings = worker::Settings {
                        broker,
                        redis: boot.links["redis"],
                        objects: boot.links["objects"],
                        count_then_ack: bug == Some("count-then-ack"),
                        ack_then_receipt: bug == Some("ack-then-receipt"),
                    };
                    worker::serve(settings).map(|never| match never {}).boxed()
                }
                (role, _) => panic!("no role is called {role}"),
            };
            tokio::select! {
                biased;
                _ = boot.signals.recv() => 0,
                code = life => code,
            }
        }
        .boxed()
    }

    fn users(plan: &Plan<Customers>, _: Seed) -> Vec<User<Did>> {
        customers::users(&plan.users)
    }

    fn reader(_: &Plan<Customers>) -> Box<dyn Reader<Did>> {
        Box::new(Ledger::default())
    }

    fn invariants(_: &Plan<Customers>) -> Vec<Box<dyn Invariant<Did>>> {
        vec![Box::new(CountedOnce::default()), Box::new(Receipted::default())]
    }

    /// A restart, a dead connection found, a backlog counted: a minute. This is far more.
    fn settle_max(_: &Plan<Customers>) -> Duration {
        Duration::from_secs(300)
    }

    fn scenarios() -> Vec<Scenario<Customers>> {
        macro_rules! file {
            ($name:literal) => {{
                let path = concat!("sim/examples/tally/scenarios/", $name, ".toml").to_owned();
                let text = include_str!(concat!("scenarios/", $name, ".toml")).to_owned();
                Scenario { name: $name.to_owned(), source: Source::File { path, text } }
            }};
        }
        vec![
            file!("calm"),
            file!("killed_between"),
            file!("reply_lost"),
            file!("store_slow"),
            file!("bug_killed_between"),
            file!("bug_reply_lost"),
            file!("bug_receipt_after_ack"),
            Scenario { name: "swarm".to_owned(), source: Source::Drawn { about: swarm::ABOUT, draw: swarm::draw } },
        ]
    }

    fn crates() -> &'static [&'static str] {
        &[env!("CARGO_CRATE_NAME")]
    }

    fn command() -> &'static str {
        "cargo run -p lychgate-sim --example tally --"
    }
}
