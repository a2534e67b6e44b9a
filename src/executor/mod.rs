//! The executor: takes runs that wait, works on them turn by turn, and sees each to its end.
//!
//! Start at [`serve`]. `intake` hears of runs, `claiming` makes them ours, `working` is a run from claim to end, `calling` has
//! a turn answered, `tending` keeps the agents up, `switching` moves one to another subscription, `ending`
//! writes the end and does not let go before it is written, `beating` says that we live, `sweeping` finds what nobody
//! told us of and repairs the live view. `desk` knows which runs are ours.

mod beating;
mod calling;
mod claiming;
mod desk;
mod ending;
mod intake;
mod sweeping;
mod switching;
mod tending;
mod working;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::{mpsc, watch};

use self::desk::Desk;
use self::tending::Report;
use crate::agent::Client;
use crate::backoff::Backoff;
use crate::config;
use crate::engine::{ContainerId, Engine};
use crate::ids::Owner;
use crate::limits;
use crate::live::{Live, Redis};
use crate::mint::Mint;
use crate::run::Stop;
use crate::signal::{Exit, Signal};
use crate::store::{Store, StoreError};

/// One incarnation of an executor.
struct Executor {
    config: config::Executor,
    store: Store,
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
            tracing::info!(why, runs = self.desk.len(), "draining");
        }
    }

    /// Waits until the drain begins.
    async fn drains(&self) {
        let mut draining = self.draining.subscribe();
        // The sender lives as long as `self`, so waiting cannot fail.
        let _ = draining.wait_for(|draining| *draining).await;
    }
}

/// Runs an executor until it is told to stop: takes no more runs, lets those that are going finish, and exits.
pub async fn serve(config: config::Executor, mint: Mint, mut signals: mpsc::UnboundedReceiver<Signal>) -> Exit {
    let store = Store::new(&config.stores.postgres, &config.stores.process);
    let owner = tokio::select! {
        booted = boot(&store, &config.stores.process) => match booted {
            Ok(owner) => owner,
            Err(error) => {
                tracing::error!(%error, "cannot start");
                return Exit::Failed;
            }
        },
        _ = signals.recv() => return Exit::Clean,
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
        config,
        store,
        owner,
        mint,
    });
    let tending = executor.tend_all(heard);
    let beats = tokio::spawn(executor.clone().keep_beating());
    let sweeps = tokio::spawn(executor.clone().keep_sweeping());
    let intake = tokio::spawn(executor.clone().take_in());

    tokio::select! {
        _ = signals.recv() => executor.drain("told to stop"),
        () = executor.drains() => {}
    }
    let exit = finish(&executor).await;
    // Nothing is ours any more. Close in reverse order of opening.
    for task in [intake, sweeps, beats].into_iter().chain(tending) {
        task.abort();
        // Aborted or ended: either way it is gone after this.
        let _ = task.await;
    }
    executor.live.redis().close();
    executor.store.close();
    tracing::info!(clean = exit == Exit::Clean, "stopped");
    exit
}

/// Waits for the runs to finish by themselves; what is left at the end of the grace goes back to the queue.
async fn finish(executor: &Arc<Executor>) -> Exit {
    let idle = async {
        executor.desk.idle().await;
    };
    if tokio::time::timeout(executor.config.limits.drain_grace, idle).await.is_ok() {
        // The intake sends the last acknowledgements and closes its connection by itself.
        let _ = tokio::time::timeout(limits::CLOSES, executor.desk.intake_closed()).await;
        return Exit::Clean;
    }
    tracing::warn!(runs = executor.desk.len(), "the drain is over; handing back what is left");
    executor.desk.stop_all(Stop::Drained);
    let last = limits::CANCEL_GRACE + limits::NET_OUTER;
    if tokio::time::timeout(last, executor.desk.idle()).await.is_ok() {
        let _ = tokio::time::timeout(limits::CLOSES, executor.desk.intake_closed()).await;
        return Exit::Clean;
    }
    for run in executor.desk.runs() {
        tracing::error!(%run, "its end could not be confirmed");
    }
    Exit::Failed
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
