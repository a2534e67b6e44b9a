//! From what the stand-ins saw to what the product did. A statement is known by its name, a script by its first line, a
//! call by its header; ids become labels on the way, learned from the idempotency key under which a run was accepted.

use std::collections::BTreeMap;

use lychgate_sim::observation::{Broker, Command, Log, Observation, Provider, Statement, Value};
use lychgate_sim::product::{Origin, Reader};

use crate::events::Did;

/// What is known of a run.
struct Run {
    session_id: String,
    session: String,
    label: String,
    owner: Option<String>,
    /// The agent's process that answers a turn of it, for as long as it does.
    agent: Option<String>,
    fence: i64,
    ended: bool,
    unshown: bool,
}

impl Run {
    fn is_live(&self) -> bool {
        self.owner.is_some() && !(self.ended && self.unshown)
    }
}

/// Reads observations of Lychgate.
#[derive(Default)]
pub struct LychgateReader {
    /// By run id.
    runs: BTreeMap<String, Run>,
    /// Message id to label; a message and its run share one.
    messages: BTreeMap<String, String>,
}

/// `ann/1#2` is in session `ann/1`.
pub fn session_of(label: &str) -> String {
    label.split('#').next().unwrap_or(label).to_string()
}

fn text(value: Option<&Value>) -> String {
    value.and_then(Value::as_text).unwrap_or_default().to_string()
}

fn int(value: Option<&Value>) -> i64 {
    value.and_then(Value::as_int).unwrap_or_default()
}

impl Reader<Did> for LychgateReader {
    fn read(&mut self, observation: &Observation, origin: &Origin) -> Vec<Did> {
        match observation {
            Observation::Statement(statement) => self.statement(statement),
            Observation::Command(command) => self.command(command).into_iter().collect(),
            Observation::Broker(Broker::Published { queues, body, .. }) if !queues.is_empty() => self.hint(body),
            Observation::Broker(_) => Vec::new(),
            Observation::Provider(call) => self.call(call, &origin.process).into_iter().collect(),
            Observation::Engine(_) => Vec::new(),
            Observation::Log(log) => self.log(log).into_iter().collect(),
        }
    }

    fn mentioned(&self, request: &[u8]) -> Option<String> {
        let within = |id: &str| request.windows(id.len()).any(|window| window == id.as_bytes());
        let live = self.runs.iter().filter(|(_, run)| run.is_live());
        live.filter(|(id, run)| within(id) || within(&run.session_id)).map(|(_, run)| run.label.clone()).next()
    }

    fn served_by(&self, process: &str) -> Option<String> {
        let by = |name: &Option<String>| name.as_deref() == Some(process);
        let served = |run: &&Run| run.is_live() && (by(&run.owner) || by(&run.agent));
        self.runs.values().find(served).map(|run| run.label.clone())
    }
}

impl LychgateReader {
    fn named(&self, id: &str) -> Option<(String, String)> {
        self.runs.get(id).map(|run| (run.session.clone(), run.label.clone()))
    }

    fn statement(&mut self, statement: &Statement) -> Vec<Did> {
        let param = |n: usize| statement.params.get(n - 1);
        let row = |name: &str| statement.rows.first().and_then(|row| row.get(name));
        if statement.name == "run.beat" {
            return vec![self.beat(statement)];
        }
        if statement.affected == 0 {
            return Vec::new();
        }
        let did = match statement.name.as_str() {
            "message.accept" => {
                let (message, label) = (text(param(1)), text(param(2)));
                let (session_id, session) = (text(param(3)), session_of(&label));
                let run = Run {
                    session_id,
                    session: session.clone(),
                    label: label.clone(),
                    owner: None,
                    agent: None,
                    fence: 0,
                    ended: false,
                    unshown: false,
                };
                self.runs.insert(text(param(4)), run);
                self.messages.insert(message, label.clone());
                Some(Did::Accepted { session, run: label })
            }
            "run.claim" => self.runs.get_mut(&text(param(1))).map(|run| {
                let owner = text(param(3));
                run.owner = Some(owner.clone());
                run.fence = int(row("fence"));
                let (session, label) = (run.session.clone(), run.label.clone());
                Did::Claimed { session, run: label, fence: run.fence, owner, incarnation: int(param(4)) }
            }),
            "run.checkpoint" => self.named(&text(param(1))).map(|(session, run)| {
                let last = param(4) == Some(&Value::Bool(true));
                Did::Checkpointed { session, run, turn: int(param(3)), fence: int(param(2)), last }
            }),
            "run.hand_back" => self.runs.get_mut(&text(param(1))).map(|run| {
                run.owner = None;
                Did::HandedBack { session: run.session.clone(), run: run.label.clone(), fence: int(param(2)) }
            }),
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

    fn end(&mut self, id: &str, fence: i64, status: String, reason: String, by_owner: bool) -> Option<Did> {
        let run = self.runs.get_mut(id)?;
        run.ended = true;
        let (session, label) = (run.session.clone(), run.label.clone());
        Some(Did::Ended { session, run: label, fence, status, reason, by_owner })
    }

    fn beat(&self, statement: &Statement) -> Did {
        let label = |id: &str| self.runs.get(id).map_or_else(|| id.to_string(), |run| run.label.clone());
        let named = text(statement.params.get(2));
        let named = named.split('|').filter_map(|pair| pair.split_once(':'));
        Did::Beat {
            owner: text(statement.params.first()),
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
        let hint: Option<serde_json::Value> = serde_json::from_slice(body).ok();
        let id = hint.as_ref().and_then(|hint| hint["run"].as_str()).unwrap_or_default();
        self.named(id).map(|(session, run)| Did::Hinted { session, run }).into_iter().collect()
    }

    fn call(&mut self, call: &Provider, agent: &str) -> Option<Did> {
        let headers = match call {
            Provider::Called { headers, .. }
            | Provider::Answered { headers, .. }
            | Provider::Abandoned { headers, .. } => headers,
        };
        let mut name = headers.get("lychgate-call")?.split(' ');
        let run = self.runs.get_mut(name.next()?)?;
        run.agent = matches!(call, Provider::Called { .. }).then(|| agent.to_string());
        let (session, run) = (run.session.clone(), run.label.clone());
        let mut number = || name.next().and_then(|word| word.parse().ok()).unwrap_or(-1);
        let (fence, turn, attempt) = (number(), number(), number());
        Some(match call {
            Provider::Called { .. } => Did::Called { session, run, fence, turn, attempt },
            Provider::Answered { .. } => Did::Answered { session, run, fence, turn, attempt },
            Provider::Abandoned { .. } => Did::HungUp { session, run, fence, turn, attempt },
        })
    }

    fn log(&self, log: &Log) -> Option<Did> {
        let (session, run) = self.named(log.fields.get("run")?)?;
        match log.message.as_str() {
            "saved by the safety net" => Some(Did::Saved { session, run }),
            "lost: no beat was confirmed for too long" => Some(Did::Lost { session, run }),
            _ => None,
        }
    }
}
