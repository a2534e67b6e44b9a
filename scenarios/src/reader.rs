//! From what the stand-ins saw to what the product did. A statement, a script, a key and a logged fact are known by the
//! product's own constants, a call by its header; ids become labels on the way, learned from the idempotency key under which a
//! run was accepted. An observation that the reader cannot make sense of is an error of the harness, never an empty value.

mod commands;
mod deliveries;
mod failovers;
mod keys;
mod statements;

use std::collections::{BTreeMap, BTreeSet};

use lychgate::broker::RUNS;
use lychgate::engine::LABEL_AGENT;
use lychgate::facts::{self, Fact};
use lychgate::provider::CALL;
use lychgate_sim::standins::engine::observation::Engine;
use lychgate_sim::standins::observation::{FaultObserved, Log, Observation};
use lychgate_sim::standins::postgres::observation::{Failover, Statement};
use lychgate_sim::standins::provider::observation::Provider;
use lychgate_sim::standins::rabbit::observation::Broker;
use lychgate_sim::standins::redis::observation::Command;
use lychgate_sim::world::product::{Origin, Reader};

use self::deliveries::Deliveries;
use self::keys::Keys;
pub(crate) use self::statements::Executed;
use crate::agents::Agents;
use crate::events::{AgentEvent, Asked, Caller, Did, ProcessEvent, RunEvent, TurnEvent};

/// The characters that are shown of words that nobody has said.
const ENTRY_SHOWN: usize = 60;

/// An observation that makes no sense, in one sentence that names what was observed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misread(pub String);

/// What is known of a run.
struct Run {
    session_id: String,
    session: String,
    label: String,
    owner: Option<String>,
    marked_by: String,
    ended: bool,
    unshown: bool,
}

impl Run {
    /// Whether one of its two terminal writes is still to come.
    fn is_live(&self) -> bool {
        !(self.ended && self.unshown)
    }
}

/// Reads observations of Lychgate.
#[derive(Default)]
pub struct LychgateReader {
    /// By session id: the agent that its runs need.
    needs: BTreeMap<String, String>,
    /// By run id.
    runs: BTreeMap<String, Run>,
    /// Message id to label; a message and its run share one.
    messages: BTreeMap<String, String>,
    /// By words: the label of the message that was accepted with them.
    words: BTreeMap<String, String>,
    /// By words: the run and the turn of the answer that was checkpointed.
    answers: BTreeMap<String, String>,
    /// By the label of a session: the conversation that a model was last asked to go on with.
    asked: BTreeMap<String, Vec<String>>,
    agents: Agents,
    /// The run whose frames a process read last, by its id: a gateway works for the readers of that run.
    reading: BTreeMap<String, String>,
    /// Labels of the runs that a slot is calling the provider for.
    calls: BTreeMap<String, BTreeSet<String>>,
    keys: Keys,
    deliveries: Deliveries,
    /// The first observation that made no sense.
    misread: Option<String>,
}

/// The id of the run that a hint is about, if it is a hint.
fn hinted(body: &[u8]) -> Result<Option<String>, Misread> {
    let hint: serde_json::Value = serde_json::from_slice(body)
        .map_err(|error| Misread(format!("a message of the broker is no hint: {error}")))?;
    Ok(hint["run"].as_str().map(str::to_owned))
}

impl Reader<Did> for LychgateReader {
    fn read(&mut self, observation: &Observation, origin: &Origin) -> Vec<Did> {
        self.make_sense(observation, &origin.process).unwrap_or_else(|Misread(says)| {
            self.misread.get_or_insert(says);
            Vec::new()
        })
    }

    fn misread(&mut self) -> Option<String> {
        self.misread.take()
    }

    fn mentioned(&self, request: &[u8]) -> Option<String> {
        let within = |id: &str| request.windows(id.len()).any(|window| window == id.as_bytes());
        let live = self.runs.iter().filter(|(_, run)| run.is_live());
        let mut live = live.filter(|(id, run)| within(id) || within(&run.session_id));
        live.next().map(|(_, run)| run.label.clone()).or_else(|| self.needing(request))
    }

