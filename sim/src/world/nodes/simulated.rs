//! Where a simulated world stands: a node and an address of its own for everything in it.

use std::net::{IpAddr, Ipv4Addr};

use madsim::runtime::Handle;
pub(crate) use madsim::runtime::NodeHandle;
pub(crate) use madsim::task::NodeId;
pub(crate) use madsim::time::TimeHandle;

/// Handles out nodes and addresses, in the order of asking.
pub(crate) struct NodeAllocator {
    world: Handle,
    nodes: u16,
}

impl NodeAllocator {
    pub(crate) fn new() -> NodeAllocator {
        NodeAllocator { world: Handle::current(), nodes: 0 }
    }

    pub(crate) fn node(&mut self, name: &str) -> (NodeHandle, IpAddr) {
        self.nodes += 1;
        let [high, low] = self.nodes.to_be_bytes();
        let ip = IpAddr::V4(Ipv4Addr::new(10, 0, high, low));
        (self.world.create_node().name(name).ip(ip).build(), ip)
    }
}
