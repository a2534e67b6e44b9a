//! However many failures of a subscription come at once: an agent moves once for each of its assignments, to a
//! subscription that is well, and its users are told once. A failure about X never moves an agent off Y.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lychgate::limits;
use lychgate_sim::event::{Event, Happening, What};
use lychgate_sim::judge::{Breach, Invariant, Obligation};

use crate::events::Did;
use crate::health::Health;

/// From a failure that an executor received until its agent is ready under the next assignment: the old container's
/// stop, the new one's start, and turns that must notice.
const SWITCHED: Duration = Duration::from_secs(120);
/// What is left of the lock of a holder that died: all of it, at worst, and the next look of another.
const LOCK_LEFT: Duration = Duration::from_secs(75);

#[derive(Default)]
struct Agent {
    epoch: i64,
    subscription: String,
    /// When it became ready under its epoch.
    ready: bool,
    /// How often the provider refused it, by epoch, and when first.
    refused: BTreeMap<i64, Duration>,
    /// The runs whose calls were refused under the newest epoch, with the executor that heard of it.
    heard_by: BTreeMap<String, (String, u32)>,
    created: BTreeSet<i64>,
    noticed: BTreeSet<i64>,
    /// The container that serves turns, by epoch.
    serving: BTreeMap<i64, String>,
}

/// See the module.
pub struct ExactlyOneSwitch {
    health: Health,
    /// Every subscription, in the configured order.
    subscriptions: Vec<String>,
    agents: BTreeMap<String, Agent>,
    /// When a subscription last failed, on any agent.
    failed: BTreeMap<String, Duration>,
    /// The owner of each run, and its life.
    owners: BTreeMap<String, (String, u32)>,
    armed: bool,
}

impl ExactlyOneSwitch {
    /// For a run in which these subscriptions are configured.
    pub fn new(subscriptions: Vec<String>) -> Self {
        ExactlyOneSwitch {
            health: Health::default(),
            subscriptions,
            agents: BTreeMap::new(),
            failed: BTreeMap::new(),
            owners: BTreeMap::new(),
            armed: false,
        }
    }

    fn agent(&mut self, name: &str) -> &mut Agent {
        self.agents.entry(name.to_string()).or_default()
    }

    fn well(&self, subscription: &str, at: Duration) -> bool {
        self.failed.get(subscription).is_none_or(|failed| *failed + limits::SKIP_WINDOW <= at)
    }

    fn assigned(&mut self, name: &str, from: &str, to: &str, epoch: i64, at: Duration) -> Result<(), Breach> {
        let well = self.well(to, at);
        let agent = self.agent(name);
        if epoch != agent.epoch + 1 {
            return Err(Breach::now(format!("{name} was assigned twice under the same serial")));
        }
        if epoch > 1 {
            if !agent.refused.contains_key(&agent.epoch) {
                return Err(Breach::now(format!("{name} was moved off {from}, which never failed there")));
            }
            if from != agent.subscription || to == from {
                return Err(Breach::now(format!(
                    "{name} was on {}, and was moved from {from} to {to}",
                    agent.subscription
                )));
            }
            if !well {
                return Err(Breach::now(format!("{name} was moved to {to}, which failed a short while ago")));
            }
        }
        (agent.epoch, agent.subscription, agent.ready) = (epoch, to.to_string(), false);
        agent.heard_by.clear();
        Ok(())
    }

    fn refused(&mut self, name: &str, run: &str, epoch: i64, at: Duration) {
        let owner = self.owners.get(run).cloned();
        let agent = self.agent(name);
        let several = agent.refused.contains_key(&epoch);
        agent.refused.entry(epoch).or_insert(at);
        if epoch == agent.epoch
            && let Some(owner) = owner
        {
            agent.heard_by.insert(run.to_string(), owner);
        }
        let subscription = agent.subscription.clone();
        if epoch == self.agent(name).epoch {
            self.failed.insert(subscription, at);
        }
        self.armed |= several;
    }

    /// Something that must be true once only.
    fn once(set: &mut BTreeSet<i64>, epoch: i64, says: impl FnOnce() -> String) -> Result<(), Breach> {
        if set.insert(epoch) { Ok(()) } else { Err(Breach::now(says())) }
    }

    /// Whoever heard of a failure and is still there must see it through.
    fn owed(&self, name: &str, agent: &Agent) -> Option<Obligation> {
        let since = *agent.refused.get(&agent.epoch)?;
        let alive = |(process, incarnation): &(String, u32)| {
            let life = self.health.life(process);
            life.alive && !life.draining && life.incarnation == *incarnation
        };
        let heard = agent.heard_by.values().any(alive);
        let candidate = self.subscriptions.iter().any(|other| *other != agent.subscription && self.well(other, since));
        (heard && candidate).then(|| {
            let matters = |target: &str| {
                target.ends_with("->engine")
                    || target.ends_with("->postgres")
                    || target.starts_with("agent-")
                    || target.contains("->agent-")
                    || target.starts_with("executor-") && !target.contains("->")
            };
            let says = format!("{name} leaves {}, which failed", agent.subscription);
            let calm = self.health.calm_since(matters);
            let due = calm.map_or(Duration::MAX, |calm| calm.max(since) + SWITCHED + LOCK_LEFT);
            Obligation::new(says, since, due)
        })
    }
}

impl Invariant<Did> for ExactlyOneSwitch {
    fn name(&self) -> &'static str {
        "exactly_one_switch"
    }

    fn says(&self) -> &'static str {
        "each assignment of an agent is left once, for one that is well, with one container and one notice"
    }

    fn observe(&mut self, event: &Event<Did>) -> Result<(), Breach> {
        self.health.observe(event);
        let did = match &event.what {
            What::Product(did) => did,
            What::World(Happening::FaultFelt { kind, .. }) => {
                self.armed |= *kind == "refuse";
                return Ok(());
            }
            What::World(_) => return Ok(()),
        };
        match did {
            Did::Claimed { run, owner, .. } => {
                let incarnation = self.health.life(owner).incarnation;
                self.owners.insert(run.clone(), (owner.clone(), incarnation));
            }
            Did::HandedBack { run, .. } | Did::Ended { run, .. } | Did::CancelRequested { run, .. } => {
                self.owners.remove(run);
                for agent in self.agents.values_mut() {
                    agent.heard_by.remove(run);
                }
            }
            Did::Refused { run, agent, epoch, .. } => self.refused(agent, run, *epoch, event.at),
            Did::Assigned { agent, from, to, epoch } => self.assigned(agent, from, to, *epoch, event.at)?,
            Did::ContainerCreated { agent, epoch, .. } => {
                let says = || format!("two containers of {agent} were created for one assignment");
                Self::once(&mut self.agent(agent).created, *epoch, says)?;
            }
            Did::SwitchNoticed { agent, epoch } => {
                let says = || format!("the users of {agent} were told twice of one switch");
                Self::once(&mut self.agent(agent).noticed, *epoch, says)?;
            }
            Did::TurnServed { agent, epoch, container } => {
                let serving = self.agent(agent).serving.entry(*epoch).or_insert_with(|| container.clone());
                if serving != container {
                    return Err(Breach::now(format!("two containers of {agent} served turns under one assignment")));
                }
            }
            Did::SwitchReady { agent, epoch } => {
                let agent = self.agent(agent);
                agent.ready |= *epoch == agent.epoch;
            }
            _ => {}
        }
        Ok(())
    }

    fn pending(&self) -> Vec<Obligation> {
        self.agents.iter().filter_map(|(name, agent)| self.owed(name, agent)).collect()
    }

    fn armed(&self) -> bool {
        self.armed
    }
}
