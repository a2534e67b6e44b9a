//! Reads the faults of a plan: what, where, when, until when. Each must be possible in the plan's own topology and with
//! its own users.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

use toml::Spanned;
use toml::de::DeValue;

use super::scope::{every, judge, part};
use super::section::{Diagnostics, Section, described, words};
use super::{EventMatch, Fault, Kind, Lifetime, ORIGIN, ServiceFault, StreamFault, TargetKind, Trigger, speaks_http};
use crate::link::HALF_OPEN;
use crate::trace::event::WorldEvent;

/// What a fault of this plan may name.
pub(super) struct Words {
    pub(super) processes: Vec<String>,
    /// Those that the service manager boots; their role, and whether they wait for their first boot.
    pub(super) managed: BTreeMap<String, (&'static str, bool)>,
    pub(super) links: Vec<String>,
    pub(super) services: Vec<&'static str>,
    pub(super) events: Vec<&'static str>,
    /// `None` where the users could not be read.
    pub(super) sessions: Option<Vec<String>>,
}

const KEYS: &[&str] = &[
    "kind",
    "target",
    "at",
    "on",
    "lasts",
    "until",
    "every",
    "by",
    "bytes",
    "matches",
    "only",
    "direction",
    "status",
    "retry_after",
];
/// What a relay reads at a time.
const BYTES_MAX: u64 = 16 * 1024;
const CUE_KEYS: &[&str] = &["event", "session", "nth", "after"];
const ON_KEYS: &[&str] = &["event", "session", "link", "matches", "nth", "after"];

/// Reads `[[faults]]`.
pub(super) fn faults(value: Spanned<DeValue<'_>>, valid: &Words, complaints: &mut Diagnostics<'_>) -> Vec<Fault> {
    let span = value.span();
    let DeValue::Array(array) = value.into_inner() else {
        complaints.wrong(&span, "`faults` must be a list: write `[[faults]]` above each");
        return Vec::new();
    };
    let mut leaving = BTreeSet::new();
    array.into_iter().filter_map(|value| fault(value, valid, &mut leaving, complaints)).collect()
}

fn fault(
    value: Spanned<DeValue<'_>>,
    valid: &Words,
    leaving: &mut BTreeSet<String>,
    complaints: &mut Diagnostics<'_>,
) -> Option<Fault> {
    let mut section = Section::of(value, "a fault", KEYS, complaints)?;
    let kind = kind(&mut section, complaints);
    let typed = targets(&mut section, kind.as_ref(), valid, complaints);
    if let Some(kind) = &kind {
        scaling(kind, &typed, valid, leaving, complaints);
    }
    let trigger = trigger(&mut section, valid, complaints);
    let origin = typed.iter().find(|target| of_origin(target.get_ref()));
    if let (Some(origin), Some(trigger)) = (origin, &trigger)
        && !matches!(trigger, Trigger::On(_))
    {
        let says = "`origin` is whoever caused an event: it needs `on = { event = \"…\" }`";
        complaints.wrong(&origin.span(), says);
    }
    let targets = typed.into_iter().map(Spanned::into_inner).collect();
    let length = length(&mut section, kind.as_ref(), valid, complaints);
    let part = part(&mut section, kind.as_ref(), complaints);
    let every = every(&mut section, length.as_ref(), complaints);
    if let (Some(kind), Some(length)) = (&kind, &length) {
        judge(&part, kind, length, &section, complaints);
    }
    section.end(complaints);
    Some(Fault { kind: kind?, targets, trigger: trigger?, length: length?, part, every })
}

fn kind(section: &mut Section<'_>, complaints: &mut Diagnostics<'_>) -> Option<Kind> {
    let word = section.need("kind", complaints).and_then(|value| super::section::text(value, "kind", complaints));
    let by_span = section.take("by");
    let by = by_span.clone().and_then(|value| {
        let mut alone = Section::new([key("by", value)].into_iter().collect(), section.span.clone(), "a fault", KEYS);
        alone.duration("by", complaints)
    });
    let bytes = bytes(section, complaints);
    let matches = section.text("matches", complaints);
    let answers = word.as_ref().is_some_and(|word| word.get_ref() == "answer");
    let refusal = refusal(section, if answers { Kind::ANSWERS } else { Kind::REFUSALS }, complaints);
    let word = word?;
    let name = word.get_ref().as_str();
    if !Kind::NAMES.contains(&name) {
        complaints.unknown(&word.span(), "kind of fault", name, Kind::NAMES.iter().copied());
        return None;
    }
    let needs_by = matches!(name, "delay" | "trickle") || ServiceFault::TAKING_BY.contains(&name);
    if let (Some(by), false) = (&by_span, needs_by) {
        let takers = ServiceFault::TAKING_BY.join("`, `");
        complaints.wrong(&by.span(), format!("`by` belongs to `delay`, `trickle`, `{takers}`, not to `{name}`"));
    }
    match &bytes {
        Some(bytes) if name != "trickle" => {
            complaints.wrong(&bytes.span(), format!("`bytes` belongs to `trickle`, not to `{name}`"));
        }
        None if name == "trickle" => {
            complaints
                .wrong(&word.span(), "`trickle` needs `bytes`, how many are carried at a time, as in `bytes = 16`");
        }
        _ => {}
    }
    if let (Some(span), Some(by)) = (&by_span, by)
        && ServiceFault::OF_CLOCK.contains(&name)
        && by > ServiceFault::CLOCK_OFF_MAX
    {
        let max = crate::plan::duration::print(ServiceFault::CLOCK_OFF_MAX);
        complaints.wrong(&span.span(), format!("a clock is off by {max} at most: what keeps it corrects more at once"));
    }
    if needs_by && by_span.is_none() {
        complaints.wrong(&word.span(), format!("`{name}` needs `by`, as in `by = \"200ms\"`"));
    }
    if let (Some(matches), true) = (&matches, !matches!(name, "reply_lost" | "cut" | "answer")) {
        let says = format!("`matches` belongs to `reply_lost`, `cut` and `answer` or into `on`, not to `{name}`");
        complaints.wrong(&matches.span(), says);
    }
    if let (Some(span), true) = (&refusal.span, !matches!(name, "refuse" | "answer")) {
        let says = format!("`status` belongs to `refuse` and `answer`, `retry_after` to `refuse`, not to `{name}`");
        complaints.wrong(span, says);
    }
    if let (Some(span), "answer", Some(_)) = (&refusal.span, name, refusal.retry_after) {
        complaints.wrong(span, "`retry_after` belongs to `refuse`, not to `answer`");
    }
    match name {
        "wedge" => Some(Kind::Wedge),
        "close" => Some(Kind::Close),
        "connection_refused" => Some(Kind::ConnectionRefused),
        "reply_lost" => Some(Kind::ReplyLost { matches: matches.map(Spanned::into_inner) }),
        "delay" => by.map(|by| Kind::Delay { by }),
        "half_open" => Some(Kind::HalfOpen),
        "trickle" => Some(Kind::Trickle { bytes: *bytes?.get_ref(), by: by? }),
        "cut" => Some(Kind::Cut { matches: matches.map(Spanned::into_inner) }),
        "sigterm" => Some(Kind::Sigterm),
        "sigkill" => Some(Kind::Sigkill),
        "host_loss" => Some(Kind::HostLoss),
        "pause" => Some(Kind::Pause),
        "rolling_restart" => Some(Kind::RollingRestart),
        "lost_signal" => Some(Kind::LostSignal),
        "panic" => Some(Kind::Panic),
        "scale_up" => Some(Kind::ScaleUp),
        "scale_down" => Some(Kind::ScaleDown),
        "reconfigure" => Some(Kind::Reconfigure),
        "answer" => {
            if refusal.status.is_none() {
                complaints.wrong(&word.span(), "`answer` needs `status`, as in `status = 503`");
            }
            let matches = matches.map(Spanned::into_inner);
            refusal.status?.map(|status| Kind::Answer { status, matches })
        }
        "refuse" => {
            if refusal.status.is_none() {
                complaints.wrong(&word.span(), "`refuse` needs `status`, as in `status = 429`");
            }
            refusal.status?.map(|status| Kind::Refuse { status, retry_after: refusal.retry_after })
        }
        name => {
            let disturbance = StreamFault::ALL.into_iter().find(|one| one.name() == name);
            // An ailment without its `by` has been complained of.
            disturbance.map(Kind::Disturb).or_else(|| ServiceFault::named(name, by).map(Kind::Ail))
        }
    }
}

/// What only `trickle` may say; 1 where it has been complained of.
fn bytes(section: &mut Section<'_>, complaints: &mut Diagnostics<'_>) -> Option<Spanned<u32>> {
    let span = section.span_of("bytes")?;
    let number = section.number("bytes", complaints).map_or(1, |number| match *number.get_ref() {
        number @ 1..=BYTES_MAX => u32::try_from(number).unwrap_or(1),
        _ => {
            complaints.wrong(&span, format!("`bytes` must be from 1 to {BYTES_MAX}: a link carries no more at a time"));
            1
        }
    });
    Some(Spanned::new(span, number))
}

/// What only `refuse` and `answer` may say.
struct Refusal {
    /// Where any of it stands.
    span: Option<Range<usize>>,
    /// `Some(None)`: there is one, and it has been complained of.
    status: Option<Option<u16>>,
    retry_after: Option<Duration>,
}

fn refusal(section: &mut Section<'_>, statuses: &[u16], complaints: &mut Diagnostics<'_>) -> Refusal {
    let status = section.take("status");
    let retry_after = section.take("retry_after");
    let span = status.as_ref().or(retry_after.as_ref()).map(Spanned::span);
    let status = status.map(|value| {
        let number = super::section::number(value, "status", complaints)?;
        let known = statuses.iter().copied().find(|known| u64::from(*known) == *number.get_ref());
        if known.is_none() {
            let list: Vec<String> = statuses.iter().map(u16::to_string).collect();
            complaints.wrong(&number.span(), format!("`status` must be one of {}", list.join(", ")));
        }
        known
    });
    let retry_after = retry_after.and_then(|value| {
        let only = [key("retry_after", value)].into_iter().collect();
        Section::new(only, section.span.clone(), "a fault", KEYS).duration("retry_after", complaints)
    });
    Refusal { span, status, retry_after }
}

fn key<'t>(
    name: &'static str,
    value: Spanned<DeValue<'t>>,
) -> (Spanned<std::borrow::Cow<'t, str>>, Spanned<DeValue<'t>>) {
    (Spanned::new(value.span(), name.into()), value)
}

