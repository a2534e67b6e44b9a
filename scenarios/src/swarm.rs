//! The swarm: users, turns and faults drawn from the seed. Most kinds of fault are off in any one plan and the others
//! wild, because every fault slightly on hides more than it finds.

mod faults;
mod incidents;

use std::collections::BTreeMap;
use std::time::Duration;

use lychgate::limits::MODEL_SILENCE;
use lychgate_sim::plan::duration;
use lychgate_sim::plan::seed::{Purpose, Seed};
use lychgate_sim::plan::{EventMatch, Expect, Fault, Kind, Lifetime, Plan, ServiceManager, Trigger};
use lychgate_sim::standins::provider::dialect::Dialect;
use lychgate_sim::world::process_faults::{RECONFIGURE, SCALE_DOWN, SCALE_UP};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use crate::users::clumsy::{Clumsy, Deed};
use crate::users::{LychgateWorkload, MessageSpec, Reassign, UserSpec};

/// For `list`.
pub const ABOUT: &str = "Users, turns, and faults of links, processes and subscriptions, drawn from the seed";

const NAMES: &[&str] = &["ann", "ben", "cid", "dee", "eve", "fay", "gus", "hal"];

/// How many users there are, and how many where nothing goes wrong: what a load does to a product that is well is seen there.
const FEW: std::ops::RangeInclusive<usize> = 1..=4;
const MANY: std::ops::RangeInclusive<usize> = 2..=8;

/// The share of plans in which nothing goes wrong: what is promised only then, that nobody waits, is put to the test by them.
const CALM: f64 = 0.15;

/// The shortest legal takeover: with the default of minutes, hardly a drawn fault lasts until a run changes hands.
const EAGER_TAKEOVER: &str = "45s";

