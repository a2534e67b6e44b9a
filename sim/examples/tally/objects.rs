//! An object store as a stand-in of this example's own: `PUT /KEY` of HTTP, as S3 has it, and nothing else. It shows what a
//! stand-in of yours has to be: a service, an observation type, faults, and a panic for whatever it does not know.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::BoxFuture;
use lychgate_sim::plan::{FaultRow, ServiceWords};
use lychgate_sim::standins::faults;
use lychgate_sim::standins::listener::{Listener, Stream};
use lychgate_sim::standins::observation::{FaultObserved, Observed, Tap};
use lychgate_sim::standins::{Control, StandIn};
use lychgate_sim::trace::fault::FaultKind;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

/// The service's name.
const NAME: &str = "objects";
/// Where it listens.
const PORT: u16 = 9000;
/// The longest object, in bytes: receipts are a line.
const SIZE_MAX: usize = 4096;

/// The store takes nothing more: requests are answered with S3's `503 Slow Down`.
pub static SLOW_DOWN: FaultRow = FaultRow {
    kind: FaultKind { word: "slow_down", struck: Some("{} takes nothing more"), ..FaultRow::SERVICE.kind },
    help: "requests are answered with 503 Slow Down",
    ..FaultRow::SERVICE
};

/// The store goes down, and has its objects when it comes up again.
pub static RESTART: FaultRow = FaultRow { help: "it is down, then up again with its objects", ..faults::RESTART };

/// What plans may say of it.
pub static WORDS: ServiceWords = ServiceWords { name: NAME, http: true, faults: &[&SLOW_DOWN, &RESTART] };

/// An object was stored, before the answer leaves.
#[derive(Debug)]
pub struct Stored {
    /// The connection, as the store sees its other end.
    pub peer: SocketAddr,
    /// As `receipts/ann/1`.
    pub key: String,
    /// Whether there was one of that key before.
    pub again: bool,
}

impl Observed for Stored {
    fn peer(&self) -> Option<SocketAddr> {
        Some(self.peer)
    }
}

/// An object store. Clones are the same one; objects outlive a restart.
#[derive(Clone, Default)]
pub struct Objects {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Vec<u8>>,
    /// It takes nothing more.
    slow: bool,
}

impl StandIn for Objects {
    fn name(&self) -> &'static str {
        NAME
    }

    fn port(&self) -> u16 {
        PORT
    }

    fn serve(&self, mut listener: Listener, tap: Tap) -> BoxFuture<'static, ()> {
        let objects = self.clone();
        Box::pin(async move {
            while let Ok((stream, peer)) = listener.accept().await {
                let (objects, tap) = (objects.clone(), tap.clone());
                tokio::spawn(async move {
                    // A client that hangs up is none of the store's business.
                    let _ = objects.connection(stream, peer, tap).await;
                });
            }
        })
    }

    fn control(&self, control: Control) -> Result<(), String> {
        match control {
            Control::Begin(fault) if fault.is(&SLOW_DOWN) => self.state().slow = true,
            Control::End(fault) if fault.is(&SLOW_DOWN) => self.state().slow = false,
            // Objects lie on disk: the next life has them.
            Control::Begin(fault) | Control::End(fault) if fault.is(&RESTART) => {}
            other => return Err(format!("the object store does not know the fault {other:?}")),
        }
        Ok(())
    }
}

impl Objects {
    async fn connection(&self, stream: Stream, peer: SocketAddr, tap: Tap) -> std::io::Result<()> {
        let mut stream = BufReader::new(stream);
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await? == 0 {
                return Ok(());
            }
            let key = line.strip_prefix("PUT /").and_then(|rest| rest.strip_suffix(" HTTP/1.1\r\n"));
            let key = key.unwrap_or_else(|| panic!("the object store stand-in does not know {line:?}")).to_owned();
            let mut object = vec![0; length(&mut stream).await?];
            stream.read_exact(&mut object).await?;
            let status = self.store(peer, key, object, &tap);
            stream.write_all(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").as_bytes()).await?;
            stream.flush().await?;
        }
    }

    fn store(&self, peer: SocketAddr, key: String, object: Vec<u8>, tap: &Tap) -> &'static str {
        let mut state = self.state();
        if state.slow {
            drop(state);
            let request = key.into_bytes();
            tap(FaultObserved { peer, service: NAME, ailment: SLOW_DOWN.word(), request }.into());
            return "503 Slow Down";
        }
        let again = state.objects.insert(key.clone(), object).is_some();
        // Whoever hears of it may do something to the store.
        drop(state);
        tap(Stored { peer, key, again }.into());
        "200 OK"
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads the headers, up to the empty line; gives the body's length.
async fn length(stream: &mut BufReader<Stream>) -> std::io::Result<usize> {
    let mut length = None;
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        match line.trim_end().split_once(": ") {
            Some(("Content-Length", value)) => length = value.parse().ok(),
            Some(_) => {}
            None => break,
        }
    }
    let length = length.filter(|length| *length <= SIZE_MAX);
    Ok(length.unwrap_or_else(|| panic!("the object store stand-in wants a Content-Length of {SIZE_MAX} at most")))
}
