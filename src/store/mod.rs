//! The truth: sessions, messages, runs, checkpoints, agents and their switches. A method is one guarded change or one
//! read, each within a bound.
//!
//! A change that got no answer may have happened. So each change can be repeated, or looked up under its own name (a
//! claim id, a fence and a turn), and says which.

mod accept;
mod agents;
mod checkpoints;
mod claim;
mod marks;
mod pool;
mod read;
pub mod sql;
mod suspend;
mod work;

use std::fmt::Display;
use std::time::Duration;

use tokio_postgres::Row as SqlRow;
use tokio_postgres::types::FromSql;

use self::pool::{Param, Postgres};
use crate::backoff::Backoff;
use crate::config::Address;
use crate::facts::{self, fact};
use crate::ids::{ClaimId, Fence, Owner, RunId, SessionId};
use crate::limits;
use crate::retry::retry_at_start;
use crate::run::{Row, STORE_REFUSED, Status};

pub use accept::{Accepted, CancelOutcome, Refusal};
pub use agents::{AgentRow, Cause, Reassignment, State};
pub use checkpoints::{Checkpoint, Checkpoints, Writing};
pub use claim::{Claim, Claimed};
pub use read::{Answer, Message, Notice, Turn};
pub use suspend::Suspension;
pub use work::{Beating, Commit, Settled};

/// Postgres did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No answer, or one that says to try again: the call may have happened.
    #[error("Postgres is unavailable: {0}")]
    Unavailable(String),
    /// Postgres refuses this process's login: for good if a setting is wrong, for a while if it is being changed.
    #[error("Postgres refuses the login: {0}")]
    Login(String),
    /// The call did not happen, and repeating it will not help: a statement, a value or the schema is wrong.
    #[error("{STORE_REFUSED}: {0}")]
    Refused(String),
    /// The call was not made: this process has closed its pool, for it is about to exit.
    #[error("the pool is closed")]
    Closed,
}

impl StoreError {
    fn unavailable(why: impl Display) -> Self {
        StoreError::Unavailable(why.to_string())
    }
}

impl From<tokio_postgres::Error> for StoreError {
    fn from(error: tokio_postgres::Error) -> Self {
        let Some(answer) = error.as_db_error() else {
            return StoreError::unavailable(error);
        };
        let says = format!("{} ({})", answer.message(), answer.code().code());
        match answer.code().code().get(..2) {
            // What was asked is wrong: a feature that is not there, cardinality, data, an integrity constraint, syntax or access
            // rules, a view's check.
            Some("0A" | "21" | "22" | "23" | "42" | "44") => StoreError::Refused(says),
            // Authorization, and a database that is not there.
            Some("28" | "3D") => StoreError::Login(says),
            // Trouble of the server's, of a pooler's before it, or of a kind that nobody here knows: another try may succeed.
            _ => StoreError::Unavailable(says),
        }
    }
}

/// Postgres, as this process uses it.
#[derive(Clone)]
pub struct Store {
    postgres: Postgres,
}

impl Store {
    /// A store at `address`; nothing is dialled yet. `process` is what Postgres shows in `pg_stat_activity`.
    pub fn new(address: &Address, process: &str) -> Self {
        Store { postgres: Postgres::new(address, process, limits::POSTGRES_CONNECTIONS) }
    }

    /// Brings the schema up to date, for as long as Postgres needs to come up.
    ///
    /// # Errors
    /// [`StoreError::Login`] or [`StoreError::Refused`], again and again: the login or the schema is wrong.
    pub async fn prepare(&self) -> Result<(), StoreError> {
        let mut backoff = Backoff::default();
        for _ in 0..limits::MIGRATION_TRIES {
            match retry_at_start("the schema", || self.migrate()).await {
                // Two processes that migrate at once can make Postgres refuse one of them.
                Err(error @ (StoreError::Refused(_) | StoreError::Login(_))) => {
                    tracing::warn!(%error, "the schema is tried once more")
                }
                migrated => return migrated,
            }
            backoff.wait().await;
        }
        retry_at_start("the schema", || self.migrate()).await
    }

