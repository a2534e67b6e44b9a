//! The heartbeat: one statement for all active runs, and in its answer what became of them. An owner whose beats are
//! not confirmed for half the time after which others take over acts no more.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::active_runs::ActiveRuns;
use crate::facts::{self, fact};
use crate::ids::Owner;
use crate::limits;
use crate::run::Stop;
use crate::store::Store;

/// The heartbeat of one incarnation.
pub(super) struct Heartbeat {
    pub store: Store,
    pub owner: Owner,
    pub active: Arc<ActiveRuns>,
    pub beat_every: Duration,
    pub takeover_after: Duration,
}

impl Heartbeat {
    /// Beats until it is dropped.
    pub(super) async fn run(self) {
        loop {
            tokio::time::sleep(self.beat_every).await;
            self.beat().await;
        }
    }

    async fn beat(&self) {
        let named = self.active.beating();
        if named.is_empty() {
            return;
        }
        let sent = Instant::now();
        match self.store.beat(&self.owner, &named).await {
            Ok(answer) => {
                for (run, fence) in named {
                    match answer.get(&run).filter(|beating| beating.fence == fence) {
                        Some(beating) => {
                            self.active.confirm(&run, fence, sent);
                            if beating.cancel_requested {
                                self.active.stop_under(&run, fence, Stop::Cancelled);
                            }
                            if beating.suspended {
                                self.active.stop_under(&run, fence, Stop::Suspended);
                            }
                        }
                        None => self.active.stop_under(&run, fence, Stop::Fenced),
                    }
                }
            }
            Err(error) => tracing::warn!(%error, "a beat was not confirmed"),
        }
        // The next look comes after another pause and another beat at its bound; it must not come too late.
        let next_look = self.beat_every + limits::POSTGRES_CALL;
        for (run, fence) in self.active.silent_for((self.takeover_after / 2).saturating_sub(next_look)) {
            fact!(warn, facts::LOST, %run);
            self.active.stop_under(&run, fence, Stop::Lost);
        }
    }
}
