//! What the product did, as seen from outside. Sessions and runs go by their labels: `ann/1` is ann's first session,
//! `ann/1#2` the run that her second message in it started.

use lychgate_sim::event::Occurrence;
use serde::Serialize;

/// An event of the product. Every one names the labels of what it is about; a `fence` is Postgres's.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[allow(missing_docs)] // the fields are named as in the events' own docs
pub enum Did {
    /// A message and its run were committed.
    Accepted { session: String, run: String },
    /// A hint of a waiting run was routed to a queue.
    Hinted { session: String, run: String },
    /// A run was claimed: its fence was minted.
    Claimed { session: String, run: String, fence: i64, owner: String, incarnation: i64 },
    /// A beat was executed: what it named, and for each run that is still its own whether a cancel was requested.
    Beat { owner: String, named: Vec<(String, i64)>, confirmed: Vec<(String, i64, bool)> },
    /// A turn was committed.
    Checkpointed { session: String, run: String, turn: i64, fence: i64, last: bool },
    /// A checkpoint consumed a message.
    Consumed { session: String, message: String, turn: i64 },
    /// Messages of a run were reported to their user instead.
    Reported { session: String, run: String, messages: u64, reason: String },
    /// A run went back to the queue; `fence` is the one it was under.
    HandedBack { session: String, run: String, fence: i64 },
    /// A user's wish to stop the run was committed.
    CancelRequested { session: String, run: String },
    /// A terminal status was committed: by the owner under `fence`, or by another, who minted `fence`.
    Ended { session: String, run: String, fence: i64, status: String, reason: String, by_owner: bool },
    /// The live view shows a run.
    Shown { session: String, run: String, fence: i64, status: String },
    /// The live view was told that a run is over, and does not show it.
    Unshown { session: String, run: String },
    /// The provider got a call.
    Called { session: String, run: String, fence: i64, turn: i64, attempt: i64 },
    /// The provider sent its last token.
    Answered { session: String, run: String, fence: i64, turn: i64, attempt: i64 },
    /// A caller hung up on the provider.
    HungUp { session: String, run: String, fence: i64, turn: i64, attempt: i64 },
    /// A frame went into a stream.
    Framed { session: String, run: String, fence: i64, turn: u64, seq: u64, kind: String },
    /// The safety net confirmed what the first tries could not.
    Saved { session: String, run: String },
    /// An executor acts no more on a run, because no beat was confirmed.
    Lost { session: String, run: String },
    /// A user sent a message, once more or for the first time.
    Said { session: String, run: String },
    /// A user was told that the session is suspended.
    TurnedAway { session: String, run: String },
    /// A user got the 202.
    Heard { session: String, run: String },
    /// A user opened the stream of a run, for the `nth` time.
    Opened { session: String, run: String, nth: u32 },
    /// A user saw an event of a stream. `id` is its SSE id, `text` what it shows.
    Saw { session: String, run: String, kind: String, id: String, turn: i64, text: String },
    /// A user saw a heartbeat.
    Heartbeat { session: String, run: String },
    /// A user's stream broke off, or was left.
    Broke { session: String, run: String },
    /// A user saw the end of a run.
    SawEnd { session: String, run: String, status: String },
    /// A user asked to stop a run, and got the 202.
    Cancelled { session: String },
    /// A user looked at a message: `unread`, `consumed` or `reported`; and at the answers to it, each with its turn.
    Found { session: String, run: String, state: String, answers: Vec<(i64, String)> },
    /// A lease was taken or renewed. It lapses after `lasts` seconds; never, if there is nothing.
    Leased { session: String, run: String, fence: i64, lasts: Option<u64> },
    /// A lease was let go of, or its run's end took it away.
    Released { session: String, run: String, fence: i64 },
    /// A key of Redis was written: `live`, `ended`, `stream`, `lease` or `unknown`. `key` is its label, `entries` what it
    /// holds now (0: it is gone), `lasts` its seconds. Of a stream only what changes whether it lapses, and each
    /// further thousand of entries.
    Kept { session: Option<String>, key: String, kind: &'static str, entries: usize, lasts: Option<u64> },
    /// A message of the queue `runs` or `cancels` was handed to the process on its `line`th connection to the broker.
    Delivered { session: String, run: String, queue: String, line: u32 },
    /// It was `acked`, `given_back`, `dropped`, or `returned` by the end of its channel or connection.
    Settled { session: String, run: String, queue: String, line: u32, how: &'static str },
}

impl Occurrence for Did {
    const NAMES: &'static [&'static str] = &[
        "accepted",
        "hinted",
        "claimed",
        "beat",
        "checkpointed",
        "consumed",
        "reported",
        "handed_back",
        "cancel_requested",
        "ended",
        "shown",
        "unshown",
        "called",
        "answered",
        "hung_up",
        "framed",
        "saved",
        "lost",
        "said",
        "turned_away",
        "heard",
        "opened",
        "saw",
        "heartbeat",
        "broke",
        "saw_end",
        "cancelled",
        "found",
        "leased",
        "released",
        "kept",
        "delivered",
        "settled",
    ];

    fn name(&self) -> &'static str {
        match self {
            Did::Accepted { .. } => "accepted",
            Did::Hinted { .. } => "hinted",
            Did::Claimed { .. } => "claimed",
            Did::Beat { .. } => "beat",
            Did::Checkpointed { .. } => "checkpointed",
            Did::Consumed { .. } => "consumed",
            Did::Reported { .. } => "reported",
            Did::HandedBack { .. } => "handed_back",
            Did::CancelRequested { .. } => "cancel_requested",
            Did::Ended { .. } => "ended",
            Did::Shown { .. } => "shown",
            Did::Unshown { .. } => "unshown",
            Did::Called { .. } => "called",
            Did::Answered { .. } => "answered",
            Did::HungUp { .. } => "hung_up",
            Did::Framed { .. } => "framed",
            Did::Saved { .. } => "saved",
            Did::Lost { .. } => "lost",
            Did::Said { .. } => "said",
            Did::TurnedAway { .. } => "turned_away",
            Did::Heard { .. } => "heard",
            Did::Opened { .. } => "opened",
            Did::Saw { .. } => "saw",
            Did::Heartbeat { .. } => "heartbeat",
            Did::Broke { .. } => "broke",
            Did::SawEnd { .. } => "saw_end",
            Did::Cancelled { .. } => "cancelled",
            Did::Found { .. } => "found",
            Did::Leased { .. } => "leased",
            Did::Released { .. } => "released",
            Did::Kept { .. } => "kept",
            Did::Delivered { .. } => "delivered",
            Did::Settled { .. } => "settled",
        }
    }

