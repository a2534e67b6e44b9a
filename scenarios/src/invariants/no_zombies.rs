//! No run is shown as busy that nobody works on, and none is left to wait for ever: whatever was sick at the one moment
//! that mattered, both terminal writes are there soon after it healed, and nobody had to look for it.

use std::collections::BTreeMap;
use std::time::Duration;

use lychgate_sim::trace::event::{Event, What};
use lychgate_sim::trace::invariant::{Breach, Obligation};

use super::Promise;
use super::world::{Memory, Run, Stage, World, matters_to_ends};
use crate::events::{Did, LiveEvent, RunEvent};

/// Both terminal writes of a run, with healthy stores.
const HEALTHY: Duration = Duration::from_secs(20);
/// The same, after a store has healed or a process has moved; and how long Postgres and the view may disagree.
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
    armed: bool,
}

impl NoZombies {
    /// For a run with these deadlines, and executors with so many slots.
    pub fn new(deadlines: Deadlines, slots: usize) -> Self {
        NoZombies { deadlines, view: View::new(), noted: View::new(), slots, room: None, armed: false }
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

    fn owed(&self, world: &World, label: &str, run: &Run) -> Obligation {
        let Deadlines { takeover_after, queued_claim_after, sweep_max } = self.deadlines;
        let takeover = takeover_after + sweep_max + HEALED;
        let waits = |says: String, since: Duration, wait: Duration| match self.room {
            None => Obligation::new(says, since, Duration::MAX),
            Some(room) => self.within(world, says, room.max(since), wait, wait),
        };
        match &run.stage {
            Stage::Queued => {
                let says = format!("{label} is claimed");
                waits(says, run.since, queued_claim_after + sweep_max + HEALED)
            }
            Stage::Owned(owner) if !world.health.is_alive(&owner.process, owner.incarnation) => {
                let died = world.health.life(&owner.process).since;
                let says = format!("{label}, whose owner is gone, is claimed anew or over");
                waits(says, run.since.max(died), takeover)
            }
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
        "a run that nobody works on is soon over, or claimed anew, in Postgres and in the live view"
    }

    fn observe(&mut self, event: &Event<Did>, world: &World) -> Result<(), Breach> {
        if let Some(memory) = Memory::of(event) {
            self.remembers(memory);
        }
        match &event.what {
            What::World(happening) if happening.is_of_life() => self.look_for_room(world),
            What::World(_) => {}
            What::Product(Did::Run(happening)) => {
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
