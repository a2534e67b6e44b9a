//! At rest every agent is there: its container runs, ready, under the subscription that it is assigned. Whoever died in
//! the middle of bringing it up, somebody else has finished it, and no agent waited for another one.

use std::collections::BTreeMap;
use std::time::Duration;

use lychgate_sim::event::{Event, What};
use lychgate_sim::judge::{Breach, Invariant, Obligation};

use crate::events::Did;
use crate::health::Health;

/// From an assignment, a container's end or the healing of what they need, to an agent that is ready: a dead holder's
/// lock, the next look of another, the stop of the old container and the start of the new one.
const READY: Duration = Duration::from_secs(180);

#[derive(Default)]
struct Agent {
    epoch: i64,
    /// The epoch under which it was last found ready.
    ready: i64,
    /// Running containers, by id, with their epoch.
    running: BTreeMap<String, i64>,
    /// When any of this last changed for the worse.
    since: Duration,
}

impl Agent {
    fn is_ready(&self) -> bool {
        self.ready == self.epoch && self.running.values().any(|epoch| *epoch == self.epoch)
    }

    /// Containers of older assignments that still run.
    fn leftover(&self) -> bool {
        self.running.values().any(|epoch| *epoch < self.epoch)
    }
}

/// See the module.
#[derive(Default)]
pub struct AgentsReady {
    health: Health,
    agents: BTreeMap<String, Agent>,
    armed: bool,
}

impl AgentsReady {
    fn agent(&mut self, name: &str) -> &mut Agent {
        self.agents.entry(name.to_string()).or_default()
    }
}

impl Invariant<Did> for AgentsReady {
    fn name(&self) -> &'static str {
        "agents_ready"
    }

    fn says(&self) -> &'static str {
        "at rest every agent is ready under the subscription that it is assigned, in one container"
    }

    fn observe(&mut self, event: &Event<Did>) -> Result<(), Breach> {
        self.health.observe(event);
        let What::Product(did) = &event.what else { return Ok(()) };
        match did {
            Did::Assigned { agent, epoch, .. } => {
                self.armed |= *epoch > 1;
                let agent = self.agent(agent);
                (agent.epoch, agent.since) = (*epoch, event.at);
            }
            Did::SwitchReady { agent, epoch } => self.agent(agent).ready = *epoch,
            Did::ContainerStarted { agent, epoch, container } => {
                self.agent(agent).running.insert(container.clone(), *epoch);
            }
            Did::ContainerEnded { agent, container } => {
                let agent = self.agent(agent);
                if agent.running.remove(container).is_some() {
                    agent.since = event.at;
                    self.armed = true;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn pending(&self) -> Vec<Obligation> {
        let matters = |target: &str| {
            target.ends_with("->engine")
                || target.ends_with("->postgres")
                || target.starts_with("agent-")
                || target.contains("->agent-")
                || target.starts_with("executor-") && !target.contains("->")
        };
        let executor = self.health.executor_since();
        let calm = self.health.calm_since(matters);
        let owed = self.agents.iter().filter_map(|(name, agent)| {
            let says = match (agent.is_ready(), agent.leftover()) {
                (true, false) => return None,
                (true, true) => format!("no container of an older assignment of {name} runs any more"),
                (false, _) => format!("{name} is ready under the subscription that it is assigned"),
            };
            let due = calm.zip(executor).map(|(calm, executor)| calm.max(executor).max(agent.since) + READY);
            Some(Obligation::new(says, agent.since, due.unwrap_or(Duration::MAX)))
        });
        owed.collect()
    }

    fn armed(&self) -> bool {
        self.armed
    }
}
