//! Channels: what their methods do to the store, who gets which message, what is unacknowledged.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use amq_protocol::frame::AMQPContentHeader;
use amq_protocol::protocol::{AMQPClass, BasicProperties, basic, channel, confirm, exchange, queue};
use amq_protocol::types::{AMQPValue, FieldTable};
use tokio::time::Instant;

use super::core::{Core, Effects, Refusal, short};
use super::store::{Exchange, Kind, Message, Subscriber};
use crate::observation::Broker;

/// A channel. None of it outlives its connection.
#[derive(Debug, Default)]
pub(super) struct Channel {
    /// Tags of publishes are counted and confirmed.
    confirms: bool,
    published: u64,
    /// For the consumers that come after it; zero is no limit.
    prefetch: u16,
    pub(super) consumers: BTreeMap<String, Consumer>,
    delivered: u64,
    /// By delivery tag.
    pub(super) unacked: BTreeMap<u64, Unacked>,
    publishing: Option<Publishing>,
    /// We closed it: only close-ok counts.
    pub(super) closing: bool,
}

#[derive(Debug)]
pub(super) struct Consumer {
    prefetch: u16,
    unacked: u16,
    queue: String,
    /// Deliveries up to this tag belong to an earlier consumer of the same tag.
    after: u64,
}

/// A delivery that was neither acknowledged nor refused.
#[derive(Debug)]
pub(super) struct Unacked {
    pub(super) queue: String,
    pub(super) serial: u64,
    pub(super) place: u64,
    pub(super) message: Arc<Message>,
    pub(super) since: Instant,
    tag: String,
}

#[derive(Debug)]
struct Publishing {
    method: basic::Publish,
    properties: Option<BasicProperties>,
    size: u64,
    body: Vec<u8>,
}

impl Core {
    /// A method on a channel.
    pub(super) fn method(&mut self, connection: u64, id: u16, method: AMQPClass, out: &mut Effects) {
        let blamed = (method.get_amqp_class_id(), method.get_amqp_method_id());
        if let Err(refusal) = self.try_method(connection, id, method, out) {
            self.close_channel(connection, id, refusal, blamed, out);
        }
    }

    fn try_method(&mut self, connection: u64, id: u16, method: AMQPClass, out: &mut Effects) -> Result<(), Refusal> {
        if let AMQPClass::Channel(method) = method {
            self.channel_method(connection, id, method, out);
            return Ok(());
        }
        if self.channel(connection, id).closing {
            return Ok(());
        }
        match method {
            AMQPClass::Exchange(exchange::AMQPMethod::Declare(declare)) => {
                self.exchange_declare(declare)?;
                let ok = exchange::AMQPMethod::DeclareOk(exchange::DeclareOk {});
                out.send(connection, id, AMQPClass::Exchange(ok));
            }
            AMQPClass::Queue(queue::AMQPMethod::Declare(declare)) => {
                let ok = self.queue_declare(connection, declare)?;
                out.send(connection, id, AMQPClass::Queue(queue::AMQPMethod::DeclareOk(ok)));
            }
            AMQPClass::Queue(queue::AMQPMethod::Bind(bind)) => {
                self.queue_bind(connection, bind)?;
                out.send(connection, id, AMQPClass::Queue(queue::AMQPMethod::BindOk(queue::BindOk {})));
            }
            AMQPClass::Confirm(confirm::AMQPMethod::Select(select)) => {
                assert!(!select.nowait, "RabbitMQ stand-in: nowait is not known here");
                self.channel(connection, id).confirms = true;
                let ok = confirm::AMQPMethod::SelectOk(confirm::SelectOk {});
                out.send(connection, id, AMQPClass::Confirm(ok));
            }
            AMQPClass::Basic(method) => self.basic(connection, id, method, out)?,
            other => panic!("RabbitMQ stand-in: {other:?} is not known here"),
        }
        Ok(())
    }

