//! A plan is data: topology, settings, workload and faults of one run. Drawn or written, it prints in one format.

mod alternatives;
pub mod duration;
mod errors;
mod fault_row;
mod faults;
mod kind;
mod parse;
mod print;
mod scope;
mod section;
pub mod seed;
pub(crate) mod vocabulary;
mod workload;

use std::collections::BTreeMap;
use std::time::Duration;

pub use alternatives::Alternatives;
pub use errors::{PlanError, PlanErrors, nearest};
pub use fault_row::{Arg, Cast, Connections, Course, FaultRow, Reach, Takes, TargetKind};
pub use kind::{Kind, Value};
pub use parse::{parse, parse_all};
pub use print::told_cue;
pub use print::{print, told};
pub use scope::{Direction, EVERY_MIN, Scope};
pub use vocabulary::{Contained, Role, ServiceWords, Setting, Vocabulary};
pub use workload::Workload;

/// Everything that one run needs beside its seed.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan<W> {
    /// One sentence.
    pub about: String,
    /// The invariants that this plan must arm.
    pub arms: Vec<String>,
    /// The events that must happen.
    pub must_reach: Vec<String>,
    /// How many processes of each role.
    pub topology: BTreeMap<String, usize>,
    /// Overrides of the product's settings for `all`, for a role or for a process.
    pub config: BTreeMap<String, BTreeMap<String, String>>,
    /// Overrides of the service manager's ways, by role or process; the narrowest wins.
    pub service: BTreeMap<String, ServiceManager>,
    /// What users do.
    pub users: W,
    /// What goes wrong.
    pub faults: Vec<Fault>,
    /// What should come out.
    pub expect: Expect,
    /// For a repro: the seed and where it came from.
    pub repro: Option<Repro>,
}

/// How the service manager treats the processes of a role, or one of them, where that differs from what the role says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServiceManager {
    /// Time from SIGTERM to SIGKILL.
    pub grace: Option<Duration>,
    /// Time from an exit to the next boot.
    pub restart_delay: Option<Duration>,
    /// Time from the beginning of the run to the first boot.
    pub first_boot: Option<Duration>,
    /// Time from the decision to stop it to its SIGTERM: it goes on serving, and its grace runs already.
    pub pre_stop: Option<Duration>,
    /// How often it is asked for its health. It is killed when it has not answered several times in a row.
    pub probe: Option<Duration>,
    /// The longest delay before a boot: the delay doubles each time that a life was short.
    pub restart_max: Option<Duration>,
}

impl ServiceManager {
    /// Each word that `[service.SCOPE]` may use.
    pub const KEYS: &'static [&'static str] =
        &["grace", "restart_delay", "first_boot", "pre_stop", "probe", "restart_max"];

    /// The words and what they say, in the order of [`ServiceManager::KEYS`].
    pub(crate) fn said(self) -> impl Iterator<Item = (&'static str, Duration)> {
        let ServiceManager { grace, restart_delay, first_boot, pre_stop, probe, restart_max } = self;
        let all = [grace, restart_delay, first_boot, pre_stop, probe, restart_max];
        ServiceManager::KEYS.iter().copied().zip(all).filter_map(|(key, value)| Some((key, value?)))
    }

    /// The ways with one process of a role.
    pub(crate) fn of(managers: &BTreeMap<String, ServiceManager>, role: &str, process: &str) -> ServiceManager {
        let (general, own) = (managers.get(role).copied(), managers.get(process).copied());
        let (general, own) = (general.unwrap_or_default(), own.unwrap_or_default());
        ServiceManager {
            grace: own.grace.or(general.grace),
            restart_delay: own.restart_delay.or(general.restart_delay),
            first_boot: own.first_boot.or(general.first_boot),
            pre_stop: own.pre_stop.or(general.pre_stop),
            probe: own.probe.or(general.probe),
            restart_max: own.restart_max.or(general.restart_max),
        }
    }
}

/// What a plan expects of its run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expect {
    /// `passed`, or `violated`.
    pub verdict: String,
    /// The invariant that must break, with `violated`.
    pub invariant: Option<String>,
}

/// The seed that a plan runs with, and where it came from; what is not known of that is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Repro {
    /// The seed with which it failed.
    pub seed: u64,
    /// The commit of the tree in which it failed.
    pub commit: String,
    /// `rustc --version`.
    pub toolchain: String,
    /// SHA-256 of Cargo.lock.
    pub lock: String,
}

/// The word for the process at which the event happened that begins a fault: `origin`, or `origin->redis` for its link. An
/// event at a process that has no such link begins nothing.
pub const ORIGIN: &str = "origin";

/// One thing that goes wrong.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    /// What.
    pub kind: Kind,
    /// Where: links as `executor-1->redis`, processes as `executor-1`, services as `redis`, or callers of one as
    /// `provider/sk-a`. One
    /// cause may take several. [`ORIGIN`] stands for the process whose event begins it.
    pub targets: Vec<String>,
    /// When it begins.
    pub trigger: Trigger,
    /// When it ends; healing ends it in any case.
    pub length: Lifetime,
    /// What of its links it strikes.
    pub part: Scope,
    /// How long after its end it strikes again, until everything heals. At least [`EVERY_MIN`].
    pub every: Option<Duration>,
}

impl Fault {
    /// One that strikes once, and all of its targets.
    pub fn new(kind: impl Into<Kind>, targets: Vec<String>, trigger: Trigger, length: Lifetime) -> Fault {
        Fault { kind: kind.into(), targets, trigger, length, part: Scope::default(), every: None }
    }

    /// Whether it strikes the process that caused the event that begins it.
    pub fn strikes_origin(&self) -> bool {
        self.targets.iter().any(|target| target.split("->").next() == Some(ORIGIN))
    }
}

/// When a fault begins.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // the variants say what the fields are
pub enum Trigger {
    /// At a virtual time since the beginning.
    At(Duration),
    /// After an event.
    On(EventMatch),
    /// After a request on a link whose bytes contain `matches`, the `nth` such, from 1.
    OnRequest { link: String, matches: String, nth: u32, after: Duration },
}

impl Trigger {
    /// The same, this much later.
    #[must_use]
    pub fn delayed(mut self, by: Duration) -> Trigger {
        match &mut self {
            Trigger::At(at) => *at += by,
            Trigger::On(event_match) => event_match.after += by,
            Trigger::OnRequest { after, .. } => *after += by,
        }
        self
    }
}

/// An event to wait for.
#[derive(Clone, Debug, PartialEq)]
pub struct EventMatch {
    /// The name.
    pub event: String,
    /// Only those of this session.
    pub session: Option<String>,
    /// The `nth` one, from 1. For the end of a fault, counted from its beginning.
    pub nth: u32,
    /// And then this long.
    pub after: Duration,
}

impl EventMatch {
    /// Whether an event of this name, of that session, counts.
    pub(crate) fn hears(&self, name: &str, session: Option<&str>) -> bool {
        self.event == name && self.session.as_deref().is_none_or(|wanted| session == Some(wanted))
    }
}

/// When a fault ends.
#[derive(Clone, Debug, PartialEq)]
pub enum Lifetime {
    /// The fault is an instant, as a kill is.
    Instant,
    /// After this long.
    Lasts(Duration),
    /// After an event.
    Until(EventMatch),
    /// When everything heals.
    UntilHeal,
}
