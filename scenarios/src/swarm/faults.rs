//! Faults of links, processes and services near the moments that matter, each kind wild or off.

use std::time::Duration;

use lychgate_sim::link::faults::{self as links, ANSWERS, CUT};
use lychgate_sim::plan::{
    Course, Direction, EventMatch, Fault, FaultRow, Kind, Lifetime, ORIGIN, Scope, Takes, TargetKind, Trigger,
};
use lychgate_sim::standins::provider::dialect::Dialect;
use lychgate_sim::standins::provider::faults::{
    DIALECT, ERROR_EVENT, ERROR_FORMS, MALFORMED, REFUSALS, REFUSE, STALL, TRUNCATE,
};
use lychgate_sim::standins::{engine, postgres};
use lychgate_sim::world::process_faults::{HOST_LOSS, LOST_SIGNAL, PANIC, PAUSE, ROLLING_RESTART, SIGKILL, SIGTERM};
use lychgate_sim::world::words;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::{Topology, seconds};
use crate::Lychgate;
use crate::users::LychgateWorkload;

/// Faults near the moments that matter: between a run's claim and the end of its terminal writes, inside a drain, inside
/// a switch.
pub(super) fn faults(users: &LychgateWorkload, topology: &Topology) -> impl Strategy<Value = Vec<Fault>> + use<> {
    let (gateways, executors, slots) = (topology.gateways(), topology.executors(), topology.slots());
    let mut links: Vec<String> = slots.iter().map(|slot| format!("{slot}->provider")).collect();
    for executor in &executors {
        let services = ["postgres", "redis", "rabbitmq", "engine"].into_iter().map(String::from);
        links.extend(services.chain(slots.iter().cloned()).map(|service| format!("{executor}->{service}")));
    }
    // Where most of the harm is done.
    let executor_links = links.clone();
    for gateway in &gateways {
        links.extend(["postgres", "redis", "rabbitmq"].map(|service| format!("{gateway}->{service}")));
        links.extend(users.0.iter().map(|person| format!("{}->{gateway}", person.name)));
    }
    let link = prop_oneof![3 => select(executor_links), 1 => select(links)];
    let process = prop_oneof![8 => select(executors.clone()), 1 => select(gateways), 2 => select(slots)];
    let sessions = lychgate_sim::world::product::Workload::sessions(users);
    let owner_stops = proptest::option::weighted(0.6, stop(executors.len()));
    let switches = proptest::option::weighted(0.35, switch(topology));
    let restart = proptest::option::weighted(0.1, restart(executors));
    let spoilt = proptest::option::weighted(0.35, disturbance());
    let mut kinds: Vec<&str> = links::ROWS.iter().map(|row| row.word()).collect();
    kinds.extend(["kill", "pause", "host_loss", "ailment", "ailment", "ailment", "ailment"]);
    let others = subsequence(kinds, 1..=3).prop_flat_map(move |kinds| {
        let one = fault(kinds, link.clone(), process.clone(), sessions.clone());
        vec(one, 1..=5)
    });
    (others, owner_stops, switches, restart, spoilt).prop_map(|(faults, stop, switch, restart, spoilt)| {
        faults.into_iter().chain(stop).chain(switch.into_iter().flatten()).chain(restart).chain(spoilt).collect()
    })
}

