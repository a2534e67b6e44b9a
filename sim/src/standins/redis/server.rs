//! Sockets for the [`Core`]. One connection's commands are answered in order; one that blocks holds up its own connection
//! only. Effects, observations and answers happen in one order, under one lock.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::Instant;

use super::core::{Client, Core, Outcome};
use super::faults::{EVICT, FLUSH, RESTART, TOO_MANY_CONNECTIONS};
use super::observation::Command;
use super::resp::{Reply, take_command};
use super::shapes::Commands;
#[cfg(not(madsim))]
use super::tap;
use crate::standins::listener::{Listener, Stream};
use crate::standins::observation::{FaultObserved, NOBODY, Observation, Tap};
use crate::standins::shapes::Shapes;
#[cfg(not(madsim))]
use crate::standins::wire::ServerTap;
use crate::standins::{Control, StandIn};

/// Where Redis listens.
pub const PORT: u16 = 6379;

/// How much a blocked connection may send ahead before it is no longer read.
const AHEAD_MAX: usize = 1 << 20;
/// What Redis reads of a connection in one go: the commands in it are executed before the first answer is written, so a
/// client that has hung up meanwhile cuts no pipeline in two.
const READ: usize = 16 * 1024;
/// How often Redis looks whose time is up.
const CRON: Duration = Duration::from_millis(100);

/// A Redis. Clones are the same one. Its data outlives each [`Redis::serve`] unless [`Redis::restart_empty`] is called;
/// connections, subscriptions and loaded scripts never do.
#[derive(Clone, Default)]
pub struct Redis {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    core: Core,
    clock: Option<(Instant, Duration)>,
    /// The lives that it has had.
    lives: u64,
    clients: u64,
    outboxes: BTreeMap<Client, Outbox>,
    /// The newest life's.
    tap: Option<Tap>,
}

struct Outbox {
    peer: SocketAddr,
    sender: UnboundedSender<Outgoing>,
}

struct Outgoing {
    bytes: Bytes,
    /// The connection's blocked command is answered: go on.
    unblocks: bool,
}

impl Redis {
    /// An empty one.
    pub fn new() -> Self {
        Redis::default()
    }

    /// Forgets everything, as a Redis without persistence does when it restarts.
    pub fn restart_empty(&self) {
        self.state().core.restart_empty();
    }

    /// Does to it what a fault wants.
    ///
    /// # Panics
    /// What Redis does not suffer from.
    pub fn control(&self, control: Control) {
        let mut state = self.state();
        match control {
            Control::Begin(fault) if fault.is(&RESTART) => state.core.restart_empty(),
            Control::Begin(fault) if fault.is(&EVICT) || fault.is(&FLUSH) => {
                let tap = state.tap.clone();
                let gone = state.core.forget(fault.is(&FLUSH));
                // What is observed may set off a fault on Redis.
                drop(state);
                let shown = |tap: &Tap| gone.iter().for_each(|name| tap(suffered(NOBODY, fault.word(), name)));
                tap.iter().for_each(shown);
            }
            Control::Begin(fault) => state.core.fall_ill(&fault),
            Control::End(fault) => state.core.recover(&fault),
            other => panic!("the Redis stand-in refuses nobody by name: {other:?}"),
        }
    }

    /// One life: accepts connections until it is dropped.
    ///
    /// # Panics
    /// A command that this stand-in does not know.
    pub async fn serve(self, listener: impl Into<Listener>, tap: Tap) {
        let life = self.state().begin(tap.clone());
        let mut listener = listener.into();
        loop {
            match listener.accept().await {
                Ok((mut stream, peer)) => {
                    if let Some(refusal) = self.refuses(peer, &tap) {
                        tokio::spawn(async move {
                            let _ = stream.write_all(&refusal).await;
                            stream.flush().await
                        });
                        continue;
                    }
                    let connection = Connection::open(&self, life, peer, tap.clone());
                    tokio::spawn(connection.run(stream));
                }
                Err(error) => tracing::debug!(%error, "redis could not accept"),
            }
        }
    }

    /// What somebody new is told, unheard, and then hung up on.
    fn refuses(&self, peer: SocketAddr, tap: &Tap) -> Option<Bytes> {
        let refusal = self.state().core.refuses_connection()?;
        tap(suffered(peer, TOO_MANY_CONNECTIONS.word(), b""));
        Some(refusal.encode())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic under the lock has already ended a simulation; elsewhere the next command may find what it left.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StandIn for Redis {
    fn name(&self) -> &'static str {
        "redis"
    }

    fn port(&self) -> u16 {
        PORT
    }

    fn serve(&self, listener: Listener, tap: Tap) -> BoxFuture<'static, ()> {
        Box::pin(Redis::serve(self.clone(), listener, tap))
    }

    fn control(&self, control: Control) -> Result<(), String> {
        Redis::control(self, control);
        Ok(())
    }

    fn shapes(&self) -> Option<Box<dyn Shapes>> {
        Some(Box::new(Commands::default()))
    }

    #[cfg(not(madsim))]
    fn tap(&self, server: SocketAddr) -> Option<ServerTap> {
        let shared = tap::Shared::new(server);
        Some(Box::new(move |peer| Box::new(tap::Redis::new(peer, shared.clone()))))
    }
}

fn suffered(peer: SocketAddr, ailment: &'static str, request: &[u8]) -> Observation {
    FaultObserved { peer, service: "redis", ailment, request: request.to_vec() }.into()
}

impl State {
    fn begin(&mut self, tap: Tap) -> u64 {
        self.core.restart();
        self.tap = Some(tap);
        self.outboxes.clear();
        self.lives += 1;
        self.lives
    }