/// The plan of a seed.
pub fn draw(seed: Seed) -> Plan<LychgateWorkload> {
    let calm = drawn_as(seed, "calm", proptest::bool::weighted(CALM));
    let users = drawn(seed, Purpose::Workload, everybody(if calm { MANY } else { FEW }));
    let executors = prop_oneof![2 => Just(1usize), 3 => Just(2), 1 => Just(3)];
    let agents = prop_oneof![3 => Just(1usize), 1 => Just(2)];
    let (gateways, executors, agents) = drawn(seed, Purpose::Workload, (1..=2usize, executors, agents));
    let subscriptions =
        drawn(seed, Purpose::Workload, select(vec!["a=sk-a,b=sk-b", "b=sk-b,a=sk-a", "a=sk-a,b=sk-b,c=sk-c"]));
    let tokens = subscriptions.split(',').filter_map(|pair| Some(pair.split_once('=')?.1)).collect();
    let topology = Topology { gateways, executors, agents, tokens };
    let handed_on = drawn_as(seed, "settings", handed_on());
    let silence = handed_on.iter().find(|(name, _)| name == "LYCHGATE_MODEL_SILENCE");
    let silence = silence.and_then(|(_, text)| duration::parse(text).ok()).unwrap_or(MODEL_SILENCE);
    let users = meddled(seed, spoken(seed, spread(users, &topology), silence));
    let faults = drawn(seed, Purpose::Faults, faults::faults(&users, &topology));
    let everybodys =
        [("LYCHGATE_AGENTS", topology.agents().join(",")), ("LYCHGATE_SUBSCRIPTIONS", subscriptions.into())];
    let everybodys = everybodys.map(|(name, value)| (name.to_string(), value)).into();
    let takeover = drawn(seed, Purpose::Workload, prop_oneof![Just(None), Just(Some(EAGER_TAKEOVER))]);
    let policy = drawn(seed, Purpose::Workload, prop_oneof![3 => Just(None), 1 => Just(Some("interrupt"))]);
    let settings = [("LYCHGATE_TAKEOVER_AFTER", takeover), ("LYCHGATE_DRAIN_POLICY", policy)];
    let settings = settings.into_iter().filter_map(|(name, value)| Some((name.to_string(), value?.to_string())));
    let settings: BTreeMap<String, String> = settings.chain(handed_on).collect();
    let settings = Some(settings).filter(|settings| !settings.is_empty());
    // Now and then the last executor comes later, while the others are at work.
    let late = drawn(seed, Purpose::Workload, proptest::option::weighted(0.1, seconds(5..=60)));
    let late = late.filter(|_| executors > 1);
    // Or it comes only when it is called, and perhaps in the place of another.
    let incident = drawn_as(seed, "incident", proptest::option::weighted(0.9, incidents::incident(&topology)));
    let amid = incident.as_ref().map(|incident| incident.trigger.clone());
    let scaled = drawn_as(seed, "scaling", proptest::option::weighted(0.4, scaling(executors, amid)));
    let scaled = scaled.filter(|_| executors > 1 && !calm).unwrap_or_default();
    let late = if scaled.is_empty() { late } else { Some(UNCALLED) };
    let late = late.map(|first_boot| {
        (format!("executor-{executors}"), ServiceManager { first_boot: Some(first_boot), ..ServiceManager::default() })
    });
    let service = drawn_as(seed, "managers", managers());
    let incident = incident.map(|incident| incident.faults).unwrap_or_default();
    let faults = faults.into_iter().chain(scaled).chain(incident);
    let faults: Vec<Fault> = faults.filter(|_| !calm).collect();
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

/// Settings of agents, which have them from their executors, and how many runs an executor has at once.
fn handed_on() -> impl Strategy<Value = Vec<(String, String)>> {
    let model = select(vec!["gpt-4.1", "some/model:7b"]).prop_map(str::to_owned);
    let history = (2..=6u32).prop_map(|messages| messages.to_string());
    let silence = seconds(120..=600).prop_map(|silence| format!("{}ms", silence.as_millis()));
    let slots = (1..=6u32).prop_map(|slots| slots.to_string());
    let all = [
        ("LYCHGATE_MODEL", model.boxed()),
        ("AGENT_HISTORY_LIMIT", history.boxed()),
        ("LYCHGATE_MODEL_SILENCE", silence.boxed()),
        ("LYCHGATE_SLOTS", slots.boxed()),
    ];
    let all = all.map(|(name, value)| {
        proptest::option::weighted(0.15, value).prop_map(move |value| value.map(|value| (name.to_owned(), value)))
    });
    all.to_vec().prop_map(|settings| settings.into_iter().flatten().collect())
}

/// Nobody waits for a first boot so long: who is not called comes when everything heals.
const UNCALLED: Duration = Duration::from_secs(24 * 3600);

/// Service managers with ways of their own: a grace that is too short, a signal that comes late, probes, back-offs.
fn managers() -> impl Strategy<Value = BTreeMap<String, ServiceManager>> {
    use proptest::option::weighted;
    let executor = (weighted(0.3, seconds(10..=60)), weighted(0.15, seconds(1..=15)), weighted(0.2, seconds(30..=300)));
    let executor = executor.prop_map(|(grace, pre_stop, restart_max)| ServiceManager {
        grace,
        pre_stop,
        restart_max,
        ..ServiceManager::default()
    });
    let gateway = (weighted(0.2, seconds(3..=15)), weighted(0.15, seconds(1..=15)));
    let gateway = gateway.prop_map(|(probe, pre_stop)| ServiceManager { probe, pre_stop, ..ServiceManager::default() });
    (executor, gateway).prop_map(|(executor, gateway)| {
        let all = [("executor", executor), ("gateway", gateway)];
        let own = all.into_iter().filter(|(_, manager)| *manager != ServiceManager::default());
        own.map(|(role, manager)| (role.to_string(), manager)).collect()
    })
}

/// The last executor comes, and the first goes, or makes way for it; where there is an incident, mostly amid that.
fn scaling(executors: usize, amid: Option<Trigger>) -> impl Strategy<Value = Vec<Fault>> {
    let cue = (select(vec!["claimed", "called", "checkpointed"]), 1..=2u32, seconds(0..=20));
    let cue = cue.prop_map(|(event, nth, after)| EventMatch { event: event.into(), session: None, nth, after });
    let fault = |kind, targets: &[&String], trigger| {
        let targets = targets.iter().map(|target| (*target).clone()).collect();
        Fault::new(kind, targets, trigger, Lifetime::Instant)
    };
    let how = select(vec!["up", "up and down", "up and down", "instead", "instead"]);
    let amid = proptest::option::weighted(0.9, Just(amid)).prop_map(Option::flatten);
    let more = prop_oneof![seconds(0..=2), seconds(0..=20)];
    (how, cue, amid, more).prop_map(move |(how, cue, amid, more)| {
        let (first, last) = ("executor-1".to_string(), format!("executor-{executors}"));
        // Nobody goes for good before the newcomer has been called.
        let now = amid.unwrap_or(Trigger::On(cue));
        let later = now.clone().delayed(more);
        match how {
            "up" => vec![fault(Kind::of(&SCALE_UP), &[&last], now)],
            "instead" => vec![fault(Kind::of(&RECONFIGURE), &[&first, &last], now)],
            _ => vec![fault(Kind::of(&SCALE_UP), &[&last], now), fault(Kind::of(&SCALE_DOWN), &[&first], later)],
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

fn saying() -> impl Strategy<Value = MessageSpec> {
    // An operator holds a session now and then, and always lets it go again.
    let hold = prop_oneof![7 => Just(None), 1 => (seconds(1..=40), seconds(1..=60)).prop_map(Some)];
    let cancel = prop_oneof![4 => Just(None), 1 => seconds(1..=60).prop_map(Some)];
    let takes = prop_oneof![3 => seconds(1..=20), 2 => seconds(20..=90)];
    let leaves = prop_oneof![9 => Just(None), 1 => seconds(1..=60).prop_map(Some)];
    let slowly = prop_oneof![9 => Just(Duration::ZERO), 1 => seconds(1..=5)];
    let to = (seconds(0..=60), select(vec!["a", "b"])).prop_map(|(after, to)| Reassign { after, to: to.into() });
    let reassign = proptest::option::weighted(0.08, to);
    (1..=2u32, 1..=3u32, takes, 1..=12u32, cancel, hold, 0..=1u32, (leaves, slowly, reassign)).prop_map(
        |(session, turns, takes, tokens, cancel_after, hold, reconnects, (leaves_after, reads_every, reassign))| {
            // A model that is silent for longer than it is waited for is a fault, and drawn as one.
            let tokens = tokens.max(1 + (takes.as_secs_f64() / (0.75 * MODEL_SILENCE.as_secs_f64())) as u32);
            MessageSpec {
                session,
                at: Duration::ZERO,
                turns,
                takes,
                tokens,
                dialect: Dialect::Plain,
                cancel_after,
                times: 1,
                every: Duration::ZERO,
                suspend_after: hold.map(|(after, _)| after),
                unsuspend_after: hold.map(|(after, lasts)| after + lasts),
                reconnects,
                leaves_after,
                new_key: false,
                reads_every,
                reassign,
                clumsy: None,
            }
        },
    )
}

fn everybody(people: std::ops::RangeInclusive<usize>) -> impl Strategy<Value = LychgateWorkload> {
    let person = (seconds(0..=10), vec(saying(), 1..=3));
    vec(person, people).prop_map(|people| {
        let named = people.into_iter().zip(NAMES).map(|((at, mut says), name)| {
            says[0].at = at;
            UserSpec { name: (*name).to_string(), agent: None, says }
        });
        LychgateWorkload(named.collect())
    })
}

/// Somebody clumsy or hostile, who does some of what such people do, in their order.
fn clumsy() -> impl Strategy<Value = Clumsy> {
    let after = prop_oneof![1 => seconds(0..=2), 3 => seconds(0..=40)];
    let does = subsequence(Deed::ALL.to_vec(), 1..=5);
    (after, does).prop_map(|(after, does)| Clumsy { after, does })
}

/// The same users, with some answers in other dialects than OpenAI's own, and some that take long: a model that shows that it lives may
/// take its time over a word, another one three quarters of the longest legal silence.
fn spoken(seed: Seed, mut users: LychgateWorkload, silence: Duration) -> LychgateWorkload {
    let dialects = Dialect::WORDS.iter().filter_map(|word| Dialect::of(word)).collect::<Vec<_>>();
    let thinks = proptest::option::weighted(0.5, (seconds(60..=480), 1..=3u32));
    let answer = proptest::option::weighted(0.2, (select(dialects), thinks));
    let says = users.0.iter_mut().flat_map(|person| &mut person.says).collect::<Vec<_>>();
    let answers = drawn_as(seed, "dialects", vec(answer, says.len()));
    for (saying, answer) in says.into_iter().zip(answers) {
        let Some((dialect, thinks)) = answer else { continue };
        saying.dialect = dialect;
        if let Some((takes, tokens)) = thinks {
            let silent = dialect.shows_life_every().is_none();
            saying.takes = if silent { takes.min(silence * tokens * 3 / 4) } else { takes };
            saying.tokens = tokens;
        }
    }
    users
}

/// The same users, with somebody clumsy or hostile beside some of what they say.
fn meddled(seed: Seed, mut users: LychgateWorkload) -> LychgateWorkload {
    let says = users.0.iter_mut().flat_map(|person| &mut person.says).collect::<Vec<_>>();
    let meddlers = drawn_as(seed, "meddlers", vec(proptest::option::weighted(0.3, clumsy()), says.len()));
    for (saying, meddler) in says.into_iter().zip(meddlers) {
        saying.clumsy = meddler;
    }
    users
}

/// How many there are of each, and by which subscriptions agents reach their models.
struct Topology {
    gateways: usize,
    executors: usize,
    agents: usize,
    /// The subscriptions' tokens.
    tokens: Vec<&'static str>,
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
    fn slots(&self) -> Vec<String> {
        self.agents().iter().flat_map(|agent| [format!("{agent}.1"), format!("{agent}.2")]).collect()
    }
}

/// Gives every user an agent, in turn.
fn spread(mut users: LychgateWorkload, topology: &Topology) -> LychgateWorkload {
    for (person, agent) in users.0.iter_mut().zip(topology.agents().iter().cycle()) {
        person.agent = Some(agent.clone());
    }
    users
}

#[cfg(test)]
mod tests {
    use lychgate_sim::plan;
    use lychgate_sim::world::words;

    use super::*;
    use crate::Lychgate;

    /// Prints the plan of a seed, and reads what is printed as a file is read: it offers that plan and no other.
    fn round(seed: u64) {
        let drawn = draw(Seed(seed));
        let text = plan::print(&drawn);
        match words::parse_all::<Lychgate>(&format!("swarm@{seed}"), &text) {
            Ok(read) => assert_eq!(read, [drawn], "{text}"),
            Err(errors) => panic!("{errors}"),
        }
    }

    #[test]
    fn a_drawn_plan_that_is_printed_is_read_as_it_was() {
        (1..=500).for_each(round);
    }

    proptest! {
        #![proptest_config(Config { cases: 100, failure_persistence: None, ..Config::default() })]

        #[test]
        fn so_is_that_of_any_seed(seed: u64) {
            round(seed);
        }
    }
}