/// A subscription fails while it is in use, and now and then the process that moves the agent dies over it.
fn switch(topology: &Topology) -> impl Strategy<Value = Vec<Fault>> + use<> {
    let (agents, tokens) = (topology.agents as u32, topology.tokens.clone());
    let trigger = (1..=3u32, seconds(0..=20));
    let trigger = trigger.prop_map(|(nth, after)| EventMatch { event: "called".into(), session: None, nth, after });
    // Mostly there is a switch over it.
    let status = prop_oneof![3 => select(vec![429, 401, 403]), 1 => select(REFUSALS.to_vec())];
    let lasts = prop_oneof![1 => seconds(5..=60).prop_map(Lifetime::Lasts), 2 => Just(Lifetime::UntilHeal)];
    let asks = proptest::option::weighted(0.4, prop_oneof![3 => seconds(1..=20), 1 => seconds(20..=900)]);
    let one = [vec!["sk-a"], tokens.clone()].concat();
    let refuse = (select(one), trigger, status, lasts, asks).prop_map(|(token, cue, status, length, asks)| {
        let kind = Kind::of(&REFUSE).with("status", status).with_any("retry_after", asks);
        Fault::new(kind, vec![format!("provider/{token}")], Trigger::On(cue), length)
    });
    // Directly after a commit, too: what comes of it is another process's then.
    let when = prop_oneof![1 => Just(Duration::ZERO), 1 => seconds(0..=3)];
    let what = select(vec!["assigned", "switch_ready", "subscription_failed", "container_started"]);
    let grief = (select(vec![&SIGKILL, &SIGTERM, &HOST_LOSS, &PAUSE]), what, when, seconds(5..=120));
    let grief = grief.prop_map(move |(kind, event, after, lasts)| {
        // The first assignments are no switches.
        let nth = if event == "subscription_failed" { 1 } else { agents + 1 };
        let cue = EventMatch { event: event.into(), session: None, nth, after };
        let length = if *kind == PAUSE { Lifetime::Lasts(lasts) } else { Lifetime::Instant };
        Fault::new(kind, vec![ORIGIN.into()], Trigger::On(cue), length)
    });
    // Now and then its engine does.
    let ills = engine::faults::WORDS.faults.to_vec();
    // The old container is stopped as soon as the refusal is known.
    let after = prop_oneof![4 => Just(Duration::ZERO), 1 => seconds(0..=2)];
    let ill = (select(ills), seconds(0..=30), after, seconds(5..=90));
    let ill = ill.prop_map(|(row, by, after, lasts)| {
        let kind = Drawn { by, ..Drawn::default() }.kind(row);
        let cue = EventMatch { event: "refused".into(), session: None, nth: 1, after };
        Fault::new(kind, vec!["engine".into()], Trigger::On(cue), Lifetime::Lasts(lasts))
    });
    // Or one after the other, until none is left.
    let every = prop_oneof![7 => Just(false), 1 => Just(true)];
    (vec(refuse, 1..=2), every, proptest::option::of(grief), proptest::option::weighted(0.7, ill)).prop_map(
        move |(mut faults, every, grief, ill)| {
            if every {
                let of = |token: &&str| Fault { targets: vec![format!("provider/{token}")], ..faults[0].clone() };
                faults = tokens.iter().map(of).collect();
            }
            faults.into_iter().chain(grief).chain(ill).collect()
        },
    )
}

/// The model's answers go wrong under somebody's turn: for a moment, or for longer than a silence is waited out, which is
/// a minute.
fn disturbance() -> impl Strategy<Value = Fault> {
    let trigger = (1..=3u32, prop_oneof![seconds(0..=2), seconds(0..=20)]);
    let trigger = trigger.prop_map(|(nth, after)| EventMatch { event: "called".into(), session: None, nth, after });
    let lasts = prop_oneof![2 => seconds(1..=20), 2 => seconds(50..=150), 1 => seconds(150..=400)];
    let token = select(vec!["sk-a", "sk-a", "sk-a", "sk-b"]);
    let dialect = select(Dialect::WORDS).prop_map(|form| Kind::of(&DIALECT).with("form", form));
    let spoils = select(vec![&STALL, &TRUNCATE, &MALFORMED]).prop_map(Kind::of);
    let fails = select(ERROR_FORMS).prop_map(|form| Kind::of(&ERROR_EVENT).with("form", form));
    let what = prop_oneof![3 => spoils, 1 => fails, 1 => dialect];
    (what, token, trigger, lasts, again()).prop_map(|(what, token, cue, lasts, every)| {
        let targets = vec![format!("provider/{token}")];
        let fault = Fault::new(what, targets, Trigger::On(cue), Lifetime::Lasts(lasts));
        Fault { every, ..fault }
    })
}

/// Now and then a fault comes back.
fn again() -> impl Strategy<Value = Option<Duration>> {
    proptest::option::weighted(0.15, prop_oneof![seconds(2..=20), seconds(20..=120)])
}

