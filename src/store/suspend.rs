//! An operator's hold on a session: nothing of it is worked on until it is lifted. It wins over every mark.

use super::claim::{Claim, end_unowned};
use super::pool::{Param, Postgres};
use super::{Store, StoreError, run_row, sql};
use crate::ids::{Fence, RunId, SessionId};
use crate::limits;
use crate::run::{End, Status};

/// The outcome of a request to suspend a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Suspension {
    /// The session is suspended; nothing was going.
    Idle,
    /// The session is suspended; the owner of this run will see it.
    Asked(RunId),
    /// The session is suspended; a run that waited is over.
    Ended {
        /// The run.
        run: RunId,
        /// Under which fence.
        fence: Fence,
        /// The end.
        end: End,
    },
    /// There is no such session.
    NoSession,
}

impl Store {
    /// Suspends `session`; a reason that stands already stays. A run that waits ends here.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: repeat it.
    pub async fn suspend(&self, session: &SessionId, reason: &str) -> Result<Suspension, StoreError> {
        Postgres::within(limits::POSTGRES_CALL, async {
            let connection = self.postgres.connection().await?;
            connection.begin().await?;
            if connection.query(sql::SESSION_LOCK, &[Param::Text(&session.0)]).await?.is_empty() {
                connection.roll_back().await?;
                return Ok(Suspension::NoSession);
            }
            connection.query(sql::SESSION_SUSPEND, &[Param::Text(&session.0), Param::Text(reason)]).await?;
            let rows = connection.query(sql::SESSION_LOOK, &[Param::Text(&session.0)]).await?;
            let open = rows.first().map(run_row).transpose()?.filter(|row| !row.status.is_terminal());
            match open {
                Some(row) if row.status == Status::Queued => {
                    let run = row.run.clone();
                    let end = if row.finished { End::completed() } else { End::suspended() };
                    match end_unowned(connection, row, end, None).await? {
                        Claim::Ended { fence, end, .. } => Ok(Suspension::Ended { run, fence, end }),
                        _ => Err(StoreError::unavailable("the run moved while its session was being suspended")),
                    }
                }
                open => {
                    connection.commit().await?;
                    connection.release();
                    Ok(open.map_or(Suspension::Idle, |row| Suspension::Asked(row.run)))
                }
            }
        })
        .await
    }

    /// Lifts the suspension of `session`. Returns whether there is such a session.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: repeat it.
    pub async fn unsuspend(&self, session: &SessionId) -> Result<bool, StoreError> {
        Postgres::within(limits::POSTGRES_CALL, async {
            let connection = self.postgres.connection().await?;
            connection.begin().await?;
            let known = !connection.query(sql::SESSION_LOCK, &[Param::Text(&session.0)]).await?.is_empty();
            connection.query(sql::SESSION_UNSUSPEND, &[Param::Text(&session.0)]).await?;
            connection.commit().await?;
            connection.release();
            Ok(known)
        })
        .await
    }
}
