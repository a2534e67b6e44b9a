//! What the product did, as seen from outside. Sessions and runs go by their labels: `ann/1` is ann's first session,
//! `ann/1#2` the run that her second message in it started.

use std::collections::BTreeMap;
use std::time::Duration;

use lychgate::live::Kind;
use lychgate::run::{MessageState, Status};
use lychgate_sim::trace::event::ProductEvent;
use serde::{Serialize, Serializer};

use crate::answers::Shown;

/// An event of the product. Every one names the labels of what it is about; a `fence` is Postgres's.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[allow(missing_docs)] // the fields are named as in the events' own docs
pub enum Did {
    /// A message and its run were committed.
    Accepted { session: String, run: String },
    /// A hint of a waiting run was routed to a queue.
    Hinted { session: String, run: String },
    /// A run was claimed: its fence was minted. `owner` is the process that did it, `mark` what it would leave on it:
    /// `NAME/INCARNATION`, as Postgres counts.
    Claimed { session: String, run: String, fence: i64, owner: String, mark: String },
    /// A beat was executed: what it named, and for each run that is still its own whether a cancel was requested.
    Beat { owner: String, named: Vec<(String, i64)>, confirmed: Vec<(String, i64, bool)> },
    /// A turn was committed, through this pool of its process.
    Checkpointed { session: String, run: String, turn: i64, fence: i64, last: bool, pool: String },
    /// A checkpoint consumed a message.
    Consumed { session: String, message: String, turn: i64 },
    /// A run was marked; `by` is `NAME/INCARNATION`, as Postgres counts.
    Marked { session: String, run: String, by: String },
    /// A process took a mark off a run: whose it was, `marked_by` says.
    Unmarked { session: String, run: String, by: String, marked_by: String },
    /// A notice to its user was written: the run was taken over, or given up.
    Noticed { session: String, run: String },
    /// A session was suspended.
    Suspended { session: String },
    /// A session's suspension was lifted.
    Unsuspended { session: String },
    /// A process that was told to stop takes no more runs.
    Draining { process: String },
    /// A process says that it could not mark its runs.
    MarkFailed { process: String },
    /// A process has closed a pool of connections to Postgres.
    PoolClosed { process: String, pool: String },
    /// A process gave up on closing one.
    PoolAbandoned { process: String, pool: String },
    /// A process tried to commit a turn after it had closed the pool.
    CheckpointTried { session: String, run: String },
    /// Messages of a run were reported to their user instead.
    Reported { session: String, run: String, messages: u64, reason: String },
    /// A run went back to the queue; `fence` is the one it was under.
    HandedBack { session: String, run: String, fence: i64 },
    /// A user's wish to stop the run was committed.
    CancelRequested { session: String, run: String },
    /// A terminal status was committed: by the owner under `fence`, or by another, who minted `fence`.
    Ended { session: String, run: String, fence: i64, status: Status, reason: String, by_owner: bool },
    /// The live view shows a run.
    Shown { session: String, run: String, fence: i64, status: Status },
    /// The live view was told that a run is over, and does not show it.
    Unshown { session: String, run: String },
    /// The provider got a call.
    Called { session: String, run: String, fence: i64, turn: i64, attempt: i64 },
    /// The provider sent its last token.
    Answered { session: String, run: String, fence: i64, turn: i64, attempt: i64 },
    /// A caller hung up on the provider.
    HungUp { session: String, run: String, fence: i64, turn: i64, attempt: i64 },
    /// The provider ended an answer that is no whole one, as if it were over.
    Spoiled { session: String, run: String, fence: i64, turn: i64, attempt: i64 },
    /// A frame went into a stream.
    Framed {
        session: String,
        run: String,
        fence: i64,
        turn: u64,
        seq: u64,
        #[serde(serialize_with = "frame_kind")]
        kind: Kind,
    },
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
    Saw { session: String, run: String, kind: Shown, id: String, turn: i64, text: String },
    /// A user saw a heartbeat.
    Heartbeat { session: String, run: String },
    /// A user's stream broke off, or was left.
    Broke { session: String, run: String },
    /// A user saw the end of a run.
    SawEnd { session: String, run: String, status: Status },
    /// A user asked to stop a run, and got the 202.
    Cancelled { session: String },
    /// A user or an operator got an answer of `gateway` that no table has: `legal` says what it would have been.
    Puzzled { session: String, run: String, gateway: String, request: &'static str, answer: String, legal: String },
    /// A user looked at a message: `unread`, `consumed` or `reported`; at the answers to it, each with its turn; at how many
    /// notices there are about its run, and how many about the session's agent.
    Found {
        session: String,
        run: String,
        state: MessageState,
        answers: Vec<(i64, String)>,
        notices: usize,
        of_agent: usize,
    },
    /// The provider refused a call that an agent made under this assignment.
    Refused { session: String, run: String, agent: String, epoch: i64, status: u16 },
    /// An agent was assigned a subscription; the first time `from` is empty.
    Assigned { agent: String, from: String, to: String, epoch: i64, by_operator: bool },
    /// An operator asked, once more or for the first time, to give an agent another subscription, having seen it under
    /// `epoch`.
    ReassignAsked { agent: String, to: String, epoch: i64 },
    /// An operator was told that an agent is assigned this, under `epoch`.
    Reassigned { agent: String, to: String, epoch: i64 },
    /// An operator was told that the agent had moved meanwhile.
    ReassignRefused { agent: String, to: String },
    /// It was recorded that a call of an agent failed because of its subscription.
    SubscriptionFailed { agent: String, subscription: String, epoch: i64 },
    /// An agent was found ready under an assignment.
    SwitchReady { agent: String, epoch: i64 },
    /// The users of an agent were told of an assignment.
    SwitchNoticed { agent: String, epoch: i64 },
    /// A container was created for an assignment.
    ContainerCreated { agent: String, epoch: i64, container: String },
    /// It was started.
    ContainerStarted { agent: String, epoch: i64, container: String },
    /// It does not run any more.
    ContainerEnded { agent: String, container: String },
    /// There is no such container any more.
    ContainerRemoved { agent: String, container: String },
    /// A container called the provider for a turn.
    TurnServed { agent: String, epoch: i64, container: String },
    /// A container was asked for its `/health`, and answered after `took`, if `status` is there.
    Probed { process: String, agent: String, status: Option<u16>, took: Duration, gauges: BTreeMap<String, i64> },
    /// A lease was taken or renewed. It lapses after `lasts` seconds; never, if there is nothing.
    Leased { session: String, run: String, fence: i64, lasts: Option<u64> },
    /// A lease was let go of, or its run's end took it away.
    Released { session: String, run: String, fence: i64 },
    /// A key of Redis was written: `live`, `ended`, `stream`, `lease` or `unknown`. `key` is its label, `entries` what it
    /// holds now (0: it is gone), `lasts` its seconds. Of a stream only what changes whether it lapses, and each
    /// further thousand of entries.
    Kept { session: Option<String>, key: String, kind: KeyKind, entries: usize, lasts: Option<u64> },
    /// A message of the queue `runs` or `cancels` was handed to the process on its `line`th connection to the broker.
    Delivered { session: String, run: String, queue: Queue, line: u32 },
    /// It was `acked`, `given_back`, `dropped`, or `returned` by the end of its channel or connection.
    Settled { session: String, run: String, queue: Queue, line: u32, how: How },
}

/// What a key of Redis is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyKind {
    /// The live view.
    Live,
    /// The note that a run is over.
    Ended,
    /// The frames of a run under one fence.
    Stream,
    /// The lease on a session.
    Lease,
    /// Nobody knows.
    Unknown,
}

