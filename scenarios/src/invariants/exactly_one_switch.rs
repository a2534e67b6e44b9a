//! However many failures of a subscription come at once: an agent moves once for each of its assignments, to a
//! subscription that is well, and its users are told once. A failure about X never moves an agent off Y, and leaves no
//! trace on Y. Who waits for a move is answered under the next assignment; where there is none, its user is told so. A wait
//! that the provider asks for is waited if it is shorter than a move, or if there is nowhere to move. An
//! operator's wish moves an agent once, from where the operator saw it, or not at all.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lychgate::limits;
use lychgate::run::{NO_SUBSCRIPTION, Status};
use lychgate_sim::standins::clock;
use lychgate_sim::trace::event::{Event, What, WorldEvent};
use lychgate_sim::trace::invariant::{Breach, Obligation};

use super::Promise;
use super::world::{Owner, World, matters_to_agent};
use crate::events::{AgentEvent, Did, RunEvent, TurnEvent, UserEvent};

/// From a failure that an executor received to the next assignment, if nothing is faulty: a lock that is free, and a few
/// statements. A look at the agent's container that is going on comes first.
const ASSIGNED: Duration = Duration::from_secs(30);
/// From a failure that an executor received until its agent answers under the next assignment: the old container's stop,
/// the new one's start, and turns that must notice.
const SWITCHED: Duration = Duration::from_secs(120);
/// What is left of the lock of a holder that died: all of it, at worst, and the next look of another.
const LOCK_LEFT: Duration = Duration::from_secs(75);
/// What is recorded on another agent later than this before a move may not have been seen by the process that chose.
const UNSEEN: Duration = Duration::from_secs(10);

/// A session that began before a notice may have begun after it by a clock that was ahead then and is behind now.
const CLOCK_OFF: Duration = clock::OFF_MAX.saturating_mul(2);
/// A user who finds something has looked at most so long before.
const LOOKING: Duration = Duration::from_secs(30);
/// A session shows no more.
const NOTICES_SHOWN: usize = limits::NOTICES_SHOWN as usize;

#[derive(Default)]
struct Agent {
    epoch: i64,
    /// What it is assigned now, and was before, by epoch.
    subscriptions: BTreeMap<i64, String>,
    /// When it became ready under its epoch.
    ready: Option<Duration>,
    /// When the provider first refused it, by epoch.
    refused: BTreeMap<i64, Duration>,
    /// The end of the first wait that the provider asked for and that is shorter than a move, by epoch; a refusal that asks
    /// for none ends at once.
    waits_until: BTreeMap<i64, Duration>,
    created: BTreeSet<i64>,
    noticed: BTreeMap<i64, Duration>,
    /// The container that serves turns, by epoch.
    serving: BTreeMap<i64, String>,
}

impl Agent {
    fn subscription(&self) -> &str {
        self.subscriptions.get(&self.epoch).map(String::as_str).unwrap_or_default()
    }
}

/// A run whose call was refused, until something comes of it.
struct Waiting {
    agent: String,
    epoch: i64,
    /// Its first refusal.
    first: Duration,
    /// Its newest refusal, and what it was asked to wait.
    since: Duration,
    asked: Option<Duration>,
    /// The executor, and which life of it.
    owner: (String, u32),
}

/// See the module.
pub struct ExactlyOneSwitch {
    /// Every subscription, in the configured order.
    subscriptions: Vec<String>,
    agents: BTreeMap<String, Agent>,
    /// When the provider last refused a subscription, on any agent.
    failed: BTreeMap<String, Duration>,
    /// When that was last recorded, and on which agent.
    recorded: BTreeMap<(String, String), Duration>,
    waiting: BTreeMap<String, Waiting>,
    /// The run that a container calls the provider for.
    calling: String,
    /// What operators have asked for: an agent, the epoch under which they saw it, and a subscription.
    wishes: BTreeSet<(String, i64, String)>,
    /// The agent of each session, and when that was first seen.
    sessions: BTreeMap<String, (String, Duration)>,
    armed: bool,
}

