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

/// See the module.
pub struct FairDrain {
    settings: Settings,
    /// When each process was told to stop, with the life that was.
    told: BTreeMap<String, (u32, Duration)>,
    armed: bool,
}

impl FairDrain {
    /// For a run with these settings.
    pub fn new(settings: Settings) -> Self {
        FairDrain { settings, told: BTreeMap::new(), armed: false }
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
        match world.runs.owned_by(&event.process, event.incarnation).next() {
            Some((label, _)) if !self.excused(world, &event.process, event.at) => {
                Err(Breach::now(format!("{} has exited while {label} is still its own", event.process)))
            }
            _ => Ok(()),
        }
    }

    /// A run has left its owner: as `became`, by the owner's own doing.
    fn left(&self, world: &World, label: &str, became: Left, at: Duration) -> Result<(), Breach> {
        let Some((run, owner)) = world.runs.get(label).and_then(|run| Some((run, run.left.as_ref()?))) else {
            return Ok(());
        };
        let Some((_, told)) = self.told.get(&owner.process).filter(|(life, _)| *life == owner.incarnation) else {
            return Ok(());
        };
        if run.finished.is_some() && !matches!(became, Left::HandedBack | Left::Ended(Status::Completed)) {
            // Postgres had the last turn before it was told of the end: nothing excuses that.
            return Err(Breach::now(format!(
                "{label} was done when its executor stopped, and yet it is {}",
                became.word()
            )));
        }
        let known = owner.since + IN_FLIGHT <= *told;
        let stopped = run.stopped.is_some() || world.runs.was_suspended_since(&run.session, owner.since);
        if !known || stopped || self.excused(world, &owner.process, at) {
            return Ok(());
        }
        if self.settings.interrupts(&owner.process) {
            let fair = became != Left::HandedBack;
            return if fair {
                Ok(())
            } else {
                Err(Breach::now(format!("{label} was to be interrupted and is {}", became.word())))
            };
        }
        let cut = matches!(became, Left::HandedBack | Left::Ended(Status::Interrupted | Status::Cancelled));
        if cut && at < *told + self.settings.drain_grace(&owner.process) {
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
                self.armed |= world.runs.owns_any(&event.process, event.incarnation);
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
            Did::Run(RunEvent::HandedBack { run, .. }) => self.left(world, run, Left::HandedBack, event.at),
            Did::Run(RunEvent::Ended { run, status, by_owner: true, .. }) => {
                self.left(world, run, Left::Ended(*status), event.at)
            }
            _ => Ok(()),
        }
    }

    fn armed(&self) -> bool {
        self.armed
    }
}
