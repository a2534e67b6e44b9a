//! The four wires: one client's code, one server's code and the same commands over each. Its one law: what differs
//! between two arms is the wire alone; whoever simulates a network is told the same latencies.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use futures_util::future::{BoxFuture, join_all};
use lychgate_sim::link::{Link, LinkObserver, Target, relay};
use lychgate_sim::standins::listener::MemoryListener;
use lychgate_sim::trace::event::WorldEvent;
use lychgate_sim::trace::fault::FaultId;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, IntoConnectionInfo};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// By name, in the order of their turns.
pub const ARMS: [(&str, fn()); 4] =
    [("bare", bare), ("direct", || simulated(false)), ("relay", || simulated(true)), ("turmoil", turmoil)];

/// What each arm carries out.
pub const COMMANDS: usize = CLIENTS * SHARERS * COMMANDS_EACH;
/// As many clients as a small deployment has processes.
const CLIENTS: usize = 3;
/// Who share a client's one connection, as runs and beats of an executor do. It matters: one alone is all waking up, and
/// direct falls to a quarter of bare; with four, packets carry several commands, and turmoil comes within two thirds of
/// the relay.
const SHARERS: usize = 2;
/// Of each of them, one after the other: enough that connecting does not count.
const COMMANDS_EACH: usize = 500;
const PORT: u16 = 6379;

/// What madsim's network takes for a packet; turmoil is told to take as long.
const LATENCY: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(10));

/// Answers `+OK` to whatever comes: what is measured is the wire.
async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let (mut input, mut output) = (BytesMut::new(), Vec::new());
    loop {
        while let Some(length) = command(&input) {
            input.advance(length);
            output.extend_from_slice(b"+OK\r\n");
        }
        if !output.is_empty() {
            if stream.write_all(&output).await.is_err() || stream.flush().await.is_err() {
                return;
            }
            output.clear();
        }
        if !matches!(stream.read_buf(&mut input).await, Ok(1..)) {
            return;
        }
    }
}

/// How long the first command is, if it is there whole.
fn command(input: &[u8]) -> Option<usize> {
    let number = |from: usize| {
        let end = from + input[from..].windows(2).position(|two| two == b"\r\n")?;
        let digits = std::str::from_utf8(&input[from + 1..end]).expect("a number");
        Some((digits.parse::<usize>().expect("a number"), end + 2))
    };
    if input.is_empty() {
        return None;
    }
    let (words, mut at) = number(0)?;
    for _ in 0..words {
        let (length, from) = if at < input.len() { number(at)? } else { return None };
        at = from + length + 2;
    }
    (at <= input.len()).then_some(at)
}

/// A client's connection, and what drives it.
async fn dial<S>(stream: S) -> (MultiplexedConnection, BoxFuture<'static, ()>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let info = "redis://localhost/".into_connection_info().expect("an address");
    let bounds = AsyncConnectionConfig::new().set_response_timeout(None).set_connection_timeout(None);
    let dialled = MultiplexedConnection::new_with_config(info.redis_settings(), stream, bounds).await;
    let (connection, driver) = dialled.expect("a connection");
    (connection, Box::pin(driver))
}

/// Some share the connection, as the runs of an executor do; each waits for its answer before it asks again.
async fn talk(connection: MultiplexedConnection) {
    let sharer = |mut connection: MultiplexedConnection| async move {
        for nth in 0..COMMANDS_EACH {
            let mut set = redis::cmd("SET");
            let () = set.arg("key").arg(nth).query_async(&mut connection).await.expect("an answer");
        }
    };
    join_all((0..SHARERS).map(|_| sharer(connection.clone()))).await;
}

fn bare() {
    let runtime = real_tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                real_tokio::spawn(async {
                    let (near, far) = real_tokio::io::duplex(64 << 10);
                    real_tokio::spawn(serve(far));
                    let (connection, driver) = dial(near).await;
                    real_tokio::spawn(driver);
                    talk(connection).await;
                })
            })
            .collect();
        for client in clients {
            client.await.expect("a client that ends");
        }
    });
}

/// Sees everything and keeps nothing.
struct Nobody(tokio::time::Instant);

impl LinkObserver for Nobody {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }
    fn dialled(&self, _: &Link, _: u32, _: SocketAddr) {}
    fn fact(&self, _: &Link, _: u32, _: WorldEvent) {}
    fn arrived(&self, _: &Link, _: &[u8], _: usize) {}
    fn carried(&self, _: &Link, _: u32, _: bool, _: &[u8]) {}
    fn mentions(&self, _: &Link, _: &[u8]) -> Option<String> {
        None
    }
    fn serves(&self, _: &Link) -> Option<String> {
        None
    }
    fn felt(&self, _: &Link, _: FaultId, _: &str) {}
    fn spent(&self, _: &Link, _: FaultId) {}
}

/// madsim's TCP, to the server itself or to a relay before it.
fn simulated(relayed: bool) {
    let runtime = madsim::runtime::Runtime::with_seed_and_config(1, madsim::Config::default());
    let node = |name: &str, last: u8| {
        runtime.create_node().name(name).ip(std::net::Ipv4Addr::new(10, 0, 0, last).into()).build()
    };
    let (server, road) = (node("server", 1), node("road", 2));
    let nodes: Vec<_> = (0..CLIENTS).map(|nth| node("client", 10 + nth as u8)).collect();
    runtime.block_on(async move {
        let near = if relayed {
            let dock = MemoryListener::default();
            let mut listener = dock.open();
            server.spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(serve(stream));
                }
            });
            road.spawn(async move {
                let listener = tokio::net::TcpListener::bind(("0.0.0.0", PORT)).await.expect("a free port");
                let target = Target::MemoryListener(dock, std::net::Ipv4Addr::new(10, 0, 0, 2).into());
                relay(Link::new("client", "server"), Arc::new(Nobody(tokio::time::Instant::now())), listener, target)
                    .await;
            });
            "10.0.0.2"
        } else {
            server.spawn(async move {
                let listener = tokio::net::TcpListener::bind(("0.0.0.0", PORT)).await.expect("a free port");
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(serve(stream));
                }
            });
            "10.0.0.1"
        };
        tokio::time::sleep(Duration::from_millis(100)).await;
        let clients: Vec<_> = nodes
            .iter()
            .map(|node| {
                node.spawn(async move {
                    let stream = tokio::net::TcpStream::connect((near, PORT)).await.expect("somebody listens");
                    let (connection, driver) = dial(stream).await;
                    tokio::spawn(driver);
                    talk(connection).await;
                })
            })
            .collect();
        for client in clients {
            client.await.expect("a client that ends");
        }
    });
}

fn turmoil() {
    let mut world = turmoil::Builder::new()
        .simulation_duration(Duration::from_secs(3600))
        .min_message_latency(LATENCY.0)
        .max_message_latency(LATENCY.1)
        .rng_seed(1)
        .build();
    world.host("server", || async {
        let listener = turmoil::net::TcpListener::bind(("0.0.0.0", PORT)).await?;
        loop {
            let (stream, _) = listener.accept().await?;
            real_tokio::spawn(serve(stream));
        }
    });
    for nth in 0..CLIENTS {
        world.client(format!("client-{nth}"), async {
            let stream = turmoil::net::TcpStream::connect(("server", PORT)).await?;
            let (connection, driver) = dial(stream).await;
            real_tokio::spawn(driver);
            talk(connection).await;
            Ok(())
        });
    }
    world.run().expect("all clients end");
}
