//! Where a world outside of the simulation stands: on loopback, with an address of its own for everything in it, so that
//! ports are the ones that the service is known for. Linux answers on all of 127.0.0.0/8 without being asked to.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

/// What the simulation calls a node: here no more than a name for the process that stands there.
pub(crate) type NodeId = u16;

/// Worlds at the same time, of this program or of others: each takes one of these second octets.
const NEIGHBOURHOODS: std::ops::Range<u8> = 64..250;

/// A place to run tasks of the world. They all share the run's one thread, as in the simulation.
#[derive(Clone, Debug)]
pub(crate) struct NodeHandle(NodeId);

impl NodeHandle {
    pub(crate) fn id(&self) -> NodeId {
        self.0
    }

    pub(crate) fn spawn<F>(&self, task: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        tokio::spawn(task)
    }
}

/// Handles out nodes and addresses, in the order of asking.
pub(crate) struct NodeAllocator {
    octet: u8,
    nodes: u16,
}

impl NodeAllocator {
    /// Takes a neighbourhood that nobody lives in.
    pub(crate) fn new() -> NodeAllocator {
        let free = NEIGHBOURHOODS.into_iter().find_map(|octet| {
            let taken = TcpListener::bind((Ipv4Addr::new(127, octet, 0, 1), 1)).or_else(|error| match error.kind() {
                // Port 1 is root's: another user takes another.
                std::io::ErrorKind::PermissionDenied => TcpListener::bind((Ipv4Addr::new(127, octet, 0, 1), 4001)),
                _ => Err(error),
            });
            Some((octet, taken.ok()?))
        });
        let (octet, taken) = free.expect("127.64.0.0 to 127.249.0.0 can be bound: this needs Linux");
        // The process keeps it: what has connected there may linger for a while.
        std::mem::forget(taken);
        NodeAllocator { octet, nodes: 1 }
    }

    pub(crate) fn node(&mut self, _: &str) -> (NodeHandle, IpAddr) {
        self.nodes += 1;
        let [high, low] = self.nodes.to_be_bytes();
        (NodeHandle(self.nodes), IpAddr::V4(Ipv4Addr::new(127, self.octet, high, low)))
    }
}

/// The time since the world began.
pub(crate) struct TimeHandle(Instant);

impl TimeHandle {
    pub(crate) fn current() -> TimeHandle {
        TimeHandle(Instant::now())
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}
