//! Stand-ins for the services that a product talks to, each speaking the real protocol to the real clients, and what they
//! share: the listener that they accept from, the clock of their machine, and what they show of themselves.

pub mod clock;
pub mod engine;
pub mod faults;
pub mod listener;
pub mod observation;
pub mod postgres;
pub(crate) mod probe;
pub mod provider;
pub mod rabbit;
pub mod redis;
#[cfg(not(madsim))]
pub(crate) mod wire;
