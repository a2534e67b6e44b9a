//! Incidents: something that happens every day, and in the middle of it one fault too many. An executor is told to stop,
//! ends a run, or moves an agent; then, whatever can strike, strikes.

use std::time::Duration;

use lychgate_sim::plan::{Ailment, Aim, Cue, Disturbance, Fault, Kind, Length, ORIGIN, Trigger};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::{Topology, seconds};

/// The moment, its cause, and when in it something strikes whom.
#[derive(Debug)]
struct Moment {
    cause: Option<Fault>,
    trigger: Trigger,
    /// Who is in it, as a plan names processes.
    process: String,
}

/// One incident.
pub(super) fn incident(topology: &Topology) -> impl Strategy<Value = Vec<Fault>> + use<> {
    let executors = topology.executors();
    let moment = moment(topology.executors, topology.agents as u32);
    let blow = vec((blow(), 0..LINKS.len()), 1..=2);
    (moment, blow).prop_map(move |(moment, blows)| {
        let struck = blows.into_iter().map(|((kind, service, length), link)| {
            let targets = match kind.aim() {
                _ if kind == Kind::RollingRestart => executors.clone(),
                Aim::Link => vec![format!("{}->{}", moment.process, LINKS[link])],
                Aim::Process => vec![moment.process.clone()],
                Aim::Caller => vec!["provider/sk-a".to_string(), "provider/sk-b".to_string()],
                Aim::Service => vec![service.to_string()],
            };
            Fault::new(kind, targets, moment.trigger.clone(), length)
        });
        moment.cause.iter().cloned().chain(struck).collect()
    })
}

/// The services that an executor uses in each of the moments.
const LINKS: &[&str] = &["postgres", "redis", "engine"];

fn moment(executors: usize, agents: u32) -> impl Strategy<Value = Moment> {
    let soon = prop_oneof![2 => Just(0u64), 3 => 0..=50u64, 3 => 0..=2000u64].prop_map(Duration::from_millis);
    (0..3, 1..=executors, 1..=2u32, soon, seconds(0..=10)).prop_map(move |(which, n, nth, after, later)| {
        let process = format!("executor-{n}");
        let on = |event: &str, nth, after| Trigger::On(Cue { event: event.into(), session: None, nth, after });
        match which {
            0 => {
                let stop = Fault::new(Kind::Sigterm, vec![process.clone()], on("called", nth, later), Length::Instant);
                Moment { cause: Some(stop), trigger: on("draining", 1, after), process }
            }
            1 => {
                let (link, matches) = (format!("{process}->postgres"), "run.terminal".into());
                Moment { cause: None, trigger: Trigger::OnRequest { link, matches, nth, after: after / 40 }, process }
            }
            _ => {
                let kind = Kind::Refuse { status: 429, retry_after: None };
                let targets = vec!["provider/sk-a".to_string()];
                let refuse = Fault::new(kind, targets, on("called", nth, later), Length::UntilHeal);
                // The first assignments are no switches.
                Moment { cause: Some(refuse), trigger: on("assigned", agents + 1, after), process: ORIGIN.into() }
            }
        }
    })
}

/// What strikes once, or only where a container is moved or a hint waits, must strike more often to be felt as often.
const SELDOM_FELT: &[&str] =
    &["purge", "slow_stop", "not_ready", "stale_handle", "failover", "host_loss", "lost_signal", "stall"];

/// Any kind of fault, with the service that it is in and how long it lasts.
fn blow() -> impl Strategy<Value = (Kind, &'static str, Length)> {
    let links = ["wedge", "close", "reply_lost", "delay", "half_open", "trickle", "cut"];
    let processes = ["sigterm", "sigkill", "panic", "lost_signal", "host_loss", "pause", "rolling_restart"];
    let callers = ["refuse", "stall", "truncate", "malformed"];
    let own = links.into_iter().chain(processes).chain(callers).map(|word| (word, ""));
    let ails = Ailment::NAMES.into_iter().flat_map(|word| Ailment::services(word).map(move |of| (word, of)));
    let often = |(word, of)| std::iter::repeat_n((word, of), if SELDOM_FELT.contains(&word) { 3 } else { 1 });
    let all: Vec<(&str, &str)> = own.chain(ails).flat_map(often).collect();
    let by = prop_oneof![seconds(0..=2), seconds(2..=12)];
    (select(all), by, seconds(1..=60)).prop_map(|((word, service), by, lasts)| {
        let kind = match word {
            "wedge" => Kind::Wedge,
            "close" => Kind::Close,
            "reply_lost" => Kind::ReplyLost { matches: None },
            "delay" => Kind::Delay { by },
            "half_open" => Kind::HalfOpen,
            "trickle" => Kind::Trickle { bytes: 16, by: by / 20 },
            "cut" => Kind::Cut { matches: None },
            "sigterm" => Kind::Sigterm,
            "sigkill" => Kind::Sigkill,
            "panic" => Kind::Panic,
            "lost_signal" => Kind::LostSignal,
            "host_loss" => Kind::HostLoss,
            "pause" => Kind::Pause,
            "rolling_restart" => Kind::RollingRestart,
            "refuse" => Kind::Refuse { status: 500, retry_after: None },
            "stall" => Kind::Disturb(Disturbance::Stall),
            "truncate" => Kind::Disturb(Disturbance::Truncate),
            "malformed" => Kind::Disturb(Disturbance::Malformed),
            word => Kind::Ail(Ailment::named(word, Some(by)).expect("one of its own names")),
        };
        let length = match &kind {
            Kind::ReplyLost { .. } => Length::UntilHeal,
            Kind::Cut { .. } => Length::Instant,
            kind if kind.instant() => Length::Instant,
            _ => Length::Lasts(lasts),
        };
        (kind, service, length)
    })
}
