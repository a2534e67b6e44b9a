//! Nothing grows for ever: no collection is above its bound, at any time, and at rest each is back at its baseline. Seen
//! from outside where it can be (connections, Redis's keys, queues, rows), and by the gauges that processes tell.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lychgate::limits;
use lychgate_sim::trace::event::{Event, What, WorldEvent};
use lychgate_sim::trace::invariant::{Breach, Obligation};

use super::Promise;
use super::world::{Memory, World, leads_to};
use crate::events::{AgentEvent, DeliveryEvent, Did, How, KeyEvent, KeyKind, Queue, RunEvent};
use crate::names::{self, Role, role};

/// A connection that is replaced may overlap with its successor for as long as its end is on its way.
const OVERLAP: Duration = Duration::from_secs(1);
/// The commands of one pipeline arrive together.
const PIPELINE: Duration = Duration::from_secs(2);
/// What must follow within this once nothing is faulty.
const HEALED: Duration = Duration::from_secs(60);
/// `MAXLEN ~` drops whole nodes of a hundred entries; the end and a note of a move come on top.
const STREAM_SLACK: usize = 102;
/// Connections to Postgres beside the pool, for checkpoints.
const CHECKPOINT_CONNECTIONS: usize = limits::CHECKPOINT_CONNECTIONS;
/// Virtual time over which the slope of a gauge means something.
const SLOPE_AFTER: Duration = Duration::from_secs(24 * 3600);

/// A key of Redis that does not lapse by itself.
#[derive(Clone)]
struct Key {
    kind: KeyKind,
    /// The process that wrote it last.
    process: String,
    since: Duration,
}

/// What a process told of itself while nothing was going on.
#[derive(Default)]
struct Gauges {
    began: Duration,
    until: Duration,
    /// Each told number, in order, by name.
    samples: BTreeMap<&'static str, Vec<i64>>,
}

/// See the module.
pub struct BoundedMemory {
    slots: usize,
    history_limit: Option<i64>,
    /// Roads with more connections than their bound, and since when.
    above: BTreeMap<(String, String), Duration>,
    /// What has a time to live leaves it: nobody owes anything about it.
    keys: BTreeMap<String, Key>,
    live: usize,
    /// Both of these when Redis's memory was noted.
    noted: (BTreeMap<String, Key>, usize),
    sessions: BTreeSet<String>,
    /// Runs that are not over.
    open: BTreeMap<String, String>,
    /// Messages of the queue of runs that wait: since when, by run. A run has one at least.
    ready: BTreeMap<String, Vec<Duration>>,
    /// Messages that were handed out, by process, connection and queue.
    unacked: BTreeMap<(String, u32, Queue), usize>,
    /// Until when no executor could be handed one more of the queue of runs.
    crowded_until: Duration,
    gauges: BTreeMap<String, Gauges>,
    idle_since: Duration,
    armed: bool,
}

impl BoundedMemory {
    /// For executors with so many slots, and agents that keep so many messages, if that is set.
    pub fn new(slots: usize, history_limit: Option<i64>) -> Self {
        BoundedMemory {
            slots,
            history_limit,
            above: BTreeMap::new(),
            keys: BTreeMap::new(),
            live: 0,
            noted: Default::default(),
            sessions: BTreeSet::new(),
            open: BTreeMap::new(),
            ready: BTreeMap::new(),
            unacked: BTreeMap::new(),
            crowded_until: Duration::ZERO,
            gauges: BTreeMap::new(),
            idle_since: Duration::ZERO,
            armed: false,
        }
    }

    /// The most connections of a process to a service. Where none is declared, none is asked for.
    fn links_max(&self, world: &World, near: &str, far: &str) -> Option<usize> {
        let executor = role(near) == Some(Role::Executor);
        if role(near) == Some(Role::Agent) && far == "provider" {
            return Some(limits::AGENT_TURNS);
        }
        if !executor && role(near) != Some(Role::Gateway) {
            return None;
        }
        match far {
            "postgres" if executor => Some(limits::POSTGRES_CONNECTIONS + CHECKPOINT_CONNECTIONS),
            "postgres" => Some(limits::POSTGRES_CONNECTIONS),
            "redis" if executor => Some(1),
            // One for each reader of a stream, and each of those is connected to the gateway.
            "redis" => Some(1 + world.links.leading_to(near)),
            // The intake, and hints of its own.
            "rabbitmq" if executor => Some(2),
            "rabbitmq" => Some(1),
            // A call of each run, and one that asks whether it is ready.
            agent if executor && role(agent) == Some(Role::Agent) => Some(self.slots + 1),
            _ => None,
        }
    }