impl Waiting {
    /// The wait that it was asked for, if it is one that a run waits.
    fn patience(&self) -> Duration {
        self.asked.filter(|asked| *asked <= limits::RATE_LIMIT_PATIENCE).unwrap_or_default()
    }
}

impl ExactlyOneSwitch {
    /// For a run in which these subscriptions are configured.
    pub fn new(subscriptions: Vec<String>) -> Self {
        ExactlyOneSwitch {
            subscriptions,
            agents: BTreeMap::new(),
            failed: BTreeMap::new(),
            recorded: BTreeMap::new(),
            waiting: BTreeMap::new(),
            calling: String::new(),
            wishes: BTreeSet::new(),
            sessions: BTreeMap::new(),
            armed: false,
        }
    }

    fn agent(&mut self, name: &str) -> &mut Agent {
        self.agents.entry(name.to_string()).or_default()
    }

    /// Whether nobody was refused on some subscription other than `present` within the window before `at`.
    fn candidate(&self, present: &str, at: Duration) -> bool {
        let well =
            |name: &String| self.failed.get(name).is_none_or(|failed| *failed + limits::SKIP_WINDOW + UNSEEN <= at);
        self.subscriptions.iter().any(|other| other != present && well(other))
    }

    /// The agent is assigned `to`, by an operator or because what it had has failed.
    fn assigned(
        &mut self,
        name: &str,
        (from, to): (&str, &str),
        epoch: i64,
        at: Duration,
        by_operator: bool,
    ) -> Result<(), Breach> {
        if epoch == 1 && self.subscriptions.first().is_some_and(|first| first != to) {
            return Err(Breach::now(format!("{name} began with {to}, which is not the first subscription")));
        }
        let wished = self.wishes.contains(&(name.to_string(), epoch - 1, to.to_string()));
        let skipped = self.recorded.iter().any(|((subscription, agent), recorded)| {
            let unseen = if agent == name { Duration::ZERO } else { UNSEEN };
            subscription == to && *recorded + unseen <= at && at + UNSEEN <= *recorded + limits::SKIP_WINDOW
        });
        let agent = self.agent(name);
        if !by_operator && agent.waits_until.get(&agent.epoch).is_some_and(|until| at < *until) {
            let says =
                format!("{name} was moved off {}, which asked for less time than a move costs", agent.subscription());
            return Err(Breach::now(says));
        }
        if epoch != agent.epoch + 1 {
            return Err(Breach::now(format!("{name} was assigned twice under the same serial")));
        }
        if epoch > 1 {
            if by_operator && !wished {
                return Err(Breach::now(format!(
                    "{name} was moved to {to} for an operator, and none wished that there"
                )));
            }
            if !by_operator && !agent.refused.contains_key(&agent.epoch) {
                return Err(Breach::now(format!("{name} was moved off {}, which never failed", agent.subscription())));
            }
            if from != agent.subscription() || to == from {
                let says = format!("{name} was on {}, and was moved from {from} to {to}", agent.subscription());
                return Err(Breach::now(says));
            }
            if skipped && !by_operator {
                return Err(Breach::now(format!("{name} was moved to {to}, which failed a short while ago")));
            }
        }
        (agent.epoch, agent.ready) = (epoch, None);
        agent.subscriptions.insert(epoch, to.to_string());
        Ok(())
    }

