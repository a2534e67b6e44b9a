//! What clients declare, bind, purge and delete, and what is refused: in RabbitMQ's words and reply codes, which programs
//! look at. Arguments that are not known here stop the run.

use std::collections::BTreeSet;

use amq_protocol::protocol::{exchange, queue};
use amq_protocol::types::{AMQPValue, FieldTable};

use super::core::{Core, Effects, Refusal, short};
use super::queue::{DeadLetters, Kind, Queue, Subscriber};
use super::store::{Exchange, Routing};
use super::version::Version;

const TYPE: &str = "x-queue-type";
const LIMIT: &str = "x-delivery-limit";
const LETTERS: &str = "x-dead-letter-exchange";
const LETTERS_KEY: &str = "x-dead-letter-routing-key";
/// RabbitMQ ignores a queue's own.
const IGNORED: &str = "x-consumer-timeout";

impl Core {
    pub(super) fn exchange_declare(&mut self, declare: exchange::Declare) -> Result<(), Refusal> {
        assert!(
            !declare.auto_delete && !declare.internal && !declare.nowait && declare.arguments.inner().is_empty(),
            "RabbitMQ stand-in: {declare:?} is not known here"
        );
        let name = declare.exchange.as_str();
        assert!(
            !name.is_empty() && !name.starts_with("amq."),
            "RabbitMQ stand-in: exchange {name:?} is the broker's own"
        );
        let vhost = &self.settings.vhost;
        match self.store.exchanges.get(name) {
            None if declare.passive => {
                Err(Refusal::new(404, format!("NOT_FOUND - no exchange '{name}' in vhost '{vhost}'")))
            }
            Some(_) if declare.passive => Ok(()),
            None => {
                let kind = Routing::named(declare.kind.as_str());
                let exchange = Exchange { kind, durable: declare.durable, bindings: BTreeSet::new() };
                self.store.exchanges.insert(name.to_owned(), exchange);
                Ok(())
            }
            Some(exchange) => {
                let what = format!("exchange '{name}' in vhost '{vhost}'");
                same("type", &what, declare.kind.as_str(), exchange.kind.word())?;
                same("durable", &what, declare.durable, exchange.durable)
            }
        }
    }

    pub(super) fn queue_declare(
        &mut self,
        connection: u64,
        declare: queue::Declare,
    ) -> Result<queue::DeclareOk, Refusal> {
        assert!(!declare.nowait, "RabbitMQ stand-in: nowait is not known here");
        let name = declare.queue.to_string();
        let name = match name.as_str() {
            "" => {
                if text(&declare.arguments, TYPE) == Some("quorum") {
                    let text = "Cannot declare a server-named queue for type rabbit_quorum_queue";
                    return Err(precondition(text));
                }
                self.store.make_name()
            }
            _ => name,
        };
        let what = format!("queue '{name}' in vhost '{}'", self.settings.vhost);
        if declare.passive {
            self.accessible(connection, &name)?;
        } else if let Some(queue) = self.store.queues.get(&name) {
            // RabbitMQ knows no queue that is durable and exclusive.
            let durable = declare.durable && !declare.exclusive;
            if queue.exclusive != declare.exclusive.then_some(connection) {
                return Err(self.locked(&name));
            }
            same("durable", &what, durable, queue.durable)?;
            same("auto_delete", &what, declare.auto_delete, queue.auto_delete)?;
            known(&declare.arguments);
            same_arguments(&what, queue, &declare.arguments)?;
        } else {
            self.queue_create(connection, &name, &what, declare)?;
        }
        let queue = &self.store.queues[&name];
        Ok(queue::DeclareOk {
            queue: short(&name),
            message_count: queue.ready.len() as u32,
            consumer_count: self.consumers(&name) as u32,
        })
    }

    fn queue_create(
        &mut self,
        connection: u64,
        name: &str,
        what: &str,
        declare: queue::Declare,
    ) -> Result<(), Refusal> {
        let (kind, dead_letters) = read(what, &declare.arguments, self.settings.version)?;
        if kind != Kind::Classic {
            let not = |property: &str| precondition(&format!("invalid property '{property}' for {what}"));
            match &declare {
                queue::Declare { auto_delete: true, .. } => return Err(not("auto-delete")),
                queue::Declare { exclusive: true, .. } => return Err(not("exclusive-owner")),
                queue::Declare { durable: false, .. } => return Err(not("non-durable")),
                _ => {}
            }
        }
        let queue = Queue {
            serial: self.store.serial(),
            kind,
            arguments: declare.arguments,
            dead_letters,
            durable: declare.durable && !declare.exclusive,
            exclusive: declare.exclusive.then_some(connection),
            auto_delete: declare.auto_delete,
            ready: Default::default(),
            next: 0,
            consumers: Default::default(),
            waiting: Default::default(),
        };
        self.store.queues.insert(name.to_owned(), queue);
        Ok(())
    }

