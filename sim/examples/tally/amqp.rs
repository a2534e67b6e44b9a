//! A small AMQP 0-9-1 client: one durable queue, one channel, over the frames of `amq-protocol`. The usual clients bring
//! threads and sockets of their own, which no simulated runtime can give them.
//!
//! Its one law: a connection that answers late or oddly is an error, and whoever holds it opens another one. Nothing is
//! lost by that: RabbitMQ hands out again whatever was not acknowledged.

use std::fmt::Debug;
use std::io::{Error, ErrorKind, Result};
use std::net::SocketAddr;
use std::time::Duration;

use amq_protocol::frame::{AMQPContentHeader, AMQPFrame, ProtocolVersion, WriteContext, gen_frame, parse_frame};
use amq_protocol::protocol::{AMQPClass, BasicProperties, basic, channel, confirm, connection, queue};
use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A healthy broker answers within milliseconds.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// The largest frame, in bytes: RabbitMQ's default. Orders are far smaller.
const FRAME_MAX: u32 = 131_072;
/// Type, channel and size before a frame's payload, the end marker after it.
const OVERHEAD: usize = 8;
/// The class of messages.
const BASIC: u16 = 60;
/// The one channel.
const CHANNEL: u16 = 1;
/// The one queue.
const QUEUE: &str = "orders";

/// A message that is ours until it is acknowledged or the connection ends.
pub struct Delivery {
    pub tag: u64,
    pub body: Vec<u8>,
}

/// An open connection with the queue declared on it.
pub struct Connection {
    stream: TcpStream,
    inbox: BytesMut,
}

impl Connection {
    /// Connects, logs in as `guest` and declares the queue.
    pub async fn open(broker: SocketAddr) -> Result<Connection> {
        within(async {
            let mut connection = Connection { stream: TcpStream::connect(broker).await?, inbox: BytesMut::new() };
            connection.shake().await?;
            let declare = queue::Declare { queue: QUEUE.into(), durable: true, ..Default::default() };
            connection.ask(AMQPClass::Queue(queue::AMQPMethod::Declare(declare))).await?;
            connection.ask(AMQPClass::Confirm(confirm::AMQPMethod::Select(confirm::Select { nowait: false }))).await?;
            Ok(connection)
        })
        .await
    }

    async fn shake(&mut self) -> Result<()> {
        self.send(&[AMQPFrame::ProtocolHeader(ProtocolVersion::amqp_0_9_1())]).await?;
        self.method().await?; // start: which mechanisms it has; all have PLAIN
        let start_ok = connection::StartOk {
            client_properties: Default::default(),
            mechanism: "PLAIN".into(),
            response: "\0guest\0guest".into(),
            locale: "en_US".into(),
        };
        // No heartbeats: a worker that hears nothing for a while opens another connection, and that is enough here.
        let tune_ok = connection::TuneOk { channel_max: CHANNEL, frame_max: FRAME_MAX, heartbeat: 0 };
        let open = connection::Open { virtual_host: "/".into() };
        self.send(&[on(0, connection::AMQPMethod::StartOk(start_ok))]).await?;
        self.method().await?; // tune: what it would like
        let tuned = [connection::AMQPMethod::TuneOk(tune_ok), connection::AMQPMethod::Open(open)];
        self.send(&tuned.map(|method| on(0, method))).await?;
        self.method().await?; // open-ok
        self.ask(AMQPClass::Channel(channel::AMQPMethod::Open(channel::Open {}))).await?;
        Ok(())
    }

    /// Publishes a persistent message. It is safe when this returns.
    pub async fn publish(&mut self, body: &[u8]) -> Result<()> {
        let publish = basic::Publish { routing_key: QUEUE.into(), mandatory: true, ..Default::default() };
        let properties = BasicProperties::default().with_delivery_mode(2);
        let header = AMQPContentHeader { class_id: BASIC, body_size: body.len() as u64, properties };
        let frames = [
            AMQPFrame::Method(CHANNEL, AMQPClass::Basic(basic::AMQPMethod::Publish(publish))),
            AMQPFrame::Header(CHANNEL, header),
            AMQPFrame::Body(CHANNEL, body.to_vec()),
        ];
        within(async {
            self.send(&frames).await?;
            match self.method().await? {
                AMQPClass::Basic(basic::AMQPMethod::Ack(_)) => Ok(()),
                other => Err(odd("a confirm", &other)),
            }
        })
        .await
    }

