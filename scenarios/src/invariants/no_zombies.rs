//! No run is shown as busy that nobody works on, and none is left to wait for ever: whatever was sick at the one moment
//! that mattered, both terminal writes are there soon after it healed, and nobody had to look for it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lychgate_sim::trace::event::{Event, What};
use lychgate_sim::trace::invariant::{Breach, Obligation};

use super::Promise;
use super::world::{Memory, World, matters_to_ends};
use crate::events::{Did, LiveEvent, RunEvent};
use crate::names::session_of;

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

#[derive(Clone, Debug, PartialEq, Eq)]
enum Stage {
    Queued,
    Running { owner: String, incarnation: u32 },
    Over,
}

struct Run {
    stage: Stage,
    /// When the stage began.
    since: Duration,
    /// When the checkpoint of its last turn was committed.
    finished: Option<Duration>,
    /// When its user's wish to stop it was committed.
    cancelled: Option<Duration>,
    fence: i64,
    /// The fence under which it is shown, if it is.
    shown: Option<i64>,
    /// Whether the live view was told of its end.
    unshown: bool,
}

impl Run {
    /// It is over, and the live view says nothing else.
    fn rests(&self) -> bool {
        self.stage == Stage::Over && (self.unshown || self.shown.is_none())
    }
}

/// See the module.
pub struct NoZombies {
    deadlines: Deadlines,
    runs: BTreeMap<String, Run>,
    /// Those of them that are not at rest: what is pending is asked for every second, of days.
    going: BTreeSet<String>,
    /// What the live view said of runs when Redis's memory was noted.
    noted: BTreeMap<String, (Option<i64>, bool)>,
    /// How many runs an executor works on at once.
    slots: usize,
    /// Since when some executor that may take a run has a slot for it, or `None` while all are full.
    room: Option<Duration>,
    armed: bool,
}

impl NoZombies {
    /// For a run with these deadlines, and executors with so many slots.
    pub fn new(deadlines: Deadlines, slots: usize) -> Self {
        NoZombies {
            deadlines,
            runs: BTreeMap::new(),
            going: BTreeSet::new(),
            noted: BTreeMap::new(),
            slots,
            room: None,
            armed: false,
        }
    }

    /// The live view is what is left in Redis.
    fn remembers(&mut self, memory: Memory) {
        match memory {
            Memory::Lost => self.runs.values_mut().for_each(|run| (run.shown, run.unshown) = (None, true)),
            Memory::Noted => {
                let said = |(label, run): (&String, &Run)| (label.clone(), (run.shown, run.unshown));
                self.noted = self.runs.iter().map(said).collect();
            }
            Memory::Restored => {
                for (label, run) in &mut self.runs {
                    (run.shown, run.unshown) = self.noted.get(label).copied().unwrap_or((None, true));
                }
            }
        }
    }

    fn stage(&mut self, run: &str, at: Duration, stage: Stage, fence: i64) {
        if let Some(run) = self.runs.get_mut(run) {
            (run.stage, run.since, run.fence) = (stage, at, fence);
        }
    }

    fn sort(&mut self) {
        let going = self.runs.iter().filter(|(_, run)| !run.rests());
        self.going = going.map(|(label, _)| label.clone()).collect();
    }

