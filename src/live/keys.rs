//! Every key in Redis, and every script. This file and no other knows their names.
//!
//! Whatever is here may be lost at any moment without losing work. A script names itself in its first line.

use std::sync::LazyLock;

use redis::Script;

use crate::ids::{Fence, RunId, SessionId};

/// A script as it is written, with the names of what it is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    /// Lua; the first line is its name.
    pub text: &'static str,
    /// The names of `KEYS[1]`, `KEYS[2]`, ….
    pub keys: &'static [&'static str],
    /// The names of `ARGV[1]`, `ARGV[2]`, ….
    pub args: &'static [&'static str],
}

/// What the key of an ended run begins with.
pub const ENDED: &str = "lychgate:ended:";
/// What the key of a stream begins with.
pub const STREAM: &str = "lychgate:stream:";
/// The field of a stream's entry that holds the frame's kind. [`END`] writes both fields too.
pub const FRAME_KIND: &str = "kind";
/// The field that holds its text.
pub const FRAME_TEXT: &str = "text";
/// What the key of a lease begins with.
pub const LEASE_OF: &str = "lychgate:lease:";

/// The live view: a hash of `session → RUN:FENCE:STATUS`, an entry for each run that is not over.
pub const LIVE: &str = "lychgate:live";

/// Says for a while that a run is over, so that a late write does not show it again.
pub fn ended(run: &RunId) -> String {
    format!("{ENDED}{run}")
}

/// The frames of a run under one fence: a stream with entry ids `TURN-SEQ`.
pub fn stream(run: &RunId, fence: Fence) -> String {
    format!("{STREAM}{run}:{fence}")
}

/// The owner of a session's run: `RUN:FENCE`. It spares a race and licenses nothing.
pub fn lease(session: &SessionId) -> String {
    format!("{LEASE_OF}{session}")
}

/// The id of a stream's last entry: larger than any `TURN-SEQ`, so that nothing can be added after it, or it twice.
pub const STREAM_END: &str = "4294967295-0";

/// Shows a run that is not over, never goes back in fences, and sends readers of the older stream to the newer one.
pub static SHOW: LazyLock<Script> = LazyLock::new(|| Script::new(SHOW_SOURCE.text));

/// The source of [`SHOW`].
pub const SHOW_SOURCE: Source = Source {
    keys: &["live", "ended", "older_stream"],
    args: &["session", "run", "fence", "status", "seconds", "end_id"],
    text: "-- live.show
if redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
local shown = redis.call('HGET', KEYS[1], ARGV[1])
if shown then
  local run, fence = string.match(shown, '^([^:]*):(%d+):')
  if run == ARGV[2] and tonumber(fence) > tonumber(ARGV[3]) then return 0 end
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. ':' .. ARGV[3] .. ':' .. ARGV[4])
if tonumber(ARGV[3]) > 0 then
  redis.pcall('XADD', KEYS[3], ARGV[6], 'kind', 'moved', 'text', '')
  redis.call('EXPIRE', KEYS[3], ARGV[5])
end
return 1",
};

/// Takes a run that is over out of the live view and ends its stream; sends readers of the older stream to the newer one, which
/// nobody has shown them if the run was ended while it waited. Done once, it does nothing.
pub static END: LazyLock<Script> = LazyLock::new(|| Script::new(END_SOURCE.text));

/// The source of [`END`].
pub const END_SOURCE: Source = Source {
    keys: &["live", "ended", "stream", "lease", "older_stream"],
    args: &["session", "run", "fence", "status", "reason", "seconds", "stream_length", "end_id"],
    text: "-- live.end
local shown = redis.call('HGET', KEYS[1], ARGV[1])
local run, fence
if shown then run, fence = string.match(shown, '^([^:]*):(%d+):') end
local ours = run == ARGV[2] and tonumber(fence) <= tonumber(ARGV[3])
if not ours and redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
if ours then redis.call('HDEL', KEYS[1], ARGV[1]) end
redis.call('SET', KEYS[2], ARGV[4], 'EX', ARGV[6])
redis.pcall('XADD', KEYS[3], 'MAXLEN', '~', ARGV[7], ARGV[8], 'kind', 'end', 'text', ARGV[4] .. ':' .. ARGV[5])
redis.call('EXPIRE', KEYS[3], ARGV[6])
if tonumber(ARGV[3]) > 0 then
  redis.pcall('XADD', KEYS[5], ARGV[8], 'kind', 'moved', 'text', '')
  redis.call('EXPIRE', KEYS[5], ARGV[6])
end
if redis.call('GET', KEYS[4]) == ARGV[2] .. ':' .. ARGV[3] then redis.call('DEL', KEYS[4]) end
return 1",
};

/// Takes a lease or renews it; an older fence never takes it from a newer one.
pub static LEASE: LazyLock<Script> = LazyLock::new(|| Script::new(LEASE_SOURCE.text));

/// The source of [`LEASE`].
pub const LEASE_SOURCE: Source = Source {
    keys: &["lease"],
    args: &["run", "fence", "seconds"],
    text: "-- lease.take
local held = redis.call('GET', KEYS[1])
if held then
  local run, fence = string.match(held, '^([^:]*):(%d+)$')
  if run == ARGV[1] and tonumber(fence) > tonumber(ARGV[2]) then return 0 end
end
redis.call('SET', KEYS[1], ARGV[1] .. ':' .. ARGV[2], 'EX', ARGV[3])
return 1",
};

/// Lets go of a lease, if it is ours.
pub static RELEASE: LazyLock<Script> = LazyLock::new(|| Script::new(RELEASE_SOURCE.text));

/// The source of [`RELEASE`].
pub const RELEASE_SOURCE: Source = Source {
    keys: &["lease"],
    args: &["run", "fence"],
    text: "-- lease.release
if redis.call('GET', KEYS[1]) == ARGV[1] .. ':' .. ARGV[2] then return redis.call('DEL', KEYS[1]) end
return 0",
};
