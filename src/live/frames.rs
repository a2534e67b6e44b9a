//! The stream of a run: its model's tokens as they come. Frames have places, `TURN-SEQ` without holes; a reader that
//! misses one gets a gap event. A lost frame loses no answer: that is in the checkpoint.

use std::collections::VecDeque;
use std::str::FromStr;
use std::sync::{Arc, Mutex};

use redis::streams::StreamReadReply;
use tokio::sync::Notify;

use super::connection::{ReaderConnection, Redis, RedisDown};
use super::keys;
use crate::backoff::Backoff;
use crate::ids::{Fence, RunId};
use crate::limits;

/// A frame's place in its stream. Turns and frames of a turn count from 1; 0-0 is before the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct FrameId {
    /// The turn.
    pub turn: u64,
    /// The frame's number in its turn; it goes on over attempts.
    pub seq: u64,
}

impl FrameId {
    /// A place behind every frame of `turn`: of a reader who has it whole.
    pub fn whole(turn: u64) -> Self {
        FrameId { turn, seq: u32::MAX.into() }
    }
}

impl std::fmt::Display for FrameId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.turn, self.seq)
    }
}

impl FromStr for FrameId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (turn, seq) = text.split_once('-').ok_or(())?;
        Ok(FrameId { turn: turn.parse().map_err(|_| ())?, seq: seq.parse().map_err(|_| ())? })
    }
}

/// The kind of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The next words of the answer.
    Token,
    /// The frames of this turn so far are void: the turn starts again.
    TurnRestarted,
    /// The turn is checkpointed.
    TurnDone,
    /// The run is over; nothing follows. The text is `STATUS:REASON`.
    End,
    /// The run has a newer fence: its further frames are in that fence's stream.
    Moved,
}

impl Kind {
    const ALL: [Kind; 5] = [Kind::Token, Kind::TurnRestarted, Kind::TurnDone, Kind::End, Kind::Moved];

    /// The word in Redis and in HTTP answers.
    pub fn word(self) -> &'static str {
        match self {
            Kind::Token => "token",
            Kind::TurnRestarted => "turn_restarted",
            Kind::TurnDone => "turn_done",
            Kind::End => "end",
            Kind::Moved => "moved",
        }
    }

    /// The kind that the word means, if it means one.
    pub fn parse(word: &str) -> Option<Self> {
        Kind::ALL.into_iter().find(|kind| kind.word() == word)
    }
}

/// An entry of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The place in the stream.
    pub id: FrameId,
    /// The kind.
    pub kind: Kind,
    /// The words, for a token and the end.
    pub text: String,
}

#[derive(Default)]
struct Buffer {
    waiting: VecDeque<Frame>,
    in_flight: usize,
    dropped: u64,
    last: FrameId,
}

/// Writes the frames of one claimed run. Queueing a frame never waits; [`Frames::run`] writes them to Redis.
#[derive(Clone)]
pub struct Frames {
    redis: Redis,
    key: String,
    buffer: Arc<Mutex<Buffer>>,
    news: Arc<Notify>,
}

impl Frames {
    /// The frames of `run` under `fence`.
    pub fn new(redis: &Redis, run: &RunId, fence: Fence) -> Self {
        Frames { redis: redis.clone(), key: keys::stream(run, fence), buffer: Arc::default(), news: Arc::default() }
    }

