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
use crate::plan::{Arg, FaultRow, Kind, ServiceWords, Takes};
pub use crate::standins::container::NOT_READY;
use crate::standins::faults;
use crate::trace::fault::FaultKind;

/// The container engine forgets what it was about to do; its containers live on.
pub static RESTART: FaultRow =
    FaultRow { help: "it is down, then up again; its containers live on", ..faults::RESTART };

/// A container that is stopped does not hear it, and is killed only so much after its grace.
pub static SLOW_STOP: FaultRow = FaultRow {
    kind: FaultKind { word: "slow_stop", struck: Some("{} stops containers slowly"), ..FaultRow::SERVICE.kind },
    args: &[Arg { name: "by", takes: Takes::Time, required: Some("by = \"200ms\""), told: "" }],
    help: "what is stopped does not hear it, and is killed `by` this much after its grace",
    ..FaultRow::SERVICE
};

/// The engine creates none.
pub static FAILED_CREATE: FaultRow = FaultRow {
    kind: FaultKind { word: "failed_create", struck: Some("{} creates no container"), ..FaultRow::SERVICE.kind },
    help: "creations are answered with 500",
    ..FaultRow::SERVICE
};

/// The engine denies once that there is a container which it shows, to each kind of change of each.
pub static STALE_HANDLE: FaultRow = FaultRow {
    kind: FaultKind {
        word: "stale_handle",
        struck: Some("{} denies containers that it shows"),
        ..FaultRow::SERVICE.kind
    },
    help: "each kind of change of each container by id is once answered with 404",
    ..FaultRow::SERVICE
};

/// What plans may say of it.
pub static WORDS: ServiceWords = ServiceWords {
    name: "engine",
    http: true,
    faults: &[&RESTART, &SLOW_STOP, &FAILED_CREATE, &NOT_READY, &STALE_HANDLE],
};

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
    pub fn set(&mut self, fault: &Kind, on: bool) {
        match fault.row() {
            row if *row == SLOW_STOP => self.slow_stop = on.then(|| fault.time("by")),
            row if *row == FAILED_CREATE => self.failed_create = on,
            row if *row == NOT_READY => self.not_ready = on,
            row if *row == STALE_HANDLE => self.stale = on.then(BTreeSet::new),
            // Its containers live on, and so does what it knows of them.
            row if *row == RESTART => {}
            row => panic!("the container engine stand-in does not know the fault {}", row.word()),
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
