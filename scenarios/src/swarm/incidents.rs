//! Incidents: something that happens every day, and in the middle of it one fault too many. An executor is told to stop,
//! ends a run, or moves an agent; then, whatever can strike, strikes.

use std::time::Duration;

use lychgate_sim::plan::{EventMatch, Fault, Kind, Lifetime, ORIGIN, ServiceFault, StreamFault, TargetKind, Trigger};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::{Topology, seconds};

/// The moment, what makes it, and when in it something strikes whom.
#[derive(Debug)]
struct Moment {
    causes: Vec<Fault>,
    trigger: Trigger,
    /// Who is in it, as a plan names processes.
    process: String,
    /// Whether it is the engine that comes to grief.
    engine: bool,
}

/// An incident.
#[derive(Debug)]
pub(super) struct Incident {
    /// When it is in full course.
    pub trigger: Trigger,
    pub faults: Vec<Fault>,
}

/// One incident.
pub(super) fn incident(topology: &Topology) -> impl Strategy<Value = Incident> + use<> {
    let executors = topology.executors();
    let moment = moment(topology.executors, topology.agents as u32);
    let blows = vec((blow(false), blow(true), 0..LINKS.len()), 1..=3);
    (moment, blows).prop_map(move |(moment, blows)| {
        let struck = blows.into_iter().flat_map(|(any, of_engine, link)| {
            let (kind, service, length) = if moment.engine { of_engine } else { any };
            let targets = match kind.target_kind() {
                _ if kind == Kind::RollingRestart => executors.clone(),
                TargetKind::Link if matches!(kind, Kind::Answer { .. }) => {
                    vec![format!("{}->{}", moment.process, HTTP[link])]
                }
                TargetKind::Link => vec![format!("{}->{}", moment.process, LINKS[link])],
                TargetKind::Process => vec![moment.process.clone()],
                TargetKind::Caller => vec!["provider/sk-a".to_string(), "provider/sk-b".to_string()],
                TargetKind::Service => vec![service.to_string()],
            };
            // One purge seldom finds anything.
            let every = (kind == Kind::Ail(ServiceFault::Purge)).then_some(PURGED_AGAIN);
            // Nobody dials while what stands goes on.
            let closes = kind == Kind::ConnectionRefused;
            let close = Fault::new(Kind::Close, targets.clone(), moment.trigger.clone(), Lifetime::Instant);
            let blow = Fault { every, ..Fault::new(kind, targets, moment.trigger.clone(), length) };
            std::iter::once(blow).chain(closes.then_some(close))
        });
        let faults = moment.causes.iter().cloned().chain(struck).collect();
        Incident { trigger: moment.trigger, faults }
    })
}

/// How soon an operator who empties queues does it again.
const PURGED_AGAIN: Duration = Duration::from_secs(2);

/// The services that an executor uses in each of the moments.
const LINKS: &[&str; 3] = &["postgres", "redis", "engine"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    Drain,
    /// It takes no time to end a run,
    End,
    /// but as long as a wedge lets it,
    LongEnd,
    /// and meanwhile an agent may be moved.
    SwitchInEnd,
    Switch,
}

/// As many to whom it speaks HTTP.
const HTTP: &[&str; 3] = &["engine", "agent-1.1", "agent-1.2"];

fn moment(executors: usize, agents: u32) -> impl Strategy<Value = Moment> {
    let soon = prop_oneof![2 => Just(0u64), 3 => 0..=50u64, 3 => 0..=2000u64].prop_map(Duration::from_millis);
    let which = prop_oneof![
        3 => Just(Which::Drain),
        2 => Just(Which::End),
        3 => Just(Which::LongEnd),
        3 => Just(Which::Switch),
        2 => Just(Which::SwitchInEnd),
    ];
    let wedged = (select(vec!["postgres", "redis"]), seconds(5..=30));
    (which, 1..=executors, 1..=2u32, soon, seconds(0..=10), wedged).prop_map(move |drawn| {
        let (which, n, nth, after, later, (far, lasts)) = drawn;
        let process = format!("executor-{n}");
        let on = |event: &str, nth, after| Trigger::On(EventMatch { event: event.into(), session: None, nth, after });
        let ends = |after| {
            let (link, matches) = (format!("{process}->postgres"), "run.terminal".into());
            Trigger::OnRequest { link, matches, nth, after }
        };
        let wedge = |far: &str| {
            let links = vec![format!("{process}->{far}")];
            Fault::new(Kind::Wedge, links, ends(Duration::ZERO), Lifetime::Lasts(lasts))
        };
        let refuse = |trigger| {
            let kind = Kind::Refuse { status: 429, retry_after: None };
            Fault::new(kind, vec!["provider/sk-a".to_string()], trigger, Lifetime::UntilHeal)
        };
        let (causes, trigger) = match which {
            Which::Drain => {
                let (kind, trigger) = (Kind::Sigterm, on("called", nth, later));
                let stop = Fault::new(kind, vec![process.clone()], trigger, Lifetime::Instant);
                (vec![stop], on("draining", 1, after))
            }
            Which::End => (Vec::new(), ends(after / 40)),
            Which::LongEnd => (vec![wedge(far)], ends(after + later / 2)),
            Which::SwitchInEnd => (vec![wedge("redis"), refuse(ends(Duration::ZERO))], ends(after / 40)),
            // The first assignments are no switches.
            Which::Switch => (vec![refuse(on("called", nth, later))], on("assigned", agents + 1, after)),
        };
        let process = if which == Which::Switch { ORIGIN.into() } else { process };
        Moment { causes, trigger, process, engine: which == Which::SwitchInEnd }
    })
}

