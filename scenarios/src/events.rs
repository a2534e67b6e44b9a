//! What the product did, as seen from outside. Sessions and runs go by their labels: `ann/1` is ann's first session,
//! `ann/1#2` the run that her second message in it started.

use std::collections::BTreeMap;
use std::time::Duration;

use lychgate::live::Kind;
use lychgate::run::{MessageState, Status};
use lychgate_sim::trace::event::{EventWord, ProductEvent};
use serde::{Serialize, Serializer};

use crate::answers::Shown;
use crate::told::Told;

/// Declares a family of events: for each its description, its name in plans and traces, and its fields. Events `of sessions`
/// have a field that names theirs.
macro_rules! family {
    ($(#[$about:meta])* $family:ident of sessions { $($events:tt)* }) => {
        family!(@enum $(#[$about])* $family { $($events)* });
        family!(@session $family { $($events)* });
    };
    ($(#[$about:meta])* $family:ident of processes { $($events:tt)* }) => {
        family!(@enum $(#[$about])* $family { $($events)* });

        impl $family {
            fn session(&self) -> Option<&str> {
                None
            }
        }
    };
    ($(#[$about:meta])* $family:ident of keys { $($events:tt)* }) => {
        family!(@enum $(#[$about])* $family { $($events)* });
    };
    (@session $family:ident { $($(#[doc = $doc:literal])+ $event:ident = $name:literal { $($fields:tt)* })* }) => {
        impl $family {
            fn session(&self) -> Option<&str> {
                match self {
                    $($family::$event { session, .. } => Some(session),)*
                }
            }
        }
    };
    (@enum $(#[$about:meta])* $family:ident {
        $($(#[doc = $doc:literal])+ $event:ident = $name:literal { $($(#[$attr:meta])* $field:ident: $type:ty),* $(,)? })*
    }) => {
        $(#[$about])*
        #[derive(Clone, Debug, PartialEq, Serialize)]
        #[serde(tag = "event")]
        #[allow(missing_docs)] // the fields are named as in the events' own docs
        pub enum $family {
            $($(#[doc = $doc])+ #[serde(rename = $name)] $event { $($(#[$attr])* $field: $type),* },)*
        }

        impl $family {
            const WORDS: &'static [EventWord] = &[$(EventWord {
                name: $name,
                about: concat!($($doc),+),
                fields: &[$(stringify!($field)),*],
            }),*];

            fn name(&self) -> &'static str {
                match self {
                    $($family::$event { .. } => $name,)*
                }
            }
        }
    };
}

family! {
    /// What became of a session, of its messages and of its runs, as Postgres and the broker have it.
    RunEvent of sessions {
        /// A message and its run were committed.
        Accepted = "accepted" { session: String, run: String }
        /// A hint of a waiting run was routed to a queue.
        Hinted = "hinted" { session: String, run: String }
        /// A run was claimed: its fence was minted. `owner` is the process that did it, `mark` what it would leave on it:
        /// `NAME/INCARNATION`, as Postgres counts.
        Claimed = "claimed" { session: String, run: String, fence: i64, owner: String, mark: String }
        /// A turn was committed, through this pool of its process.
        Checkpointed = "checkpointed" { session: String, run: String, turn: i64, fence: i64, last: bool, pool: String }
        /// A checkpoint consumed a message.
        Consumed = "consumed" { session: String, message: String, turn: i64 }
        /// A run was marked; `by` is `NAME/INCARNATION`, as Postgres counts.
        Marked = "marked" { session: String, run: String, by: String }
        /// A process took a mark off a run: whose it was, `marked_by` says.
        Unmarked = "unmarked" { session: String, run: String, by: String, marked_by: String }
        /// A notice to its user was written: the run was taken over, or given up.
        Noticed = "noticed" { session: String, run: String }
        /// A session was suspended.
        Suspended = "suspended" { session: String }
        /// A session's suspension was lifted.
        Unsuspended = "unsuspended" { session: String }
        /// A process tried to commit a turn after it had closed the pool.
        CheckpointTried = "checkpoint_tried" { session: String, run: String }
        /// Messages of a run were reported to their user instead.
        Reported = "reported" { session: String, run: String, messages: u64, reason: String }
        /// A run went back to the queue; `fence` is the one it was under.
        HandedBack = "handed_back" { session: String, run: String, fence: i64 }
        /// A user's wish to stop the run was committed.
        CancelRequested = "cancel_requested" { session: String, run: String }
        /// A terminal status was committed: by the owner under `fence`, or by another, who minted `fence`.
        Ended = "ended" { session: String, run: String, fence: i64, status: Status, reason: String, by_owner: bool }
        /// The safety net confirmed what the first tries could not.
        Saved = "saved" { session: String, run: String }
        /// An executor acts no more on a run, because no beat was confirmed.
        Lost = "lost" { session: String, run: String }
    }
}

family! {
    /// What Redis shows of a run.
    LiveEvent of sessions {
        /// The live view shows a run.
        Shown = "shown" { session: String, run: String, fence: i64, status: Status }
        /// The live view was told that a run is over, and does not show it.
        Unshown = "unshown" { session: String, run: String }
        /// A frame went into a stream.
        Framed = "framed" {
            session: String,
            run: String,
            fence: i64,
            turn: u64,
            seq: u64,
            #[serde(serialize_with = "frame_kind")] kind: Kind,
        }
        /// A lease was taken or renewed. It lapses after `lasts` seconds; never, if there is nothing.
        Leased = "leased" { session: String, run: String, fence: i64, lasts: Option<u64> }
        /// A lease was let go of, or its run's end took it away.
        Released = "released" { session: String, run: String, fence: i64 }
    }
}

family! {
    /// What Redis keeps.
    KeyEvent of keys {
        /// A key of Redis was written: `live`, `ended`, `stream`, `lease` or `unknown`. `key` is its label, `entries` what it
        /// holds now (0: it is gone), `lasts` its seconds. Of a stream only what changes whether it lapses, and each
        /// further thousand of entries.
        Kept = "kept" { session: Option<String>, key: String, kind: KeyKind, entries: usize, lasts: Option<u64> }
    }
}

family! {
    /// What the provider saw of a turn.
    TurnEvent of sessions {
        /// The provider got a call. `by` is who made it, `asked` the conversation that the model shall go on with.
        Called = "called" {
            session: String,
            run: String,
            fence: i64,
            turn: i64,
            attempt: i64,
            #[serde(skip_serializing_if = "Option::is_none")] by: Option<Caller>,
            asked: Asked,
        }
        /// The provider sent its first token.
        Began = "began" { session: String, run: String, fence: i64, turn: i64, attempt: i64 }
        /// The provider sent its last token. `last`: that of the whole answer, which was not cut for its length.
        Answered = "answered" { session: String, run: String, fence: i64, turn: i64, attempt: i64, last: bool }
        /// A caller hung up on the provider.
        HungUp = "hung_up" { session: String, run: String, fence: i64, turn: i64, attempt: i64 }
        /// The provider ended an answer that is no whole one, as if it were over.
        Spoiled = "spoiled" { session: String, run: String, fence: i64, turn: i64, attempt: i64 }
        /// The provider refused a call that an agent made under this assignment, and asked it to wait `retry_after` seconds,
        /// if anything.
        Refused = "refused" {
            session: String,
            run: String,
            agent: String,
            epoch: i64,
            status: u16,
            #[serde(skip_serializing_if = "Option::is_none")] retry_after: Option<u64>,
        }
    }
}

family! {
    /// What the broker did with a message.
    DeliveryEvent of sessions {
        /// A message of the queue `runs` or `cancels` was handed to the process on its `line`th connection to the broker.
        Delivered = "delivered" { session: String, run: String, queue: Queue, line: u32 }
        /// A delivery was `acked`, `given_back`, `dropped`, or `returned` by the end of its channel or connection.
        Settled = "settled" { session: String, run: String, queue: Queue, line: u32, how: How }
    }
}

family! {
    /// What a user or an operator saw and did.
    UserEvent of sessions {
        /// A user sent a message, once more or for the first time, for this agent.
        Said = "said" { session: String, run: String, agent: String }
        /// A user was told that the session is suspended.
        TurnedAway = "turned_away" { session: String, run: String }
        /// A user got the 202.
        Heard = "heard" { session: String, run: String }
        /// A user opened the stream of a run, for the `nth` time; `slowly` says whether she takes her time over each event.
        Opened = "opened" { session: String, run: String, nth: u32, slowly: bool }
        /// A user saw an event of a stream. `id` is its SSE id, `text` what it shows.
        Saw = "saw" { session: String, run: String, kind: Shown, id: String, turn: i64, text: String }
        /// A user saw a heartbeat.
        Heartbeat = "heartbeat" { session: String, run: String }
        /// A user's stream broke off after so long, or was left `by_her`.
        Broke = "broke" { session: String, run: String, by_her: bool, lasted: Duration }
        /// A user saw the end of a run.
        SawEnd = "saw_end" { session: String, run: String, status: Status }
        /// A user asked to stop the session's run, once more or for the first time, meaning this one; `named` says whether she
        /// said so.
        StopAsked = "stop_asked" { session: String, run: String, named: bool }
        /// A user or an operator was answered by `gateway`, so long after the request.
        Told = "told" { session: String, run: String, gateway: String, took: Duration, told: Told }
        /// A user or an operator gave up waiting for an answer of `gateway`, or their connection ended without one, so long after
        /// the request.
        Unheeded = "unheeded" { session: String, run: String, gateway: String, request: &'static str, took: Duration }
        /// A user who asked to stop the session's run was answered: `told` is what was stopped.
        Cancelled = "cancelled" { session: String, run: String, told: Stopped }
        /// A user looked at a message: `unread`, `consumed` or `reported`; at the answers to it, each with its turn; at how many
        /// notices there are about its run, and how many about the session's agent.
        Found = "found" {
            session: String,
            run: String,
            state: MessageState,
            answers: Vec<(i64, String)>,
            notices: usize,
            of_agent: usize,
        }
        /// A user or an operator got an answer of `gateway` that no table has: `legal` says what it would have been.
        Puzzled = "puzzled" {
            session: String,
            run: String,
            gateway: String,
            request: &'static str,
            answer: String,
            legal: String,
        }
    }
}

family! {
    /// What became of an agent, of its subscription and of its containers.
    AgentEvent of processes {
        /// An agent was assigned a subscription; the first time `from` is empty.
        Assigned = "assigned" { agent: String, from: String, to: String, epoch: i64, by_operator: bool }
        /// A failure of an agent's subscription was recorded.
        SubscriptionFailed = "subscription_failed" { agent: String, subscription: String, epoch: i64 }
        /// An agent was found ready under an assignment.
        SwitchReady = "switch_ready" { agent: String, epoch: i64 }
        /// The users of an agent were told of an assignment.
        SwitchNoticed = "switch_noticed" { agent: String, epoch: i64 }
        /// A container was created for an assignment.
        ContainerCreated = "container_created" { agent: String, epoch: i64, container: String }
        /// A container was started.
        ContainerStarted = "container_started" { agent: String, epoch: i64, container: String }
        /// A container does not run any more.
        ContainerEnded = "container_ended" { agent: String, container: String }
        /// There is no such container any more.
        ContainerRemoved = "container_removed" { agent: String, container: String }
        /// A container called the provider for a turn.
        TurnServed = "turn_served" { agent: String, epoch: i64, container: String }
        /// A container was asked for its `/health`, and answered after `took`, if `status` is there.
        Probed = "probed" {
            process: String,
            agent: String,
            status: Option<u16>,
            took: Duration,
            gauges: BTreeMap<String, i64>,
        }
        /// An operator asked, once more or for the first time, to give an agent another subscription, having seen it under
        /// `epoch`.
        ReassignAsked = "reassign_asked" { agent: String, to: String, epoch: i64 }
        /// An operator was told that an agent is assigned this, under `epoch`.
        Reassigned = "reassigned" { agent: String, to: String, epoch: i64 }
        /// An operator was told that the agent had moved meanwhile.
        ReassignRefused = "reassign_refused" { agent: String, to: String }
    }
}

family! {
    /// What a process did or logged.
    ProcessEvent of processes {
        /// A beat was executed: what it named, and for each run that is still its own whether a cancel was requested.
        Beat = "beat" { owner: String, named: Vec<(String, i64)>, confirmed: Vec<(String, i64, bool)> }
        /// A process that was told to stop takes no more runs.
        Draining = "draining" { process: String }
        /// A process says that it could not mark its runs.
        MarkFailed = "mark_failed" { process: String }
        /// A process has closed a pool of connections to Postgres.
        PoolClosed = "pool_closed" { process: String, pool: String }
        /// A process gave up on closing one.
        PoolAbandoned = "pool_abandoned" { process: String, pool: String }
    }
}

family! {
    /// What became of Postgres's own memory.
    StoreEvent of processes {
        /// A standby of Postgres has stopped hearing of commits: it knows those before this, and no other.
        LeftBehind = "left_behind" {}
        /// That standby is Postgres now: what was committed since is undone. Of these runs it was the claim.
        CommitsLost = "commits_lost" { runs: Vec<String> }
    }
}

impl KeyEvent {
    fn session(&self) -> Option<&str> {
        let KeyEvent::Kept { session, .. } = self;
        session.as_deref()
    }
}

/// An event of the product. Every one names the labels of what it is about; a `fence` is Postgres's.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Did {
    /// Of a session or a run.
    Run(RunEvent),
    /// Of the live view, a stream or a lease.
    Live(LiveEvent),
    /// Of a key of Redis.
    Key(KeyEvent),
    /// Of a turn.
    Turn(TurnEvent),
    /// Of a delivery.
    Delivery(DeliveryEvent),
    /// Of a user.
    User(UserEvent),
    /// Of an agent.
    Agent(AgentEvent),
    /// Of a process.
    Process(ProcessEvent),
    /// Of Postgres's memory.
    Store(StoreEvent),
}

/// The families.
const FAMILIES: [&[EventWord]; 9] = [
    RunEvent::WORDS,
    LiveEvent::WORDS,
    KeyEvent::WORDS,
    TurnEvent::WORDS,
    DeliveryEvent::WORDS,
    UserEvent::WORDS,
    AgentEvent::WORDS,
    ProcessEvent::WORDS,
    StoreEvent::WORDS,
];

/// How many events there are.
const COUNT: usize = {
    let (mut count, mut family) = (0, 0);
    while family < FAMILIES.len() {
        count += FAMILIES[family].len();
        family += 1;
    }
    count
};

/// Every event, family by family.
const WORDS: [EventWord; COUNT] = {
    let mut words = [FAMILIES[0][0]; COUNT];
    let (mut at, mut family) = (0, 0);
    while family < FAMILIES.len() {
        let mut event = 0;
        while event < FAMILIES[family].len() {
            words[at] = FAMILIES[family][event];
            at += 1;
            event += 1;
        }
        family += 1;
    }
    words
};

/// The name of each.
const NAMES: [&str; COUNT] = {
    let mut names = [""; COUNT];
    let mut at = 0;
    while at < COUNT {
        names[at] = WORDS[at].name;
        at += 1;
    }
    names
};

/// Who called a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Caller {
    /// The agent whose container did.
    pub agent: String,
    /// The assignment of that container.
    pub epoch: i64,
    /// The token that it showed the provider.
    pub token: String,
    /// The model that it asked for.
    pub model: String,
}

/// What a model was asked, told by what differs from the last time that it was asked in this session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Asked {
    /// So many entries of that conversation are the same.
    pub kept: usize,
    /// The entries behind them: the label of a message, or the label of a run and a turn, as `ann/1#1/2`, of the answer that was
    /// checkpointed as this; anything else as the text that it is.
    pub then: Vec<String>,
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
    /// The word in labels.
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
    /// The word in breaches.
    pub fn word(self) -> &'static str {
        match self {
            Queue::Runs => "runs",
            Queue::Cancels => "cancels",
        }
    }
}

/// What a user who asked to stop a run was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stopped {
    /// The run that she meant.
    This,
    /// Another run of the session.
    Another,
    /// Nothing was going.
    Nothing,
}

impl Stopped {
    /// As in reports.
    pub fn word(self) -> &'static str {
        match self {
            Stopped::This => "that run",
            Stopped::Another => "another run",
            Stopped::Nothing => "no run",
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
    const NAMES: &'static [&'static str] = &NAMES;
    const WORDS: &'static [EventWord] = &WORDS;

    fn name(&self) -> &'static str {
        match self {
            Did::Run(event) => event.name(),
            Did::Live(event) => event.name(),
            Did::Key(event) => event.name(),
            Did::Turn(event) => event.name(),
            Did::Delivery(event) => event.name(),
            Did::User(event) => event.name(),
            Did::Agent(event) => event.name(),
            Did::Process(event) => event.name(),
            Did::Store(event) => event.name(),
        }
    }

    fn routine(&self) -> bool {
        match self {
            Did::Agent(AgentEvent::Probed { .. }) => true,
            // Who is put off asks again for ever.
            Did::User(UserEvent::Told { told, .. }) => told.status == 503,
            _ => false,
        }
    }

    fn session(&self) -> Option<&str> {
        match self {
            Did::Run(event) => event.session(),
            Did::Live(event) => event.session(),
            Did::Key(event) => event.session(),
            Did::Turn(event) => event.session(),
            Did::Delivery(event) => event.session(),
            Did::User(event) => event.session(),
            Did::Agent(event) => event.session(),
            Did::Process(event) => event.session(),
            Did::Store(event) => event.session(),
        }
    }

    fn story(&self) -> Option<String> {
        match self {
            Did::Run(RunEvent::Accepted { run, .. }) => Some(format!("{run} is accepted")),
            Did::Run(RunEvent::Claimed { run, owner, .. }) => Some(format!("{owner} claims {run}")),
            Did::Run(RunEvent::Checkpointed { run, turn, .. }) => Some(format!("turn {turn} of {run} is checkpointed")),
            Did::Run(RunEvent::HandedBack { run, .. }) => Some(format!("{run} goes back to the queue")),
            Did::Run(RunEvent::CancelRequested { run, .. }) => Some(format!("{run} shall stop")),
            Did::Run(RunEvent::Ended { run, status, .. }) => Some(format!("{run} is {}", status.word())),
            Did::Live(LiveEvent::Unshown { run, .. }) => Some(format!("{run} leaves the live view")),
            Did::Run(RunEvent::Marked { run, by, .. }) => Some(format!("{} marks {run}", process(by))),
            Did::Run(RunEvent::Unmarked { run, by, .. }) => Some(format!("{} takes the mark off {run}", process(by))),
            Did::Run(RunEvent::Noticed { run, .. }) => Some(format!("the user gets a notice about {run}")),
            Did::Run(RunEvent::Suspended { session }) => Some(format!("{session} is suspended")),
            Did::Run(RunEvent::Unsuspended { session }) => Some(format!("{session} is no longer suspended")),
            Did::Store(StoreEvent::CommitsLost { runs }) if !runs.is_empty() => {
                Some(format!("Postgres does not know any more that {} was claimed", runs.join(", ")))
            }
            Did::Process(ProcessEvent::MarkFailed { process }) => Some(format!("{process} cannot mark its runs")),
            Did::Process(ProcessEvent::PoolClosed { process, pool }) if pool == "checkpoints" => {
                Some(format!("{process} closes its checkpoint pool"))
            }
            Did::Process(ProcessEvent::PoolAbandoned { process, pool }) => {
                Some(format!("{process} abandons its pool `{pool}`"))
            }
            Did::Run(RunEvent::CheckpointTried { run, .. }) => Some(format!("a turn of {run} finds the pool closed")),
            Did::Run(RunEvent::Reported { run, reason, .. }) => {
                Some(format!("what {run} left unread is reported: {reason}"))
            }
            Did::Run(RunEvent::Saved { run, .. }) => Some(format!("the safety net saves {run}")),
            Did::User(UserEvent::TurnedAway { run, .. }) => {
                Some(format!("{run} is turned away: its session is suspended"))
            }
            Did::Run(RunEvent::Lost { run, .. }) => Some(format!("the owner of {run} gives it up as lost")),
            Did::User(UserEvent::SawEnd { run, status, .. }) => {
                Some(format!("the user sees that {run} is {}", status.word()))
            }
            Did::User(UserEvent::Puzzled { gateway, request, answer, .. }) => {
                Some(format!("{gateway} answers {request} with {answer}"))
            }
            Did::Turn(TurnEvent::Refused { run, agent, status, .. }) => {
                Some(format!("the provider refuses {agent}'s call for {run} with {status}"))
            }
            Did::Agent(AgentEvent::Assigned { agent, from, to, .. }) if from.is_empty() => {
                Some(format!("{agent} is assigned {to}"))
            }
            Did::Agent(AgentEvent::Assigned { agent, from, to, by_operator: true, .. }) => {
                Some(format!("an operator moves {agent} from {from} to {to}"))
            }
            Did::Agent(AgentEvent::Assigned { agent, from, to, .. }) => {
                Some(format!("{agent} is moved from {from} to {to}"))
            }
            Did::Agent(AgentEvent::ReassignRefused { agent, to }) => {
                Some(format!("an operator who wants {to} for {agent} is told that it has moved"))
            }
            Did::Agent(AgentEvent::SwitchReady { agent, .. }) => Some(format!("{agent} is ready")),
            Did::Agent(AgentEvent::SwitchNoticed { agent, .. }) => Some(format!("the users of {agent} are told")),
            _ => None,
        }
    }
}

/// Of a mark's maker, the name that stays: incarnations are no part of a story.
fn process(maker: &str) -> &str {
    maker.rsplit_once('/').map_or(maker, |(process, _)| process)
}