    /// Whether some executor has a free slot, and since when.
    fn look_for_room(&mut self, world: &World) {
        let works = |name: &str| {
            let incarnation = world.health.life(name).incarnation;
            let its = Stage::Running { owner: name.to_owned(), incarnation };
            self.going.iter().filter(|label| self.runs.get(*label).is_some_and(|run| run.stage == its)).count()
        };
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

    fn owner_lives(&self, world: &World, owner: &str, incarnation: u32) -> bool {
        let life = world.health.life(owner);
        life.alive && life.incarnation == incarnation
    }

    fn owed(&self, world: &World, label: &str, run: &Run) -> Option<Obligation> {
        let Deadlines { takeover_after, queued_claim_after, sweep_max } = self.deadlines;
        let takeover = takeover_after + sweep_max + HEALED;
        let waits = |says: String, since: Duration, wait: Duration| match self.room {
            None => Obligation::new(says, since, Duration::MAX),
            Some(room) => self.within(world, says, room.max(since), wait, wait),
        };
        match &run.stage {
            Stage::Queued => {
                let says = format!("{label} is claimed");
                Some(waits(says, run.since, queued_claim_after + sweep_max + HEALED))
            }
            Stage::Running { owner, incarnation } if !self.owner_lives(world, owner, *incarnation) => {
                let died = world.health.life(owner).since;
                let says = format!("{label}, whose owner is gone, is claimed anew or over");
                Some(waits(says, run.since.max(died), takeover))
            }
            Stage::Running { .. } => Some(match run.finished {
                Some(finished) => {
                    let says = format!("the end of {label}, whose last turn is checkpointed, is written to Postgres");
                    self.within(world, says, finished, HEALTHY, HEALED)
                }
                None if run.cancelled.is_some() => {
                    let says = format!("{label}, which its user stopped, is over");
                    let since = run.cancelled.unwrap_or_default().max(run.since);
                    self.within(world, says, since, HEALTHY, HEALED)
                }
                None if run.shown.is_none_or(|shown| shown < run.fence) => {
                    let says = format!("the live view shows {label} under its newest fence");
                    self.within(world, says, run.since, HEALED, HEALED)
                }
                None => Obligation::new(format!("{label} comes to an end"), run.since, Duration::MAX),
            }),
            Stage::Over if run.rests() => None,
            Stage::Over => {
                let says = format!("{label}, which is over, leaves the live view");
                Some(self.within(world, says, run.since, HEALTHY, HEALED))
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
            self.sort();
        }
        let did = match &event.what {
            What::Product(did) => did,
            What::World(happening) => {
                if happening.is_of_life() {
                    self.look_for_room(world);
                }
                return Ok(());
            }
        };
        match did {
            Did::Run(RunEvent::Accepted { run, .. }) => {
                let new = Run {
                    stage: Stage::Queued,
                    since: event.at,
                    finished: None,
                    cancelled: None,
                    fence: 0,
                    shown: None,
                    unshown: false,
                };
                self.runs.insert(run.clone(), new);
            }
            Did::Run(RunEvent::Claimed { run, owner, fence, .. }) => {
                let incarnation = world.health.life(owner).incarnation;
                self.stage(run, event.at, Stage::Running { owner: owner.clone(), incarnation }, *fence);
            }
            Did::Run(RunEvent::Checkpointed { run, last: true, .. }) => {
                if let Some(run) = self.runs.get_mut(run) {
                    run.finished = Some(event.at);
                }
            }
            Did::Run(RunEvent::CancelRequested { run, .. }) => {
                if let Some(run) = self.runs.get_mut(run) {
                    run.cancelled.get_or_insert(event.at);
                }
            }
            Did::Run(RunEvent::HandedBack { run, fence, .. }) => self.stage(run, event.at, Stage::Queued, fence + 1),
            Did::Run(RunEvent::Ended { run, fence, .. }) => {
                self.stage(run, event.at, Stage::Over, *fence);
                let calm = world.health.calm_since(matters_to_ends);
                self.armed |= calm.is_none_or(|calm| !calm.is_zero() && calm + HEALED > event.at);
            }
            Did::Live(LiveEvent::Shown { session, run: shown, fence, .. }) => {
                for (label, run) in &mut self.runs {
                    if label == shown {
                        (run.shown, run.unshown) = (Some(*fence), false);
                    } else if session_of(label) == *session {
                        // The view has one entry a session: the other run has taken its place.
                        run.shown = None;
                    }
                }
            }
            Did::Live(LiveEvent::Unshown { run, .. }) => {
                if let Some(run) = self.runs.get_mut(run) {
                    (run.shown, run.unshown) = (None, true);
                }
            }
            _ => return Ok(()),
        }
        self.sort();
        self.look_for_room(world);
        Ok(())
    }

    fn pending(&self, world: &World) -> Vec<Obligation> {
        self.going.iter().filter_map(|label| self.owed(world, label, self.runs.get(label)?)).collect()
    }

    fn armed(&self) -> bool {
        self.armed
    }
}
