//! Who is well: which links are faulty, which processes live. Invariants ask it since when a deadline may run.

use std::collections::BTreeMap;
use std::time::Duration;

use lychgate::limits;
use lychgate_sim::link::faults::HALF_OPEN;
use lychgate_sim::plan::FaultRow;
use lychgate_sim::standins::clock;
use lychgate_sim::standins::provider::faults::DIALECT;
use lychgate_sim::standins::redis::faults::{DEMOTED, MISROUTED};
use lychgate_sim::trace::event::{Event, What, WorldEvent};
use lychgate_sim::trace::fault::{FaultId, FaultKind};
use lychgate_sim::world::process_faults::{
    LOST_SIGNAL, PAUSE, RECONFIGURE, ROLLING_RESTART, SCALE_DOWN, SCALE_UP, SIGTERM,
};

use crate::names::{Role, ends, role};

/// Faults that are no sickness: what they tell a process to do, it must do in order, and what comes in another dialect is as
/// good. A kill that follows is seen as one.
static ORDERS: [&FaultRow; 7] =
    [&SIGTERM, &ROLLING_RESTART, &LOST_SIGNAL, &SCALE_UP, &SCALE_DOWN, &RECONFIGURE, &DIALECT];

/// How long a fault excuses that processes can evade while it lasts; `None` for one that they must bear.
fn evaded_within(kind: &FaultKind, target: &str) -> Option<Duration> {
    match target {
        // They dial anew.
        _ if *kind == DEMOTED.kind => Some(limits::REDIS_REDIAL),
        _ if *kind == HALF_OPEN.kind && target.ends_with("->postgres") => Some(limits::POSTGRES_CALL),
        // They restart it.
        _ if *kind == PAUSE.kind && role(target) == Some(Role::Agent) => Some(HANGS),
        _ => None,
    }
}

/// From the moment when an agent hangs to its restart: the next look, those that follow in vain, and the stop.
const HANGS: Duration = Duration::from_secs(
    limits::INSPECT_EVERY.as_secs()
        + limits::AGENT_HANGS.as_secs()
        + 2 * limits::TEND_EVERY.as_secs()
        + limits::ENGINE_STOP.as_secs(),
);

/// How long a fault excuses that is over: connections lead astray that began while it was there, until they are dialled anew.
fn lingers(kind: &FaultKind) -> Duration {
    if *kind == MISROUTED.kind { limits::REDIS_REDIAL } else { Duration::ZERO }
}

fn is_order(kind: &FaultKind) -> bool {
    ORDERS.iter().any(|row| row.kind == *kind)
}

/// What becomes of what Redis holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// Redis's memory is gone.
    Lost,
    /// From here on it will be lost, and what there is now will be back.
    Noted,
    /// Redis's memory is what it was when it was noted.
    Restored,
}

impl Memory {
    /// What this event does to it.
    pub fn of<O>(event: &Event<O>) -> Option<Memory> {
        match &event.what {
            What::World(WorldEvent::FaultStruck { kind, target, .. })
                if target == "redis" && ["restart", "flush"].contains(&kind.word) =>
            {
                Some(Memory::Lost)
            }
            What::World(WorldEvent::FaultStruck { kind, target, .. })
                if target == "redis" && kind.word == "failover" =>
            {
                Some(Memory::Noted)
            }
            What::World(WorldEvent::FaultHealed { kind, target, .. })
                if target == "redis" && kind.word == "failover" =>
            {
                Some(Memory::Restored)
            }
            _ => None,
        }
    }
}

/// Whether a fault sets a clock ahead or back.
fn is_of_clock(kind: &FaultKind) -> bool {
    *kind == clock::AHEAD.kind || *kind == clock::BEHIND.kind
}

/// What is known of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Life {
    /// The number of its life, as the world counts.
    pub incarnation: u32,
    /// Whether it lives.
    pub alive: bool,
    /// Whether it was told to stop.
    pub draining: bool,
    /// Whether it stands still. It is not ready then, and cannot know that it is late.
    pub paused: bool,
    /// When it last began to stand still.
    pub stood_still: Option<Duration>,
    /// When it last went on after standing still.
    pub went_on: Option<Duration>,
    /// When any of this last changed.
    pub since: Duration,
}

