//! The handle of a channel: declarations, publishing with confirms, consuming. Clones share the channel.
//!
//! There is no protocol in `Drop`: a channel that is not closed stays open until its connection ends.

use std::num::NonZeroU16;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use amq_protocol::protocol::{AMQPClass, BasicProperties, basic, channel, confirm, exchange, queue};
use amq_protocol::types::FieldTable;
use bytes::Bytes;
use tokio::sync::{Mutex, Semaphore, mpsc, oneshot};
use tokio::time::timeout;

use super::codec::short;
use super::connection::{Life, Shared};
use super::dialogue::{Command, ConsumerSink, Key, Publishing};
use super::error::Error;
use super::{Options, PUBLISHES_MAX};

/// AMQP's delivery mode for messages that outlive a restart.
const PERSISTENT: u8 = 2;

/// The way in which an exchange routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExchangeKind {
    /// Routes to the queues that are bound with the message's routing key.
    Direct,
    /// Routes to every bound queue.
    Fanout,
}

/// A queue to declare.
#[derive(Clone, Debug, Default)]
pub struct QueueDeclare {
    /// Empty: the broker makes one up and tells.
    pub name: String,
    /// The queue outlives a restart, with its persistent messages.
    pub durable: bool,
    /// For this connection only, and deleted with it.
    pub exclusive: bool,
    /// Deleted when its last consumer goes.
    pub auto_delete: bool,
    /// Only ask whether it is there.
    pub passive: bool,
    /// As `x-consumer-timeout`.
    pub arguments: FieldTable,
}

/// A queue as the broker has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueDeclared {
    /// The queue's name.
    pub name: String,
    /// Messages that are ready.
    pub messages: u32,
    /// Consumers.
    pub consumers: u32,
}

/// A message to publish.
#[derive(Clone, Debug, Default)]
pub struct Message {
    /// Empty: the default exchange, where the routing key is a queue's name.
    pub exchange: String,
    /// The routing key.
    pub routing_key: String,
    /// The body.
    pub body: Bytes,
    /// The message is returned if no queue takes it.
    pub mandatory: bool,
    /// The message outlives a restart in a durable queue.
    pub persistent: bool,
}

/// The outcome of a publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The broker is responsible for it now.
    Confirmed,
    /// The broker could not take it.
    Nacked,
    /// The message was mandatory and no queue took it.
    Returned(Returned),
}

/// Why a message came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Returned {
    /// AMQP's reply code: 312 no route.
    pub code: u16,
    /// The broker's words.
    pub text: String,
}

/// A message from the broker. It is ours until it is acknowledged or the channel ends.
#[derive(Clone, Debug, PartialEq)]
pub struct Delivery {
    /// Names it on its channel, for [`Channel::ack`] and [`Channel::nack`].
    pub delivery_tag: u64,
    /// The message may have been delivered before.
    pub redelivered: bool,
    /// Where it was published.
    pub exchange: String,
    /// The routing key of its publish.
    pub routing_key: String,
    /// The message's headers and other properties.
    pub properties: BasicProperties,
    /// The body.
    pub body: Bytes,
}

/// A channel.
#[derive(Clone, Debug)]
pub struct Channel {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    key: Key,
    life: Arc<Life>,
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
    options: Arc<Options>,
    /// The turn to ask: one request at a time, as AMQP answers in order.
    requests: Mutex<()>,
    /// Places for publishes that wait for their confirms.
    publishes: Arc<Semaphore>,
    confirms: AtomicBool,
    consumers: AtomicU64,
}

impl Channel {
    pub(super) fn new(
        key: Key,
        life: Arc<Life>,
        shared: Arc<Shared>,
        commands: mpsc::Sender<Command>,
        options: Arc<Options>,
    ) -> Self {
        let publishes = Arc::new(Semaphore::new(PUBLISHES_MAX));
        let (requests, confirms, consumers) = (Mutex::new(()), AtomicBool::new(false), AtomicU64::new(0));
        let inner = Inner { key, life, shared, commands, options, requests, publishes, confirms, consumers };
        Channel { inner: Arc::new(inner) }
    }

    /// Why the channel or its connection is over, if it is.
    pub fn ended(&self) -> Option<Error> {
        self.inner.life.ended().or_else(|| self.inner.shared.state.borrow().ended.clone())
    }