/// Of a link mostly all; else one way, or what is said from some statement on.
fn part() -> impl Strategy<Value = (Option<Direction>, bool)> {
    let direction = prop_oneof![4 => Just(None), 1 => Just(Some(Direction::Up)), 1 => Just(Some(Direction::Down))];
    (direction, proptest::bool::weighted(0.5))
}

/// What is said on a link, beside other things, when it matters.
fn said_on(link: &str) -> Option<String> {
    let words = match link.split_once("->")?.1 {
        "redis" => "EVALSHA",
        "engine" => "POST ",
        "provider" => "/v1/chat",
        far if far.starts_with("agent-") => "/turns",
        _ => return None,
    };
    Some(words.to_string())
}

/// Every executor in turn.
fn restart(executors: Vec<String>) -> impl Strategy<Value = Fault> {
    seconds(5..=60)
        .prop_map(move |at| Fault::new(&ROLLING_RESTART, executors.clone(), Trigger::At(at), Lifetime::Instant))
}

/// An executor is killed, or told to stop, a moment after some call, often enough the one that made it, or while it
/// commits a turn.
fn stop(executors: usize) -> impl Strategy<Value = Fault> {
    let kind = prop_oneof![
        3 => Just(&SIGKILL),
        4 => Just(&SIGTERM),
        1 => Just(&PANIC),
        1 => Just(&LOST_SIGNAL),
    ];
    let moment = (seconds(0..=15), 0..=20u64, proptest::bool::weighted(0.5));
    (kind, 1..=executors, 1..=3u32, moment).prop_map(|(kind, n, nth, (after, millis, commits))| {
        let trigger = if commits {
            let (link, matches) = (format!("executor-{n}->postgres"), "run.checkpoint".into());
            Trigger::OnRequest { link, matches, nth, after: Duration::from_millis(millis) }
        } else {
            Trigger::On(EventMatch { event: "called".into(), session: None, nth, after })
        };
        Fault::new(kind, vec![format!("executor-{n}")], trigger, Lifetime::Instant)
    })
}

/// What a fault takes, as it was drawn.
#[derive(Default)]
pub(super) struct Drawn {
    pub by: Duration,
    /// How many bytes at a time, and how long after each.
    pub pace: (u32, Duration),
    pub status: u16,
    pub matches: Option<String>,
}

impl Drawn {
    /// A fault of this kind, with all that it takes.
    pub(super) fn kind(&self, row: &'static FaultRow) -> Kind {
        row.args.iter().fold(Kind::of(row), |kind, arg| match arg.name {
            "bytes" => kind.with("bytes", self.pace.0),
            "by" if row.arg("bytes").is_some() => kind.with("by", self.pace.1),
            "by" => kind.with("by", self.by),
            "status" => kind.with("status", self.status),
            "form" | "code" => {
                let Takes::OneOfWords(words) = arg.takes else { panic!("`{}` is one of some words", arg.name) };
                // Two draws, as one has few values.
                let nth = self.by.as_millis() + u128::from(self.status);
                kind.with(arg.name, words[(nth % words.len() as u128) as usize])
            }
            // What is said where HTTP is not.
            "matches" if row.target != TargetKind::HttpLink => kind.with_any("matches", self.matches.clone()),
            _ => kind,
        })
    }
}

/// What can ail a service, and which.
pub(super) fn inside_services() -> Vec<(&'static FaultRow, &'static str)> {
    let valid = words::vocabulary::<Lychgate>();
    let rows = valid.rows().into_iter().filter(|(_, row)| row.target == TargetKind::Service);
    let rows = rows.filter_map(|(service, row)| Some((row, service?)));
    // Of what Postgres has lost the judge knows what to think if it was a claim, and a drawn plan loses anything.
    rows.filter(|(row, service)| *service != "postgres" || **row != postgres::faults::FAILOVER).collect()
}

/// The link itself if HTTP is spoken on it, else an executor's to the engine.
fn spoken_http(link: String) -> String {
    if words::vocabulary::<Lychgate>().speaks_http(&link) {
        return link;
    }
    let near = link.split("->").next().filter(|near| near.starts_with("executor-"));
    format!("{}->engine", near.unwrap_or("executor-1"))
}

