//! A run gets one terminal status, under its newest fence, and everybody hears the same one.

use std::collections::BTreeMap;

use lychgate::run::Status;
use lychgate_sim::trace::event::{Event, What};
use lychgate_sim::trace::invariant::Breach;

use super::Promise;
use super::world::{World, matters_to_ends};
use crate::events::{Did, RunEvent, StoreEvent, UserEvent};

#[derive(Default)]
struct Run {
    fence: i64,
    ended: Option<Status>,
    contested: bool,
}

/// See the module.
#[derive(Default)]
pub struct TerminalOnce {
    runs: BTreeMap<String, Run>,
    armed: bool,
}

impl TerminalOnce {
    fn run(&mut self, label: &str) -> &mut Run {
        self.runs.entry(label.to_string()).or_default()
    }
}

impl Promise for TerminalOnce {
    fn name(&self) -> &'static str {
        "terminal_once"
    }

    fn says(&self) -> &'static str {
        "a run gets one terminal status, under its newest fence, and everybody hears the same one"
    }

    fn observe(&mut self, event: &Event<Did>, world: &World) -> Result<(), Breach> {
        let What::Product(did) = &event.what else { return Ok(()) };
        match did {
            Did::Run(RunEvent::Claimed { run, fence, .. }) => {
                let known = self.run(run);
                known.contested |= known.fence > 0;
                known.fence = *fence;
            }
            // The fence under which it may be ended is that of its next claim.
            Did::Store(StoreEvent::CommitsLost { runs }) => {
                for label in runs {
                    let fence = world.runs.get(label).map_or(0, |run| run.fence);
                    let run = self.run(label);
                    (run.fence, run.contested) = (fence, true);
                }
            }
            Did::Run(RunEvent::CancelRequested { run, .. }) => self.run(run).contested = true,
            Did::Run(RunEvent::Ended { run: label, fence, status, by_owner, .. }) => {
                let run = self.run(label);
                if let Some(before) = &run.ended {
                    return Err(Breach::now(format!("{label} was {} and became {}", before.word(), status.word())));
                }
                if *by_owner && *fence != run.fence {
                    return Err(Breach::now(format!("{label} was ended under a fence that is not its newest")));
                }
                run.ended = Some(*status);
                let contested = run.contested;
                let calm = world.health.calm_since(matters_to_ends).is_some_and(|calm| calm.is_zero());
                self.armed |= contested || !calm;
            }
            Did::User(UserEvent::SawEnd { run: label, status, .. }) => match &self.run(label).ended {
                None => {
                    return Err(Breach::now(format!(
                        "the user was told that {label} is {} before it was",
                        status.word()
                    )));
                }
                Some(ended) if ended != status => {
                    return Err(Breach::now(format!(
                        "{label} is {}, but its user was told {}",
                        ended.word(),
                        status.word()
                    )));
                }
                Some(_) => {}
            },
            _ => {}
        }
        Ok(())
    }

    fn armed(&self) -> bool {
        self.armed
    }
}
