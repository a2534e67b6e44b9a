//! Switches: an agent is moved to another subscription exactly once a failure, and under its lock, which holds across
//! processes and lapses with its holder. What is decided is a row in Postgres; a supervisor that finds it unfinished
//! goes on from where it stands.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::agent_supervisor::AgentSupervisor;
use crate::agent::{Kind, PORT};
use crate::config::{MODEL_SILENCE, Subscription};
use crate::engine::{Changed, ContainerId, Created, EngineError, LABEL_AGENT, LABEL_EPOCH, LABEL_SUBSCRIPTION, Spec};
use crate::limits;
use crate::store::{AgentRow, Cause, State, StoreError};

/// A call that failed because of the subscription, with what it ran under.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    /// The assignment at the time of the call.
    pub under: AgentRow,
    /// The call's name: a failure counts once.
    pub call: String,
    /// The kind of the failure.
    pub kind: Kind,
}

impl Failure {
    /// Whether the agent is still where the call found it.
    fn is_about(&self, row: &AgentRow) -> bool {
        (row.epoch, &row.subscription) == (self.under.epoch, &self.under.subscription)
    }
}

/// The outcome of a reported failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The agent has moved on, or is moving: look at its row again.
    LookAgain,
    /// The agent stays, because no subscription is left; the time until the next one may be tried again, if any.
    NoCandidate(Option<Duration>),
}

/// Why an agent is not where it should be. Its supervisor tries again.
#[derive(Debug, thiserror::Error)]
pub(super) enum SwitchError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("the agent's lock was lost")]
    LockLost,
    #[error("somebody else has held the agent's lock for too long")]
    LockTaken,
    #[error("the agent did not become ready: {0}")]
    NotReady(String),
    #[error("the agent's subscription `{0}` is not in LYCHGATE_SUBSCRIPTIONS; add it again, or assign another")]
    UnknownSubscription(String),
}

impl AgentSupervisor {
    /// Handles one failed call: at most one switch follows, and none if the agent has moved since the call.
    pub(super) async fn handle(&self, failure: &Failure) -> Result<Verdict, SwitchError> {
        let by = self.name_of_lock();
        let waits_until = Instant::now() + limits::SWITCH_WAIT;
        loop {
            if !self.store.agent(&self.agent).await?.is_some_and(|row| failure.is_about(&row)) {
                return Ok(Verdict::LookAgain);
            }
            if self.store.lock_agent(&self.agent, &by).await? {
                break;
            }
            if Instant::now() >= waits_until {
                return Err(SwitchError::LockTaken);
            }
            tokio::time::sleep(limits::SWITCH_POLL).await;
        }
        self.holding(&by, self.switch(failure, &by)).await
    }

    /// Under the lock: a switch that its holder left unfinished first, then this one.
    async fn switch(&self, failure: &Failure, by: &str) -> Result<Verdict, SwitchError> {
        let store = &self.store;
        if let Some(row) = store.agent(&self.agent).await?.filter(|row| row.state.is_unfinished()) {
            self.finish(row, by).await?;
        }
        let Some(row) = store.agent(&self.agent).await?.filter(|row| failure.is_about(row)) else {
            return Ok(Verdict::LookAgain);
        };
        // Refused if the agent has moved: a stale failure leaves no trace.
        if !store.record_failure(&row, by, &failure.call, failure.kind.word()).await? {
            return Err(SwitchError::LockLost);
        }
        let failed = store.failed_lately().await?;
        let Some(next) = candidate(&self.settings.subscriptions, &row.subscription, &failed) else {
            let others = self.settings.subscriptions.iter().filter(|each| each.name != row.subscription);
            let frees_in = others.filter_map(|each| failed.get(&each.name)).min().copied();
            tracing::warn!(agent = self.agent, subscription = row.subscription, "no subscription to switch to");
            return Ok(Verdict::NoCandidate(frees_in));
        };
        let Some(epoch) = store.assign(&row, by, &next.name).await? else { return Err(SwitchError::LockLost) };
        tracing::info!(agent = self.agent, epoch, from = row.subscription, to = next.name, "switch assigned");
        match store.agent(&self.agent).await?.filter(|row| row.epoch == epoch) {
            Some(row) => self.finish_or_leave(row, by).await,
            None => tracing::warn!(agent = self.agent, epoch, "the switch was overtaken"),
        }
        Ok(Verdict::LookAgain)
    }

    async fn finish_or_leave(&self, row: AgentRow, by: &str) {
        let epoch = row.epoch;
        if let Err(error) = self.finish(row, by).await {
            tracing::warn!(agent = self.agent, epoch, %error, "the switch is left unfinished for now");
        }
    }

