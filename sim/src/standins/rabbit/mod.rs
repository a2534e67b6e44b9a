//! RabbitMQ's stand-in: the part of AMQP 0-9-1 that a work queue and a fan-out need, as RabbitMQ 3.10 does it with classic
//! and quorum queues, delivery limits and dead letters. Streams, expiry, lengths and priorities are not known here.
//!
//! Its law: **what it does not know stops the run**, with a message that names what was asked; it never makes up a
//! polite answer. `core` has no I/O: frames in, effects out. `channel` is methods, `declare` what there is, `queue` who gets
//! what in which order, `settle` how a delivery ends, `timeout` what is not settled, `dead_letter` what is written on one that nobody took. `store` is what
//! it keeps, `wire` bytes, `serve` sockets and heartbeats.

mod channel;
mod core;
mod dead_letter;
mod declare;
pub mod faults;
pub mod observation;
mod queue;
mod serve;
mod settle;
mod shapes;
mod store;
#[cfg(not(madsim))]
pub(crate) mod tap;
mod timeout;
mod version;
mod wire;

use std::fmt;
#[cfg(not(madsim))]
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures_util::future::BoxFuture;

use self::faults::{FOREIGN, FULL, PURGE, RESTART};
use self::shapes::Frames;
use crate::standins::listener::Listener;
use crate::standins::observation::Tap;
use crate::standins::shapes::Shapes;
#[cfg(not(madsim))]
use crate::standins::wire::ServerTap;
use crate::standins::{Control, StandIn};

pub use version::Version;

/// Where RabbitMQ listens.
pub const PORT: u16 = 5672;

/// How the broker is configured.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The release of RabbitMQ.
    pub version: Version,
    /// The only user.
    pub user: String,
    /// The password.
    pub password: String,
    /// The only virtual host.
    pub vhost: String,
    /// What it offers, in whole seconds; zero turns them off.
    pub heartbeat: Duration,
    /// The largest frame, in bytes.
    pub frame_max: u32,
    /// The most channels of a connection.
    pub channel_max: u16,
    /// How long a delivery may stay unacknowledged before its channel is closed. RabbitMQ looks once a minute.
    pub consumer_timeout: Option<Duration>,
}

impl Default for Settings {
    /// RabbitMQ 3.10's own defaults.
    fn default() -> Self {
        Settings {
            version: Version::default(),
            user: "guest".into(),
            password: "guest".into(),
            vhost: "/".into(),
            heartbeat: Duration::from_secs(60),
            frame_max: 131_072,
            channel_max: 2047,
            consumer_timeout: Some(Duration::from_secs(30 * 60)),
        }
    }
}

/// A broker. Clones are the same broker; what it keeps on disk outlives each [`Rabbit::serve`].
#[derive(Clone)]
pub struct Rabbit {
    inner: Arc<Mutex<serve::Inner>>,
}

impl fmt::Debug for Rabbit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rabbit").finish_non_exhaustive()
    }
}

impl Rabbit {
    /// An empty broker.
    pub fn new(settings: Settings) -> Self {
        Rabbit { inner: Arc::new(Mutex::new(serve::Inner::new(settings))) }
    }

    /// One life of the broker. It begins with what the last one left on disk: durable exchanges and queues, and the
    /// persistent messages in them.
    pub async fn serve(self, listener: impl Into<Listener>, tap: Tap) {
        serve::accept(self.inner, listener.into(), tap).await;
    }

    /// The broker takes no messages from now on (out of memory or disk). It says so to publishers, and reads nothing more
    /// from there: acknowledgements wait as well.
    pub fn block(&self, reason: &str) {
        self.lock().core.block(reason);
    }

    /// The broker takes messages again, those first that were held back.
    pub fn unblock(&self) {
        self.lock().act(core::Core::unblock);
    }

    /// Does to it what a fault wants.
    ///
    /// # Panics
    /// What RabbitMQ does not suffer from.
    pub fn control(&self, control: Control) {
        match control {
            // Its next life knows what it has on disk.
            Control::Begin(fault) if fault.is(&RESTART) => {}
            // The reason that RabbitMQ gives when its memory alarm goes off.
            Control::Begin(fault) if fault.is(&FULL) => self.block("low on memory"),
            Control::End(fault) if fault.is(&FULL) => self.unblock(),
            Control::Begin(fault) if fault.is(&PURGE) => self.lock().act(core::Core::purge_all),
            Control::Begin(fault) if fault.is(&FOREIGN) => self.lock().act(core::Core::put_foreign),
            Control::End(_) => {}
            other => panic!("the RabbitMQ stand-in does not know the fault {other:?}"),
        }
    }

    /// An operator deletes a queue: its consumers are cancelled.
    ///
    /// # Panics
    /// If there is none of that name.
    pub fn delete_queue(&self, name: &str) {
        self.lock().act(|core, out| core.delete_queue(name, out));
    }

    /// An operator purges a queue: what is ready is gone, what is unacknowledged stays.
    ///
    /// # Panics
    /// If there is none of that name.
    pub fn purge_queue(&self, name: &str) {
        self.lock().act(|core, _| core.purge_queue(name));
    }

    /// What SIGTERM makes it do: every connection is closed with 320, and the next life knows what had been delivered
    /// (after a crash everything counts as redelivered). Its node still has to be killed.
    pub fn shut_down(&self) {
        self.lock().act(core::Core::shut_down);
    }

    /// Messages that are ready in a queue; `None` if there is none of that name.
    pub fn ready(&self, queue: &str) -> Option<usize> {
        self.lock().core.ready(queue)
    }

    /// Deliveries that are unacknowledged, over all connections.
    pub fn unacked(&self) -> usize {
        self.lock().core.unacked()
    }

    /// Connections that it believes to be alive.
    pub fn connections(&self) -> usize {
        self.lock().core.connections()
    }

    fn lock(&self) -> MutexGuard<'_, serve::Inner> {
        serve::lock(&self.inner)
    }
}

impl StandIn for Rabbit {
    fn name(&self) -> &'static str {
        "rabbitmq"
    }

    fn port(&self) -> u16 {
        PORT
    }

    fn serve(&self, listener: Listener, tap: Tap) -> BoxFuture<'static, ()> {
        Box::pin(Rabbit::serve(self.clone(), listener, tap))
    }

    fn control(&self, control: Control) -> Result<(), String> {
        Rabbit::control(self, control);
        Ok(())
    }

    fn shapes(&self) -> Option<Box<dyn Shapes>> {
        Some(Box::new(Frames::default()))
    }

    #[cfg(not(madsim))]
    fn tap(&self, _: SocketAddr) -> Option<ServerTap> {
        let shared = Arc::<Mutex<tap::Shared>>::default();
        Some(Box::new(move |peer| Box::new(tap::Rabbit::new(peer, shared.clone()))))
    }
}
