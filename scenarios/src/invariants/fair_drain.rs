//! A process that is told to stop sees its runs to their end, or gives them back: one that exits by itself leaves none
//! behind as running. Who waits for its runs cuts none before its grace is over; who does not wait leaves each one that
//! is done its own outcome. It is excused by a Postgres that does not answer, and by having stood still: then its
//! budget is spent, and its runs may be others'.

use std::collections::BTreeMap;
use std::time::Duration;

use lychgate::run::Status;
use lychgate_sim::trace::event::{Event, What, WorldEvent};
use lychgate_sim::trace::invariant::Breach;

use super::Promise;
use super::world::World;
use crate::events::{Did, RunEvent};
use crate::names::session_of;
use crate::settings::Settings;

/// How long after its line to Postgres has healed, or it has gone on, a process can still not know of a run that it
/// claimed.
const HEALED: Duration = Duration::from_secs(60);
/// What was claimed so shortly before the signal may not have been known yet: it is handed back.
const IN_FLIGHT: Duration = Duration::from_secs(1);

/// How a run has left its owner.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Left {
    HandedBack,
    Ended(Status),
}

impl Left {
    fn word(self) -> &'static str {
        match self {
            Left::HandedBack => "handed back",
            Left::Ended(status) => status.word(),
        }
    }
}

struct Run {
    process: String,
    incarnation: u32,
    claimed: Duration,
    /// Whether its last turn is checkpointed.
    finished: bool,
    cancelled: bool,
}

/// See the module.
pub struct FairDrain {
    settings: Settings,
    /// Runs that are going.
    runs: BTreeMap<String, Run>,
    /// Sessions that are, or were while their run was going, suspended.
    suspended: Vec<String>,
    /// When each process was told to stop, with the life that was.
    told: BTreeMap<String, (u32, Duration)>,
    armed: bool,
}

impl FairDrain {
    /// For a run with these settings.
    pub fn new(settings: Settings) -> Self {
        FairDrain { settings, runs: BTreeMap::new(), suspended: Vec::new(), told: BTreeMap::new(), armed: false }
    }

    fn excused(&self, world: &World, process: &str, at: Duration) -> bool {
        if world.health.has_just_gone_on(process, HEALED) {
            return true;
        }
        let link = format!("{process}->postgres");
        let calm = world.health.calm_since(|target| target == link);
        calm.is_none_or(|calm| !calm.is_zero() && calm + HEALED > at)
    }

    fn exited(&self, world: &World, event: &Event<Did>) -> Result<(), Breach> {
        let mine = |run: &Run| run.process == event.process && run.incarnation == event.incarnation;
        match self.runs.iter().find(|(_, run)| mine(run)) {
            Some((label, _)) if !self.excused(world, &event.process, event.at) => {
                Err(Breach::now(format!("{} has exited while {label} is still its own", event.process)))
            }
            _ => Ok(()),
        }
    }

    /// A run has left its owner: as `became`, by the owner's own doing.
    fn left(&self, world: &World, label: &str, run: &Run, became: Left, at: Duration) -> Result<(), Breach> {
        let Some((_, told)) = self.told.get(&run.process).filter(|(life, _)| *life == run.incarnation) else {
            return Ok(());
        };
        if run.finished && !matches!(became, Left::HandedBack | Left::Ended(Status::Completed)) {
            // Postgres had the last turn before it was told of the end: nothing excuses that.
            return Err(Breach::now(format!(
                "{label} was done when its executor stopped, and yet it is {}",
                became.word()
            )));
        }
        let known = run.claimed + IN_FLIGHT <= *told;
        let stopped = run.cancelled || self.suspended.contains(&session_of(label));
        if !known || stopped || self.excused(world, &run.process, at) {
            return Ok(());
        }
        if self.settings.interrupts(&run.process) {
            let fair = became != Left::HandedBack;
            return if fair {
                Ok(())
            } else {
                Err(Breach::now(format!("{label} was to be interrupted and is {}", became.word())))
            };
        }
        let cut = matches!(became, Left::HandedBack | Left::Ended(Status::Interrupted | Status::Cancelled));
        if cut && at < *told + self.settings.drain_grace(&run.process) {
            return Err(Breach::now(format!(
                "{label} is {}, although its executor had time to let it finish",
                became.word()
            )));
        }
        Ok(())
    }
}

impl Promise for FairDrain {
    fn name(&self) -> &'static str {
        "fair_drain"
    }

    fn says(&self) -> &'static str {
        "a process that exits leaves no run behind; one that can finish in time is not cut, one that is done is completed"
    }

    fn observe(&mut self, event: &Event<Did>, world: &World) -> Result<(), Breach> {
        let did = match &event.what {
            What::World(WorldEvent::Signalled { nth }) => {
                let mine = |run: &Run| run.process == event.process && run.incarnation == event.incarnation;
                self.armed |= self.runs.values().any(mine);
                if *nth == 1 {
                    self.told.insert(event.process.clone(), (event.incarnation, event.at));
                }
                return Ok(());
            }
            What::World(WorldEvent::Exited { .. }) => return self.exited(world, event),
            What::World(_) => return Ok(()),
            What::Product(did) => did,
        };
        match did {
            Did::Run(RunEvent::Claimed { run, owner, .. }) => {
                let finished = self.runs.get(run).is_some_and(|run| run.finished);
                let new = Run {
                    process: owner.clone(),
                    incarnation: world.health.life(owner).incarnation,
                    claimed: event.at,
                    finished,
                    cancelled: false,
                };
                self.runs.insert(run.clone(), new);
            }
            Did::Run(RunEvent::Checkpointed { run, last, .. }) => {
                if let Some(run) = self.runs.get_mut(run) {
                    run.finished |= *last;
                }
            }
            Did::Run(RunEvent::CancelRequested { run, .. }) => {
                if let Some(run) = self.runs.get_mut(run) {
                    run.cancelled = true;
                }
            }
            Did::Run(RunEvent::Suspended { session }) => self.suspended.push(session.clone()),
            Did::Run(RunEvent::HandedBack { run: label, .. }) => {
                if let Some(run) = self.runs.remove(label) {
                    self.left(world, label, &run, Left::HandedBack, event.at)?;
                }
            }
            Did::Run(RunEvent::Ended { run: label, status, by_owner, .. }) => {
                if let Some(run) = self.runs.remove(label).filter(|_| *by_owner) {
                    self.left(world, label, &run, Left::Ended(*status), event.at)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn armed(&self) -> bool {
        self.armed
    }
}