    fn refused(&mut self, world: &World, (name, epoch): (&str, i64), run: &str, asked: Option<Duration>, at: Duration) {
        let agent = self.agent(name);
        let short = asked.filter(|asked| *asked <= limits::RATE_LIMIT_WAIT).unwrap_or_default();
        let until = agent.waits_until.entry(epoch).or_insert(at + short);
        *until = (*until).min(at + short);
        let several = agent.refused.contains_key(&epoch);
        agent.refused.entry(epoch).or_insert(at);
        if let Some(subscription) = agent.subscriptions.get(&epoch).cloned() {
            self.failed.insert(subscription, at);
        }
        self.armed |= several;
        let waiting = self.waiting.get_mut(run).filter(|waiting| waiting.agent == name && waiting.epoch == epoch);
        if let Some(waiting) = waiting {
            if asked.is_some() {
                (waiting.since, waiting.asked) = (at, asked);
            }
        } else if let Some(Owner { process, incarnation, .. }) = world.runs.acting(run).cloned() {
            let (agent, owner) = (name.to_string(), (process, incarnation));
            self.waiting.insert(run.to_string(), Waiting { agent, epoch, first: at, since: at, asked, owner });
        }
    }

    /// A failure was recorded.
    fn recorded(&mut self, name: &str, subscription: &str, epoch: i64, at: Duration) -> Result<(), Breach> {
        let agent = self.agent(name);
        if epoch != agent.epoch || subscription != agent.subscription() || !agent.refused.contains_key(&epoch) {
            let says = format!("a failure of {subscription} was recorded on {name}, which did not fail there");
            return Err(Breach::now(says));
        }
        self.recorded.insert((subscription.to_string(), name.to_string()), at);
        Ok(())
    }

    fn noticed(&mut self, name: &str, epoch: i64, at: Duration) -> Result<(), Breach> {
        let agent = self.agent(name);
        if epoch < 2 || epoch != agent.epoch || agent.ready.is_none() {
            return Err(Breach::now(format!("the users of {name} were told of a switch that is none, or not done")));
        }
        match agent.noticed.insert(epoch, at) {
            None => Ok(()),
            Some(_) => Err(Breach::now(format!("the users of {name} were told twice of one switch"))),
        }
    }

    /// A user looked at a session and found so many notices about its agent.
    fn found(&self, world: &World, session: &str, notices: usize, at: Duration) -> Result<(), Breach> {
        let Some((name, since)) = self.sessions.get(session) else { return Ok(()) };
        let noticed = self.agents.get(name).into_iter().flat_map(|agent| agent.noticed.values());
        let off = if world.health.was_ever_off("postgres") { CLOCK_OFF } else { Duration::ZERO };
        let shown = |told: &&Duration| *since + off < **told && **told + LOOKING < at;
        let least = noticed.filter(shown).count().min(NOTICES_SHOWN);
        if notices < least {
            let says = format!("the user of {session} was shown {notices} of at least {least} notices about {name}");
            return Err(Breach::now(says));
        }
        Ok(())
    }

    /// An operator was told that the agent is assigned `to`.
    fn reassigned(&mut self, name: &str, to: &str, epoch: i64) -> Result<(), Breach> {
        if self.agent(name).subscriptions.get(&epoch).is_some_and(|subscription| subscription == to) {
            return Ok(());
        }
        Err(Breach::now(format!(
            "an operator was told that {name} is assigned {to} under epoch {epoch}, and it is not"
        )))
    }

    /// A run was given up.
    fn failed(&self, world: &World, run: &str, reason: &str, at: Duration) -> Result<(), Breach> {
        let Some(waiting) = self.waiting.get(run) else { return Ok(()) };
        let present = self.agents[&waiting.agent].subscriptions.get(&waiting.epoch);
        let present = present.map(String::as_str).unwrap_or_default();
        let candidate = self.candidate(present, at);
        let told = reason.starts_with(NO_SUBSCRIPTION);
        let patient = at + waiting.patience() < waiting.first + limits::RATE_LIMIT_PATIENCE;
        if told && waiting.patience() > Duration::ZERO && patient && at < waiting.since + waiting.patience() {
            return Err(Breach::now(format!("{run} was given up before its provider wanted to be asked again")));
        }
        if told && candidate {
            return Err(Breach::now(format!("{run} was given up for want of a subscription, and there was one")));
        }
        let calm = world.health.calm_since(matters_to_agent(&waiting.agent));
        let calm = calm.is_some_and(|calm| calm.is_zero() || calm + LOCK_LEFT <= waiting.since);
        if !told && candidate && calm {
            let says = format!("{run} failed with its subscription, and there was another one: {reason}");
            return Err(Breach::now(says));
        }
        if !told && !candidate && calm {
            return Err(Breach::now(format!("{run} had no subscription left, and its user was told {reason:?}")));
        }
        Ok(())
    }

