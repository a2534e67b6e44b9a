//! Redis without sockets: words in, answers out. Commands take effect one after the other, from whatever connection, and one that
//! waits on a stream is answered before the next command runs.

use std::time::Duration;

use bytes::Bytes;

pub use super::channels::Client;
use super::commands::{self, Store};
use super::keyspace::{Refusal, Value};
use super::observation::Key;
use super::resp::Reply;
use super::script::Scripts;
use super::streams::Read;
use super::strings::Answer;
use super::words::is;
use crate::plan::Kind;

/// What a command ends in for its connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// This answer.
    Reply(Reply),
    /// No answer yet: the connection waits for [`Core::deliveries`] and, if there is a time, calls [`Core::give_up`] then.
    Block(Option<Duration>),
}

/// Something for a connection that it did not just ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Whom it is for.
    pub client: Client,
    /// What to send.
    pub reply: Reply,
    /// The blocked command that this answers, if it is no message.
    pub answers: Option<Vec<Bytes>>,
}

struct Waiting {
    client: Client,
    words: Vec<Bytes>,
    read: Read,
}

/// The whole state.
#[derive(Default)]
pub struct Core {
    store: Store,
    scripts: Scripts,
    /// Longest waiting first.
    waiting: Vec<Waiting>,
    deliveries: Vec<Delivery>,
}

impl Core {
    /// Executes one command. `now` is the time since 1970; it never goes back, though what the clock shows of it may.
    ///
    /// # Panics
    /// A command that this stand-in does not know.
    pub fn execute(&mut self, now: Duration, client: Client, words: &[Bytes]) -> Outcome {
        self.store.keys.clock = self.store.faults.clock.shows(now);
        let outcome = self.attempt(client, words).unwrap_or_else(|Refusal(text)| Outcome::Reply(Reply::error(text)));
        let sent = self.store.channels.sent.drain(..);
        self.deliveries.extend(sent.map(|(client, reply)| Delivery { client, reply, answers: None }));
        self.serve_waiting();
        outcome
    }

    fn attempt(&mut self, client: Client, words: &[Bytes]) -> Result<Outcome, Refusal> {
        let name = commands::recognise(words)?;
        self.store.faults.hear(client, &name, words)?;
        let listens = self.store.channels.count(client) > 0;
        if listens && !matches!(name.as_str(), "subscribe" | "unsubscribe" | "ping") {
            return Err(Refusal(format!(
                "ERR Can't execute '{name}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in \
                 this context"
            )));
        }
        let answer: Answer = match name.as_str() {
            "auth" => commands::auth(words, self.store.faults.login()),
            "client" => commands::client(words),
            "eval" => self.scripts.eval(&mut self.store, words),
            "evalsha" => self.scripts.evalsha(&mut self.store, words),
            "script" => self.scripts.script(words),
            "subscribe" => Ok(self.store.channels.subscribe(client, &words[1..])),
            "unsubscribe" => Ok(self.store.channels.unsubscribe(client, &words[1..])),
            "ping" if listens => commands::run(&mut self.store, &name, words).map(|_| pong(words)),
            "xread" => return self.xread(client, words),
            _ => commands::run(&mut self.store, &name, words),
        };
        answer.map(Outcome::Reply)
    }

    fn xread(&mut self, client: Client, words: &[Bytes]) -> Result<Outcome, Refusal> {
        let read = Read::parse(&mut self.store.keys, words, true)?;
        if let Some(found) = read.now(&mut self.store.keys) {
            return Ok(Outcome::Reply(found));
        }
        let Some(block) = read.block else { return Ok(Outcome::Reply(Reply::NilArray)) };
        self.waiting.push(Waiting { client, words: words.to_vec(), read });
        Ok(Outcome::Block((block > 0).then(|| Duration::from_millis(block))))
    }