fn targets(
    section: &mut Section<'_>,
    kind: Option<&Kind>,
    valid: &Words,
    complaints: &mut Diagnostics<'_>,
) -> Vec<Spanned<String>> {
    let Some(value) = section.need("target", complaints) else { return Vec::new() };
    let span = value.span();
    let typed = words(value, "target", complaints);
    if typed.is_empty() {
        complaints.wrong(&span, "`target` names nothing");
    }
    let Some(kind) = kind else { return Vec::new() };
    for target in &typed {
        let name = target.get_ref();
        match kind.target_kind() {
            TargetKind::Link | TargetKind::Process if of_origin(name) && takes_origin(kind) => {
                complain_of_origin(target, valid, complaints, kind)
            }
            TargetKind::Link if matches!(kind, Kind::Answer { .. }) && !speaks_http(name) => {
                let says = format!("`answer` speaks HTTP, and not on `{name}`; `list faults` tells what ails servers");
                complaints.wrong(&target.span(), says);
            }
            TargetKind::Link if !valid.links.contains(name) => complain_of_link(target, valid, complaints, kind.name()),
            TargetKind::Process if !valid.processes.contains(name) => {
                let what = format!("process for `{}`", kind.name());
                complaints.unknown(&target.span(), &what, name, valid.processes.iter().map(String::as_str));
            }
            TargetKind::Process if kind.of_manager() && !of_origin(name) && !valid.managed.contains_key(name) => {
                let says =
                    format!("`{name}` is booted by its container engine: `{}` is the service manager's", kind.name());
                complaints.wrong(&target.span(), says);
            }
            TargetKind::Caller => complain_of_caller(target, valid, complaints, kind.name()),
            TargetKind::Service => complain_of_service(target, valid, complaints, kind.name()),
            _ => {}
        }
    }
    typed
}