    fn basic(&mut self, connection: u64, id: u16, method: basic::AMQPMethod, out: &mut Effects) -> Result<(), Refusal> {
        match method {
            basic::AMQPMethod::Qos(qos) => {
                assert!(!qos.global, "RabbitMQ stand-in: a prefetch for the whole channel is not known here");
                self.channel(connection, id).prefetch = qos.prefetch_count;
                out.send(connection, id, AMQPClass::Basic(basic::AMQPMethod::QosOk(basic::QosOk {})));
            }
            basic::AMQPMethod::Consume(consume) => self.consume(connection, id, consume, out)?,
            basic::AMQPMethod::Cancel(cancel) => self.cancel(connection, id, cancel, out),
            basic::AMQPMethod::Publish(method) => {
                assert!(!method.immediate, "RabbitMQ stand-in: immediate is not known here");
                let publishing = Publishing { method, properties: None, size: 0, body: Vec::new() };
                self.channel(connection, id).publishing = Some(publishing);
            }
            basic::AMQPMethod::Ack(ack) => {
                for unacked in self.settle(connection, id, ack.delivery_tag, ack.multiple)? {
                    let peer = self.peers[&connection].addr;
                    let (queue, body) = (unacked.queue, unacked.message.body.clone());
                    out.saw(Broker::Acked { peer, queue: queue.clone(), body });
                    self.deliver(&queue, out);
                }
            }
            basic::AMQPMethod::Nack(nack) => {
                let settled = self.settle(connection, id, nack.delivery_tag, nack.multiple)?;
                self.refuse(connection, settled, nack.requeue, out);
            }
            other => panic!("RabbitMQ stand-in: {other:?} is not known here"),
        }
        Ok(())
    }

    fn channel_method(&mut self, connection: u64, id: u16, method: channel::AMQPMethod, out: &mut Effects) {
        match method {
            channel::AMQPMethod::Open(_) => {
                let limit = self.settings.channel_max;
                let peer = self.peers.get_mut(&connection).expect("its frame was just taken");
                let before = peer.channels.insert(id, Channel::default());
                assert!(
                    before.is_none() && id <= limit,
                    "RabbitMQ stand-in: channel {id} opened twice, or over {limit}"
                );
                out.send(connection, id, AMQPClass::Channel(channel::AMQPMethod::OpenOk(channel::OpenOk {})));
            }
            channel::AMQPMethod::Close(_) => {
                // If the two closes crossed, the client answers ours as well: the channel is free after that.
                if !self.channel(connection, id).closing {
                    self.empty_channel(connection, id, out);
                    self.forget_channel(connection, id);
                }
                out.send(connection, id, AMQPClass::Channel(channel::AMQPMethod::CloseOk(channel::CloseOk {})));
            }
            channel::AMQPMethod::CloseOk(_) => {
                assert!(self.channel(connection, id).closing, "RabbitMQ stand-in: channel.close-ok without a close");
                self.forget_channel(connection, id);
            }
            other => panic!("RabbitMQ stand-in: {other:?} is not known here"),
        }
    }

    /// Takes everything off a channel: its consumers leave, what it had goes back.
    pub(super) fn empty_channel(&mut self, connection: u64, id: u16, out: &mut Effects) {
        let mut touched = self.leave(|subscriber| subscriber.connection == connection && subscriber.channel == id, out);
        let addr = self.peers[&connection].addr;
        let channel = self.channel(connection, id);
        channel.consumers.clear();
        channel.publishing = None;
        for unacked in std::mem::take(&mut channel.unacked).into_values() {
            touched.insert(unacked.queue.clone());
            self.put_back(addr, unacked, out);
        }
        for queue in touched {
            self.deliver(&queue, out);
        }
    }

    /// The header of a message that is being published.
    pub(super) fn content_header(&mut self, connection: u64, id: u16, header: AMQPContentHeader, out: &mut Effects) {
        let channel = self.channel(connection, id);
        if channel.closing {
            return;
        }
        let publishing = channel.publishing.as_mut().expect("RabbitMQ stand-in: a content header without a publish");
        publishing.size = header.body_size;
        publishing.properties = Some(header.properties);
        self.publish_if_whole(connection, id, out);
    }

