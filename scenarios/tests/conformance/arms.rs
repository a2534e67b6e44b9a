//! Where a body runs: against a stand-in on either runtime, or against a real server. In between stands a tap, which
//! keeps the shapes of what is said.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use lychgate_sim::explore::coverage::Coverage;
use lychgate_sim::standins::observation::untapped;
use lychgate_sim::standins::postgres::Postgres;
use lychgate_sim::standins::rabbit::faults::RESTART;
use lychgate_sim::standins::rabbit::{Rabbit, Settings};
use lychgate_sim::standins::redis::Redis;
use lychgate_sim::standins::{Control, StandIn};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};
use tokio::net::{TcpListener, TcpStream};
#[cfg(not(madsim))]
use tokio::sync::Notify;

/// Where a body finds its server.
#[derive(Clone)]
pub struct Place {
    /// Through the tap: for what `src` says.
    pub tapped: SocketAddr,
    /// Past it: for those who look what came of it.
    pub direct: SocketAddr,
    lever: Lever,
}

/// What makes a server ill and well again.
pub type Lever = Arc<dyn Fn(Control) + Send + Sync>;

impl Place {
    /// Makes the server ill, or well again. A real one takes its time over that, and the tap carries on meanwhile.
    pub async fn make(&self, control: Control) {
        #[cfg(madsim)]
        (self.lever)(control);
        #[cfg(not(madsim))]
        {
            let lever = self.lever.clone();
            tokio::task::spawn_blocking(move || lever(control)).await.expect("the server obeys");
        }
    }
}

/// What was said.
pub type Tape = Arc<Mutex<Coverage>>;

/// One life of a stand-in. What outlives it, the next one finds.
type Serving = Arc<dyn Fn(TcpListener) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// A service that has a stand-in.
#[derive(Clone, Copy, Debug)]
pub enum Service {
    Redis,
    Rabbit,
    Postgres,
}

impl Service {
    fn name(self) -> &'static str {
        match self {
            Service::Redis => "redis",
            Service::Rabbit => "rabbitmq",
            Service::Postgres => "postgres",
        }
    }

    fn stand_in(self) -> Arc<dyn StandIn> {
        match self {
            Service::Redis => Arc::new(Redis::new()),
            Service::Rabbit => Arc::new(Rabbit::new(Settings::default())),
            Service::Postgres => Arc::new(Postgres::new()),
        }
    }

    /// It, serving, and its lever.
    fn served(self) -> (Serving, Lever) {
        let standin = self.stand_in();
        let lever = standin.clone();
        let serving: Serving = Arc::new(move |listener| standin.serve(listener.into(), untapped()));
        (serving, Arc::new(move |control| lever.control(control).expect("it knows the fault")))
    }

    /// Keeps the shapes of what is said to it.
    fn tape(self) -> Tape {
        Arc::new(Mutex::new(Coverage::of(&[self.stand_in()])))
    }
}

/// A stand-in of the broker knows what is on disk, and nothing of its own end: that is `again`.
fn mortal(service: Service, lever: Lever, again: impl Fn() + Send + Sync + 'static) -> Lever {
    Arc::new(move |control| match (service, control) {
        (Service::Rabbit, Control::Begin(fault)) if fault.is(&RESTART) => again(),
        (_, control) => lever(control),
    })
}

async fn tap(service: Service, listener: TcpListener, to: SocketAddr, tape: Tape) {
    let mut conn = 0;
    while let Ok((near, _)) = listener.accept().await {
        conn += 1;
        tokio::spawn(carry(service, near, to, conn, tape.clone()));
    }
}

/// Until either side ends; then both have.
async fn carry(service: Service, near: TcpStream, to: SocketAddr, conn: u32, tape: Tape) {
    let far = TcpStream::connect(to).await.expect("the server listens");
    let ((mut near_in, mut near_out), (mut far_in, mut far_out)) = (split(near), split(far));
    let (mut up, mut down) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    let heard = |up: bool, bytes: &[u8]| {
        tape.lock().expect("nothing panics while it holds the tape").carried(service.name(), "tap", conn, up, bytes);
    };
    loop {
        let carried = tokio::select! {
            read = pass(&mut near_in, &mut far_out, &mut up) => read.map(|count| heard(true, &up[..count])),
            read = pass(&mut far_in, &mut near_out, &mut down) => read.map(|count| heard(false, &down[..count])),
        };
        if carried.is_none() {
            return;
        }
    }
}