    fn session(&self) -> Option<&str> {
        match self {
            Did::Beat { .. } => None,
            Did::Accepted { session, .. }
            | Did::Hinted { session, .. }
            | Did::Claimed { session, .. }
            | Did::Checkpointed { session, .. }
            | Did::Consumed { session, .. }
            | Did::Reported { session, .. }
            | Did::HandedBack { session, .. }
            | Did::CancelRequested { session, .. }
            | Did::Ended { session, .. }
            | Did::Shown { session, .. }
            | Did::Unshown { session, .. }
            | Did::Called { session, .. }
            | Did::Answered { session, .. }
            | Did::HungUp { session, .. }
            | Did::Framed { session, .. }
            | Did::Saved { session, .. }
            | Did::Lost { session, .. }
            | Did::Said { session, .. }
            | Did::TurnedAway { session, .. }
            | Did::Heard { session, .. }
            | Did::Opened { session, .. }
            | Did::Saw { session, .. }
            | Did::Heartbeat { session, .. }
            | Did::Broke { session, .. }
            | Did::SawEnd { session, .. }
            | Did::Cancelled { session }
            | Did::Found { session, .. } => Some(session),
            Did::Kept { session, .. } => session.as_deref(),
            Did::Leased { session, .. }
            | Did::Released { session, .. }
            | Did::Delivered { session, .. }
            | Did::Settled { session, .. } => Some(session),
        }
    }

    fn story(&self) -> Option<String> {
        match self {
            Did::Accepted { run, .. } => Some(format!("{run} is accepted")),
            Did::Claimed { run, owner, .. } => Some(format!("{owner} claims {run}")),
            Did::Checkpointed { run, turn, .. } => Some(format!("turn {turn} of {run} is checkpointed")),
            Did::HandedBack { run, .. } => Some(format!("{run} goes back to the queue")),
            Did::CancelRequested { run, .. } => Some(format!("{run} shall stop")),
            Did::Ended { run, status, .. } => Some(format!("{run} is {status}")),
            Did::Unshown { run, .. } => Some(format!("{run} leaves the live view")),
            Did::Reported { run, reason, .. } => Some(format!("what {run} left unread is reported: {reason}")),
            Did::Saved { run, .. } => Some(format!("the safety net saves {run}")),
            Did::TurnedAway { run, .. } => Some(format!("{run} is turned away: its session is suspended")),
            Did::Lost { run, .. } => Some(format!("the owner of {run} gives it up as lost")),
            Did::SawEnd { run, status, .. } => Some(format!("the user sees that {run} is {status}")),
            _ => None,
        }
    }
}
