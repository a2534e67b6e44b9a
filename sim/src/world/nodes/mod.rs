//! Places for the parts of a world: nodes of the simulation, or addresses of loopback.

#[cfg(not(madsim))]
mod real;
#[cfg(madsim)]
mod simulated;

#[cfg(not(madsim))]
pub(crate) use real::{NodeAllocator, NodeHandle, NodeId, TimeHandle};
#[cfg(madsim)]
pub(crate) use simulated::{NodeAllocator, NodeHandle, NodeId, TimeHandle};