    fn served_by(&self, process: &str) -> Option<String> {
        let owned = |run: &&Run| run.is_live() && run.owner.as_deref() == Some(process);
        let called = self.calls.get(process).and_then(|calls| calls.first());
        let read = || self.runs.get(self.reading.get(process)?).filter(|run| run.is_live());
        let own = self.runs.values().find(owned).map(|run| run.label.clone()).or_else(|| called.cloned());
        own.or_else(|| read().map(|run| run.label.clone()))
    }
}

impl LychgateReader {
    fn make_sense(&mut self, observation: &Observation, process: &str) -> Result<Vec<Did>, Misread> {
        if let Some(statement) = observation.of::<Statement>() {
            return self.statement(statement, process);
        }
        if let Some(failover) = observation.of::<Failover>() {
            return Ok(vec![Did::Store(self.failover(failover)?)]);
        }
        if let Some(command) = observation.of::<Command>() {
            return self.command(command, process);
        }
        if let Some(broker) = observation.of::<Broker>() {
            return self.broker(broker);
        }
        if let Some(call) = observation.of::<Provider>() {
            return self.call(call, process);
        }
        if let Some(seen) = observation.of::<Engine>() {
            return self.agents.engine(seen);
        }
        if let Some(log) = observation.of::<Log>() {
            return Ok(self.log(log)?.into_iter().collect());
        }
        // What follows from a fault that was felt shows by itself.
        match observation.of::<FaultObserved>() {
            Some(_) => Ok(Vec::new()),
            None => {
                Err(Misread(format!("the reader does not know what {} shows: {observation:?}", observation.service)))
            }
        }
    }

    fn broker(&mut self, broker: &Broker) -> Result<Vec<Did>, Misread> {
        match broker {
            Broker::Published { queues, body, .. } if queues.iter().any(|to| to == RUNS) => {
                let run = hinted(body)?.and_then(|id| self.named(&id));
                Ok(run.map(|(session, run)| Did::Run(RunEvent::Hinted { session, run })).into_iter().collect())
            }
            other => {
                let label = |id: &str| self.runs.get(id).map(|run| run.label.clone());
                Ok(self.deliveries.read(other, label)?.into_iter().collect())
            }
        }
    }

    /// The label of a live run of the agent that a request to the container engine was about, by its label.
    fn needing(&self, request: &[u8]) -> Option<String> {
        let text = std::str::from_utf8(request).ok()?;
        let labels = text.lines().filter_map(|line| line.split_once('='));
        let agent = labels.filter(|(label, _)| *label == LABEL_AGENT).map(|(_, agent)| agent).next()?;
        let needs = |run: &&Run| run.is_live() && self.needs.get(&run.session_id).is_some_and(|needed| needed == agent);
        self.runs.values().find(needs).map(|run| run.label.clone())
    }

    fn named(&self, id: &str) -> Option<(String, String)> {
        self.runs.get(id).map(|run| (run.session.clone(), run.label.clone()))
    }