    /// A piece of its body.
    pub(super) fn content_body(&mut self, connection: u64, id: u16, piece: &[u8], out: &mut Effects) {
        let channel = self.channel(connection, id);
        if channel.closing {
            return;
        }
        let publishing = channel.publishing.as_mut().expect("RabbitMQ stand-in: a content body without a publish");
        publishing.body.extend_from_slice(piece);
        self.publish_if_whole(connection, id, out);
    }

    fn publish_if_whole(&mut self, connection: u64, id: u16, out: &mut Effects) {
        let channel = self.channel(connection, id);
        let Some(Publishing { method, properties: Some(properties), body, .. }) = channel
            .publishing
            .take_if(|publishing| publishing.properties.is_some() && publishing.body.len() as u64 >= publishing.size)
        else {
            return;
        };
        channel.published += 1;
        let confirm = channel.confirms.then_some(channel.published);
        let peer = self.peers[&connection].addr;
        let (exchange, routing_key) = (method.exchange.to_string(), method.routing_key.to_string());
        let Some(queues) = self.store.route(&exchange, &routing_key) else {
            let text = format!("NOT_FOUND - no exchange '{exchange}' in vhost '{}'", self.settings.vhost);
            self.close_channel(connection, id, Refusal::new(404, text), (60, 40), out);
            return;
        };
        let message = Arc::new(Message { exchange, routing_key, properties, body: body.into() });
        for queue in &queues {
            self.store.push(queue, message.clone());
        }
        out.saw(Broker::Published {
            peer,
            exchange: message.exchange.clone(),
            routing_key: message.routing_key.clone(),
            queues: queues.iter().cloned().collect(),
            body: message.body.clone(),
        });
        if queues.is_empty() && method.mandatory {
            let returned = basic::Return {
                reply_code: 312,
                reply_text: short("NO_ROUTE"),
                exchange: method.exchange,
                routing_key: method.routing_key,
            };
            self.send_content(connection, id, basic::AMQPMethod::Return(returned), &message, out);
        }
        for queue in &queues {
            self.deliver(queue, out);
        }
        if let Some(delivery_tag) = confirm {
            let ack = basic::Ack { delivery_tag, multiple: false };
            out.send(connection, id, AMQPClass::Basic(basic::AMQPMethod::Ack(ack)));
        }
    }

    /// Hands out what is ready to consumers in turn, as far as their prefetch allows.
    pub(super) fn deliver(&mut self, name: &str, out: &mut Effects) {
        while let Some(queue) = self.store.queues.get_mut(name) {
            let room = |subscriber: &Subscriber| {
                let channel = self.peers.get(&subscriber.connection)?.channels.get(&subscriber.channel)?;
                let consumer = channel.consumers.get(&subscriber.tag)?;
                (consumer.prefetch == 0 || consumer.unacked < consumer.prefetch).then_some(())
            };
            let Some(turn) = queue.consumers.iter().position(|subscriber| room(subscriber).is_some()) else { return };
            let Some((place, entry)) = queue.ready.pop_first() else { return };
            let Some(subscriber) = queue.consumers.remove(turn) else { return };
            queue.consumers.push_back(subscriber.clone());
            let serial = queue.serial;
            let peer = self.peers[&subscriber.connection].addr;
            let channel = self.channel(subscriber.connection, subscriber.channel);
            channel.delivered += 1;
            let delivery_tag = channel.delivered;
            if let Some(consumer) = channel.consumers.get_mut(&subscriber.tag) {
                consumer.unacked += 1;
            }
            let (message, tag) = (entry.message, subscriber.tag);
            let unacked = Unacked {
                queue: name.to_owned(),
                serial,
                place,
                message: message.clone(),
                since: out.now,
                tag: tag.clone(),
            };
            channel.unacked.insert(delivery_tag, unacked);
            let (queue, body, redelivered) = (name.to_owned(), message.body.clone(), entry.redelivered);
            out.saw(Broker::Delivered { peer, queue, redelivered, body });
            let deliver = basic::Deliver {
                consumer_tag: short(&tag),
                delivery_tag,
                redelivered,
                exchange: short(&message.exchange),
                routing_key: short(&message.routing_key),
            };
            let method = basic::AMQPMethod::Deliver(deliver);
            self.send_content(subscriber.connection, subscriber.channel, method, &message, out);
        }
    }