    /// Under the lock: brings an assignment from where it stands to its end.
    pub(super) async fn finish(&self, row: AgentRow, by: &str) -> Result<(), SwitchError> {
        let (store, epoch) = (&self.store, row.epoch);
        let from = row.before.as_deref().unwrap_or("none");
        if row.state == State::Assigned {
            self.bring_up(&row, by).await?;
            if !store.switch_ready(&row, by).await? {
                return Err(SwitchError::LockLost);
            }
            tracing::info!(agent = self.agent, epoch, from, to = row.subscription, "switch ready");
        }
        if !store.switch_notified(&row, by, notice(&row).as_deref()).await? {
            return Err(SwitchError::LockLost);
        }
        tracing::info!(agent = self.agent, epoch, from, to = row.subscription, "switch notified");
        Ok(())
    }

    /// Under the lock: sees that the container of this assignment, and no other one of this agent, is there and
    /// answers.
    pub(super) async fn bring_up(&self, row: &AgentRow, by: &str) -> Result<(), SwitchError> {
        let engine = &self.engine;
        for other in engine.list(&self.agent).await?.iter().filter(|other| other.epoch() != Some(row.epoch)) {
            self.still_ours(row, by).await?;
            engine.stop(&other.id).await?;
            self.still_ours(row, by).await?;
            engine.remove(&other.id).await?;
            tracing::info!(agent = self.agent, container = %other.id, epoch = other.epoch(), "container removed");
        }
        let known = match &row.container {
            Some(id) => engine.inspect(&id.0).await?.map(|container| container.id),
            None => None,
        };
        let id = match known {
            Some(id) => id,
            None => self.create(row, by).await?,
        };
        self.still_ours(row, by).await?;
        match engine.start(&id).await? {
            Changed::Done => {
                tracing::info!(agent = self.agent, epoch = row.epoch, container = %id, "container started")
            }
            Changed::Already => {}
            Changed::Gone => return Err(SwitchError::NotReady("its container has vanished".into())),
        }
        self.wait_ready(row, &id, by).await
    }

    /// Creates the container of this assignment, or adopts the one that an earlier try has made, and records which it
    /// is.
    async fn create(&self, row: &AgentRow, by: &str) -> Result<ContainerId, SwitchError> {
        let engine = &self.engine;
        let spec = self.spec(row)?;
        self.still_ours(row, by).await?;
        let id = match engine.create(&spec).await? {
            Created::New(id) => {
                tracing::info!(agent = self.agent, epoch = row.epoch, container = %id, "container created");
                id
            }
            Created::NameTaken => {
                let there = engine.inspect(&spec.name).await?.filter(|there| there.epoch() == Some(row.epoch));
                let vanished = || SwitchError::NotReady(format!("{} is there, but is not its container", spec.name));
                let id = there.ok_or_else(vanished)?.id;
                tracing::info!(agent = self.agent, epoch = row.epoch, container = %id, "container adopted");
                id
            }
        };
        if !self.store.record_container(row, by, &id).await? {
            return Err(SwitchError::LockLost);
        }
        Ok(id)
    }

    fn spec(&self, row: &AgentRow) -> Result<Spec, SwitchError> {
        let config = &self.settings;
        let subscription = config.subscriptions.iter().find(|each| each.name == row.subscription);
        let subscription = subscription.ok_or_else(|| SwitchError::UnknownSubscription(row.subscription.clone()))?;
        let mut environment = BTreeMap::from([
            ("LYCHGATE_AGENT", self.agent.clone()),
            ("LYCHGATE_EPOCH", row.epoch.to_string()),
            ("LYCHGATE_SUBSCRIPTION", subscription.name.clone()),
            ("LYCHGATE_SUBSCRIPTION_TOKEN", subscription.token.clone()),
            ("LYCHGATE_PROVIDER", config.provider.clone()),
            ("LYCHGATE_MODEL", config.model.clone()),
            ("LYCHGATE_LISTEN", format!("0.0.0.0:{PORT}")),
            (MODEL_SILENCE, humantime::format_duration(config.model_silence).to_string()),
        ]);
        if let Some(limit) = &config.history_limit {
            environment.insert("AGENT_HISTORY_LIMIT", limit.clone());
        }
        let labels = BTreeMap::from([
            (LABEL_AGENT, self.agent.clone()),
            (LABEL_EPOCH, row.epoch.to_string()),
            (LABEL_SUBSCRIPTION, subscription.name.clone()),
        ]);
        let owned =
            |pairs: BTreeMap<&str, String>| pairs.into_iter().map(|(name, value)| (name.into(), value)).collect();
        Ok(Spec {
            name: format!("lychgate-{}-{}", self.agent, row.epoch),
            image: config.image.clone(),
            environment: owned(environment),
            labels: owned(labels),
            port: PORT,
        })
    }

