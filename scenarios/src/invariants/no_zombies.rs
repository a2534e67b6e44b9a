//! No run is shown as busy that nobody works on, and none is left to wait for ever: whatever was sick at the one moment
//! that mattered, both terminal writes are there soon after it healed, and nobody had to look for it.
//!
//! What waits has its turn: a claim passes over none that is older and long due, and takes none that is stale. Where nothing is
//! amiss a hint leads to a claim within seconds.

use std::collections::BTreeMap;
use std::time::Duration;

use lychgate::run::STUCK;
use lychgate_sim::trace::event::{Event, What};
use lychgate_sim::trace::invariant::{Breach, Obligation};

use super::Promise;
use super::world::{Memory, Run, Stage, World, leads_to, matters_to_ends};
use crate::events::{Did, LiveEvent, RunEvent};

/// What the reason of a run begins with that nobody was there for.
const STALE: &str = "stale";
/// Both terminal writes of a run, with healthy stores.
const HEALTHY: Duration = Duration::from_secs(20);
/// By how much Postgres's clock may be off, and for the way of a statement.
const OFF: Duration = Duration::from_secs(2 * 60);
/// The claim of a new run, where nothing is or was amiss and an executor has a slot for it: its hint led to it.
const HINTED: Duration = Duration::from_secs(5);
/// The same as `HEALTHY`, after a store has healed or a process has moved; and how long Postgres and the view may disagree.
const HEALED: Duration = Duration::from_secs(60);

/// What a run's settings promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// `LYCHGATE_TAKEOVER_AFTER`.
    pub takeover_after: Duration,
    /// `LYCHGATE_QUEUED_CLAIM_AFTER`.
    pub queued_claim_after: Duration,
    /// `LYCHGATE_SWEEP_MAX`.
    pub sweep_max: Duration,
    /// `LYCHGATE_FRESHNESS`.
    pub freshness: Duration,
}

/// The live view: by session, the one run that it shows, and under which fence.
type View = BTreeMap<String, (String, i64)>;

/// See the module.
pub struct NoZombies {
    deadlines: Deadlines,
    view: View,
    /// What the live view said when Redis's memory was noted.
    noted: View,
    /// How many runs an executor works on at once.
    slots: usize,
    /// Since when some executor that may take a run has a slot for it, or `None` while all are full.
    room: Option<Duration>,
    /// Since when no executor may take a run, or `None` while one may.
    nobody: Option<Duration>,
    /// The last time that this went on for so long that what waited then is stale: from when to when.
    gap: Option<(Duration, Duration)>,
    armed: bool,
}

impl NoZombies {
    /// For a run with these deadlines, and executors with so many slots.
    pub fn new(deadlines: Deadlines, slots: usize) -> Self {
        let (view, noted) = (View::new(), View::new());
        NoZombies { deadlines, view, noted, slots, room: None, nobody: Some(Duration::ZERO), gap: None, armed: false }
    }

    /// The live view is what is left in Redis.
    fn remembers(&mut self, memory: Memory) {
        match memory {
            Memory::Lost => self.view.clear(),
            Memory::Noted => self.noted = self.view.clone(),
            Memory::Restored => self.view = self.noted.clone(),
        }
    }

    /// Whether some executor has a free slot, and since when.
    fn look_for_room(&mut self, world: &World) {
        let works = |name: &str| world.runs.owned_by(name, world.health.life(name).incarnation).count();
        let room = world.health.ready_executors().any(|name| works(name) < self.slots);
        self.room = room.then(|| self.room.unwrap_or(world.health.now()));
    }

    /// Notes how long nobody was there.
    fn look_for_executors(&mut self, world: &World) {
        let now = world.health.now();
        if !world.health.any_executor() {
            self.nobody.get_or_insert(now);
        } else if let Some(from) = self.nobody.take().filter(|from| now > *from + self.deadlines.freshness + OFF) {
            self.gap = Some((from, now));
        }
    }

