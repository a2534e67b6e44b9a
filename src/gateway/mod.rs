//! The gateway: where users come in. It accepts messages, shows what became of them, and streams answers.
//!
//! Start at [`serve`]. `routes` is the HTTP surface, `operating` what operators may do, `events` is one reader's
//! stream, `problem` is what errors look like. A gateway never works on a run and never decides its end, but for one
//! that waits and is cancelled.

mod events;
mod operating;
mod problem;
mod routes;

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use crate::broker::Hints;
use crate::config;
use crate::facts::{self, fact};
use crate::http::server;
use crate::ids::{Fence, Mint, RunId, SessionId};
use crate::limits;
use crate::live::{Live, Redis};
use crate::run::{End, Status};
use crate::signal::{Exit, Signal};
use crate::store::Store;
use crate::task_tracker::TaskTracker;

/// The state that all requests share.
struct Gateway {
    config: config::Gateway,
    store: Store,
    live: Live,
    hints: Hints,
    views: mpsc::Sender<ViewChange>,
    mint: Mint,
    streams: Arc<Semaphore>,
    draining: CancellationToken,
}

/// A change of the live view that a request leaves behind: users do not wait for Redis.
enum ViewChange {
    Waiting { session: SessionId, run: RunId },
    Ended { session: SessionId, run: RunId, fence: Fence, end: End },
}

/// Serves users until told to stop: then accepts no more, finishes what it accepted, and exits.
pub async fn serve(config: config::Gateway, mint: Mint, mut signals: mpsc::UnboundedReceiver<Signal>) -> Exit {
    let store = Store::new(&config.stores.postgres, &config.stores.process);
    let opened = tokio::select! {
        opened = open(&store, config.listen) => opened,
        _ = signals.recv() => Err(Exit::Clean),
    };
    let listener = match opened {
        Ok(listener) => listener,
        Err(exit) => {
            store.close(limits::POOL_CLOSE).await;
            return exit;
        }
    };
    let (hints, publisher) = Hints::new(&config.stores.rabbitmq, &config.stores.process);
    let (views, changes) = mpsc::channel(limits::HINTS_QUEUED);
    let live = Live::new(Redis::new(&config.stores.redis));
    let publishing = tokio::spawn(publisher.publish());
    let showing = tokio::spawn(show(live.clone(), changes));
    tracing::info!(address = %config.listen, "ready");
    let draining = CancellationToken::new();
    let gateway = Arc::new(Gateway {
        streams: Arc::new(Semaphore::new(limits::STREAMS_MAX)),
        draining: draining.clone(),
        config,
        store,
        live,
        hints,
        views,
        mint,
    });
    let serving = server::serve(listener, routes::router(gateway.clone()), draining.clone(), TaskTracker::default());
    tokio::pin!(serving);
    tokio::select! {
        () = &mut serving => {}
        _ = signals.recv() => {
            fact!(info, facts::DRAINING);
            draining.cancel();
            if tokio::time::timeout(limits::GATEWAY_DRAIN, serving).await.is_err() {
                tracing::warn!("some requests were cut");
            }
        }
    }
    close(gateway, publishing, showing).await;
    tracing::info!("stopped");
    Exit::Clean
}

/// Waits for Postgres and binds the address: nobody is served before that.
async fn open(store: &Store, listen: SocketAddr) -> Result<TcpListener, Exit> {
    if let Err(error) = store.prepare().await {
        tracing::error!(%error, "cannot start");
        return Err(Exit::Failed);
    }
    TcpListener::bind(listen).await.map_err(|error| {
        tracing::error!(%error, address = %listen, "cannot listen; is another process there?");
        Exit::Failed
    })
}

/// Sends the last hints, then closes in reverse order of opening. A hint that finds no broker is left to a sweep.
async fn close(
    gateway: Arc<Gateway>,
    mut publishing: tokio::task::JoinHandle<()>,
    mut showing: tokio::task::JoinHandle<()>,
) {
    let (store, redis) = (gateway.store.clone(), gateway.live.redis().clone());
    let bound = (limits::CLOSES - limits::POOL_CLOSE) / 2;
    // The last sender of hints and views goes with it, and their tasks end with what is left.
    drop(gateway);
    for task in [&mut publishing, &mut showing] {
        if tokio::time::timeout(bound, &mut *task).await.is_err() {
            task.abort();
            // Aborted: it is gone after this.
            let _ = task.await;
        }
    }
    redis.close();
    store.close(limits::POOL_CLOSE).await;
}

/// Applies changes to the live view, one after the other. What Redis does not take is left to a sweep.
async fn show(live: Live, mut changes: mpsc::Receiver<ViewChange>) {
    while let Some(change) = changes.recv().await {
        let shown = match &change {
            ViewChange::Waiting { session, run } => {
                live.show(limits::REDIS_HINT, session, run, Fence(0), Status::Queued).await
            }
            ViewChange::Ended { session, run, fence, end } => {
                live.end(limits::TERMINAL_WRITE, session, run, *fence, end).await
            }
        };
        if let Err(error) = shown {
            tracing::debug!(%error, "a change of the live view is left to a sweep");
        }
    }
}
