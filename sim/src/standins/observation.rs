//! What a stand-in or a process shows to the outside. The judge sees nothing else.
//!
//! A stand-in calls its [`Tap`] once for each thing that it did, after it took effect and before the answer leaves.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

/// Where a stand-in says what it did. Called in the order in which things took effect.
pub type Tap = Arc<dyn Fn(Observation) + Send + Sync>;

/// A tap for stand-ins that nobody watches, as under `cargo dev`.
pub fn untapped() -> Tap {
    Arc::new(|_| {})
}

/// One thing that a stand-in did, or that a process logged.
#[derive(Clone, Debug, PartialEq)]
pub enum Observation {
    /// Postgres executed a statement and, if it stood in a transaction, committed it.
    Statement(Statement),
    /// Redis executed a command.
    Command(Command),
    /// RabbitMQ moved a message or a consumer.
    Broker(Broker),
    /// The model provider was called, or an answer of its ended.
    Provider(Provider),
    /// The container engine did something to a container, or saw what became of one.
    Engine(Engine),
    /// What ails a service has changed what somebody was answered.
    FaultObserved(FaultObserved),
    /// A process logged a line through `tracing`.
    Log(Log),
}

impl Observation {
    /// The connection that it is about, as the stand-in sees its other end.
    pub fn peer(&self) -> Option<SocketAddr> {
        match self {
            Observation::Statement(statement) => Some(statement.peer),
            Observation::Command(command) => Some(command.peer),
            Observation::FaultObserved(suffered) => Some(suffered.peer),
            Observation::Broker(
                Broker::Published { peer, .. }
                | Broker::Delivered { peer, .. }
                | Broker::Acked { peer, .. }
                | Broker::Nacked { peer, .. }
                | Broker::Requeued { peer, .. }
                | Broker::DeadLettered { peer, .. },
            ) => Some(*peer),
            Observation::Provider(
                Provider::Called { peer, .. }
                | Provider::Answered { peer, .. }
                | Provider::Abandoned { peer, .. }
                | Provider::Refused { peer, .. }
                | Provider::Disturbed { peer, .. },
            ) => Some(*peer),
            Observation::Engine(
                Engine::Created { peer, .. }
                | Engine::Started { peer, .. }
                | Engine::Stopped { peer, .. }
                | Engine::Removed { peer, .. },
            ) => Some(*peer),
            Observation::Engine(Engine::Exited { .. } | Engine::Probed { .. }) | Observation::Log(_) => None,
        }
    }
}

/// The peer of what suffered without having been asked for.
pub const NOBODY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// A request that was answered otherwise than by a healthy service.
#[derive(Clone, Debug, PartialEq)]
pub struct FaultObserved {
    /// The connection, as the stand-in sees its other end.
    pub peer: SocketAddr,
    /// The service, as `redis`.
    pub service: &'static str,
    /// What ails it, as plans say it.
    pub ailment: &'static str,
    /// Bytes of the request, or what is known of it: enough to find out whom it was about.
    pub request: Vec<u8>,
}

/// A committed statement. Those of one transaction are shown together, in order, at its commit.
#[derive(Clone, Debug, PartialEq)]
pub struct Statement {
    /// The connection, as the stand-in sees its other end.
    pub peer: SocketAddr,
    /// The connection's `application_name`, as its start-up message gave it; empty without one.
    pub application: String,
    /// The name in the leading comment, as `run.claim` in `/* run.claim */ UPDATE …`. Empty for BEGIN and the like.
    pub name: String,
    /// The parameters, `$1` first.
    pub params: Vec<Value>,
    /// The rows that were returned, each by column name.
    pub rows: Vec<BTreeMap<String, Value>>,
    /// How many rows it changed or returned, as in Postgres's command tag.
    pub affected: u64,
}

/// A value in the intersection of Postgres and SQLite.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// SQL NULL.
    Null,
    /// `bigint`; times are microseconds.
    Int(i64),
    /// `text`.
    Text(String),
    /// `bytea`.
    Bytes(Vec<u8>),
    /// `boolean`.
    Bool(bool),
}

impl Value {
    /// The text in it, if it is text.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The number in it, if it is a number.
    pub fn as_int(&self) -> Option<i64> {
        match self {
            Value::Int(number) => Some(*number),
            _ => None,
        }
    }
}

