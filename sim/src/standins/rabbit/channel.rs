//! Channels: which method does what, who gets which message. A delivery that is handed out ends in `settle`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use amq_protocol::frame::AMQPContentHeader;
use amq_protocol::protocol::{AMQPClass, BasicProperties, basic, channel, confirm, exchange, queue};
use amq_protocol::types::{AMQPValue, FieldTable};

use super::core::{Core, Effects, FOREIGN_BODY, Refusal, short};
use super::faults::FOREIGN;
use super::observation::Broker;
use super::queue::{Entry, Subscriber};
use super::settle::{Answer, Unacked};
use super::store::Message;
use super::timeout;

/// A channel. None of it outlives its connection.
#[derive(Debug, Default)]
pub(super) struct Channel {
    /// Tags of publishes are counted and confirmed.
    confirms: bool,
    published: u64,
    /// For the consumers that come after it; zero is no limit.
    prefetch: u16,
    /// A prefetch of the whole channel was asked for.
    whole: bool,
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
    /// How many more deliveries it may have; `None` is no limit.
    pub(super) room: Option<u32>,
    queue: String,
    /// Deliveries up to this tag belong to an earlier consumer of the same tag.
    pub(super) after: u64,
    /// For how long it may have a delivery, if not for as long as everybody.
    pub(super) timeout: Option<Duration>,
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
        match self.try_method(connection, id, method, out) {
            Ok(()) => {}
            Err(refusal) if refusal.is_hard() => self.close_connection(connection, refusal, blamed, out),
            Err(refusal) => self.close_channel(connection, id, refusal, blamed, out),
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
            AMQPClass::Queue(queue::AMQPMethod::Purge(purge)) => {
                let message_count = self.queue_purge(connection, &purge)?;
                let ok = queue::AMQPMethod::PurgeOk(queue::PurgeOk { message_count });
                out.send(connection, id, AMQPClass::Queue(ok));
            }
            AMQPClass::Queue(queue::AMQPMethod::Delete(delete)) => {
                let message_count = self.queue_delete(connection, &delete)?;
                let ok = queue::AMQPMethod::DeleteOk(queue::DeleteOk { message_count });
                out.send(connection, id, AMQPClass::Queue(ok));
                self.drop_queue(delete.queue.as_str(), out);
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
                self.qos(connection, id, qos);
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
                self.settle(connection, id, (ack.delivery_tag, ack.multiple), Answer::Ack, out)?;
            }
            basic::AMQPMethod::Nack(nack) => {
                let answer = Answer::refused(nack.requeue);
                self.settle(connection, id, (nack.delivery_tag, nack.multiple), answer, out)?;
            }
            basic::AMQPMethod::Reject(reject) => {
                let answer = Answer::refused(reject.requeue);
                self.settle(connection, id, (reject.delivery_tag, false), answer, out)?;
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
        let mut touched =
            self.depart(|subscriber| subscriber.connection == connection && subscriber.channel == id, out);
        let addr = self.peers[&connection].addr;
        let channel = self.channel(connection, id);
        channel.consumers.clear();
        channel.publishing = None;
        let left = std::mem::take(&mut channel.unacked).into_values().map(|unacked| (addr, unacked)).collect();
        let (from, dead) = self.take_back(left, out);
        touched.extend(from);
        for queue in touched {
            self.deliver(&queue, out);
        }
        self.reap(dead, out);
    }

    /// The header of a message that is being published.
    pub(super) fn content_header(&mut self, connection: u64, id: u16, header: AMQPContentHeader, out: &mut Effects) {
        let channel = self.channel(connection, id);
        if channel.closing {
            return;
        }
        let publishing = channel.publishing.as_mut().expect("RabbitMQ stand-in: a content header without a publish");
        check_properties(&header.properties);
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
            let method = basic::AMQPMethod::Return(returned);
            self.send_content(connection, id, method, &message.properties, &message.body, out);
        }
        for queue in &queues {
            self.deliver(queue, out);
        }
        if let Some(delivery_tag) = confirm {
            let ack = basic::Ack { delivery_tag, multiple: false };
            out.send(connection, id, AMQPClass::Basic(basic::AMQPMethod::Ack(ack)));
        }
    }

    /// Handles out what is ready to consumers in turn, as far as their prefetch allows.
    pub(super) fn deliver(&mut self, name: &str, out: &mut Effects) {
        while let Some(queue) = self.store.queues.get_mut(name) {
            let room = |subscriber: &Subscriber| {
                let channel = self.peers.get(&subscriber.connection)?.channels.get(&subscriber.channel)?;
                channel.consumers.get(&subscriber.tag).map(|consumer| consumer.room != Some(0))
            };
            let Some((subscriber, place, entry)) = queue.take(room) else { return };
            let serial = queue.serial;
            let peer = self.peers[&subscriber.connection].addr;
            let channel = self.channel(subscriber.connection, subscriber.channel);
            channel.delivered += 1;
            let delivery_tag = channel.delivered;
            let room = channel.consumers.get_mut(&subscriber.tag).and_then(|consumer| consumer.room.as_mut());
            let still = room.is_none_or(|room| {
                *room -= 1;
                *room > 0
            });
            let (queue, tag) = (name.to_owned(), subscriber.tag.clone());
            let unacked = Unacked { queue, serial, place, entry: entry.clone(), since: out.now, tag };
            channel.unacked.insert(delivery_tag, unacked);
            if let Some(queue) = self.store.queues.get_mut(name).filter(|_| still) {
                queue.wait(&subscriber);
            }
            let (queue, redelivered, body) = (name.to_owned(), entry.redelivered, entry.message.body.clone());
            if body == FOREIGN_BODY {
                out.suffer(peer, &FOREIGN, &body);
            }
            out.saw(Broker::Delivered { peer, queue, redelivered, body });
            let deliver = basic::Deliver {
                consumer_tag: short(&subscriber.tag),
                delivery_tag,
                redelivered,
                exchange: short(&entry.message.exchange),
                routing_key: short(&entry.message.routing_key),
            };
            let method = basic::AMQPMethod::Deliver(deliver);
            let properties = stamped(&entry);
            let (connection, id, body) = (subscriber.connection, subscriber.channel, &entry.message.body);
            self.send_content(connection, id, method, &properties, body, out);
        }
    }