impl KeyKind {
    /// Its word in labels.
    pub fn word(self) -> &'static str {
        match self {
            KeyKind::Live => "live",
            KeyKind::Ended => "ended",
            KeyKind::Stream => "stream",
            KeyKind::Lease => "lease",
            KeyKind::Unknown => "unknown",
        }
    }
}

/// A queue of the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Queue {
    /// Of hints of waiting runs.
    Runs,
    /// Of wishes to stop a run: each executor has one.
    Cancels,
}

impl Queue {
    /// Its word in breaches.
    pub fn word(self) -> &'static str {
        match self {
            Queue::Runs => "runs",
            Queue::Cancels => "cancels",
        }
    }
}

/// How a delivery was settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// The consumer is done with it.
    Acked,
    /// The consumer put it back into the queue.
    GivenBack,
    /// The consumer, or the queue, gave it up.
    Dropped,
    /// The end of its channel or connection put it back into the queue.
    Returned,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde asks for a reference
fn frame_kind<S: Serializer>(kind: &Kind, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(kind.word())
}

impl ProductEvent for Did {
    const NAMES: &'static [&'static str] = &[
        "accepted",
        "hinted",
        "claimed",
        "beat",
        "checkpointed",
        "consumed",
        "marked",
        "unmarked",
        "noticed",
        "suspended",
        "unsuspended",
        "draining",
        "mark_failed",
        "pool_closed",
        "pool_abandoned",
        "checkpoint_tried",
        "reported",
        "handed_back",
        "cancel_requested",
        "ended",
        "shown",
        "unshown",
        "called",
        "answered",
        "hung_up",
        "spoiled",
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
        "puzzled",
        "found",
        "refused",
        "subscription_failed",
        "assigned",
        "reassign_asked",
        "reassigned",
        "reassign_refused",
        "switch_ready",
        "switch_noticed",
        "container_created",
        "container_started",
        "container_ended",
        "container_removed",
        "turn_served",
        "probed",
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
            Did::Marked { .. } => "marked",
            Did::Unmarked { .. } => "unmarked",
            Did::Noticed { .. } => "noticed",
            Did::Suspended { .. } => "suspended",
            Did::Unsuspended { .. } => "unsuspended",
            Did::Draining { .. } => "draining",
            Did::MarkFailed { .. } => "mark_failed",
            Did::PoolClosed { .. } => "pool_closed",
            Did::PoolAbandoned { .. } => "pool_abandoned",
            Did::CheckpointTried { .. } => "checkpoint_tried",
            Did::Reported { .. } => "reported",
            Did::HandedBack { .. } => "handed_back",
            Did::CancelRequested { .. } => "cancel_requested",
            Did::Ended { .. } => "ended",
            Did::Shown { .. } => "shown",
            Did::Unshown { .. } => "unshown",
            Did::Called { .. } => "called",
            Did::Answered { .. } => "answered",
            Did::HungUp { .. } => "hung_up",
            Did::Spoiled { .. } => "spoiled",
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
            Did::Puzzled { .. } => "puzzled",
            Did::Found { .. } => "found",
            Did::Refused { .. } => "refused",
            Did::SubscriptionFailed { .. } => "subscription_failed",
            Did::Assigned { .. } => "assigned",
            Did::ReassignAsked { .. } => "reassign_asked",
            Did::Reassigned { .. } => "reassigned",
            Did::ReassignRefused { .. } => "reassign_refused",
            Did::SwitchReady { .. } => "switch_ready",
            Did::SwitchNoticed { .. } => "switch_noticed",
            Did::ContainerCreated { .. } => "container_created",
            Did::ContainerStarted { .. } => "container_started",
            Did::ContainerEnded { .. } => "container_ended",
            Did::ContainerRemoved { .. } => "container_removed",
            Did::TurnServed { .. } => "turn_served",
            Did::Probed { .. } => "probed",
            Did::Leased { .. } => "leased",
            Did::Released { .. } => "released",
            Did::Kept { .. } => "kept",
            Did::Delivered { .. } => "delivered",
            Did::Settled { .. } => "settled",
        }
    }

    fn routine(&self) -> bool {
        matches!(self, Did::Probed { .. })
    }

    fn session(&self) -> Option<&str> {
        match self {
            Did::Beat { .. }
            | Did::Draining { .. }
            | Did::MarkFailed { .. }
            | Did::PoolClosed { .. }
            | Did::PoolAbandoned { .. } => None,
            Did::SubscriptionFailed { .. }
            | Did::Assigned { .. }
            | Did::ReassignAsked { .. }
            | Did::Reassigned { .. }
            | Did::ReassignRefused { .. }
            | Did::SwitchReady { .. }
            | Did::SwitchNoticed { .. }
            | Did::ContainerCreated { .. }
            | Did::ContainerStarted { .. }
            | Did::ContainerEnded { .. }
            | Did::ContainerRemoved { .. }
            | Did::TurnServed { .. }
            | Did::Probed { .. } => None,
            Did::Refused { session, .. }
            | Did::Accepted { session, .. }
            | Did::Hinted { session, .. }
            | Did::Claimed { session, .. }
            | Did::Checkpointed { session, .. }
            | Did::Consumed { session, .. }
            | Did::Marked { session, .. }
            | Did::Unmarked { session, .. }
            | Did::Noticed { session, .. }
            | Did::Suspended { session }
            | Did::Unsuspended { session }
            | Did::CheckpointTried { session, .. }
            | Did::Reported { session, .. }
            | Did::HandedBack { session, .. }
            | Did::CancelRequested { session, .. }
            | Did::Ended { session, .. }
            | Did::Shown { session, .. }
            | Did::Unshown { session, .. }
            | Did::Called { session, .. }
            | Did::Answered { session, .. }
            | Did::HungUp { session, .. }
            | Did::Spoiled { session, .. }
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
            | Did::Puzzled { session, .. }
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
            Did::Ended { run, status, .. } => Some(format!("{run} is {}", status.word())),
            Did::Unshown { run, .. } => Some(format!("{run} leaves the live view")),
            Did::Marked { run, by, .. } => Some(format!("{} marks {run}", process(by))),
            Did::Unmarked { run, by, .. } => Some(format!("{} takes the mark off {run}", process(by))),
            Did::Noticed { run, .. } => Some(format!("the user gets a notice about {run}")),
            Did::Suspended { session } => Some(format!("{session} is suspended")),
            Did::Unsuspended { session } => Some(format!("{session} is no longer suspended")),
            Did::MarkFailed { process } => Some(format!("{process} cannot mark its runs")),
            Did::PoolClosed { process, pool } if pool == "checkpoints" => {
                Some(format!("{process} closes its checkpoint pool"))
            }
            Did::PoolAbandoned { process, pool } => Some(format!("{process} abandons its pool `{pool}`")),
            Did::CheckpointTried { run, .. } => Some(format!("a turn of {run} finds the pool closed")),
            Did::Reported { run, reason, .. } => Some(format!("what {run} left unread is reported: {reason}")),
            Did::Saved { run, .. } => Some(format!("the safety net saves {run}")),
            Did::TurnedAway { run, .. } => Some(format!("{run} is turned away: its session is suspended")),
            Did::Lost { run, .. } => Some(format!("the owner of {run} gives it up as lost")),
            Did::SawEnd { run, status, .. } => Some(format!("the user sees that {run} is {}", status.word())),
            Did::Puzzled { gateway, request, answer, .. } => Some(format!("{gateway} answers {request} with {answer}")),
            Did::Refused { run, agent, status, .. } => {
                Some(format!("the provider refuses {agent}'s call for {run} with {status}"))
            }
            Did::Assigned { agent, from, to, .. } if from.is_empty() => Some(format!("{agent} is assigned {to}")),
            Did::Assigned { agent, from, to, by_operator: true, .. } => {
                Some(format!("an operator moves {agent} from {from} to {to}"))
            }
            Did::Assigned { agent, from, to, .. } => Some(format!("{agent} is moved from {from} to {to}")),
            Did::ReassignRefused { agent, to } => {
                Some(format!("an operator who wants {to} for {agent} is told that it has moved"))
            }
            Did::SwitchReady { agent, .. } => Some(format!("{agent} is ready")),
            Did::SwitchNoticed { agent, .. } => Some(format!("the users of {agent} are told")),
            _ => None,
        }
    }
}

/// Of a mark's maker, the name that stays: incarnations are no part of a story.
fn process(maker: &str) -> &str {
    maker.rsplit_once('/').map_or(maker, |(process, _)| process)
}