    /// The time since 1970: the wall clock's when it was first asked for, and from then on tokio's.
    fn now(&mut self) -> Duration {
        let (origin, epoch) = *self.clock.get_or_insert_with(|| {
            let epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            (Instant::now(), epoch)
        });
        epoch + origin.elapsed()
    }

    /// Executes one command and sends what comes of it. Says for how long it blocks, if it does.
    fn execute(&mut self, client: Client, words: &[Bytes], tap: &Tap) -> Option<Option<Duration>> {
        let now = self.now();
        let outcome = self.core.execute(now, client, words);
        if let (Some(ailment), Some(outbox)) = (self.core.suffered(), self.outboxes.get(&client)) {
            tap(suffered(outbox.peer, ailment, &words.join(&b' ')));
        }
        let blocked = match outcome {
            Outcome::Reply(reply) => {
                let words = self.core.spelled_out(words);
                self.answer(client, words, &reply, false, tap);
                None
            }
            Outcome::Block(limit) => Some(limit),
        };
        for delivery in self.core.deliveries() {
            match delivery.answers {
                Some(words) => self.answer(delivery.client, words, &delivery.reply, true, tap),
                None => self.send(delivery.client, Outgoing { bytes: delivery.reply.encode(), unblocks: false }),
            }
        }
        blocked
    }

    fn answer(&mut self, client: Client, words: Vec<Bytes>, reply: &Reply, unblocks: bool, tap: &Tap) {
        let Some(outbox) = self.outboxes.get(&client) else { return };
        let bytes = reply.encode();
        let keys = self.core.written(&words);
        tap(Command { peer: outbox.peer, words, reply: bytes.clone(), keys }.into());
        self.send(client, Outgoing { bytes, unblocks });
    }

    fn send(&self, client: Client, outgoing: Outgoing) {
        if let Some(outbox) = self.outboxes.get(&client) {
            // A connection that has just ended no longer listens; nothing is owed to it.
            let _ = outbox.sender.send(outgoing);
        }
    }
}

/// One client, registered for as long as this exists.
struct Connection {
    redis: Redis,
    /// The life of the server that accepted it: a later one knows nothing of it.
    life: u64,
    client: Client,
    outbox: UnboundedReceiver<Outgoing>,
    tap: Tap,
    input: BytesMut,
    output: Vec<u8>,
    /// Since when a command blocks: until when, if it has a limit.
    blocked: Option<Option<Instant>>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut state = self.redis.state();
        if state.lives == self.life {
            state.outboxes.remove(&self.client);
            state.core.leave(self.client);
        }
    }
}

enum Wake {
    Read(std::io::Result<usize>),
    Outgoing(Outgoing),
    TimeUp,
}

impl Connection {
    fn open(redis: &Redis, life: u64, peer: SocketAddr, tap: Tap) -> Self {
        let (sender, outbox) = unbounded_channel();
        let mut state = redis.state();
        state.clients += 1;
        let client = state.clients;
        state.outboxes.insert(client, Outbox { peer, sender });
        Connection {
            redis: redis.clone(),
            life,
            client,
            outbox,
            tap,
            input: BytesMut::new(),
            output: Vec::new(),
            blocked: None,
        }
    }

    async fn run(mut self, mut stream: Stream) {
        loop {
            let complaint = self.execute_arrived().err();
            while let Ok(outgoing) = self.outbox.try_recv() {
                self.take(outgoing);
            }
            if let Some(text) = &complaint {
                self.output.extend_from_slice(&Reply::error(text.clone()).encode());
            }
            if !self.output.is_empty() {
                if stream.write_all(&self.output).await.is_err() || stream.flush().await.is_err() || complaint.is_some()
                {
                    return;
                }
                self.output.clear();
                continue;
            }
            match self.wake(&mut stream).await {
                Wake::Read(Ok(0) | Err(_)) => return,
                Wake::Read(Ok(_)) => {}
                Wake::Outgoing(outgoing) => self.take(outgoing),
                Wake::TimeUp => self.give_up(),
            }
        }
    }

    /// Executes the commands that have arrived whole, up to one that blocks.
    fn execute_arrived(&mut self) -> Result<(), String> {
        while self.blocked.is_none()
            && let Some(words) = take_command(&mut self.input)?
        {
            if words.is_empty() {
                continue;
            }
            let limit = self.redis.state().execute(self.client, &words, &self.tap);
            self.blocked = limit.map(|limit| limit.and_then(|limit| Instant::now().checked_add(limit)));
        }
        Ok(())
    }

    fn take(&mut self, outgoing: Outgoing) {
        self.output.extend_from_slice(&outgoing.bytes);
        if outgoing.unblocks {
            self.blocked = None;
        }
    }

    async fn wake(&mut self, stream: &mut Stream) -> Wake {
        let deadline = self.blocked.flatten();
        let full = self.blocked.is_some() && self.input.len() >= AHEAD_MAX;
        self.input.reserve(READ);
        tokio::select! {
            biased;
            Some(outgoing) = self.outbox.recv() => Wake::Outgoing(outgoing),
            read = stream.read_buf(&mut self.input), if !full => Wake::Read(read),
            () = until(deadline) => Wake::TimeUp,
        }
    }

    fn give_up(&mut self) {
        let mut state = self.redis.state();
        if state.core.busy() {
            self.blocked = Some(Some(Instant::now() + CRON));
            return;
        }
        if let Some((words, reply)) = state.core.give_up(self.client) {
            state.answer(self.client, words, &reply, true, &self.tap);
        }
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