    fn count_links(&mut self, world: &World, at: Duration) {
        let mut above = BTreeMap::new();
        for (near, far, open) in world.links.roads() {
            if self.links_max(world, near, far).is_some_and(|max| open.len() > max) {
                let road = (near.to_string(), far.to_string());
                let since = self.above.get(&road).copied().unwrap_or(at);
                above.insert(road, since);
            }
        }
        self.above = above;
    }

    fn link_owed(&self, world: &World, near: &str, far: &str, since: Duration) -> Obligation {
        let due = match role(near) == Some(Role::Gateway) && far == "redis" {
            // A gateway learns that its reader is gone over the reader's own link, and not while it stands still.
            true => match world.health.calm_since(|target| target == near || leads_to(target, near)) {
                None => Duration::MAX,
                Some(calm) => calm.max(since) + HEALED,
            },
            false => since + OVERLAP,
        };
        let max = self.links_max(world, near, far).unwrap_or_default();
        Obligation::new(format!("{near} has at most {max} connections to {far}"), since, due)
    }

    fn kept(
        &mut self,
        world: &World,
        event: &Event<Did>,
        label: &str,
        kind: KeyKind,
        entries: usize,
        lasts: Option<u64>,
    ) -> Result<(), Breach> {
        let longest = match kind {
            KeyKind::Live => None,
            KeyKind::Lease => Some(limits::LEASE_TTL),
            KeyKind::Stream | KeyKind::Ended => Some(limits::STREAM_TTL),
            KeyKind::Unknown => return Err(Breach::now("Redis holds a key that no bound is known for")),
        };
        if let (Some(longest), Some(lasts)) = (longest, lasts)
            && lasts > (longest + world.health.clock_off("redis")).as_secs()
        {
            return Err(Breach::now(format!("{label} is kept for longer than {} s", longest.as_secs())));
        }
        if kind == KeyKind::Live {
            self.live = entries;
            if entries > self.sessions.len() {
                return Err(Breach::now(format!("the live view has {entries} entries, more than there are sessions")));
            }
        }
        if kind == KeyKind::Stream && entries > limits::STREAM_LENGTH + STREAM_SLACK {
            return Err(Breach::now(format!("{label} has {entries} entries")));
        }
        self.armed |= kind == KeyKind::Stream && lasts.is_some();
        if entries == 0 || lasts.is_some() || kind == KeyKind::Live {
            self.keys.remove(label);
        } else {
            self.keys.insert(label.to_string(), Key { kind, process: event.process.clone(), since: event.at });
        }
        Ok(())
    }

    /// A key that does not lapse soon does: who wrote it says so in the same breath. If it was cut off or died in
    /// between, the next owner of the run does.
    fn key_owed(&self, world: &World, label: &str, key: &Key) -> Option<Obligation> {
        let Key { kind, process, since } = key;
        let link = format!("{process}->redis");
        let calm = world.health.calm_since(|target| target == link || target == process)?;
        let undisturbed = calm.is_zero() || calm + HEALED <= *since;
        let says = format!("{label}, a {} in Redis, is given a time to live", kind.word());
        Some(Obligation::new(says, *since, if undisturbed { *since + PIPELINE } else { calm.max(*since) + HEALED }))
    }

    fn moved(
        &mut self,
        world: &World,
        event: &Event<Did>,
        queue: Queue,
        line: u32,
        run: &str,
        change: isize,
    ) -> Result<(), Breach> {
        if change < 0 && !self.has_room(world) {
            self.crowded_until = event.at;
        }
        let unacked = self.unacked.entry((event.process.clone(), line, queue)).or_default();
        *unacked = unacked.saturating_add_signed(change);
        let prefetch = match queue {
            Queue::Runs => self.slots,
            Queue::Cancels => limits::HINTS_QUEUED,
        };
        if *unacked > prefetch {
            return Err(Breach::now(format!(
                "{} has {unacked} deliveries of {} unsettled",
                event.process,
                queue.word()
            )));
        }
        if queue == Queue::Runs
            && change > 0
            && let Some(waiting) = self.ready.get_mut(run)
        {
            waiting.pop();
            if waiting.is_empty() {
                self.ready.remove(run);
            }
        }
        Ok(())
    }

