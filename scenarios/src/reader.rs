//! From what the stand-ins saw to what the product did. A statement is known by its name, a script by its first line, a
//! call by its header; ids become labels on the way, learned from the idempotency key under which a run was accepted.

mod deliveries;
mod keys;

use std::collections::{BTreeMap, BTreeSet};

use lychgate::broker::RUNS;
use lychgate::engine::LABEL_AGENT;
use lychgate_sim::standins::engine::observation::Engine;
use lychgate_sim::standins::observation::{Log, Observation};
use lychgate_sim::standins::postgres::observation::{Statement, Value};
use lychgate_sim::standins::provider::observation::Provider;
use lychgate_sim::standins::rabbit::observation::Broker;
use lychgate_sim::standins::redis::observation::Command;
use lychgate_sim::world::product::{Origin, Reader};

use self::deliveries::Deliveries;
use self::keys::Keys;
use crate::agents::Agents;
use crate::events::Did;

/// What is known of a run.
struct Run {
    session_id: String,
    session: String,
    label: String,
    owner: Option<String>,
    fence: i64,
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
    agents: Agents,
    /// The run whose frames a process read last, by its id: a gateway works for whoever reads along.
    reading: BTreeMap<String, String>,
    /// Labels of the runs that a berth is calling the provider for.
    calls: BTreeMap<String, BTreeSet<String>>,
    keys: Keys,
    deliveries: Deliveries,
}

/// `ann/1#2` is in session `ann/1`.
pub fn session_of(label: &str) -> String {
    label.split('#').next().unwrap_or(label).to_string()
}

/// The id of the run that a hint is about.
fn hinted(body: &[u8]) -> String {
    let hint: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    hint.as_ref().and_then(|hint| hint["run"].as_str()).unwrap_or_default().to_string()
}

fn text(value: Option<&Value>) -> String {
    value.and_then(Value::as_text).unwrap_or_default().to_string()
}

/// The pool that a statement's connection is of.
fn pool(statement: &Statement) -> String {
    statement.application.split_once('/').map_or("store", |(_, pool)| pool).to_string()
}

fn int(value: Option<&Value>) -> i64 {
    value.and_then(Value::as_int).unwrap_or_default()
}

