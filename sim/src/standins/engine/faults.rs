//! What a container engine does when it is not well.
//!
//! **Slow stop**: the container's first process takes no notice of SIGTERM, as a shell that runs as process 1 does not, so
//! it is killed after the grace; and the kill itself takes its time, as under a busy containerd. **Failed create**: 500,
//! with the text of a full disk (`overlay2` cannot make the container's first layer). **Not ready**: its first process
//! hangs before it listens; the world sees to that. **Stale handle**: Docker shows containers from a replica
//! (`containersReplica`) and changes what stands in its store; updates of the one are "not atomic or consistent w.r.t. the
//! live daemon.containers Store" (moby, `daemon/container.go`, `GetContainer`), and then a container that is shown is
//! denied with 404. None of it can be shown on a real engine at will.

use std::collections::BTreeSet;
use std::time::Duration;

use super::Verb;
use crate::plan::ServiceFault;

/// What ails it.
#[derive(Debug, Default)]
pub(super) struct Faults {
    slow_stop: Option<Duration>,
    failed_create: bool,
    not_ready: bool,
    /// What was denied once already; `None` while nothing is.
    stale: Option<BTreeSet<(Verb, String)>>,
}

impl Faults {
    /// Begins or ends.
    ///
    /// # Panics
    /// What a container engine does not suffer from.
    pub fn set(&mut self, ailment: ServiceFault, on: bool) {
        match ailment {
            ServiceFault::SlowStop { by } => self.slow_stop = on.then_some(by),
            ServiceFault::FailedCreate => self.failed_create = on,
            ServiceFault::NotReady => self.not_ready = on,
            ServiceFault::StaleHandle => self.stale = on.then(BTreeSet::new),
            // Its containers live on, and so does what it knows of them.
            ServiceFault::Restart => {}
            other => panic!("the container engine stand-in does not know the fault {}", other.name()),
        }
    }

    /// How long after its grace a container is killed that does not hear that it is stopped.
    pub fn slow_stop(&self) -> Option<Duration> {
        self.slow_stop
    }

    /// Whether it creates no container.
    pub fn fails_create(&self) -> bool {
        self.failed_create
    }

    /// Whether what is started hangs.
    pub fn hangs(&self) -> bool {
        self.not_ready
    }

    /// Whether this change of a container finds none.
    pub fn denies(&mut self, verb: Verb, id: &str) -> bool {
        self.stale.as_mut().is_some_and(|denied| denied.insert((verb, id.to_owned())))
    }
}
