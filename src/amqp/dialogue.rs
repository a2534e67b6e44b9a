//! The meaning of frames and commands: channels, which request waits for which answer, which message for its confirm.
//! No I/O.
//!
//! The law: what this side has not asked for is a breach of the protocol and ends the connection.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use amq_protocol::frame::AMQPFrame;
use amq_protocol::protocol::{AMQPClass, BasicProperties, basic, channel, connection};
use amq_protocol::types::AMQPValue;
use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use super::channel::{Delivery, Outcome, Returned};
use super::codec::{Arriving, Outbox, short};
use super::connection::{Life, Shared};
use super::error::Error;
use super::handshake::Tuned;

/// Requests of one channel that may wait for their answers. Handles send one at a time; more are left only by callers
/// that gave up waiting.
const REQUESTS_MAX: usize = 16;
/// The header by which a returned message is told from others: basic.return names no tag.
const PUBLISH_TAG: &str = "publish-tag";
/// Class and method of the answer to a channel's close.
const CHANNEL_CLOSE_OK: (u16, u16) = (20, 41);
/// AMQP's reply code for an ordinary end.
const REPLY_SUCCESS: u16 = 200;

/// A channel by number, and by a serial that is never used again: numbers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) id: u16,
    pub(super) serial: u64,
}

/// A command of a handle to the driver.
#[derive(Debug)]
pub(super) enum Command {
    /// Open a channel: its key comes first, then the answer.
    Open { life: Arc<Life>, place: oneshot::Sender<Result<Key, Error>>, reply: oneshot::Sender<AMQPClass> },
    /// Send a method that is answered; for basic.consume with the sink of its consumer.
    Request { key: Key, method: AMQPClass, sink: Option<ConsumerSink>, reply: oneshot::Sender<AMQPClass> },
    /// Send a method that is not answered.
    Send { key: Key, method: AMQPClass },
    /// Publish a message and wait for its confirm.
    Publish { key: Key, method: basic::Publish, properties: Box<BasicProperties>, body: Bytes, publishing: Publishing },
    /// Close the connection.
    Close { reply: oneshot::Sender<()> },
}

/// Where deliveries go.
#[derive(Debug)]
pub(super) struct ConsumerSink {
    pub(super) tag: String,
    /// As many places as the prefetch allows unacknowledged.
    pub(super) deliveries: mpsc::Sender<Delivery>,
    pub(super) life: Arc<Life>,
}

/// A message that waits for its confirm.
#[derive(Debug)]
pub(super) struct Publishing {
    pub(super) reply: oneshot::Sender<Outcome>,
    pub(super) returned: Option<Returned>,
    pub(super) permit: OwnedSemaphorePermit,
}

#[derive(Debug)]
struct Waiter {
    answer: (u16, u16),
    sink: Option<ConsumerSink>,
    reply: oneshot::Sender<AMQPClass>,
}

#[derive(Debug)]
enum Announced {
    Deliver(basic::Deliver),
    Return(basic::Return),
}

#[derive(Debug)]
struct Slot {
    key: Key,
    life: Arc<Life>,
    waiters: VecDeque<Waiter>,
    consumers: BTreeMap<String, ConsumerSink>,
    /// By publish tag.
    publishes: BTreeMap<u64, Publishing>,
    published: u64,
    arriving: Option<Arriving<Announced>>,
}

/// Our side of the dialogue on one connection.
#[derive(Debug)]
pub(super) struct Dialogue {
    channels: BTreeMap<u16, Slot>,
    serials: u64,
    tuned: Tuned,
    body_max: usize,
    shared: Arc<Shared>,
    closing: Option<oneshot::Sender<()>>,
    /// Set when the last word is in the outbox: write it, then end for this reason.
    pub(super) over: Option<Error>,
}

impl Dialogue {
    pub(super) fn new(tuned: Tuned, body_max: usize, shared: Arc<Shared>) -> Self {
        Dialogue { channels: BTreeMap::new(), serials: 0, tuned, body_max, shared, closing: None, over: None }
    }

    /// The largest frame agreed, in bytes.
    pub(super) fn frame_max(&self) -> u32 {
        self.tuned.frame_max
    }

