//! Serves HTTP/1.1 connections, a bounded number of them, and lets them finish when the gateway drains.

use std::sync::Arc;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::limits;

/// Serves until `draining`, then waits for the connections that are open.
pub(super) async fn serve(listener: TcpListener, router: Router, draining: CancellationToken) {
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
                tokio::spawn(async move {
                    connection(stream, router, draining).await;
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

async fn connection(stream: TcpStream, router: Router, draining: CancellationToken) {
    let serving = http1::Builder::new()
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
