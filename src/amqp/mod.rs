//! A small AMQP 0-9-1 client over any byte stream, for RabbitMQ.
//!
//! The law: **every wait ends, and every end has a reason.** A request that is not answered in time ends the
//! connection, because nobody could tell what its late answer belongs to; a connection that ends tells the same
//! [`Error`] to everyone who waits on it. It never redials: a caller that sees [`Error::is_over`] opens another stream.
//!
//! Start with [`Connection::open`], then [`Connection::channel`]; one channel for publishing, one for consuming.
//! `handshake` opens, `driver` owns the socket and its clocks, `dialogue` is what the frames mean (no I/O),
//! `codec` is bytes, `channel` and `connection` are the handles. It depends on nothing else in this package.

mod channel;
mod codec;
mod connection;
mod dialogue;
mod driver;
mod error;
mod handshake;

use std::time::Duration;

pub use amq_protocol::types::{AMQPValue, FieldTable, ShortString};

pub use channel::{Channel, Consumer, Delivery, ExchangeKind, Message, Outcome, QueueDeclare, QueueDeclared, Returned};
pub use connection::Connection;
pub use error::Error;

/// The parameters of a connection, and how long anything on it may take.
#[derive(Clone, Debug)]
pub struct Options {
    /// For PLAIN.
    pub user: String,
    /// For PLAIN.
    pub password: String,
    /// RabbitMQ's own is `/`.
    pub vhost: String,
    /// Shown in RabbitMQ's list of connections.
    pub name: String,
    /// The heartbeat that we ask for, in whole seconds; the smaller of this and the server's offer holds, zero follows
    /// the server. A peer that was silent for twice as long is dead.
    pub heartbeat: Duration,
    /// The whole handshake.
    pub open_timeout: Duration,
    /// From a request to its answer, and for handing anything to the driver.
    pub request_timeout: Duration,
    /// From a publish to its confirm, the wait for a free place included.
    pub confirm_timeout: Duration,
    /// The largest message that is accepted from the server, in bytes.
    pub body_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            user: "guest".into(),
            password: "guest".into(),
            vhost: "/".into(),
            name: String::new(),
            heartbeat: Duration::from_secs(30),
            open_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(10),
            confirm_timeout: Duration::from_secs(10),
            body_max: 1 << 20,
        }
    }
}

/// Publishes of one channel that may wait for their confirms; the next one waits for a place.
pub const PUBLISHES_MAX: usize = 256;
