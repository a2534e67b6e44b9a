//! The HTTP/1.1 server: a bounded number of connections, which finish their requests when the process drains.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::Router;
use hyper::rt::{Sleep, Timer};
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::limits;
use crate::socket::Socket;
use crate::task_tracker::TaskTracker;

/// Serves until `draining`, then waits for the connections that are open. Each is one of `tasks`.
pub(crate) async fn serve(listener: TcpListener, router: Router, draining: CancellationToken, tasks: TaskTracker) {
    let places = Arc::new(Semaphore::new(limits::HTTP_CONNECTIONS));
    let mut backoff = Backoff::default();
    loop {
        let place = tokio::select! {
            biased;
            () = draining.cancelled() => break,
            place = places.clone().acquire_owned() => place.expect("nobody closes the places"),
        };
        let accepted = tokio::select! {
            biased;
            () = draining.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                backoff.reset();
                let (router, draining) = (router.clone(), draining.clone());
                tasks.spawn(async move {
                    connection(stream.into(), router, draining).await;
                    drop(place);
                });
            }
            Err(error) => {
                // As when file descriptors run out: others will be freed.
                tracing::warn!(%error, "cannot accept a connection");
                backoff.wait().await;
            }
        }
    }
    drop(listener);
    let all = u32::try_from(limits::HTTP_CONNECTIONS).expect("a number of connections");
    // Every place is free again once every connection has ended.
    let _ = places.acquire_many(all).await;
}

async fn connection(stream: Socket, router: Router, draining: CancellationToken) {
    let serving = http1::Builder::new()
        .timer(Clock)
        .header_read_timeout(limits::HTTP_HEADERS)
        .max_buf_size(limits::HTTP_BUFFER)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    tokio::pin!(serving);
    let served = tokio::select! {
        served = &mut serving => served,
        () = draining.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, "a connection ended");
    }
}

/// The runtime's clock, as hyper asks for one.
struct Clock;

/// A sleep of the runtime. The mutex is never contended: it makes the sleep `Sync`, as hyper wants it.
struct SharedSleep(Mutex<Pin<Box<tokio::time::Sleep>>>);

impl Timer for Clock {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        Box::pin(SharedSleep(Mutex::new(Box::pin(tokio::time::sleep(duration)))))
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        self.sleep(deadline.saturating_duration_since(Instant::now()))
    }
}

impl Sleep for SharedSleep {}

impl Future for SharedSleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.0.lock().expect("nothing panics while it waits").as_mut().poll(context)
    }
}
