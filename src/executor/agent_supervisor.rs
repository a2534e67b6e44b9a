//! Looking after one agent: seeing that its container is there and answers, and hearing of its failures. Each agent has a
//! task of its own, so that none waits for another; a run that is cancelled does not stop the switch that it began.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::Executor;
use super::switch::{Failure, Trouble, Verdict};
use crate::backoff::Backoff;
use crate::limits;
use crate::store::StoreError;

/// What runs tell of an agent.
#[derive(Debug)]
pub(super) enum Report {
    /// A call failed because of its subscription.
    Failed(Failure, oneshot::Sender<Verdict>),
    /// It does not answer: somebody shall look at its container.
    Away,
}

/// Looks after one agent.
pub(super) struct Tender {
    pub executor: Arc<Executor>,
    pub agent: String,
}

impl Executor {
    /// Begins to look after every agent. `reports` are the receiving ends of `self.reports`.
    pub(super) fn tend_all(self: &Arc<Self>, reports: Vec<(String, mpsc::Receiver<Report>)>) {
        for (agent, reports) in reports {
            let tender = Tender { executor: self.clone(), agent };
            self.spawn(tender.tend(reports));
        }
        self.spawn(self.clone().keep_forgetting());
    }

    /// Deletes what is kept of failures that nobody asks for any more.
    async fn keep_forgetting(self: Arc<Self>) {
        loop {
            tokio::time::sleep(limits::FAILURES_SWEPT).await;
            if let Err(error) = self.store.forget_failures().await {
                tracing::warn!(%error, "old failures are kept for another while");
            }
        }
    }
}

/// When to do what next.
struct Schedule {
    inspect_at: Instant,
    /// After a restart that did not succeed.
    retry_at: Instant,
    pause: Duration,
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

impl Tender {
    async fn tend(self, mut reports: mpsc::Receiver<Report>) {
        self.ensure().await;
        let now = Instant::now();
        let mut schedule = Schedule { inspect_at: now, retry_at: now, pause: limits::TEND_EVERY };
        loop {
            if let Err(error) = self.look_after(&mut schedule).await {
                tracing::warn!(agent = self.agent, %error, "an agent waits");
                schedule.failed();
            }
            match tokio::time::timeout(limits::TEND_EVERY, reports.recv()).await {
                Ok(None) => return,
                Ok(Some(Report::Away)) => schedule.inspect_at = Instant::now(),
                Ok(Some(Report::Failed(failure, tell))) => {
                    let verdict = self.handle(&failure).await.unwrap_or_else(|error| {
                        tracing::warn!(agent = self.agent, %error, "a failed subscription is left as it is for now");
                        Verdict::LookAgain
                    });
                    // The run may have been stopped meanwhile.
                    let _ = tell.send(verdict);
                }
                Err(_) => {}
            }
        }
    }

    /// Its first assignment, for as long as Postgres needs.
    async fn ensure(&self) {
        let first = &self.executor.config.subscriptions[0].name;
        let mut backoff = Backoff::default();
        loop {
            match self.executor.store.ensure_agent(&self.agent, first).await {
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

    async fn look_after(&self, schedule: &mut Schedule) -> Result<(), Trouble> {
        if Instant::now() < schedule.retry_at {
            return Ok(());
        }
        if self.executor.store.has_unfinished_switch(&self.agent).await? {
            self.take_up().await?;
            schedule.succeeded();
        } else if Instant::now() >= schedule.inspect_at {
            schedule.inspect_at = Instant::now() + limits::INSPECT_EVERY;
            if !self.is_sound().await? {
                self.repair().await?;
            }
            schedule.succeeded();
        }
        Ok(())
    }

    /// Finishes a switch that nobody finishes, unless somebody is faster.
    async fn take_up(&self) -> Result<(), Trouble> {
        let (store, by) = (&self.executor.store, self.name_of_lock());
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

    /// Whether exactly the container that the row names is there, and runs. An agent that is being switched is somebody
    /// else's to look after.
    async fn is_sound(&self) -> Result<bool, Trouble> {
        let Some(row) = self.settled().await? else { return Ok(true) };
        let there = self.executor.engine.list(&self.agent).await?;
        let named = |id| row.container.as_ref() == Some(id);
        Ok(matches!(&there[..], [only] if named(&only.id) && only.running))
    }

    async fn settled(&self) -> Result<Option<crate::store::AgentRow>, StoreError> {
        Ok(self.executor.store.agent(&self.agent).await?.filter(|row| !row.state.is_unfinished()))
    }

    async fn repair(&self) -> Result<(), Trouble> {
        let by = self.name_of_lock();
        if !self.executor.store.lock_agent(&self.agent, &by).await? {
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
