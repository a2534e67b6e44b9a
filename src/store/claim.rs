//! Claiming a run: one short transaction that decides everything about it, and mints the fence.

use super::pool::{Param, PooledConnection, Postgres};
use super::{Store, StoreError, column, micros, run_row, sql};
use crate::ids::{ClaimId, Fence, Owner, RunId, SessionId};
use crate::limits::{self, Limits};
use crate::run::{self, Decision, End, Row, Status};

/// A run that is ours to work on, under its fence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimed {
    /// The run.
    pub run: RunId,
    /// The session.
    pub session: SessionId,
    /// The licence for everything that is written for it, together with the claim.
    pub fence: Fence,
    /// The claim that minted the fence.
    pub claim: ClaimId,
    /// Turns that are checkpointed already.
    pub turns: i64,
}

/// The outcome of a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// The run is ours.
    Taken(Claimed),
    /// The run is over: this claim ended it.
    Ended {
        /// The session.
        session: SessionId,
        /// Under which fence.
        fence: Fence,
        /// The run's end.
        end: End,
    },
    /// The run is over, or another owner's, and the delivery is done with. The row shows which.
    Left(Option<Box<Row>>),
}

impl Store {
    /// Claims `run` for `owner`, under a fence above `known`: the live view may have heard of claims that Postgres has lost.
    /// Repeated under the same claim id after a lost answer, it gives the same fence.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: repeat it.
    pub async fn claim(
        &self,
        run: &RunId,
        session: &SessionId,
        claim: &ClaimId,
        owner: &Owner,
        known: Fence,
        limits: &Limits,
    ) -> Result<Claim, StoreError> {
        Postgres::within(limits::POSTGRES_CALL, async {
            let connection = self.postgres.connection().await?;
            connection.begin().await?;
            connection.query(sql::SESSION_LOCK, &[Param::Text(&session.0)]).await?;
            let rows = connection.query(sql::RUN_LOOK, &[Param::Text(&run.0)]).await?;
            let Some(row) = rows.first().map(run_row).transpose()? else {
                connection.roll_back().await?;
                return Ok(Claim::Left(None));
            };
            match row.decide(claim, owner, limits) {
                Decision::Take => commit_claim(connection, row, claim, owner, known, limits).await,
                Decision::AlreadyOurs => {
                    connection.roll_back().await?;
                    Ok(Claim::Taken(claimed(&row, row.fence, claim)))
                }
                Decision::End { end, suspend } => {
                    if end.status == Status::Interrupted {
                        // Its user did not ask for this.
                        notice(&connection, claim, &row, &run::given_up(&end)).await?;
                    }
                    end_unowned(connection, row, end, suspend).await
                }
                Decision::Leave => {
                    connection.roll_back().await?;
                    Ok(Claim::Left(Some(Box::new(row))))
                }
            }
        })
        .await
    }

    /// Ends a run that this process does not own, if it still stands as `row` shows it. Returns the new fence
    /// and how it ended, or `None` if it has moved.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: look again.
    pub async fn end_unowned(&self, row: &Row, end: &End) -> Result<Option<(Fence, End)>, StoreError> {
        Postgres::within(limits::POSTGRES_CALL, async {
            let connection = self.postgres.connection().await?;
            connection.begin().await?;
            connection.query(sql::SESSION_LOCK, &[Param::Text(&row.session.0)]).await?;
            match end_unowned(connection, row.clone(), end.clone(), None).await? {
                Claim::Ended { fence, end, .. } => Ok(Some((fence, end))),
                _ => Ok(None),
            }
        })
        .await
    }
}

/// Writes the claim of `row` and what its mark asks for, in one commit.
async fn commit_claim(
    connection: PooledConnection,
    row: Row,
    claim: &ClaimId,
    owner: &Owner,
    known: Fence,
    limits: &Limits,
) -> Result<Claim, StoreError> {
    let params = [
        Param::Text(&row.run.0),
        Param::Text(&claim.0),
        Param::Text(&owner.process),
        Param::Int(owner.incarnation),
        Param::Int(row.fence.0),
        Param::Int(micros(limits.takeover_after)),
        Param::Int(known.0.min(row.fence.0 + limits::CLAIMS_LOST)),
    ];
    let rows = connection.query(sql::RUN_CLAIM, &params).await?;
    let Some(minted) = rows.first() else {
        connection.roll_back().await?;
        return Ok(Claim::Left(Some(Box::new(row))));
    };
    let fence = Fence(column(minted, "fence")?);
    if let Some(mark) = column::<Option<String>>(minted, "marked_by")? {
        // The row is ours from here on: nobody else marks it. Its user is told, and the mark goes with it.
        let why: Option<String> = column(minted, "mark_reason")?;
        notice(&connection, claim, &row, &run::resumed(why.as_deref().unwrap_or_default())).await?;
        let told = [Param::Text(&row.run.0), Param::Int(fence.0), Param::Text(&mark)];
        connection.query(sql::RUN_TOLD, &told).await?;
    }
    connection.commit().await?;
    connection.release();
    Ok(Claim::Taken(claimed(&row, fence, claim)))
}

fn claimed(row: &Row, fence: Fence, claim: &ClaimId) -> Claimed {
    Claimed { run: row.run.clone(), session: row.session.clone(), fence, claim: claim.clone(), turns: row.turns }
}

/// Tells the user of a session what this claim did to a run of it, once.
async fn notice(connection: &PooledConnection, claim: &ClaimId, row: &Row, body: &str) -> Result<(), StoreError> {
    let params = [Param::Text(&claim.0), Param::Text(&row.session.0), Param::Text(&row.run.0), Param::Text(body)];
    connection.query(sql::NOTICE_RUN, &params).await?;
    Ok(())
}

/// In a transaction that holds the session: ends the run and reports what it leaves unread.
pub(super) async fn end_unowned(
    connection: PooledConnection,
    row: Row,
    end: End,
    suspend: Option<String>,
) -> Result<Claim, StoreError> {
    let params = [
        Param::Text(&row.run.0),
        Param::Int(row.fence.0),
        Param::Text(end.status.word()),
        Param::Text(&end.reason),
        Param::Text(row.claim.as_ref().map_or("", |claim| &claim.0)),
    ];
    let rows = connection.query(sql::RUN_END_UNOWNED, &params).await?;
    let Some(minted) = rows.first() else {
        connection.roll_back().await?;
        return Ok(Claim::Left(Some(Box::new(row))));
    };
    let fence = Fence(column(minted, "fence")?);
    let status = Status::parse(column(minted, "status")?).unwrap_or(end.status);
    let end = End { status, reason: column(minted, "end_reason")? };
    connection.query(sql::MESSAGE_REPORT, &[Param::Text(&row.run.0), Param::Text(&end.reason)]).await?;
    if let Some(reason) = suspend {
        connection.query(sql::SESSION_SUSPEND, &[Param::Text(&row.session.0), Param::Text(&reason)]).await?;
    }
    connection.commit().await?;
    connection.release();
    Ok(Claim::Ended { session: row.session, fence, end })
}
