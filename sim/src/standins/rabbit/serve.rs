//! Sockets and heartbeats around the core. A client that was silent for three heartbeat intervals is hung up on
//! without a close, as RabbitMQ does.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use amq_protocol::frame::AMQPFrame;
use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::Settings;
use super::core::{Core, Effect, Effects};
use super::wire::{next_frame, write_frame};
use crate::standins::listener::{Listener, Stream};
use crate::standins::observation::{Tap, untapped};

/// After a pause of this node an expired clock is seen before the bytes that had come in time: one more read.
const GRACE: Duration = Duration::from_secs(1);
/// How often RabbitMQ looks for deliveries that were unacknowledged for too long.
const LOOK: Duration = Duration::from_secs(60);

/// The broker and its lines to clients.
pub(super) struct Inner {
    pub(super) core: Core,
    /// Gone with a restart.
    lines: BTreeMap<u64, mpsc::UnboundedSender<Line>>,
    tap: Tap,
}

/// What goes down a line.
#[derive(Debug)]
enum Line {
    Frame(Box<AMQPFrame>),
    /// From now on, in this interval.
    Heartbeat(Duration),
    Hangup,
}

impl Inner {
    pub(super) fn new(settings: Settings) -> Self {
        Inner { core: Core::new(settings), lines: BTreeMap::new(), tap: untapped() }
    }

    /// Lets the core do something and carries its effects out, in order.
    pub(super) fn act(&mut self, deed: impl FnOnce(&mut Core, &mut Effects)) {
        let mut effects = Effects::new(Instant::now());
        deed(&mut self.core, &mut effects);
        for effect in effects.list {
            match effect {
                Effect::FaultObserved(suffered) => (self.tap)(suffered.into()),
                Effect::Saw(broker) => (self.tap)(broker.into()),
                Effect::Send(connection, frame) => self.tell(connection, Line::Frame(Box::new(frame))),
                Effect::Heartbeat(connection, interval) => self.tell(connection, Line::Heartbeat(interval)),
                Effect::Hangup(connection) => self.tell(connection, Line::Hangup),
            }
        }
    }

    fn tell(&self, connection: u64, line: Line) {
        if let Some(sender) = self.lines.get(&connection) {
            // Nobody at the other end: its task is about to say that it lost the connection.
            let _ = sender.send(line);
        }
    }
}

pub(super) fn lock(inner: &Mutex<Inner>) -> MutexGuard<'_, Inner> {
    // A panic under the lock has already ended a simulation; elsewhere it ends the connection whose frame it was.
    inner.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One life of the broker.
pub(super) async fn accept(inner: Arc<Mutex<Inner>>, mut listener: Listener, tap: Tap) {
    {
        let mut inner = lock(&inner);
        inner.tap = tap;
        inner.lines.clear();
        inner.act(Core::boot);
    }
    loop {
        let (stream, peer) = listener.accept().await.expect("RabbitMQ stand-in: accept failed");
        tokio::spawn(talk(inner.clone(), stream, peer));
    }
}

async fn talk(inner: Arc<Mutex<Inner>>, mut stream: Stream, peer: SocketAddr) {
    let (sender, mut lines) = mpsc::unbounded_channel();
    let (connection, frame_max, looks) = {
        let mut inner = lock(&inner);
        let connection = inner.core.connect(peer);
        inner.lines.insert(connection, sender);
        (connection, inner.core.settings.frame_max, inner.core.looks())
    };
    let mut inbox = BytesMut::new();
    let mut clock = Clock::new(looks);
    loop {
        let deadline = clock.deadline();
        tokio::select! {
            biased;
            line = lines.recv() => {
                let mut outbox = Vec::new();
                let goes_on = gather(line, &mut lines, &mut outbox, &mut clock);
                if !outbox.is_empty() {
                    clock.sent = Instant::now();
                    if stream.write_all(&outbox).await.is_err() || stream.flush().await.is_err() {
                        break;
                    }
                }
                if !goes_on {
                    break;
                }
            }
            count = stream.read_buf(&mut inbox) => {
                if !matches!(count, Ok(1..)) {
                    break;
                }
                clock.heard();
                while let Some(frame) = next_frame(&mut inbox, frame_max) {
                    lock(&inner).act(|core, out| core.frame(connection, frame, out));
                }
            }
            () = sleep_until(deadline) => match clock.tick() {
                Tick::Nothing => {}
                Tick::Beat => {
                    let mut outbox = Vec::new();
                    write_frame(&AMQPFrame::Heartbeat, &mut outbox);
                    if stream.write_all(&outbox).await.is_err() || stream.flush().await.is_err() {
                        break;
                    }
                }
                Tick::Look => lock(&inner).act(|core, out| core.look(connection, out)),
                Tick::Silent => break,
            }
        }
    }
    // Both halves go before anybody else gets what it had: the client may not believe that it still has it.
    drop(stream);
    let mut inner = lock(&inner);
    inner.lines.remove(&connection);
    inner.act(|core, out| core.lost(connection, out));
}

/// Puts `line` and what else is waiting into `outbox`. Returns whether the connection goes on.
fn gather(
    line: Option<Line>,
    lines: &mut mpsc::UnboundedReceiver<Line>,
    outbox: &mut Vec<u8>,
    clock: &mut Clock,
) -> bool {
    let mut next = line;
    loop {
        match next {
            Some(Line::Frame(frame)) => write_frame(&frame, outbox),
            Some(Line::Heartbeat(interval)) => clock.interval = interval,
            Some(Line::Hangup) | None => return false,
        }
        match lines.try_recv() {
            Ok(line) => next = Some(line),
            Err(mpsc::error::TryRecvError::Empty) => return true,
            Err(mpsc::error::TryRecvError::Disconnected) => return false,
        }
    }
}

enum Tick {
    Nothing,
    Beat,
    Look,
    Silent,
}

struct Clock {
    /// Zero: no heartbeats.
    interval: Duration,
    sent: Instant,
    heard: Instant,
    suspected: Option<Instant>,
    look: Option<Instant>,
}

impl Clock {
    fn new(looks: bool) -> Self {
        let now = Instant::now();
        let look = looks.then(|| now + LOOK);
        Clock { interval: Duration::ZERO, sent: now, heard: now, suspected: None, look }
    }

    fn heard(&mut self) {
        self.heard = Instant::now();
        self.suspected = None;
    }

    fn deadline(&self) -> Instant {
        let idle = Instant::now() + LOOK;
        let look = self.look.unwrap_or(idle);
        if self.interval.is_zero() {
            return look;
        }
        let silent = self.suspected.unwrap_or(self.heard + self.interval * 3);
        look.min(silent).min(self.sent + self.interval / 2)
    }

    fn tick(&mut self) -> Tick {
        let now = Instant::now();
        if !self.interval.is_zero() {
            match self.suspected {
                Some(until) if until <= now => return Tick::Silent,
                None if self.heard + self.interval * 3 <= now => self.suspected = Some(now + GRACE),
                _ => {}
            }
            if self.sent + self.interval / 2 <= now {
                self.sent = now;
                return Tick::Beat;
            }
        }
        if self.look.is_some_and(|look| look <= now) {
            self.look = Some(now + LOOK);
            return Tick::Look;
        }
        Tick::Nothing
    }
}
