//! From a fresh stream to an open connection: header, start, tune, open. Nothing is negotiated later.

use std::time::Duration;

use amq_protocol::frame::{AMQPFrame, ProtocolVersion};
use amq_protocol::protocol::{AMQPClass, connection};
use amq_protocol::types::{AMQPValue, FieldTable};
use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::Options;
use super::codec::{FRAME_MAX, Outbox, next_frame, short};
use super::error::Error;

/// We use a handful; this is RabbitMQ's own default.
const CHANNEL_MAX: u16 = 2047;
/// The smallest frame_max that AMQP allows a peer to insist on, in bytes.
const FRAME_MIN: u32 = 4096;

/// The parameters that both sides agreed on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tuned {
    pub(super) channel_max: u16,
    pub(super) frame_max: u32,
    /// Zero: none.
    pub(super) heartbeat: Duration,
}

/// Opens the connection. Returns what was agreed and bytes that were read beyond it.
pub(super) async fn shake<S>(stream: &mut S, options: &Options) -> Result<(Tuned, BytesMut), Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut wire = Wire { stream, inbox: BytesMut::new() };
    wire.send(&[AMQPFrame::ProtocolHeader(ProtocolVersion::amqp_0_9_1())]).await?;
    match wire.receive().await? {
        connection::AMQPMethod::Start(start) => check(&start)?,
        other => return Err(unexpected("connection.start", &other)),
    }
    wire.send(&[method(connection::AMQPMethod::StartOk(start_ok(options)?))]).await?;
    let tuned = match wire.receive().await? {
        connection::AMQPMethod::Tune(tune) => agree(&tune, options)?,
        other => return Err(unexpected("connection.tune", &other)),
    };
    let tune_ok = connection::TuneOk {
        channel_max: tuned.channel_max,
        frame_max: tuned.frame_max,
        heartbeat: tuned.heartbeat.as_secs() as u16,
    };
    let open = connection::Open { virtual_host: short(&options.vhost)? };
    wire.send(&[method(connection::AMQPMethod::TuneOk(tune_ok)), method(connection::AMQPMethod::Open(open))]).await?;
    match wire.receive().await? {
        connection::AMQPMethod::OpenOk(_) => Ok((tuned, wire.inbox)),
        other => Err(unexpected("connection.open-ok", &other)),
    }
}

struct Wire<'a, S> {
    stream: &'a mut S,
    inbox: BytesMut,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<'_, S> {
    async fn send(&mut self, frames: &[AMQPFrame]) -> Result<(), Error> {
        let mut outbox = Outbox::default();
        for frame in frames {
            outbox.frame(frame)?;
        }
        let lost = |error: std::io::Error| Error::Lost(error.to_string());
        self.stream.write_all(outbox.waiting()).await.map_err(lost)?;
        self.stream.flush().await.map_err(lost)
    }

    /// The next method of the connection itself. A close is answered and returned as the error it is.
    async fn receive(&mut self) -> Result<connection::AMQPMethod, Error> {
        loop {
            match next_frame(&mut self.inbox, FRAME_MAX)? {
                Some(AMQPFrame::Heartbeat) => {}
                Some(AMQPFrame::Method(0, AMQPClass::Connection(connection::AMQPMethod::Close(close)))) => {
                    // It has hung up already if this fails: the reason is known all the same.
                    let _ = self.send(&[method(connection::AMQPMethod::CloseOk(connection::CloseOk {}))]).await;
                    return Err(Error::ConnectionClosed { code: close.reply_code, text: close.reply_text.to_string() });
                }
                Some(AMQPFrame::Method(0, AMQPClass::Connection(method))) => return Ok(method),
                Some(other) => return Err(Error::Protocol(format!("{other} before the connection is open"))),
                None => match self.stream.read_buf(&mut self.inbox).await {
                    Ok(0) => return Err(Error::Lost("the broker hung up during the handshake".into())),
                    Ok(_) => {}
                    Err(error) => return Err(Error::Lost(error.to_string())),
                },
            }
        }
    }
}

fn method(method: connection::AMQPMethod) -> AMQPFrame {
    AMQPFrame::Method(0, AMQPClass::Connection(method))
}

fn unexpected(wanted: &str, got: &connection::AMQPMethod) -> Error {
    Error::Protocol(format!("{got:?} in place of {wanted}"))
}

fn check(start: &connection::Start) -> Result<(), Error> {
    let mechanisms = start.mechanisms.to_string();
    if !mechanisms.split_ascii_whitespace().any(|mechanism| mechanism == "PLAIN") {
        return Err(Error::Protocol(format!("it offers no PLAIN authentication, only {mechanisms}")));
    }
    Ok(())
}

fn start_ok(options: &Options) -> Result<connection::StartOk, Error> {
    let mut capabilities = FieldTable::default();
    for name in [
        "publisher_confirms",
        "basic.nack",
        "consumer_cancel_notify",
        "authentication_failure_close",
        "connection.blocked",
    ] {
        capabilities.insert(short(name)?, AMQPValue::Boolean(true));
    }
    let mut properties = FieldTable::default();
    properties.insert(short("product")?, AMQPValue::LongString(env!("CARGO_PKG_NAME").into()));
    properties.insert(short("version")?, AMQPValue::LongString(env!("CARGO_PKG_VERSION").into()));
    properties.insert(short("connection_name")?, AMQPValue::LongString(options.name.as_str().into()));
    properties.insert(short("capabilities")?, AMQPValue::FieldTable(capabilities));
    Ok(connection::StartOk {
        client_properties: properties,
        mechanism: short("PLAIN")?,
        response: format!("\0{}\0{}", options.user, options.password).into(),
        locale: short("en_US")?,
    })
}

fn agree(tune: &connection::Tune, options: &Options) -> Result<Tuned, Error> {
    /// Zero means that this side has no wish.
    fn smaller<T: Ord + Default>(ours: T, theirs: T) -> T {
        let none = T::default();
        if ours == none || (theirs != none && theirs < ours) { theirs } else { ours }
    }
    let frame_max = smaller(FRAME_MAX, tune.frame_max);
    if frame_max < FRAME_MIN {
        return Err(Error::Protocol(format!("frames of {frame_max} bytes, AMQP wants {FRAME_MIN}")));
    }
    let ours = u16::try_from(options.heartbeat.as_secs()).unwrap_or(u16::MAX);
    Ok(Tuned {
        channel_max: smaller(CHANNEL_MAX, tune.channel_max),
        frame_max,
        heartbeat: Duration::from_secs(smaller(ours, tune.heartbeat).into()),
    })
}