    /// A run was claimed: it was not stale, whatever led to it. What had waited when the last executor went, and waited until
    /// one came, is.
    fn is_fresh(&self, world: &World, claimed: &str) -> Result<(), Breach> {
        let (Some((from, until)), Some(run)) = (self.gap, world.runs.get(claimed)) else { return Ok(()) };
        if run.left.is_none() && run.before + OFF <= until.saturating_sub(self.deadlines.freshness) {
            let says = format!("{claimed} was claimed, although nobody was there for it from {from:?} to {until:?}");
            return Err(Breach::now(says));
        }
        Ok(())
    }

    /// A run was given up as stale: nobody saw it wait for as long as that takes. An executor that is there all the time, with Postgres
    /// well, sees all that waits, whoever owned it before.
    fn is_stale(&self, world: &World, label: &str, reason: &str) -> Result<(), Breach> {
        let Some(run) = world.runs.get(label).filter(|_| reason.starts_with(STALE)) else { return Ok(()) };
        let calm = world.health.calm_since(|target| target == "postgres" || leads_to(target, "postgres"));
        let there = world.health.executor_since().is_some_and(|since| since <= run.accepted);
        let well = calm.is_some_and(|calm| calm <= run.accepted) && !world.health.was_ever_off("postgres");
        if there && well {
            return Err(Breach::now(format!(
                "{label} is given up, although somebody was there all the time: {reason}"
            )));
        }
        Ok(())
    }

    /// What must happen within `healthy` of `since` with healthy stores, else within `healed` of their healing.
    fn within(&self, world: &World, says: String, since: Duration, healthy: Duration, healed: Duration) -> Obligation {
        let due = match world.health.calm_since(matters_to_ends) {
            None => Duration::MAX,
            // Undisturbed for a minute before it began, and ever since.
            Some(calm) if calm + HEALED <= since || calm.is_zero() => since + healthy,
            Some(calm) => calm.max(since) + healed.max(healthy),
        };
        Obligation::new(says, since, due)
    }

    /// The fence under which the live view shows the run, if it does.
    fn shown(&self, label: &str, run: &Run) -> Option<i64> {
        self.view.get(&run.session).filter(|(shown, _)| shown == label).map(|(_, fence)| *fence)
    }

    /// What a run that nobody works on waits for, since when, and for how long at most while an executor has a slot for it.
    fn waits(&self, world: &World, label: &str, run: &Run) -> Option<(String, Duration, Duration)> {
        let Deadlines { takeover_after, queued_claim_after, sweep_max, .. } = self.deadlines;
        match &run.stage {
            Stage::Queued => Some((format!("{label} is claimed"), run.since, queued_claim_after + sweep_max + HEALED)),
            Stage::Owned(owner) if !world.health.is_alive(&owner.process, owner.incarnation) => {
                let life = world.health.life(&owner.process);
                // The next life of its owner knows at once that nobody works on it.
                let known = life.alive && !life.draining && !life.paused;
                let silence = if known { Duration::ZERO } else { takeover_after };
                let says = format!("{label}, whose owner is gone, is claimed anew or over");
                Some((says, run.since.max(life.since), silence + sweep_max + HEALED))
            }
            Stage::Owned(_) | Stage::Over(_) => None,
        }
    }

    /// A run was claimed: none that is older was passed over that had long been due. The slots may all be in use, but each time
    /// that one is free it is its turn.
    fn next_in_turn(&self, world: &World, claimed: &str) -> Result<(), Breach> {
        let Some(newer) = world.runs.get(claimed) else { return Ok(()) };
        // A claim may be the last word of one that is gone: then nobody is left whose turn it could be to take another.
        let Some(executors) = world.health.executor_since() else { return Ok(()) };
        for (label, run) in world.runs.open().filter(|(_, run)| run.accepted < newer.accepted) {
            let Some((says, since, wait)) = self.waits(world, label, run) else { continue };
            let due = self.within(world, says, since.max(executors), wait, wait).due;
            if due < world.health.now() {
                let says = format!("{claimed} was claimed, although {label} is older and was due long ago");
                return Err(Breach::now(says));
            }
        }
        Ok(())
    }