    /// Something that must be true once only.
    fn once(set: &mut BTreeSet<i64>, epoch: i64, says: impl FnOnce() -> String) -> Result<(), Breach> {
        if set.insert(epoch) { Ok(()) } else { Err(Breach::now(says())) }
    }

    /// Since when the executor that heard of a failure is there to see it through.
    fn heard(&self, world: &World, waiting: &Waiting) -> Option<Duration> {
        let life = world.health.life(&waiting.owner.0);
        let there = life.alive && !life.draining && !life.paused && life.incarnation == waiting.owner.1;
        there.then_some(life.since)
    }

    /// When something is due that takes so long after `since`, if nothing is in `agent`'s way.
    fn due(&self, world: &World, agent: &str, since: Duration, calmly: Duration) -> Duration {
        match world.health.calm_since(matters_to_agent(agent)) {
            None => Duration::MAX,
            Some(calm) if calm.is_zero() || calm + SWITCHED + LOCK_LEFT < since => since + calmly,
            Some(calm) => calm.max(since) + SWITCHED + LOCK_LEFT,
        }
    }

    /// A process that heard of a failure and still lives must see the switch through.
    fn leaves(&self, world: &World, name: &str, agent: &Agent) -> Option<Obligation> {
        let about = |waiting: &&Waiting| waiting.agent == name && waiting.epoch == agent.epoch;
        let waits = |waiting: &Waiting| if waiting.asked.is_some() { limits::RATE_LIMIT_WAIT } else { Duration::ZERO };
        let heard =
            |waiting: &Waiting| Some((waiting.first, self.heard(world, waiting)?.max(waiting.first + waits(waiting))));
        let (first, since) = self.waiting.values().filter(about).filter_map(heard).min_by_key(|(_, since)| *since)?;
        self.candidate(agent.subscription(), first).then(|| {
            let says = format!("{name} leaves {}, which failed", agent.subscription());
            Obligation::new(says, first, self.due(world, name, since, ASSIGNED))
        })
    }

    /// A run that was refused is answered under another assignment, or told that there is none.
    fn goes_on(&self, world: &World, run: &str, waiting: &Waiting) -> Option<Obligation> {
        let heard = self.heard(world, waiting)?;
        let says = format!("{run}, whose call {} could not make, is answered or ended", waiting.agent);
        let since =
            self.agents[&waiting.agent].ready.unwrap_or_default().max(waiting.since + waiting.patience()).max(heard);
        Some(Obligation::new(says, waiting.since, self.due(world, &waiting.agent, since, SWITCHED)))
    }

    /// The users of an agent are told.
    fn tells(&self, world: &World, name: &str, agent: &Agent) -> Option<Obligation> {
        let ready = agent.ready.filter(|_| agent.epoch > 1 && !agent.noticed.contains_key(&agent.epoch))?;
        let due = world.health.executor_since().map(|there| self.due(world, name, ready.max(there), SWITCHED));
        let says = format!("the users of {name} are told that it uses {} now", agent.subscription());
        Some(Obligation::new(says, ready, due.unwrap_or(Duration::MAX)))
    }
}

