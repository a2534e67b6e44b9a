//! The terminal writes of a run: (1) the row in Postgres, under the fence; (2) the live view. Either can fail alone,
//! and a run stays active until the first is confirmed.
//!
//! On every path out of here, a bounded repair repeats those writes that are not confirmed; with healthy stores there
//! are none.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;

use super::active_runs::ActiveRuns;
use crate::facts::{self, fact};
use crate::ids::Fence;
use crate::limits;
use crate::live::{Frames, Live, RedisDown};
use crate::run::{End, Intent, Status};
use crate::store::{Claimed, Commit, Settled, Store, StoreError};

/// The terminal writes of an incarnation's runs.
pub(super) struct Terminal {
    pub store: Store,
    pub live: Live,
    pub active: Arc<ActiveRuns>,
}

/// The two writes of one run, and what is known of them.
struct Writes<'a> {
    terminal: &'a Terminal,
    claimed: &'a Claimed,
    frames: Option<&'a Frames>,
    row: Row,
    view_done: bool,
}

/// The outcome of a run, for its delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Settlement {
    /// The run is over, or another owner's.
    Over,
    /// The run waits in the queue.
    HandedBack,
}

/// The state of the write to Postgres.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Row {
    /// The run shall end so; not confirmed.
    ToEnd(End),
    /// The run shall go back to the queue; not confirmed.
    ToHandBack,
    /// The run has ended so.
    Ended(End),
    /// The run waits again, under the next fence.
    HandedBack,
    /// The run is another owner's, or was not to be touched.
    NotOurs,
}

impl Terminal {
    /// Writes the end that a run intends, until Postgres confirms it; then the run is no longer active.
    pub(super) async fn settle(&self, claimed: &Claimed, intent: Intent, frames: Option<&Frames>) -> Settlement {
        let row = match intent {
            Intent::End(end) => Row::ToEnd(end),
            Intent::HandBack => Row::ToHandBack,
            Intent::Nothing => Row::NotOurs,
        };
        let mut writes = Writes { terminal: self, claimed, frames, row, view_done: false };
        if AssertUnwindSafe(writes.write()).catch_unwind().await.is_err() {
            tracing::error!(run = %claimed.run, "the terminal writes panicked");
        }
        writes.repair().await;
        while !writes.row_confirmed() {
            tokio::time::sleep(limits::OUTCOME_RETRY).await;
            writes.write().await;
        }
        if !writes.view_done {
            tracing::warn!(run = %claimed.run, "the live view is left to a sweep");
        }
        self.active.remove(&claimed.run, claimed.fence);
        tracing::info!(run = %claimed.run, fence = claimed.fence.0, outcome = writes.row.word(), "settled");
        if writes.row == Row::HandedBack { Settlement::HandedBack } else { Settlement::Over }
    }
}

impl Row {
    fn word(&self) -> &'static str {
        match self {
            Row::ToEnd(_) | Row::ToHandBack => "unconfirmed",
            Row::Ended(end) => end.status.word(),
            Row::HandedBack => "handed back",
            Row::NotOurs => "not ours",
        }
    }
}

impl Writes<'_> {
    fn row_confirmed(&self) -> bool {
        !matches!(self.row, Row::ToEnd(_) | Row::ToHandBack)
    }

    fn confirmed(&self) -> bool {
        self.row_confirmed() && self.view_done
    }

    /// Both writes, once each, as far as they are unconfirmed.
    async fn write(&mut self) {
        if let Err(error) = self.write_row().await {
            tracing::warn!(run = %self.claimed.run, %error, "the run's end is not confirmed");
        }
        if self.row_confirmed()
            && let Err(error) = self.write_view().await
        {
            tracing::warn!(run = %self.claimed.run, %error, "the live view does not show the end yet");
        }
    }

    async fn write_row(&mut self) -> Result<(), StoreError> {
        let (store, claimed) = (&self.terminal.store, self.claimed);
        self.row = match &self.row {
            Row::ToEnd(end) => match store.end(claimed, end).await {
                Ok(Settled::Ended(end)) => Row::Ended(end),
                Ok(Settled::Fenced) => Row::NotOurs,
                Err(StoreError::Refused(why)) => {
                    // Trying again cannot help, and holding on would beat forever.
                    tracing::error!(run = %claimed.run, why, "Postgres refuses the run's end");
                    Row::NotOurs
                }
                Err(error) => return Err(error),
            },
            Row::ToHandBack => match store.hand_back(&claimed.run, claimed.fence, &claimed.claim).await? {
                Commit::Done => Row::HandedBack,
                Commit::Fenced => Row::NotOurs,
            },
            confirmed => confirmed.clone(),
        };
        Ok(())
    }

    async fn write_view(&mut self) -> Result<(), RedisDown> {
        let Claimed { run, session, fence, .. } = self.claimed;
        let live = &self.terminal.live;
        match &self.row {
            _ if self.view_done => {}
            Row::Ended(end) => {
                if let Some(frames) = self.frames {
                    frames.finish(limits::LAST_FRAMES).await?;
                }
                live.end(limits::TERMINAL_WRITE, session, run, *fence, end).await?;
            }
            Row::HandedBack => {
                let next = Fence(fence.0 + 1);
                live.show(limits::TERMINAL_WRITE, session, run, next, Status::Queued).await?;
                // The successor takes the lease anyway; a released one it need not wait for.
                live.release(session, run, *fence).await?;
            }
            Row::NotOurs => {}
            Row::ToEnd(_) | Row::ToHandBack => return Ok(()),
        }
        self.view_done = true;
        Ok(())
    }

    /// Repeats what is not confirmed. It never fails and never takes longer than its bound.
    async fn repair(&mut self) {
        if self.confirmed() {
            return;
        }
        tracing::warn!(run = %self.claimed.run, "the safety net repeats what is unconfirmed");
        let run = self.claimed.run.clone();
        let repeat = async {
            while !self.confirmed() {
                tokio::time::sleep(limits::REPAIR_PAUSE).await;
                self.write().await;
            }
        };
        let bounded = tokio::time::timeout(limits::REPAIR_INNER, AssertUnwindSafe(repeat).catch_unwind());
        match tokio::time::timeout(limits::REPAIR_OUTER, bounded).await {
            Ok(Ok(Ok(()))) => fact!(info, facts::SAVED, %run),
            Ok(Ok(Err(_))) => tracing::error!(%run, "the safety net panicked"),
            Ok(Err(_)) | Err(_) => tracing::warn!(%run, "the safety net ran out of time"),
        }
    }
}
