//! Asks a process for its `/health`, as its service manager does: from beside it, over no link, so that no fault of a link is
//! taken for its faults.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1::handshake;
use hyper::header::HOST;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

/// A liveness probe that takes longer has failed: a kubelet's default.
const PROBE_MAX: Duration = Duration::from_secs(1);
/// After so many failures in a row a process is killed, likewise.
const MISSES: u32 = 3;
/// The longest answer to a probe.
const BODY_MAX: usize = 256 << 10;

/// Returns when a process has not been well [`MISSES`] times in a row. A process that is told to stop is asked as any
/// other: what does not answer because it stops is killed all the same, as kubelets have long done it.
pub(crate) async fn fails(listen: SocketAddr, every: Duration) {
    let mut misses = 0;
    while misses < MISSES {
        sleep(every).await;
        let answer = timeout(PROBE_MAX, ask(listen)).await.ok().flatten();
        let well = answer.is_some_and(|(status, _)| status.is_success());
        misses = if well { 0 } else { misses + 1 };
    }
}

/// `GET /health`. `None` if there was no whole answer.
pub(crate) async fn ask(listen: SocketAddr) -> Option<(StatusCode, String)> {
    let stream = TcpStream::connect(listen).await.ok()?;
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await.ok()?;
    let request = Request::get("/health").header(HOST, listen.to_string()).body(Empty::<Bytes>::new()).ok()?;
    let answer = async {
        let answer = sender.send_request(request).await.ok()?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), BODY_MAX).collect().await.ok()?.to_bytes();
        Some((status, String::from_utf8_lossy(&body).into_owned()))
    };
    tokio::pin!(connection, answer);
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        // The connection may end with the answer in hand.
        _ = connection => answer.await,
    }
}
