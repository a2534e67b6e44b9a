//! The live state: the view that users look at, leases, and the streams of frames. Redis may forget all of it; a sweep
//! repairs from Postgres what Redis forgot or kept too long.

mod connection;
mod frames;
pub mod keys;

use std::collections::BTreeMap;
use std::time::Duration;

pub use self::connection::{Redis, RedisDown};
pub use self::frames::{Frame, FrameId, Frames, Kind, StreamReader};
use crate::ids::{Fence, RunId, SessionId};
use crate::limits;
use crate::run::{End, Status};

/// An entry of the live view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The run that is shown.
    pub run: RunId,
    /// The fence under which it was shown.
    pub fence: Fence,
    /// `queued` or `running`.
    pub status: String,
}

impl Entry {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, ':');
        let (run, fence, status) = (parts.next()?, parts.next()?, parts.next()?);
        Some(Entry { run: RunId(run.into()), fence: Fence(fence.parse().ok()?), status: status.into() })
    }
}

/// Redis, as this process uses it.
#[derive(Clone)]
pub struct Live {
    redis: Redis,
}

impl Live {
    /// The live view in `redis`.
    pub fn new(redis: Redis) -> Self {
        Live { redis }
    }

    /// The client underneath.
    pub fn redis(&self) -> &Redis {
        &self.redis
    }

    /// Shows a run that is not over. Nothing happens if it is over, or is shown under a newer fence.
    ///
    /// # Errors
    /// [`RedisDown`]; a sweep shows it later.
    pub async fn show(
        &self,
        bound: Duration,
        session: &SessionId,
        run: &RunId,
        fence: Fence,
        status: Status,
    ) -> Result<(), RedisDown> {
        let mut script = keys::SHOW.prepare_invoke();
        script.key(keys::LIVE).key(keys::ended(run)).key(keys::stream(run, Fence(fence.0 - 1)));
        script.arg(&session.0).arg(&run.0).arg(fence.0).arg(status.word());
        script.arg(limits::STREAM_TTL.as_secs()).arg(keys::STREAM_END);
        self.redis.script(bound, &script).await
    }

    /// The second terminal write: takes a run that is over out of the view, and ends its stream.
    ///
    /// # Errors
    /// [`RedisDown`]; repeat it, or leave it to a sweep.
    pub async fn end(
        &self,
        bound: Duration,
        session: &SessionId,
        run: &RunId,
        fence: Fence,
        end: &End,
    ) -> Result<(), RedisDown> {
        let mut script = keys::END.prepare_invoke();
        script.key(keys::LIVE).key(keys::ended(run)).key(keys::stream(run, fence)).key(keys::lease(session));
        script.key(keys::stream(run, Fence(fence.0 - 1)));
        script.arg(&session.0).arg(&run.0).arg(fence.0).arg(end.status.word()).arg(&end.reason);
        script.arg(limits::STREAM_TTL.as_secs()).arg(limits::STREAM_LENGTH).arg(keys::STREAM_END);
        self.redis.script(bound, &script).await
    }

    /// Reads the entry of a session, if there is one.
    ///
    /// # Errors
    /// [`RedisDown`]: unknown, which is not idle.
    pub async fn look(&self, session: &SessionId) -> Result<Option<Entry>, RedisDown> {
        let command = redis::Cmd::hget(keys::LIVE, &session.0);
        let text: Option<String> = self.redis.command(limits::REDIS_LOOK, &command).await?;
        Ok(text.and_then(|text| Entry::parse(&text)))
    }

    /// Every entry of the view. An entry that cannot be read is shown with an empty run, which no row has.
    ///
    /// # Errors
    /// [`RedisDown`].
    pub async fn entries(&self) -> Result<BTreeMap<SessionId, Entry>, RedisDown> {
        let shown: BTreeMap<String, String> =
            self.redis.command(limits::REDIS_CALL, &redis::Cmd::hgetall(keys::LIVE)).await?;
        if shown.len() > limits::VIEW_ENTRIES {
            tracing::warn!(entries = shown.len(), "the live view is larger than one sweep compares");
        }
        let unreadable = || Entry { run: RunId(String::new()), fence: Fence(0), status: String::new() };
        let entries = shown.into_iter().take(limits::VIEW_ENTRIES);
        Ok(entries.map(|(s, text)| (SessionId(s), Entry::parse(&text).unwrap_or_else(unreadable))).collect())
    }

    /// Takes a session out of the view whose entry no row explains.
    ///
    /// # Errors
    /// [`RedisDown`].
    pub async fn drop_entry(&self, session: &SessionId) -> Result<(), RedisDown> {
        self.redis.command(limits::REDIS_CALL, &redis::Cmd::hdel(keys::LIVE, &session.0)).await
    }

    /// Takes or renews the lease on a session.
    ///
    /// # Errors
    /// [`RedisDown`]; go on without it.
    pub async fn lease(&self, session: &SessionId, run: &RunId, fence: Fence) -> Result<bool, RedisDown> {
        let mut script = keys::LEASE.prepare_invoke();
        script.key(keys::lease(session)).arg(&run.0).arg(fence.0).arg(limits::LEASE_TTL.as_secs());
        self.redis.script(limits::REDIS_HINT, &script).await
    }

    /// Whether an executor holds the lease on this run.
    ///
    /// # Errors
    /// [`RedisDown`]; go on as if there were no lease.
    pub async fn is_leased(&self, session: &SessionId, run: &RunId) -> Result<bool, RedisDown> {
        let command = redis::Cmd::get(keys::lease(session));
        let held: Option<String> = self.redis.command(limits::REDIS_HINT, &command).await?;
        Ok(held.is_some_and(|held| held.split(':').next() == Some(&run.0)))
    }

    /// Releases a lease.
    ///
    /// # Errors
    /// [`RedisDown`]; it lapses.
    pub async fn release(&self, session: &SessionId, run: &RunId, fence: Fence) -> Result<(), RedisDown> {
        let mut script = keys::RELEASE.prepare_invoke();
        script.key(keys::lease(session)).arg(&run.0).arg(fence.0);
        self.redis.script(limits::REDIS_HINT, &script).await
    }
}