/// One read, and its write. A write of what a server or its client sends never waits long enough to be cut in between.
async fn pass(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    buffer: &mut [u8],
) -> Option<usize> {
    let count = from.read(buffer).await.ok().filter(|count| *count > 0)?;
    to.write_all(&buffer[..count]).await.ok()?;
    to.flush().await.ok()?;
    Some(count)
}

/// Runs a body against the stand-in. Returns what it says, and its shapes.
pub fn stand_in<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
    service: Service,
    body: impl FnOnce(Place) -> F + Send + 'static,
) -> (T, Tape) {
    let tape = service.tape();
    let taped = tape.clone();
    // Each world has a thread of its own.
    let said = std::thread::spawn(move || in_world(service, taped, body)).join();
    (said.unwrap_or_else(|panic| std::panic::resume_unwind(panic)), tape)
}

#[cfg(madsim)]
fn in_world<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
    service: Service,
    tape: Tape,
    body: impl FnOnce(Place) -> F + Send + 'static,
) -> T {
    use madsim::runtime::{Handle, Runtime};

    Runtime::with_seed_and_config(1, madsim::Config::default()).block_on(async move {
        let node = |ip: &str| Handle::current().create_node().ip(ip.parse().expect("an address")).build();
        let (direct, tapped) = ("10.0.0.1:1000".parse().expect("a place"), "10.0.0.2:1000".parse().expect("a place"));
        let (serve, lever) = service.served();
        let live = move || {
            let serve = serve.clone();
            async move { serve(TcpListener::bind(direct).await.expect("free")).await }
        };
        let ip = "10.0.0.1".parse().expect("an address");
        let (handle, serving) = (Handle::current(), Handle::current().create_node().ip(ip).init(live).build());
        let lever = mortal(service, lever, move || {
            // A restart alone would leave its port taken.
            handle.kill(serving.id());
            handle.restart(serving.id());
        });
        node("10.0.0.2")
            .spawn(async move { tap(service, TcpListener::bind(tapped).await.expect("free"), direct, tape).await });
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        node("10.0.0.3").spawn(body(Place { tapped, direct, lever })).await.expect("the body ends")
    })
}

#[cfg(not(madsim))]
fn in_world<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
    service: Service,
    tape: Tape,
    body: impl FnOnce(Place) -> F + Send + 'static,
) -> T {
    on_loopback(async move {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback is free");
        let direct = listener.local_addr().expect("it is bound");
        let (serve, lever) = service.served();
        let crash = Arc::new(Notify::new());
        let crashed = crash.clone();
        tokio::spawn(async move {
            let mut listener = listener;
            loop {
                tokio::select! {
                    () = serve(listener) => return,
                    () = crashed.notified() => {}
                }
                listener = TcpListener::bind(direct).await.expect("the life before has left it");
            }
        });
        let lever = mortal(service, lever, move || crash.notify_one());
        tapped(service, direct, lever, tape, body).await
    })
}

/// For a body that leaves its server well.
#[cfg(not(madsim))]
pub fn untouched() -> Lever {
    Arc::new(|control| panic!("nobody makes this server ill: {control:?}"))
}

/// Runs a body against a real server.
#[cfg(not(madsim))]
pub fn real<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
    service: Service,
    direct: SocketAddr,
    lever: Lever,
    body: impl FnOnce(Place) -> F + Send + 'static,
) -> (T, Tape) {
    let tape = service.tape();
    (on_loopback(tapped(service, direct, lever, tape.clone(), body)), tape)
}

#[cfg(not(madsim))]
async fn tapped<T, F: Future<Output = T>>(
    service: Service,
    direct: SocketAddr,
    lever: Lever,
    tape: Tape,
    body: impl FnOnce(Place) -> F,
) -> T {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback is free");
    let tapped = listener.local_addr().expect("it is bound");
    tokio::spawn(tap(service, listener, direct, tape));
    body(Place { tapped, direct, lever }).await
}

#[cfg(not(madsim))]
fn on_loopback<T>(body: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(body)
}
