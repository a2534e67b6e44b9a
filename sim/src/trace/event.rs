//! What happened, as the trace keeps it: the world's own happenings and, typed by the product, its occurrences.

use std::fmt::Debug;
use std::time::Duration;

use serde::Serialize;

use crate::trace::fault::{FaultId, FaultKind};

/// A word that triggers and `must_reach` may use: an event's name, what it says, the names of its fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the fields are named as in the line above
pub struct EventWord {
    pub name: &'static str,
    pub about: &'static str,
    pub fields: &'static [&'static str],
}

/// What a product's reader makes of observations: its own events, named and labelled.
pub trait ProductEvent: Clone + Debug + Serialize + Send + 'static {
    /// Each name that [`ProductEvent::name`] can give. Triggers may use these and no others. None is a name of the world's.
    const NAMES: &'static [&'static str];

    /// What `list events` says of each, for a product that says more than names.
    const WORDS: &'static [EventWord] = &[];

    /// The event's name in plans, as `run_claimed`.
    fn name(&self) -> &'static str;

    /// Whether it happens by itself for ever, whatever is stuck, as a probe does: it is no sign of progress.
    fn routine(&self) -> bool {
        false
    }

    /// The label of the session it is about, as `ann/1`. Labels come from the plan, never from minted ids.
    fn session(&self) -> Option<&str>;

    /// One line for the story, without times, retries or ids; `None` if the story is better without it.
    fn story(&self) -> Option<String>;
}

/// One line of the trace.
#[derive(Clone, Debug, Serialize)]
pub struct Event<O> {
    /// The place in the trace, from 0.
    pub seq: u64,
    /// Virtual time since the world began.
    pub at: Duration,
    /// The process it happened at or was caused by; empty for the world itself.
    pub process: String,
    /// The incarnation of the process, from 1; 0 where there is no process.
    pub incarnation: u32,
    /// What happened.
    pub what: What<O>,
}

/// The world's part or the product's.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum What<O> {
    /// The world's own.
    World(WorldEvent),
    /// The product's.
    Product(O),
}

impl<O: ProductEvent> What<O> {
    /// The name that triggers use.
    pub fn name(&self) -> &'static str {
        match self {
            What::World(happening) => happening.name(),
            What::Product(occurrence) => occurrence.name(),
        }
    }

    /// The label of the session it is about.
    pub fn session(&self) -> Option<&str> {
        match self {
            What::World(_) => None,
            What::Product(occurrence) => occurrence.session(),
        }
    }
}

/// The exit code of a process whose main panicked, as Rust's runtime gives it.
pub const PANICKED: i32 = 101;

