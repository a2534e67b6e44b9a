//! RabbitMQ's wire, AMQP 0-9-1: messages published, handed out and settled.
//!
//! A message counts as routed when it goes to the broker: the broker may hand it out before it confirms. Where it is
//! routed to follows from the bindings that clients asked for. When a connection or channel ends, what was not settled on
//! it counts as returned; what the broker had sent and nobody has read never arrived.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use amq_protocol::frame::{AMQPFrame, parse_frame};
use amq_protocol::protocol::{AMQPClass, basic, channel, exchange, queue};

use super::observation::Broker;
use crate::standins::observation::Observation;
use crate::standins::wire::{Heard, Wire};

/// Type, channel and size before the payload, the end marker after it.
const OVERHEAD: usize = 8;
/// What a protocol header measures.
const PROTOCOL_HEADER: usize = 8;

/// What the connections to one broker share.
#[derive(Default)]
pub(crate) struct Shared {
    /// The type of each exchange.
    exchanges: BTreeMap<String, String>,
    /// Exchange, key, queue.
    bindings: BTreeSet<(String, String, String)>,
}

impl Shared {
    fn routed(&self, to: &str, key: &str) -> Vec<String> {
        if to.is_empty() {
            return vec![key.to_owned()];
        }
        let fanout = self.exchanges.get(to).is_some_and(|kind| kind == "fanout");
        let bound = self.bindings.iter().filter(|(exchange, by, _)| exchange == to && (fanout || by == key));
        bound.map(|(.., queue)| queue.clone()).collect()
    }
}

/// A message whose body is still coming.
struct Coming {
    about: About,
    left: u64,
    body: Vec<u8>,
}

enum About {
    Published {
        exchange: String,
        routing_key: String,
    },
    Delivered {
        consumer: String,
        tag: u64,
        redelivered: bool,
    },
    /// One that could not be routed comes back; it was told when it was published.
    Returned,
}

#[derive(Default)]
struct Channel {
    /// What the client is sending.
    up: Option<Coming>,
    /// What the broker is sending.
    down: Option<Coming>,
    /// Queues by consumer, and whether deliveries of it count as settled at once.
    consumers: BTreeMap<String, (String, bool)>,
    /// The consumers whose tags the broker is to choose, in order.
    nameless: Vec<(String, bool)>,
    /// The queue that was declared last: an empty name means it.
    declared: String,
    unsettled: BTreeMap<u64, (String, Vec<u8>)>,
}

/// A connection.
pub(crate) struct Rabbit {
    peer: SocketAddr,
    shared: Arc<Mutex<Shared>>,
    up: Vec<u8>,
    down: Vec<u8>,
    channels: BTreeMap<u16, Channel>,
    /// Channels that are being closed: what still comes on them reaches nobody.
    closing: BTreeSet<u16>,
    over: bool,
}

impl Rabbit {
    pub(crate) fn new(peer: SocketAddr, shared: Arc<Mutex<Shared>>) -> Rabbit {
        Rabbit {
            peer,
            shared,
            up: Vec::new(),
            down: Vec::new(),
            channels: BTreeMap::new(),
            closing: BTreeSet::new(),
            over: false,
        }
    }