    /// Takes deliveries off a channel by tag, oldest first. A tag that is not there is refused.
    fn settle(&mut self, connection: u64, id: u16, tag: u64, multiple: bool) -> Result<Vec<Unacked>, Refusal> {
        let channel = self.channel(connection, id);
        let settled = match (multiple, tag) {
            (true, 0) => std::mem::take(&mut channel.unacked),
            (true, tag) if channel.unacked.contains_key(&tag) => {
                let later = channel.unacked.split_off(&(tag + 1));
                std::mem::replace(&mut channel.unacked, later)
            }
            (false, tag) if channel.unacked.contains_key(&tag) => {
                channel.unacked.remove(&tag).map(|unacked| (tag, unacked)).into_iter().collect()
            }
            _ => return Err(Refusal::new(406, format!("PRECONDITION_FAILED - unknown delivery tag {tag}"))),
        };
        for (delivery_tag, unacked) in &settled {
            let consumer = channel.consumers.get_mut(&unacked.tag);
            if let Some(consumer) = consumer.filter(|consumer| consumer.after < *delivery_tag) {
                consumer.unacked -= 1;
            }
        }
        Ok(settled.into_values().collect())
    }

    fn refuse(&mut self, connection: u64, settled: Vec<Unacked>, requeue: bool, out: &mut Effects) {
        let peer = self.peers[&connection].addr;
        let mut touched = BTreeSet::new();
        for Unacked { queue, serial, place, message, .. } in settled {
            out.saw(Broker::Nacked { peer, queue: queue.clone(), requeue, body: message.body.clone() });
            if requeue {
                self.store.put_back(&queue, serial, place, message);
            }
            touched.insert(queue);
        }
        for queue in touched {
            self.deliver(&queue, out);
        }
    }

    fn consume(&mut self, connection: u64, id: u16, consume: basic::Consume, out: &mut Effects) -> Result<(), Refusal> {
        assert!(
            !consume.no_local && !consume.no_ack && !consume.exclusive && !consume.nowait,
            "RabbitMQ stand-in: {consume:?} is not known here"
        );
        check_arguments(&consume.arguments);
        let name = consume.queue.to_string();
        self.accessible(connection, &name)?;
        let tag = consume.consumer_tag.to_string();
        assert!(!tag.is_empty(), "RabbitMQ stand-in: a consumer without a tag is not known here");
        let channel = self.channel(connection, id);
        let consumer =
            Consumer { prefetch: channel.prefetch, unacked: 0, queue: name.clone(), after: channel.delivered };
        let before = channel.consumers.insert(tag.clone(), consumer);
        assert!(before.is_none(), "RabbitMQ stand-in: consumer tag {tag} used twice");
        if let Some(queue) = self.store.queues.get_mut(&name) {
            queue.consumers.push_back(Subscriber { connection, channel: id, tag });
        }
        let ok = basic::ConsumeOk { consumer_tag: consume.consumer_tag };
        out.send(connection, id, AMQPClass::Basic(basic::AMQPMethod::ConsumeOk(ok)));
        self.deliver(&name, out);
        Ok(())
    }

    fn cancel(&mut self, connection: u64, id: u16, cancel: basic::Cancel, out: &mut Effects) {
        assert!(!cancel.nowait, "RabbitMQ stand-in: nowait is not known here");
        let tag = cancel.consumer_tag.to_string();
        let ok = basic::CancelOk { consumer_tag: cancel.consumer_tag };
        if let Some(consumer) = self.channel(connection, id).consumers.remove(&tag) {
            let it = Subscriber { connection, channel: id, tag };
            self.leave(|subscriber| *subscriber == it, out);
            self.deliver(&consumer.queue, out);
        }
        out.send(connection, id, AMQPClass::Basic(basic::AMQPMethod::CancelOk(ok)));
    }

