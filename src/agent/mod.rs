//! The agent: a process in a container of its own. It answers turns on one subscription, for as long as it is assigned.
//!
//! Start at [`serve`]. `wire` has the messages between an agent and its callers, `turns` answers, `order` knows the
//! newest call of a session, `history` is kept in memory, `health` is the report of its gauges; [`Client`] is the
//! callers' side. An agent has no store: what counts is in the checkpoints of its callers. Everything that it keeps is
//! bounded.

mod client;
mod health;
mod history;
mod order;
mod turns;
mod wire;

use std::sync::{Arc, Mutex, MutexGuard};

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{get, post};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

pub use self::client::{Callee, Client, TurnError};
use self::history::History;
use self::order::Order;
pub use self::wire::{EPOCH, Health, Kind};
use crate::config;
use crate::facts::{self, fact};
use crate::http::server;
use crate::limits;
use crate::provider::Provider;
use crate::signal::{Exit, Signal};
use crate::task_tracker::TaskTracker;

/// The port on which an agent listens in its container.
pub const PORT: u16 = 8090;

/// The state that all requests share. Its locks are held for a moment and never across an await, so that whatever is
/// stuck, health can be told.
struct Agent {
    config: config::Agent,
    provider: Provider,
    order: Mutex<Order>,
    history: Mutex<History>,
    /// Turns that are going.
    runs: watch::Sender<usize>,
    tasks: TaskTracker,
    threads: fn() -> usize,
    draining: CancellationToken,
}

impl Agent {
    fn order(&self) -> MutexGuard<'_, Order> {
        self.order.lock().expect("nothing panics while it holds the order")
    }

    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().expect("nothing panics while it holds the history")
    }

    /// Turns that are going.
    fn runs(&self) -> usize {
        *self.runs.borrow()
    }
}

fn router(agent: Arc<Agent>) -> Router {
    Router::new()
        .route("/turns", post(turns::turn))
        .route("/health", get(health::health))
        .layer(DefaultBodyLimit::max(limits::AGENT_BODY))
        .with_state(agent)
}

/// Answers turns until told to stop: then refuses new ones, lets those that are going finish within the engine's stop
/// grace, and exits. `threads` counts this process's threads.
pub async fn serve(
    config: config::Agent,
    threads: fn() -> usize,
    mut signals: mpsc::UnboundedReceiver<Signal>,
) -> Exit {
    let listener = match TcpListener::bind(config.listen).await {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, address = %config.listen, "cannot listen; is another process there?");
            return Exit::Failed;
        }
    };
    tracing::info!(agent = config.agent, epoch = config.epoch, subscription = config.subscription.name, "ready");
    let tasks = TaskTracker::default();
    let agent = Arc::new(Agent {
        provider: Provider::new(
            &config.provider,
            &config.subscription.token,
            &config.model,
            config.model_silence,
            &tasks,
        ),
        order: Mutex::new(Order::new(limits::AGENT_SESSIONS)),
        history: Mutex::new(History::new(config.history_limit, limits::AGENT_HISTORY_BYTES)),
        runs: watch::Sender::new(0),
        tasks: tasks.clone(),
        threads,
        draining: CancellationToken::new(),
        config,
    });
    let closing = CancellationToken::new();
    let serving = server::serve(listener, router(agent.clone()), closing.clone(), tasks);
    tokio::pin!(serving);
    tokio::select! {
        () = &mut serving => {}
        _ = signals.recv() => {
            fact!(info, facts::DRAINING, runs = agent.runs());
            agent.draining.cancel();
            // Health is told until the end.
            tokio::select! {
                () = &mut serving => {}
                () = finish(&agent) => {}
            }
            closing.cancel();
            if tokio::time::timeout(limits::AGENT_CLOSES, serving).await.is_err() {
                tracing::warn!("some answers were cut");
            }
        }
    }
    tracing::info!(clean = true, "stopped");
    Exit::Clean
}

/// Waits for the turns that are going; those that need longer are cut, and made again by their callers.
async fn finish(agent: &Agent) {
    let mut runs = agent.runs.subscribe();
    let idle = runs.wait_for(|runs| *runs == 0);
    if tokio::time::timeout(limits::AGENT_DRAIN, idle).await.is_err() {
        tracing::warn!(runs = agent.runs(), "the drain is over; what is left is cut");
        agent.order().cut_all();
    }
}
