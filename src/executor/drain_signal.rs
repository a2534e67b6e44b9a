//! The beginning of a drain: once, by a signal or because a later incarnation of this process lives.

use std::sync::Arc;

use tokio::sync::watch;

use super::active_runs::ActiveRuns;
use crate::facts::{self, fact};

/// Whether the drain has begun. Clones share it.
#[derive(Clone)]
pub(super) struct DrainSignal {
    begun: watch::Sender<bool>,
    active: Arc<ActiveRuns>,
}

impl DrainSignal {
    /// A drain that has not begun. `active` is counted for the log.
    pub(super) fn new(active: Arc<ActiveRuns>) -> Self {
        DrainSignal { begun: watch::Sender::new(false), active }
    }

    /// Begins the drain; later calls do nothing.
    pub(super) fn begin(&self, why: &str) {
        if !self.begun.send_replace(true) {
            fact!(info, facts::DRAINING, why, runs = self.active.len());
        }
    }

    /// Whether the drain has begun.
    pub(super) fn has_begun(&self) -> bool {
        *self.begun.borrow()
    }

    /// Waits until the drain begins.
    pub(super) async fn wait(&self) {
        let mut begun = self.begun.subscribe();
        // The sender lives as long as `self`, so waiting cannot fail.
        let _ = begun.wait_for(|begun| *begun).await;
    }
}
