//! What Redis shows of itself: commands, their answers, and the keys that they may have written.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;

use crate::standins::observation::Observed;

/// A Redis command and its answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Command {
    /// The connection, as the stand-in sees its other end.
    pub peer: SocketAddr,
    /// The command and its arguments. For a script: `EVALSHA` or `EVAL` as it was sent, with the body in place of the hash.
    pub words: Vec<Bytes>,
    /// The answer as RESP2 bytes.
    pub reply: Bytes,
    /// The keys that it may have written, as they are after it. FLUSHALL names none.
    pub keys: Vec<Key>,
}

/// A key of Redis, as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// The name.
    pub name: Bytes,
    /// How many entries it has: fields of a hash, entries of a stream, 1 for a string; 0 if there is no such key.
    pub entries: usize,
    /// How long it lasts if nobody touches it; for ever, if there is nothing.
    pub ttl: Option<Duration>,
}

impl Observed for Command {
    fn peer(&self) -> Option<SocketAddr> {
        Some(self.peer)
    }
}
