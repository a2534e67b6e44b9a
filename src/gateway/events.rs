//! The stream of one run to one reader, as server-sent events: ended once, after its last frame; no frame twice; a hole
//! is told as a gap or filled from the checkpoints; an idle stream heartbeats.
//!
//! An event's id is `FENCE.TURN-SEQ`, with `+` after a turn that is whole. A reader that comes back with
//! `Last-Event-ID` goes on behind it. Readers follow the row's fence: what an older owner still writes is never shown.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::Instant;

use super::Gateway;
use super::problem::Problem;
use crate::backoff::Backoff;
use crate::ids::{Fence, RunId};
use crate::limits;
use crate::live::{Frame, FrameId, Kind, RedisDown, StreamReader};
use crate::run::Row;

/// The reader's position in the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cursor {
    fence: Fence,
    last: FrameId,
    /// Whether the last one closed its turn.
    whole: bool,
}

impl Cursor {
    const START: Cursor = Cursor { fence: Fence(0), last: FrameId { turn: 0, seq: 0 }, whole: true };

    fn parse(text: &str) -> Option<Self> {
        let (place, whole) = text.strip_suffix('+').map_or((text, false), |place| (place, true));
        let (fence, last) = place.split_once('.')?;
        Some(Cursor { fence: Fence(fence.parse().ok()?), last: last.parse().ok()?, whole })
    }

    fn text(self) -> String {
        format!("{}.{}{}", self.fence, self.last, if self.whole { "+" } else { "" })
    }

    /// The frame that follows without a hole.
    fn next(self) -> FrameId {
        let FrameId { turn, seq } = self.last;
        match self.whole {
            true => FrameId { turn: turn.saturating_add(1), seq: 1 },
            false => FrameId { turn, seq: seq.saturating_add(1) },
        }
    }

    /// Turns that the reader has whole.
    fn turns(self) -> u64 {
        if self.whole { self.last.turn } else { self.last.turn.saturating_sub(1) }
    }
}

/// The reader is gone, or reads too slowly.
struct Gone;

struct Feed {
    gateway: Arc<Gateway>,
    run: RunId,
    cursor: Cursor,
    out: mpsc::Sender<Bytes>,
    sent_at: Instant,
    _place: OwnedSemaphorePermit,
}

pub(super) async fn stream(
    State(gateway): State<Arc<Gateway>>,
    Path(run): Path<RunId>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let cursor = match headers.get("last-event-id").map(|id| id.to_str().ok().and_then(Cursor::parse)) {
        None => Cursor::START,
        Some(Some(cursor)) => cursor,
        Some(None) => return Err(Problem::bad_request("`Last-Event-ID` is none that this stream has sent")),
    };
    let row = gateway.store.run(&run).await?;
    let row = row.ok_or_else(|| Problem::new(StatusCode::NOT_FOUND, "no_run", "there is no such run"))?;
    let place = gateway.streams.clone().try_acquire_owned().map_err(|_| {
        let says = "too many streams are open on this gateway";
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "too_many_streams", says).retry_after(5)
    })?;
    let (out, events) = mpsc::channel(limits::SSE_QUEUED);
    let feed = Feed { gateway, run, cursor, out, sent_at: Instant::now(), _place: place };
    tokio::spawn(feed.feed(row));
    let body = stream::unfold(events, |mut events| async {
        events.recv().await.map(|event| (Ok::<_, Infallible>(event), events))
    });
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    Ok((headers, Body::from_stream(body)).into_response())
}

impl Feed {
    /// Feeds the reader until the run's end, the gateway's, or its own.
    async fn feed(mut self, row: Row) {
        let (draining, out) = (self.gateway.draining.clone(), self.out.clone());
        let fed = tokio::select! {
            biased;
            () = out.closed() => Err(Gone),
            () = draining.cancelled() => Ok(false),
            fed = self.follow(row) => fed.map(|()| true),
        };
        match fed {
            Ok(true) => {}
            // What was sent before comes first: the reader goes on behind it elsewhere.
            Ok(false) => drop(self.send("event: reconnect\ndata: {}\n\n".into()).await),
            Err(Gone) => tracing::debug!(run = %self.run, "a reader went away"),
        }
    }

    async fn follow(&mut self, mut row: Row) -> Result<(), Gone> {
        let mut backoff = Backoff::default();
        loop {
            if row.fence != self.cursor.fence {
                self.change_fence(&row).await?;
            }
            if row.status.is_terminal() {
                return self.end(&row).await;
            }
            let read = self.read_until_news(&mut backoff).await?;
            if let Err(error) = read {
                tracing::debug!(%error, "a stream waits for Redis");
                backoff.wait().await;
                self.heartbeat().await?;
            }
            // Postgres's silence changes nothing: the reader keeps what it has, and its heartbeats. Its refusal comes
            // at once, and so does the end of a stream that was read before: without a pause they would take turns.
            match self.gateway.store.run(&self.run).await {
                Ok(Some(now)) => row = now,
                Ok(None) | Err(_) => {
                    backoff.wait().await;
                    self.heartbeat().await?;
                }
            }
        }
    }