impl Reader<Did> for LychgateReader {
    fn read(&mut self, observation: &Observation, origin: &Origin) -> Vec<Did> {
        if let Some(statement) = observation.of::<Statement>() {
            return self.statement(statement, &origin.process);
        }
        if let Some(command) = observation.of::<Command>() {
            self.read_along(command, &origin.process);
            let did = self.command(command);
            let label = |id: &str| self.runs.get(id).map(|run| run.label.clone());
            return did.into_iter().chain(self.keys.read(command, label)).collect();
        }
        if let Some(broker) = observation.of::<Broker>() {
            return self.broker(broker);
        }
        if let Some(call) = observation.of::<Provider>() {
            return self.call(call, &origin.process);
        }
        if let Some(seen) = observation.of::<Engine>() {
            return self.agents.engine(seen);
        }
        // Of a fault that was felt: what follows from it shows by itself.
        observation.of::<Log>().and_then(|log| self.log(log)).into_iter().collect()
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
    fn broker(&mut self, broker: &Broker) -> Vec<Did> {
        match broker {
            Broker::Published { queues, body, .. } if queues.iter().any(|to| to == RUNS) => self.hint(body),
            other => {
                let label = |id: &str| self.runs.get(id).map(|run| run.label.clone());
                self.deliveries.read(other, label).into_iter().collect()
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

    fn statement(&mut self, statement: &Statement, process: &str) -> Vec<Did> {
        let param = |n: usize| statement.params.get(n - 1);
        let row = |name: &str| statement.rows.first().and_then(|row| row.get(name));
        if statement.name == "run.beat" {
            return vec![self.beat(statement, process)];
        }
        if statement.affected == 0 {
            return Vec::new();
        }
        if matches!(statement.name.as_str(), "run.mark" | "run.unmark") {
            return self.marks(statement);
        }
        if let Some(did) = self.agents.statement(statement) {
            return vec![did];
        }
        let did = match statement.name.as_str() {
            "session.create" => {
                self.needs.insert(text(param(1)), text(param(2)));
                None
            }
            "message.accept" => {
                let (message, label) = (text(param(1)), text(param(2)));
                let (session_id, session) = (text(param(3)), session_of(&label));
                let run = Run {
                    session_id,
                    session: session.clone(),
                    label: label.clone(),
                    owner: None,
                    fence: 0,
                    marked_by: String::new(),
                    ended: false,
                    unshown: false,
                };
                self.runs.insert(text(param(4)), run);
                self.messages.insert(message, label.clone());
                Some(Did::Accepted { session, run: label })
            }
            "run.claim" => self.runs.get_mut(&text(param(1))).map(|run| {
                // Two lives may go by one name: the owner is whoever sent this.
                let (owner, mark) = (process.to_string(), format!("{}/{}", text(param(3)), int(param(4))));
                run.owner = Some(owner.clone());
                run.fence = int(row("fence"));
                let (session, label) = (run.session.clone(), run.label.clone());
                Did::Claimed { session, run: label, fence: run.fence, owner, mark }
            }),
            "run.checkpoint" => self.named(&text(param(1))).map(|(session, run)| {
                let last = param(4) == Some(&Value::Bool(true));
                Did::Checkpointed {
                    session,
                    run,
                    turn: int(param(3)),
                    fence: int(param(2)),
                    last,
                    pool: pool(statement),
                }
            }),
            "run.hand_back" => self.runs.get_mut(&text(param(1))).map(|run| {
                run.owner = None;
                Did::HandedBack { session: run.session.clone(), run: run.label.clone(), fence: int(param(2)) }
            }),
            "notice.run" => self.named(&text(param(3))).map(|(session, run)| Did::Noticed { session, run }),
            "session.suspend" => self.session(&text(param(1))).map(|session| Did::Suspended { session }),
            "session.unsuspend" => self.session(&text(param(1))).map(|session| Did::Unsuspended { session }),
            "run.cancel" => self.named(&text(param(1))).map(|(session, run)| Did::CancelRequested { session, run }),
            "run.terminal" => {
                let (status, reason) = (text(row("status")), text(row("end_reason")));
                self.end(&text(param(1)), int(param(2)), status, reason, true)
            }
            "run.end_unowned" => {
                let (status, reason) = (text(row("status")), text(row("end_reason")));
                self.end(&text(param(1)), int(row("fence")), status, reason, false)
            }
            "message.consume" => self.messages.get(&text(param(1))).map(|label| Did::Consumed {
                session: session_of(label),
                message: label.clone(),
                turn: int(param(2)),
            }),
            "message.report" => self.named(&text(param(1))).map(|(session, run)| Did::Reported {
                session,
                run,
                messages: statement.affected,
                reason: text(param(2)),
            }),
            _ => None,
        };
        did.into_iter().collect()
    }

    /// Whose frames a process waits for.
    fn read_along(&mut self, command: &Command, process: &str) {
        if !command.words.first().is_some_and(|first| first.eq_ignore_ascii_case(b"XREAD")) {
            return;
        }
        // Its last two words are the key and where to go on.
        let key = command.words.iter().rev().nth(1).map(|key| String::from_utf8_lossy(key));
        let run = key.as_deref().and_then(|key| key.strip_prefix("lychgate:stream:")?.split(':').next());
        if let Some(run) = run {
            self.reading.insert(process.to_owned(), run.to_owned());
        }
    }

    /// A session's label.
    fn session(&self, id: &str) -> Option<String> {
        self.runs.values().find(|run| run.session_id == id).map(|run| run.session.clone())
    }

    /// Each run that a statement marked, or took a mark off; the first parameter is the mark.
    fn marks(&mut self, statement: &Statement) -> Vec<Did> {
        let by = text(statement.params.first());
        let mut all = Vec::new();
        for row in &statement.rows {
            let Some(run) = self.runs.get_mut(&text(row.get("run_id"))) else { continue };
            let (session, label) = (run.session.clone(), run.label.clone());
            all.push(if statement.name == "run.mark" {
                run.marked_by.clone_from(&by);
                Did::Marked { session, run: label, by: by.clone() }
            } else {
                Did::Unmarked { session, run: label, by: by.clone(), marked_by: std::mem::take(&mut run.marked_by) }
            });
        }
        all
    }

    fn end(&mut self, id: &str, fence: i64, status: String, reason: String, by_owner: bool) -> Option<Did> {
        let run = self.runs.get_mut(id)?;
        run.ended = true;
        let (session, label) = (run.session.clone(), run.label.clone());
        Some(Did::Ended { session, run: label, fence, status, reason, by_owner })
    }

    fn beat(&self, statement: &Statement, process: &str) -> Did {
        let label = |id: &str| self.runs.get(id).map_or_else(|| id.to_string(), |run| run.label.clone());
        let named = text(statement.params.get(2));
        let named = named.split('|').filter_map(|pair| pair.split_once(':'));
        Did::Beat {
            owner: process.to_string(),
            named: named.map(|(run, fence)| (label(run), fence.parse().unwrap_or(-1))).collect(),
            confirmed: statement
                .rows
                .iter()
                .map(|row| {
                    let cancel = row.get("cancel_requested_at").is_some_and(|value| *value != Value::Null);
                    (label(&text(row.get("run_id"))), int(row.get("fence")), cancel)
                })
                .collect(),
        }
    }

    fn command(&mut self, command: &Command) -> Option<Did> {
        // Most commands read, and are none of these.
        let first = command.words.first()?;
        if !["EVAL", "EVALSHA", "XADD"].iter().any(|name| first.eq_ignore_ascii_case(name.as_bytes())) {
            return None;
        }
        let words: Vec<String> = command.words.iter().map(|word| String::from_utf8_lossy(word).into_owned()).collect();
        let word = |n: usize| words.get(n).map(String::as_str).unwrap_or_default();
        match word(0).to_ascii_uppercase().as_str() {
            "EVAL" | "EVALSHA" => {
                if command.reply.first() == Some(&b'-') {
                    return None;
                }
                let first = 3 + word(2).parse::<usize>().ok()?;
                let run = self.runs.get_mut(word(first + 1))?;
                let (session, label) = (run.session.clone(), run.label.clone());
                let did_it = command.reply.as_ref() == b":1\r\n";
                match word(1).lines().next()? {
                    "-- live.show" if did_it => {
                        let fence = word(first + 2).parse().ok()?;
                        // The view has one entry a session: another run's is gone.
                        let others = self.runs.values_mut().filter(|run| run.session == session && run.label != label);
                        others.for_each(|run| run.unshown = true);
                        Some(Did::Shown { session, run: label, fence, status: word(first + 3).into() })
                    }
                    "-- live.end" => {
                        run.unshown = true;
                        Some(Did::Unshown { session, run: label })
                    }
                    _ => None,
                }
            }
            "XADD" if command.reply.first() == Some(&b'$') => self.frame(&words),
            _ => None,
        }
    }

    fn frame(&self, words: &[String]) -> Option<Did> {
        let mut key = words.get(1)?.strip_prefix("lychgate:stream:")?.split(':');
        let (session, run) = self.named(key.next()?)?;
        let fence = key.next()?.parse().ok()?;
        let kind_at = words.iter().position(|word| word == "kind")?;
        let (turn, seq) = words.get(kind_at - 1)?.split_once('-')?;
        let (turn, seq) = (turn.parse().ok()?, seq.parse().ok()?);
        Some(Did::Framed { session, run, fence, turn, seq, kind: words.get(kind_at + 1)?.clone() })
    }

    fn hint(&self, body: &[u8]) -> Vec<Did> {
        self.named(&hinted(body)).map(|(session, run)| Did::Hinted { session, run }).into_iter().collect()
    }

    /// A call of the provider by `process`, a berth.
    fn call(&mut self, call: &Provider, process: &str) -> Vec<Did> {
        let (Provider::Called { headers, .. }
        | Provider::Answered { headers, .. }
        | Provider::Abandoned { headers, .. }
        | Provider::Refused { headers, .. }
        | Provider::Disturbed { headers, .. }) = call;
        if matches!(call, Provider::Disturbed { over: false, .. }) {
            return Vec::new();
        }
        let mut name = headers.get("lychgate-call").map(String::as_str).unwrap_or_default().split(' ');
        let Some((session, run)) = self.named(name.next().unwrap_or_default()) else { return Vec::new() };
        let mut number = || name.next().and_then(|word| word.parse().ok()).unwrap_or(-1);
        let (fence, turn, attempt) = (number(), number(), number());
        let served = self.agents.served_by(process);
        let calls = self.calls.entry(process.to_string()).or_default();
        if matches!(call, Provider::Called { .. }) {
            _ = calls.insert(run.clone())
        } else {
            _ = calls.remove(&run)
        }
        match call {
            Provider::Called { .. } => {
                let served = served.map(|(agent, epoch, container)| Did::TurnServed { agent, epoch, container });
                [Did::Called { session, run, fence, turn, attempt }].into_iter().chain(served).collect()
            }
            Provider::Answered { .. } => vec![Did::Answered { session, run, fence, turn, attempt }],
            Provider::Abandoned { .. } => vec![Did::HungUp { session, run, fence, turn, attempt }],
            Provider::Disturbed { .. } => vec![Did::Spoiled { session, run, fence, turn, attempt }],
            Provider::Refused { status, .. } => {
                let (agent, epoch, _) = served.unwrap_or_default();
                vec![Did::Refused { session, run, agent, epoch, status: *status }]
            }
        }
    }

    fn log(&self, log: &Log) -> Option<Did> {
        let process = log.process.clone();
        match log.message.as_str() {
            "draining" => return Some(Did::Draining { process }),
            "runs could not be marked" => return Some(Did::MarkFailed { process }),
            "pool_closed" => return Some(Did::PoolClosed { process, pool: log.fields.get("pool")?.clone() }),
            "pool_abandoned" => return Some(Did::PoolAbandoned { process, pool: log.fields.get("pool")?.clone() }),
            _ => {}
        }
        let (session, run) = self.named(log.fields.get("run")?)?;
        match log.message.as_str() {
            "a checkpoint was tried on a closed pool" => Some(Did::CheckpointTried { session, run }),
            "saved by the safety net" => Some(Did::Saved { session, run }),
            "lost: no beat was confirmed for too long" => Some(Did::Lost { session, run }),
            _ => None,
        }
    }
}
