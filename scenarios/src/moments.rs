//! The moments in which a fault matters most: a drain, a terminal write, a switch. Each of the incidents that this product
//! must not have came from one fault too many in one of them. A process is in a moment with all that it does.

use std::collections::{BTreeMap, BTreeSet};

use lychgate_sim::trace::event::{Event, What, WorldEvent};
use lychgate_sim::world::product::Moments;

use crate::events::{AgentEvent, Did, LiveEvent, RunEvent, TurnEvent};
use crate::names::{agent_of, near};

const DRAIN: &str = "drain";
const TERMINAL_WRITE: &str = "terminal write";
const SWITCH: &str = "switch";

/// Knows who drains, which runs are being ended and which agents are switched.
#[derive(Debug, Default)]
pub struct LychgateMoments {
    /// Processes from their first SIGTERM to their end.
    draining: BTreeSet<String>,
    /// The owner of each run.
    owners: BTreeMap<String, String>,
    /// Runs whose last turn is kept or that were ended, until the live view has let go of them.
    ending: BTreeSet<String>,
    /// By agent that is switched: the runs that wait for it.
    switching: BTreeMap<String, BTreeSet<String>>,
}

impl LychgateMoments {
    fn learn(&mut self, did: &Did) {
        match did {
            Did::Run(RunEvent::Claimed { run, owner, .. }) => _ = self.owners.insert(run.clone(), owner.clone()),
            Did::Run(RunEvent::HandedBack { run, .. }) => {
                self.owners.remove(run);
                self.ending.remove(run);
            }
            Did::Run(RunEvent::Checkpointed { run, last: true, .. }) => _ = self.ending.insert(run.clone()),
            Did::Run(RunEvent::Ended { run, .. }) => {
                self.ending.insert(run.clone());
                self.switching.values_mut().for_each(|waiting| _ = waiting.remove(run));
                self.switching.retain(|_, waiting| !waiting.is_empty());
            }
            Did::Live(LiveEvent::Unshown { run, .. }) => {
                self.owners.remove(run);
                self.ending.remove(run);
            }
            Did::Turn(TurnEvent::Refused { run, agent, .. }) => {
                self.switching.entry(agent.clone()).or_default().insert(run.clone());
            }
            Did::Agent(AgentEvent::SwitchReady { agent, .. }) => _ = self.switching.remove(agent),
            _ => {}
        }
    }

    /// Whom a fault on `target` strikes, if that is one process: the near end of a link, or the process that works for the caller.
    /// What ails a service is everybody's.
    fn struck<'a>(&'a self, target: &'a str, label: &str) -> Option<&'a str> {
        let near = near(target);
        if near.contains('/') {
            return self.owners.get(label).map(String::as_str);
        }
        // Processes are numbered, services are not.
        near.contains('-').then_some(near)
    }

    fn switches(&self, struck: Option<&str>, label: &str) -> bool {
        self.switching.iter().any(|(agent, waiting)| {
            let mut holders = waiting.iter().filter_map(|run| self.owners.get(run));
            waiting.contains(label)
                || struck.is_none_or(|name| agent_of(name) == agent || holders.any(|holder| holder == name))
        })
    }
}

impl Moments<Did> for LychgateMoments {
    fn names(&self) -> &'static [&'static str] {
        &[DRAIN, TERMINAL_WRITE, SWITCH]
    }

    fn observe(&mut self, event: &Event<Did>) {
        match &event.what {
            What::World(WorldEvent::Signalled { .. }) => _ = self.draining.insert(event.process.clone()),
            What::World(WorldEvent::Exited { .. } | WorldEvent::Killed | WorldEvent::Booted) => {
                self.draining.remove(&event.process);
            }
            What::World(_) => {}
            What::Product(did) => self.learn(did),
        }
    }

    fn during(&self, target: &str, label: &str) -> Vec<&'static str> {
        let struck = self.struck(target, label);
        let drain = self.draining.iter().any(|process| struck.is_none_or(|name| name == process));
        let mut enders = self.ending.iter().filter_map(|run| self.owners.get(run));
        let ending = self.ending.contains(label) || enders.any(|owner| struck.is_none_or(|name| name == owner));
        let all = [(DRAIN, drain), (TERMINAL_WRITE, ending), (SWITCH, self.switches(struck, label))];
        all.into_iter().filter(|(_, so)| *so).map(|(moment, _)| moment).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn told(moments: &mut LychgateMoments, process: &str, what: What<Did>) {
        let process = process.to_owned();
        moments.observe(&Event { seq: 0, at: Duration::ZERO, process, incarnation: 1, what });
    }

    #[test]
    fn each_begins_and_ends() {
        let mut moments = LychgateMoments::default();
        let (session, run) = ("ann/1".to_owned(), "ann/1#1".to_owned());
        let claimed = Did::Run(RunEvent::Claimed {
            session: session.clone(),
            run: run.clone(),
            fence: 1,
            owner: "executor-1".into(),
            mark: String::new(),
        });
        told(&mut moments, "", What::Product(claimed));
        assert!(moments.during("redis", &run).is_empty());
        assert!(moments.during("executor-1", &run).is_empty());
        told(&mut moments, "executor-1", What::World(WorldEvent::Signalled { nth: 1 }));
        assert_eq!(moments.during("redis", &run), [DRAIN]);
        assert_eq!(moments.during("executor-1->postgres", "ben/1#1"), [DRAIN]);
        let refused = Did::Turn(TurnEvent::Refused {
            session: session.clone(),
            run: run.clone(),
            agent: "agent-1".into(),
            epoch: 1,
            status: 429,
            retry_after: None,
        });
        told(&mut moments, "", What::Product(refused));
        assert_eq!(moments.during("agent-1.2", "ben/1#1"), [SWITCH]);
        assert_eq!(moments.during("executor-1->engine", "ben/1#1"), [DRAIN, SWITCH]);
        told(
            &mut moments,
            "",
            What::Product(Did::Agent(AgentEvent::SwitchReady { agent: "agent-1".into(), epoch: 2 })),
        );
        let last = Did::Run(RunEvent::Checkpointed {
            session: session.clone(),
            run: run.clone(),
            turn: 1,
            fence: 1,
            last: true,
            pool: String::new(),
        });
        told(&mut moments, "", What::Product(last));
        assert_eq!(moments.during("redis", &run), [DRAIN, TERMINAL_WRITE]);
        told(&mut moments, "", What::Product(Did::Live(LiveEvent::Unshown { session, run: run.clone() })));
        told(&mut moments, "executor-1", What::World(WorldEvent::Exited { code: 0 }));
        assert!(moments.during("executor-1->redis", &run).is_empty());
    }
}
