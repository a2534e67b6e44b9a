//! Claims: from "a run is waiting" to "it is ours". The lease spares a race, the claim in Postgres decides.

use std::sync::Arc;

use tokio::time::Instant;

use super::active_runs::ActiveRuns;
use super::drain_signal::DrainSignal;
use super::slots::Slot;
use super::terminal::Settlement;
use super::work::Worker;
use crate::ids::{Fence, Mint, Owner, RunId, SessionId};
use crate::limits::{self, Limits};
use crate::live::{Live, RedisDown};
use crate::retry::retry_within;
use crate::run::{Intent, Status};
use crate::store::{Claim, Store, StoreError};

/// The outcome of a claim, for the delivery that led to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The run is over, or another owner's: the delivery is acknowledged.
    Done,
    /// The run waits in the queue: the delivery is requeued.
    HandedBack,
    /// Postgres did not answer the claim, or would not have it from this process: the delivery is requeued after a pause.
    NotNow,
}

/// The claims of one incarnation.
pub(super) struct Claims {
    pub store: Store,
    pub live: Live,
    pub owner: Owner,
    pub mint: Arc<Mint>,
    pub limits: Limits,
    pub active: Arc<ActiveRuns>,
    pub drain: DrainSignal,
    pub worker: Worker,
}

impl Claims {
    /// Claims `run` and, if it is ours, works on it to its end. Holds `slot` for as long. `maybe_running`: another
    /// executor may still work on it.
    pub(super) async fn claim_and_work(
        &self,
        run: &RunId,
        session: &SessionId,
        maybe_running: bool,
        slot: Slot,
    ) -> Outcome {
        if maybe_running {
            self.wait_for_lease(run, session).await;
        }
        let claimed_at = Instant::now();
        let claim = match self.claim(run, session).await {
            Ok(claim) => claim,
            Err(error) => {
                tracing::warn!(%run, %error, "a claim was given up");
                return Outcome::NotNow;
            }
        };
        let mut outcome = Outcome::Done;
        match claim {
            Claim::Taken(claimed) => {
                let stop = self.active.insert(&claimed, claimed_at);
                let settled = if self.drain.has_begun() {
                    // The answer came after the intake was stopped.
                    self.worker.terminal.settle(&claimed, Intent::HandBack, None).await
                } else {
                    self.worker.work(&claimed, stop).await
                };
                if settled == Settlement::HandedBack {
                    outcome = Outcome::HandedBack;
                }
            }
            Claim::Ended { session, fence, end } => {
                tracing::info!(%run, %session, status = end.status.word(), reason = end.reason, "ended by its claim");
                if let Err(RedisDown(why)) = self.live.end(limits::TERMINAL_WRITE, &session, run, fence, &end).await {
                    tracing::warn!(%run, why, "the live view is left to a sweep");
                }
            }
            // A later incarnation of this process has begun: it shall have the run.
            Claim::Left(Some(row)) if row.status == Status::Queued => outcome = Outcome::NotNow,
            Claim::Left(_) => {}
        }
        drop(slot);
        outcome
    }

    /// Waits a moment if another executor holds the lease on this run. Without an answer from Redis there is no wait.
    async fn wait_for_lease(&self, run: &RunId, session: &SessionId) {
        if self.live.is_leased(session, run).await.unwrap_or(false) {
            tokio::time::sleep(limits::LEASE_COURTESY).await;
        }
    }

    /// The fence under which the live view shows the run. Agents, readers and the view go by fences: one that a claim had which
    /// Postgres has lost must not be another's. Without an answer from Redis it is Postgres's alone to say.
    async fn known_fence(&self, run: &RunId, session: &SessionId) -> Fence {
        let shown = self.live.look(session).await.ok().flatten();
        shown.filter(|shown| shown.run == *run).map_or(Fence(0), |shown| shown.fence)
    }

    /// Repeats one claim, under one claim id, until it is answered.
    async fn claim(&self, run: &RunId, session: &SessionId) -> Result<Claim, StoreError> {
        let claim_id = self.mint.claim();
        let known = self.known_fence(run, session).await;
        retry_within("a claim", limits::CLAIM_MAX, || {
            self.store.claim(run, session, &claim_id, &self.owner, known, &self.limits)
        })
        .await
    }
}
