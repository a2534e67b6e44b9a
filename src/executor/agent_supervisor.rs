//! The supervisor of one agent: it sees that the agent's container is there and answers, restarts one that hangs, and
//! receives reports of failures. Each agent has a supervisor in a task of its own, so that none waits for another; a run that is cancelled
//! does not stop the switch that its report began.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::switch::{Failure, SwitchError, Verdict};
use crate::agent::Client;
use crate::backoff::Backoff;
use crate::config::Subscription;
use crate::engine::{Container, ContainerId, Engine};
use crate::ids::{Mint, Owner};
use crate::limits;
use crate::store::{AgentRow, Store, StoreError};

/// A run's report of an agent.
#[derive(Debug)]
pub(super) enum Report {
    /// A call failed because of its subscription. The sender takes what came of it.
    Failed(Failure, oneshot::Sender<Verdict>),
    /// The agent does not answer: its container is to be inspected.
    Away,
}

/// The settings that all agents' containers share.
pub(super) struct AgentSettings {
    pub image: String,
    /// The host at which containers' published ports are reached.
    pub host: String,
    /// The subscriptions, in the order of choice.
    pub subscriptions: Vec<Subscription>,
    /// The model provider's address, as agents read it.
    pub provider: String,
    pub model: String,
    pub history_limit: Option<String>,
    pub model_silence: Duration,
}

/// The supervisor of one agent.
#[derive(Clone)]
pub(super) struct AgentSupervisor {
    pub agent: String,
    pub store: Store,
    pub engine: Engine,
    pub client: Client,
    pub settings: Arc<AgentSettings>,
    pub owner: Owner,
    pub mint: Arc<Mint>,
}

/// Deletes what is kept of failures that no choice of a subscription asks for any more, until it is dropped.
pub(super) async fn forget_failures(store: Store) {
    loop {
        tokio::time::sleep(limits::FAILURES_SWEPT).await;
        if let Err(error) = store.forget_failures().await {
            tracing::warn!(%error, "old failures are kept for another while");
        }
    }
}

/// The finding of an inspection.
enum Sound {
    /// A switch is going on: the container is the switch's.
    BeingSwitched,
    /// The agent has another container than its row says, or none that runs.
    No,
    /// The agent has the one container that its row says, and that runs.
    Yes(AgentRow, Container),
}

/// The times of the next inspection and the next try.
struct Schedule {
    inspect_at: Instant,
    /// After a restart that did not succeed.
    retry_at: Instant,
    pause: Duration,
    /// The first of the looks in a row at which the agent did not answer.
    silent_since: Option<Instant>,
    /// The published port of the agent's container, as far as it is known.
    port: Option<(ContainerId, u16)>,
}

impl Schedule {
    fn failed(&mut self) {
        self.retry_at = Instant::now() + self.pause;
        self.pause = (self.pause * 2).min(limits::TEND_BACKOFF);
    }

    fn succeeded(&mut self) {
        self.pause = limits::TEND_EVERY;
    }
}

impl AgentSupervisor {
    /// Supervises until every sender of reports is gone.
    pub(super) async fn run(self, mut reports: mpsc::Receiver<Report>) {
        self.ensure().await;
        let now = Instant::now();
        let mut schedule =
            Schedule { inspect_at: now, retry_at: now, pause: limits::TEND_EVERY, silent_since: None, port: None };
        loop {
            if let Err(error) = self.inspect(&mut schedule).await {
                tracing::warn!(agent = self.agent, %error, "an agent waits");
                schedule.failed();
            }
            match tokio::time::timeout(limits::TEND_EVERY, reports.recv()).await {
                Ok(None) => return,
                Ok(Some(Report::Away)) => schedule.inspect_at = Instant::now(),
                Ok(Some(Report::Failed(failure, reply))) => {
                    let verdict = self.handle(&failure).await.unwrap_or_else(|error| {
                        tracing::warn!(agent = self.agent, %error, "a failed subscription is left as it is for now");
                        Verdict::LookAgain
                    });
                    // The run may have been stopped meanwhile.
                    let _ = reply.send(verdict);
                }
                Err(_) => {}
            }
        }
    }

    /// Gives the agent its first assignment, for as long as Postgres needs.
    async fn ensure(&self) {
        let first = &self.settings.subscriptions[0].name;
        let mut backoff = Backoff::default();
        loop {
            match self.store.ensure_agent(&self.agent, first).await {
                Ok(true) => {
                    tracing::info!(agent = self.agent, epoch = 1, from = "none", to = first, "switch assigned");
                    return;
                }
                Ok(false) => return,
                Err(error) => tracing::warn!(agent = self.agent, %error, "an agent waits for its assignment"),
            }
            backoff.wait().await;
        }
    }