    /// Answers those who wait for a stream that grew, each with that stream alone.
    fn serve_waiting(&mut self) {
        for key in std::mem::take(&mut self.store.keys.grown) {
            for waiting in std::mem::take(&mut self.waiting) {
                match waiting.read.on_growth(&mut self.store.keys, &key) {
                    Some(reply) => {
                        let Waiting { client, words, .. } = waiting;
                        self.deliveries.push(Delivery { client, reply, answers: Some(words) });
                    }
                    None => self.waiting.push(waiting),
                }
            }
        }
    }

    /// What the last command brought for other connections, in order.
    pub fn deliveries(&mut self) -> Vec<Delivery> {
        std::mem::take(&mut self.deliveries)
    }

    /// A blocked command's time is up: its words and its answer, unless it was answered meanwhile.
    pub fn give_up(&mut self, client: Client) -> Option<(Vec<Bytes>, Reply)> {
        let index = self.waiting.iter().position(|waiting| waiting.client == client)?;
        Some((self.waiting.remove(index).words, Reply::NilArray))
    }

    /// The connection is gone, and with it what it waited for and listened to.
    pub fn leave(&mut self, client: Client) {
        self.waiting.retain(|waiting| waiting.client != client);
        self.store.channels.unsubscribe(client, &[]);
    }

    /// The words with a script's body in place of its hash, as far as it is known.
    pub fn spelled_out(&self, words: &[Bytes]) -> Vec<Bytes> {
        let mut words = words.to_vec();
        if words.len() > 1
            && is(&words[0], "EVALSHA")
            && let Some(body) = self.scripts.body(&words[1])
        {
            words[1] = body.clone();
        }
        words
    }

    /// The keys that a command may have written, as they are now.
    pub fn written(&mut self, words: &[Bytes]) -> Vec<Key> {
        let keys = &mut self.store.keys;
        let look = |name: &Bytes| {
            let entries = match keys.get(name) {
                None => 0,
                Some(Value::Text(_)) => 1,
                Some(Value::Hash(hash)) => hash.count(),
                Some(Value::Stream(stream)) => stream.count(),
            };
            let left = keys.expiry(name).flatten().map(|at| at.saturating_sub(keys.now()));
            let ttl = left.map(|left| Duration::from_millis(left.try_into().unwrap_or(0)));
            Key { name: name.clone(), entries, ttl }
        };
        commands::may_write(words).iter().map(look).collect()
    }

    /// What a restart without persistence leaves; what ails it stays.
    pub fn restart_empty(&mut self) {
        let faults = std::mem::take(&mut self.store.faults);
        *self = Core { store: Store { faults, ..Store::default() }, ..Core::default() };
    }

    /// Something ails it from now on.
    pub fn fall_ill(&mut self, fault: &Kind) {
        self.store.faults.begin(fault, &mut self.store.keys);
    }

    /// Forgets what would expire some day, or all of it if it is flushed; says what that was.
    pub fn forget(&mut self, all: bool) -> Vec<Bytes> {
        if all { self.store.keys.clear() } else { self.store.keys.evict() }
    }

    /// And no longer.
    pub fn recover(&mut self, fault: &Kind) {
        self.store.faults.end(fault, &mut self.store.keys);
    }

    /// Whether a script does not end, so that nobody is answered who waits.
    pub fn busy(&self) -> bool {
        self.store.faults.busy()
    }

    /// What somebody who connects is told, who may not.
    pub fn refuses_connection(&self) -> Option<Reply> {
        self.store.faults.refuses_connection().map(Reply::error)
    }

    /// The word for what the last command suffered from, if it did.
    pub fn suffered(&mut self) -> Option<&'static str> {
        self.store.faults.suffered.take()
    }

    /// What a restart with persistence leaves: the data.
    pub fn restart(&mut self) {
        let Store { keys, faults, .. } = std::mem::take(&mut self.store);
        *self = Core { store: Store { keys, faults, ..Store::default() }, ..Core::default() };
    }
}

/// PING's answer to a client that listens.
fn pong(words: &[Bytes]) -> Reply {
    let text = words.get(1).cloned().unwrap_or_default();
    Reply::Array(vec![Reply::Bulk(Bytes::from_static(b"pong")), Reply::Bulk(text)])
}