/// Whether it can strike whoever causes an event: who it is does not matter to the others.
fn takes_origin(kind: &Kind) -> bool {
    !kind.of_manager() || kind == &Kind::LostSignal
}

/// What comes must have been waiting; what goes for good must leave somebody of its role behind.
fn scaling(
    kind: &Kind,
    typed: &[Spanned<String>],
    valid: &Words,
    leaving: &mut BTreeSet<String>,
    complaints: &mut Diagnostics<'_>,
) {
    if let (Kind::Reconfigure, Some(first)) = (kind, typed.first())
        && typed.len() != 2
    {
        let says = "`reconfigure` takes two processes: `target = [\"executor-1\", \"executor-2\"]`, the old one first";
        return complaints.wrong(&first.span(), says);
    }
    let coming = if kind == &Kind::Reconfigure { &typed[typed.len().min(1)..] } else { typed };
    for target in coming.iter().filter(|_| kind.boots()) {
        let name = target.get_ref();
        if let Some((_, false)) = valid.managed.get(name) {
            let says = format!("`{name}` is there from the beginning: say `[service.{name}]`, `first_boot = \"24h\"`");
            complaints.wrong(&target.span(), says);
        }
    }
    let going = if kind == &Kind::Reconfigure { &typed[..typed.len().min(1)] } else { typed };
    for target in going.iter().filter(|_| kind.retires()) {
        leaving.insert(target.get_ref().clone());
        let Some((role, _)) = valid.managed.get(target.get_ref()) else { continue };
        let mut of_role = valid.managed.iter().filter(|(_, (of, _))| of == role);
        if of_role.all(|(process, _)| leaving.contains(process)) {
            let says = format!("no {role} would be left: what goes so does not come back");
            complaints.wrong(&target.span(), says);
        }
    }
}