    fn owed(&self, world: &World, label: &str, run: &Run) -> Obligation {
        if let Some((says, since, wait)) = self.waits(world, label, run) {
            // A hint that is lost stays lost.
            let hinted = run.fence == 0 && world.health.is_undisturbed_since(run.accepted);
            return match self.room.map(|room| room.max(since)) {
                None => Obligation::new(says, since, Duration::MAX),
                Some(since) if hinted => Obligation::new(says, since, since + HINTED),
                Some(room) => self.within(world, says, room.max(since), wait, wait),
            };
        }
        match &run.stage {
            Stage::Queued => Obligation::new(format!("{label} is claimed"), run.since, Duration::MAX),
            Stage::Owned(_) => match (run.finished, run.stopped) {
                (Some(finished), _) => {
                    let says = format!("the end of {label}, whose last turn is checkpointed, is written to Postgres");
                    self.within(world, says, finished, HEALTHY, HEALED)
                }
                (None, Some(stopped)) => {
                    let says = format!("{label}, which its user stopped, is over");
                    self.within(world, says, stopped.max(run.since), HEALTHY, HEALED)
                }
                (None, None) if self.shown(label, run).is_none_or(|shown| shown < run.fence) => {
                    let says = format!("the live view shows {label} under its newest fence");
                    self.within(world, says, run.since, HEALED, HEALED)
                }
                (None, None) => Obligation::new(format!("{label} comes to an end"), run.since, Duration::MAX),
            },
            Stage::Over(_) => {
                let says = format!("{label}, which is over, leaves the live view");
                self.within(world, says, run.since, HEALTHY, HEALED)
            }
        }
    }
}

impl Promise for NoZombies {
    fn name(&self) -> &'static str {
        "no_zombies"
    }

    fn says(&self) -> &'static str {
        "a run that nobody works on is soon over, or claimed in its turn, in Postgres and in the live view"
    }

    fn observe(&mut self, event: &Event<Did>, world: &World) -> Result<(), Breach> {
        if let Some(memory) = Memory::of(event) {
            self.remembers(memory);
        }
        match &event.what {
            What::World(happening) if happening.is_of_life() => {
                self.look_for_room(world);
                self.look_for_executors(world);
            }
            What::World(_) => {}
            What::Product(Did::Run(happening)) => {
                if let RunEvent::Claimed { run, .. } = happening {
                    self.next_in_turn(world, run)?;
                    self.is_fresh(world, run)?;
                }
                if let RunEvent::Ended { run, reason, .. } = happening
                    && reason == STUCK
                    && let Some(owner) = world.runs.get(run).and_then(|run| run.left.as_ref())
                    && !world.health.is_alive(&owner.process, owner.incarnation)
                {
                    return Err(Breach::now(format!("{run} is over as stuck, although its owner is gone")));
                }
                if let RunEvent::Ended { run, reason, .. } = happening {
                    self.is_stale(world, run, reason)?;
                }
                if let RunEvent::Ended { .. } = happening {
                    let calm = world.health.calm_since(matters_to_ends);
                    self.armed |= calm.is_none_or(|calm| !calm.is_zero() && calm + HEALED > event.at);
                }
                self.look_for_room(world);
            }
            What::Product(Did::Live(LiveEvent::Shown { session, run, fence, .. })) => {
                self.view.insert(session.clone(), (run.clone(), *fence));
            }
            What::Product(Did::Live(LiveEvent::Unshown { session, run })) => {
                let shown = self.view.get(session).is_some_and(|(shown, _)| shown == run);
                shown.then(|| self.view.remove(session));
            }
            What::Product(_) => {}
        }
        Ok(())
    }

    fn pending(&self, world: &World) -> Vec<Obligation> {
        // Of those that are over only what the view shows is owed something.
        let shown = self.view.values().filter_map(|(label, _)| Some((label.as_str(), world.runs.get(label)?)));
        let over = shown.filter(|(label, _)| world.runs.over(label).is_some());
        world.runs.open().chain(over).map(|(label, run)| self.owed(world, label, run)).collect()
    }

    fn armed(&self) -> bool {
        self.armed
    }
}
