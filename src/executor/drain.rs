//! From being told to stop to the exit: one sequence, begun once, to which further signals add nothing.
//!
//! Marks come before any wait, the ends of runs before the close of what they are written through, and each step has a
//! bound of its own, so that the sum which [`crate::config`] checks holds whatever is wedged.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::Executor;
use crate::config::DrainPolicy;
use crate::facts::{self, fact};
use crate::limits;
use crate::run::Stop;
use crate::store::{Checkpoints, Store, StoreError};

impl Executor {
    /// Sees every run to its end, or gives it back. Returns whether each end is confirmed.
    pub(super) async fn finish(&self) -> bool {
        self.mark().await;
        let policy = self.config.drain_policy;
        let mut idle = policy == DrainPolicy::Finish && within(self.config.limits.drain_grace, self.desk.idle()).await;
        if !idle {
            tracing::warn!(runs = self.desk.len(), "cancelling what is left");
            self.desk.stop_all(match policy {
                DrainPolicy::Finish => Stop::Drained,
                DrainPolicy::Interrupt => Stop::Interrupted,
            });
            idle = within(limits::CANCEL_GRACE + limits::NET_OUTER, self.desk.idle()).await;
        }
        if !idle {
            for (run, fence) in self.desk.runs() {
                tracing::error!(%run, %fence, "its end could not be confirmed");
            }
        }
        idle
    }

    /// Notes durably what is in flight, before anything is waited for.
    async fn mark(&self) {
        let runs = self.desk.beating();
        if runs.is_empty() {
            return;
        }
        match insist(limits::MARK, || self.store.mark(&self.owner, &runs)).await {
            Ok(marked) => tracing::info!(runs = runs.len(), marked, "marked"),
            Err(error) => fact!(warn, facts::MARK_FAILED, %error),
        }
    }

    /// Ends every task but the line to the broker, and closes in reverse order of opening. Returns whether nothing had
    /// to be cut.
    pub(super) async fn close(&self, intake: JoinHandle<()>) -> bool {
        // Acknowledgements of what has just ended.
        within(limits::LAST_ACKS, self.errands.wait_empty()).await;
        self.over.cancel();
        self.tasks.wait_empty().await;
        if let Err(error) = insist(limits::UNMARK, || self.store.unmark(&self.owner)).await {
            tracing::warn!(%error, "marks could not be taken off");
        }
        let well = self.checkpoints.close(limits::POOL_CLOSE).await;
        self.live.redis().close();
        self.leaving.cancel();
        end(intake, limits::BROKER_CLOSE).await;
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

/// Waits for a task's end; aborts and joins it when `bound` is over.
async fn end(mut task: JoinHandle<()>, bound: Duration) {
    if tokio::time::timeout(bound, &mut task).await.is_err() {
        task.abort();
        // Aborted: it is gone after this.
        let _ = task.await;
    }
}

/// Repeats a call while Postgres is unavailable, within `bound`.
async fn insist<T, F: Future<Output = Result<T, StoreError>>>(
    bound: Duration,
    call: impl Fn() -> F,
) -> Result<T, StoreError> {
    let until = Instant::now() + bound;
    loop {
        let late = || StoreError::Unavailable("took too long".into());
        let answered = tokio::time::timeout(until.saturating_duration_since(Instant::now()), call())
            .await
            .unwrap_or_else(|_| Err(late()));
        let again = Instant::now() + limits::CLAIM_RETRY;
        match answered {
            Err(StoreError::Unavailable(_)) if again < until => tokio::time::sleep_until(again).await,
            answered => return answered,
        }
    }
}
