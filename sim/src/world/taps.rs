//! Who listens in on which connection: one ear for each connection to a real server. Its one law: an ear changes nothing.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::link::Link;
use crate::standins::StandIn;
use crate::standins::wire::{self, ServerTap, Wire};
use crate::trace::event::ProductEvent;
use crate::world::dispatcher::Dispatcher;
use crate::world::product::Boot;

/// A real server in a stand-in's place.
#[derive(Clone, Copy, Debug)]
pub struct RealServer {
    /// Where it listens.
    pub addr: SocketAddr,
}

type CommandLine = Box<dyn Fn(&Boot) -> Command + Send + Sync>;

/// What a world outside of the simulation is built around.
pub(crate) struct RealWorld {
    pub(crate) servers: BTreeMap<&'static str, RealServer>,
    pub(crate) command: CommandLine,
    ears: Mutex<WireTaps>,
}

#[derive(Default)]
struct WireTaps {
    /// By link and connection.
    wires: BTreeMap<(String, u32), Box<dyn Wire>>,
    /// How many there have been: each has an address of its own that nobody else can have.
    count: u32,
    /// What reads the connections to each server, by service.
    servers: BTreeMap<&'static str, ServerTap>,
}

impl RealWorld {
    pub(crate) fn new(servers: BTreeMap<&'static str, RealServer>, command: CommandLine) -> RealWorld {
        RealWorld { servers, command, ears: Mutex::default() }
    }

    /// The connections to the server of a service are read as its stand-in says.
    pub(crate) fn tap(&self, service: &'static str, standin: &dyn StandIn, server: SocketAddr) {
        let tap = standin.tap(server).unwrap_or_else(|| panic!("nothing reads the wire of a real {service}"));
        self.ears().servers.insert(service, tap);
    }

    fn ears(&self) -> MutexGuard<'_, WireTaps> {
        self.ears.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<O: ProductEvent> Dispatcher<O> {
    /// A connection was opened through a link.
    pub(crate) fn opened(&self, link: &Link, conn: u32, incarnation: u32) {
        let mut ears = self.around.ears();
        let ears = &mut *ears;
        let Some(tap) = ears.servers.get_mut(link.far.as_str()) else { return };
        ears.count += 1;
        // 0.0.0.0/8 is nobody's: no real connection has it.
        let peer = SocketAddr::from((Ipv4Addr::from_bits(ears.count & 0x00ff_ffff), 1));
        self.look(|monitor| monitor.dialled(peer, &link.near, incarnation));
        let wire = tap(peer);
        ears.wires.insert((link.name.clone(), conn), wire);
    }

    /// Lets the ear of a connection hear something, and the monitor what it makes of it. Says whether there is an ear.
    pub(crate) fn overheard(
        self: &Arc<Self>,
        link: &Link,
        conn: u32,
        hear: impl FnOnce(&mut dyn Wire) -> wire::Heard,
    ) -> bool {
        let heard = {
            let mut ears = self.around.ears();
            let Some(wire) = ears.wires.get_mut(&(link.name.clone(), conn)) else { return false };
            hear(&mut **wire)
        };
        match heard {
            Ok(observations) => {
                let service = self.around.servers.keys().find(|service| **service == link.far).copied();
                for observation in observations {
                    let observation = observation.at(service.unwrap_or_default());
                    self.act(|monitor| monitor.observed(&observation));
                }
            }
            Err(why) => self.act(|monitor| monitor.fail(format!("{}, connection {conn}: {why}", link.name))),
        }
        true
    }
}