    fn exchange_declare(&mut self, declare: exchange::Declare) -> Result<(), Refusal> {
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
                let kind = Kind::named(declare.kind.as_str());
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

    fn queue_declare(&mut self, connection: u64, declare: queue::Declare) -> Result<queue::DeclareOk, Refusal> {
        assert!(!declare.nowait, "RabbitMQ stand-in: nowait is not known here");
        check_arguments(&declare.arguments);
        let name = match declare.queue.as_str() {
            "" => self.store.make_name(),
            name => name.to_owned(),
        };
        if declare.passive || self.store.queues.contains_key(&name) {
            self.accessible(connection, &name)?;
        }
        let what = format!("queue '{name}' in vhost '{}'", self.settings.vhost);
        match self.store.queues.get(&name) {
            Some(queue) if !declare.passive => {
                same("durable", &what, declare.durable, queue.durable)?;
                same("exclusive", &what, declare.exclusive, queue.exclusive.is_some())?;
                same("auto_delete", &what, declare.auto_delete, queue.auto_delete)?;
            }
            Some(_) => {}
            None => {
                let owner = declare.exclusive.then_some(connection);
                self.store.add_queue(&name, declare.durable, owner, declare.auto_delete);
            }
        }
        let queue = &self.store.queues[&name];
        Ok(queue::DeclareOk {
            queue: short(&name),
            message_count: queue.ready.len() as u32,
            consumer_count: queue.consumers.len() as u32,
        })
    }

    fn queue_bind(&mut self, connection: u64, bind: queue::Bind) -> Result<(), Refusal> {
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

    /// Refused: a queue that is not there, or another connection's own.
    fn accessible(&self, connection: u64, name: &str) -> Result<(), Refusal> {
        let vhost = &self.settings.vhost;
        match self.store.queues.get(name) {
            None => Err(Refusal::new(404, format!("NOT_FOUND - no queue '{name}' in vhost '{vhost}'"))),
            Some(queue) if queue.exclusive.is_some_and(|owner| owner != connection) => {
                let text = format!(
                    "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '{name}' in vhost '{vhost}'. It \
                     could be originally declared on another connection or the exclusive property value does not \
                     match that of the original declaration."
                );
                Err(Refusal::new(405, text))
            }
            Some(_) => Ok(()),
        }
    }

    fn channel(&mut self, connection: u64, id: u16) -> &mut Channel {
        let channel = self.peers.get_mut(&connection).and_then(|peer| peer.channels.get_mut(&id));
        channel.unwrap_or_else(|| panic!("RabbitMQ stand-in: a client uses channel {id}, which is not open"))
    }

    fn forget_channel(&mut self, connection: u64, id: u16) {
        if let Some(peer) = self.peers.get_mut(&connection) {
            peer.channels.remove(&id);
        }
    }
}

/// A declaration that differs from what is there is refused.
fn same<T: PartialEq + std::fmt::Display>(field: &str, what: &str, received: T, current: T) -> Result<(), Refusal> {
    if received == current {
        return Ok(());
    }
    let text = format!(
        "PRECONDITION_FAILED - inequivalent arg '{field}' for {what}: received '{received}' but current is '{current}'"
    );
    Err(Refusal::new(406, text))
}

/// Arguments that may be given without effect: RabbitMQ 3.10 ignores a queue's `x-consumer-timeout`, and every queue
/// here is classic. Others stop the run.
fn check_arguments(arguments: &FieldTable) {
    for (name, value) in arguments {
        match (name.as_str(), value) {
            ("x-consumer-timeout", _) => {}
            ("x-queue-type", AMQPValue::LongString(kind)) if kind.as_bytes() == b"classic" => {}
            (name, value) => panic!("RabbitMQ stand-in: argument {name} = {value:?} is not known here"),
        }
    }
}