    /// Whether some executor that is well may be handed one more of the queue of runs.
    fn has_room(&self, world: &World) -> bool {
        world.health.ready_executors().any(|process| {
            let handed = self.unacked.iter().filter(|((to, _, queue), _)| to == process && *queue == Queue::Runs);
            handed.map(|(_, unacked)| unacked).sum::<usize>() < self.slots
        })
    }

    /// A hint whose run is over leaves the queue: some executor looks at it, and lets it go.
    fn hint_owed(&self, world: &World, run: &str, since: Duration) -> Option<Obligation> {
        let since = since.max(world.runs.over(run)?.at);
        let matters = |target: &str| role(names::near(target)) == Some(Role::Executor);
        let due = match (world.health.calm_since(matters), world.health.executor_since()) {
            (Some(calm), Some(ready)) if self.has_room(world) => {
                calm.max(ready).max(since).max(self.crowded_until) + HEALED
            }
            _ => Duration::MAX,
        };
        Some(Obligation::new(format!("the hint of {run}, which is over, leaves the queue"), since, due))
    }

    /// What a process tells of itself: each `NAME` beside its `NAME_limit`, and how many runs, tasks and threads it has.
    ///
    /// # Errors
    /// A collection is above its limit, or there are runs at rest.
    pub fn gauges(&mut self, at: Duration, process: &str, body: &BTreeMap<String, i64>) -> Result<(), Breach> {
        let told = |name: &str| body.get(name).copied();
        for name in body.keys() {
            let (Some(now), Some(limit)) = (told(name), told(&format!("{name}_limit"))) else { continue };
            if now > limit {
                return Err(Breach::now(format!("{process} tells of {now} {name}, and of a limit of {limit}")));
            }
        }
        if let (Some(limit), Some(told)) = (self.history_limit, told("history_limit"))
            && told != limit
        {
            return Err(Breach::now(format!("{process} keeps {told} messages, and is to keep {limit}")));
        }
        if !self.open.is_empty() || at < self.idle_since + HEALED {
            return Ok(());
        }
        if let Some(runs) = told("runs").filter(|runs| *runs > 0) {
            return Err(Breach::now(format!("at rest {process} tells of {runs} runs")));
        }
        let gauges =
            self.gauges.entry(process.to_string()).or_insert_with(|| Gauges { began: at, ..Gauges::default() });
        gauges.until = at;
        for name in ["tasks", "threads"] {
            if let Some(now) = told(name) {
                gauges.samples.entry(name).or_default().push(now);
            }
        }
        Ok(())
    }
}

impl Gauges {
    /// The gauge whose least value has grown from the first third of its samples to the last. Its largest may be a moment in
    /// which two looks fell together.
    fn growing(&self) -> Option<&'static str> {
        if self.until < self.began + SLOPE_AFTER {
            return None;
        }
        let least = |samples: &[i64]| samples.iter().copied().min().unwrap_or(i64::MIN);
        self.samples.iter().find_map(|(name, samples)| {
            let third = samples.len() / 3;
            (third > 0 && least(&samples[samples.len() - third..]) > least(&samples[..third])).then_some(*name)
        })
    }
}

