//! Incidents: something that happens every day, and in the middle of it one fault too many. An executor is told to stop,
//! ends a run, or moves an agent; then, whatever can strike, strikes.

use std::time::Duration;

use lychgate_sim::link::faults::{self as links, CLOSE, CONNECTION_REFUSED, CUT, WEDGE};
use lychgate_sim::plan::{Course, EventMatch, Fault, FaultRow, Kind, Lifetime, ORIGIN, TargetKind, Trigger};
use lychgate_sim::standins::provider::faults::{self as callers, REFUSE};
use lychgate_sim::standins::rabbit::faults::PURGE;
use lychgate_sim::world::process_faults::{HOST_LOSS, LOST_SIGNAL, PANIC, PAUSE, ROLLING_RESTART, SIGKILL, SIGTERM};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::faults::{Drawn, inside_services};
use super::{Topology, seconds};

/// The moment, what makes it, and when in it something strikes whom.
#[derive(Debug)]
struct Moment {
    causes: Vec<Fault>,
    trigger: Trigger,
    /// The process that is in the moment.
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
            let targets = match kind.target {
                _ if kind.is(&ROLLING_RESTART) => executors.clone(),
                TargetKind::HttpLink => vec![format!("{}->{}", moment.process, HTTP[link])],
                TargetKind::Link => vec![format!("{}->{}", moment.process, LINKS[link])],
                TargetKind::Process | TargetKind::ManagedProcess => vec![moment.process.clone()],
                TargetKind::Caller => vec!["provider/sk-a".to_string(), "provider/sk-b".to_string()],
                TargetKind::Service => vec![service.to_string()],
            };
            // One purge seldom finds anything.
            let every = kind.is(&PURGE).then_some(PURGED_AGAIN);
            // Nobody dials while what stands goes on.
            let closes = kind.is(&CONNECTION_REFUSED);
            let close = Fault::new(&CLOSE, targets.clone(), moment.trigger.clone(), Lifetime::Instant);
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
    /// The end of a run, which takes no time.
    End,
    /// The end of a run that a wedge holds up.
    LongEnd,
    /// The move of an agent while a run's end is held up.
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
            Fault::new(&WEDGE, links, ends(Duration::ZERO), Lifetime::Lasts(lasts))
        };
        let refuse = |trigger| {
            let kind = Kind::of(&REFUSE).with("status", 429_u16);
            Fault::new(kind, vec!["provider/sk-a".to_string()], trigger, Lifetime::UntilHeal)
        };
        let (causes, trigger) = match which {
            Which::Drain => {
                let trigger = on("called", nth, later);
                let stop = Fault::new(&SIGTERM, vec![process.clone()], trigger, Lifetime::Instant);
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

/// What befalls a process in the middle of something.
const PROCESSES: [&FaultRow; 7] = [&SIGTERM, &SIGKILL, &PANIC, &LOST_SIGNAL, &HOST_LOSS, &PAUSE, &ROLLING_RESTART];

/// Any kind of fault, or any of the engine, with the service that it is in and how long it lasts.
fn blow(of_engine: bool) -> impl Strategy<Value = (Kind, &'static str, Lifetime)> {
    let own = links::ROWS.iter().copied().chain(PROCESSES).chain(callers::WORDS.faults.iter().copied());
    let often = |(row, of): (&'static FaultRow, &'static str)| {
        let times = SELDOM_FELT.iter().find(|(seldom, _)| *seldom == row.word()).map_or(1, |(_, times)| *times);
        std::iter::repeat_n((row, of), times)
    };
    let may = |(_, of): &(&FaultRow, &str)| !of_engine || *of == "engine";
    let all: Vec<_> = own.map(|row| (row, "")).chain(inside_services()).filter(may).flat_map(often).collect();
    let by = prop_oneof![seconds(0..=2), seconds(2..=12)];
    (select(all), by, seconds(1..=60)).prop_map(|((row, service), by, lasts)| {
        let status = if row.on_link() { 503 } else { 500 };
        let kind = Drawn { by, pace: (16, by / 20), status, matches: None }.kind(row);
        let length = match row.course {
            _ if *row == CUT => Lifetime::Instant,
            Course::NextAnswer => Lifetime::UntilHeal,
            Course::Instant => Lifetime::Instant,
            _ => Lifetime::Lasts(lasts),
        };
        (kind, service, length)
    })
}
