//! The swarm: users, turns and faults drawn from the seed. Most kinds of fault are off in any one plan and the others
//! wild, because every fault slightly on hides more than it finds.

use std::collections::BTreeMap;
use std::time::Duration;

use lychgate_sim::plan::{Ailment, Cue, Expect, Fault, Kind, Length, Manager, ORIGIN, Plan, Trigger};
use lychgate_sim::seed::{Purpose, Seed};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use crate::users::{Everybody, Person, Saying};

/// For `list`.
pub const ABOUT: &str = "Users, turns, and faults of links, processes and subscriptions, drawn from the seed";

const NAMES: &[&str] = &["ann", "ben", "cid", "dee"];

/// The shortest legal takeover: with the default of minutes, hardly a drawn fault lasts until a run changes hands.
const EAGER_TAKEOVER: &str = "45s";

/// The plan of a seed.
pub fn draw(seed: Seed) -> Plan<Everybody> {
    let users = drawn(seed, Purpose::Workload, everybody());
    let executors = prop_oneof![2 => Just(1usize), 3 => Just(2), 1 => Just(3)];
    let agents = prop_oneof![3 => Just(1usize), 1 => Just(2)];
    let (gateways, executors, agents) = drawn(seed, Purpose::Workload, (1..=2usize, executors, agents));
    let topology = Topology { gateways, executors, agents };
    let users = spread(users, &topology);
    let faults = drawn(seed, Purpose::Faults, faults(&users, &topology));
    let subscriptions = drawn(seed, Purpose::Workload, select(vec!["a=sk-a,b=sk-b", "a=sk-a,b=sk-b,c=sk-c"]));
    let everybodys =
        [("LYCHGATE_AGENTS", topology.agents().join(",")), ("LYCHGATE_SUBSCRIPTIONS", subscriptions.into())];
    let everybodys = everybodys.map(|(name, value)| (name.to_string(), value)).into();
    let takeover = drawn(seed, Purpose::Workload, prop_oneof![Just(None), Just(Some(EAGER_TAKEOVER))]);
    let policy = drawn(seed, Purpose::Workload, prop_oneof![3 => Just(None), 1 => Just(Some("interrupt"))]);
    let settings = [("LYCHGATE_TAKEOVER_AFTER", takeover), ("LYCHGATE_DRAIN_POLICY", policy)];
    let settings = settings.into_iter().filter_map(|(name, value)| Some((name.to_string(), value?.to_string())));
    let settings: BTreeMap<String, String> = settings.collect();
    let settings = Some(settings).filter(|settings| !settings.is_empty());
    // Now and then the last executor comes later, while the others are at work.
    let late = drawn(seed, Purpose::Workload, proptest::option::weighted(0.1, seconds(5..=60)));
    let late = late.filter(|_| executors > 1);
    // Or it comes only when it is called, and perhaps in the place of another.
    let scaled = drawn_as(seed, "scaling", proptest::option::weighted(0.3, scaling(executors)));
    let scaled = scaled.filter(|_| executors > 1).unwrap_or_default();
    let late = if scaled.is_empty() { late } else { Some(UNCALLED) };
    let late = late.map(|first_boot| {
        (format!("executor-{executors}"), Manager { first_boot: Some(first_boot), ..Manager::default() })
    });
    let service = drawn_as(seed, "managers", managers());
    let faults: Vec<Fault> = faults.into_iter().chain(scaled).collect();
    let settings = settings.map(|settings| ("executor".to_string(), settings));
    Plan {
        about: format!("Drawn from seed {}", seed.0),
        arms: Vec::new(),
        must_reach: Vec::new(),
        topology: [("gateway", gateways), ("executor", executors), ("agent", agents)]
            .map(|(role, count)| (role.to_string(), count))
            .into(),
        config: [("all".to_string(), everybodys)].into_iter().chain(settings).collect(),
        service: service.into_iter().chain(late).collect(),
        users,
        faults,
        expect: Expect { verdict: "passed".into(), invariant: None },
        repro: None,
    }
}

/// Nobody waits for a first boot so long: who is not called comes when everything heals.
const UNCALLED: Duration = Duration::from_secs(24 * 3600);

