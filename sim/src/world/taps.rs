//! Who listens in on which connection: one ear for each connection to a real server. Its one law: an ear changes nothing.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};

use crate::link::Link;
use crate::standins::wire::{self, Wire};
use crate::standins::{postgres, rabbit, redis};
use crate::trace::event::ProductEvent;
use crate::world::dispatcher::Dispatcher;
use crate::world::product::Boot;

/// A real server in a stand-in's place.
#[derive(Clone, Copy, Debug)]
pub struct RealServer {
    pub(crate) addr: SocketAddr,
    pub(crate) speaks: Speaks,
}

/// What is spoken on the way to it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Speaks {
    Redis,
    Postgres,
    RabbitMq,
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
    /// What connections to the same server know of each other, by service.
    redis: BTreeMap<String, Arc<Mutex<redis::tap::Shared>>>,
    rabbit: BTreeMap<String, Arc<Mutex<rabbit::tap::Shared>>>,
}

impl RealWorld {
    pub(crate) fn new(servers: BTreeMap<&'static str, RealServer>, command: CommandLine) -> RealWorld {
        RealWorld { servers, command, ears: Mutex::default() }
    }
}

impl<O: ProductEvent> Dispatcher<O> {
    /// A connection was opened through a link.
    pub(crate) fn opened(&self, link: &Link, conn: u32, incarnation: u32) {
        let Some(server) = self.around.servers.get(link.far.as_str()) else { return };
        let mut ears = self.around.ears.lock().unwrap_or_else(PoisonError::into_inner);
        let ears = &mut *ears;
        ears.count += 1;
        // 0.0.0.0/8 is nobody's: no real connection has it.
        let peer = SocketAddr::from((Ipv4Addr::from_bits(ears.count & 0x00ff_ffff), 1));
        self.look(|monitor| monitor.dialled(peer, &link.near, incarnation));
        let wire: Box<dyn Wire> = match server.speaks {
            Speaks::Postgres => Box::new(postgres::tap::Postgres::new(peer)),
            Speaks::Redis => {
                let shared = ears.redis.entry(link.far.clone());
                let shared = shared.or_insert_with(|| redis::tap::Shared::new(server.addr));
                Box::new(redis::tap::Redis::new(peer, shared.clone()))
            }
            Speaks::RabbitMq => {
                let shared = ears.rabbit.entry(link.far.clone()).or_default();
                Box::new(rabbit::tap::Rabbit::new(peer, shared.clone()))
            }
        };
        ears.wires.insert((link.name.clone(), conn), wire);
    }

    /// Lets the ear of a connection hear something, and the watch what it makes of it. Says whether there is an ear.
    pub(crate) fn overheard(
        self: &Arc<Self>,
        link: &Link,
        conn: u32,
        hear: impl FnOnce(&mut dyn Wire) -> wire::Heard,
    ) -> bool {
        let heard = {
            let mut ears = self.around.ears.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(wire) = ears.wires.get_mut(&(link.name.clone(), conn)) else { return false };
            hear(&mut **wire)
        };
        match heard {
            Ok(observations) => {
                for observation in observations {
                    self.act(|monitor| monitor.observed(&observation));
                }
            }
            Err(why) => self.act(|monitor| monitor.fail(format!("{}, connection {conn}: {why}", link.name))),
        }
        true
    }
}