/// Follows faults and lives.
#[derive(Debug, Default)]
pub struct Health {
    /// Faults that are going, by number, with their target.
    faults: BTreeMap<(FaultId, String), Duration>,
    /// When the last fault on a target ended.
    healed: BTreeMap<String, Duration>,
    /// By fault of a clock, with its target: until when what it made look old or young may show. It steps back when it heals.
    misled: BTreeMap<(FaultId, String), Duration>,
    /// By target and kind of fault: until when it lasts, or lasted.
    kinds: BTreeMap<(String, &'static str), Duration>,
    /// When the clock of a service last stepped ahead: struck so, or set right after it was behind.
    stepped: BTreeMap<String, Duration>,
    /// By process name.
    lives: BTreeMap<String, Life>,
    now: Duration,
}

impl Health {
    /// Learns of an event.
    pub fn observe<O>(&mut self, event: &Event<O>) {
        self.now = event.at;
        let What::World(happening) = &event.what else { return };
        let life = |alive| Life { incarnation: event.incarnation, alive, since: event.at, ..Life::default() };
        match happening {
            WorldEvent::FaultStruck { kind, .. } if is_order(kind) => {}
            WorldEvent::FaultStruck { target, kind, .. } if evaded_within(kind, target).is_some() => {
                let evaded = event.at + evaded_within(kind, target).unwrap_or_default();
                self.healed.insert(target.clone(), evaded);
                self.kinds.insert((target.clone(), kind.word), evaded);
            }
            WorldEvent::FaultHealed { kind, target, .. } if evaded_within(kind, target).is_some() => {}
            WorldEvent::FaultStruck { fault, target, kind, .. } => {
                self.faults.insert((*fault, target.clone()), event.at);
                self.kinds.insert((target.clone(), kind.word), Duration::MAX);
                if is_of_clock(kind) {
                    self.misled.insert((*fault, target.clone()), Duration::MAX);
                }
                if **kind == clock::AHEAD.kind {
                    self.stepped.insert(target.clone(), event.at);
                }
            }
            WorldEvent::FaultHealed { kind, .. } if is_order(kind) => {}
            WorldEvent::FaultHealed { fault, target, kind, .. } => {
                self.faults.remove(&(*fault, target.clone()));
                let over = event.at + lingers(kind);
                self.healed.insert(target.clone(), over);
                self.kinds.insert((target.clone(), kind.word), over);
                if is_of_clock(kind) {
                    self.misled.insert((*fault, target.clone()), event.at + clock::OFF_MAX);
                }
                if **kind == clock::BEHIND.kind {
                    self.stepped.insert(target.clone(), event.at);
                }
            }
            WorldEvent::Booted => {
                self.lives.insert(event.process.clone(), life(true));
            }
            WorldEvent::Signalled { .. } => {
                let before = self.lives.entry(event.process.clone()).or_insert(life(true));
                *before = Life { draining: true, since: event.at, ..*before };
            }
            WorldEvent::Paused => {
                let before = self.lives.entry(event.process.clone()).or_insert(life(true));
                *before = Life { paused: true, stood_still: Some(event.at), since: event.at, ..*before };
            }
            WorldEvent::Resumed => {
                let before = self.lives.entry(event.process.clone()).or_insert(life(true));
                *before = Life { paused: false, went_on: Some(event.at), since: event.at, ..*before };
            }
            WorldEvent::Exited { .. } | WorldEvent::Killed | WorldEvent::Panicked => {
                // How its last life went still counts for how it ended.
                let went_on = self.life(&event.process).went_on;
                self.lives.insert(event.process.clone(), Life { went_on, ..life(false) });
            }
            _ => {}
        }
    }

    /// Since when no fault has been on any target that matters, or `None` while there is one. Zero: there never was.
    pub fn calm_since(&self, matters: impl Fn(&str) -> bool) -> Option<Duration> {
        let healed = self.healed_since(&matters)?;
        let moved = self.lives.iter().filter(|(name, life)| life.incarnation > 1 && matters(name));
        Some(moved.map(|(_, life)| life.since).max().unwrap_or_default().max(healed))
    }

    /// The same, whatever processes do by themselves.
    pub fn healed_since(&self, matters: impl Fn(&str) -> bool) -> Option<Duration> {
        let reaches = |target: &str| self.reaches(target, &matters);
        if self.faults.keys().any(|(_, target)| reaches(target)) {
            return None;
        }
        let healed = self.healed.iter().filter(|(target, _)| reaches(target)).map(|(_, at)| *at).max();
        Some(healed.unwrap_or_default())
    }

    /// Whether nothing has been amiss anywhere since a minute before then: no fault, no process that was told to stop, and an
    /// executor all the time.
    pub fn is_undisturbed_since(&self, since: Duration) -> bool {
        const AFTERMATH: Duration = Duration::from_secs(60);
        let calm = self.calm_since(|_| true).is_some_and(|calm| calm.is_zero() || calm + AFTERMATH <= since);
        // A container that is gone may be one of a finished move.
        let well = |(name, life): (&String, &Life)| match role(name) {
            Some(Role::Agent) => !life.paused,
            _ => life.alive && !life.draining && !life.paused,
        };
        let served = self.executor_since().is_some_and(|at| at <= since);
        calm && served && self.lives.iter().all(well)
    }