/// Service managers with ways of their own: a grace that is too short, a signal that comes late, probes, back-offs.
fn managers() -> impl Strategy<Value = BTreeMap<String, Manager>> {
    use proptest::option::weighted;
    let executor = (weighted(0.3, seconds(10..=60)), weighted(0.15, seconds(1..=15)), weighted(0.2, seconds(30..=300)));
    let executor = executor.prop_map(|(grace, pre_stop, restart_max)| Manager {
        grace,
        pre_stop,
        restart_max,
        ..Manager::default()
    });
    let gateway = (weighted(0.2, seconds(3..=15)), weighted(0.15, seconds(1..=15)));
    let gateway = gateway.prop_map(|(probe, pre_stop)| Manager { probe, pre_stop, ..Manager::default() });
    (executor, gateway).prop_map(|(executor, gateway)| {
        let all = [("executor", executor), ("gateway", gateway)];
        let own = all.into_iter().filter(|(_, manager)| *manager != Manager::default());
        own.map(|(role, manager)| (role.to_string(), manager)).collect()
    })
}

/// The last executor comes, and the first goes, or makes way for it.
fn scaling(executors: usize) -> impl Strategy<Value = Vec<Fault>> {
    let moment = || {
        let moment = (select(vec!["claimed", "called", "checkpointed"]), 1..=2u32, seconds(0..=20));
        moment.prop_map(|(event, nth, after)| Trigger::On(Cue { event: event.into(), session: None, nth, after }))
    };
    let fault = |kind, targets: &[&String], trigger| Fault {
        kind,
        targets: targets.iter().map(|target| (*target).clone()).collect(),
        trigger,
        length: Length::Instant,
    };
    let how = select(vec!["up", "up and down", "instead"]);
    (how, moment(), moment()).prop_map(move |(how, one, other)| {
        let (first, last) = ("executor-1".to_string(), format!("executor-{executors}"));
        match how {
            "up" => vec![fault(Kind::ScaleUp, &[&last], one)],
            "instead" => vec![fault(Kind::Reconfigure, &[&first, &last], one)],
            _ => vec![fault(Kind::ScaleUp, &[&last], one), fault(Kind::ScaleDown, &[&first], other)],
        }
    })
}

/// One value of a strategy, from the seed's stream for this purpose.
fn drawn<S: Strategy>(seed: Seed, purpose: Purpose, strategy: S) -> S::Value {
    drawn_as(seed, &format!("{purpose:?}"), strategy)
}