fn fault(
    kinds: Vec<&'static str>,
    link: impl Strategy<Value = String> + Clone + 'static,
    process: impl Strategy<Value = String> + Clone + 'static,
    sessions: Vec<String>,
) -> impl Strategy<Value = Fault> {
    let moment = select(vec![
        "claimed",
        "called",
        "answered",
        "checkpointed",
        "ended",
        "shown",
        "accepted",
        "handed_back",
        "marked",
    ]);
    let after = prop_oneof![1 => Just(Duration::ZERO), 2 => seconds(0..=1), 2 => seconds(0..=20), 1 => seconds(0..=60)];
    let cue = (moment, proptest::option::of(select(sessions)), 1..=2u32, after);
    let cue = cue.prop_map(|(event, session, nth, after)| EventMatch { event: event.into(), session, nth, after });
    let trigger = prop_oneof![4 => cue.prop_map(Trigger::On), 1 => seconds(0..=120).prop_map(Trigger::At)];
    let lasts = prop_oneof![3 => seconds(1..=15), 2 => seconds(15..=90), 1 => seconds(90..=400)];
    let by = prop_oneof![seconds(0..=2), seconds(1..=12)].boxed();
    let statement = select(vec![None, Some("run.terminal"), Some("run.checkpoint"), Some("run.claim"), Some("COMMIT")]);
    let inside = select(inside_services());
    let pace = (select(vec![1, 4, 16, 64, 256]), select(vec![20, 100, 400, 1500]).prop_map(Duration::from_millis));
    let how = (any::<bool>(), any::<bool>(), select(ANSWERS.to_vec()));
    (select(kinds), link, process, inside, trigger, lasts, (by, pace), (statement, how, part(), again())).prop_map(
        |(kind, link, process, (inside, service), trigger, lasts, (by, pace), more)| {
            let (statement, (hard, soft, status), (direction, picks), every) = more;
            let lasts = Lifetime::Lasts(lasts);
            let to_postgres = link.ends_with("->postgres");
            let matches = statement.filter(|_| to_postgres).map(str::to_string);
            let only = matches.clone().or_else(|| said_on(&link)).filter(|_| picks);
            let drawn = Drawn { by, pace, status, matches };
            let on_link = links::ROWS.iter().find(|row| row.word() == kind);
            let (kind, target, length) = match (kind, on_link) {
                (_, Some(row)) => {
                    let target = if row.target == TargetKind::HttpLink { spoken_http(link) } else { link };
                    let length = match row.course {
                        _ if **row == CUT => Lifetime::Instant,
                        Course::NextAnswer => Lifetime::UntilHeal,
                        Course::Once if hard => Lifetime::Instant,
                        _ => lasts,
                    };
                    (drawn.kind(row), target, length)
                }
                ("pause", _) => (Kind::of(&PAUSE), process, lasts),
                ("host_loss", _) => (Kind::of(&HOST_LOSS), process, Lifetime::Instant),
                ("ailment", _) if inside.instant() => (drawn.kind(inside), service.to_owned(), Lifetime::Instant),
                ("ailment", _) => (drawn.kind(inside), service.to_owned(), lasts),
                _ if hard && soft => (Kind::of(&SIGKILL), process, Lifetime::Instant),
                _ if hard => (Kind::of(&PANIC), process, Lifetime::Instant),
                // A container is its engine's to stop.
                _ if soft && !process.contains('.') => (Kind::of(&LOST_SIGNAL), process, Lifetime::Instant),
                _ => (Kind::of(&SIGTERM), process, Lifetime::Instant),
            };
            let part = Scope {
                direction: direction.filter(|_| kind.one_way()),
                only: only.filter(|_| kind.selective() && length != Lifetime::Instant),
            };
            // Deaths that come back for ever leave nobody to look at.
            let every = every.filter(|_| kind.on_link() && length != Lifetime::UntilHeal);
            Fault { part, every, ..Fault::new(kind, vec![target], trigger, length) }
        },
    )
}