    /// Whether a fault of one of these kinds has been on a target that matters at any time since then.
    pub fn was_struck_since(&self, kinds: &[&str], matters: impl Fn(&str) -> bool, since: Duration) -> bool {
        let mut all = self.kinds.iter();
        all.any(|((target, kind), until)| kinds.contains(kind) && *until >= since && matters(target))
    }

    /// Whether a fault on `target` is one on what matters. What ails a service is on every process's link to it.
    fn reaches(&self, target: &str, matters: impl Fn(&str) -> bool) -> bool {
        let service = !target.contains(['>', '/']) && !self.lives.contains_key(target);
        matters(target) || service && self.lives.keys().any(|process| matters(&format!("{process}->{target}")))
    }

    /// By how much times that a service tells may be off.
    pub fn clock_off(&self, service: &str) -> Duration {
        let misled = self.misled.iter().any(|((_, target), until)| target == service && self.now < *until);
        if misled { clock::OFF_MAX } else { Duration::ZERO }
    }

    /// Whether a service's clock has been off at any time: what it wrote then may stand in any order.
    pub fn was_ever_off(&self, service: &str) -> bool {
        self.misled.keys().any(|(_, target)| target == service)
    }

    /// Whether a service's clock has stepped ahead since: what is older looks older than it is.
    pub fn has_stepped_since(&self, service: &str, since: Duration) -> bool {
        self.stepped.get(service).is_some_and(|at| *at >= since)
    }

    /// Whether it has gone on so lately after standing still that what it is late for is no fault of its own.
    pub fn has_just_gone_on(&self, process: &str, lately: Duration) -> bool {
        self.life(process).went_on.is_some_and(|at| at + lately >= self.now)
    }

    /// A process's life.
    pub fn life(&self, process: &str) -> Life {
        self.lives.get(process).copied().unwrap_or_default()
    }

    /// Whether this incarnation of the process lives.
    pub fn is_alive(&self, process: &str, incarnation: u32) -> bool {
        let life = self.life(process);
        life.alive && life.incarnation == incarnation
    }

    /// Since when some executor has been there to take a run, or `None` while there is none.
    pub fn executor_since(&self) -> Option<Duration> {
        self.ready_executors().map(|process| self.life(process).since).min()
    }

    /// The executors that may take a run.
    pub fn ready_executors(&self) -> impl Iterator<Item = &str> {
        self.executors(|life| !life.draining)
    }

    /// Whether some executor moves, one that is to stop included: it sees what waits.
    pub fn any_executor(&self) -> bool {
        self.executors(|_| true).next().is_some()
    }

    /// The executors that live and move, of those whose life is so.
    fn executors(&self, is: impl Fn(&Life) -> bool) -> impl Iterator<Item = &str> {
        let moves = move |life: &Life| life.alive && !life.paused && is(life);
        let moving = self.lives.iter().filter(move |(name, life)| moves(life) && role(name) == Some(Role::Executor));
        moving.map(|(name, _)| name.as_str())
    }

    /// The time of the last event.
    pub fn now(&self) -> Duration {
        self.now
    }
}

/// Whether `target` is the link of some process to `service`, or a caller that it refuses.
pub fn leads_to(target: &str, service: &str) -> bool {
    // Asked for every target at every event: no search for the arrow.
    target.strip_suffix(service).is_some_and(|from| from.ends_with("->"))
        || target.strip_prefix(service).is_some_and(|caller| caller.starts_with('/') && !caller.contains("->"))
}

/// Whether it is a link to Postgres or Redis, or an executor: what a run's end depends on.
pub fn matters_to_ends(target: &str) -> bool {
    leads_to(target, "postgres") || leads_to(target, "redis") || role(target) == Some(Role::Executor)
}

/// Whether it is in the way of this agent, no other one's: its containers and their callers, the engine, Postgres, an
/// executor.
pub fn matters_to_agent(agent: &str) -> impl Fn(&str) -> bool {
    let slots = format!("{agent}.");
    move |target: &str| match ends(target) {
        Some((from, to)) => to == "engine" || to == "postgres" || from.starts_with(&slots) || to.starts_with(&slots),
        None => target.starts_with(&slots) || role(target) == Some(Role::Executor),
    }
}

#[cfg(test)]
mod tests {
    use lychgate_sim::plan::FaultRow;
    use lychgate_sim::standins::redis::faults::FULL;

