//! The task that owns the socket: bytes in, bytes out, heartbeats both ways. It ends when the connection does.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::codec::{Outbox, next_frame};
use super::connection::{Shared, State};
use super::dialogue::{Command, Dialogue};
use super::error::Error;

/// Bytes that may wait for the socket before commands have to wait. One message may go over it.
const OUTBOX_HIGH: usize = 1 << 20;
/// The step by which the inbox grows, in bytes.
const READ_CHUNK: usize = 16 * 1024;
/// After a pause of this process an expired clock is seen before the bytes that had come in time: one more read.
const GRACE: Duration = Duration::from_secs(1);
/// For the last word: the peer may be gone.
const LAST_WORD: Duration = Duration::from_secs(1);
/// A clock that does not matter.
const IDLE: Duration = Duration::from_secs(3600);

pub(super) struct Driver<S> {
    reader: ReadHalf<S>,
    writer: WriteHalf<S>,
    inbox: BytesMut,
    outbox: Outbox,
    unflushed: bool,
    commands: mpsc::Receiver<Command>,
    dialogue: Dialogue,
    shared: Arc<Shared>,
    state: watch::Receiver<State>,
    clock: Clock,
}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> Driver<S> {
    pub(super) fn new(
        stream: S,
        inbox: BytesMut,
        commands: mpsc::Receiver<Command>,
        dialogue: Dialogue,
        heartbeat: Duration,
        shared: Arc<Shared>,
    ) -> Self {
        let (reader, writer) = tokio::io::split(stream);
        let state = shared.state.subscribe();
        Driver {
            reader,
            writer,
            inbox,
            outbox: Outbox::default(),
            unflushed: false,
            commands,
            dialogue,
            shared,
            state,
            clock: Clock::new(heartbeat),
        }
    }

    /// Runs until the connection is over, then tells everyone why and lets go of the socket.
    pub(super) async fn run(mut self) {
        let reason = loop {
            match self.turn().await {
                Ok(()) => {}
                Err(reason) => break reason,
            }
        };
        self.shared.end(reason);
    }

    /// Takes in what was read, then waits for one thing to happen. Returns the end as an error.
    async fn turn(&mut self) -> Result<(), Error> {
        while let Some(frame) = next_frame(&mut self.inbox, self.dialogue.frame_max())? {
            self.dialogue.frame(frame, &mut self.outbox)?;
            if let Some(reason) = self.dialogue.over.take() {
                let _ = timeout(LAST_WORD, finish(&mut self.writer, &mut self.outbox)).await;
                return Err(reason);
            }
        }
        self.inbox.reserve(READ_CHUNK);
        let writing = self.unflushed || !self.outbox.waiting().is_empty();
        let deadline = self.clock.deadline();
        tokio::select! {
            biased;
            _ = self.state.wait_for(|state| state.ended.is_some()) => Err(Error::Closed),
            step = write(&mut self.writer, &mut self.outbox), if writing => {
                self.unflushed = !step?;
                self.clock.sent();
                Ok(())
            }
            Some(command) = self.commands.recv(), if self.outbox.waiting().len() < OUTBOX_HIGH => {
                self.dialogue.command(command, &mut self.outbox)?;
                self.unflushed = true;
                while self.outbox.waiting().len() < OUTBOX_HIGH
                    && let Ok(command) = self.commands.try_recv()
                {
                    self.dialogue.command(command, &mut self.outbox)?;
                }
                Ok(())
            }
            count = self.reader.read_buf(&mut self.inbox) => match count {
                Ok(0) => Err(Error::Lost("the broker hung up".into())),
                Ok(_) => {
                    self.clock.received();
                    Ok(())
                }
                Err(error) => Err(Error::Lost(error.to_string())),
            },
            () = sleep_until(deadline) => {
                if self.clock.tick()? {
                    self.outbox.frame(&amq_protocol::frame::AMQPFrame::Heartbeat)?;
                }
                Ok(())
            }
        }
    }
}

/// Writes what the socket takes, or flushes when all is written. Returns whether all is flushed. Safe to drop.
async fn write<W: AsyncWrite + Unpin>(writer: &mut W, outbox: &mut Outbox) -> Result<bool, Error> {
    let lost = |error: std::io::Error| Error::Lost(error.to_string());
    if outbox.waiting().is_empty() {
        writer.flush().await.map_err(lost)?;
        return Ok(true);
    }
    let count = writer.write(outbox.waiting()).await.map_err(lost)?;
    if count == 0 {
        return Err(Error::Lost("the socket takes no more bytes".into()));
    }
    outbox.wrote(count);
    Ok(false)
}

async fn finish<W: AsyncWrite + Unpin>(writer: &mut W, outbox: &mut Outbox) -> Result<(), Error> {
    while !write(writer, outbox).await? {}
    Ok(())
}

/// The deadlines for what is to arrive and to be sent.
struct Clock {
    /// Zero: nobody.
    heartbeat: Duration,
    sent: Instant,
    received: Instant,
    /// The peer seems silent: it has until then.
    suspected: Option<Instant>,
}

impl Clock {
    fn new(heartbeat: Duration) -> Self {
        let now = Instant::now();
        Clock { heartbeat, sent: now, received: now, suspected: None }
    }

    fn sent(&mut self) {
        self.sent = Instant::now();
    }

    fn received(&mut self) {
        self.received = Instant::now();
        self.suspected = None;
    }

    /// The peer is dead after twice the interval, the grace included.
    fn silence_max(&self) -> Duration {
        (self.heartbeat * 2).saturating_sub(self.grace())
    }

    fn grace(&self) -> Duration {
        GRACE.min(self.heartbeat / 2)
    }

    fn deadline(&self) -> Instant {
        if self.heartbeat.is_zero() {
            return Instant::now() + IDLE;
        }
        let silence = self.suspected.unwrap_or(self.received + self.silence_max());
        silence.min(self.sent + self.heartbeat / 2)
    }

    /// Looks at the clock. Returns whether a heartbeat is due.
    fn tick(&mut self) -> Result<bool, Error> {
        if self.heartbeat.is_zero() {
            return Ok(false);
        }
        let now = Instant::now();
        match self.suspected {
            Some(until) if until <= now => return Err(Error::Silent(now - self.received)),
            None if self.received + self.silence_max() <= now => self.suspected = Some(now + self.grace()),
            _ => {}
        }
        let due = self.sent + self.heartbeat / 2 <= now;
        if due {
            // Counted from here: a socket that takes nothing must not make this spin.
            self.sent = now;
        }
        Ok(due)
    }
}
