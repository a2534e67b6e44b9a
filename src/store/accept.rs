//! Where a message becomes durable: the message and the run that it starts, in one transaction, once per key.

use super::claim::{Claim, end_unowned};
use super::pool::{Param, PooledConnection, Postgres};
use super::{Store, StoreError, column, run_row, sql};
use crate::ids::{Fence, MessageId, Mint, RunId, SessionId};
use crate::limits;
use crate::run::{End, Status};

/// A message that was accepted, now or earlier under the same key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The conversation.
    pub session: SessionId,
    /// The message.
    pub message: MessageId,
    /// The run that it started.
    pub run: RunId,
    /// Whether this call accepted it.
    pub new: bool,
}

/// Why a message is not accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such session.
    NoSession,
    /// A run of this session is going.
    Busy {
        /// The run.
        run: RunId,
    },
    /// The session is suspended, for this reason.
    Suspended(String),
    /// The key was used for something else.
    KeyReused,
}

/// The outcome of a request to stop a session's run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CancelOutcome {
    /// The run's owner will see the request.
    Asked(RunId),
    /// The run was waiting and is over.
    Ended {
        /// The run.
        run: RunId,
        /// Under which fence.
        fence: Fence,
        /// The end.
        end: End,
    },
    /// Nothing is going.
    Idle,
    /// There is no such session.
    NoSession,
    /// The session has no such run.
    NoRun,
}

impl Store {
    /// Accepts `body` under `key`: in `session`, or in a new one with `agent`.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: repeat it under the same key, with the same answer.
    pub async fn accept(
        &self,
        mint: &Mint,
        key: &str,
        session: Option<&SessionId>,
        agent: &str,
        body: &str,
    ) -> Result<Result<Accepted, Refusal>, StoreError> {
        Postgres::within(limits::POSTGRES_CALL, async {
            let connection = self.postgres.connection().await?;
            if let Some(earlier) = by_key(&connection, key, session, body).await? {
                connection.release();
                return Ok(earlier);
            }
            connection.begin().await?;
            let opened = open(&connection, mint, session, agent).await?;
            let (session, position) = match opened {
                Ok(opened) => opened,
                Err(refusal) => {
                    // The run that is going may be what an earlier try under the same key has just begun.
                    let earlier = by_key(&connection, key, session, body).await?;
                    connection.roll_back().await?;
                    return Ok(earlier.unwrap_or(Err(refusal)));
                }
            };
            let accepted = Accepted { session, message: mint.message(), run: mint.run(), new: true };
            connection
                .query(sql::RUN_ENQUEUE, &[Param::Text(&accepted.run.0), Param::Text(&accepted.session.0)])
                .await?;
            let params = [
                Param::Text(&accepted.message.0),
                Param::Text(key),
                Param::Text(&accepted.session.0),
                Param::Text(&accepted.run.0),
                Param::Int(position),
                Param::Text(body),
            ];
            if connection.query(sql::MESSAGE_ACCEPT, &params).await?.is_empty() {
                // Another request under the same key was faster; what it accepted is the answer.
                connection.roll_back().await?;
                return Err(StoreError::unavailable("the same key is being accepted by another request"));
            }
            connection.commit().await?;
            connection.release();
            Ok(Ok(accepted))
        })
        .await
    }

    /// Asks for the end of the run that is going in `session`; one that still waits ends here. With `run`, of that run alone: a
    /// request that is repeated because its answer was lost never stops the run after it.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: repeat it.
    pub async fn cancel(&self, session: &SessionId, run: Option<&RunId>) -> Result<CancelOutcome, StoreError> {
        Postgres::within(limits::POSTGRES_CALL, async {
            let connection = self.postgres.connection().await?;
            connection.begin().await?;
            if connection.query(sql::SESSION_LOCK, &[Param::Text(&session.0)]).await?.is_empty() {
                connection.roll_back().await?;
                return Ok(CancelOutcome::NoSession);
            }
            let rows = connection.query(sql::SESSION_LOOK, &[Param::Text(&session.0)]).await?;
            let newest = rows.first().map(run_row).transpose()?;
            if let (Some(run), Some(newest)) = (run, &newest)
                && newest.run != *run
            {
                let named = connection.query(sql::RUN_LOOK, &[Param::Text(&run.0)]).await?;
                let named = named.first().map(run_row).transpose()?.filter(|row| row.session == *session);
                connection.roll_back().await?;
                return Ok(if named.is_some() { CancelOutcome::Idle } else { CancelOutcome::NoRun });
            }
            let Some(row) = newest.filter(|row| !row.status.is_terminal()) else {
                connection.roll_back().await?;
                return Ok(CancelOutcome::Idle);
            };
            let run = row.run.clone();
            if row.status == Status::Queued {
                let end = if row.finished { End::completed() } else { End::cancelled() };
                return match end_unowned(connection, row, end, None).await? {
                    Claim::Ended { fence, end, .. } => Ok(CancelOutcome::Ended { run, fence, end }),
                    _ => Err(StoreError::unavailable("the run moved while it was being cancelled")),
                };
            }
            connection.query(sql::RUN_CANCEL, &[Param::Text(&run.0)]).await?;
            connection.commit().await?;
            connection.release();
            Ok(CancelOutcome::Asked(run))
        })
        .await
    }
}

/// The message that was accepted under `key`, if any.
async fn by_key(
    connection: &PooledConnection,
    key: &str,
    session: Option<&SessionId>,
    body: &str,
) -> Result<Option<Result<Accepted, Refusal>>, StoreError> {
    let rows = connection.query(sql::MESSAGE_BY_KEY, &[Param::Text(key)]).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let earlier = Accepted {
        session: SessionId(column(row, "session_id")?),
        message: MessageId(column(row, "message_id")?),
        run: RunId(column(row, "run_id")?),
        new: false,
    };
    let same = column::<&str>(row, "body")? == body && session.is_none_or(|session| *session == earlier.session);
    Ok(Some(if same { Ok(earlier) } else { Err(Refusal::KeyReused) }))
}

/// Locks `session`, or a new one with `agent`, and finds it ready for a run. Returns where the message stands in it.
async fn open(
    connection: &PooledConnection,
    mint: &Mint,
    session: Option<&SessionId>,
    agent: &str,
) -> Result<Result<(SessionId, i64), Refusal>, StoreError> {
    let Some(session) = session else {
        let session = mint.session();
        connection.query(sql::SESSION_CREATE, &[Param::Text(&session.0), Param::Text(agent)]).await?;
        return Ok(Ok((session, 1)));
    };
    let rows = connection.query(sql::SESSION_LOCK, &[Param::Text(&session.0)]).await?;
    let Some(row) = rows.first() else { return Ok(Err(Refusal::NoSession)) };
    if let Some(reason) = column::<Option<String>>(row, "suspended_reason")? {
        return Ok(Err(Refusal::Suspended(reason)));
    }
    let going = connection.query(sql::RUN_OPEN, &[Param::Text(&session.0)]).await?;
    if let Some(going) = going.first() {
        return Ok(Err(Refusal::Busy { run: RunId(column(going, "run_id")?) }));
    }
    Ok(Ok((session.clone(), column(row, "position")?)))
}
