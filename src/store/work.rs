//! The writes of an owner that works on a run: beats, hand-backs and the end, each under the fence.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::claim::Claimed;
use super::pool::{Param, Postgres};
use super::{Store, StoreError, column, sql};
use crate::ids::{ClaimId, Fence, Owner, RunId};
use crate::limits;
use crate::run::{End, Status};

/// A run's row, as far as a beat returns it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beating {
    /// The fence under which it is still ours.
    pub fence: Fence,
    /// Whether its user asked to stop it.
    pub cancel_requested: bool,
    /// Whether its session is suspended.
    pub suspended: bool,
}

/// The outcome of a write under a fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Commit {
    /// The write stands, by this call or by an earlier one that got no answer.
    Done,
    /// The write does not stand and never will: the fence is not the newest, or the run is over otherwise.
    Fenced,
}

/// The outcome of a terminal write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settled {
    /// The run is over under our fence: so.
    Ended(End),
    /// The run is another owner's.
    Fenced,
}

/// Runs as statements take them: `|RUN:FENCE|RUN:FENCE|`.
pub(super) fn named(runs: &[(RunId, Fence)]) -> String {
    let mut named = String::from("|");
    for (run, fence) in runs {
        write!(named, "{run}:{fence}|").expect("a string takes everything");
    }
    named
}

impl Store {
    /// Beats: notes that `owner` lives and works on these runs. Those missing from the answer are not its own any more.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn beat(&self, owner: &Owner, runs: &[(RunId, Fence)]) -> Result<BTreeMap<RunId, Beating>, StoreError> {
        let named = named(runs);
        let params = [Param::Text(&owner.process), Param::Int(owner.incarnation), Param::Text(&named)];
        let rows = self.one(sql::RUN_BEAT, &params).await?;
        rows.iter()
            .map(|row| {
                let cancel_requested = column::<Option<i64>>(row, "cancel_requested_at")?.is_some();
                let suspended = column::<Option<String>>(row, "suspended_reason")?.is_some();
                let beating = Beating { fence: Fence(column(row, "fence")?), cancel_requested, suspended };
                Ok((RunId(column(row, "run_id")?), beating))
            })
            .collect()
    }

    /// The owner's terminal write: the run's end, and the report of what it leaves unread.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: repeat it; an end whose answer got lost is found.
    pub async fn end(&self, claimed: &Claimed, end: &End) -> Result<Settled, StoreError> {
        Postgres::within(limits::TERMINAL_WRITE, async {
            let connection = self.postgres.connection().await?;
            connection.begin().await?;
            connection.query(sql::SESSION_LOCK, &[Param::Text(&claimed.session.0)]).await?;
            let params = [
                Param::Text(&claimed.run.0),
                Param::Int(claimed.fence.0),
                Param::Text(end.status.word()),
                Param::Text(&end.reason),
                Param::Text(&claimed.claim.0),
            ];
            let rows = connection.query(sql::RUN_TERMINAL, &params).await?;
            let Some(written) = rows.first() else {
                let rows = connection.query(sql::RUN_LOOK, &[Param::Text(&claimed.run.0)]).await?;
                let row = rows.first().map(super::run_row).transpose()?;
                connection.roll_back().await?;
                let ours = row.filter(|row| row.status.is_terminal() && row.is_under(claimed.fence, &claimed.claim));
                return Ok(ours.and_then(|row| row.end()).map_or(Settled::Fenced, Settled::Ended));
            };
            let status = Status::parse(column(written, "status")?).unwrap_or(end.status);
            let written = End { status, reason: column(written, "end_reason")? };
            let report = [Param::Text(&claimed.run.0), Param::Text(&written.reason)];
            connection.query(sql::MESSAGE_REPORT, &report).await?;
            connection.commit().await?;
            connection.release();
            Ok(Settled::Ended(written))
        })
        .await
    }

    /// Hands a run back to the queue, so that another executor goes on with it.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: repeat it; one whose answer got lost shows as fenced, which is the same to us.
    pub async fn hand_back(&self, run: &RunId, fence: Fence, claim: &ClaimId) -> Result<Commit, StoreError> {
        let params = [Param::Text(&run.0), Param::Int(fence.0), Param::Text(&claim.0)];
        let rows = Postgres::within(limits::TERMINAL_WRITE, self.one(sql::RUN_HAND_BACK, &params)).await?;
        Ok(if rows.is_empty() { Commit::Fenced } else { Commit::Done })
    }
}