/// A Redis command and its answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Command {
    /// The connection, as the stand-in sees its other end.
    pub peer: SocketAddr,
    /// The command and its arguments. For a script: `EVALSHA` or `EVAL` as it was sent, with the body in place of the hash.
    pub words: Vec<Bytes>,
    /// The answer as RESP2 bytes.
    pub reply: Bytes,
    /// The keys that it may have written, as they are after it. FLUSHALL names none.
    pub keys: Vec<Key>,
}

/// A key of Redis, as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Its name.
    pub name: Bytes,
    /// How many entries it has: fields of a hash, entries of a stream, 1 for a string; 0 if there is no such key.
    pub entries: usize,
    /// How long it lasts if nobody touches it; for ever, if there is nothing.
    pub ttl: Option<Duration>,
}

/// What RabbitMQ did with a message.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // the fields are AMQP's and HTTP's own words; `peer` is the connection's other end
pub enum Broker {
    /// A message was routed to `queues` (none: unroutable), before its confirm leaves.
    Published { peer: SocketAddr, exchange: String, routing_key: String, queues: Vec<String>, body: Bytes },
    /// A message was handed to a consumer.
    Delivered { peer: SocketAddr, queue: String, redelivered: bool, body: Bytes },
    /// A delivery was acknowledged.
    Acked { peer: SocketAddr, queue: String, body: Bytes },
    /// A delivery was refused; `requeue` says whether it went back.
    Nacked { peer: SocketAddr, queue: String, requeue: bool, body: Bytes },
    /// A delivery went back because its channel or connection ended.
    Requeued { peer: SocketAddr, queue: String, body: Bytes },
    /// A delivery was refused for good (`rejected`), or refused or left behind too often (`delivery_limit`), and its queue
    /// gave it up: `queues` have it now (none: it is gone). It stands in place of `Nacked` and `Requeued`.
    DeadLettered { peer: SocketAddr, queue: String, reason: &'static str, queues: Vec<String>, body: Bytes },
}

/// What the model provider saw of a call.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // the fields are AMQP's and HTTP's own words; `peer` is the connection's other end
pub enum Provider {
    /// A request arrived whole. `headers` are lower-case.
    Called { peer: SocketAddr, headers: BTreeMap<String, String>, turn: u32, prompt: String },
    /// The last token was sent, with the reason that the answer ends with.
    Answered { peer: SocketAddr, headers: BTreeMap<String, String>, finish_reason: String },
    /// The caller hung up before the last token.
    Abandoned { peer: SocketAddr, headers: BTreeMap<String, String> },
    /// After `Called`: this bearer token is turned away for now.
    Refused { peer: SocketAddr, headers: BTreeMap<String, String>, token: String, status: u16 },
    /// In the middle of an answer to this bearer token: it goes wrong here. If it is `over` with that, no `Answered` and no
    /// `Abandoned` follows: whatever its caller got is no whole answer.
    Disturbed { peer: SocketAddr, headers: BTreeMap<String, String>, token: String, fault: &'static str, over: bool },
}

/// What the container engine did or saw. `id` and `name` are the container's.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // `peer` is the connection's other end
pub enum Engine {
    /// A client created it.
    Created { peer: SocketAddr, id: String, name: String, labels: BTreeMap<String, String> },
    /// A client started it: from here on it is this process.
    Started { peer: SocketAddr, id: String, name: String, process: String },
    /// It ended because a client had stopped it.
    Stopped { peer: SocketAddr, id: String, name: String },
    /// It ended by itself or was killed.
    Exited { id: String, name: String, code: i32 },
    /// A client removed it.
    Removed { peer: SocketAddr, id: String, name: String },
    /// It was asked for its `/health`. No `status`: it did not answer, or not in time.
    Probed { id: String, name: String, process: String, status: Option<u16>, body: String, took: Duration },
}

/// A `tracing` event of a process.
#[derive(Clone, Debug, PartialEq)]
pub struct Log {
    /// The process that logged.
    pub process: String,
    /// Its incarnation, counted by the world from 1.
    pub incarnation: u32,
    /// `ERROR`, `WARN`, `INFO`, …
    pub level: &'static str,
    /// The message.
    pub message: String,
    /// The fields, as text.
    pub fields: BTreeMap<String, String>,
}
