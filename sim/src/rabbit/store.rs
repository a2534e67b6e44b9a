//! What the broker keeps: exchanges, queues, bindings, messages that are ready. A message has one place in its queue
//! for as long as it lives, and goes back to it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use amq_protocol::protocol::BasicProperties;
use bytes::Bytes;

/// How an exchange routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Direct,
    Fanout,
}

impl Kind {
    /// The word on the wire; others stop the run.
    pub(super) fn named(word: &str) -> Self {
        match word {
            "direct" => Kind::Direct,
            "fanout" => Kind::Fanout,
            other => panic!("RabbitMQ stand-in: exchanges of type {other:?} are not known here"),
        }
    }

    pub(super) fn word(self) -> &'static str {
        match self {
            Kind::Direct => "direct",
            Kind::Fanout => "fanout",
        }
    }
}

#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) kind: Kind,
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

/// A message in its place.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) message: Arc<Message>,
    pub(super) redelivered: bool,
}

/// Who consumes: connection, channel, consumer tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Subscriber {
    pub(super) connection: u64,
    pub(super) channel: u16,
    pub(super) tag: String,
}

#[derive(Debug)]
pub(super) struct Queue {
    /// A queue of the same name that is declared later is another one.
    pub(super) serial: u64,
    /// Outlives a restart, with its persistent messages.
    pub(super) durable: bool,
    /// The connection that it belongs to and goes with.
    pub(super) exclusive: Option<u64>,
    /// Goes with its last consumer.
    pub(super) auto_delete: bool,
    /// By place.
    pub(super) ready: BTreeMap<u64, Entry>,
    /// The next place.
    pub(super) next: u64,
    /// The next one to be served first.
    pub(super) consumers: VecDeque<Subscriber>,
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
    /// Forgets what a restart forgets: what is not durable, and after a crash (not `clean`) what was delivered before.
    /// Unacknowledged messages must have gone back already.
    pub(super) fn restart(&mut self, clean: bool) {
        self.queues.retain(|_, queue| queue.durable && queue.exclusive.is_none());
        for queue in self.queues.values_mut() {
            queue.ready.retain(|_, entry| entry.message.persistent());
            queue.ready.values_mut().for_each(|entry| entry.redelivered |= !clean);
            queue.consumers.clear();
        }
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

    pub(super) fn add_queue(&mut self, name: &str, durable: bool, exclusive: Option<u64>, auto_delete: bool) {
        self.serials += 1;
        let queue = Queue {
            serial: self.serials,
            durable,
            exclusive,
            auto_delete,
            ready: BTreeMap::new(),
            next: 0,
            consumers: VecDeque::new(),
        };
        self.queues.insert(name.to_owned(), queue);
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
        let takes = |key: &str| exchange.kind == Kind::Fanout || key == routing_key;
        Some(exchange.bindings.iter().filter(|(key, _)| takes(key)).map(|(_, queue)| queue.clone()).collect())
    }

    /// Appends a message.
    pub(super) fn push(&mut self, queue: &str, message: Arc<Message>) {
        if let Some(queue) = self.queues.get_mut(queue) {
            queue.ready.insert(queue.next, Entry { message, redelivered: false });
            queue.next += 1;
        }
    }

    /// Puts a message back in its place, marked; nowhere if its queue is gone.
    pub(super) fn put_back(&mut self, queue: &str, serial: u64, place: u64, message: Arc<Message>) {
        if let Some(queue) = self.queues.get_mut(queue).filter(|queue| queue.serial == serial) {
            queue.ready.insert(place, Entry { message, redelivered: true });
        }
    }
}
