//! What became of agents, from what was seen of them: containers by the engine's word, assignments by Postgres's, turns
//! and refusals by the agent that asked the provider. Containers go by labels, as `agent-1/2`: the agent's second.

use std::collections::BTreeMap;

use lychgate::engine::{LABEL_AGENT, LABEL_EPOCH};
use lychgate::store::Cause;
use lychgate::store::sql;
use lychgate_sim::standins::engine::observation::Engine;

use crate::events::{AgentEvent, Did};
use crate::reader::{Executed, Misread};

#[derive(Clone, Debug, PartialEq, Eq)]
struct Container {
    agent: String,
    epoch: i64,
    label: String,
}

/// The agents of containers.
#[derive(Default)]
pub struct Agents {
    /// By container id.
    containers: BTreeMap<String, Container>,
    /// The container id in each slot, the last one.
    slots: BTreeMap<String, String>,
}

impl Agents {
    /// What an executed statement did to an agent.
    pub(crate) fn statement(&self, executed: &Executed) -> Result<Option<Did>, Misread> {
        Ok(Some(match *executed.sql {
            sql::SWITCH_BEGIN => {
                let cause = executed.text("cause")?;
                let unknown = || Misread(format!("no switch has the cause `{cause}`"));
                Did::Agent(AgentEvent::Assigned {
                    agent: executed.text("agent")?,
                    from: executed.text("from")?,
                    to: executed.text("to")?,
                    epoch: executed.int("epoch")?,
                    by_operator: Cause::parse(&cause).ok_or_else(unknown)? == Cause::Operator,
                })
            }
            sql::SUBSCRIPTION_FAIL => Did::Agent(AgentEvent::SubscriptionFailed {
                agent: executed.text("agent")?,
                subscription: executed.text("subscription")?,
                epoch: executed.int("epoch")?,
            }),
            sql::SWITCH_READY => {
                Did::Agent(AgentEvent::SwitchReady { agent: executed.text("agent")?, epoch: executed.int("epoch")? })
            }
            sql::NOTICE_SWITCH => {
                Did::Agent(AgentEvent::SwitchNoticed { agent: executed.text("agent")?, epoch: executed.int("epoch")? })
            }
            _ => return Ok(None),
        }))
    }

    /// What became of a container.
    ///
    /// # Errors
    /// It was created without the labels of an agent's container.
    pub fn engine(&mut self, seen: &Engine) -> Result<Vec<Did>, Misread> {
        let removed = |did: &Did| match (seen, did) {
            (Engine::Removed { .. }, Did::Agent(AgentEvent::ContainerEnded { agent, container })) => {
                Some(Did::Agent(AgentEvent::ContainerRemoved { agent: agent.clone(), container: container.clone() }))
            }
            _ => None,
        };
        let did = self.change(seen)?;
        let removed = did.as_ref().and_then(removed);
        Ok(did.into_iter().chain(removed).collect())
    }

    fn change(&mut self, seen: &Engine) -> Result<Option<Did>, Misread> {
        if let Engine::Created { id, labels, .. } = seen {
            let labelled =
                labels.get(LABEL_AGENT).cloned().zip(labels.get(LABEL_EPOCH).and_then(|epoch| epoch.parse().ok()));
            let (agent, epoch) =
                labelled.ok_or_else(|| Misread(format!("a container was created without its labels: {labels:?}")))?;
            let nth = 1 + self.containers.values().filter(|other| other.agent == agent).count();
            let label = format!("{agent}/{nth}");
            let container = Container { agent: agent.clone(), epoch, label: label.clone() };
            self.containers.insert(id.clone(), container);
            return Ok(Some(Did::Agent(AgentEvent::ContainerCreated { agent, epoch, container: label })));
        }
        let (Engine::Created { id, .. }
        | Engine::Started { id, .. }
        | Engine::Stopped { id, .. }
        | Engine::Exited { id, .. }
        | Engine::Removed { id, .. }
        | Engine::Probed { id, .. }) = seen;
        let Some(Container { agent, epoch, label }) = self.containers.get(id).cloned() else { return Ok(None) };
        Ok(match seen {
            Engine::Created { .. } => None,
            Engine::Started { process, .. } => {
                self.slots.insert(process.clone(), id.clone());
                Some(Did::Agent(AgentEvent::ContainerStarted { agent, epoch, container: label }))
            }
            Engine::Stopped { .. } | Engine::Exited { .. } | Engine::Removed { .. } => {
                Some(Did::Agent(AgentEvent::ContainerEnded { agent, container: label }))
            }
            Engine::Probed { process, status, body, took, .. } => {
                // What is no object of JSON has no gauges; neither has a process that did not answer.
                let told: BTreeMap<String, serde_json::Value> = serde_json::from_str(body).unwrap_or_default();
                let number = |(name, value): (String, serde_json::Value)| Some((name, value.as_i64()?));
                let gauges = told.into_iter().filter_map(number).collect();
                Some(Did::Agent(AgentEvent::Probed {
                    process: process.clone(),
                    agent,
                    status: *status,
                    took: *took,
                    gauges,
                }))
            }
        })
    }

    /// The agent, the assignment and the container of the process in a slot.
    pub fn served_by(&self, process: &str) -> Option<(String, i64, String)> {
        let container = self.containers.get(self.slots.get(process)?)?;
        Some((container.agent.clone(), container.epoch, container.label.clone()))
    }
}
