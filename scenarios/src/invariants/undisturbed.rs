//! Where nothing is amiss, nothing goes wrong, and nothing waits: a message is taken at once, each turn of its run follows on the one
//! before, and the run is completed. A product that fails in order, or is late in order, would keep every other promise.

use std::collections::BTreeMap;
use std::time::Duration;

use lychgate::limits;
use lychgate::run::Status;
use lychgate_sim::trace::event::{Event, What};
use lychgate_sim::trace::invariant::{Breach, Floor, Obligation};

use super::Promise;
use super::world::{Run, World};
use crate::events::{AgentEvent, Did, RunEvent, TurnEvent, UserEvent};
use crate::names::{Role, ends, role, session_of};

/// From a message to its commit: a handful of statements on connections that are alive.
const TAKEN: Duration = Duration::from_secs(2);
/// From one step of a run to the next, but for what its model takes: as many statements, and one look at an agent that was not
/// ready, each second.
const STEP: Duration = Duration::from_secs(2);
/// What was amiss shows for so long afterwards.
const AFTERMATH: Duration = Duration::from_secs(60);

/// See the module.
#[derive(Default)]
pub struct Undisturbed {
    /// Messages that were sent and neither taken nor refused, by the label of their run: since when.
    said: BTreeMap<String, Duration>,
    /// By run: the next step that is the product's, and since when it is due.
    steps: BTreeMap<String, (Step, Duration)>,
    /// By agent: the newest assignment, and the one under which it was last found ready.
    agents: BTreeMap<String, (i64, i64)>,
    /// When anything became of any agent.
    moved: Duration,
    /// Until when there were so many runs that an agent may have had its hands full, and what it put off comes back.
    crowded: Duration,
    /// The runs that are over, that nothing was near and that nobody has stopped on record.
    floor: Floor,
    armed: bool,
}

/// What is next in a run that goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Its model is asked.
    Asks,
    /// The model's whole answer is checkpointed.
    Checkpoints,
    /// The run is over: its last turn is checkpointed.
    Ends,
}

/// Whether it is in the way of a message from its user to Postgres. So is who holds up a transaction: that may have its lock.
fn matters_to_messages(target: &str) -> bool {
    match ends(target) {
        Some((_, to)) => role(to) == Some(Role::Gateway) || to == "postgres",
        None => matches!(role(target), Some(Role::Gateway | Role::Executor)),
    }
}

/// Whether nothing has been near a run since it was accepted, its user's request to stop it included.
fn was_let_be(world: &World, run: &Run) -> bool {
    let stopped = run.stopped.is_some() || world.runs.was_suspended_since(&run.session, run.accepted);
    !stopped && world.health.is_undisturbed_since(run.accepted)
}

impl Undisturbed {
    /// Follows the steps of runs.
    fn step(&mut self, did: &Did, at: Duration) {
        match did {
            Did::Run(RunEvent::Claimed { run, .. } | RunEvent::Checkpointed { run, last: false, .. }) => {
                self.steps.insert(run.clone(), (Step::Asks, at));
            }
            Did::Turn(TurnEvent::Answered { run, .. }) => _ = self.steps.insert(run.clone(), (Step::Checkpoints, at)),
            Did::Run(RunEvent::Checkpointed { run, last: true, .. }) => {
                self.steps.insert(run.clone(), (Step::Ends, at));
            }
            // What its model has not answered whole is asked for again after a pause.
            Did::Turn(TurnEvent::Called { run, .. })
            | Did::Run(
                RunEvent::Ended { run, .. }
                | RunEvent::HandedBack { run, .. }
                | RunEvent::Lost { run, .. }
                | RunEvent::CancelRequested { run, .. },
            ) => _ = self.steps.remove(run),
            Did::Run(RunEvent::Suspended { session }) => self.steps.retain(|run, _| session_of(run) != *session),
            Did::Agent(AgentEvent::Assigned { agent, epoch, .. }) => {
                self.agents.entry(agent.clone()).or_default().0 = *epoch;
                self.moved = at;
            }
            Did::Agent(AgentEvent::SwitchReady { agent, epoch }) => {
                self.agents.entry(agent.clone()).or_default().1 = *epoch;
                self.moved = at;
            }
            Did::Agent(AgentEvent::ContainerStarted { .. } | AgentEvent::ContainerEnded { .. }) => self.moved = at,
            _ => {}
        }
    }

    /// When a step is due. Nobody promises it while anything is amiss, an agent is not ready, or has had its hands full.
    fn due(&self, world: &World, step: Step, since: Duration) -> Option<Duration> {
        let ready = self.agents.values().all(|(assigned, ready)| assigned == ready);
        let since = match step {
            Step::Asks if !ready || world.runs.open().count() > limits::AGENT_TURNS => return None,
            Step::Asks => since.max(self.moved).max(self.crowded),
            Step::Checkpoints | Step::Ends => since,
        };
        world.health.is_undisturbed_since(since).then(|| since + STEP)
    }

    /// A run is over: one that nothing was near, and that its user has not stopped, is completed.
    fn completes(&mut self, world: &World, label: &str, status: Status, reason: &str) -> Result<(), Breach> {
        let Some(run) = world.runs.get(label) else { return Ok(()) };
        if !was_let_be(world, run) {
            return Ok(());
        }
        self.floor.promised += 1;
        // One that waits is cancelled without a request on record: whether anybody has asked, `answers_bind` knows. The
        // floor counts it as not done.
        if status == Status::Cancelled {
            return Ok(());
        }
        self.armed = true;
        if status == Status::Completed {
            self.floor.kept += 1;
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
        "where nothing is amiss a message is taken and each step of its run follows within two seconds, and it is completed"
    }

    fn observe(&mut self, event: &Event<Did>, world: &World) -> Result<(), Breach> {
        let What::Product(did) = &event.what else { return Ok(()) };
        self.step(did, event.at);
        if matches!(did, Did::Run(_)) && world.runs.open().count() >= limits::AGENT_TURNS {
            self.crowded = event.at + limits::BACKOFF_MAX;
        }
        match did {
            Did::User(UserEvent::Said { run, session, .. }) => {
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
        let steps = self.steps.iter().filter_map(|(run, (step, since))| {
            let says = match step {
                Step::Asks => format!("the model is asked for the next turn of {run}"),
                Step::Checkpoints => format!("the answer to {run} is checkpointed"),
                Step::Ends => format!("{run}, whose last turn is checkpointed, is over"),
            };
            // What answers after its run's end answers nobody.
            let due = self.due(world, *step, *since).filter(|_| world.runs.is_open(run))?;
            Some(Obligation::new(says, *since, due))
        });
        owed.chain(steps).collect()
    }

    fn armed(&self) -> bool {
        self.armed
    }

    fn floor(&self, world: &World) -> Option<Floor> {
        let left = world.runs.open().filter(|(_, run)| was_let_be(world, run)).count();
        Some(Floor { promised: self.floor.promised + left as u64, ..self.floor })
    }
}