    /// Carries out a command of a handle.
    pub(super) fn command(&mut self, command: Command, out: &mut Outbox) -> Result<(), Error> {
        if self.closing.is_some() {
            return Ok(()); // Waiting callers hear that the connection is closed.
        }
        match command {
            Command::Open { life, place, reply } => self.open(life, place, reply, out),
            Command::Request { key, method, sink, reply } => match self.slot(key) {
                Some(slot) => slot.request(method, sink, reply, out),
                None => Ok(()),
            },
            Command::Send { key, method } => match self.slot(key) {
                Some(slot) => out.method(slot.key.id, method),
                None => Ok(()),
            },
            Command::Publish { key, method, properties, body, publishing } => {
                let frame_max = self.tuned.frame_max;
                match self.slot(key) {
                    Some(slot) => slot.publish(method, *properties, &body, publishing, frame_max, out),
                    None => Ok(()),
                }
            }
            Command::Close { reply } => {
                self.closing = Some(reply);
                let close = connection::Close {
                    reply_code: REPLY_SUCCESS,
                    reply_text: short("bye")?,
                    class_id: 0,
                    method_id: 0,
                };
                out.method(0, AMQPClass::Connection(connection::AMQPMethod::Close(close)))
            }
        }
    }

    /// Takes in a frame.
    pub(super) fn frame(&mut self, frame: AMQPFrame, out: &mut Outbox) -> Result<(), Error> {
        match frame {
            AMQPFrame::Heartbeat => Ok(()),
            AMQPFrame::Method(0, AMQPClass::Connection(method)) => self.connection(method, out),
            AMQPFrame::Method(id, method) if id != 0 => {
                if self.known(id)?.method(method, out)? {
                    self.channels.remove(&id);
                }
                Ok(())
            }
            AMQPFrame::Header(id, header) => {
                let body_max = self.body_max;
                let slot = self.known(id)?;
                match &mut slot.arriving {
                    Some(arriving) => arriving.header(header, body_max)?,
                    None => return Err(Error::Protocol("a content header that nothing announced".into())),
                }
                slot.arrived()
            }
            AMQPFrame::Body(id, piece) => {
                let slot = self.known(id)?;
                match &mut slot.arriving {
                    Some(arriving) => arriving.body(&piece)?,
                    None => return Err(Error::Protocol("a content body that nothing announced".into())),
                }
                slot.arrived()
            }
            other => Err(Error::Protocol(format!("{other} out of place"))),
        }
    }

    fn open(
        &mut self,
        life: Arc<Life>,
        place: oneshot::Sender<Result<Key, Error>>,
        reply: oneshot::Sender<AMQPClass>,
        out: &mut Outbox,
    ) -> Result<(), Error> {
        let Some(id) = (1..=self.tuned.channel_max).find(|id| !self.channels.contains_key(id)) else {
            let error = Error::Invalid(format!("all {} channels are open", self.tuned.channel_max));
            let _ = place.send(Err(error));
            return Ok(());
        };
        self.serials += 1;
        let key = Key { id, serial: self.serials };
        let mut slot = Slot {
            key,
            life,
            waiters: VecDeque::new(),
            consumers: BTreeMap::new(),
            publishes: BTreeMap::new(),
            published: 0,
            arriving: None,
        };
        let open = AMQPClass::Channel(channel::AMQPMethod::Open(channel::Open {}));
        slot.request(open, None, reply, out)?;
        self.channels.insert(id, slot);
        // The caller may have stopped waiting; the channel then stays open, unused, until the connection ends.
        let _ = place.send(Ok(key));
        Ok(())
    }

    fn connection(&mut self, method: connection::AMQPMethod, out: &mut Outbox) -> Result<(), Error> {
        match method {
            connection::AMQPMethod::Close(close) => {
                out.method(0, AMQPClass::Connection(connection::AMQPMethod::CloseOk(connection::CloseOk {})))?;
                let text = close.reply_text.to_string();
                self.over = Some(Error::ConnectionClosed { code: close.reply_code, text });
                Ok(())
            }
            connection::AMQPMethod::CloseOk(_) => match self.closing.take() {
                Some(reply) => {
                    let _ = reply.send(());
                    self.over = Some(Error::Closed);
                    Ok(())
                }
                None => Err(Error::Protocol("connection.close-ok without a close".into())),
            },
            connection::AMQPMethod::Blocked(blocked) => {
                self.shared.state.send_modify(|state| state.blocked = Some(blocked.reason.to_string()));
                Ok(())
            }
            connection::AMQPMethod::Unblocked(_) => {
                self.shared.state.send_modify(|state| state.blocked = None);
                Ok(())
            }
            other => Err(Error::Protocol(format!("{other:?} on an open connection"))),
        }
    }

