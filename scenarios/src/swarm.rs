//! The swarm: users, turns and faults drawn from the seed. Most kinds of fault are off in any one plan and the others
//! wild, because every fault slightly on hides more than it finds.

use std::collections::BTreeMap;
use std::time::Duration;

use lychgate_sim::plan::{Cue, Expect, Fault, Kind, Length, ORIGIN, Plan, Trigger};
use lychgate_sim::seed::{Purpose, Seed};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use crate::users::{Everybody, Person, Saying};

/// For `list`.
pub const ABOUT: &str = "Users, turns, link faults and kills drawn from the seed";

const NAMES: &[&str] = &["ann", "ben", "cid", "dee"];

/// The shortest legal takeover: with the default of minutes, hardly a drawn fault lasts until a run changes hands.
const EAGER_TAKEOVER: &str = "45s";

/// The plan of a seed.
pub fn draw(seed: Seed) -> Plan<Everybody> {
    let users = drawn(seed, Purpose::Workload, everybody());
    let (gateways, executors) =
        drawn(seed, Purpose::Workload, (1..=2usize, prop_oneof![2 => Just(1usize), 3 => Just(2), 1 => Just(3)]));
    let mut faults = drawn(seed, Purpose::Faults, faults(&users, gateways, executors));
    faults.extend(drawn(seed, Purpose::Provider, refusals()));
    let takeover = drawn(seed, Purpose::Workload, prop_oneof![Just(None), Just(Some(EAGER_TAKEOVER))]);
    let policy = drawn(seed, Purpose::Workload, prop_oneof![3 => Just(None), 1 => Just(Some("interrupt"))]);
    let settings = [("LYCHGATE_TAKEOVER_AFTER", takeover), ("LYCHGATE_DRAIN_POLICY", policy)];
    let settings = settings.into_iter().filter_map(|(name, value)| Some((name.to_string(), value?.to_string())));
    let settings: BTreeMap<String, String> = settings.collect();
    let settings = Some(settings).filter(|settings| !settings.is_empty());
    Plan {
        about: format!("Drawn from seed {}", seed.0),
        arms: Vec::new(),
        must_reach: Vec::new(),
        topology: BTreeMap::from([("gateway".into(), gateways), ("executor".into(), executors)]),
        config: settings.map(|settings| ("executor".into(), settings)).into_iter().collect(),
        service: BTreeMap::new(),
        users,
        faults,
        expect: Expect { verdict: "passed".into(), invariant: None },
        repro: None,
    }
}

/// One value of a strategy, from the seed's stream for this purpose.
fn drawn<S: Strategy>(seed: Seed, purpose: Purpose, strategy: S) -> S::Value {
    let key = seed.key(&format!("{purpose:?}"));
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &key);
    let mut runner = TestRunner::new_with_rng(Config { failure_persistence: None, ..Config::default() }, rng);
    strategy.new_tree(&mut runner).expect("no strategy here rejects anything").current()
}

fn seconds(range: std::ops::RangeInclusive<u64>) -> impl Strategy<Value = Duration> {
    // Milliseconds, so that things do not fall on the same moments as beats and sweeps.
    (range.start() * 1000..=range.end() * 1000).prop_map(Duration::from_millis)
}

fn saying() -> impl Strategy<Value = Saying> {
    // An operator holds a session now and then, and always lets it go again.
    let hold = prop_oneof![7 => Just(None), 1 => (seconds(1..=40), seconds(1..=60)).prop_map(Some)];
    let cancel = prop_oneof![4 => Just(None), 1 => seconds(1..=60).prop_map(Some)];
    let takes = prop_oneof![3 => seconds(1..=20), 2 => seconds(20..=90)];
    (1..=2u32, 1..=3u32, takes, 1..=12u32, cancel, hold, 0..=1u32).prop_map(
        |(session, turns, takes, tokens, cancel_after, hold, reconnects)| Saying {
            session,
            at: Duration::ZERO,
            turns,
            takes,
            tokens,
            cancel_after,
            times: 1,
            every: Duration::ZERO,
            suspend_after: hold.map(|(after, _)| after),
            unsuspend_after: hold.map(|(after, lasts)| after + lasts),
            reconnects,
        },
    )
}

fn everybody() -> impl Strategy<Value = Everybody> {
    let person = (seconds(0..=10), vec(saying(), 1..=3));
    vec(person, 1..=NAMES.len()).prop_map(|people| {
        let named = people.into_iter().zip(NAMES).map(|((at, mut says), name)| {
            says[0].at = at;
            Person { name: (*name).to_string(), agent: None, says }
        });
        Everybody(named.collect())
    })
}

/// Faults near the moments that matter: between a run's claim and the end of its terminal writes.
fn faults(users: &Everybody, gateways: usize, executors: usize) -> impl Strategy<Value = Vec<Fault>> + use<> {
    let processes: Vec<String> = (1..=executors)
        .map(|n| format!("executor-{n}"))
        .chain((1..=gateways).map(|n| format!("gateway-{n}")))
        .collect();
    let mut links: Vec<String> = Vec::new();
    for process in &processes {
        // An agent lies in its first berth until it is switched.
        let further: &[&str] = if process.starts_with("executor") { &["engine", "agent-1.1"] } else { &[] };
        let services = ["postgres", "redis", "rabbitmq"].iter().chain(further);
        links.extend(services.map(|service| format!("{process}->{service}")));
    }
    links.push("agent-1.1->provider".into());
    for person in &users.0 {
        links.extend((1..=gateways).map(|n| format!("{}->gateway-{n}", person.name)));
    }
    // Where most of the harm is done.
    let executor_links: Vec<String> =
        links.iter().filter(|link| link.starts_with("executor") || link.starts_with("agent")).cloned().collect();
    let link = prop_oneof![3 => select(executor_links), 1 => select(links)];
    let sessions = lychgate_sim::product::Workload::sessions(users);
    let owner_stops = proptest::option::weighted(0.6, stop(executors));
    let others =
        subsequence(vec!["wedge", "close", "reply_lost", "delay", "kill"], 1..=3).prop_flat_map(move |kinds| {
            let one = fault(kinds, link.clone(), processes.clone(), sessions.clone());
            vec(one, 1..=5)
        });
    (others, owner_stops).prop_map(|(faults, stop)| faults.into_iter().chain(stop).collect())
}

