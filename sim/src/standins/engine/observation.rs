//! What the container engine shows of itself: what becomes of containers.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use crate::standins::observation::Observed;

/// What the container engine did or saw. `id` and `name` are the container's.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // `peer` is the connection's other end
pub enum Engine {
    /// A client created it.
    Created { peer: SocketAddr, id: String, name: String, labels: BTreeMap<String, String> },
    /// A client started it: from here on it is this process.
    Started { peer: SocketAddr, id: String, name: String, process: String },
    /// The container ended because a client had stopped it.
    Stopped { peer: SocketAddr, id: String, name: String },
    /// The container ended by itself or was killed.
    Exited { id: String, name: String, code: i32 },
    /// A client removed it.
    Removed { peer: SocketAddr, id: String, name: String },
    /// The container was asked for its `/health`. No `status`: it did not answer, or not in time.
    Probed { id: String, name: String, process: String, status: Option<u16>, body: String, took: Duration },
}

impl Observed for Engine {
    fn peer(&self) -> Option<SocketAddr> {
        match self {
            Engine::Created { peer, .. }
            | Engine::Started { peer, .. }
            | Engine::Stopped { peer, .. }
            | Engine::Removed { peer, .. } => Some(*peer),
            Engine::Exited { .. } | Engine::Probed { .. } => None,
        }
    }
}
