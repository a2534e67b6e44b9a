//! A plan is data: topology, settings, workload and faults of one run. Drawn or written, it prints in one format.

mod alternatives;
pub mod duration;
mod errors;
mod faults;
mod parse;
mod print;
mod scope;
mod section;
pub mod seed;
mod service_fault;
#[cfg(test)]
mod tests;
pub mod words;

use std::collections::BTreeMap;
use std::time::Duration;

pub use alternatives::Alternatives;
pub use errors::{PlanError, PlanErrors, nearest};
pub use parse::{parse, parse_all};
pub use print::{print, told};
pub use scope::{Direction, EVERY_MIN, Scope};
pub use service_fault::ServiceFault;

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

    /// Its words and what they say, in the order of [`ServiceManager::KEYS`].
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

/// What goes wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the variants say what the fields are
pub enum Kind {
    /// Link: bytes are accepted and not carried, in either direction; connecting succeeds.
    Wedge,
    /// Link: every connection is closed once, at the beginning; with a length, new ones are closed too until its end.
    Close,
    /// Link: new connections are refused, as by a port on which nobody listens. Those that stand go on.
    ConnectionRefused,
    /// Link: the next request (that `matches`, if given) is carried out and its answer dropped with the connection.
    ReplyLost { matches: Option<String> },
    /// Link: every chunk is carried later, by this much.
    Delay { by: Duration },
    /// Link: connections that stand when it begins say nothing more to either side, and close at its end: nobody on the
    /// way knows them any more. New ones work.
    HalfOpen,
    /// Link: at most so many bytes of each direction of a connection are carried at a time, and then nothing for so long.
    Trickle { bytes: u32, by: Duration },
    /// Link: of the next answer (to a request that `matches`, if given; else of whatever comes back next) half of what
    /// comes first is carried, then the connection ends.
    Cut { matches: Option<String> },
    /// Link to a server of HTTP: the next request (that `matches`, if given) is answered with an error by something in
    /// between; the server does not hear of it.
    Answer { status: u16, matches: Option<String> },
    /// Process: SIGTERM; the service manager kills after the role's grace and boots it again.
    Sigterm,
    /// Process: SIGKILL; the service manager boots it again.
    Sigkill,
    /// Process: its machine is gone. It makes no further step, and nothing closes: its peers hear nothing at all from
    /// then on, not even an end. The service manager boots it again, elsewhere.
    HostLoss,
    /// Process: SIGSTOP, and SIGCONT at the end. Connections stay open, bytes wait. When it goes on it sees the timeouts
    /// that have passed before the bytes that have come: madsim hands bytes over a millisecond after they are asked for.
    Pause,
    /// Processes, in order: SIGTERM, each after the one before has booted anew.
    RollingRestart,
    /// Process: the service manager stops it, and it does not hear of that: it is killed after its grace.
    LostSignal,
    /// Process: its main panics. It makes no further step, its connections close at once, its exit code is 101.
    Panic,
    /// Process: one that waits for its first boot boots now.
    ScaleUp,
    /// Process: it is told to stop, and does not come back.
    ScaleDown,
    /// Two processes: the second, which waits for its first boot, boots now; once it has, the first is told to stop and
    /// does not come back.
    Reconfigure,
    /// Caller of a service: its calls are answered with this HTTP status.
    Refuse { status: u16, retry_after: Option<Duration> },
    /// Caller of a service that streams: its answers go wrong in the middle.
    Disturb(StreamFault),
    /// Service: it is ill itself, for whoever talks to it.
    Ail(ServiceFault),
}

/// How a streamed answer goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StreamFault {
    /// It stops in the middle of an event, and goes on at the end of the fault.
    Stall,
    /// It ends in order, but before its last event.
    Truncate,
    /// One of its events is not what it should be.
    Malformed,
}

impl StreamFault {
    /// Each of them.
    pub const ALL: [StreamFault; 3] = [StreamFault::Stall, StreamFault::Truncate, StreamFault::Malformed];

    /// The word in plans.
    pub fn name(self) -> &'static str {
        match self {
            StreamFault::Stall => "stall",
            StreamFault::Truncate => "truncate",
            StreamFault::Malformed => "malformed",
        }
    }
}

/// What a kind of fault strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetKind {
    /// Links, as `executor-1->redis`.
    Link,
    /// Processes, as `executor-1`.
    Process,
    /// Callers of a service, as `provider/sk-a`.
    Caller,
    /// Services, as `redis`.
    Service,
}

impl Fault {
    /// One that strikes once, and all of its targets.
    pub fn new(kind: Kind, targets: Vec<String>, trigger: Trigger, length: Lifetime) -> Fault {
        Fault { kind, targets, trigger, length, part: Scope::default(), every: None }
    }

    /// Whether it strikes whoever caused the event that begins it.
    pub fn strikes_origin(&self) -> bool {
        self.targets.iter().any(|target| target.split("->").next() == Some(ORIGIN))
    }
}

