//! A kind of fault is one row: its word, what it strikes, what it takes, when it ends, what is said of it. A row stands beside
//! the code that does what it says; plans, messages, lists, traces and tables are read off it.

use std::fmt;
use std::time::Duration;

use super::Lifetime;
use crate::trace::fault::FaultKind;

/// A kind of fault. Two with the same word are the same kind: several services may each have their own row of it.
#[derive(Clone, Copy)]
pub struct FaultRow {
    /// The word, and what the story tells of it.
    pub kind: FaultKind,
    /// What it strikes.
    pub target: TargetKind,
    /// How several targets of one fault belong together.
    pub cast: Cast,
    /// What it takes beside a target and its times, in the order in which plans print it.
    pub args: &'static [Arg],
    /// When it ends.
    pub course: Course,
    /// What of a link it can be kept to.
    pub reach: Reach,
    /// What becomes of the connections to a service that it strikes.
    pub connections: Connections,
    /// The line of `list faults`; of a fault that services have, about this one.
    pub help: &'static str,
}

/// What a kind of fault strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetKind {
    /// Links, as `executor-1->redis`.
    Link,
    /// Links on which HTTP is spoken, as `ann->gateway-1`.
    HttpLink,
    /// Processes, as `executor-1`.
    Process,
    /// Processes that the service manager boots.
    ManagedProcess,
    /// Callers of a service, as `provider/sk-a`.
    Caller,
    /// Services, as `redis`.
    Service,
}

impl TargetKind {
    /// The word in lists.
    pub fn name(self) -> &'static str {
        match self {
            TargetKind::Link | TargetKind::HttpLink => "link",
            TargetKind::Process | TargetKind::ManagedProcess => "process",
            TargetKind::Caller => "caller",
            TargetKind::Service => "service",
        }
    }
}

/// How the targets of one fault belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cast {
    /// Each is struck alike, at once.
    Each,
    /// One after the other, each once the one before has booted again.
    InTurn,
    /// Each, which has waited for its first boot, boots.
    Joins,
    /// Each goes for good.
    Leaves,
    /// Of two, the second, which has waited for its first boot, boots; then the first goes for good.
    Replaces,
}

/// When a kind of fault ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Course {
    /// At once: a plan cannot say for how long.
    Instant,
    /// At once, unless a plan says for how long.
    Once,
    /// With the next answer that it strikes, unless a plan says for how long that is waited for.
    NextAnswer,
    /// When everything heals, unless a plan says for how long.
    UntilHeal,
    /// After this long, unless a plan says for how long.
    Lasts(Duration),
    /// When its plan says: it must.
    Said,
}

impl Course {
    /// The lifetime without a word in the plan; `None` if the plan must say one.
    pub fn usual(self) -> Option<Lifetime> {
        match self {
            Course::Instant | Course::Once | Course::NextAnswer => Some(Lifetime::Instant),
            Course::UntilHeal => Some(Lifetime::UntilHeal),
            Course::Lasts(length) => Some(Lifetime::Lasts(length)),
            Course::Said => None,
        }
    }
}

/// What of a link a kind of fault can be kept to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// All of it, always.
    Whole,
    /// `only` connections on which something is said.
    Connections,
    /// Those, and one `direction`.
    Directions,
}

/// What becomes of the connections to a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connections {
    /// Connections stay.
    Kept,
    /// Connections close, and new ones too while the fault lasts: the service is down.
    Down,
    /// Connections close when the fault begins.
    LostAtStart,
    /// Connections close when the fault ends.
    LostAtEnd,
}

/// Something that a kind of fault takes.
#[derive(Debug)]
pub struct Arg {
    /// The key in plans.
    pub name: &'static str,
    /// What it can be.
    pub takes: Takes,
    /// For one without which the fault cannot be: what to write, as `by = "200ms"`.
    pub required: Option<&'static str>,
    /// How a line about the fault says it, with `{}` for its value; empty: such a line leaves it out.
    pub told: &'static str,
}

/// What an argument can be.
#[derive(Debug)]
pub enum Takes {
    /// A length of time.
    Time,
    /// A length of time up to a limit, and what to say to more.
    TimeUpTo(Duration, &'static str),
    /// A number from 1 up to a limit, and why there is one.
    Count(u64, &'static str),
    /// One of these numbers.
    OneOf(&'static [u16]),
    /// One of these words.
    OneOfWords(&'static [&'static str]),
    /// Bytes to look for.
    Text,
}

impl FaultRow {
    /// A fault of links, to be told apart from others: all of a link, until everything heals.
    pub const LINK: FaultRow = FaultRow {
        kind: FaultKind { word: "", struck: None, healed: Some("{} heals") },
        target: TargetKind::Link,
        cast: Cast::Each,
        args: &[],
        course: Course::UntilHeal,
        reach: Reach::Whole,
        connections: Connections::Kept,
        help: "",
    };

    /// A fault of processes: an instant, told by what the process does then.
    pub const PROCESS: FaultRow = FaultRow {
        kind: FaultKind { word: "", struck: None, healed: None },
        target: TargetKind::Process,
        course: Course::Instant,
        ..FaultRow::LINK
    };

    /// A fault of a service's callers: until everything heals.
    pub const CALLER: FaultRow = FaultRow { target: TargetKind::Caller, ..FaultRow::LINK };

    /// A fault of a service: for as long as its plan says.
    pub const SERVICE: FaultRow = FaultRow { target: TargetKind::Service, course: Course::Said, ..FaultRow::LINK };

    /// The word in plans.
    pub const fn word(&self) -> &'static str {
        self.kind.word
    }

    /// Whether it acts on links.
    pub fn on_link(&self) -> bool {
        matches!(self.target, TargetKind::Link | TargetKind::HttpLink)
    }

    /// Whether it acts on processes.
    pub fn on_process(&self) -> bool {
        matches!(self.target, TargetKind::Process | TargetKind::ManagedProcess)
    }

    /// Whether a plan cannot say for how long it lasts.
    pub fn instant(&self) -> bool {
        self.course == Course::Instant
    }

    /// Whether it can strike one direction alone.
    pub fn one_way(&self) -> bool {
        self.reach == Reach::Directions
    }

    /// Whether it can strike connections of a link alone on which something is said.
    pub fn selective(&self) -> bool {
        self.reach != Reach::Whole
    }

    /// Whether it strikes the next answer and is over then, unless it is over before.
    pub fn awaits_answer(&self) -> bool {
        self.course == Course::NextAnswer
    }

    /// Whether it boots a process that has waited for that; of several, the last.
    pub fn boots(&self) -> bool {
        matches!(self.cast, Cast::Joins | Cast::Replaces)
    }

    /// Whether a process does not come back from it; of several, the first.
    pub fn retires(&self) -> bool {
        matches!(self.cast, Cast::Leaves | Cast::Replaces)
    }

    /// Whether it changes how many there are of a service.
    pub fn scales(&self) -> bool {
        self.boots() || self.retires()
    }

    /// The argument of that name, if it takes one.
    pub fn arg(&self, name: &str) -> Option<&'static Arg> {
        self.args.iter().find(|arg| arg.name == name)
    }
}

impl PartialEq for FaultRow {
    fn eq(&self, other: &FaultRow) -> bool {
        self.kind == other.kind
    }
}

impl Eq for FaultRow {}

impl fmt::Debug for FaultRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.word)
    }
}
