//! From "a run is waiting" to "it is ours": the lease spares a race, the claim decides.

use std::sync::Arc;

use tokio::time::Instant;

use super::Executor;
use super::active_runs::Slot;
use super::terminal::Settlement;
use crate::ids::{RunId, SessionId};
use crate::limits;
use crate::live::RedisDown;
use crate::run::{Intent, Status};
use crate::store::{Claim, StoreError};

/// What became of a run that somebody told us of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// We worked on it, or ended it, or it is somebody else's: the delivery is done with.
    Done,
    /// It waits in the queue: somebody shall have it.
    HandedBack,
    /// Postgres did not say: somebody shall try again.
    Unknown,
}

impl Executor {
    /// Claims `run` and, if it is ours, works on it to its end. Holds `slot` for as long.
    pub(super) async fn take(
        self: &Arc<Self>,
        run: &RunId,
        session: &SessionId,
        maybe_running: bool,
        slot: Slot,
    ) -> Taken {
        if maybe_running {
            self.show_courtesy(run, session).await;
        }
        let claimed_at = Instant::now();
        let claim = match self.claim(run, session, claimed_at).await {
            Ok(claim) => claim,
            Err(error) => {
                tracing::warn!(%run, %error, "a claim was given up");
                return Taken::Unknown;
            }
        };
        let mut taken = Taken::Done;
        match claim {
            Claim::Taken(claimed) => {
                let told = self.desk.put(&claimed, claimed_at);
                let settled = if self.is_draining() {
                    // The answer came after the intake was stopped.
                    self.settle(&claimed, Intent::HandBack, None).await
                } else {
                    self.work(&claimed, told).await
                };
                if settled == Settlement::HandedBack {
                    taken = Taken::HandedBack;
                }
            }
            Claim::Ended { session, fence, end } => {
                tracing::info!(%run, %session, status = end.status.word(), reason = end.reason, "ended by its claim");
                if let Err(RedisDown(why)) = self.live.end(limits::TERMINAL_WRITE, &session, run, fence, &end).await {
                    tracing::warn!(%run, why, "the live view is left to a sweep");
                }
            }
            // A later life of this process has begun: it shall have it.
            Claim::Left(Some(row)) if row.status == Status::Queued => taken = Taken::HandedBack,
            Claim::Left(_) => {}
        }
        drop(slot);
        taken
    }

    /// Lets another who holds a lease on this very run go first. Redis's silence is no reason to wait.
    async fn show_courtesy(&self, run: &RunId, session: &SessionId) {
        if self.live.is_leased(session, run).await.unwrap_or(false) {
            tokio::time::sleep(limits::LEASE_COURTESY).await;
        }
    }

    /// Repeats one claim, under one claim id, until it is answered.
    async fn claim(&self, run: &RunId, session: &SessionId, since: Instant) -> Result<Claim, StoreError> {
        let claim = self.mint.claim();
        loop {
            match self.store.claim(run, session, &claim, &self.owner, &self.config.limits).await {
                Err(StoreError::Unavailable(_)) if since.elapsed() < limits::CLAIM_MAX => {
                    tokio::time::sleep(limits::CLAIM_RETRY).await;
                }
                answered => return answered,
            }
        }
    }
}