    /// Reads frames of the row's fence until there is reason to look at the row: silence, trouble, or an end.
    async fn read_until_news(&mut self, backoff: &mut Backoff) -> Result<Result<(), RedisDown>, Gone> {
        let redis = self.gateway.live.redis().clone();
        let (fence, after) = (self.cursor.fence, self.cursor.last);
        let mut reader = match StreamReader::open(&redis, &self.run, fence, after).await {
            Ok(reader) => reader,
            Err(error) => return Ok(Err(error)),
        };
        loop {
            let until_heartbeat = limits::SSE_HEARTBEAT.saturating_sub(self.sent_at.elapsed());
            match tokio::time::timeout(until_heartbeat, reader.next(true)).await {
                Ok(Err(error)) => return Ok(Err(error)),
                Ok(Ok(frames)) => {
                    backoff.reset();
                    for frame in frames {
                        if matches!(frame.kind, Kind::End | Kind::Moved) {
                            return Ok(Ok(()));
                        }
                        self.show(frame).await?;
                    }
                }
                Err(_) => {
                    self.heartbeat().await?;
                    return Ok(Ok(()));
                }
            }
        }
    }

    /// The row has another fence: what was checkpointed under older ones is given whole, and its stream read anew.
    async fn change_fence(&mut self, row: &Row) -> Result<(), Gone> {
        let Ok(turns) = self.gateway.store.turns(&self.run).await else {
            // The row's next look tries again.
            return self.heartbeat().await;
        };
        let seen = self.cursor.turns();
        let mut cursor = Cursor { fence: row.fence, last: FrameId::whole(seen), whole: true };
        let older = turns.into_iter().filter(|turn| turn.fence < row.fence);
        for turn in older.filter(|turn| turn.turn.unsigned_abs() > seen) {
            cursor.last = FrameId::whole(turn.turn.unsigned_abs());
            self.cursor = cursor;
            self.event("turn", json!({ "turn": turn.turn, "text": turn.text })).await?;
        }
        self.cursor = cursor;
        Ok(())
    }

    async fn show(&mut self, frame: Frame) -> Result<(), Gone> {
        if frame.id <= self.cursor.last {
            return Ok(());
        }
        if frame.id != self.cursor.next() {
            self.gap().await?;
        }
        self.cursor.last = frame.id;
        self.cursor.whole = frame.kind == Kind::TurnDone;
        let mut data = json!({ "turn": frame.id.turn });
        if frame.kind == Kind::Token {
            data["text"] = Value::String(frame.text);
        }
        self.event(frame.kind.word(), data).await
    }

    /// The run is over: what is left of its stream, or a gap if nobody can say, and then the end.
    async fn end(&mut self, row: &Row) -> Result<(), Gone> {
        let redis = self.gateway.live.redis().clone();
        let (run, fence, after) = (self.run.clone(), self.cursor.fence, self.cursor.last);
        let last_read = async {
            let mut reader = StreamReader::open(&redis, &run, fence, after).await?;
            let mut left = Vec::new();
            loop {
                let frames = reader.next(false).await?;
                if frames.is_empty() || left.len() > limits::STREAM_LENGTH {
                    return Ok::<_, RedisDown>(left);
                }
                left.extend(frames);
            }
        };
        let left = tokio::time::timeout(limits::REDIS_LOOK, last_read).await;
        let Ok(Ok(left)) = left else {
            self.gap().await?;
            return self.close(row).await;
        };
        for frame in left {
            if !matches!(frame.kind, Kind::End | Kind::Moved) {
                self.show(frame).await?;
            }
        }
        self.close(row).await
    }

    /// Turns that the stream did not bring, then the end.
    async fn close(&mut self, row: &Row) -> Result<(), Gone> {
        if self.cursor.turns() < row.turns.unsigned_abs() {
            match self.gateway.store.turns(&self.run).await {
                Ok(turns) => {
                    let missed = self.cursor.turns();
                    for turn in turns.into_iter().filter(|turn| turn.turn.unsigned_abs() > missed) {
                        self.cursor.last = FrameId::whole(turn.turn.unsigned_abs());
                        self.cursor.whole = true;
                        self.event("turn", json!({ "turn": turn.turn, "text": turn.text })).await?;
                    }
                }
                Err(_) => self.gap().await?,
            }
        }
        self.event("end", json!({ "status": row.status, "reason": row.end_reason })).await
    }

    /// Something was said that this stream has not: the messages have it, once it is checkpointed.
    async fn gap(&mut self) -> Result<(), Gone> {
        self.event("gap", json!({ "after": self.cursor.text() })).await
    }

    async fn event(&mut self, name: &str, data: Value) -> Result<(), Gone> {
        self.send(format!("id: {}\nevent: {name}\ndata: {data}\n\n", self.cursor.text())).await
    }

    async fn heartbeat(&mut self) -> Result<(), Gone> {
        if self.sent_at.elapsed() < limits::SSE_HEARTBEAT {
            return Ok(());
        }
        self.send(": heartbeat\n\n".into()).await
    }

    async fn send(&mut self, text: String) -> Result<(), Gone> {
        self.sent_at = Instant::now();
        let sent = tokio::time::timeout(limits::SSE_WRITE, self.out.send(text.into())).await;
        sent.map_err(|_| Gone)?.map_err(|_| Gone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_survives_the_way_to_the_reader_and_back() {
        for text in ["3.2-17", "3.2-17+", "1.0-0+"] {
            assert_eq!(Cursor::parse(text).unwrap().text(), text);
        }
        for text in ["", "3", "3.2", "x.2-1", "3.2-1++"] {
            assert_eq!(Cursor::parse(text), None);
        }
    }

    #[test]
    fn the_next_frame_follows_in_its_turn_or_opens_the_next() {
        assert_eq!(Cursor::START.next(), FrameId { turn: 1, seq: 1 });
        assert_eq!(Cursor::parse("1.2-5").unwrap().next(), FrameId { turn: 2, seq: 6 });
        assert_eq!(Cursor::parse("1.2-5+").unwrap().next(), FrameId { turn: 3, seq: 1 });
        assert_eq!(Cursor::parse("1.2-5").unwrap().turns(), 1);
    }
}
