//! The executor: takes runs that wait, works on them turn by turn, and sees each to its end.
//!
//! Start at [`serve`]. `intake` hears of runs, `claim` makes them ours, `work` is a run from claim to end, `call` has a
//! turn answered, `commit` is a turn's commit, `terminal` writes the end and does not let go before it is written,
//! `heartbeat` says that we live, `reconcile` finds what nobody told us of and repairs the live view, `drain` is the way
//! to the exit. `agent_supervisor` keeps the agents up, `switch` moves one to another subscription. `active_runs` knows
//! which runs are ours.

mod active_runs;
mod agent_supervisor;
mod call;
mod claim;
mod commit;
mod drain;
mod heartbeat;
mod intake;
mod reconcile;
mod switch;
mod terminal;
mod work;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use self::active_runs::Desk;
use self::agent_supervisor::Report;
use crate::agent::Client;
use crate::backoff::Backoff;
use crate::config;
use crate::engine::{ContainerId, Engine};
use crate::facts::{self, fact};
use crate::ids::{Mint, Owner};
use crate::limits;
use crate::live::{Live, Redis};
use crate::signal::{Exit, Signal};
use crate::store::{Checkpoints, Store, StoreError};
use crate::task_tracker::TaskTracker;

/// One incarnation of an executor.
struct Executor {
    config: config::Executor,
    store: Store,
    checkpoints: Checkpoints,
    live: Live,
    engine: Engine,
    agents: Client,
    /// Where to tell what happens to an agent.
    reports: BTreeMap<String, mpsc::Sender<Report>>,
    /// The published port of each agent's container, as far as it is known.
    ports: Mutex<BTreeMap<String, (ContainerId, u16)>>,
    owner: Owner,
    mint: Mint,
    desk: Desk,
    draining: watch::Sender<bool>,
    /// Every task of ours but the intake.
    tasks: TaskTracker,
    /// Those of them that see to one run or delivery.
    errands: TaskTracker,
    /// Ends the tasks, wherever they stand.
    over: CancellationToken,
    /// Tells the intake to close its connection.
    leaving: CancellationToken,
}

impl Executor {
    fn ports(&self) -> MutexGuard<'_, BTreeMap<String, (ContainerId, u16)>> {
        self.ports.lock().expect("nothing panics while it holds the ports")
    }

    fn is_draining(&self) -> bool {
        *self.draining.borrow()
    }

    /// Begins the drain, once; later calls do nothing.
    fn drain(&self, why: &str) {
        if !self.draining.send_replace(true) {
            fact!(info, facts::DRAINING, why, runs = self.desk.len());
        }
    }

    /// Waits until the drain begins.
    async fn drains(&self) {
        let mut draining = self.draining.subscribe();
        // The sender lives as long as `self`, so waiting cannot fail.
        let _ = draining.wait_for(|draining| *draining).await;
    }

    /// Starts a task that lives no longer than this executor.
    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let (here, over) = (self.tasks.token(), self.over.clone());
        tokio::spawn(async move {
            let _here = here;
            tokio::select! {
                biased;
                () = over.cancelled() => {}
                () = work => {}
            }
        });
    }

    /// The same, for one run or delivery.
    fn send_on_errand(&self, work: impl Future<Output = ()> + Send + 'static) {
        let errand = self.errands.token();
        self.spawn(async move {
            let _errand = errand;
            work.await;
        });
    }
}

/// Runs an executor until it is told to stop: takes no more runs, sees those that are going to their end, and exits.
pub async fn serve(config: config::Executor, mint: Mint, mut signals: mpsc::UnboundedReceiver<Signal>) -> Exit {
    let (postgres, process) = (&config.stores.postgres, &config.stores.process);
    let (store, checkpoints) = (Store::new(postgres, process), Checkpoints::new(postgres, process));
    let booted = tokio::select! {
        booted = boot(&store, process) => booted.map_err(Some),
        _ = signals.recv() => Err(None),
    };
    let owner = match booted {
        Ok(owner) => owner,
        Err(failed) => {
            drain::close_early(&checkpoints, &store).await;
            let Some(error) = failed else { return Exit::Clean };
            tracing::error!(%error, "cannot start");
            return Exit::Failed;
        }
    };
    tracing::info!(process = owner.process, incarnation = owner.incarnation, "ready");
    let (mut reports, mut heard) = (BTreeMap::new(), Vec::new());
    for agent in &config.agents {
        let (tell, hear) = mpsc::channel(limits::REPORTS_QUEUED);
        reports.insert(agent.clone(), tell);
        heard.push((agent.clone(), hear));
    }
    let executor = Arc::new(Executor {
        live: Live::new(Redis::new(&config.stores.redis)),
        engine: Engine::new(&config.engine),
        agents: Client::default(),
        reports,
        ports: Mutex::default(),
        desk: Desk::new(config.limits.slots),
        draining: watch::Sender::new(false),
        tasks: TaskTracker::default(),
        errands: TaskTracker::default(),
        over: CancellationToken::new(),
        leaving: CancellationToken::new(),
        config,
        store,
        checkpoints,
        owner,
        mint,
    });
    executor.tend_all(heard);
    executor.spawn(executor.clone().keep_beating());
    executor.spawn(executor.clone().keep_sweeping());
    let intake = tokio::spawn(executor.clone().take_in());

    tokio::select! {
        _ = signals.recv() => executor.drain("told to stop"),
        () = executor.drains() => {}
    }
    // Nobody listens to signals from here on: they neither begin this again nor end it.
    let confirmed = executor.finish().await;
    let well = executor.close(intake).await;
    let exit = if confirmed && well { Exit::Clean } else { Exit::Failed };
    tracing::info!(clean = exit == Exit::Clean, "stopped");
    exit
}

/// Brings the schema up to date and mints the incarnation, for as long as Postgres needs to come up.
async fn boot(store: &Store, process: &str) -> Result<Owner, StoreError> {
    store.prepare().await?;
    let mut backoff = Backoff::default();
    loop {
        match store.boot(process).await {
            Err(StoreError::Unavailable(why)) => tracing::warn!(why, "waiting for Postgres"),
            answered => return answered,
        }
        backoff.wait().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes<A, F: Future>(_: impl Fn(A) -> F) -> usize {
        std::mem::size_of::<F>()
    }

    /// Every timeout may hold its future twice: nested ones have made hundreds of kilobytes out of one query, to be copied
    /// at every spawn.
    #[test]
    fn the_futures_of_an_executor_are_small() {
        let biggest = bytes(Executor::take_in).max(bytes(Executor::keep_sweeping)).max(bytes(Executor::keep_beating));
        assert!(biggest < 16 * 1024, "{biggest} bytes");
    }
}
