//! The calls of a turn to the session's agent, repeated until one is answered. A call that was cut by a restart of the
//! agent does not count against the turn; one that failed at the provider does.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::agent_supervisor::Report;
use super::switch::{Failure, Verdict};
use crate::agent::{Callee, Client, TurnError};
use crate::backoff::Backoff;
use crate::engine::{ContainerId, Engine};
use crate::limits;
use crate::live::{Frames, Kind};
use crate::provider::{CallName, Finish, Said};
use crate::retry::retry;
use crate::run::{End, NO_SUBSCRIPTION};
use crate::store::{AgentRow, Claimed, Store, StoreError};

/// The attempts at one turn so far.
struct Attempts {
    /// The failed attempts that count, of [`limits::ATTEMPTS_PER_TURN`].
    failed: u32,
    /// The time since which the agent is away.
    away_since: Option<Instant>,
    /// The rest of [`limits::RATE_LIMIT_WAIT`] under the present assignment.
    may_wait: Duration,
    /// The rest of [`limits::RATE_LIMIT_PATIENCE`] under it.
    patience: Duration,
    backoff: Backoff,
}

impl Attempts {
    /// Counts a failed attempt. The last one ends the run.
    fn count(&mut self, why: impl ToString) -> Result<(), End> {
        self.failed += 1;
        if self.failed < limits::ATTEMPTS_PER_TURN { Ok(()) } else { Err(End::failed(why.to_string())) }
    }

    /// Waits as long as the provider asks for, if it says so and that costs less than a switch. Returns whether it has
    /// waited: nothing has failed then.
    async fn has_waited(&mut self, retry_after: Option<Duration>) -> bool {
        let wait = retry_after.map(|asked| asked.max(self.backoff.next()));
        let Some(wait) = wait.filter(|wait| *wait <= self.may_wait) else { return false };
        self.may_wait -= wait;
        self.backoff.wait_at_least(wait).await;
        true
    }

    /// The same where there is nothing to switch to, and for as long as a user's patience lasts.
    async fn has_waited_long(&mut self, retry_after: Option<Duration>) -> bool {
        let wait = retry_after.map(|asked| asked.max(self.backoff.next()));
        let Some(wait) = wait.filter(|wait| *wait <= self.patience) else { return false };
        self.patience -= wait;
        self.backoff.wait_at_least(wait).await;
        true
    }

    /// The agent has another assignment.
    fn moved(&mut self) {
        self.backoff.reset();
        (self.may_wait, self.patience) = (limits::RATE_LIMIT_WAIT, limits::RATE_LIMIT_PATIENCE);
    }
}

/// What came of a failed subscription.
enum Failed {
    /// The agent has another one now, or is getting it.
    Moved,
    /// There is no other one, and the provider has been waited for, as it asked.
    Waited,
    /// It is tried again, and that counts.
    Stays,
}

/// The calls to agents.
pub(super) struct Calls {
    pub store: Store,
    pub engine: Engine,
    pub client: Client,
    /// Where each agent's supervisor receives reports.
    pub reports: BTreeMap<String, mpsc::Sender<Report>>,
    /// The host at which containers' published ports are reached.
    pub agent_host: String,
    /// The published port of each agent's container, as far as it is known.
    pub ports: Mutex<BTreeMap<String, (ContainerId, u16)>>,
}

