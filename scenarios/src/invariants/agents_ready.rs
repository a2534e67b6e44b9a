//! At rest every agent is there: its container runs and answers, one that hung was restarted, under the subscription that it is assigned, and no
//! container of an older assignment is left. If a process died while it brought an agent up, another has finished it,
//! and no agent waited for another one: only what is in its own way puts its deadline off. One that some executor reaches is not
//! restarted because another does not, and none without a reason.

use std::collections::BTreeMap;
use std::time::Duration;

use lychgate_sim::trace::event::{Event, What, WorldEvent};
use lychgate_sim::trace::invariant::{Breach, Obligation};

use super::Promise;
use super::world::{World, matters_to_agent};
use crate::events::{AgentEvent, Did};
use crate::names::{Role, agent_of, ends, role};

/// From an assignment, a container's end or the healing of what they need, to an agent that is ready: a dead holder's
/// lock, the next look of another, the stop of the old container and the start of the new one.
const READY: Duration = Duration::from_secs(180);

/// An executor that has been well for so long, with all that it needs to hear an agent, has heard it lately, and said so.
const HEARD: Duration = Duration::from_secs(180);

/// From the start of a container to the end of what its death was.
const BOOTS: Duration = Duration::from_secs(5);

struct Container {
    epoch: i64,
    runs: bool,
    started: Duration,
    /// Whether it has answered since it was started.
    answers: bool,
}

#[derive(Default)]
struct Agent {
    epoch: i64,
    /// The epoch under which it was last found ready.
    ready: i64,
    /// The containers that were not removed, by label.
    containers: BTreeMap<String, Container>,
    /// When any of this last changed for the worse.
    since: Duration,
}

impl Agent {
    fn is_ready(&self) -> bool {
        let there = |container: &Container| container.epoch == self.epoch && container.runs && container.answers;
        self.ready == self.epoch && self.containers.values().any(there)
    }

    /// Containers of other assignments.
    fn leftover(&self) -> bool {
        self.containers.values().any(|container| container.epoch != self.epoch)
    }
}

/// See the module.
#[derive(Default)]
pub struct AgentsReady {
    agents: BTreeMap<String, Agent>,
    /// The process that a fault struck last, and when: it is the plan that stops it then.
    struck: (String, Duration),
    armed: bool,
}

impl AgentsReady {
    fn agent(&mut self, name: &str) -> &mut Agent {
        self.agents.entry(name.to_string()).or_default()
    }

    /// An agent's container is stopped. If its assignment is still the one that it is ready under, it was found to hang: then there
    /// is no executor whose way to it, to its engine and to Postgres is in order.
    fn stopped(&self, world: &World, slot: &str, at: Duration) -> Result<(), Breach> {
        let Some(agent) = self.agents.get(agent_of(slot)).filter(|agent| agent.ready == agent.epoch) else {
            return Ok(());
        };
        if !agent.is_ready() || self.struck == (slot.to_owned(), at) {
            return Ok(());
        }
        let started = agent.containers.values().filter(|container| container.runs).map(|container| container.started);
        let healed = world.health.healed_since(matters_to_agent(agent_of(slot)));
        let heard = healed.zip(world.health.executor_since()).map(|(calm, executor)| calm.max(executor));
        if started.min().zip(heard).is_some_and(|(started, heard)| heard <= started + BOOTS) {
            return Err(Breach::now(format!("{slot} was restarted, and nothing was amiss since it was started")));
        }
        let hears = |executor: &&str| {
            let matters = |target: &str| match ends(target) {
                Some((from, to)) => {
                    from == *executor && (to == "postgres" || to == "engine" || to.starts_with(agent_of(slot)))
                }
                None => target == *executor || target == slot,
            };
            let calm = world.health.calm_since(matters);
            let well = calm.is_some_and(|calm| calm.is_zero() || calm + HEARD <= at);
            well && world.health.life(executor).since + HEARD <= at
        };
        match world.health.ready_executors().find(hears) {
            None => Ok(()),
            Some(executor) => Err(Breach::now(format!("{slot} was restarted, and it answers {executor}"))),
        }
    }