    async fn migrate(&self) -> Result<(), StoreError> {
        Postgres::within(limits::POSTGRES_CALL, async {
            let connection = self.postgres.connection().await?;
            connection.batch(sql::MIGRATION).await?;
            connection.release();
            Ok(())
        })
        .await
    }

    /// Mints this life's incarnation, one more than the last.
    ///
    /// # Errors
    /// [`StoreError`]; repeating it mints another.
    pub async fn boot(&self, process: &str) -> Result<Owner, StoreError> {
        let rows = self.one(sql::PROCESS_BOOT, &[Param::Text(process)]).await?;
        let row = rows.first().ok_or_else(|| StoreError::Refused("no incarnation was minted".into()))?;
        Ok(Owner { process: process.to_string(), incarnation: column(row, "incarnation")? })
    }

    /// The newest incarnation under this process name.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn newest_incarnation(&self, process: &str) -> Result<i64, StoreError> {
        let rows = self.one(sql::PROCESS_LOOK, &[Param::Text(process)]).await?;
        rows.first().map_or(Ok(0), |row| column(row, "incarnation"))
    }

    /// Closes every connection; what is not over within `bound` is cut. Returns whether nothing was.
    pub async fn close(&self, bound: Duration) -> bool {
        closed("store", self.postgres.close(bound).await)
    }

    /// Runs one statement outside of a transaction.
    async fn one(&self, statement: sql::Statement, params: &[Param<'_>]) -> Result<Vec<SqlRow>, StoreError> {
        Postgres::within(limits::POSTGRES_CALL, async {
            let connection = self.postgres.connection().await?;
            let rows = connection.query(statement, params).await?;
            connection.release();
            Ok(rows)
        })
        .await
    }
}

/// Logs how a pool was closed: `well` if nothing had to be cut.
fn closed(pool: &'static str, well: bool) -> bool {
    if well {
        fact!(info, facts::POOL_CLOSED, pool);
    } else {
        fact!(error, facts::POOL_ABANDONED, pool);
    }
    well
}

/// A duration as statements take it.
fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).expect("less than 290 000 years")
}

/// A column by name; a row that does not have it, or has it in another type, is a broken schema.
fn column<'a, T: FromSql<'a>>(row: &'a SqlRow, name: &str) -> Result<T, StoreError> {
    row.try_get(name).map_err(|error| StoreError::Refused(error.to_string()))
}

fn run_row(row: &SqlRow) -> Result<Row, StoreError> {
    let status: &str = column(row, "status")?;
    let process: Option<String> = column(row, "owner")?;
    let incarnation: Option<i64> = column(row, "owner_incarnation")?;
    Ok(Row {
        run: RunId(column(row, "run_id")?),
        session: SessionId(column(row, "session_id")?),
        status: Status::parse(status).ok_or_else(|| StoreError::Refused(format!("unknown status {status}")))?,
        fence: Fence(column(row, "fence")?),
        claim: column::<Option<String>>(row, "claim_id")?.map(ClaimId),
        owner: process.zip(incarnation).map(|(process, incarnation)| Owner { process, incarnation }),
        queued_at: column(row, "queued_at")?,
        claimed_at: column(row, "claimed_at")?,
        beat_at: column(row, "beat_at")?,
        checkpoint_at: column(row, "checkpoint_at")?,
        seen_at: column(row, "seen_at")?,
        claims_without_turn: column(row, "claims_without_turn")?,
        cancel_requested: column::<Option<i64>>(row, "cancel_requested_at")?.is_some(),
        turns: column(row, "turns")?,
        finished: column(row, "finished")?,
        end_reason: column(row, "end_reason")?,
        suspended: column(row, "suspended_reason")?,
        now: column(row, "now_at")?,
    })
}