impl Kind {
    /// Each word that a plan may use.
    pub const NAMES: &'static [&'static str] = &{
        let mut all = [""; Kind::OWN.len() + ServiceFault::NAMES.len()];
        let mut place = 0;
        while place < all.len() {
            let own = place < Kind::OWN.len();
            all[place] = if own { Kind::OWN[place] } else { ServiceFault::NAMES[place - Kind::OWN.len()] };
            place += 1;
        }
        all
    };

    /// The words for what no service suffers from inside.
    const OWN: [&'static str; 23] = [
        "wedge",
        "close",
        "connection_refused",
        "reply_lost",
        "delay",
        "half_open",
        "trickle",
        "cut",
        "answer",
        "sigterm",
        "sigkill",
        "host_loss",
        "pause",
        "rolling_restart",
        "lost_signal",
        "panic",
        "scale_up",
        "scale_down",
        "reconfigure",
        "refuse",
        "stall",
        "truncate",
        "malformed",
    ];

    /// The statuses that `refuse` may answer with.
    pub const REFUSALS: &'static [u16] = &[429, 401, 403, 500];

    /// The statuses that `answer` may answer with: what proxies say of servers.
    pub const ANSWERS: &'static [u16] = &[500, 502, 503, 504];

    /// The word in plans.
    pub fn name(&self) -> &'static str {
        match self {
            Kind::Wedge => "wedge",
            Kind::Close => "close",
            Kind::ConnectionRefused => "connection_refused",
            Kind::ReplyLost { .. } => "reply_lost",
            Kind::Delay { .. } => "delay",
            Kind::HalfOpen => "half_open",
            Kind::Trickle { .. } => "trickle",
            Kind::Cut { .. } => "cut",
            Kind::Answer { .. } => "answer",
            Kind::Sigterm => "sigterm",
            Kind::Sigkill => "sigkill",
            Kind::HostLoss => "host_loss",
            Kind::Pause => "pause",
            Kind::RollingRestart => "rolling_restart",
            Kind::LostSignal => "lost_signal",
            Kind::Panic => "panic",
            Kind::ScaleUp => "scale_up",
            Kind::ScaleDown => "scale_down",
            Kind::Reconfigure => "reconfigure",
            Kind::Refuse { .. } => "refuse",
            Kind::Disturb(disturbance) => disturbance.name(),
            Kind::Ail(ailment) => ailment.name(),
        }
    }

    /// What it strikes.
    pub fn target_kind(&self) -> TargetKind {
        match self {
            Kind::Wedge | Kind::Close | Kind::ConnectionRefused => TargetKind::Link,
            Kind::ReplyLost { .. } | Kind::Delay { .. } => TargetKind::Link,
            Kind::HalfOpen | Kind::Trickle { .. } | Kind::Cut { .. } | Kind::Answer { .. } => TargetKind::Link,
            Kind::Sigterm | Kind::Sigkill | Kind::HostLoss | Kind::Pause | Kind::Panic => TargetKind::Process,
            Kind::RollingRestart | Kind::LostSignal => TargetKind::Process,
            Kind::ScaleUp | Kind::ScaleDown | Kind::Reconfigure => TargetKind::Process,
            Kind::Refuse { .. } | Kind::Disturb(_) => TargetKind::Caller,
            Kind::Ail(_) => TargetKind::Service,
        }
    }

    /// Whether it is done by the service manager, to processes that it boots.
    pub fn of_manager(&self) -> bool {
        matches!(self, Kind::RollingRestart | Kind::LostSignal | Kind::ScaleUp | Kind::ScaleDown | Kind::Reconfigure)
    }

    /// Whether it boots a process that has waited for that; of several, the last.
    pub fn boots(&self) -> bool {
        matches!(self, Kind::ScaleUp | Kind::Reconfigure)
    }

    /// Whether a process does not come back from it; of several, the first.
    pub fn retires(&self) -> bool {
        matches!(self, Kind::ScaleDown | Kind::Reconfigure)
    }

    /// Whether it acts on links.
    pub fn on_link(&self) -> bool {
        self.target_kind() == TargetKind::Link
    }

    /// Whether it changes how many there are of a service.
    pub fn scales(&self) -> bool {
        matches!(self, Kind::ScaleUp | Kind::ScaleDown | Kind::Reconfigure)
    }

    /// Whether it can strike one direction alone.
    pub fn one_way(&self) -> bool {
        matches!(self, Kind::Wedge | Kind::Delay { .. } | Kind::Trickle { .. })
    }

    /// Whether it can strike connections of a link alone on which something is said.
    pub fn selective(&self) -> bool {
        self.one_way() || *self == Kind::Close
    }

    /// Whether it strikes the next answer and is over then, unless it is over before.
    pub fn awaits_answer(&self) -> bool {
        matches!(self, Kind::ReplyLost { .. } | Kind::Cut { .. } | Kind::Answer { .. })
    }

    /// Whether it can have no length.
    pub fn instant(&self) -> bool {
        match self {
            Kind::Sigterm | Kind::Sigkill | Kind::HostLoss | Kind::Panic => true,
            kind if kind.of_manager() => true,
            Kind::Ail(ailment) => ailment.instant(),
            _ => false,
        }
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

/// Whether HTTP is spoken on a link, as `executor-1->engine`.
pub fn speaks_http(link: &str) -> bool {
    !["->redis", "->rabbitmq", "->postgres"].iter().any(|far| link.ends_with(far))
}

impl Trigger {
    /// The same, this much later.
    #[must_use]
    pub fn delayed(mut self, by: Duration) -> Trigger {
        match &mut self {
            Trigger::At(at) => *at += by,
            Trigger::On(cue) => cue.after += by,
            Trigger::OnRequest { after, .. } => *after += by,
        }
        self
    }
}

/// An event to wait for.
#[derive(Clone, Debug, PartialEq)]
pub struct EventMatch {
    /// Its name.
    pub event: String,
    /// Only those of this session.
    pub session: Option<String>,
    /// The `nth` one, from 1. For the end of a fault, counted from its beginning.
    pub nth: u32,
    /// And then this long.
    pub after: Duration,
}

/// When a fault ends.
#[derive(Clone, Debug, PartialEq)]
pub enum Lifetime {
    /// It is an instant, as a kill is.
    Instant,
    /// After this long.
    Lasts(Duration),
    /// After an event.
    Until(EventMatch),
    /// When everything heals.
    UntilHeal,
}
