//! What the broker keeps: exchanges, queues, bindings. Which queues a message goes to is decided here, once, when it comes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use amq_protocol::protocol::BasicProperties;
use bytes::Bytes;

use super::queue::Queue;

/// How an exchange routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Routing {
    Direct,
    Fanout,
}

impl Routing {
    /// The word on the wire; others stop the run.
    pub(super) fn named(word: &str) -> Self {
        match word {
            "direct" => Routing::Direct,
            "fanout" => Routing::Fanout,
            other => panic!("RabbitMQ stand-in: exchanges of type {other:?} are not known here"),
        }
    }

    pub(super) fn word(self) -> &'static str {
        match self {
            Routing::Direct => "direct",
            Routing::Fanout => "fanout",
        }
    }
}

#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) kind: Routing,
    /// Outlives a restart, with its bindings to durable queues.
    pub(super) durable: bool,
    /// (routing key, queue).
    pub(super) bindings: BTreeSet<(String, String)>,
}

#[derive(Debug)]
pub(super) struct Message {
    pub(super) exchange: String,
    pub(super) routing_key: String,
    pub(super) properties: BasicProperties,
    pub(super) body: Bytes,
}

impl Message {
    /// Outlives a restart in a durable queue.
    pub(super) fn persistent(&self) -> bool {
        *self.properties.delivery_mode() == Some(2)
    }
}

/// Exchanges and queues by name. The default exchange is not among them.
#[derive(Debug, Default)]
pub(super) struct Store {
    pub(super) exchanges: BTreeMap<String, Exchange>,
    pub(super) queues: BTreeMap<String, Queue>,
    serials: u64,
    names: u64,
}

impl Store {
    /// Forgets what a restart forgets: what is not durable, and what [`Queue::restart`] says. Unacknowledged messages must
    /// have gone back already.
    pub(super) fn restart(&mut self, clean: bool) {
        self.queues.retain(|_, queue| queue.durable && queue.exclusive.is_none());
        self.queues.values_mut().for_each(|queue| queue.restart(clean));
        let queues = &self.queues;
        self.exchanges.retain(|_, exchange| exchange.durable);
        for exchange in self.exchanges.values_mut() {
            exchange.bindings.retain(|(_, queue)| queues.contains_key(queue));
        }
    }

    /// A name for a queue that was declared without one.
    pub(super) fn make_name(&mut self) -> String {
        self.names += 1;
        format!("amq.gen-{:022}", self.names)
    }

    /// A number for a queue that is declared.
    pub(super) fn serial(&mut self) -> u64 {
        self.serials += 1;
        self.serials
    }

    /// Takes a queue out, with its bindings and messages.
    pub(super) fn remove_queue(&mut self, name: &str) -> Option<Queue> {
        let queue = self.queues.remove(name)?;
        for exchange in self.exchanges.values_mut() {
            exchange.bindings.retain(|(_, bound)| bound != name);
        }
        Some(queue)
    }

    /// The queues that a message goes to; `None` if there is no such exchange.
    pub(super) fn route(&self, exchange: &str, routing_key: &str) -> Option<BTreeSet<String>> {
        if exchange.is_empty() {
            return Some(self.queues.contains_key(routing_key).then(|| routing_key.to_owned()).into_iter().collect());
        }
        let exchange = self.exchanges.get(exchange)?;
        let takes = |key: &str| exchange.kind == Routing::Fanout || key == routing_key;
        Some(exchange.bindings.iter().filter(|(key, _)| takes(key)).map(|(_, queue)| queue.clone()).collect())
    }

    /// Appends a message.
    pub(super) fn push(&mut self, queue: &str, message: Arc<Message>) {
        if let Some(queue) = self.queues.get_mut(queue) {
            queue.push(message);
        }
    }
}
