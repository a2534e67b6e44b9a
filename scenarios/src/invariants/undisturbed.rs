//! Where nothing is amiss, nothing goes wrong: a message is taken at once, and its run is completed. A product that fails in
//! order would keep every other promise.

use std::collections::BTreeMap;
use std::time::Duration;

use lychgate::run::Status;
use lychgate_sim::trace::event::{Event, What};
use lychgate_sim::trace::invariant::{Breach, Obligation};

use super::Promise;
use super::world::World;
use crate::events::{Did, RunEvent, UserEvent};
use crate::names::{Role, ends, role, session_of};

/// From a message to its commit: a handful of statements on connections that are alive.
const TAKEN: Duration = Duration::from_secs(2);
/// What was amiss shows for so long afterwards.
const AFTERMATH: Duration = Duration::from_secs(60);

/// See the module.
#[derive(Default)]
pub struct Undisturbed {
    /// Messages that were sent and neither taken nor refused, by the label of their run: since when.
    said: BTreeMap<String, Duration>,
    armed: bool,
}

/// Whether it is in the way of a message from its user to Postgres. So is who holds up a transaction: that may have its lock.
fn matters_to_messages(target: &str) -> bool {
    match ends(target) {
        Some((_, to)) => role(to) == Some(Role::Gateway) || to == "postgres",
        None => matches!(role(target), Some(Role::Gateway | Role::Executor)),
    }
}

impl Undisturbed {
    /// A run is over: one that nothing was near, and that its user has not stopped, is completed.
    fn completes(&mut self, world: &World, label: &str, status: Status, reason: &str) -> Result<(), Breach> {
        let Some(run) = world.runs.get(label) else { return Ok(()) };
        // One that waits is cancelled without a request on record: whether anybody has asked, `answers_bind` knows.
        let stopped = status == Status::Cancelled
            || run.stopped.is_some()
            || world.runs.was_suspended_since(&run.session, run.accepted);
        if stopped || !world.health.is_undisturbed_since(run.accepted) {
            return Ok(());
        }
        self.armed = true;
        if status == Status::Completed {
            return Ok(());
        }
        Err(Breach::now(format!("{label} is {}, although nothing was amiss: {reason}", status.word())))
    }
}

impl Promise for Undisturbed {
    fn name(&self) -> &'static str {
        "undisturbed"
    }

    fn says(&self) -> &'static str {
        "where nothing is amiss a message is taken within two seconds, and its run is completed"
    }

    fn observe(&mut self, event: &Event<Did>, world: &World) -> Result<(), Breach> {
        let What::Product(did) = &event.what else { return Ok(()) };
        match did {
            Did::User(UserEvent::Said { run, session }) => {
                // Of a session that is suspended, or has another run going, it is refused, in order.
                let busy = world.runs.open().any(|(_, open)| open.session == *session);
                if busy || world.runs.is_suspended(session) {
                    self.said.remove(run);
                } else {
                    self.said.entry(run.clone()).or_insert(event.at);
                }
            }
            Did::Run(RunEvent::Accepted { run, .. })
            | Did::User(UserEvent::Heard { run, .. } | UserEvent::TurnedAway { run, .. }) => {
                self.said.remove(run);
            }
            Did::Run(RunEvent::Suspended { session }) => self.said.retain(|run, _| session_of(run) != *session),
            Did::Run(RunEvent::Ended { run, status, reason, .. }) => self.completes(world, run, *status, reason)?,
            _ => {}
        }
        Ok(())
    }

    fn pending(&self, world: &World) -> Vec<Obligation> {
        let calm = world.health.calm_since(matters_to_messages);
        let owed = self.said.iter().map(|(run, since)| {
            let calm = calm.is_some_and(|calm| calm.is_zero() || calm + AFTERMATH <= *since);
            let due = if calm { *since + TAKEN } else { Duration::MAX };
            Obligation::new(format!("the message of {run} is taken"), *since, due)
        });
        owed.collect()
    }

    fn armed(&self) -> bool {
        self.armed
    }
}