    /// How many consumers a queue counts. To a quorum queue one that was cancelled is one for as long as it has something.
    fn consumers(&self, name: &str) -> usize {
        let queue = &self.store.queues[name];
        let mut all: BTreeSet<_> = queue.consumers.iter().cloned().collect();
        if queue.is_quorum() {
            for (&connection, peer) in &self.peers {
                for (&channel, open) in &peer.channels {
                    let its = open.unacked.values().filter(|unacked| unacked.serial == queue.serial);
                    all.extend(its.map(|unacked| Subscriber { connection, channel, tag: unacked.tag.clone() }));
                }
            }
        }
        all.len()
    }

    pub(super) fn queue_bind(&mut self, connection: u64, bind: queue::Bind) -> Result<(), Refusal> {
        assert!(
            !bind.nowait && bind.arguments.inner().is_empty() && !bind.exchange.as_str().is_empty(),
            "RabbitMQ stand-in: {bind:?} is not known here"
        );
        self.accessible(connection, bind.queue.as_str())?;
        let vhost = &self.settings.vhost;
        let Some(exchange) = self.store.exchanges.get_mut(bind.exchange.as_str()) else {
            return Err(Refusal::new(404, format!("NOT_FOUND - no exchange '{}' in vhost '{vhost}'", bind.exchange)));
        };
        exchange.bindings.insert((bind.routing_key.to_string(), bind.queue.to_string()));
        Ok(())
    }

    /// Empties a queue of what is ready. Returns how much that was.
    pub(super) fn queue_purge(&mut self, connection: u64, purge: &queue::Purge) -> Result<u32, Refusal> {
        let name = purge.queue.as_str();
        assert!(!purge.nowait && !name.is_empty(), "RabbitMQ stand-in: {purge:?} is not known here");
        self.accessible(connection, name)?;
        let purged = self.store.queues.get_mut(name).map(|queue| std::mem::take(&mut queue.ready).len());
        Ok(purged.unwrap_or_default() as u32)
    }

    /// Whether a queue may be deleted. Returns how much is ready in it; one that is not there is as good as deleted.
    pub(super) fn queue_delete(&mut self, connection: u64, delete: &queue::Delete) -> Result<u32, Refusal> {
        let name = delete.queue.as_str();
        assert!(!delete.nowait && !name.is_empty(), "RabbitMQ stand-in: {delete:?} is not known here");
        let Some(queue) = self.store.queues.get(name) else { return Ok(0) };
        self.accessible(connection, name)?;
        let what = format!("queue '{name}' in vhost '{}'", self.settings.vhost);
        let not = |flag: &str| {
            let text = format!(
                "NOT_IMPLEMENTED - cannot delete {what}. queue.delete operations with {flag} flag set are not \
                 supported by quorum queues"
            );
            Err(Refusal::new(540, text))
        };
        match (queue.kind, delete.if_unused, delete.if_empty) {
            (Kind::Quorum { .. }, true, _) => not("if-unused"),
            (Kind::Quorum { .. }, _, true) => not("if-empty"),
            (_, _, true) if !queue.ready.is_empty() => Err(precondition(&format!("{what} not empty"))),
            (_, true, _) if !queue.consumers.is_empty() => Err(precondition(&format!("{what} in use"))),
            _ => Ok(queue.ready.len() as u32),
        }
    }

    /// Refused: a queue that is not there, or another connection's own.
    pub(super) fn accessible(&self, connection: u64, name: &str) -> Result<(), Refusal> {
        let vhost = &self.settings.vhost;
        match self.store.queues.get(name) {
            None => Err(Refusal::new(404, format!("NOT_FOUND - no queue '{name}' in vhost '{vhost}'"))),
            Some(queue) if queue.exclusive.is_some_and(|owner| owner != connection) => Err(self.locked(name)),
            Some(_) => Ok(()),
        }
    }

    fn locked(&self, name: &str) -> Refusal {
        let text = format!(
            "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '{name}' in vhost '{}'. It could be \
             originally declared on another connection or the exclusive property value does not match that of the \
             original declaration.",
            self.settings.vhost
        );
        Refusal::new(405, text)
    }

    /// Deletes a queue: its consumers are cancelled, its messages gone.
    pub(super) fn drop_queue(&mut self, name: &str, out: &mut Effects) {
        let Some(queue) = self.store.remove_queue(name) else { return };
        for subscriber in queue.consumers {
            self.cancelled(&subscriber, out);
        }
    }
}

