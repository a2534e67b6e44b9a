//! A process that is told to stop sees its runs to their end, or gives them back: whoever exits by itself leaves none
//! behind as running. Only a Postgres that does not answer excuses it.

use std::collections::BTreeMap;
use std::time::Duration;

use lychgate_sim::event::{Event, Happening, What};
use lychgate_sim::judge::{Breach, Invariant};

use crate::events::Did;
use crate::health::Health;

/// How long after its line to Postgres has healed a process can still not know of a run that it claimed.
const HEALED: Duration = Duration::from_secs(60);

/// See the module.
#[derive(Default)]
pub struct FairDrain {
    health: Health,
    /// Runs that are going, with the process and the life of it that owns them.
    owners: BTreeMap<String, (String, u32)>,
    armed: bool,
}

impl Invariant<Did> for FairDrain {
    fn name(&self) -> &'static str {
        "fair_drain"
    }

    fn says(&self) -> &'static str {
        "a process that exits leaves no run behind: each has ended or is given back"
    }

    fn observe(&mut self, event: &Event<Did>) -> Result<(), Breach> {
        self.health.observe(event);
        let did = match &event.what {
            What::World(Happening::Signalled { .. }) => {
                self.armed |= self.owners.values().any(|owner| *owner == (event.process.clone(), event.incarnation));
                return Ok(());
            }
            What::World(Happening::Exited { .. }) => {
                let link = format!("{}->postgres", event.process);
                let calm = self.health.calm_since(|target| target == link);
                let excused = calm.is_none_or(|calm| !calm.is_zero() && calm + HEALED > event.at);
                let mine = (event.process.clone(), event.incarnation);
                let left = self.owners.iter().find(|(_, owner)| **owner == mine);
                return match left {
                    Some((run, _)) if !excused => {
                        Err(Breach::now(format!("{} has exited while {run} is still its own", event.process)))
                    }
                    _ => Ok(()),
                };
            }
            What::Product(did) => did,
            What::World(_) => return Ok(()),
        };
        match did {
            Did::Claimed { run, owner, .. } => {
                let incarnation = self.health.life(owner).incarnation;
                self.owners.insert(run.clone(), (owner.clone(), incarnation));
            }
            Did::HandedBack { run, .. } | Did::Ended { run, .. } => {
                self.owners.remove(run);
            }
            _ => {}
        }
        Ok(())
    }

    fn armed(&self) -> bool {
        self.armed
    }
}