    /// A process stands still: if it is a container of an agent, that answers nobody.
    fn hangs(&mut self, process: &str, at: Duration) {
        let agent = process.rsplit_once('.').and_then(|(agent, _)| self.agents.get_mut(agent));
        if let Some(agent) = agent {
            self.armed = true;
            agent.since = at;
            agent.containers.values_mut().for_each(|container| container.answers = false);
        }
    }
}

impl Promise for AgentsReady {
    fn name(&self) -> &'static str {
        "agents_ready"
    }

    fn says(&self) -> &'static str {
        "at rest every agent is ready under the subscription that it is assigned, in one container"
    }

    fn observe(&mut self, event: &Event<Did>, world: &World) -> Result<(), Breach> {
        let did = match &event.what {
            What::Product(did) => did,
            What::World(WorldEvent::Paused) => {
                self.hangs(&event.process, event.at);
                return Ok(());
            }
            What::World(WorldEvent::FaultStruck { target, .. }) => {
                self.struck = (target.clone(), event.at);
                return Ok(());
            }
            What::World(WorldEvent::Signalled { .. }) if role(&event.process) == Some(Role::Agent) => {
                return self.stopped(world, &event.process, event.at);
            }
            What::World(_) => return Ok(()),
        };
        match did {
            Did::Agent(AgentEvent::Assigned { agent, epoch, .. }) => {
                self.armed |= *epoch > 1;
                let agent = self.agent(agent);
                (agent.epoch, agent.since) = (*epoch, event.at);
            }
            Did::Agent(AgentEvent::SwitchReady { agent, epoch }) => self.agent(agent).ready = *epoch,
            Did::Agent(AgentEvent::ContainerCreated { agent, epoch, container }) => {
                let agent = self.agent(agent);
                let created = Container { epoch: *epoch, runs: false, started: event.at, answers: false };
                agent.containers.insert(container.clone(), created);
                if *epoch != agent.epoch {
                    agent.since = event.at;
                }
            }
            Did::Agent(AgentEvent::ContainerStarted { agent, container, .. }) => {
                if let Some(container) = self.agent(agent).containers.get_mut(container) {
                    (container.runs, container.started, container.answers) = (true, event.at, false);
                }
            }
            Did::Agent(AgentEvent::Probed { agent, status: Some(200), gauges, .. }) => {
                let epoch = gauges.get("epoch").copied();
                let answered = |container: &&mut Container| container.runs && Some(container.epoch) == epoch;
                self.agent(agent).containers.values_mut().filter(answered).for_each(|it| it.answers = true);
            }
            Did::Agent(AgentEvent::ContainerEnded { agent, container }) => {
                let agent = self.agent(agent);
                if let Some(container) = agent.containers.get_mut(container).filter(|container| container.runs) {
                    container.runs = false;
                    agent.since = event.at;
                    self.armed = true;
                }
            }
            Did::Agent(AgentEvent::ContainerRemoved { agent, container }) => {
                let agent = self.agent(agent);
                if agent.containers.remove(container).is_some_and(|gone| gone.runs || gone.epoch == agent.epoch) {
                    agent.since = event.at;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn pending(&self, world: &World) -> Vec<Obligation> {
        let executor = world.health.executor_since();
        let owed = self.agents.iter().filter_map(|(name, agent)| {
            let says = match (agent.is_ready(), agent.leftover()) {
                (true, false) => return None,
                (true, true) => format!("no container of another assignment of {name} is left"),
                (false, _) => format!("{name} is ready under the subscription that it is assigned"),
            };
            let calm = world.health.calm_since(matters_to_agent(name));
            let due = calm.zip(executor).map(|(calm, executor)| calm.max(executor).max(agent.since) + READY);
            Some(Obligation::new(says, agent.since, due.unwrap_or(Duration::MAX)))
        });
        owed.collect()
    }

    fn armed(&self) -> bool {
        self.armed
    }
}