    /// From now on [`Connection::next`] gets messages, at most `prefetch` of them unacknowledged.
    pub async fn consume(&mut self, prefetch: u16) -> Result<()> {
        let qos = basic::Qos { prefetch_count: prefetch, global: false };
        let consume = basic::Consume { queue: QUEUE.into(), consumer_tag: "tally".into(), ..Default::default() };
        within(async {
            self.ask(AMQPClass::Basic(basic::AMQPMethod::Qos(qos))).await?;
            self.ask(AMQPClass::Basic(basic::AMQPMethod::Consume(consume))).await?;
            Ok(())
        })
        .await
    }

    /// Waits for the next message, as long as the caller lets it.
    pub async fn next(&mut self) -> Result<Delivery> {
        let tag = match self.method().await? {
            AMQPClass::Basic(basic::AMQPMethod::Deliver(deliver)) => deliver.delivery_tag,
            other => return Err(odd("a delivery", &other)),
        };
        let size = match self.frame().await? {
            AMQPFrame::Header(_, header) => header.body_size,
            other => return Err(odd("a message's header", &other)),
        };
        let mut body = Vec::new();
        while (body.len() as u64) < size {
            match self.frame().await? {
                AMQPFrame::Body(_, part) => body.extend(part),
                other => return Err(odd("a message's body", &other)),
            }
        }
        Ok(Delivery { tag, body })
    }

    /// Gives the message back as done. There is no answer; if this is lost, the message comes again.
    pub async fn ack(&mut self, tag: u64) -> Result<()> {
        let ack = basic::AMQPMethod::Ack(basic::Ack { delivery_tag: tag, multiple: false });
        within(self.send(&[AMQPFrame::Method(CHANNEL, AMQPClass::Basic(ack))])).await
    }

    /// Sends a method and waits for its answer, which is good unless it closes something.
    async fn ask(&mut self, method: AMQPClass) -> Result<AMQPClass> {
        self.send(&[AMQPFrame::Method(CHANNEL, method)]).await?;
        self.method().await
    }

    async fn send(&mut self, frames: &[AMQPFrame]) -> Result<()> {
        let mut bytes = Vec::new();
        for frame in frames {
            let written = gen_frame(frame)(WriteContext::from(bytes)).map_err(Error::other)?;
            bytes = written.into_inner().0;
        }
        self.stream.write_all(&bytes).await?;
        self.stream.flush().await
    }

    async fn method(&mut self) -> Result<AMQPClass> {
        match self.frame().await? {
            AMQPFrame::Method(_, AMQPClass::Connection(connection::AMQPMethod::Close(close))) => {
                Err(odd("an answer", &close))
            }
            AMQPFrame::Method(_, AMQPClass::Channel(channel::AMQPMethod::Close(close))) => {
                Err(odd("an answer", &close))
            }
            AMQPFrame::Method(_, method) => Ok(method),
            other => Err(odd("a method", &other)),
        }
    }

    async fn frame(&mut self) -> Result<AMQPFrame> {
        loop {
            let size =
                self.inbox.get(3..7).map(|size| u32::from_be_bytes(size.try_into().expect("four bytes")) as usize);
            match size {
                Some(size) if size + OVERHEAD > FRAME_MAX as usize => return Err(odd("a frame", &size)),
                Some(size) if self.inbox.len() >= size + OVERHEAD => {
                    let (_, frame) =
                        parse_frame(&self.inbox[..size + OVERHEAD]).map_err(|error| odd("a frame", &error))?;
                    self.inbox.advance(size + OVERHEAD);
                    return Ok(frame);
                }
                _ if self.stream.read_buf(&mut self.inbox).await? == 0 => return Err(ErrorKind::UnexpectedEof.into()),
                _ => {}
            }
        }
    }
}

fn on(channel: u16, method: connection::AMQPMethod) -> AMQPFrame {
    AMQPFrame::Method(channel, AMQPClass::Connection(method))
}

fn odd(wanted: &str, got: &dyn Debug) -> Error {
    Error::other(format!("{got:?} in place of {wanted}"))
}

async fn within<T>(answer: impl Future<Output = Result<T>>) -> Result<T> {
    timeout(ANSWER_MAX, answer).await.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()))
}