impl Calls {
    fn ports(&self) -> MutexGuard<'_, BTreeMap<String, (ContainerId, u16)>> {
        self.ports.lock().expect("nothing panics while it holds the ports")
    }

    /// Has the session's agent answer this turn. Waits for the agent for as long as the run may last.
    pub(super) async fn answer(
        &self,
        claimed: &Claimed,
        turn: i64,
        said: &[Said],
        frames: &Frames,
    ) -> Result<(String, Finish), End> {
        let agent = self.agent_of(claimed).await?;
        let mut attempts = Attempts {
            failed: 0,
            away_since: None,
            may_wait: limits::RATE_LIMIT_WAIT,
            patience: limits::RATE_LIMIT_PATIENCE,
            backoff: Backoff::default(),
        };
        for attempt in 1.. {
            let (under, host) = self.ready(&agent).await?;
            // Somebody may have tried the first turn under an older fence.
            if attempt > 1 || (turn == claimed.turns + 1 && claimed.fence.0 > 1) {
                frames.push(turn, Kind::TurnRestarted, "");
            }
            let name = CallName { run: claimed.run.clone(), fence: claimed.fence, turn, attempt };
            let callee = Callee { host: &host, agent: &under.agent, epoch: under.epoch };
            let token = |token: &str| frames.push(turn, Kind::Token, token);
            let error = match self.client.turn(callee, &name, &claimed.session, said, token).await {
                Ok(answered) => return Ok(answered),
                Err(error) => error,
            };
            tracing::warn!(run = %claimed.run, turn, attempt, %error, "a call failed");
            if !matches!(error, TurnError::Away(_)) {
                attempts.away_since = None;
            }
            match error {
                TurnError::Subscription { retry_after, .. } if attempts.has_waited(retry_after).await => continue,
                TurnError::Subscription { kind, retry_after, .. } => {
                    let failure = Failure { under, call: name.to_string(), kind };
                    match self.report(failure, retry_after, &mut attempts).await? {
                        Failed::Moved => {
                            attempts.moved();
                            continue;
                        }
                        Failed::Waited => continue,
                        Failed::Stays => {}
                    }
                }
                // However long that takes: a run has its own bound.
                TurnError::Busy => {}
                TurnError::Refused(_) => return Err(End::failed(error.to_string())),
                error => self.count_failure(&under, error, &mut attempts).await?,
            }
            attempts.backoff.wait().await;
        }
        unreachable!("it is tried until it is answered or the run ends")
    }

    /// Reports a failed subscription.
    async fn report(
        &self,
        failure: Failure,
        retry_after: Option<Duration>,
        attempts: &mut Attempts,
    ) -> Result<Failed, End> {
        let (agent, epoch) = (failure.under.agent.clone(), failure.under.epoch);
        let why = format!("the subscription {} failed", failure.under.subscription);
        let Some(reports) = self.reports.get(&agent) else {
            return Err(End::failed(format!("{why}, and {agent} is not in this executor's LYCHGATE_AGENTS")));
        };
        let (reply, verdict) = oneshot::channel();
        // The agent's task lives as long as any run; its answer may take as long as a restart.
        let reported = reports.send(Report::Failed(failure, reply)).await.is_ok();
        let verdict = if reported { verdict.await.unwrap_or(Verdict::LookAgain) } else { Verdict::LookAgain };
        if let Verdict::NoCandidate(frees_in) = verdict {
            if attempts.has_waited_long(retry_after).await {
                tracing::warn!(agent, "there is no other subscription: it has waited as long as the provider asks for");
                return Ok(Failed::Waited);
            }
            let frees_in = retry_after.into_iter().chain(frees_in).min();
            let again = frees_in.map(|frees_in| format!("; try again in {} s", frees_in.as_secs() + 1));
            let again = again.unwrap_or_default();
            return Err(End::failed(format!("{NO_SUBSCRIPTION}: {why} and there is no other one{again}")));
        }
        if self.row(&agent).await?.is_none_or(|row| row.epoch != epoch) {
            return Ok(Failed::Moved);
        }
        attempts.count(why)?;
        Ok(Failed::Stays)
    }

    /// Decides whether a failed call counts against its turn.
    async fn count_failure(&self, under: &AgentRow, error: TurnError, attempts: &mut Attempts) -> Result<(), End> {
        if self.has_moved(under, &error).await? {
            return Ok(());
        }
        match error {
            TurnError::Away(_) => {
                let since = *attempts.away_since.get_or_insert_with(Instant::now);
                if since.elapsed() < limits::AGENT_AWAY { Ok(()) } else { attempts.count(error) }
            }
            error => attempts.count(error),
        }
    }

    /// Whether the agent was stopped, restarted or switched since the call began.
    async fn has_moved(&self, under: &AgentRow, error: &TurnError) -> Result<bool, End> {
        let row = self.row(&under.agent).await?;
        let same =
            |row: &AgentRow| row.state.serves() && (row.epoch, &row.container) == (under.epoch, &under.container);
        if !row.as_ref().is_some_and(same) {
            return Ok(true);
        }
        let Some(container) = under.container.as_ref().filter(|_| !matches!(error, TurnError::Provider(_))) else {
            return Ok(false);
        };
        // Its port may be another one after a restart.
        self.ports().remove(&under.agent);
        self.report_away(&under.agent);
        match self.engine.inspect(&container.0).await {
            Ok(container) => Ok(!container.is_some_and(|container| container.running)),
            Err(error) => {
                tracing::warn!(agent = under.agent, %error, "whether the agent runs is unknown");
                Ok(false)
            }
        }
    }

    /// Has the supervisor inspect the agent's container. One such report at a time is enough.
    fn report_away(&self, agent: &str) {
        if let Some(reports) = self.reports.get(agent) {
            // Full: it is looked at soon anyway.
            let _ = reports.try_send(Report::Away);
        }
    }

    /// Waits until the agent answers turns, and says under which assignment and where.
    async fn ready(&self, agent: &str) -> Result<(AgentRow, String), End> {
        let mut waits = false;
        loop {
            match self.row(agent).await? {
                Some(row) if row.state.serves() => match self.port(&row).await {
                    Some(port) => return Ok((row, format!("{}:{port}", self.agent_host))),
                    None => self.report_away(agent),
                },
                Some(_) => {}
                None if self.reports.contains_key(agent) => {}
                None => return Err(End::failed(format!("there is no agent {agent}; see LYCHGATE_AGENTS"))),
            }
            if !std::mem::replace(&mut waits, true) {
                tracing::info!(agent, "a turn waits for its agent");
            }
            tokio::time::sleep(limits::AGENT_POLL).await;
        }
    }

    /// The published port of the agent's container, if that runs.
    async fn port(&self, row: &AgentRow) -> Option<u16> {
        let id = row.container.as_ref()?;
        let known = self.ports().get(&row.agent).filter(|(known, _)| known == id).map(|(_, port)| *port);
        if known.is_some() {
            return known;
        }
        match self.engine.inspect(&id.0).await {
            Ok(container) => {
                let port = container.filter(|container| container.running)?.published?;
                // One entry an agent: as many as there are rows.
                self.ports().insert(row.agent.clone(), (id.clone(), port));
                Some(port)
            }
            Err(error) => {
                tracing::warn!(agent = row.agent, %error, "where the agent is reached is unknown");
                None
            }
        }
    }

    /// The agent's row. Waits for Postgres for as long as that takes: the heartbeat stops the run if it is lost
    /// meanwhile.
    async fn row(&self, agent: &str) -> Result<Option<AgentRow>, End> {
        retry("an agent's row", || self.store.agent(agent)).await.map_err(failed)
    }

    async fn agent_of(&self, claimed: &Claimed) -> Result<String, End> {
        let agent = retry("a session's agent", || self.store.agent_of(&claimed.session)).await.map_err(failed)?;
        agent.ok_or_else(|| End::failed("its session has vanished"))
    }
}

fn failed(error: StoreError) -> End {
    End::failed(error.to_string())
}
