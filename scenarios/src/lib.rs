//! Where the product and the simulated world meet. Start at [`Lychgate`]: it says how each role boots ([`roles`]), what
//! users do ([`users`]), how to read what happened ([`reader`] makes [`events`]), and what must hold ([`invariants`]).
//! Stories are the `*.toml` files in this folder; [`swarm`] draws its own.

pub mod agents;
pub mod events;
pub mod health;
pub mod invariants;
pub mod levers;
pub mod links;
pub mod loopback;
pub mod moments;
#[cfg(real)]
pub mod outside;
pub mod reader;
pub mod roles;
pub mod settings;
pub mod swarm;
pub mod told;
pub mod users;

use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use lychgate::limits::Limits;
use lychgate_sim::engine::Engine;
use lychgate_sim::judge::Invariant;
use lychgate_sim::plan::Plan;
use lychgate_sim::product::{Boot, Moments, Product, Reader, Role, Scenario, Service, Source, User};
use lychgate_sim::provider::Provider;
use lychgate_sim::seed::Seed;
use lychgate_sim::{engine, postgres, provider, rabbit, redis};

use crate::events::Did;
use crate::invariants::Deadlines;
use crate::reader::LychgateReader;
use crate::settings::Settings;
use crate::users::{Everybody, Person};

/// The system under test.
pub struct Lychgate;

/// The product's settings, by name.
static SETTINGS: std::sync::LazyLock<Vec<&'static str>> =
    std::sync::LazyLock::new(|| lychgate::config::SETTINGS.iter().map(|(name, ..)| *name).collect());

/// The longest that everything which must follow healing may take, apart from what the model takes: takeovers, sweeps,
/// attempts.
const SETTLE_MAX: Duration = Duration::from_secs(2 * 3600);

impl Product for Lychgate {
    type Occurrence = Did;
    type Workload = Everybody;

    fn roles() -> &'static [Role] {
        roles::ROLES
    }

    fn settings() -> &'static [&'static str] {
        &SETTINGS
    }

    fn services(plan: &Plan<Everybody>, seed: Seed) -> Vec<Service> {
        vec![
            postgres::service(&postgres::Postgres::new()),
            redis::service(&redis::Redis::new()),
            rabbit::service(rabbit::Rabbit::new(broker())),
            provider::service(&Provider::new(users::script(&plan.users))),
            engine::service(&Engine::new(seed.key("engine"))),
        ]
    }

    fn boot(boot: Boot) -> BoxFuture<'static, i32> {
        roles::boot(boot).boxed()
    }

    fn users(plan: &Plan<Everybody>, _: Seed) -> Vec<User<Did>> {
        users::users(plan)
    }

    fn reader(_: &Plan<Everybody>) -> Box<dyn Reader<Did>> {
        Box::new(LychgateReader::default())
    }

    fn invariants(plan: &Plan<Everybody>) -> Vec<Box<dyn Invariant<Did>>> {
        invariants::all(deadlines(plan), &Settings::of(plan), slots(plan))
    }

    fn moments() -> Box<dyn Moments<Did>> {
        Box::new(moments::LychgateMoments::default())
    }

    fn settle_max(plan: &Plan<Everybody>) -> Duration {
        SETTLE_MAX + plan.users.0.iter().map(Person::busy).max().unwrap_or_default()
    }

    fn scenarios() -> Vec<Scenario<Everybody>> {
        let file = |name: &str, text: &str| Scenario {
            name: name.to_string(),
            source: Source::File { path: format!("scenarios/{name}.toml"), text: text.to_string() },
        };
        macro_rules! file {
            ($name:literal) => {
                file($name, include_str!(concat!("../", $name, ".toml")))
            };
        }
        vec![
            file!("calm"),
            file!("wedged_redis"),
            file!("wedged_redis_until_settle"),
            file!("abandoned_call"),
            file!("wedged_redis_unread"),
            file!("wedged_redis_thrice"),
            file!("wedged_postgres"),
            file!("ambiguous_end"),
            file!("silent_owner"),
            file!("owner_killed"),
            file!("agent_killed"),
            file!("reader_returns"),
            file!("reader_slow"),
            file!("said_again"),
            file!("half_open"),
            file!("connections_refused"),
            file!("reader_half_open"),
            file!("trickling_answer"),
            file!("trickling_stores"),
            file!("cut_commit"),
            file!("cut_stream"),
            file!("deaf_postgres"),
            file!("no_checkpoints"),
            file!("beats_late"),
            file!("provider_stalls"),
            file!("answer_spoiled"),
            file!("provider_spoils_everything"),
            file!("frames_make_room"),
            file!("drain_finishes"),
            file!("stopped_too_late"),
            file!("drain_interrupts"),
            file!("drain_completes"),
            file!("wedged_drain"),
            file!("pool_close"),
            file!("pool_borrowed"),
            file!("same_name"),
            file!("redis_ill"),
            file!("postgres_ill"),
            file!("rabbitmq_restarts"),
            file!("rabbitmq_full"),
            file!("memory_lost"),
            file!("redis_flushed"),
            file!("slow_commits"),
            file!("tables_locked"),
            file!("clocks_step"),
            file!("answered_elsewhere"),
            file!("resumes_with_notice"),
            file!("sigkill_during_drain"),
            file!("suspended_in_drain"),
            file!("suspended_for_a_while"),
            file!("suspended_while_waiting"),
            file!("rolling_restart"),
            file!("two_drains"),
            file!("drain_hears"),
            file!("concurrent_subscription_failures"),
            file!("failures_in_flight"),
            file!("switch_holder_killed"),
            file!("switch_holder_paused"),
            file!("switch_holder_overtaken"),
            file!("no_subscription_left"),
            file!("reassigned"),
            file!("reassigned_amid_switch"),
            file!("reassigned_too_late"),
            file!("agents_do_not_wait"),
            file!("engine_ill"),
            file!("container_stops_slowly"),
            file!("signal_lost"),
            file!("stale_unit"),
            file!("traffic_after_stop"),
            file!("probe_kills"),
            file!("crash_loop"),
            file!("scaled"),
            file!("reconfigured"),
            file!("long_uptime"),
            Scenario { name: "swarm".into(), source: Source::Drawn { about: swarm::ABOUT, draw: swarm::draw } },
        ]
    }
}

/// The broker as it has to be configured: a delivery stays unacknowledged as long as its run goes.
fn broker() -> rabbit::Settings {
    rabbit::Settings { consumer_timeout: Some(Duration::from_secs(6 * 3600)), ..rabbit::Settings::default() }
}

/// The runs that an executor works on at once: the most of any.
fn slots(plan: &Plan<Everybody>) -> usize {
    let set = plan.config.values().filter_map(|settings| settings.get("LYCHGATE_SLOTS")?.parse().ok());
    set.max().unwrap_or(Limits::default().slots)
}

/// The deadlines that a plan's settings make: the longest of any executor's.
fn deadlines(plan: &Plan<Everybody>) -> Deadlines {
    let longest = |name: &str, default: Duration| {
        let set = plan.config.values().filter_map(|settings| settings.get(name));
        let set = set.filter_map(|text| lychgate_sim::duration::parse(text).ok());
        set.max().unwrap_or(default)
    };
    let limits = Limits::default();
    Deadlines {
        takeover_after: longest("LYCHGATE_TAKEOVER_AFTER", limits.takeover_after),
        queued_claim_after: longest("LYCHGATE_QUEUED_CLAIM_AFTER", limits.queued_claim_after),
        sweep_max: longest("LYCHGATE_SWEEP_MAX", limits.sweep_max),
    }
}
