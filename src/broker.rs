//! Hints over RabbitMQ: "a run is waiting", "a run shall stop". A hint may be lost, late or doubled without harm; the
//! row in Postgres is what counts.

use std::num::NonZeroU16;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::amqp::{
    Channel, Connection, Consumer, Delivery, Error, ExchangeKind, Message, Options, Outcome, QueueDeclare,
};
use crate::backoff::Backoff;
use crate::config::Address;
use crate::ids::{RunId, SessionId};
use crate::limits;
use crate::socket::Socket;

/// Where runs are announced: a direct exchange and the durable queue that all executors share.
pub const RUNS: &str = "lychgate.runs";
/// Where cancellations are announced: a fan-out to a queue per executor.
pub const CANCELS: &str = "lychgate.cancels";
const KEY: &str = "run";

/// A hint that is not published within this is dropped: the sweep has long been faster.
const HINT_AGE: Duration = Duration::from_secs(60);

/// A hint: a run of a session waits, or is cancelled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hint {
    /// The session.
    pub session: SessionId,
    /// The run.
    pub run: RunId,
}

impl Hint {
    /// Reads a message's body.
    pub fn parse(body: &[u8]) -> Option<Self> {
        serde_json::from_slice(body).ok()
    }

    fn bytes(&self) -> Bytes {
        serde_json::to_vec(self).expect("two strings are JSON").into()
    }
}

/// The topic of a hint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topic {
    /// The run waits: one executor is to claim it.
    Waiting,
    /// The run is cancelled: the executor that works on it is to stop.
    Cancelled,
}

async fn dial(address: &Address, name: &str) -> Result<Connection, Error> {
    let dialled = tokio::time::timeout(limits::CONNECT, Socket::connect(&address.host)).await;
    let stream = dialled
        .map_err(|_| Error::Lost("connecting took too long".into()))?
        .map_err(|error| Error::Lost(error.to_string()))?;
    let options = Options {
        user: address.user.clone(),
        password: address.password.clone(),
        vhost: if address.path.is_empty() { "/".into() } else { address.path.clone() },
        name: name.to_string(),
        heartbeat: limits::BROKER_HEARTBEAT,
        open_timeout: limits::BROKER_CALL,
        request_timeout: limits::BROKER_CALL,
        confirm_timeout: limits::PUBLISH_CONFIRM,
        body_max: limits::HTTP_BODY,
    };
    Connection::open(stream, options).await
}

async fn declare(channel: &Channel) -> Result<(), Error> {
    channel.exchange_declare(RUNS, ExchangeKind::Direct, true).await?;
    channel.exchange_declare(CANCELS, ExchangeKind::Fanout, true).await?;
    channel.queue_declare(QueueDeclare { name: RUNS.into(), durable: true, ..QueueDeclare::default() }).await?;
    channel.queue_bind(RUNS, RUNS, KEY).await
}

/// The sender of hints, for anywhere in the process; a full queue drops them.
#[derive(Clone)]
pub struct Hints(mpsc::Sender<(Instant, Topic, Hint)>);

/// The publisher of hints: a task that sends them to the broker.
pub struct Publisher {
    address: Address,
    name: String,
    hints: mpsc::Receiver<(Instant, Topic, Hint)>,
}

impl Hints {
    /// A sender for the process, and the publisher that it must run.
    pub fn new(address: &Address, name: &str) -> (Hints, Publisher) {
        let (sender, hints) = mpsc::channel(limits::HINTS_QUEUED);
        (Hints(sender), Publisher { address: address.clone(), name: format!("{name} hints"), hints })
    }

    /// Sends a hint, if there is room.
    pub fn send(&self, topic: Topic, session: &SessionId, run: &RunId) {
        let hint = Hint { session: session.clone(), run: run.clone() };
        if self.0.try_send((Instant::now(), topic, hint)).is_err() {
            tracing::warn!(%run, "a hint was dropped: the broker is too slow");
        }
    }
}

impl Publisher {
    /// Publishes hints until every sender is gone, then closes. Redials whenever the connection is lost.
    pub async fn publish(mut self) {
        let mut backoff = Backoff::default();
        let mut next = self.hints.recv().await;
        while next.is_some() {
            match self.publish_while_connected(&mut next, &mut backoff).await {
                Ok(()) => return,
                Err(error) => tracing::warn!(%error, "hints wait for the broker"),
            }
            backoff.wait().await;
        }
    }

    /// Publishes until the last sender is gone. `next` is what an error left unpublished.
    async fn publish_while_connected(
        &mut self,
        next: &mut Option<(Instant, Topic, Hint)>,
        backoff: &mut Backoff,
    ) -> Result<(), Error> {
        let connection = dial(&self.address, &self.name).await?;
        let channel = connection.channel().await?;
        declare(&channel).await?;
        channel.confirm_select().await?;
        while let Some((since, topic, hint)) = next.as_ref() {
            if since.elapsed() < HINT_AGE {
                publish(&channel, *topic, hint).await?;
                backoff.reset();
            }
            *next = tokio::select! {
                next = self.hints.recv() => next,
                // What waits for the next hint is only the connection: learn of its end now, not then.
                error = connection.over() => {
                    *next = self.hints.recv().await;
                    return if next.is_some() { Err(error) } else { Ok(()) };
                }
            };
        }
        connection.close().await
    }
}