/// What the world itself does or sees. `link` is `executor-1->redis`; `conn` counts that link's connections from 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[allow(missing_docs)] // what the fields are, the variants and the line above say
pub enum WorldEvent {
    /// An incarnation of a process began.
    Booted,
    /// The process got SIGTERM for the `nth` time.
    Signalled { nth: u32 },
    /// The process ended by itself.
    Exited { code: i32 },
    /// The process was killed.
    Killed,
    /// The process's main panicked: the process is gone, with [`PANICKED`] as its exit code, and has closed nothing in order.
    Panicked,
    /// The process stands still, as after SIGSTOP.
    Paused,
    /// The process goes on, as after SIGCONT.
    Resumed,
    /// A process connected through a link.
    LinkOpened { link: String, conn: u32 },
    /// A connection ended. `unanswered` says for how long the last request on it had waited for a byte, if it had.
    LinkClosed { link: String, conn: u32, by: Side, unanswered: Option<Duration> },
    /// Bytes that a process sent have waited for [`crate::link::QUIET`] without a byte of answer.
    Unanswered { link: String, conn: u32, since: Duration },
    /// After `Unanswered`: a byte came back.
    AnsweredLate { link: String, conn: u32, waited: Duration },
    /// A process has sent so many further requests on a link: what it sends before a byte of answer counts as one.
    Asked { link: String, requests: u32 },
    /// A fault of the plan struck a target.
    FaultStruck { fault: FaultId, kind: &'static FaultKind, target: String },
    /// A fault reached an operation of a run that was still going, named by the product's label.
    FaultFelt { fault: FaultId, kind: &'static FaultKind, target: String, label: String },
    /// A fault ended: at once, unless it `lasted`.
    FaultHealed { fault: FaultId, kind: &'static FaultKind, target: String, lasted: bool },
    /// A phase began: `chaos`, `heal` or `settle`.
    Phase { name: &'static str },
}

/// The side that ended a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// The process.
    Process,
    /// The service.
    Service,
    /// A fault.
    Fault,
}

const fn word(name: &'static str, about: &'static str, fields: &'static [&'static str]) -> EventWord {
    EventWord { name, about, fields }
}

impl WorldEvent {
    /// What `list events` says of each.
    pub const WORDS: &'static [EventWord] = &[
        word("booted", "An incarnation of a process began.", &[]),
        word("signalled", "A process got SIGTERM for the `nth` time.", &["nth"]),
        word("exited", "A process ended by itself.", &["code"]),
        word("killed", "A process was killed.", &[]),
        word("panicked", "The main of a process panicked.", &[]),
        word("paused", "A process stands still, as after SIGSTOP.", &[]),
        word("resumed", "A process goes on, as after SIGCONT.", &[]),
        word("link_opened", "A process connected through a link.", &["link", "conn"]),
        word("link_closed", "A connection ended.", &["link", "conn", "by", "unanswered"]),
        word(
            "unanswered",
            "A request on a connection has waited long without a byte of answer.",
            &["link", "conn", "since"],
        ),
        word("answered_late", "After `unanswered`: a byte came back.", &["link", "conn", "waited"]),
        word("asked", "A process has sent so many further requests on a link.", &["link", "requests"]),
        word("fault_struck", "A fault of the plan began.", &["fault", "kind", "target"]),
        word(
            "fault_felt",
            "A fault reached an operation of a run that was going.",
            &["fault", "kind", "target", "label"],
        ),
        word("fault_healed", "A fault ended.", &["fault", "kind", "target", "lasted"]),
        word("phase", "A phase began: `chaos`, `heal` or `settle`.", &["name"]),
    ];

    /// Each name that [`WorldEvent::name`] can give.
    pub const NAMES: &'static [&'static str] = &[
        "booted",
        "signalled",
        "exited",
        "killed",
        "panicked",
        "paused",
        "resumed",
        "link_opened",
        "link_closed",
        "unanswered",
        "answered_late",
        "asked",
        "fault_struck",
        "fault_felt",
        "fault_healed",
        "phase",
    ];

    /// Whether a process begins with it, ends, is told to, stands still or goes on.
    pub fn is_of_life(&self) -> bool {
        let ends = matches!(self, WorldEvent::Exited { .. } | WorldEvent::Killed | WorldEvent::Panicked);
        ends || matches!(
            self,
            WorldEvent::Booted | WorldEvent::Signalled { .. } | WorldEvent::Paused | WorldEvent::Resumed
        )
    }

    /// The event's name in plans.
    pub fn name(&self) -> &'static str {
        match self {
            WorldEvent::Booted => "booted",
            WorldEvent::Signalled { .. } => "signalled",
            WorldEvent::Exited { .. } => "exited",
            WorldEvent::Killed => "killed",
            WorldEvent::Panicked => "panicked",
            WorldEvent::Paused => "paused",
            WorldEvent::Resumed => "resumed",
            WorldEvent::LinkOpened { .. } => "link_opened",
            WorldEvent::LinkClosed { .. } => "link_closed",
            WorldEvent::Unanswered { .. } => "unanswered",
            WorldEvent::AnsweredLate { .. } => "answered_late",
            WorldEvent::Asked { .. } => "asked",
            WorldEvent::FaultStruck { .. } => "fault_struck",
            WorldEvent::FaultFelt { .. } => "fault_felt",
            WorldEvent::FaultHealed { .. } => "fault_healed",
            WorldEvent::Phase { .. } => "phase",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_of_the_world_is_described() {
        assert!(WorldEvent::WORDS.iter().map(|word| word.name).eq(WorldEvent::NAMES.iter().copied()));
    }
}
