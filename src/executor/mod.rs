//! The executor: takes runs that wait, works on them turn by turn, and sees each to its end.
//!
//! Start at [`serve`]. `intake` hears of runs, `claiming` makes them ours, `working` is a run from claim to end,
//! `committing` is a turn's commit, `ending` writes the end and does not let go before it is written, `beating` says that
//! we live, `sweeping` finds what nobody told us of and repairs the live view, `draining` is the way to the exit. `desk`
//! knows which runs are ours.

mod beating;
mod claiming;
mod committing;
mod desk;
mod draining;
mod ending;
mod intake;
mod sweeping;
mod working;

use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use self::desk::Desk;
use crate::backoff::Backoff;
use crate::config;
use crate::ids::Owner;
use crate::live::{Live, Redis};
use crate::mint::Mint;
use crate::provider::Provider;
use crate::roster::Roster;
use crate::signal::{Exit, Signal};
use crate::store::{Checkpoints, Store, StoreError};

/// One incarnation of an executor.
struct Executor {
    config: config::Executor,
    store: Store,
    checkpoints: Checkpoints,
    live: Live,
    provider: Provider,
    owner: Owner,
    mint: Mint,
    desk: Desk,
    draining: watch::Sender<bool>,
    /// Every task of ours but the intake.
    tasks: Roster,
    /// Those of them that see to one run or delivery.
    errands: Roster,
    /// Ends the tasks, wherever they stand.
    over: CancellationToken,
    /// Tells the intake to close its connection.
    leaving: CancellationToken,
}

impl Executor {
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

    /// Starts a task that lives no longer than this executor.
    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let (here, over) = (self.tasks.join(), self.over.clone());
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
        let errand = self.errands.join();
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
            draining::close_early(&checkpoints, &store).await;
            let Some(error) = failed else { return Exit::Clean };
            tracing::error!(%error, "cannot start");
            return Exit::Failed;
        }
    };
    tracing::info!(process = owner.process, incarnation = owner.incarnation, "ready");
    let executor = Arc::new(Executor {
        live: Live::new(Redis::new(&config.stores.redis)),
        provider: Provider::new(&config.provider, &config.provider_key, &config.model),
        desk: Desk::new(config.limits.slots),
        draining: watch::Sender::new(false),
        tasks: Roster::default(),
        errands: Roster::default(),
        over: CancellationToken::new(),
        leaving: CancellationToken::new(),
        config,
        store,
        checkpoints,
        owner,
        mint,
    });
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
