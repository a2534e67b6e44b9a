//! The drain, from being told to stop to the exit: one sequence, begun once, to which further signals add nothing.
//!
//! Marks come before any wait, the ends of runs before the close of what they are written through, and each step has a
//! bound of its own, so that the sum which [`crate::config`] checks holds whatever is wedged.

use std::sync::Arc;
use std::time::Duration;

use super::active_runs::ActiveRuns;
use super::intake::RunningIntake;
use super::tasks::Tasks;
use crate::config::DrainPolicy;
use crate::facts::{self, fact};
use crate::ids::Owner;
use crate::limits;
use crate::live::Redis;
use crate::retry::retry_within;
use crate::run::Stop;
use crate::store::{Checkpoints, Store, StoreError};

/// The drain of one incarnation.
pub(super) struct Drain {
    pub store: Store,
    pub checkpoints: Arc<Checkpoints>,
    pub redis: Redis,
    pub owner: Owner,
    pub policy: DrainPolicy,
    /// How long runs may finish by themselves under [`DrainPolicy::Finish`].
    pub grace: Duration,
    pub active: Arc<ActiveRuns>,
    pub tasks: Tasks,
}

impl Drain {
    /// Sees every run to its end, or gives it back. Returns whether each end is confirmed.
    pub(super) async fn finish(&self) -> bool {
        self.mark().await;
        let mut idle = self.policy == DrainPolicy::Finish && within(self.grace, self.active.idle()).await;
        if !idle {
            tracing::warn!(runs = self.active.len(), "cancelling what is left");
            self.active.stop_all(match self.policy {
                DrainPolicy::Finish => Stop::Drained,
                DrainPolicy::Interrupt => Stop::Interrupted,
            });
            idle = within(limits::CANCEL_GRACE + limits::REPAIR_OUTER, self.active.idle()).await;
        }
        if !idle {
            for (run, fence) in self.active.runs() {
                tracing::error!(%run, %fence, "its end could not be confirmed");
            }
        }
        idle
    }

    /// Notes durably what is in flight, before anything is waited for.
    async fn mark(&self) {
        let runs = self.active.beating();
        if runs.is_empty() {
            return;
        }
        match insist("the marks", limits::MARK, || self.store.mark(&self.owner, &runs)).await {
            Ok(marked) => tracing::info!(runs = runs.len(), marked, "marked"),
            Err(error) => fact!(warn, facts::MARK_FAILED, %error),
        }
    }

    /// Ends every task but the intake, and closes in reverse order of opening. Returns whether nothing had
    /// to be cut.
    pub(super) async fn close(&self, intake: RunningIntake) -> bool {
        // Acknowledgements of what has just ended.
        within(limits::LAST_ACKS, self.tasks.runs_over()).await;
        self.tasks.end().await;
        if let Err(error) = insist("the marks", limits::UNMARK, || self.store.unmark(&self.owner)).await {
            tracing::warn!(%error, "marks could not be taken off");
        }
        let well = self.checkpoints.close(limits::POOL_CLOSE).await;
        self.redis.close();
        intake.close(limits::BROKER_CLOSE).await;
        self.store.close(limits::POOL_CLOSE).await && well
    }
}

/// Closes what a start-up has opened that came no further.
pub(super) async fn close_early(checkpoints: &Checkpoints, store: &Store) {
    checkpoints.close(limits::POOL_CLOSE).await;
    store.close(limits::POOL_CLOSE).await;
}

async fn within(bound: Duration, wait: impl Future<Output = ()>) -> bool {
    tokio::time::timeout(bound, wait).await.is_ok()
}

/// Repeats a call while Postgres is unavailable; cuts the last one when `bound` is over.
async fn insist<T, F: Future<Output = Result<T, StoreError>>>(
    what: &str,
    bound: Duration,
    call: impl FnMut() -> F,
) -> Result<T, StoreError> {
    let late = |_| StoreError::Unavailable("took too long".into());
    tokio::time::timeout(bound, retry_within(what, bound, call)).await.map_err(late)?
}
