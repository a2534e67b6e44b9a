//! Where turns are committed: a pool of its own, so that it can be closed when the last run is over and not before, and
//! tasks of its own, so that a write that has begun is finished even when its run is cancelled in the middle of it.
//!
//! After `pool_closed` is logged, nothing of this pool reaches Postgres any more: no write is going, every connection
//! is back, and the task that drove it has ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::claim::Claimed;
use super::pool::{Param, Postgres};
use super::work::Commit;
use super::{StoreError, column, sql};
use crate::config::Address;
use crate::facts::{self, fact};
use crate::ids::MessageId;
use crate::limits;
use crate::task_tracker::TaskTracker;

/// A turn to commit.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// The run, under its fence.
    pub claimed: Claimed,
    /// The turn of the run, from 1.
    pub turn: i64,
    /// The whole answer.
    pub answer: String,
    /// Whether no turn follows.
    pub last: bool,
    /// The messages that the turn was given.
    pub consumed: Vec<MessageId>,
}

/// The progress of a run's newest checkpoint. It outlives the run's own work: what stops the run reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writing {
    /// No write is going on.
    Nothing,
    /// A write has begun and is not answered.
    Begun,
    /// The last turn is committed.
    Finished,
}

/// The pool through which checkpoints are committed.
pub struct Checkpoints {
    postgres: Postgres,
    writes: TaskTracker,
    shut: AtomicBool,
    /// Ends the writes that are still going when their time is over.
    cut: CancellationToken,
    /// The same when this is dropped: a write has no other owner.
    _cut: DropGuard,
}

impl Checkpoints {
    /// A pool at `address`; nothing is dialled yet. Postgres shows it as `PROCESS/checkpoints`.
    pub fn new(address: &Address, process: &str) -> Self {
        let cut = CancellationToken::new();
        Checkpoints {
            postgres: Postgres::new(address, &format!("{process}/checkpoints"), limits::CHECKPOINT_CONNECTIONS),
            writes: TaskTracker::default(),
            shut: AtomicBool::new(false),
            _cut: cut.clone().drop_guard(),
            cut,
        }
    }

    /// Commits a turn: its answer, and the messages that it consumed. Dropping the call does not end the write.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: repeat it; a commit whose answer got lost is found. [`StoreError::Closed`]: too
    /// late.
    pub async fn write(
        &self,
        checkpoint: Arc<Checkpoint>,
        writing: &watch::Sender<Writing>,
    ) -> Result<Commit, StoreError> {
        // In this order: the close sees the write, or the write sees that it is too late.
        let here = self.writes.token();
        if self.shut.load(Ordering::SeqCst) {
            fact!(error, facts::CHECKPOINT_TRIED, run = %checkpoint.claimed.run);
            return Err(StoreError::Closed);
        }
        let (done, answered) = oneshot::channel();
        let (postgres, cut, writing) = (self.postgres.clone(), self.cut.clone(), writing.clone());
        writing.send_replace(Writing::Begun);
        tokio::spawn(async move {
            let _here = here;
            let outcome = tokio::select! {
                biased;
                () = cut.cancelled() => Err(StoreError::unavailable("the write was cut")),
                outcome = commit(&postgres, &checkpoint) => outcome,
            };
            let finished = checkpoint.last && matches!(outcome, Ok(Commit::Done));
            writing.send_replace(if finished { Writing::Finished } else { Writing::Nothing });
            // The run may have been cancelled meanwhile: then nobody waits for the answer.
            let _ = done.send(outcome);
        });
        answered.await.unwrap_or_else(|_| Err(StoreError::unavailable("the write was cut")))
    }

    /// Closes the pool: takes no more writes, waits for those that have begun and for every connection's end. What is
    /// not over within `bound` is cut. Returns whether nothing was.
    pub async fn close(&self, bound: Duration) -> bool {
        let began = Instant::now();
        self.shut.store(true, Ordering::SeqCst);
        let written = tokio::time::timeout(bound, self.writes.wait_empty()).await.is_ok();
        if !written {
            self.cut.cancel();
            self.writes.wait_empty().await;
        }
        let closed = self.postgres.close(bound.saturating_sub(began.elapsed())).await;
        super::closed("checkpoints", written && closed)
    }
}

async fn commit(postgres: &Postgres, checkpoint: &Checkpoint) -> Result<Commit, StoreError> {
    Postgres::within(limits::POSTGRES_CALL, async {
        let Checkpoint { claimed, turn, answer, last, consumed } = checkpoint;
        let (run, fence, turn) = (&claimed.run.0, claimed.fence.0, *turn);
        let connection = postgres.connection().await?;
        connection.begin().await?;
        let locked = connection.query(sql::SESSION_LOCK, &[Param::Text(&claimed.session.0)]).await?;
        let position = locked.first().map_or(Ok(0), |row| column(row, "position"))?;
        let claim = Param::Text(&claimed.claim.0);
        let guard = [Param::Text(run), Param::Int(fence), Param::Int(turn), Param::Bool(*last), claim];
        if connection.query(sql::RUN_CHECKPOINT, &guard).await?.is_empty() {
            let found = connection.query(sql::CHECKPOINT_LOOK, &[Param::Text(run), Param::Int(turn), claim]).await?;
            let ours = found.first().map(|row| column::<i64>(row, "fence")).transpose()? == Some(fence);
            connection.roll_back().await?;
            return Ok(if ours { Commit::Done } else { Commit::Fenced });
        }
        let params = [
            Param::Text(run),
            Param::Int(turn),
            Param::Text(&claimed.session.0),
            Param::Int(position),
            Param::Int(fence),
            Param::Text(answer),
        ];
        connection.query(sql::CHECKPOINT_WRITE, &params).await?;
        for message in consumed {
            connection.query(sql::MESSAGE_CONSUME, &[Param::Text(&message.0), Param::Int(turn)]).await?;
        }
        connection.commit().await?;
        connection.release();
        Ok(Commit::Done)
    })
    .await
}
