//! The same plan outside of the simulation: processes of the operating system, signals, sockets, servers and seconds.
//!
//! Everything else is the simulation's own: the plan, the relays, the nemesis, the users, the reader, the watch and its
//! invariants. What a stand-in says of itself, a real server's [`wire`] says: the relays on the way to it listen in.
//!
//! Its one law: what cannot be seen on a wire, in a log or in a signal is not claimed. Time is real, so a run is not
//! repeatable to the byte: it has a verdict and a story, and a digest that means nothing.

pub(crate) mod body;
pub(crate) mod ground;
pub mod pace;
mod run;
#[allow(dead_code, missing_docs)]
#[path = "../../tests/conformance/servers/mod.rs"]
pub mod servers;
mod taps;
mod wire;

pub use run::{Elsewhere, Options, run};
pub(crate) use taps::Around;
