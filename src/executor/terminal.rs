//! The end of a run: two writes, a safety net under them, and no letting go before the first is confirmed.
//!
//! (1) the row in Postgres, under the fence; (2) the live view. Either can fail alone. On every path a run takes out of
//! here, the net repeats what is unconfirmed of what the run itself intended; with healthy stores it does nothing.

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;

use super::Executor;
use crate::facts::{self, fact};
use crate::ids::Fence;
use crate::limits;
use crate::live::{Frames, RedisDown};
use crate::run::{End, Intent, Status};
use crate::store::{Claimed, Commit, Settled, StoreError};

/// What is known of the two writes.
struct Ending<'a> {
    executor: &'a Executor,
    claimed: &'a Claimed,
    frames: Option<&'a Frames>,
    row: Row,
    view_done: bool,
}

/// What became of a run, for whoever brought it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Settlement {
    /// It is over, or somebody else's.
    Over,
    /// It waits in the queue.
    HandedBack,
}

/// What is known of the row.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Row {
    /// It shall end so.
    ToEnd(End),
    /// It shall go back to the queue.
    ToHandBack,
    /// It has ended so.
    Ended(End),
    /// It waits again, under the next fence.
    HandedBack,
    /// It is somebody else's, or never was to be touched.
    NotOurs,
}

impl Executor {
    /// Sees a run to the end that it intends, and takes it off the desk.
    pub(super) async fn settle(&self, claimed: &Claimed, intent: Intent, frames: Option<&Frames>) -> Settlement {
        let row = match intent {
            Intent::End(end) => Row::ToEnd(end),
            Intent::HandBack => Row::ToHandBack,
            Intent::Nothing => Row::NotOurs,
        };
        let mut ending = Ending { executor: self, claimed, frames, row, view_done: false };
        if AssertUnwindSafe(ending.write()).catch_unwind().await.is_err() {
            tracing::error!(run = %claimed.run, "the terminal writes panicked");
        }
        ending.net().await;
        while !ending.row_confirmed() {
            tokio::time::sleep(limits::OUTCOME_RETRY).await;
            ending.write().await;
        }
        if !ending.view_done {
            tracing::warn!(run = %claimed.run, "the live view is left to a sweep");
        }
        self.desk.remove(&claimed.run, claimed.fence);
        tracing::info!(run = %claimed.run, fence = claimed.fence.0, outcome = ending.row.word(), "settled");
        if ending.row == Row::HandedBack { Settlement::HandedBack } else { Settlement::Over }
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

impl Ending<'_> {
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
        let (store, claimed) = (&self.executor.store, self.claimed);
        self.row = match &self.row {
            Row::ToEnd(end) => match store.end(claimed, end).await {
                Ok(Settled::Ended(end)) => Row::Ended(end),
                Ok(Settled::Fenced) => Row::NotOurs,
                Err(StoreError::Refused(why)) => {
                    // Trying again cannot help, and holding on would beat for ever.
                    tracing::error!(run = %claimed.run, why, "Postgres refuses the run's end");
                    Row::NotOurs
                }
                Err(error) => return Err(error),
            },
            Row::ToHandBack => match store.hand_back(&claimed.run, claimed.fence).await? {
                Commit::Done => Row::HandedBack,
                Commit::Fenced => Row::NotOurs,
            },
            confirmed => confirmed.clone(),
        };
        Ok(())
    }

    async fn write_view(&mut self) -> Result<(), RedisDown> {
        let Claimed { run, session, fence, .. } = self.claimed;
        let live = &self.executor.live;
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
                // The successor takes the lease anyway; letting go spares it the courtesy.
                live.release(session, run, *fence).await?;
            }
            Row::NotOurs => {}
            Row::ToEnd(_) | Row::ToHandBack => return Ok(()),
        }
        self.view_done = true;
        Ok(())
    }

    /// The safety net. It never fails and never takes longer than its bound.
    async fn net(&mut self) {
        if self.confirmed() {
            return;
        }
        tracing::warn!(run = %self.claimed.run, "the safety net repeats what is unconfirmed");
        let run = self.claimed.run.clone();
        let repeat = async {
            while !self.confirmed() {
                tokio::time::sleep(limits::NET_PAUSE).await;
                self.write().await;
            }
        };
        let bounded = tokio::time::timeout(limits::NET_INNER, AssertUnwindSafe(repeat).catch_unwind());
        match tokio::time::timeout(limits::NET_OUTER, bounded).await {
            Ok(Ok(Ok(()))) => fact!(info, facts::SAVED, %run),
            Ok(Ok(Err(_))) => tracing::error!(%run, "the safety net panicked"),
            Ok(Err(_)) | Err(_) => tracing::warn!(%run, "the safety net ran out of time"),
        }
    }
}