async fn publish(channel: &Channel, topic: Topic, hint: &Hint) -> Result<(), Error> {
    let (exchange, routing_key) = match topic {
        Topic::Waiting => (RUNS, KEY),
        Topic::Cancelled => (CANCELS, ""),
    };
    let mandatory = topic == Topic::Waiting;
    let message = Message {
        exchange: exchange.into(),
        routing_key: routing_key.into(),
        body: hint.bytes(),
        mandatory,
        persistent: mandatory,
    };
    match channel.publish(message).await? {
        Outcome::Confirmed => Ok(()),
        Outcome::Nacked => Err(Error::Unconfirmed),
        Outcome::Returned(returned) => {
            tracing::warn!(code = returned.code, "no queue takes hints; declaring it again");
            Err(Error::ChannelClosed { code: returned.code, text: returned.text })
        }
    }
}

/// An executor's line to the broker: deliveries of waiting runs, and news of cancellations.
pub struct HintConsumer {
    connection: Connection,
    channel: Channel,
    runs: Consumer,
    /// Whether it has ended, as [`HintConsumer::stop`] asks: what comes from then on are cancellations.
    runs_ended: bool,
    cancels: Consumer,
}

/// An arrival at a [`HintConsumer`].
pub enum Arrival {
    /// A run is waiting; the delivery is ours until it is settled.
    Waiting {
        /// The run; `None` if the message is no hint.
        hint: Option<Hint>,
        /// Whether an executor may have begun already.
        redelivered: bool,
        /// The delivery, to be settled.
        delivery: Held,
    },
    /// A run shall stop.
    Cancelled(RunId),
}

/// A delivery that is to be acknowledged or given back. Settling one whose connection is lost does nothing: the broker
/// has taken it back already.
pub struct Held {
    channel: Channel,
    tag: u64,
}

impl Held {
    /// Acknowledges the delivery: its run is over, or another owner's.
    pub async fn ack(self) {
        if let Err(error) = self.channel.ack(self.tag).await {
            tracing::debug!(%error, "an acknowledgement was lost; the delivery comes again");
        }
    }

    /// Requeues the delivery: another executor is to have it.
    pub async fn requeue(self) {
        if let Err(error) = self.channel.nack(self.tag, true).await {
            tracing::debug!(%error, "a delivery went back with its connection");
        }
    }
}

impl HintConsumer {
    /// Dials the broker and consumes; at most `slots` deliveries are ours at a time. `word` makes the name of this
    /// process's own queue unique.
    ///
    /// # Errors
    /// The broker's; dial again.
    pub async fn open(address: &Address, name: &str, word: &str, slots: usize) -> Result<Self, Error> {
        let connection = dial(address, name).await?;
        let channel = connection.channel().await?;
        declare(&channel).await?;
        let own = format!("{CANCELS}.{name}.{word}");
        channel.queue_declare(QueueDeclare { name: own.clone(), exclusive: true, ..QueueDeclare::default() }).await?;
        channel.queue_bind(&own, CANCELS, "").await?;
        let prefetch = |n: usize| NonZeroU16::new(u16::try_from(n).unwrap_or(u16::MAX)).unwrap_or(NonZeroU16::MIN);
        let cancels = channel.consume(&own, prefetch(limits::HINTS_QUEUED)).await?;
        let runs = channel.consume(RUNS, prefetch(slots)).await?;
        Ok(HintConsumer { connection, channel, runs, runs_ended: false, cancels })
    }

    /// Waits for the next arrival. After [`HintConsumer::stop`], and after the last run that was on its way:
    /// cancellations alone.
    ///
    /// # Errors
    /// The connection is over: dial again.
    pub async fn next(&mut self) -> Result<Arrival, Error> {
        loop {
            tokio::select! {
                cancelled = self.cancels.next() => return self.cancelled(cancelled?).await,
                waiting = self.runs.next(), if !self.runs_ended => match waiting {
                    Ok(delivery) => return Ok(Arrival::Waiting {
                        hint: Hint::parse(&delivery.body),
                        redelivered: delivery.redelivered,
                        delivery: Held { channel: self.channel.clone(), tag: delivery.delivery_tag },
                    }),
                    // As we asked: whatever else ends it has another reason.
                    Err(Error::Closed) => self.runs_ended = true,
                    Err(error) => return Err(error),
                },
            }
        }
    }

    async fn cancelled(&self, delivery: Delivery) -> Result<Arrival, Error> {
        self.channel.ack(delivery.delivery_tag).await?;
        match Hint::parse(&delivery.body) {
            Some(hint) => Ok(Arrival::Cancelled(hint.run)),
            None => Err(Error::Protocol("a cancellation that is none".into())),
        }
    }

    /// Asks for no more runs. What was delivered before can still be settled.
    ///
    /// # Errors
    /// The connection is over.
    pub async fn stop(&self) -> Result<(), Error> {
        self.runs.cancel().await
    }

    /// Ends the connection after what was settled has been sent.
    ///
    /// # Errors
    /// The connection was lost before.
    pub async fn close(self) -> Result<(), Error> {
        self.connection.close().await
    }

    /// Waits for the end of the connection.
    pub async fn over(&self) -> Error {
        self.connection.over().await
    }
}
