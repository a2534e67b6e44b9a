//! The container engine as a stand-in: the part of Docker's API (1.43) that running one container per agent needs.
//!
//! Its law: **what it does not know stops the run**, with a message that names what was asked; it never makes up a
//! polite answer. `store` is what it keeps, `deeds` what requests do to it, `http` the words of requests and answers,
//! `faults` what it does when it is not well, `tending` sees running containers to their end and probes them. What a container *is* it does not know: a [`Runner`]
//! runs it, as a process of the world or as a task on loopback.

mod actions;
pub mod faults;
mod health_checks;
mod http;
pub mod observation;
mod store;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::Notify;

use self::faults::RESTART;
use self::store::Store;
pub use crate::standins::container::{FIRST_PUBLISHED, KILLED, Runner, Running, Spec};
use crate::standins::listener::Listener;
use crate::standins::observation::Tap;
use crate::standins::{Control, StandIn};

/// Where the engine listens: Docker's own port for plain HTTP.
pub const PORT: u16 = 2375;
/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)] // Docker's own words
pub enum Verb {
    Create,
    Start,
    Stop,
    Remove,
    Inspect,
    List,
}

/// How the engine fails a request that it does not carry out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// 500 with this message.
    Refused(String),
    /// 200 with a body that is no JSON, as of a proxy in its place.
    Garbage,
}

/// A container engine. Clones are the same one; containers outlive each [`Engine::serve`].
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

struct Inner {
    runner: OnceLock<Runner>,
    /// Rung when a life of it ends by a fault: what it was about to do remains undone.
    dies: Notify,
    store: Mutex<Store>,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").finish_non_exhaustive()
    }
}

impl Engine {
    /// One without containers. The ids that it mints follow from `entropy`.
    pub fn new(entropy: [u8; 32]) -> Self {
        let store = Mutex::new(Store::new(entropy));
        Engine { inner: Arc::new(Inner { runner: OnceLock::new(), dies: Notify::new(), store }) }
    }

    /// Says what runs containers from now on.
    ///
    /// # Panics
    /// If it has been said.
    pub fn run_with(&self, runner: Runner) {
        assert!(self.inner.runner.set(runner).is_ok(), "a container engine has one runner");
    }

    /// One life of the engine: it tends the containers that run, and serves until it is dropped.
    ///
    /// # Panics
    /// A request that it does not know.
    pub async fn serve(self, listener: impl Into<Listener>, tap: Tap) {
        let running = self.store().begin(tap);
        for (id, start) in running {
            self.tend(id, start);
        }
        let mut listener = listener.into();
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => {
                    tokio::spawn(http::connection(self.clone(), stream, peer));
                }
                Err(error) => tracing::debug!(%error, "the container engine could not accept"),
            }
        }
    }

    /// Something ails it from now on, or no longer.
    ///
    /// # Panics
    /// What a container engine does not suffer from, and what only a service with callers is told.
    pub fn control(&self, control: &Control) {
        match control {
            Control::Begin(fault) => self.store().faults.set(fault, true),
            Control::End(fault) => self.store().faults.set(fault, false),
            other => panic!("the container engine stand-in does not know the fault {other:?}"),
        }
        if matches!(control, Control::Begin(fault) if fault.is(&RESTART)) {
            self.inner.dies.notify_waiters();
        }
    }

    /// Fails the next request of this kind that has not been told to fail yet, without carrying it out.
    pub fn fail_next(&self, verb: Verb, failure: Failure) {
        self.store().failures.entry(verb).or_default().push_back(failure);
    }

    /// The next stop answers this much later than the container's end.
    pub fn slow_stop(&self, extra: Duration) {
        self.store().stop_extra = extra;
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        // A panic under the lock has already ended a simulation; elsewhere it ends the request whose panic it was.
        self.inner.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StandIn for Engine {
    fn name(&self) -> &'static str {
        "engine"
    }

    fn port(&self) -> u16 {
        PORT
    }

    fn serve(&self, listener: Listener, tap: Tap) -> BoxFuture<'static, ()> {
        Box::pin(Engine::serve(self.clone(), listener, tap))
    }

    fn control(&self, control: Control) -> Result<(), String> {
        Engine::control(self, &control);
        Ok(())
    }

    fn run_with(&self, runner: Runner) -> Result<(), Runner> {
        Engine::run_with(self, runner);
        Ok(())
    }
}