fn of_origin(target: &str) -> bool {
    target.split("->").next() == Some(ORIGIN)
}

/// Unless some process has such a link, or it is a process that is struck.
fn complain_of_origin(target: &Spanned<String>, valid: &Words, complaints: &mut Diagnostics<'_>, kind: &Kind) {
    let far = target.get_ref().split_once("->").map(|(_, far)| far);
    let says = match (kind.target_kind(), far) {
        (TargetKind::Process, None) => return,
        (TargetKind::Process, Some(_)) => format!("`{}` strikes a process: write `origin`", kind.name()),
        (_, None) => format!("`{}` strikes a link: write `origin->redis`", kind.name()),
        (_, Some(far)) if valid.links.iter().any(|link| link.ends_with(&format!("->{far}"))) => return,
        (_, Some(far)) => format!("no process has a link to `{far}`"),
    };
    complaints.wrong(&target.span(), says);
}

/// Unless it is `SERVICE/NAME`, of a service that there is.
fn complain_of_caller(target: &Spanned<String>, valid: &Words, complaints: &mut Diagnostics<'_>, of: &str) {
    match target.get_ref().split_once('/') {
        Some((service, name)) if valid.services.contains(&service) && !name.is_empty() => {}
        Some((service, name)) if !name.is_empty() => {
            complaints.unknown(&target.span(), &format!("service for `{of}`"), service, valid.services.iter().copied());
        }
        _ => {
            let says = format!("`{of}` strikes a caller of a service: write SERVICE/NAME, as `provider/sk-a`");
            complaints.wrong(&target.span(), says);
        }
    }
}

