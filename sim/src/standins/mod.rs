//! Stand-ins for the services that a product talks to, each speaking the real protocol to the real clients, and what they
//! share: the listener that they accept from, the clock of their machine, and what they show of themselves.
//!
//! A stand-in of your own lives in your crate: it implements [`StandIn`], and what it shows of itself implements
//! [`observation::Observed`].

pub mod clock;
pub mod container;
#[cfg(feature = "engine")]
pub mod engine;
pub mod faults;
pub mod listener;
pub mod observation;
#[cfg(feature = "postgres")]
pub mod postgres;
pub(crate) mod probe;
#[cfg(feature = "provider")]
pub mod provider;
#[cfg(feature = "rabbitmq")]
pub mod rabbit;
#[cfg(feature = "redis")]
pub mod redis;
pub mod shapes;
#[cfg(not(madsim))]
pub mod wire;

#[cfg(not(madsim))]
use std::net::SocketAddr;

use futures_util::future::BoxFuture;

use self::container::Runner;
use self::listener::Listener;
use self::observation::Tap;
use self::shapes::Shapes;
use crate::plan::Kind;

/// A service that the world runs on a node of its own. The handle is shared: state that outlives a restart of the service is
/// in it.
pub trait StandIn: Send + Sync {
    /// The service's name, as in `executor-1->redis`.
    fn name(&self) -> &'static str;

    /// The port on which it listens.
    fn port(&self) -> u16;

    /// One life of the service: it accepts connections until it is dropped.
    fn serve(&self, listener: Listener, tap: Tap) -> BoxFuture<'static, ()>;

    /// Begins or ends a fault inside of the service.
    ///
    /// # Errors
    /// The service does not know the fault.
    fn control(&self, control: Control) -> Result<(), String> {
        Err(format!("the service {} knows no faults of its own: {control:?}", self.name()))
    }

    /// What tells the shapes of what is said to it, for a service that is compared with a real server.
    fn shapes(&self) -> Option<Box<dyn Shapes>> {
        None
    }

    /// What reads the wire of the real server at `server`, which stands in this one's place; `None` if nothing can.
    #[cfg(not(madsim))]
    fn tap(&self, server: SocketAddr) -> Option<wire::ServerTap> {
        let _ = server;
        None
    }

    /// Says what runs containers from now on. A service that is no container engine gives the runner back.
    ///
    /// # Errors
    /// The runner: this is no container engine.
    fn run_with(&self, runner: Runner) -> Result<(), Runner> {
        Err(runner)
    }
}

/// What a service is told to do: to all, or to the caller who authenticates with a name.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the variants say what the fields are
pub enum Control {
    /// From now on it has this fault.
    Begin(Kind),
    /// The stand-in has no fault of this kind any more.
    End(Kind),
    /// From now on this caller has this fault of it. It takes the place of one of the same kind.
    BeginFor { caller: String, fault: Kind },
    /// This caller has no fault of this kind any more.
    EndFor { caller: String, fault: Kind },
}

impl Control {
    /// Whether the fault begins.
    pub fn begins(&self) -> bool {
        matches!(self, Control::Begin(_) | Control::BeginFor { .. })
    }

    /// The fault.
    pub fn fault(&self) -> &Kind {
        match self {
            Control::Begin(fault) | Control::End(fault) => fault,
            Control::BeginFor { fault, .. } | Control::EndFor { fault, .. } => fault,
        }
    }
}