    use super::*;
    use crate::events::Did;

    #[test]
    fn a_paused_process_is_not_ready_and_its_pauses_add_up() {
        let mut health = Health::default();
        let mut at = |seconds, what| {
            let event: Event<Did> = Event {
                seq: 0,
                at: Duration::from_secs(seconds),
                process: "executor-1".into(),
                incarnation: 1,
                what: What::World(what),
            };
            health.observe(&event);
            (health.life("executor-1"), health.executor_since())
        };
        assert_eq!(at(1, WorldEvent::Booted).1, Some(Duration::from_secs(1)));
        let (life, since) = at(10, WorldEvent::Paused);
        assert!(life.paused && life.alive && since.is_none());
        at(12, WorldEvent::Signalled { nth: 1 });
        let (life, since) = at(15, WorldEvent::Resumed);
        assert_eq!((life.paused, life.draining, since), (false, true, None));
        assert_eq!((life.went_on, life.since), (Some(Duration::from_secs(15)), Duration::from_secs(15)));
        // What comes later does not make it longer ago, nor less.
        assert_eq!(at(17, WorldEvent::Signalled { nth: 2 }).0.went_on, Some(Duration::from_secs(15)));
        at(30, WorldEvent::Paused);
        assert!(!at(31, WorldEvent::Killed).0.paused);
        let (life, since) = at(36, WorldEvent::Booted);
        assert_eq!((life.paused, life.went_on, since), (false, None, Some(Duration::from_secs(36))));
    }

    #[test]
    fn what_a_clock_did_to_times_shows_for_as_long_as_it_was_off_at_most() {
        let mut health = Health::default();
        let mut off = |seconds, what| {
            let (at, what): (_, What<Did>) = (Duration::from_secs(seconds), What::World(what));
            health.observe(&Event { seq: 0, at, process: String::new(), incarnation: 0, what });
            assert!(!health.has_stepped_since("postgres", Duration::ZERO));
            (health.clock_off("postgres"), health.clock_off("redis"))
        };
        let target = || "redis".to_owned();
        let struck = |number, row: &'static FaultRow| WorldEvent::FaultStruck {
            fault: FaultId::numbered(number),
            kind: &row.kind,
            target: target(),
        };
        let healed = |number, row: &'static FaultRow| WorldEvent::FaultHealed {
            fault: FaultId::numbered(number),
            kind: &row.kind,
            target: target(),
            lasted: true,
        };
        let (right, wrong) = ((Duration::ZERO, Duration::ZERO), (Duration::ZERO, clock::OFF_MAX));
        assert_eq!(off(5, struck(1, &FULL)), right);
        assert_eq!(off(8, struck(2, &clock::AHEAD)), wrong);
        assert_eq!(off(9, struck(3, &clock::BEHIND)), wrong);
        assert_eq!(off(10, healed(2, &clock::AHEAD)), wrong);
        assert_eq!(off(90, healed(1, &FULL)), wrong, "the other still is");
        assert_eq!(off(100, healed(3, &clock::BEHIND)), wrong);
        assert_eq!(off(159, struck(1, &FULL)), wrong);
        assert_eq!(off(160, healed(1, &FULL)), right);
        // It was set ahead at 8 s, and right again, from behind, at 100 s.
        assert!(health.has_stepped_since("redis", Duration::from_secs(100)));
        assert!(!health.has_stepped_since("redis", Duration::from_secs(101)));
    }

    #[test]
    fn a_process_that_was_resumed_is_excused_for_a_while_and_no_longer() {
        let mut health = Health::default();
        let mut excused = |seconds, what| {
            let (at, what): (_, What<Did>) = (Duration::from_secs(seconds), What::World(what));
            health.observe(&Event { seq: 0, at, process: "executor-1".into(), incarnation: 1, what });
            health.has_just_gone_on("executor-1", Duration::from_secs(9))
        };
        assert!(!excused(1, WorldEvent::Booted));
        assert!(!excused(2, WorldEvent::Paused));
        assert!(excused(5, WorldEvent::Resumed));
        assert!(excused(14, WorldEvent::Signalled { nth: 1 }));
        assert!(excused(14, WorldEvent::Exited { code: 1 }), "its end is judged as the life that it ended");
        assert!(!excused(14, WorldEvent::Booted), "and the next is another");
        excused(20, WorldEvent::Paused);
        excused(21, WorldEvent::Resumed);
        assert!(!excused(31, WorldEvent::Signalled { nth: 2 }), "a signal makes it no less long ago");
    }
}