/// Unless it is a service that there is, and that can fail so.
fn complain_of_service(target: &Spanned<String>, valid: &Words, complaints: &mut Diagnostics<'_>, of: &str) {
    let name = target.get_ref().as_str();
    let able: Vec<&str> = ServiceFault::services(of).filter(|service| valid.services.contains(service)).collect();
    if !able.contains(&name) {
        complaints.unknown(&target.span(), &format!("service for `{of}`"), name, able);
    }
}

fn complain_of_link(target: &Spanned<String>, valid: &Words, complaints: &mut Diagnostics<'_>, of: &str) {
    let name = target.get_ref();
    // A user's link cannot be judged where the users could not be read.
    let of_user = name.split_once("->").is_some_and(|(_, to)| valid.processes.iter().any(|process| process == to));
    if of_user && valid.sessions.is_none() {
        return;
    }
    let what = match name.contains("->") {
        true => format!("link for `{of}`"),
        false => format!("link for `{of}` (a link is written `executor-1->redis` or `ann->gateway-1`)"),
    };
    complaints.unknown(&target.span(), &what, name, valid.links.iter().map(String::as_str));
}

fn trigger(section: &mut Section<'_>, valid: &Words, complaints: &mut Diagnostics<'_>) -> Option<Trigger> {
    let on = section.take("on");
    let at = section.take("at");
    match (at, on) {
        (Some(at), Some(on)) => {
            let later = if on.span().start > at.span().start { on.span() } else { at.span() };
            complaints.wrong(&later, "a fault begins `at` a time or `on` an event, not both");
            None
        }
        (None, None) => {
            complaints.wrong(&section.span, "a fault needs `at = \"12s\"` or `on = { event = \"…\" }`");
            None
        }
        (Some(at), None) => {
            let mut alone = Section::new([key("at", at)].into_iter().collect(), section.span.clone(), "a fault", KEYS);
            alone.duration("at", complaints).map(Trigger::At)
        }
        (None, Some(on)) => on_what(on, valid, complaints),
    }
}

fn on_what(value: Spanned<DeValue<'_>>, valid: &Words, complaints: &mut Diagnostics<'_>) -> Option<Trigger> {
    let mut section = Section::of(value, "`on`", ON_KEYS, complaints)?;
    let link = section.text("link", complaints);
    let matches = section.text("matches", complaints);
    let Some(link) = link else {
        if let Some(matches) = matches {
            complaints.wrong(&matches.span(), "`matches` needs `link` beside it");
        }
        return cue(section, valid, complaints).map(Trigger::On);
    };
    let span = section.span.clone();
    for key in ["event", "session"] {
        if let Some(odd) = section.take(key) {
            complaints.wrong(
                &odd.span(),
                format!("`on` waits for a request on a `link` or for an event: `{key}` cannot stand beside `link`"),
            );
        }
    }
    if !valid.links.contains(link.get_ref()) {
        complain_of_link(&link, valid, complaints, "on");
    }
    if matches.is_none() {
        complaints.wrong(&span, "`on` with `link` needs `matches`, the bytes to wait for in a request");
    }
    let (nth, after) = nth_and_after(&mut section, complaints);
    section.end(complaints);
    Some(Trigger::OnRequest { link: link.into_inner(), matches: matches?.into_inner(), nth, after })
}

fn cue(mut section: Section<'_>, valid: &Words, complaints: &mut Diagnostics<'_>) -> Option<EventMatch> {
    let event = section.need("event", complaints).and_then(|value| super::section::text(value, "event", complaints));
    let session = section.text("session", complaints);
    let (nth, after) = nth_and_after(&mut section, complaints);
    section.end(complaints);
    if let (Some(session), Some(sessions)) = (&session, &valid.sessions)
        && !sessions.contains(session.get_ref())
    {
        complaints.unknown(&session.span(), "session", session.get_ref(), sessions.iter().map(String::as_str));
    }
    let event = event?;
    let name = event.get_ref();
    if !valid.events.contains(&name.as_str()) {
        complaints.unknown(&event.span(), "event", name, valid.events.iter().copied());
    } else if let (Some(session), true) = (&session, WorldEvent::NAMES.contains(&name.as_str())) {
        complaints.wrong(&session.span(), format!("`{name}` is an event of the world and belongs to no session"));
    }
    Some(EventMatch { event: event.into_inner(), session: session.map(Spanned::into_inner), nth, after })
}