/// One value of a strategy, from a stream of its own.
fn drawn_as<S: Strategy>(seed: Seed, stream: &str, strategy: S) -> S::Value {
    let key = seed.key(stream);
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

/// How many there are of each.
struct Topology {
    gateways: usize,
    executors: usize,
    agents: usize,
}

impl Topology {
    fn agents(&self) -> Vec<String> {
        (1..=self.agents).map(|n| format!("agent-{n}")).collect()
    }

    fn executors(&self) -> Vec<String> {
        (1..=self.executors).map(|n| format!("executor-{n}")).collect()
    }

    fn gateways(&self) -> Vec<String> {
        (1..=self.gateways).map(|n| format!("gateway-{n}")).collect()
    }

    /// Where an agent lies before it is switched, and after.
    fn berths(&self) -> Vec<String> {
        self.agents().iter().flat_map(|agent| [format!("{agent}.1"), format!("{agent}.2")]).collect()
    }
}

/// Gives every user an agent, in turn.
fn spread(mut users: Everybody, topology: &Topology) -> Everybody {
    for (person, agent) in users.0.iter_mut().zip(topology.agents().iter().cycle()) {
        person.agent = Some(agent.clone());
    }
    users
}

/// Faults near the moments that matter: between a run's claim and the end of its terminal writes, inside a drain, inside
/// a switch.
fn faults(users: &Everybody, topology: &Topology) -> impl Strategy<Value = Vec<Fault>> + use<> {
    let (gateways, executors, berths) = (topology.gateways(), topology.executors(), topology.berths());
    let mut links: Vec<String> = berths.iter().map(|berth| format!("{berth}->provider")).collect();
    for executor in &executors {
        let services = ["postgres", "redis", "rabbitmq", "engine"].into_iter().map(String::from);
        links.extend(services.chain(berths.iter().cloned()).map(|service| format!("{executor}->{service}")));
    }
    // Where most of the harm is done.
    let executor_links = links.clone();
    for gateway in &gateways {
        links.extend(["postgres", "redis", "rabbitmq"].map(|service| format!("{gateway}->{service}")));
        links.extend(users.0.iter().map(|person| format!("{}->{gateway}", person.name)));
    }
    let link = prop_oneof![3 => select(executor_links), 1 => select(links)];
    let process = prop_oneof![8 => select(executors.clone()), 1 => select(gateways), 2 => select(berths)];
    let sessions = lychgate_sim::product::Workload::sessions(users);
    let owner_stops = proptest::option::weighted(0.6, stop(executors.len()));
    let switches = proptest::option::weighted(0.35, switch(topology.agents as u32));
    let restart = proptest::option::weighted(0.1, restart(executors));
    let kinds = vec!["wedge", "close", "reply_lost", "delay", "kill", "pause", "host_loss", "ailment", "ailment"];
    let others = subsequence(kinds, 1..=3).prop_flat_map(move |kinds| {
        let one = fault(kinds, link.clone(), process.clone(), sessions.clone());
        vec(one, 1..=5)
    });
    (others, owner_stops, switches, restart).prop_map(|(faults, stop, switch, restart)| {
        faults.into_iter().chain(stop).chain(switch.into_iter().flatten()).chain(restart).collect()
    })
}

/// A subscription fails while it is in use, and now and then whoever moves the agent comes to grief over it.
fn switch(agents: u32) -> impl Strategy<Value = Vec<Fault>> {
    let trigger = (1..=3u32, seconds(0..=20));
    let trigger = trigger.prop_map(|(nth, after)| Cue { event: "called".into(), session: None, nth, after });
    let status = select(Kind::REFUSALS.to_vec());
    let lasts = prop_oneof![1 => seconds(5..=60).prop_map(Length::Lasts), 2 => Just(Length::UntilHeal)];
    let refuse =
        (select(vec!["sk-a", "sk-a", "sk-b"]), trigger, status, lasts).prop_map(|(token, cue, status, length)| {
            let kind = Kind::Refuse { status, retry_after: None };
            Fault { kind, targets: vec![format!("provider/{token}")], trigger: Trigger::On(cue), length }
        });
    let grief =
        (select(vec![Kind::Sigkill, Kind::Sigterm, Kind::HostLoss, Kind::Pause]), seconds(0..=3), seconds(5..=120));
    let grief = grief.prop_map(move |(kind, after, lasts)| {
        // The first assignments are no switches.
        let cue = Cue { event: "assigned".into(), session: None, nth: agents + 1, after };
        let length = if kind == Kind::Pause { Length::Lasts(lasts) } else { Length::Instant };
        Fault { kind, targets: vec![ORIGIN.into()], trigger: Trigger::On(cue), length }
    });
    // Now and then its engine does.
    let ills: Vec<_> =
        Ailment::NAMES.into_iter().filter(|word| Ailment::services(word).any(|of| of == "engine")).collect();
    // The old container is stopped as soon as the refusal is known.
    let after = prop_oneof![4 => Just(Duration::ZERO), 1 => seconds(0..=2)];
    let ill = (select(ills), seconds(0..=30), after, seconds(5..=90));
    let ill = ill.prop_map(|(word, by, after, lasts)| {
        let kind = Kind::Ail(Ailment::named(word, Some(by)).expect("one of its own names"));
        let cue = Cue { event: "refused".into(), session: None, nth: 1, after };
        Fault { kind, targets: vec!["engine".into()], trigger: Trigger::On(cue), length: Length::Lasts(lasts) }
    });
    (vec(refuse, 1..=2), proptest::option::of(grief), proptest::option::weighted(0.7, ill))
        .prop_map(|(faults, grief, ill)| faults.into_iter().chain(grief).chain(ill).collect())
}

/// Every executor in turn.
fn restart(executors: Vec<String>) -> impl Strategy<Value = Fault> {
    seconds(5..=60).prop_map(move |at| Fault {
        kind: Kind::RollingRestart,
        targets: executors.clone(),
        trigger: Trigger::At(at),
        length: Length::Instant,
    })
}

/// An executor is killed, or told to stop, a moment after some call, often enough the one that made it, or while it
/// commits a turn.
fn stop(executors: usize) -> impl Strategy<Value = Fault> {
    let kind = prop_oneof![
        3 => Just(Kind::Sigkill),
        4 => Just(Kind::Sigterm),
        1 => Just(Kind::Panic),
        1 => Just(Kind::LostSignal),
    ];
    let moment = (seconds(0..=15), 0..=20u64, proptest::bool::weighted(0.5));
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

/// What ails a service, and which.
fn ailment(by: impl Strategy<Value = Duration> + 'static) -> impl Strategy<Value = (String, Ailment)> {
    let all = Ailment::NAMES.into_iter().flat_map(|word| Ailment::services(word).map(move |service| (service, word)));
    (select(all.collect::<Vec<_>>()), by).prop_map(|((service, word), by)| {
        (service.to_string(), Ailment::named(word, Some(by)).expect("one of its own names"))
    })
}

fn fault(
    kinds: Vec<&'static str>,
    link: impl Strategy<Value = String> + Clone + 'static,
    process: impl Strategy<Value = String> + Clone + 'static,
    sessions: Vec<String>,
) -> impl Strategy<Value = Fault> {
    let moment = select(vec!["claimed", "called", "answered", "checkpointed", "ended", "shown", "accepted"]);
    let after = prop_oneof![2 => seconds(0..=1), 2 => seconds(0..=20), 1 => seconds(0..=60)];
    let cue = (moment, proptest::option::of(select(sessions)), 1..=2u32, after);
    let cue = cue.prop_map(|(event, session, nth, after)| Cue { event: event.into(), session, nth, after });
    let trigger = prop_oneof![4 => cue.prop_map(Trigger::On), 1 => seconds(0..=120).prop_map(Trigger::At)];
    let lasts = prop_oneof![3 => seconds(1..=15), 2 => seconds(15..=90), 1 => seconds(90..=400)];
    let by = prop_oneof![seconds(0..=2), seconds(1..=12)].boxed();
    let statement = select(vec![None, Some("run.terminal"), Some("run.checkpoint"), Some("run.claim"), Some("COMMIT")]);
    let ailment = ailment(by.clone());
    (select(kinds), link, process, ailment, trigger, lasts, by, (statement, any::<bool>(), any::<bool>())).prop_map(
        |(kind, link, process, (service, ailment), trigger, lasts, by, (statement, hard, soft))| {
            let lasts = Length::Lasts(lasts);
            let to_postgres = link.ends_with("->postgres");
            let matches = statement.filter(|_| to_postgres).map(str::to_string);
            let (kind, target, length) = match kind {
                "wedge" => (Kind::Wedge, link, lasts),
                "close" if hard => (Kind::Close, link, Length::Instant),
                "close" => (Kind::Close, link, lasts),
                "reply_lost" => (Kind::ReplyLost { matches }, link, Length::UntilHeal),
                "delay" => (Kind::Delay { by }, link, lasts),
                "pause" => (Kind::Pause, process, lasts),
                "host_loss" => (Kind::HostLoss, process, Length::Instant),
                "ailment" if ailment.instant() => (Kind::Ail(ailment), service, Length::Instant),
                "ailment" => (Kind::Ail(ailment), service, lasts),
                _ if hard && soft => (Kind::Sigkill, process, Length::Instant),
                _ if hard => (Kind::Panic, process, Length::Instant),
                // A container is its engine's to stop.
                _ if soft && !process.contains('.') => (Kind::LostSignal, process, Length::Instant),
                _ => (Kind::Sigterm, process, Length::Instant),
            };
            Fault { kind, targets: vec![target], trigger, length }
        },
    )
}
