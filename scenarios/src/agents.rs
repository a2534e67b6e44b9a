//! What became of agents, from what was seen of them: containers by the engine's word, assignments by Postgres's, turns
//! and refusals by whoever asked the provider. Containers go by labels, as `agent-1/2`: the agent's second.

use std::collections::BTreeMap;

use lychgate::engine::{LABEL_AGENT, LABEL_EPOCH};
use lychgate_sim::standins::engine::observation::Engine;
use lychgate_sim::standins::postgres::observation::{Statement, Value};

use crate::events::Did;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Container {
    agent: String,
    epoch: i64,
    label: String,
}

/// Who is who among containers.
#[derive(Default)]
pub struct Agents {
    /// By container id.
    containers: BTreeMap<String, Container>,
    /// The container id in each berth, the last one.
    berths: BTreeMap<String, String>,
}

fn text(statement: &Statement, nth: usize) -> String {
    statement.params.get(nth - 1).and_then(Value::as_text).unwrap_or_default().to_string()
}

impl Agents {
    /// What a committed statement did to an agent.
    pub fn statement(&self, statement: &Statement) -> Option<Did> {
        let (agent, epoch) = (text(statement, 1), statement.params.get(1).and_then(Value::as_int).unwrap_or_default());
        match statement.name.as_str() {
            "switch.begin" => {
                let by_operator = text(statement, 5) == "operator";
                Some(Did::Assigned { agent, from: text(statement, 3), to: text(statement, 4), epoch, by_operator })
            }
            "subscription.fail" => {
                let epoch = statement.params.get(3).and_then(Value::as_int).unwrap_or_default();
                Some(Did::SubscriptionFailed { agent: text(statement, 2), subscription: text(statement, 3), epoch })
            }
            "switch.ready" => Some(Did::SwitchReady { agent, epoch }),
            "notice.switch" => {
                let epoch = statement.params.get(2).and_then(Value::as_int).unwrap_or_default();
                Some(Did::SwitchNoticed { agent: text(statement, 2), epoch })
            }
            _ => None,
        }
    }

    /// What became of a container.
    pub fn engine(&mut self, seen: &Engine) -> Vec<Did> {
        let removed = |did: &Did| match (seen, did) {
            (Engine::Removed { .. }, Did::ContainerEnded { agent, container }) => {
                Some(Did::ContainerRemoved { agent: agent.clone(), container: container.clone() })
            }
            _ => None,
        };
        let did = self.change(seen);
        let removed = did.as_ref().and_then(removed);
        did.into_iter().chain(removed).collect()
    }

    fn change(&mut self, seen: &Engine) -> Option<Did> {
        if let Engine::Created { id, labels, .. } = seen {
            let agent = labels.get(LABEL_AGENT)?.clone();
            let epoch = labels.get(LABEL_EPOCH)?.parse().ok()?;
            let nth = 1 + self.containers.values().filter(|other| other.agent == agent).count();
            let label = format!("{agent}/{nth}");
            let container = Container { agent: agent.clone(), epoch, label: label.clone() };
            self.containers.insert(id.clone(), container);
            return Some(Did::ContainerCreated { agent, epoch, container: label });
        }
        let (Engine::Created { id, .. }
        | Engine::Started { id, .. }
        | Engine::Stopped { id, .. }
        | Engine::Exited { id, .. }
        | Engine::Removed { id, .. }
        | Engine::Probed { id, .. }) = seen;
        let Container { agent, epoch, label } = self.containers.get(id)?.clone();
        match seen {
            Engine::Created { .. } => None,
            Engine::Started { process, .. } => {
                self.berths.insert(process.clone(), id.clone());
                Some(Did::ContainerStarted { agent, epoch, container: label })
            }
            Engine::Stopped { .. } | Engine::Exited { .. } | Engine::Removed { .. } => {
                Some(Did::ContainerEnded { agent, container: label })
            }
            Engine::Probed { process, status, body, took, .. } => {
                let gauges: BTreeMap<String, serde_json::Value> = serde_json::from_str(body).unwrap_or_default();
                let number = |(name, value): (String, serde_json::Value)| Some((name, value.as_i64()?));
                Some(Did::Probed {
                    process: process.clone(),
                    agent,
                    status: *status,
                    took: *took,
                    gauges: gauges.into_iter().filter_map(number).collect(),
                })
            }
        }
    }

    /// The agent, the assignment and the container of the process in a berth.
    pub fn served_by(&self, process: &str) -> Option<(String, i64, String)> {
        let container = self.containers.get(self.berths.get(process)?)?;
        Some((container.agent.clone(), container.epoch, container.label.clone()))
    }
}