    fn buffer(&self) -> std::sync::MutexGuard<'_, Buffer> {
        self.buffer.lock().expect("nothing panics while it holds the buffer")
    }

    /// Queues the next frame of `turn`. If Redis has been away for long, the oldest waiting frame makes room.
    pub fn push(&self, turn: i64, kind: Kind, text: impl Into<String>) {
        let mut buffer = self.buffer();
        let turn = turn.unsigned_abs();
        let seq = if buffer.last.turn == turn { buffer.last.seq + 1 } else { 1 };
        buffer.last = FrameId { turn, seq };
        if buffer.waiting.len() >= limits::FRAMES_BUFFERED {
            // What is in flight may already be in Redis: the hole opens behind it.
            let oldest = buffer.in_flight.min(buffer.waiting.len() - 1);
            buffer.waiting.remove(oldest);
            buffer.dropped += 1;
        }
        let frame = Frame { id: buffer.last, kind, text: text.into() };
        buffer.waiting.push_back(frame);
        self.news.notify_one();
    }

    /// Writes frames to Redis until it is dropped.
    pub async fn run(&self) {
        let mut backoff = Backoff::default();
        loop {
            let news = self.news.notified();
            match self.flush(limits::REDIS_CALL).await {
                Ok(true) => backoff.reset(),
                Ok(false) => news.await,
                Err(error) => {
                    tracing::debug!(%error, "frames wait for Redis");
                    backoff.wait().await;
                }
            }
        }
    }

    /// Sends one batch within `bound`. Says whether there was one.
    ///
    /// # Errors
    /// [`RedisDown`]; the frames still wait.
    pub async fn flush(&self, bound: std::time::Duration) -> Result<bool, RedisDown> {
        let batch: Vec<Frame> = {
            let mut buffer = self.buffer();
            let batch: Vec<_> = buffer.waiting.iter().take(limits::FRAMES_BATCH).cloned().collect();
            buffer.in_flight = batch.len();
            batch
        };
        if batch.is_empty() {
            return Ok(false);
        }
        let mut pipeline = redis::pipe();
        for frame in &batch {
            let entry = [(keys::FRAME_KIND, frame.kind.word()), (keys::FRAME_TEXT, &frame.text)];
            let cap = redis::streams::StreamMaxlen::Approx(limits::STREAM_LENGTH);
            pipeline.xadd_maxlen(&self.key, cap, frame.id.to_string(), &entry).ignore();
        }
        pipeline.expire(&self.key, limits::STREAM_TTL.as_secs().cast_signed()).ignore();
        let sent: Result<(), RedisDown> = self.redis.pipeline(bound, &pipeline).await;
        let mut buffer = self.buffer();
        buffer.in_flight = 0;
        match sent {
            Ok(()) => {}
            // An earlier try was carried out although its answer got lost, or the stream has ended.
            Err(RedisDown(why)) if why.contains("equal or smaller") => {}
            Err(error) => return Err(error),
        }
        let last = batch.last().map_or(FrameId::default(), |frame| frame.id);
        while buffer.waiting.front().is_some_and(|frame| frame.id <= last) {
            buffer.waiting.pop_front();
        }
        Ok(true)
    }

    /// Sends everything that waits, within `bound`.
    ///
    /// # Errors
    /// [`RedisDown`]; readers will see a gap.
    pub async fn finish(&self, bound: std::time::Duration) -> Result<(), RedisDown> {
        let all = async {
            while self.flush(bound).await? {}
            Ok(())
        };
        let late = |_| RedisDown(format!("frames were not written within {bound:?}"));
        tokio::time::timeout(bound, all).await.map_err(late)?
    }
}

/// Reads the stream of one run under one fence, over a connection of its own.
pub struct StreamReader {
    connection: ReaderConnection,
    key: String,
    after: FrameId,
}

impl StreamReader {
    /// Dials Redis to read what comes after `after`.
    ///
    /// # Errors
    /// [`RedisDown`].
    pub async fn open(redis: &Redis, run: &RunId, fence: Fence, after: FrameId) -> Result<Self, RedisDown> {
        let connection = ReaderConnection::dial(redis).await?;
        Ok(StreamReader { connection, key: keys::stream(run, fence), after })
    }

    /// The next frames, in order. Waits up to [`limits::REDIS_BLOCK`] if `wait`; none came if it is empty.
    ///
    /// # Errors
    /// [`RedisDown`]; open a new reader after the last frame that was seen.
    pub async fn next(&mut self, wait: bool) -> Result<Vec<Frame>, RedisDown> {
        let mut command = redis::cmd("XREAD");
        command.arg("COUNT").arg(limits::FRAMES_BATCH);
        if wait {
            command.arg("BLOCK").arg(limits::REDIS_BLOCK.as_millis().min(u128::from(u32::MAX)) as u64);
        }
        command.arg("STREAMS").arg(&self.key).arg(self.after.to_string());
        let reply: Option<StreamReadReply> = self.connection.command(&command).await?;
        let entries = reply.into_iter().flat_map(|reply| reply.keys).flat_map(|key| key.ids);
        let frames: Vec<Frame> = entries.filter_map(frame).collect();
        if let Some(last) = frames.last() {
            self.after = last.id;
        }
        Ok(frames)
    }
}

/// An entry as a frame; `None` for one that we did not write.
fn frame(entry: redis::streams::StreamId) -> Option<Frame> {
    let kind: String = entry.get(keys::FRAME_KIND)?;
    let kind = Kind::ALL.into_iter().find(|known| known.word() == kind)?;
    Some(Frame { id: entry.id.parse().ok()?, kind, text: entry.get(keys::FRAME_TEXT)? })
}