fn nth_and_after(section: &mut Section<'_>, complaints: &mut Diagnostics<'_>) -> (u32, Duration) {
    let nth = section.number("nth", complaints).map_or(1, |nth| match u32::try_from(*nth.get_ref()) {
        Ok(number @ 1..) => number,
        _ => {
            complaints.wrong(&nth.span(), "`nth` counts from 1");
            1
        }
    });
    (nth, section.duration("after", complaints).unwrap_or_default())
}

fn length(
    section: &mut Section<'_>,
    kind: Option<&Kind>,
    valid: &Words,
    complaints: &mut Diagnostics<'_>,
) -> Option<Lifetime> {
    let lasts = section.take("lasts");
    let until = section.take("until");
    let kind = kind?;
    if let Some(odd) = lasts.as_ref().or(until.as_ref())
        && kind.instant()
    {
        complaints.wrong(&odd.span(), format!("`{}` is an instant: it has no `lasts` and no `until`", kind.name()));
        return None;
    }
    match (lasts, until) {
        (Some(lasts), Some(until)) => {
            let later = if until.span().start > lasts.span().start { until.span() } else { lasts.span() };
            complaints.wrong(&later, "a fault `lasts` for a time or ends `until` an event, not both");
            None
        }
        (Some(lasts), None) => {
            let mut alone =
                Section::new([key("lasts", lasts)].into_iter().collect(), section.span.clone(), "a fault", KEYS);
            alone.duration("lasts", complaints).map(Lifetime::Lasts)
        }
        (None, Some(until)) => until_what(until, valid, complaints),
        (None, None) => {
            let usual = usual(kind);
            if usual.is_none() {
                let says = format!(
                    "`{}` needs `lasts = \"30s\"`, `until = {{ event = \"…\" }}` or `until = \"heal\"`",
                    kind.name()
                );
                complaints.wrong(&section.span, says);
            }
            usual
        }
    }
}

fn until_what(value: Spanned<DeValue<'_>>, valid: &Words, complaints: &mut Diagnostics<'_>) -> Option<Lifetime> {
    match value.get_ref() {
        DeValue::String(word) if word == "heal" => Some(Lifetime::UntilHeal),
        DeValue::Table(_) => {
            let section = Section::of(value, "`until`", CUE_KEYS, complaints)?;
            cue(section, valid, complaints).map(Lifetime::Until)
        }
        other => {
            let says = format!("`until` must be `{{ event = \"…\" }}` or \"heal\", not {}", described(other));
            complaints.wrong(&value.span(), says);
            None
        }
    }
}

/// The length of a fault that says none; `None` if it must say one. `close` without one closes what is open, once;
/// `reply_lost`, `cut` and `answer` without one wait for the next answer; what is half open expires.
pub(super) fn usual(kind: &Kind) -> Option<Lifetime> {
    match kind {
        Kind::Wedge | Kind::ConnectionRefused | Kind::Delay { .. } | Kind::Trickle { .. } => Some(Lifetime::UntilHeal),
        Kind::Refuse { .. } | Kind::Disturb(_) => Some(Lifetime::UntilHeal),
        Kind::Close | Kind::ReplyLost { .. } | Kind::Cut { .. } | Kind::Answer { .. } => Some(Lifetime::Instant),
        Kind::HalfOpen => Some(Lifetime::Lasts(HALF_OPEN)),
        Kind::Sigterm | Kind::Sigkill | Kind::HostLoss | Kind::Panic => Some(Lifetime::Instant),
        Kind::RollingRestart | Kind::LostSignal => Some(Lifetime::Instant),
        Kind::ScaleUp | Kind::ScaleDown | Kind::Reconfigure => Some(Lifetime::Instant),
        Kind::Ail(ailment) if ailment.instant() => Some(Lifetime::Instant),
        Kind::Ail(_) | Kind::Pause => None,
    }
}