    fn slot(&mut self, key: Key) -> Option<&mut Slot> {
        self.channels.get_mut(&key.id).filter(|slot| slot.key == key && slot.life.ended().is_none())
    }

    fn known(&mut self, id: u16) -> Result<&mut Slot, Error> {
        self.channels.get_mut(&id).ok_or_else(|| Error::Protocol(format!("a frame on channel {id}, which is not open")))
    }
}

impl Slot {
    fn request(
        &mut self,
        method: AMQPClass,
        sink: Option<ConsumerSink>,
        reply: oneshot::Sender<AMQPClass>,
        out: &mut Outbox,
    ) -> Result<(), Error> {
        if self.waiters.len() == REQUESTS_MAX {
            return Err(Error::Timeout { what: "any of the last requests" });
        }
        // In AMQP the answer to a method has the next number in its class.
        let answer = (method.get_amqp_class_id(), method.get_amqp_method_id() + 1);
        self.waiters.push_back(Waiter { answer, sink, reply });
        out.method(self.key.id, method)
    }

    fn publish(
        &mut self,
        method: basic::Publish,
        properties: BasicProperties,
        body: &[u8],
        publishing: Publishing,
        frame_max: u32,
        out: &mut Outbox,
    ) -> Result<(), Error> {
        self.published += 1;
        let properties = if method.mandatory { tagged(properties, self.published)? } else { properties };
        self.publishes.insert(self.published, publishing);
        out.method(self.key.id, AMQPClass::Basic(basic::AMQPMethod::Publish(method)))?;
        out.content(self.key.id, properties, body, frame_max)
    }

    /// Takes in a method. Returns whether the channel is over with it, so that its number is free.
    fn method(&mut self, method: AMQPClass, out: &mut Outbox) -> Result<bool, Error> {
        if self.arriving.is_some() {
            return Err(Error::Protocol("a method in the middle of a message".into()));
        }
        match method {
            AMQPClass::Basic(basic::AMQPMethod::Deliver(deliver)) => {
                self.arriving = Some(Arriving::new(Announced::Deliver(deliver)));
            }
            AMQPClass::Basic(basic::AMQPMethod::Return(returned)) => {
                self.arriving = Some(Arriving::new(Announced::Return(returned)));
            }
            AMQPClass::Basic(basic::AMQPMethod::Ack(ack)) => {
                self.confirm(ack.delivery_tag, ack.multiple, &Outcome::Confirmed)?;
            }
            AMQPClass::Basic(basic::AMQPMethod::Nack(nack)) => {
                self.confirm(nack.delivery_tag, nack.multiple, &Outcome::Nacked)?;
            }
            AMQPClass::Basic(basic::AMQPMethod::Cancel(cancel)) => {
                if let Some(sink) = self.consumers.remove(cancel.consumer_tag.as_str()) {
                    sink.life.end(Error::Cancelled);
                }
                if !cancel.nowait {
                    let ok = basic::CancelOk { consumer_tag: cancel.consumer_tag };
                    out.method(self.key.id, AMQPClass::Basic(basic::AMQPMethod::CancelOk(ok)))?;
                }
            }
            AMQPClass::Channel(channel::AMQPMethod::Close(close)) => {
                out.method(self.key.id, AMQPClass::Channel(channel::AMQPMethod::CloseOk(channel::CloseOk {})))?;
                self.end(&Error::ChannelClosed { code: close.reply_code, text: close.reply_text.to_string() });
                // If the two closes crossed, the broker answers ours as well: the number is free after that.
                self.waiters.retain(|waiter| waiter.answer == CHANNEL_CLOSE_OK);
                return Ok(self.waiters.is_empty());
            }
            answer => return self.answered(answer),
        }
        Ok(false)
    }