    /// Declares an exchange; one that is there already must be the same (else 406).
    pub async fn exchange_declare(&self, name: &str, kind: ExchangeKind, durable: bool) -> Result<(), Error> {
        let kind = match kind {
            ExchangeKind::Direct => "direct",
            ExchangeKind::Fanout => "fanout",
        };
        let declare = exchange::Declare {
            exchange: short(name)?,
            kind: short(kind)?,
            passive: false,
            durable,
            auto_delete: false,
            internal: false,
            nowait: false,
            arguments: FieldTable::default(),
        };
        let method = AMQPClass::Exchange(exchange::AMQPMethod::Declare(declare));
        self.request("exchange.declare", method).await.map(drop)
    }

    /// Declares a queue; one that is there already must be the same (else 406), and not exclusive to another
    /// connection (else 405).
    pub async fn queue_declare(&self, declare: QueueDeclare) -> Result<QueueDeclared, Error> {
        let declare = queue::Declare {
            queue: short(&declare.name)?,
            passive: declare.passive,
            durable: declare.durable,
            exclusive: declare.exclusive,
            auto_delete: declare.auto_delete,
            nowait: false,
            arguments: declare.arguments,
        };
        let method = AMQPClass::Queue(queue::AMQPMethod::Declare(declare));
        match self.request("queue.declare", method).await? {
            AMQPClass::Queue(queue::AMQPMethod::DeclareOk(ok)) => Ok(QueueDeclared {
                name: ok.queue.to_string(),
                messages: ok.message_count,
                consumers: ok.consumer_count,
            }),
            other => Err(Error::Protocol(format!("{other:?} in place of queue.declare-ok"))),
        }
    }

    /// Binds a queue to an exchange.
    pub async fn queue_bind(&self, queue: &str, exchange: &str, routing_key: &str) -> Result<(), Error> {
        let bind = queue::Bind {
            queue: short(queue)?,
            exchange: short(exchange)?,
            routing_key: short(routing_key)?,
            nowait: false,
            arguments: FieldTable::default(),
        };
        self.request("queue.bind", AMQPClass::Queue(queue::AMQPMethod::Bind(bind))).await.map(drop)
    }

