//! The same plan outside of the simulation: processes of the operating system, signals, sockets, servers and seconds.
//!
//! Everything else is the simulation's own: the plan, the relays, the nemesis, the users, the reader, the monitor and its
//! invariants. What a stand-in says of itself is read off the wire to a real server: the relays on the way listen in.
//!
//! Its one law: what cannot be seen on a wire, in a log or in a signal is not claimed. Time is real, so a run is not
//! repeatable to the byte: it has a verdict and a story, and a digest that means nothing.

pub mod programs;
#[cfg(not(madsim))]
mod run;
pub mod servers;
#[cfg(not(madsim))]
pub mod time_scale;

#[cfg(not(madsim))]
pub use crate::world::taps::RealServer;
#[cfg(not(madsim))]
pub use run::{Options, run};