    fn answered(&mut self, answer: AMQPClass) -> Result<bool, Error> {
        let ids = (answer.get_amqp_class_id(), answer.get_amqp_method_id());
        let Some(waiter) = self.waiters.pop_front().filter(|waiter| waiter.answer == ids) else {
            return Err(Error::Protocol(format!("{answer:?} was not asked for")));
        };
        let closed = ids == CHANNEL_CLOSE_OK;
        match &answer {
            AMQPClass::Basic(basic::AMQPMethod::ConsumeOk(ok)) => {
                let Some(sink) = waiter.sink.filter(|sink| sink.tag == ok.consumer_tag.as_str()) else {
                    return Err(Error::Protocol(format!("consumer {} was not asked for", ok.consumer_tag)));
                };
                // Before the next frame is looked at: it may be a delivery.
                self.consumers.insert(sink.tag.clone(), sink);
            }
            AMQPClass::Basic(basic::AMQPMethod::CancelOk(ok)) => {
                if let Some(sink) = self.consumers.remove(ok.consumer_tag.as_str()) {
                    sink.life.end(Error::Closed);
                }
            }
            _ if closed => self.end(&Error::Closed),
            _ => {}
        }
        let _ = waiter.reply.send(answer);
        Ok(closed)
    }

    /// Hands on what is complete.
    fn arrived(&mut self) -> Result<(), Error> {
        match self.arriving.take_if(|arriving| arriving.complete()).map(Arriving::finish) {
            None => Ok(()),
            Some((Announced::Deliver(deliver), properties, body)) => self.deliver(deliver, properties, body),
            Some((Announced::Return(returned), properties, _)) => self.returned(returned, &properties),
        }
    }

    fn deliver(&mut self, deliver: basic::Deliver, properties: BasicProperties, body: Vec<u8>) -> Result<(), Error> {
        let Some(sink) = self.consumers.get(deliver.consumer_tag.as_str()) else {
            return Err(Error::Protocol(format!("a delivery for {}, which does not consume", deliver.consumer_tag)));
        };
        let delivery = Delivery {
            delivery_tag: deliver.delivery_tag,
            redelivered: deliver.redelivered,
            exchange: deliver.exchange.to_string(),
            routing_key: deliver.routing_key.to_string(),
            properties,
            body: body.into(),
        };
        match sink.deliveries.try_send(delivery) {
            // Nobody listens any more: it stays unacknowledged and goes back when the channel ends.
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => Ok(()),
            Err(mpsc::error::TrySendError::Full(_)) => Err(Error::Protocol("more deliveries than the prefetch".into())),
        }
    }

    fn returned(&mut self, returned: basic::Return, properties: &BasicProperties) -> Result<(), Error> {
        let tag = properties.headers().as_ref().and_then(|headers| headers.inner().get(PUBLISH_TAG));
        let publishing = match tag {
            Some(AMQPValue::LongLongInt(tag)) => self.publishes.get_mut(&(*tag as u64)),
            _ => None,
        };
        let Some(publishing) = publishing else {
            return Err(Error::Protocol("a message came back that does not wait for its confirm".into()));
        };
        publishing.returned = Some(Returned { code: returned.reply_code, text: returned.reply_text.to_string() });
        Ok(())
    }

    fn confirm(&mut self, tag: u64, multiple: bool, outcome: &Outcome) -> Result<(), Error> {
        let confirmed = match (multiple, tag) {
            (true, 0) => std::mem::take(&mut self.publishes),
            (true, tag) if tag <= self.published => {
                let later = self.publishes.split_off(&(tag + 1));
                std::mem::replace(&mut self.publishes, later)
            }
            (false, tag) => self.publishes.remove(&tag).map(|publishing| (tag, publishing)).into_iter().collect(),
            _ => BTreeMap::new(),
        };
        if confirmed.is_empty() {
            return Err(Error::Protocol(format!("a confirm for {tag}, which does not wait for one")));
        }
        for publishing in confirmed.into_values() {
            drop(publishing.permit);
            let outcome = match publishing.returned {
                Some(returned) => Outcome::Returned(returned),
                None => outcome.clone(),
            };
            let _ = publishing.reply.send(outcome);
        }
        Ok(())
    }

    /// Ends the channel for everyone who uses it or waits on it; requests apart.
    fn end(&mut self, reason: &Error) {
        self.life.end(reason.clone());
        for sink in std::mem::take(&mut self.consumers).into_values() {
            sink.life.end(reason.clone());
        }
        self.publishes.clear();
    }
}

/// `properties` with the tag among the headers.
fn tagged(properties: BasicProperties, tag: u64) -> Result<BasicProperties, Error> {
    let mut headers = properties.headers().clone().unwrap_or_default();
    headers.insert(short(PUBLISH_TAG)?, AMQPValue::LongLongInt(tag as i64));
    Ok(properties.with_headers(headers))
}