    fn asked(&mut self, number: u16, method: AMQPClass) -> Vec<Broker> {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let channel = self.channels.entry(number).or_default();
        match method {
            AMQPClass::Exchange(exchange::AMQPMethod::Declare(declare)) => {
                shared.exchanges.insert(declare.exchange.to_string(), declare.kind.to_string());
            }
            AMQPClass::Queue(queue::AMQPMethod::Declare(declare)) => channel.declared = declare.queue.to_string(),
            AMQPClass::Queue(queue::AMQPMethod::Bind(bind)) => {
                let queue = named(&bind.queue.to_string(), channel);
                shared.bindings.insert((bind.exchange.to_string(), bind.routing_key.to_string(), queue));
            }
            AMQPClass::Basic(basic::AMQPMethod::Consume(consume)) => {
                let about = (named(&consume.queue.to_string(), channel), consume.no_ack);
                match consume.consumer_tag.as_str() {
                    "" => channel.nameless.push(about),
                    tag => drop(channel.consumers.insert(tag.to_owned(), about)),
                }
            }
            AMQPClass::Basic(basic::AMQPMethod::Publish(publish)) => {
                let (exchange, routing_key) = (publish.exchange.to_string(), publish.routing_key.to_string());
                let about = About::Published { exchange, routing_key };
                channel.up = Some(Coming { about, left: 0, body: Vec::new() });
            }
            AMQPClass::Basic(basic::AMQPMethod::Ack(ack)) => {
                let settled = settle(channel, ack.delivery_tag, ack.multiple);
                let peer = self.peer;
                return settled.map(|(queue, body)| Broker::Acked { peer, queue, body: body.into() }).collect();
            }
            AMQPClass::Basic(basic::AMQPMethod::Nack(nack)) => {
                let settled = settle(channel, nack.delivery_tag, nack.multiple);
                return settled.map(|settled| nacked(self.peer, settled, nack.requeue)).collect();
            }
            AMQPClass::Basic(basic::AMQPMethod::Reject(reject)) => {
                let settled = settle(channel, reject.delivery_tag, false);
                return settled.map(|settled| nacked(self.peer, settled, reject.requeue)).collect();
            }
            AMQPClass::Channel(channel::AMQPMethod::Open(_)) => _ = self.closing.remove(&number),
            AMQPClass::Channel(channel::AMQPMethod::Close(_)) => {
                let peer = self.peer;
                self.closing.insert(number);
                return self.channels.remove(&number).map(|channel| returned(peer, channel)).unwrap_or_default();
            }
            _ => {}
        }
        Vec::new()
    }

    fn answered(&mut self, number: u16, method: AMQPClass) -> Vec<Broker> {
        let channel = self.channels.entry(number).or_default();
        match method {
            AMQPClass::Queue(queue::AMQPMethod::DeclareOk(ok)) => channel.declared = ok.queue.to_string(),
            AMQPClass::Basic(basic::AMQPMethod::ConsumeOk(ok)) => {
                let tag = ok.consumer_tag.to_string();
                if !channel.consumers.contains_key(&tag) && !channel.nameless.is_empty() {
                    let about = channel.nameless.remove(0);
                    channel.consumers.insert(tag, about);
                }
            }
            AMQPClass::Basic(basic::AMQPMethod::Deliver(deliver)) => {
                let (consumer, tag) = (deliver.consumer_tag.to_string(), deliver.delivery_tag);
                let about = About::Delivered { consumer, tag, redelivered: deliver.redelivered };
                channel.down = Some(Coming { about, left: 0, body: Vec::new() });
            }
            AMQPClass::Basic(basic::AMQPMethod::Return(_)) => {
                channel.down = Some(Coming { about: About::Returned, left: 0, body: Vec::new() });
            }
            AMQPClass::Channel(channel::AMQPMethod::Close(_)) => {
                let peer = self.peer;
                return self.channels.remove(&number).map(|channel| returned(peer, channel)).unwrap_or_default();
            }
            _ => {}
        }
        Vec::new()
    }

    fn frame(&mut self, frame: AMQPFrame, up: bool) -> Result<Vec<Broker>, String> {
        let number = match &frame {
            AMQPFrame::Method(number, _) | AMQPFrame::Header(number, ..) | AMQPFrame::Body(number, _) => *number,
            _ => return Ok(Vec::new()),
        };
        if !up && self.closing.contains(&number) {
            return Ok(Vec::new());
        }
        if let AMQPFrame::Method(_, method) = frame {
            return Ok(if up { self.asked(number, method) } else { self.answered(number, method) });
        }
        let channel = self.channels.entry(number).or_default();
        let slot = if up { &mut channel.up } else { &mut channel.down };
        let coming = slot.as_mut().ok_or("the body of a message comes before the message")?;
        match frame {
            AMQPFrame::Header(_, header) => coming.left = header.body_size,
            AMQPFrame::Body(_, bytes) => {
                coming.left = coming.left.saturating_sub(bytes.len() as u64);
                coming.body.extend(bytes);
            }
            _ => {}
        }
        if coming.left > 0 {
            return Ok(Vec::new());
        }
        let whole = slot.take();
        Ok(whole.map(|coming| self.came(number, coming)).transpose()?.flatten().into_iter().collect())
    }