/// Now and then a subscription fails, or two do, or all three; and whoever moves the agent dies over it, or stands still.
fn refusals() -> impl Strategy<Value = Vec<Fault>> {
    let status = select(vec![429u16, 401, 403]);
    let lasts = prop_oneof![2 => Just(Length::UntilHeal), 1 => seconds(5..=300).prop_map(Length::Lasts)];
    let refusal = (status, seconds(0..=60), lasts);
    let which = prop_oneof![3 => Just(1usize), 2 => Just(2), 1 => Just(3)];
    let all = (which, vec(refusal, 3)).prop_map(|(which, refusals)| {
        let fault = |(token, (status, at, length)): (&str, (u16, Duration, Length))| Fault {
            kind: Kind::Refuse { status, retry_after: None },
            targets: vec![format!("provider/{token}")],
            trigger: Trigger::At(at),
            length,
        };
        ["sk-a", "sk-b", "sk-c"].into_iter().zip(refusals).take(which).map(fault).collect::<Vec<_>>()
    });
    let kind = select(vec![Kind::Sigkill, Kind::HostLoss, Kind::Pause]);
    let after = prop_oneof![2 => (0..=500u64).prop_map(Duration::from_millis), 1 => seconds(0..=15)];
    let holder = (kind, 2..=3u32, after, seconds(30..=400)).prop_map(|(kind, nth, after, lasts)| {
        let length = if kind == Kind::Pause { Length::Lasts(lasts) } else { Length::Instant };
        let trigger = Trigger::On(Cue { event: "assigned".into(), session: None, nth, after });
        Fault { kind, targets: vec![ORIGIN.into()], trigger, length }
    });
    let some = (all, proptest::option::weighted(0.5, holder))
        .prop_map(|(all, holder)| all.into_iter().chain(holder).collect());
    prop_oneof![3 => Just(Vec::new()), 2 => some]
}

/// An executor is killed, or told to stop, a moment after some call, often enough the one that made it, or while it
/// commits a turn.
fn stop(executors: usize) -> impl Strategy<Value = Fault> {
    let kind = prop_oneof![3 => Just(Kind::Sigkill), 4 => Just(Kind::Sigterm)];
    let moment = (seconds(0..=15), 0..=20u64, proptest::bool::weighted(0.35));
    (kind, 1..=executors, 1..=3u32, moment).prop_map(|(kind, n, nth, (after, millis, commits))| {
        let trigger = if commits {
            let (link, matches) = (format!("executor-{n}->postgres"), "run.checkpoint".into());
            Trigger::OnRequest { link, matches, nth, after: Duration::from_millis(millis) }
        } else {
            Trigger::On(Cue { event: "called".into(), session: None, nth, after })
        };
        Fault { kind, targets: vec![format!("executor-{n}")], trigger, length: Length::Instant }
    })
}

fn fault(
    kinds: Vec<&'static str>,
    link: impl Strategy<Value = String> + Clone + 'static,
    processes: Vec<String>,
    sessions: Vec<String>,
) -> impl Strategy<Value = Fault> {
    let moment = select(vec!["claimed", "called", "answered", "checkpointed", "ended", "shown", "accepted"]);
    let after = prop_oneof![2 => seconds(0..=1), 2 => seconds(0..=20), 1 => seconds(0..=60)];
    let cue = (moment, proptest::option::of(select(sessions)), 1..=2u32, after);
    let cue = cue.prop_map(|(event, session, nth, after)| Cue { event: event.into(), session, nth, after });
    let trigger = prop_oneof![4 => cue.prop_map(Trigger::On), 1 => seconds(0..=120).prop_map(Trigger::At)];
    let lasts = prop_oneof![3 => seconds(1..=15), 2 => seconds(15..=90), 1 => seconds(90..=400)];
    let process = prop_oneof![
        4 => select(processes.iter().filter(|p| p.starts_with("executor")).cloned().collect::<Vec<_>>()),
        1 => select(processes),
    ];
    let by = prop_oneof![seconds(0..=2), seconds(1..=12)];
    let statement = select(vec![None, Some("run.terminal"), Some("run.checkpoint"), Some("run.claim"), Some("COMMIT")]);
    (select(kinds), link, process, trigger, lasts, by, statement, any::<bool>()).prop_map(
        |(kind, link, process, trigger, lasts, by, statement, hard)| {
            let lasts = Length::Lasts(lasts);
            let to_postgres = link.ends_with("->postgres");
            let matches = statement.filter(|_| to_postgres).map(str::to_string);
            let (kind, target, length) = match kind {
                "wedge" => (Kind::Wedge, link, lasts),
                "close" if hard => (Kind::Close, link, Length::Instant),
                "close" => (Kind::Close, link, lasts),
                "reply_lost" => (Kind::ReplyLost { matches }, link, Length::UntilHeal),
                "delay" => (Kind::Delay { by }, link, lasts),
                _ if hard => (Kind::Sigkill, process, Length::Instant),
                _ => (Kind::Sigterm, process, Length::Instant),
            };
            Fault { kind, targets: vec![target], trigger, length }
        },
    )
}