/// What strikes once, or only where a container is moved or a hint waits, must strike more often to be felt as often.
const SELDOM_FELT: &[(&str, usize)] = &[
    ("purge", 34),
    ("slow_stop", 7),
    ("failed_create", 4),
    ("not_ready", 6),
    ("stale_handle", 3),
    ("stall", 16),
    ("truncate", 7),
    ("failover", 9),
    ("host_loss", 3),
    ("lost_signal", 6),
    ("panic", 6),
    ("pause", 5),
    ("cut", 3),
    ("answer", 32),
    ("too_many_connections", 5),
    ("half_open", 5),
    ("sigkill", 3),
    ("reply_lost", 5),
    ("malformed", 3),
    ("sigterm", 3),
    ("rolling_restart", 6),
];

/// Any kind of fault, or any of the engine, with the service that it is in and how long it lasts.
fn blow(of_engine: bool) -> impl Strategy<Value = (Kind, &'static str, Lifetime)> {
    let links =
        ["wedge", "close", "connection_refused", "reply_lost", "delay", "half_open", "trickle", "cut", "answer"];
    let processes = ["sigterm", "sigkill", "panic", "lost_signal", "host_loss", "pause", "rolling_restart"];
    let callers = ["refuse", "stall", "truncate", "malformed"];
    let own = links.into_iter().chain(processes).chain(callers).map(|word| (word, ""));
    let ails = ServiceFault::NAMES.into_iter().flat_map(|word| ServiceFault::services(word).map(move |of| (word, of)));
    let often = |(word, of)| {
        let times = SELDOM_FELT.iter().find(|(seldom, _)| *seldom == word).map_or(1, |(_, times)| *times);
        std::iter::repeat_n((word, of), times)
    };
    let may = |(_, of): &(&str, &str)| !of_engine || *of == "engine";
    let all: Vec<(&str, &str)> = own.chain(ails).filter(may).flat_map(often).collect();
    let by = prop_oneof![seconds(0..=2), seconds(2..=12)];
    (select(all), by, seconds(1..=60)).prop_map(|((word, service), by, lasts)| {
        let kind = match word {
            "wedge" => Kind::Wedge,
            "close" => Kind::Close,
            "connection_refused" => Kind::ConnectionRefused,
            "reply_lost" => Kind::ReplyLost { matches: None },
            "delay" => Kind::Delay { by },
            "half_open" => Kind::HalfOpen,
            "trickle" => Kind::Trickle { bytes: 16, by: by / 20 },
            "cut" => Kind::Cut { matches: None },
            "answer" => Kind::Answer { status: 503, matches: None },
            "sigterm" => Kind::Sigterm,
            "sigkill" => Kind::Sigkill,
            "panic" => Kind::Panic,
            "lost_signal" => Kind::LostSignal,
            "host_loss" => Kind::HostLoss,
            "pause" => Kind::Pause,
            "rolling_restart" => Kind::RollingRestart,
            "refuse" => Kind::Refuse { status: 500, retry_after: None },
            "stall" => Kind::Disturb(StreamFault::Stall),
            "truncate" => Kind::Disturb(StreamFault::Truncate),
            "malformed" => Kind::Disturb(StreamFault::Malformed),
            word => Kind::Ail(ServiceFault::named(word, Some(by)).expect("one of its own names")),
        };
        let length = match &kind {
            Kind::ReplyLost { .. } | Kind::Answer { .. } => Lifetime::UntilHeal,
            Kind::Cut { .. } => Lifetime::Instant,
            kind if kind.instant() => Lifetime::Instant,
            _ => Lifetime::Lasts(lasts),
        };
        (kind, service, length)
    })
}
