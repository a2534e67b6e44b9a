//! Agents: what each is assigned, who may restart it, and how far its newest switch has come.
//!
//! The row of an agent is its lock: every change here that depends on holding it names its holder and the epoch, and is
//! refused when either is not so any more.

use std::collections::BTreeMap;
use std::time::Duration;

use super::pool::{Param, PooledConnection, Postgres};
use super::{Store, StoreError, column, micros, sql};
use crate::engine::ContainerId;
use crate::ids::SessionId;
use crate::limits;

/// The state of an assignment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The assignment is decided.
    Assigned,
    /// The agent has answered under it.
    Ready,
    /// And its people were told: nothing is left to do.
    Notified,
    /// Another one took its place before it was finished.
    Failed,
}

/// Why an agent has the assignment that it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Every agent needs one.
    First,
    /// The subscription before it failed.
    Failure,
    /// An operator wished it.
    Operator,
}

impl Cause {
    fn word(self) -> &'static str {
        match self {
            Cause::First => "first",
            Cause::Failure => "failure",
            Cause::Operator => "operator",
        }
    }

    /// The cause that the word in a row means, if it means one.
    pub fn parse(word: &str) -> Option<Self> {
        [Cause::First, Cause::Failure, Cause::Operator].into_iter().find(|cause| cause.word() == word)
    }
}

/// The outcome of an operator's reassignment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reassignment {
    /// The agent has it now, by a switch of this epoch that is still to be finished.
    Assigned(i64),
    /// The agent had it already.
    Already(AgentRow),
    /// The agent has moved since the operator looked; nothing was changed.
    Moved(AgentRow),
    /// The agent has no assignment yet.
    NoAssignment,
}

impl State {
    /// The word in rows and answers.
    pub fn word(self) -> &'static str {
        match self {
            State::Assigned => "assigned",
            State::Ready => "ready",
            State::Notified => "notified",
            State::Failed => "failed",
        }
    }

    /// The state that the word means, if it means one.
    pub fn parse(word: &str) -> Option<Self> {
        [State::Assigned, State::Ready, State::Notified, State::Failed].into_iter().find(|state| state.word() == word)
    }

    /// Whether its agent answers turns.
    pub fn serves(self) -> bool {
        matches!(self, State::Ready | State::Notified)
    }

    /// Whether a supervisor must go on with it.
    pub fn is_unfinished(self) -> bool {
        matches!(self, State::Assigned | State::Ready)
    }
}

/// An agent's row, with the switch that made it so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentRow {
    /// The agent's name.
    pub agent: String,
    /// The subscription that is assigned.
    pub subscription: String,
    /// The serial of that assignment.
    pub epoch: i64,
    /// The container of this epoch, once there is one.
    pub container: Option<ContainerId>,
    /// The subscription that was assigned before, if any.
    pub before: Option<String>,
    /// Why it is not what it was before.
    pub cause: Cause,
    /// The state of the assignment.
    pub state: State,
}

