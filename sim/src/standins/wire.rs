//! What passes between a client and a real server, read on the way. Its one law: it is loud: bytes that it cannot read
//! end the run, they are never skipped.

use std::net::SocketAddr;

use crate::standins::observation::Observation;

/// What was made of some bytes; an error says what cannot be read.
pub type Heard = Result<Vec<Observation>, String>;

/// One connection.
pub trait Wire: Send {
    /// The relay is about to send this to the server.
    fn up(&mut self, bytes: &[u8]) -> Heard;
    /// The server has sent this.
    fn down(&mut self, bytes: &[u8]) -> Heard;
    /// Nothing more is sent to the server.
    fn over(&mut self) -> Heard;
}

/// Reads the connections to one real server: makes of the address that stands for a client the reader of its connection.
pub type ServerTap = Box<dyn FnMut(SocketAddr) -> Box<dyn Wire> + Send>;
