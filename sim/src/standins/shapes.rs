//! The shapes of what is said to a service: which command with which options, which script, which statement, which frame;
//! never with what values. Its one law: looking at bytes changes nothing about them.

use std::collections::BTreeSet;

use bytes::BytesMut;

/// The bytes of one direction of a connection that have not been read as whole messages yet.
#[derive(Debug, Default)]
pub struct Lane {
    /// What has arrived.
    pub bytes: BytesMut,
    /// Past what opens a connection: AMQP's header, Postgres's start-up.
    pub open: bool,
    /// Nothing that follows can be read.
    pub lost: bool,
}

/// Reads what is said on the connections to one service, and keeps the shapes of it.
pub trait Shapes: Send {
    /// Takes the next message off `lane`, `up` from the client; `None` if none has arrived whole.
    fn read(&mut self, lane: &mut Lane, up: bool) -> Option<()>;

    /// Every shape that was seen, as `redis XADD MAXLEN ~`, `postgres run.claim`, `amqp < basic.deliver`.
    fn seen(&self) -> BTreeSet<String>;
}