    fn qos(&mut self, connection: u64, id: u16, qos: basic::Qos) {
        if !qos.global {
            self.channel(connection, id).prefetch = qos.prefetch_count;
            return;
        }
        let queues: Vec<_> = self.channel(connection, id).consumers.values().map(|one| one.queue.clone()).collect();
        let classic = |name: &String| self.store.queues.get(name).is_some_and(|queue| !queue.is_quorum());
        assert!(
            qos.prefetch_count == 0 || !queues.iter().any(classic),
            "RabbitMQ stand-in: a prefetch for the whole channel is not known here"
        );
        self.channel(connection, id).whole = qos.prefetch_count > 0;
    }

    fn consume(&mut self, connection: u64, id: u16, consume: basic::Consume, out: &mut Effects) -> Result<(), Refusal> {
        assert!(
            !consume.no_local && !consume.no_ack && !consume.exclusive && !consume.nowait,
            "RabbitMQ stand-in: {consume:?} is not known here"
        );
        let timeout = timeout::own(&consume.arguments, self.settings.version.cancels_who_is_late());
        let name = consume.queue.to_string();
        self.accessible(connection, &name)?;
        let quorum = self.store.queues[&name].is_quorum();
        let tag = consume.consumer_tag.to_string();
        assert!(!tag.is_empty(), "RabbitMQ stand-in: a consumer without a tag is not known here");
        let vhost = self.settings.vhost.clone();
        let channel = self.channel(connection, id);
        if channel.whole {
            assert!(quorum, "RabbitMQ stand-in: a prefetch for the whole channel is not known here");
            let text = format!("NOT_IMPLEMENTED - queue '{name}' in vhost '{vhost}' does not support global qos");
            return Err(Refusal::new(540, text));
        }
        // RabbitMQ 3.10 itself fails over this, with a 541.
        let holds = |unacked: &Unacked| unacked.queue == name && unacked.tag == tag;
        assert!(
            !(quorum && channel.unacked.values().any(holds)),
            "RabbitMQ stand-in: consumer tag {tag} used again while deliveries of quorum queue {name} hang on it"
        );
        let (prefetch, after) = (channel.prefetch, channel.delivered);
        let subscriber = Subscriber { connection, channel: id, tag: tag.clone() };
        let Some(queue) = self.store.queues.get_mut(&name) else { return Ok(()) };
        let consumer = Consumer { room: queue.room(prefetch), queue: name.clone(), after, timeout };
        queue.wait(&subscriber);
        queue.consumers.push_back(subscriber);
        let before = self.channel(connection, id).consumers.insert(tag.clone(), consumer);
        assert!(before.is_none(), "RabbitMQ stand-in: consumer tag {tag} used twice");
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

    /// Tells a consumer that its queue is gone, if it understands that.
    pub(super) fn cancelled(&mut self, subscriber: &Subscriber, out: &mut Effects) {
        let Some(peer) = self.peers.get_mut(&subscriber.connection) else { return };
        let Some(channel) = peer.channels.get_mut(&subscriber.channel) else { return };
        channel.consumers.remove(&subscriber.tag);
        if peer.cancel_notify {
            let cancel = basic::Cancel { consumer_tag: short(&subscriber.tag), nowait: true };
            let method = AMQPClass::Basic(basic::AMQPMethod::Cancel(cancel));
            out.send(subscriber.connection, subscriber.channel, method);
        }
    }

    pub(super) fn channel(&mut self, connection: u64, id: u16) -> &mut Channel {
        let channel = self.peers.get_mut(&connection).and_then(|peer| peer.channels.get_mut(&id));
        channel.unwrap_or_else(|| panic!("RabbitMQ stand-in: a client uses channel {id}, which is not open"))
    }

    fn forget_channel(&mut self, connection: u64, id: u16) {
        if let Some(peer) = self.peers.get_mut(&connection) {
            peer.channels.remove(&id);
        }
    }
}

/// A message's properties as its consumer gets them: a quorum queue says how often it was delivered before.
fn stamped(entry: &Entry) -> BasicProperties {
    let properties = entry.message.properties.clone();
    if entry.returned == 0 {
        return properties;
    }
    let mut headers = properties.headers().clone().unwrap_or_default();
    headers.insert("x-delivery-count".into(), AMQPValue::LongLongInt(entry.returned as i64));
    properties.with_headers(headers)
}

/// Properties that do something to a message other than describe it stop the run.
fn check_properties(properties: &BasicProperties) {
    let expiration = properties.expiration();
    assert!(expiration.is_none(), "RabbitMQ stand-in: expiration {expiration:?} is not known here");
    let headers = properties.headers().as_ref().map(FieldTable::inner);
    let copies = headers.is_some_and(|headers| headers.contains_key("CC") || headers.contains_key("BCC"));
    assert!(!copies, "RabbitMQ stand-in: CC and BCC are not known here: {headers:?}");
}
