//! What a process consists of: a node of the simulation with relays at both ends, or a process of the operating system.

#[cfg(not(madsim))]
mod real;
#[cfg(madsim)]
mod simulated;

#[cfg(not(madsim))]
pub(crate) use real::{BURIAL, ProcessBackend, RunningProcess};
#[cfg(madsim)]
pub(crate) use simulated::{BURIAL, ProcessBackend, RunningProcess};