    /// Asks the agent until it answers as the one of this assignment.
    async fn wait_ready(&self, row: &AgentRow, id: &ContainerId, by: &str) -> Result<(), SwitchError> {
        let until = Instant::now() + limits::AGENT_READY;
        let mut why = String::from("it was not asked");
        while Instant::now() < until {
            match self.engine.inspect(&id.0).await? {
                None => return Err(SwitchError::NotReady("its container has vanished".into())),
                Some(container) if !container.running => {
                    let code = container.exit_code.map_or("without a code".into(), |code| format!("with {code}"));
                    return Err(SwitchError::NotReady(format!("it has exited {code}")));
                }
                Some(container) => match container.published {
                    None => why = "its port is not published".into(),
                    Some(port) => match self.client.health(&format!("{}:{port}", self.settings.host)).await {
                        Ok(health) if health.agent == row.agent && health.epoch == row.epoch => return Ok(()),
                        Ok(health) => why = format!("{} of epoch {} answers in its place", health.agent, health.epoch),
                        Err(error) => why = error,
                    },
                },
            }
            tokio::time::sleep(limits::READY_POLL).await;
            // Nobody waits for what an operator has given up.
            self.still_ours(row, by).await?;
        }
        Err(SwitchError::NotReady(why))
    }

    /// Before each change by the engine: the lock is ours and the assignment the same.
    pub(super) async fn still_ours(&self, row: &AgentRow, by: &str) -> Result<(), SwitchError> {
        match self.store.renew_agent(&self.agent, by, Some(row.epoch)).await? {
            true => Ok(()),
            false => Err(SwitchError::LockLost),
        }
    }

    /// Does `work` under the lock that `by` holds: renews it meanwhile, stops when it is lost, lets go of it
    /// afterwards.
    pub(super) async fn holding<T>(
        &self,
        by: &str,
        work: impl Future<Output = Result<T, SwitchError>>,
    ) -> Result<T, SwitchError> {
        let done = tokio::select! {
            biased;
            done = work => done,
            () = self.keep_lock(by) => Err(SwitchError::LockLost),
        };
        if let Err(error) = self.store.unlock_agent(&self.agent, by).await {
            tracing::warn!(agent = self.agent, %error, "the agent's lock is left to lapse");
        }
        done
    }

    /// Renews the lock until it is lost, or may be.
    async fn keep_lock(&self, by: &str) {
        let mut confirmed = Instant::now();
        // The next look comes after another pause and another renewal at its bound; it must not come too late.
        while confirmed.elapsed() + limits::SWITCH_RENEWAL + limits::POSTGRES_CALL < limits::SWITCH_LOCK {
            tokio::time::sleep(limits::SWITCH_RENEWAL).await;
            let sent = Instant::now();
            match self.store.renew_agent(&self.agent, by, None).await {
                Ok(true) => confirmed = sent,
                Ok(false) => return,
                Err(error) => tracing::warn!(agent = self.agent, %error, "an agent's lock was not renewed"),
            }
        }
    }

    /// A name that no other holder has, not even another one of this process.
    pub(super) fn name_of_lock(&self) -> String {
        format!("{}/{}/{}", self.owner.process, self.owner.incarnation, self.mint.word())
    }
}

/// The notice of an assignment to an agent's users; none of the first one.
fn notice(row: &AgentRow) -> Option<String> {
    let before = row.before.as_ref()?;
    let why = match row.cause {
        Cause::First => return None,
        Cause::Failure => format!("{before} failed"),
        Cause::Operator => format!("an operator moved it off {before}"),
    };
    Some(format!("{} uses subscription {} now: {why}", row.agent, row.subscription))
}

/// The first subscription that is not the present one and has not failed lately.
fn candidate<'a>(
    subscriptions: &'a [Subscription],
    present: &str,
    failed: &BTreeMap<String, Duration>,
) -> Option<&'a Subscription> {
    subscriptions.iter().find(|each| each.name != present && !failed.contains_key(&each.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_that_has_not_failed_lately_is_chosen() {
        let subscriptions: Vec<_> =
            ["a", "b", "c"].map(|name| Subscription { name: name.into(), token: format!("sk-{name}") }).into();
        let failed = |names: &[&str]| names.iter().map(|name| (name.to_string(), Duration::from_secs(60))).collect();
        let choose = |present: &str, names: &[&str]| {
            candidate(&subscriptions, present, &failed(names)).map(|chosen| chosen.name.clone())
        };
        assert_eq!(choose("a", &["a"]).as_deref(), Some("b"));
        assert_eq!(choose("b", &["b"]).as_deref(), Some("a"));
        assert_eq!(choose("b", &["a", "b"]).as_deref(), Some("c"));
        assert_eq!(choose("c", &["a", "b", "c"]), None);
    }
}