impl Promise for ExactlyOneSwitch {
    fn name(&self) -> &'static str {
        "exactly_one_switch"
    }

    fn says(&self) -> &'static str {
        "each assignment of an agent is left once, for one that is well, with one container and one notice"
    }

    fn observe(&mut self, event: &Event<Did>, world: &World) -> Result<(), Breach> {
        let did = match &event.what {
            What::Product(did) => did,
            What::World(WorldEvent::FaultFelt { kind, .. }) => {
                self.armed |= kind.word == "refuse";
                return Ok(());
            }
            What::World(_) => return Ok(()),
        };
        match did {
            Did::Run(
                RunEvent::Claimed { run, .. }
                | RunEvent::HandedBack { run, .. }
                | RunEvent::CancelRequested { run, .. }
                | RunEvent::Lost { run, .. },
            ) => _ = self.waiting.remove(run),
            Did::Run(RunEvent::Suspended { session }) => {
                self.waiting.retain(|run, _| crate::names::session_of(run) != *session);
            }
            Did::Run(RunEvent::Ended { run, status, reason, .. }) => {
                if *status == Status::Failed {
                    self.failed(world, run, reason, event.at)?;
                }
                self.waiting.remove(run);
            }
            // Of its own the provider may fail with any other status.
            Did::Turn(TurnEvent::Refused {
                run,
                agent,
                epoch,
                status: status @ (401 | 403 | 429),
                retry_after,
                ..
            }) => {
                // Time lets nobody in.
                let retry_after = retry_after.filter(|_| *status == 429);
                self.refused(world, (agent, *epoch), run, retry_after.map(Duration::from_secs), event.at);
            }
            // What was refused for a moment, and has waited, is answered where it was.
            Did::Turn(TurnEvent::Answered { run, .. }) => {
                self.waiting.retain(|waits, waiting| waits != run || waiting.asked.is_none());
            }
            Did::Agent(AgentEvent::SubscriptionFailed { agent, subscription, epoch }) => {
                self.recorded(agent, subscription, *epoch, event.at)?;
            }
            Did::Agent(AgentEvent::Assigned { agent, from, to, epoch, by_operator }) => {
                self.assigned(agent, (from, to), *epoch, event.at, *by_operator)?;
            }
            Did::Agent(AgentEvent::ReassignAsked { agent, to, epoch }) => {
                self.wishes.insert((agent.clone(), *epoch, to.clone()));
            }
            Did::Agent(AgentEvent::Reassigned { agent, to, epoch }) => {
                self.armed = true;
                self.reassigned(agent, to, *epoch)?;
            }
            Did::User(UserEvent::Found { session, of_agent, .. }) => self.found(world, session, *of_agent, event.at)?,
            Did::Agent(AgentEvent::ContainerCreated { agent, epoch, .. }) => {
                let says = || format!("two containers of {agent} were created for one assignment");
                Self::once(&mut self.agent(agent).created, *epoch, says)?;
            }
            Did::Agent(AgentEvent::SwitchNoticed { agent, epoch }) => self.noticed(agent, *epoch, event.at)?,
            Did::Turn(TurnEvent::Called { run, .. }) => self.calling.clone_from(run),
            Did::Agent(AgentEvent::TurnServed { agent, epoch, container }) => {
                let session = crate::names::session_of(&self.calling);
                self.sessions.entry(session).or_insert_with(|| (agent.clone(), event.at));
                let serving = self.agent(agent).serving.entry(*epoch).or_insert_with(|| container.clone());
                if serving != container {
                    return Err(Breach::now(format!("two containers of {agent} served turns under one assignment")));
                }
                if self.waiting.get(&self.calling).is_some_and(|waiting| waiting.epoch < *epoch) {
                    self.waiting.remove(&self.calling);
                }
            }
            Did::Agent(AgentEvent::SwitchReady { agent, epoch }) => {
                let agent = self.agent(agent);
                if *epoch == agent.epoch {
                    agent.ready = Some(event.at);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn pending(&self, world: &World) -> Vec<Obligation> {
        let of_agents = self
            .agents
            .iter()
            .flat_map(|(name, agent)| [self.leaves(world, name, agent), self.tells(world, name, agent)]);
        let of_runs = self.waiting.iter().map(|(run, waiting)| self.goes_on(world, run, waiting));
        of_agents.chain(of_runs).flatten().collect()
    }

    fn armed(&self) -> bool {
        self.armed
    }
}