impl Promise for BoundedMemory {
    fn name(&self) -> &'static str {
        "bounded_memory"
    }

    fn says(&self) -> &'static str {
        "no collection is above its bound, and at rest each is back at its baseline"
    }

    fn observe(&mut self, event: &Event<Did>, world: &World) -> Result<(), Breach> {
        match Memory::of(event) {
            Some(Memory::Lost) => (self.keys, self.live) = Default::default(),
            Some(Memory::Noted) => self.noted = (self.keys.clone(), self.live),
            Some(Memory::Restored) => (self.keys, self.live) = self.noted.clone(),
            None => {}
        }
        if let What::World(WorldEvent::FaultStruck { kind, .. }) = &event.what
            && kind.word == "purge"
        {
            self.ready.clear();
        }
        if let What::World(WorldEvent::LinkOpened { .. } | WorldEvent::LinkClosed { .. }) = &event.what {
            self.count_links(world, event.at);
        }
        let did = match &event.what {
            What::Product(did) => did,
            What::World(WorldEvent::Booted) => {
                self.gauges.remove(&event.process);
                return Ok(());
            }
            What::World(_) => return Ok(()),
        };
        match did {
            Did::Run(RunEvent::Accepted { session, run }) => {
                self.sessions.insert(session.clone());
                if let Some(open) = self.open.insert(session.clone(), run.clone()) {
                    return Err(Breach::now(format!("{session} has two runs that are not over: {open} and {run}")));
                }
            }
            Did::Run(RunEvent::Ended { session, run, .. }) => {
                self.open.retain(|of, open| of != session || open != run);
                self.idle_since = event.at;
            }
            Did::Agent(AgentEvent::Probed { process, gauges, .. }) => self.gauges(event.at, process, gauges)?,
            Did::Key(KeyEvent::Kept { key, kind, entries, lasts, .. }) => {
                self.kept(world, event, key, *kind, *entries, *lasts)?
            }
            Did::Run(RunEvent::Hinted { run, .. }) => self.ready.entry(run.clone()).or_default().push(event.at),
            Did::Delivery(DeliveryEvent::Delivered { run, queue, line, .. }) => {
                self.moved(world, event, *queue, *line, run, 1)?
            }
            Did::Delivery(DeliveryEvent::Settled { run, queue, line, how, .. }) => {
                self.moved(world, event, *queue, *line, run, -1)?;
                if *queue == Queue::Runs && matches!(how, How::GivenBack | How::Returned) {
                    self.ready.entry(run.clone()).or_default().push(event.at);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn pending(&self, world: &World) -> Vec<Obligation> {
        let links = self.above.iter().map(|((near, far), since)| self.link_owed(world, near, far, *since));
        let keys = self.keys.iter().filter_map(|(label, key)| self.key_owed(world, label, key));
        let ready = self.ready.iter().flat_map(|(run, all)| all.iter().map(move |since| (run, *since)));
        let hints = ready.filter_map(|(run, since)| self.hint_owed(world, run, since));
        links.chain(keys).chain(hints).collect()
    }

    fn conclude(&mut self) -> Result<(), Breach> {
        if self.live > 0 {
            return Err(Breach::now(format!("at rest the live view has {} entries", self.live)));
        }
        if let Some(label) = self.keys.keys().next() {
            return Err(Breach::now(format!("at rest {label} in Redis has no time to live")));
        }
        if let Some(run) = self.ready.keys().next() {
            return Err(Breach::now(format!("at rest a hint of {run} waits in the queue")));
        }
        if let Some(((process, ..), _)) = self.unacked.iter().find(|(_, unacked)| **unacked > 0) {
            return Err(Breach::now(format!("at rest {process} has a delivery unsettled")));
        }
        let growing = self.gauges.iter().find_map(|(process, gauges)| Some((process, gauges.growing()?)));
        growing.map_or(Ok(()), |(process, name)| {
            Err(Breach::now(format!("the {name} of {process} grow from rest to rest")))
        })
    }

    fn armed(&self) -> bool {
        self.armed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(gauges: &[(&str, i64)]) -> BTreeMap<String, i64> {
        gauges.iter().map(|(name, value)| ((*name).to_string(), *value)).collect()
    }

    fn hours(hours: u64) -> Duration {
        Duration::from_secs(hours * 3600)
    }

    #[test]
    fn a_gauge_above_its_limit_is_a_breach_and_one_at_it_is_not() {
        let mut memory = BoundedMemory::new(4, None);
        assert_eq!(
            memory.gauges(hours(0), "agent-1.1", &told(&[("history", 1000), ("history_limit", 1000), ("runs", 3)])),
            Ok(())
        );
        let breach =
            memory.gauges(hours(0), "agent-1.1", &told(&[("history", 1001), ("history_limit", 1000)])).unwrap_err();
        assert!(breach.says.contains("1001 history"), "{}", breach.says);
    }

    #[test]
    fn runs_at_rest_are_a_breach() {
        let mut memory = BoundedMemory::new(4, None);
        assert_eq!(memory.gauges(hours(1), "agent-1.1", &told(&[("runs", 0)])), Ok(()));
        assert!(memory.gauges(hours(1), "agent-1.1", &told(&[("runs", 1)])).unwrap_err().says.contains("at rest"));
    }

    #[test]
    fn a_gauge_that_grows_over_days_is_a_breach_and_one_that_swings_is_not() {
        for (slope, grows) in [(0, false), (1, true)] {
            let mut memory = BoundedMemory::new(4, None);
            for hour in 1..=72 {
                let tasks = 10 + (hour % 5) as i64 + slope * hour as i64;
                memory.gauges(hours(hour), "agent-1.1", &told(&[("tasks", tasks), ("threads", 2)])).unwrap();
            }
            assert_eq!(memory.conclude().is_err(), grows, "slope {slope}");
        }
    }
}