    async fn inspect(&self, schedule: &mut Schedule) -> Result<(), SwitchError> {
        if Instant::now() < schedule.retry_at {
            return Ok(());
        }
        if self.store.has_unfinished_switch(&self.agent).await? {
            self.take_up().await?;
            schedule.succeeded();
        } else if Instant::now() >= schedule.inspect_at {
            schedule.inspect_at = Instant::now() + limits::INSPECT_EVERY;
            match self.sound().await? {
                Sound::No => self.repair().await?,
                Sound::BeingSwitched => {}
                Sound::Yes(row, container) => self.listen(&row, &container, schedule).await?,
            }
            schedule.succeeded();
        }
        Ok(())
    }

    /// Finishes a switch that its holder left unfinished, unless another process holds the lock.
    async fn take_up(&self) -> Result<(), SwitchError> {
        let (store, by) = (&self.store, self.name_of_lock());
        if !store.lock_agent(&self.agent, &by).await? {
            return Ok(());
        }
        let finish = async {
            match store.agent(&self.agent).await?.filter(|row| row.state.is_unfinished()) {
                Some(row) => self.finish(row, &by).await,
                None => Ok(()),
            }
        };
        self.holding(&by, finish).await
    }

    /// Whether exactly the container that the row names is there, and runs. An agent that is being switched is the
    /// switch's.
    async fn sound(&self) -> Result<Sound, SwitchError> {
        let Some(row) = self.settled().await? else { return Ok(Sound::BeingSwitched) };
        let mut there = self.engine.list(&self.agent).await?;
        let named = |container: &Container| row.container.as_ref() == Some(&container.id) && container.running;
        Ok(match there.pop().filter(|container| there.is_empty() && named(container)) {
            Some(only) => Sound::Yes(row, only),
            None => Sound::No,
        })
    }

    /// Asks a sound agent for its health. One that has not answered this executor for [`limits::AGENT_HANGS`], nor
    /// anybody else for [`limits::AGENT_UNHEARD`], is restarted.
    async fn listen(&self, row: &AgentRow, container: &Container, schedule: &mut Schedule) -> Result<(), SwitchError> {
        if self.answers(row, container, &mut schedule.port).await? {
            schedule.silent_since = None;
            return Ok(self.store.agent_answered(&self.agent, limits::TEND_EVERY).await?);
        }
        let now = Instant::now();
        schedule.port = None;
        schedule.inspect_at = now + limits::TEND_EVERY;
        if now.duration_since(*schedule.silent_since.get_or_insert(now)) >= limits::AGENT_HANGS && self.hangs().await? {
            self.restart(row, container).await?;
            schedule.silent_since = None;
        }
        Ok(())
    }

    async fn answers(
        &self,
        row: &AgentRow,
        container: &Container,
        known: &mut Option<(ContainerId, u16)>,
    ) -> Result<bool, SwitchError> {
        if known.as_ref().is_none_or(|(id, _)| *id != container.id) {
            // A list of containers shows no ports.
            let published = self.engine.inspect(&container.id.0).await?.and_then(|container| container.published);
            *known = published.map(|port| (container.id.clone(), port));
        }
        let Some((_, port)) = known else { return Ok(false) };
        match self.client.health(&format!("{}:{port}", self.settings.host)).await {
            Ok(health) => Ok(health.agent == row.agent && health.epoch == row.epoch),
            Err(why) => {
                tracing::info!(agent = self.agent, why, "an agent whose container runs does not answer");
                Ok(false)
            }
        }
    }

    /// Whether no executor has had an answer of the agent lately: one that this executor alone cannot reach does not hang.
    async fn hangs(&self) -> Result<bool, StoreError> {
        Ok(self.store.agent_silent(&self.agent).await?.is_none_or(|silent| silent >= limits::AGENT_UNHEARD))
    }

    /// Stops and starts the container of an agent that hangs, unless somebody has done it meanwhile.
    async fn restart(&self, row: &AgentRow, container: &Container) -> Result<(), SwitchError> {
        let by = self.name_of_lock();
        if !self.store.lock_agent(&self.agent, &by).await? {
            return Ok(());
        }
        let restart = async {
            if self.settled().await?.as_ref() != Some(row) || !self.hangs().await? {
                return Ok(());
            }
            tracing::warn!(agent = self.agent, epoch = row.epoch, container = %container.id, "the agent hangs: restarted");
            self.still_ours(row, &by).await?;
            self.engine.stop(&container.id).await?;
            // It has as long again from here on.
            self.store.agent_answered(&self.agent, Duration::ZERO).await?;
            self.bring_up(row, &by).await
        };
        self.holding(&by, restart).await
    }

    async fn settled(&self) -> Result<Option<AgentRow>, StoreError> {
        Ok(self.store.agent(&self.agent).await?.filter(|row| !row.state.is_unfinished()))
    }

    async fn repair(&self) -> Result<(), SwitchError> {
        let by = self.name_of_lock();
        if !self.store.lock_agent(&self.agent, &by).await? {
            return Ok(());
        }
        let repair = async {
            match self.settled().await? {
                Some(row) => {
                    tracing::warn!(
                        agent = self.agent,
                        epoch = row.epoch,
                        "the agent's container is not as it should be"
                    );
                    self.bring_up(&row, &by).await
                }
                None => Ok(()),
            }
        };
        self.holding(&by, repair).await
    }
}
