//! Redis 7.0 as a stand-in: the commands that are used, the answers of the real one to the byte, and a panic for anything
//! else. Time is tokio's clock, so keys expire in virtual time.

pub mod channels;
mod cluster;
pub mod commands;
pub mod core;
pub mod faults;
pub mod hash;
pub mod keys;
pub mod keyspace;
pub mod observation;
pub mod resp;
pub mod script;
mod server;
mod shapes;
pub mod stream;
pub mod streams;
pub mod strings;
#[cfg(not(madsim))]
pub(crate) mod tap;
mod words;

pub use server::{PORT, Redis};
