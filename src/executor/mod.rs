//! The executor: takes runs that wait, works on them turn by turn, and sees each to its end.
//!
//! Start at [`serve`], which wires the parts; each holds the handles that it may touch and no more. In reading order:
//!
//! - `intake`: hints from the broker. `reconcile`: sweeps for what no hint told of, and repairs of the live view.
//! - `claim`: makes a run ours. `active_runs`: which runs are ours, and how each is told to stop.
//! - `work`: a run from its claim to its end. `call`: a turn, answered by an agent. `commit`: a turn's checkpoint.
//! - `terminal`: the two writes of a run's end, repeated until the first is confirmed.
//! - `heartbeat`: says that the owner of the active runs lives, and stops those that it has lost.
//! - `agent_supervisor`: keeps one agent up. `switch`: moves it to another subscription.
//! - `drain_signal`, `drain`: the way to the exit. `tasks`: what must have ended by then.

mod active_runs;
mod agent_supervisor;
mod call;
mod claim;
mod commit;
mod drain;
mod drain_signal;
mod heartbeat;
mod intake;
mod reconcile;
mod slots;
mod switch;
mod tasks;
mod terminal;
mod work;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use self::active_runs::ActiveRuns;
use self::agent_supervisor::{AgentSettings, AgentSupervisor};
use self::call::Calls;
use self::claim::Claims;
use self::drain::Drain;
use self::drain_signal::DrainSignal;
use self::heartbeat::Heartbeat;
use self::intake::Intake;
use self::reconcile::Reconcile;
use self::tasks::Tasks;
use self::terminal::Terminal;
use self::work::Worker;
use crate::agent::Client;
use crate::config;
use crate::engine::Engine;
use crate::ids::{Mint, Owner};
use crate::limits;
use crate::live::{Live, Redis};
use crate::retry::retry;
use crate::signal::{Exit, Signal};
use crate::store::{Checkpoints, Store, StoreError};

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
    let Parts { supervisors, heartbeat, reconcile, intake, drain, drain_signal, tasks } =
        Parts::wire(config, mint, owner, store.clone(), checkpoints);
    for (supervisor, reports) in supervisors {
        tasks.spawn(supervisor.run(reports));
    }
    tasks.spawn(agent_supervisor::forget_failures(store));
    tasks.spawn(heartbeat.run());
    tasks.spawn(reconcile.run());
    let intake = intake.start();

    tokio::select! {
        _ = signals.recv() => drain_signal.begin("told to stop"),
        () = drain_signal.wait() => {}
    }
    // Nobody listens to signals from here on: they neither begin this again nor end it.
    let confirmed = drain.finish().await;
    let well = drain.close(intake).await;
    let exit = if confirmed && well { Exit::Clean } else { Exit::Failed };
    tracing::info!(clean = exit == Exit::Clean, "stopped");
    exit
}

/// Brings the schema up to date and mints the incarnation, for as long as Postgres needs to come up.
async fn boot(store: &Store, process: &str) -> Result<Owner, StoreError> {
    store.prepare().await?;
    retry("the incarnation", || store.boot(process)).await
}

/// The parts of one incarnation, before any of them runs.
struct Parts {
    supervisors: Vec<(AgentSupervisor, mpsc::Receiver<agent_supervisor::Report>)>,
    heartbeat: Heartbeat,
    reconcile: Reconcile,
    intake: Intake,
    drain: Drain,
    drain_signal: DrainSignal,
    tasks: Tasks,
}

impl Parts {
    fn wire(config: config::Executor, mint: Mint, owner: Owner, store: Store, checkpoints: Checkpoints) -> Self {
        let config::Executor { stores, engine, agent_host, image, agents, subscriptions, .. } = config;
        let config::Executor { provider, model, history_limit, limits, drain_policy, .. } = config;
        let (mint, checkpoints) = (Arc::new(mint), Arc::new(checkpoints));
        let (engine, client, live) = (Engine::new(&engine), Client::new(&limits), Live::new(Redis::new(&stores.redis)));
        let active = Arc::new(ActiveRuns::new(limits.slots));
        let (drain_signal, tasks) = (DrainSignal::new(active.clone()), Tasks::default());

        let settings = Arc::new(AgentSettings {
            image,
            host: agent_host.clone(),
            subscriptions,
            provider,
            model,
            history_limit,
            model_silence: limits.model_silence,
        });
        let (mut reports, mut supervisors) = (BTreeMap::new(), Vec::new());
        for agent in agents {
            let (sender, receiver) = mpsc::channel(limits::REPORTS_QUEUED);
            reports.insert(agent.clone(), sender);
            let supervisor = AgentSupervisor {
                agent,
                store: store.clone(),
                engine: engine.clone(),
                client: client.clone(),
                settings: settings.clone(),
                owner: owner.clone(),
                mint: mint.clone(),
            };
            supervisors.push((supervisor, receiver));
        }

        let calls = Calls { store: store.clone(), engine, client, reports, agent_host, ports: Mutex::default() };
        let terminal = Terminal { store: store.clone(), live: live.clone(), active: active.clone() };
        let worker = Worker {
            store: store.clone(),
            checkpoints: checkpoints.clone(),
            live: live.clone(),
            calls,
            terminal,
            run_max: limits.run_max,
        };
        let claims = Arc::new(Claims {
            store: store.clone(),
            live: live.clone(),
            owner: owner.clone(),
            mint: mint.clone(),
            limits: limits.clone(),
            active: active.clone(),
            drain: drain_signal.clone(),
            worker,
        });
        let heartbeat = Heartbeat {
            store: store.clone(),
            owner: owner.clone(),
            active: active.clone(),
            beat_every: limits.beat_every,
            takeover_after: limits.takeover_after,
        };
        let intake = Intake {
            broker: stores.rabbitmq,
            process: owner.process.clone(),
            mint,
            slots: limits.slots,
            active: active.clone(),
            claims: claims.clone(),
            drain: drain_signal.clone(),
            tasks: tasks.clone(),
            leaving: CancellationToken::new(),
        };
        let drain = Drain {
            store: store.clone(),
            checkpoints,
            redis: live.redis().clone(),
            owner: owner.clone(),
            policy: drain_policy,
            grace: limits.drain_grace,
            active: active.clone(),
            tasks: tasks.clone(),
        };
        let reconcile =
            Reconcile { store, live, owner, limits, active, drain: drain_signal.clone(), claims, tasks: tasks.clone() };
        Parts { supervisors, heartbeat, reconcile, intake, drain, drain_signal, tasks }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes<A, F: Future>(_: impl Fn(A) -> F) -> usize {
        std::mem::size_of::<F>()
    }

    /// Every timeout may hold its future twice: nested ones have made hundreds of kilobytes out of one query, to be
    /// copied at every spawn.
    #[test]
    fn the_futures_of_an_executor_are_small() {
        let biggest = bytes(Intake::run).max(bytes(Reconcile::run)).max(bytes(Heartbeat::run));
        assert!(biggest < 16 * 1024, "{biggest} bytes");
    }
}
