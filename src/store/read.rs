//! Reads: rows, messages, answers. Reads change nothing, but for the note that a sweep saw a run waiting.

use super::pool::Param;
use super::{Store, StoreError, column, micros, run_row, sql};
use crate::ids::{Fence, MessageId, Owner, RunId, SessionId};
use crate::limits::{self, Limits};
use crate::run::{MessageState, Row};

/// A message of a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The message's id.
    pub message: MessageId,
    /// The run that it started.
    pub run: RunId,
    /// The position in the conversation.
    pub position: i64,
    /// The words.
    pub body: String,
    /// What became of it.
    pub state: MessageState,
    /// The turn that consumed it.
    pub turn: Option<i64>,
    /// Why it was reported instead.
    pub reason: Option<String>,
}

/// The answer of a turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// In which run.
    pub run: RunId,
    /// In which turn of it.
    pub turn: i64,
    /// The position in the conversation.
    pub position: i64,
    /// The words.
    pub text: String,
}

/// A notice to a user, beside the answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// About which run, if about one.
    pub run: Option<RunId>,
    /// The words.
    pub body: String,
    /// When, in Postgres's microseconds since 1970.
    pub at: i64,
}

/// A checkpointed turn of one run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// The turn's number, from 1.
    pub turn: i64,
    /// The fence under which it was committed.
    pub fence: Fence,
    /// The whole answer.
    pub text: String,
}

impl Store {
    /// A run's row.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn run(&self, run: &RunId) -> Result<Option<Row>, StoreError> {
        self.one(sql::RUN_LOOK, &[Param::Text(&run.0)]).await?.first().map(run_row).transpose()
    }

    /// The row of a session's newest run.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn newest_run(&self, session: &SessionId) -> Result<Option<Row>, StoreError> {
        self.one(sql::SESSION_LOOK, &[Param::Text(&session.0)]).await?.first().map(run_row).transpose()
    }

    /// The notices to a session's user, the newest first, up to [`limits::NOTICES_SHOWN`].
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn notices(&self, session: &SessionId) -> Result<Vec<Notice>, StoreError> {
        let params = [Param::Text(&session.0), Param::Int(limits::NOTICES_SHOWN)];
        let rows = self.one(sql::NOTICES_READ, &params).await?;
        rows.iter()
            .map(|row| {
                let run = column::<Option<String>>(row, "run_id")?.map(RunId);
                Ok(Notice { run, body: column(row, "body")?, at: column(row, "at")? })
            })
            .collect()
    }

    /// The runs that `claimant` may claim, up to [`limits::SWEEP_ROWS`], the longest waiting first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn due_runs(&self, claimant: &Owner, limits: &Limits) -> Result<Vec<Row>, StoreError> {
        let params = [
            Param::Text(&claimant.process),
            Param::Int(claimant.incarnation),
            Param::Int(micros(limits.queued_claim_after)),
            Param::Int(micros(limits.takeover_after)),
            Param::Int(limits::SWEEP_ROWS),
        ];
        self.one(sql::SWEEP_DUE, &params).await?.iter().map(run_row).collect()
    }

    /// Runs that are not over, up to [`limits::SWEEP_ROWS`], the longest waiting first: those behind `after`, which is a
    /// row of an earlier look, or the first ones.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn open_runs(&self, after: Option<&Row>) -> Result<Vec<Row>, StoreError> {
        let (queued_at, run) = after.map_or((i64::MIN, ""), |row| (row.queued_at, &row.run.0));
        let params = [Param::Int(queued_at), Param::Text(run), Param::Int(limits::SWEEP_ROWS)];
        self.one(sql::SWEEP_READ, &params).await?.iter().map(run_row).collect()
    }

    /// Notes that a sweep saw the waiting runs, those that lost their owner among them: they stay fresh. One that is stale by now
    /// does not become fresh by that.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn see_waiting(&self, limits: &Limits) -> Result<(), StoreError> {
        let params = [limits.freshness, limits.takeover_after].map(micros).map(Param::Int);
        self.one(sql::SWEEP_SEEN, &params).await.map(drop)
    }

    /// The conversation of a session, each side in order; the two share their positions.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn conversation(&self, session: &SessionId) -> Result<(Vec<Message>, Vec<Answer>), StoreError> {
        let messages = self.messages(session).await?;
        Ok((messages, self.answers(session).await?))
    }

    async fn messages(&self, session: &SessionId) -> Result<Vec<Message>, StoreError> {
        let rows = self.one(sql::MESSAGES_READ, &[Param::Text(&session.0)]).await?;
        rows.iter()
            .map(|row| {
                let state: &str = column(row, "state")?;
                let unknown = || StoreError::Refused(format!("unknown state {state}"));
                Ok(Message {
                    message: MessageId(column(row, "message_id")?),
                    run: RunId(column(row, "run_id")?),
                    position: column(row, "position")?,
                    body: column(row, "body")?,
                    state: MessageState::parse(state).ok_or_else(unknown)?,
                    turn: column(row, "turn")?,
                    reason: column(row, "reason")?,
                })
            })
            .collect()
    }

    async fn answers(&self, session: &SessionId) -> Result<Vec<Answer>, StoreError> {
        let rows = self.one(sql::CHECKPOINTS_READ, &[Param::Text(&session.0)]).await?;
        rows.iter()
            .map(|row| {
                Ok(Answer {
                    run: RunId(column(row, "run_id")?),
                    turn: column(row, "turn")?,
                    position: column(row, "position")?,
                    text: column(row, "answer")?,
                })
            })
            .collect()
    }

    /// A run's checkpointed turns, in order.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn turns(&self, run: &RunId) -> Result<Vec<Turn>, StoreError> {
        let rows = self.one(sql::RUN_CHECKPOINTS, &[Param::Text(&run.0)]).await?;
        rows.iter()
            .map(|row| {
                let fence = Fence(column(row, "fence")?);
                Ok(Turn { turn: column(row, "turn")?, fence, text: column(row, "answer")? })
            })
            .collect()
    }
}