    fn came(&mut self, number: u16, coming: Coming) -> Result<Option<Broker>, String> {
        let (peer, body) = (self.peer, coming.body);
        match coming.about {
            About::Published { exchange, routing_key } => {
                let shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
                let queues = shared.routed(&exchange, &routing_key);
                Ok(Some(Broker::Published { peer, exchange, routing_key, queues, body: body.into() }))
            }
            About::Delivered { consumer, tag, redelivered } => {
                let channel = self.channels.entry(number).or_default();
                let (queue, settled) =
                    channel.consumers.get(&consumer).cloned().ok_or("a delivery for a consumer that nobody began")?;
                if !settled {
                    channel.unsettled.insert(tag, (queue.clone(), body.clone()));
                }
                Ok(Some(Broker::Delivered { peer, queue, redelivered, body: body.into() }))
            }
            About::Returned => Ok(None),
        }
    }

    fn heard(&mut self, bytes: &[u8], up: bool) -> Heard {
        let mut inbox = std::mem::take(if up { &mut self.up } else { &mut self.down });
        inbox.extend_from_slice(bytes);
        let mut heard = Vec::new();
        while let Some(length) = whole(&inbox) {
            let frame = match parse_frame(&inbox[..length]) {
                Ok(([], frame)) => frame,
                other => return Err(format!("what is no frame: {other:?}")),
            };
            inbox.drain(..length);
            heard.extend(self.frame(frame, up)?.into_iter().map(Observation::from));
        }
        *(if up { &mut self.up } else { &mut self.down }) = inbox;
        Ok(heard)
    }
}

impl Wire for Rabbit {
    fn up(&mut self, bytes: &[u8]) -> Heard {
        self.heard(bytes, true)
    }

    fn down(&mut self, bytes: &[u8]) -> Heard {
        if self.over { Ok(Vec::new()) } else { self.heard(bytes, false) }
    }

    fn over(&mut self) -> Heard {
        self.over = true;
        let channels = std::mem::take(&mut self.channels).into_values();
        Ok(channels.flat_map(|channel| returned(self.peer, channel)).map(Observation::from).collect())
    }
}

/// The length of the first frame, if it is there whole.
fn whole(bytes: &[u8]) -> Option<usize> {
    let whole = match bytes.first()? {
        b'A' => PROTOCOL_HEADER,
        _ => u32::from_be_bytes(bytes.get(3..7)?.try_into().ok()?) as usize + OVERHEAD,
    };
    (bytes.len() >= whole).then_some(whole)
}

fn named(queue: &str, channel: &Channel) -> String {
    if queue.is_empty() { channel.declared.clone() } else { queue.to_owned() }
}

/// Takes out what is settled by this tag; 0 with `multiple` means everything.
fn settle(channel: &mut Channel, tag: u64, multiple: bool) -> std::vec::IntoIter<(String, Vec<u8>)> {
    let tags = channel.unsettled.keys().copied();
    let tags: Vec<u64> = tags.filter(|one| *one == tag || (multiple && (tag == 0 || *one < tag))).collect();
    let settled: Vec<_> = tags.iter().filter_map(|tag| channel.unsettled.remove(tag)).collect();
    settled.into_iter()
}

fn nacked(peer: SocketAddr, (queue, body): (String, Vec<u8>), requeue: bool) -> Broker {
    Broker::Nacked { peer, queue, requeue, body: body.into() }
}

fn returned(peer: SocketAddr, channel: Channel) -> Vec<Broker> {
    let unsettled = channel.unsettled.into_values();
    unsettled.map(|(queue, body)| Broker::Requeued { peer, queue, body: body.into() }).collect()
}