    /// Has the broker confirm what is published here; once, before the first [`Channel::publish`].
    pub async fn confirm_select(&self) -> Result<(), Error> {
        let method = AMQPClass::Confirm(confirm::AMQPMethod::Select(confirm::Select { nowait: false }));
        self.request("confirm.select", method).await?;
        self.inner.confirms.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Publishes and waits for the confirm, [`Options::confirm_timeout`] at most.
    ///
    /// # Errors
    /// [`Error::Unconfirmed`] and whatever ends the channel or the connection: the message may or may not be there.
    /// [`Error::Blocked`] and [`Error::Invalid`]: nothing was sent.
    pub async fn publish(&self, message: Message) -> Result<Outcome, Error> {
        self.still_open()?;
        if !self.inner.confirms.load(Ordering::Relaxed) {
            return Err(Error::Invalid("publishing needs confirm_select".into()));
        }
        if let Some(reason) = self.inner.shared.state.borrow().blocked.clone() {
            return Err(Error::Blocked(reason));
        }
        let method = basic::Publish {
            exchange: short(&message.exchange)?,
            routing_key: short(&message.routing_key)?,
            mandatory: message.mandatory,
            immediate: false,
        };
        let mut properties = BasicProperties::default();
        if message.persistent {
            properties = properties.with_delivery_mode(PERSISTENT);
        }
        let properties = Box::new(properties);
        let publishing = async {
            let permit = self.inner.publishes.clone().acquire_owned().await.map_err(|_| self.reason())?;
            let (reply, outcome) = oneshot::channel();
            let publishing = Publishing { reply, returned: None, permit };
            let key = self.inner.key;
            self.send(Command::Publish { key, method, properties, body: message.body, publishing }).await?;
            outcome.await.map_err(|_| self.reason())
        };
        timeout(self.inner.options.confirm_timeout, publishing).await.unwrap_or(Err(Error::Unconfirmed))
    }

    /// Consumes from a queue; `prefetch` deliveries at most are unacknowledged, so no more than these wait here.
    pub async fn consume(&self, queue: &str, prefetch: NonZeroU16) -> Result<Consumer, Error> {
        let qos = basic::Qos { prefetch_count: prefetch.get(), global: false };
        let qos = AMQPClass::Basic(basic::AMQPMethod::Qos(qos));
        let number = self.inner.consumers.fetch_add(1, Ordering::Relaxed) + 1;
        let tag = format!("consumer-{number}");
        let (sender, deliveries) = mpsc::channel(prefetch.get().into());
        let life = Arc::new(Life::default());
        let sink = ConsumerSink { tag: tag.clone(), deliveries: sender, life: life.clone() };
        let consume = basic::Consume {
            queue: short(queue)?,
            consumer_tag: short(&tag)?,
            no_local: false,
            no_ack: false,
            exclusive: false,
            nowait: false,
            arguments: FieldTable::default(),
        };
        let consume = AMQPClass::Basic(basic::AMQPMethod::Consume(consume));
        let requests = async {
            self.exchange(qos, None).await?;
            self.exchange(consume, Some(sink)).await
        };
        self.in_turn("basic.consume", requests).await?;
        Ok(Consumer { tag, channel: self.clone(), deliveries, life })
    }

    /// Acknowledges a delivery. Returns when it is on its way; a tag that the broker does not know closes the channel
    /// (406) some time later.
    pub async fn ack(&self, delivery_tag: u64) -> Result<(), Error> {
        let ack = basic::Ack { delivery_tag, multiple: false };
        self.send_only("basic.ack", AMQPClass::Basic(basic::AMQPMethod::Ack(ack))).await
    }

    /// Refuses a delivery: it goes back to its place in the queue, or is dropped. Otherwise as [`Channel::ack`].
    pub async fn nack(&self, delivery_tag: u64, requeue: bool) -> Result<(), Error> {
        let nack = basic::Nack { delivery_tag, multiple: false, requeue };
        self.send_only("basic.nack", AMQPClass::Basic(basic::AMQPMethod::Nack(nack))).await
    }

    /// Closes the channel, after everything that was handed over before. What is unacknowledged goes back.
    pub async fn close(&self) -> Result<(), Error> {
        let close = channel::Close { reply_code: 200, reply_text: short("bye")?, class_id: 0, method_id: 0 };
        let method = AMQPClass::Channel(channel::AMQPMethod::Close(close));
        self.request("channel.close", method).await.map(drop)
    }

    async fn request(&self, what: &'static str, method: AMQPClass) -> Result<AMQPClass, Error> {
        self.in_turn(what, self.exchange(method, None)).await
    }

    /// Bounds requests between which nobody else's may come.
    async fn in_turn<T>(
        &self,
        what: &'static str,
        requests: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        self.still_open()?;
        let requests = async {
            let _turn = self.inner.requests.lock().await;
            requests.await
        };
        self.inner.shared.bound(&self.inner.options, what, requests).await
    }

    async fn exchange(&self, method: AMQPClass, sink: Option<ConsumerSink>) -> Result<AMQPClass, Error> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Request { key: self.inner.key, method, sink, reply }).await?;
        answer.await.map_err(|_| self.reason())
    }

    async fn send_only(&self, what: &'static str, method: AMQPClass) -> Result<(), Error> {
        self.still_open()?;
        let telling = self.send(Command::Send { key: self.inner.key, method });
        self.inner.shared.bound(&self.inner.options, what, telling).await
    }

    async fn send(&self, command: Command) -> Result<(), Error> {
        self.inner.commands.send(command).await.map_err(|_| self.reason())
    }

    fn still_open(&self) -> Result<(), Error> {
        self.ended().map_or(Ok(()), Err)
    }

    fn reason(&self) -> Error {
        self.inner.life.reason(&self.inner.shared)
    }
}

/// The deliveries of one queue, in order. Dropping it leaves the consumer in place and its deliveries unacknowledged:
/// cancel it, or end its channel.
#[derive(Debug)]
pub struct Consumer {
    tag: String,
    channel: Channel,
    deliveries: mpsc::Receiver<Delivery>,
    life: Arc<Life>,
}

impl Consumer {
    /// The next delivery; waits for as long as it takes. Safe to drop.
    ///
    /// # Errors
    /// After the last delivery, why no more will come: [`Error::Cancelled`] by the broker, [`Error::Closed`] by
    /// ourselves, or the end of the channel or connection.
    pub async fn next(&mut self) -> Result<Delivery, Error> {
        match self.deliveries.recv().await {
            Some(delivery) => Ok(delivery),
            None => Err(self.life.ended().unwrap_or_else(|| self.channel.reason())),
        }
    }

    /// Tells the broker to deliver no more. What was delivered before can still be read and acknowledged.
    pub async fn cancel(&self) -> Result<(), Error> {
        let cancel = basic::Cancel { consumer_tag: short(&self.tag)?, nowait: false };
        let method = AMQPClass::Basic(basic::AMQPMethod::Cancel(cancel));
        self.channel.request("basic.cancel", method).await.map(drop)
    }
}