/// What a new queue's arguments ask for.
fn read(what: &str, arguments: &FieldTable, version: Version) -> Result<(Kind, Option<DeadLetters>), Refusal> {
    known(arguments);
    let invalid = |name: &str, why: &str| precondition(&format!("invalid arg '{name}' for {what}: {why}"));
    let unfit = |name: &str| -> Option<&'static str> {
        arguments.inner().get(name).filter(|value| !matches!(value, AMQPValue::LongString(_))).map(type_of)
    };
    if let Some(found) = unfit(LETTERS) {
        return Err(precondition(&format!("invalid type '{found}' for arg '{LETTERS}' in {what}")));
    }
    if let Some(found) = unfit(TYPE) {
        return Err(invalid(TYPE, &format!("{{unacceptable_type,{found}}}")));
    }
    let quorum = match text(arguments, TYPE) {
        None | Some("classic") => false,
        Some("quorum") => true,
        Some("stream") => panic!("RabbitMQ stand-in: streams are not known here"),
        Some(other) => return Err(invalid(TYPE, &format!("\"unsupported queue type '{other}'\""))),
    };
    if let Some(found) = unfit(LETTERS_KEY) {
        return Err(invalid(LETTERS_KEY, &format!("{{unacceptable_type,{found}}}")));
    }
    let (exchange, routing_key) = (text(arguments, LETTERS), text(arguments, LETTERS_KEY));
    if exchange.is_none() && routing_key.is_some() {
        return Err(invalid(LETTERS_KEY, "routing_key_but_no_dlx_defined"));
    }
    let limit = match arguments.inner().get(LIMIT) {
        None => version.delivery_limit(),
        Some(_) if !quorum => {
            return Err(precondition(&format!("invalid arg '{LIMIT}' for {what} of queue type rabbit_classic_queue")));
        }
        Some(limit) => Some(
            integer(limit)
                .and_then(|limit| u64::try_from(limit).ok())
                .unwrap_or_else(|| panic!("RabbitMQ stand-in: {LIMIT} = {limit:?} is not known here")),
        ),
    };
    let letters = exchange
        .map(|exchange| DeadLetters { exchange: exchange.to_owned(), routing_key: routing_key.map(ToOwned::to_owned) });
    Ok((if quorum { Kind::Quorum { limit } } else { Kind::Classic }, letters))
}

/// Stops the run at an argument that is not known here.
fn known(arguments: &FieldTable) {
    for (name, value) in arguments {
        let known = [TYPE, LIMIT, LETTERS, LETTERS_KEY, IGNORED].contains(&name.as_str());
        assert!(known, "RabbitMQ stand-in: argument {name} = {value:?} is not known here");
    }
}

/// A declaration whose arguments differ from what is there is refused; only those count that its kind knows.
fn same_arguments(what: &str, queue: &Queue, received: &FieldTable) -> Result<(), Refusal> {
    let limit = queue.is_quorum().then_some(LIMIT);
    for name in [LETTERS, LETTERS_KEY, TYPE].into_iter().chain(limit) {
        let (received, current) = (received.inner().get(name), queue.arguments.inner().get(name));
        let classic = |value: Option<&AMQPValue>| value.and_then(as_text).is_none_or(|kind| kind == "classic");
        if name == TYPE && classic(received) && classic(current) {
            continue;
        }
        let (received, current) = match (received, current) {
            (None, None) => continue,
            (Some(received), Some(current)) => match (integer(received), integer(current)) {
                (Some(received), Some(current)) if received == current => continue,
                _ if received == current => continue,
                _ => (format!("'{}'", bare(received)), format!("'{}'", bare(current))),
            },
            (received, current) => (described(received), described(current)),
        };
        return Err(different(name, what, &received, &current));
    }
    Ok(())
}

fn described(value: Option<&AMQPValue>) -> String {
    value.map_or("none".into(), |value| format!("the value '{}' of type '{}'", bare(value), type_of(value)))
}

fn bare(value: &AMQPValue) -> String {
    match (as_text(value), integer(value)) {
        (Some(text), _) => text.to_owned(),
        (_, Some(number)) => number.to_string(),
        _ => panic!("RabbitMQ stand-in: an argument {value:?} is not known here"),
    }
}

/// Erlang's word for a type.
fn type_of(value: &AMQPValue) -> &'static str {
    match value {
        AMQPValue::LongString(_) => "longstr",
        AMQPValue::LongInt(_) => "signedint",
        AMQPValue::LongLongInt(_) => "long",
        other => panic!("RabbitMQ stand-in: an argument {other:?} is not known here"),
    }
}

fn integer(value: &AMQPValue) -> Option<i64> {
    match value {
        AMQPValue::LongInt(number) => Some((*number).into()),
        AMQPValue::LongLongInt(number) => Some(*number),
        _ => None,
    }
}

fn as_text(value: &AMQPValue) -> Option<&str> {
    match value {
        AMQPValue::LongString(text) => match std::str::from_utf8(text.as_bytes()) {
            Ok(text) => Some(text),
            Err(_) => panic!("RabbitMQ stand-in: {value:?}, which is not UTF-8, is not known here"),
        },
        _ => None,
    }
}

fn text<'a>(arguments: &'a FieldTable, name: &str) -> Option<&'a str> {
    arguments.inner().get(name).and_then(as_text)
}

/// A declaration that differs from what is there is refused.
fn same<T: PartialEq + std::fmt::Display>(field: &str, what: &str, received: T, current: T) -> Result<(), Refusal> {
    if received == current {
        return Ok(());
    }
    Err(different(field, what, &format!("'{received}'"), &format!("'{current}'")))
}

fn different(field: &str, what: &str, received: &str, current: &str) -> Refusal {
    precondition(&format!("inequivalent arg '{field}' for {what}: received {received} but current is {current}"))
}

fn precondition(text: &str) -> Refusal {
    Refusal::new(406, format!("PRECONDITION_FAILED - {text}"))
}