    /// A call of the provider by `process`, a slot.
    fn call(&mut self, call: &Provider, process: &str) -> Result<Vec<Did>, Misread> {
        let (Provider::Called { headers, .. }
        | Provider::Began { headers, .. }
        | Provider::Answered { headers, .. }
        | Provider::Abandoned { headers, .. }
        | Provider::Refused { headers, .. }
        | Provider::Disturbed { headers, .. }) = call;
        if matches!(call, Provider::Disturbed { over: false, .. }) {
            return Ok(Vec::new());
        }
        let name =
            headers.get(CALL).ok_or_else(|| Misread(format!("{process} called the provider without `{CALL}`")))?;
        let mut words = name.split(' ');
        let Some((session, run)) = words.next().and_then(|id| self.named(id)) else { return Ok(Vec::new()) };
        let numbers: Vec<i64> = words.map_while(|word| word.parse().ok()).collect();
        let [fence, turn, attempt] = numbers[..] else {
            return Err(Misread(format!("{process} called the provider with `{CALL}: {name}`")));
        };
        let served = self.agents.served_by(process);
        let calls = self.calls.entry(process.to_string()).or_default();
        match call {
            Provider::Called { .. } => _ = calls.insert(run.clone()),
            Provider::Began { .. } => {}
            _ => _ = calls.remove(&run),
        }
        Ok(match call {
            Provider::Called { token, model, asked, .. } => {
                let asked = self.asked(&session, asked);
                let caller = |(agent, epoch, _): &(String, i64, String)| {
                    let (agent, epoch, token, model) = (agent.clone(), *epoch, token.clone(), model.clone());
                    Caller { agent, epoch, token, model }
                };
                let by = served.as_ref().map(caller);
                let served = served
                    .map(|(agent, epoch, container)| Did::Agent(AgentEvent::TurnServed { agent, epoch, container }));
                [Did::Turn(TurnEvent::Called { session, run, fence, turn, attempt, by, asked })]
                    .into_iter()
                    .chain(served)
                    .collect()
            }
            Provider::Began { .. } => vec![Did::Turn(TurnEvent::Began { session, run, fence, turn, attempt })],
            Provider::Answered { finish_reason, .. } => {
                let last = finish_reason != "length";
                vec![Did::Turn(TurnEvent::Answered { session, run, fence, turn, attempt, last })]
            }
            Provider::Abandoned { .. } => vec![Did::Turn(TurnEvent::HungUp { session, run, fence, turn, attempt })],
            Provider::Disturbed { .. } => vec![Did::Turn(TurnEvent::Spoiled { session, run, fence, turn, attempt })],
            Provider::Refused { status, retry_after, .. } => {
                let unknown = || Misread(format!("{process} called the provider and is no container of an agent"));
                let (agent, epoch, _) = served.ok_or_else(unknown)?;
                vec![Did::Turn(TurnEvent::Refused {
                    session,
                    run,
                    agent,
                    epoch,
                    status: *status,
                    retry_after: *retry_after,
                })]
            }
        })
    }

    /// A conversation that a model was asked to go on with, as far as it differs from the last one of this session.
    fn asked(&mut self, session: &str, texts: &[(bool, String)]) -> Asked {
        let entry = |(by_user, text): &(bool, String)| {
            let known = if *by_user { self.words.get(text) } else { self.answers.get(text) };
            known.map_or_else(|| text.chars().take(ENTRY_SHOWN).collect(), String::clone)
        };
        let asked: Vec<String> = texts.iter().map(entry).collect();
        let before = self.asked.insert(session.to_owned(), asked.clone()).unwrap_or_default();
        let kept = before.iter().zip(&asked).take_while(|(before, now)| before == now).count();
        Asked { kept, then: asked[kept..].to_vec() }
    }

    fn log(&self, log: &Log) -> Result<Option<Did>, Misread> {
        let process = log.process.clone();
        let is = |fact: Fact| log.message == fact.says;
        let field = |fact: Fact, name: &str| {
            let missing = || Misread(format!("{process} logged `{}` without `{name}`", fact.says));
            log.fields.get(name).cloned().ok_or_else(missing)
        };
        let run = |fact: Fact| -> Result<_, Misread> { Ok(self.named(&field(fact, "run")?)) };
        Ok(if is(facts::DRAINING) {
            Some(Did::Process(ProcessEvent::Draining { process }))
        } else if is(facts::MARK_FAILED) {
            Some(Did::Process(ProcessEvent::MarkFailed { process }))
        } else if is(facts::POOL_CLOSED) {
            let pool = field(facts::POOL_CLOSED, "pool")?;
            Some(Did::Process(ProcessEvent::PoolClosed { process, pool }))
        } else if is(facts::POOL_ABANDONED) {
            let pool = field(facts::POOL_ABANDONED, "pool")?;
            Some(Did::Process(ProcessEvent::PoolAbandoned { process, pool }))
        } else if is(facts::CHECKPOINT_TRIED) {
            run(facts::CHECKPOINT_TRIED)?.map(|(session, run)| Did::Run(RunEvent::CheckpointTried { session, run }))
        } else if is(facts::SAVED) {
            run(facts::SAVED)?.map(|(session, run)| Did::Run(RunEvent::Saved { session, run }))
        } else if is(facts::LOST) {
            run(facts::LOST)?.map(|(session, run)| Did::Run(RunEvent::Lost { session, run }))
        } else {
            None
        })
    }
}