impl Store {
    /// Reads which agent a session has.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn agent_of(&self, session: &SessionId) -> Result<Option<String>, StoreError> {
        let rows = self.one(sql::SESSION_AGENT, &[Param::Text(&session.0)]).await?;
        rows.first().map(|row| column(row, "agent")).transpose()
    }

    /// Makes sure that `agent` has an assignment; one that has none gets `subscription`. Returns whether it did.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: repeat it.
    pub async fn ensure_agent(&self, agent: &str, subscription: &str) -> Result<bool, StoreError> {
        Postgres::within(limits::POSTGRES_CALL, async {
            let connection = self.postgres.connection().await?;
            connection.begin().await?;
            let minted = connection.query(sql::AGENT_ENSURE, &[Param::Text(agent), Param::Text(subscription)]).await?;
            if minted.is_empty() {
                connection.roll_back().await?;
                return Ok(false);
            }
            begin_switch(&connection, agent, 1, ("", subscription), Cause::First).await?;
            connection.commit().await?;
            connection.release();
            Ok(true)
        })
        .await
    }

    /// An agent's row.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn agent(&self, agent: &str) -> Result<Option<AgentRow>, StoreError> {
        let rows = self.one(sql::AGENT_LOOK, &[Param::Text(agent)]).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let (state, cause): (&str, &str) = (column(row, "state")?, column(row, "cause")?);
        let unknown = |word: &str| StoreError::Refused(format!("agents and switches hold an unknown word, {word}"));
        Ok(Some(AgentRow {
            agent: agent.to_string(),
            subscription: column(row, "subscription")?,
            epoch: column(row, "epoch")?,
            container: column::<Option<String>>(row, "container")?.map(ContainerId),
            before: column(row, "from_subscription")?,
            cause: Cause::parse(cause).ok_or_else(|| unknown(cause))?,
            state: State::parse(state).ok_or_else(|| unknown(state))?,
        }))
    }

    /// Notes that the agent has answered, or was restarted, unless that was noted less than `lately` ago.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn agent_answered(&self, agent: &str, lately: Duration) -> Result<(), StoreError> {
        self.one(sql::AGENT_ANSWERED, &[Param::Text(agent), Param::Int(micros(lately))]).await.map(drop)
    }

    /// For how long the agent has answered nobody, as Postgres's clock has it. `None`: it never has.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn agent_silent(&self, agent: &str) -> Result<Option<Duration>, StoreError> {
        let rows = self.one(sql::AGENT_SILENT, &[Param::Text(agent)]).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        Ok(Some(Duration::from_micros(u64::try_from(column::<i64>(row, "silent")?).unwrap_or_default())))
    }

    /// Takes the agent's lock, or finds that `by` has it. False: another holder has it.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: repeat it under the same name.
    pub async fn lock_agent(&self, agent: &str, by: &str) -> Result<bool, StoreError> {
        let params = [Param::Text(agent), Param::Text(by), Param::Int(micros(limits::SWITCH_LOCK))];
        Ok(!self.one(sql::AGENT_LOCK, &params).await?.is_empty())
    }

    /// Keeps the lock for longer, if `by` holds it and, where `epoch` is given, the assignment is still that one.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn renew_agent(&self, agent: &str, by: &str, epoch: Option<i64>) -> Result<bool, StoreError> {
        Ok(!self.one(sql::AGENT_RENEW, &renewal(agent, by, epoch)).await?.is_empty())
    }

    /// Lets go of the lock.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: it lapses.
    pub async fn unlock_agent(&self, agent: &str, by: &str) -> Result<(), StoreError> {
        self.one(sql::AGENT_UNLOCK, &[Param::Text(agent), Param::Text(by)]).await.map(drop)
    }

    /// Assigns `subscription` to the agent if it still stands as `seen` and `by` holds its lock; the switch begins with
    /// it. Returns the new epoch.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: look again; it may have happened.
    pub async fn assign(&self, seen: &AgentRow, by: &str, subscription: &str) -> Result<Option<i64>, StoreError> {
        Postgres::within(limits::POSTGRES_CALL, async {
            let connection = self.postgres.connection().await?;
            connection.begin().await?;
            let params = [
                Param::Text(&seen.agent),
                Param::Text(by),
                Param::Int(seen.epoch),
                Param::Text(&seen.subscription),
                Param::Text(subscription),
            ];
            let rows = connection.query(sql::AGENT_ASSIGN, &params).await?;
            let Some(minted) = rows.first() else {
                connection.roll_back().await?;
                return Ok(None);
            };
            let epoch = column(minted, "epoch")?;
            begin_switch(&connection, &seen.agent, epoch, (&seen.subscription, subscription), Cause::Failure).await?;
            connection.commit().await?;
            connection.release();
            Ok(Some(epoch))
        })
        .await
    }

    /// Assigns `subscription` to the agent for an operator who saw it under `epoch`, whichever process holds its lock: a switch
    /// that is not finished yet has failed with that.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: repeat it; if it happened, it is [`Reassignment::Already`] then.
    pub async fn reassign(&self, agent: &str, epoch: i64, subscription: &str) -> Result<Reassignment, StoreError> {
        let Some(seen) = self.agent(agent).await? else { return Ok(Reassignment::NoAssignment) };
        if seen.epoch == epoch
            && seen.subscription != subscription
            && let Some(minted) = self.overtake(&seen, subscription).await?
        {
            return Ok(Reassignment::Assigned(minted));
        }
        // An assignment never goes away.
        let now = self.agent(agent).await?.unwrap_or(seen);
        Ok(if now.subscription == subscription { Reassignment::Already(now) } else { Reassignment::Moved(now) })
    }

    /// The next assignment of an agent that still stands as `seen`. Returns its epoch.
    async fn overtake(&self, seen: &AgentRow, subscription: &str) -> Result<Option<i64>, StoreError> {
        Postgres::within(limits::POSTGRES_CALL, async {
            let (connection, agent) = (self.postgres.connection().await?, Param::Text(&seen.agent));
            connection.begin().await?;
            let params = [agent, Param::Int(seen.epoch), Param::Text(&seen.subscription), Param::Text(subscription)];
            let rows = connection.query(sql::AGENT_REASSIGN, &params).await?;
            let Some(minted) = rows.first() else {
                connection.roll_back().await?;
                return Ok(None);
            };
            let epoch = column(minted, "epoch")?;
            connection.query(sql::SWITCH_FAIL, &[Param::Text(&seen.agent), Param::Int(seen.epoch)]).await?;
            begin_switch(&connection, &seen.agent, epoch, (&seen.subscription, subscription), Cause::Operator).await?;
            connection.commit().await?;
            connection.release();
            Ok(Some(epoch))
        })
        .await
    }

    /// Records the agent's container, if `by` holds the lock and the row is still as `seen`.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: repeat it.
    pub async fn record_container(
        &self,
        seen: &AgentRow,
        by: &str,
        container: &ContainerId,
    ) -> Result<bool, StoreError> {
        let params = [
            Param::Text(&seen.agent),
            Param::Text(by),
            Param::Int(seen.epoch),
            Param::Text(seen.container.as_ref().map_or("", |seen| &seen.0)),
            Param::Text(&container.0),
        ];
        Ok(!self.one(sql::AGENT_CONTAINER, &params).await?.is_empty())
    }

    /// Records that a call failed on the assignment that `seen` shows, once per `call`, if that still stands and `by`
    /// holds the lock. False: nothing was recorded.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: repeat it.
    pub async fn record_failure(&self, seen: &AgentRow, by: &str, call: &str, kind: &str) -> Result<bool, StoreError> {
        let record = [
            Param::Text(call),
            Param::Text(&seen.agent),
            Param::Text(&seen.subscription),
            Param::Int(seen.epoch),
            Param::Text(kind),
        ];
        self.under_lock(seen, by, &[(sql::SUBSCRIPTION_FAIL, &record)]).await
    }

    /// The subscriptions that have failed, on any agent, within [`limits::SKIP_WINDOW`], and how long that counts yet.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn failed_lately(&self) -> Result<BTreeMap<String, Duration>, StoreError> {
        let window = [Param::Int(micros(limits::SKIP_WINDOW))];
        let rows = self.one(sql::SUBSCRIPTION_FAILED_LATELY, &window).await?;
        let failed = rows.iter().map(|row| {
            let counts_for = u64::try_from(column::<i64>(row, "counts_for")?).unwrap_or_default();
            Ok((column(row, "subscription")?, Duration::from_micros(counts_for)))
        });
        failed.collect()
    }

    /// Deletes failures that are older than [`limits::FAILURES_KEPT`].
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn forget_failures(&self) -> Result<(), StoreError> {
        self.one(sql::SUBSCRIPTION_FORGET, &[Param::Int(micros(limits::FAILURES_KEPT))]).await.map(drop)
    }

    /// Whether the agent's newest switch is unfinished and its lock is free.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn has_unfinished_switch(&self, agent: &str) -> Result<bool, StoreError> {
        Ok(!self.one(sql::SWITCH_UNFINISHED, &[Param::Text(agent)]).await?.is_empty())
    }

    /// The agent of the assignment that `seen` shows has answered. False: `by` does not hold the lock, or the
    /// assignment is not that one any more.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: repeat it.
    pub async fn switch_ready(&self, seen: &AgentRow, by: &str) -> Result<bool, StoreError> {
        self.under_lock(seen, by, &[(sql::SWITCH_READY, &[Param::Text(&seen.agent), Param::Int(seen.epoch)])]).await
    }

    /// Finishes the switch, and leaves `notice`, if there is one, in the same transaction. False as in
    /// [`Store::switch_ready`].
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: repeat it.
    pub async fn switch_notified(&self, seen: &AgentRow, by: &str, notice: Option<&str>) -> Result<bool, StoreError> {
        let which = [Param::Text(&seen.agent), Param::Int(seen.epoch)];
        let id = format!("switch/{}/{}", seen.agent, seen.epoch);
        let body = notice.unwrap_or_default();
        let leave = [Param::Text(&id), Param::Text(&seen.agent), Param::Int(seen.epoch), Param::Text(body)];
        let both: [(sql::Statement, &[Param<'_>]); 2] = [(sql::NOTICE_SWITCH, &leave), (sql::SWITCH_NOTIFIED, &which)];
        self.under_lock(seen, by, if notice.is_some() { &both } else { &both[1..] }).await
    }

    /// `statements` in one transaction, if `by` holds the lock and the assignment still stands as `seen`.
    async fn under_lock(
        &self,
        seen: &AgentRow,
        by: &str,
        statements: &[(sql::Statement, &[Param<'_>])],
    ) -> Result<bool, StoreError> {
        Postgres::within(limits::POSTGRES_CALL, async {
            let connection = self.postgres.connection().await?;
            connection.begin().await?;
            if connection.query(sql::AGENT_RENEW, &renewal(&seen.agent, by, Some(seen.epoch))).await?.is_empty() {
                connection.roll_back().await?;
                return Ok(false);
            }
            for (statement, params) in statements {
                connection.query(*statement, params).await?;
            }
            connection.commit().await?;
            connection.release();
            Ok(true)
        })
        .await
    }
}

fn renewal<'a>(agent: &'a str, by: &'a str, epoch: Option<i64>) -> [Param<'a>; 4] {
    let lock = Param::Int(micros(limits::SWITCH_LOCK));
    [Param::Text(agent), Param::Text(by), lock, Param::Int(epoch.unwrap_or(0))]
}

async fn begin_switch(
    connection: &PooledConnection,
    agent: &str,
    epoch: i64,
    (from, to): (&str, &str),
    cause: Cause,
) -> Result<(), StoreError> {
    let params = [Param::Text(agent), Param::Int(epoch), Param::Text(from), Param::Text(to), Param::Text(cause.word())];
    connection.query(sql::SWITCH_BEGIN, &params).await.map(drop)
}
