//! Reads the faults of a plan: what, where, when, until when. Each must be possible in the plan's own topology and with
//! its own users.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use toml::Spanned;
use toml::de::DeValue;

use super::scope::{every, judge, listed, part};
use super::section::{Diagnostics, Section, described, number, text, time, words};
use super::{
    Arg, Cast, EventMatch, Fault, FaultRow, Kind, Lifetime, ORIGIN, Takes, TargetKind, Trigger, Value, Vocabulary,
};

/// What a fault of this plan may name.
pub(super) struct Words<'v> {
    pub(super) vocabulary: &'v Vocabulary,
    pub(super) processes: Vec<String>,
    /// The processes that the service manager boots: their role, and whether they wait for their first boot.
    pub(super) managed: BTreeMap<String, (&'static str, bool)>,
    pub(super) links: Vec<String>,
    /// `None` where the users could not be read.
    pub(super) sessions: Option<Vec<String>>,
}

/// The keys of every fault; each argument of a kind is one more.
const KEYS: &[&str] = &["kind", "target", "at", "on", "lasts", "until", "every", "only", "direction"];
const CUE_KEYS: &[&str] = &["event", "session", "nth", "after"];
const ON_KEYS: &[&str] = &["event", "session", "link", "matches", "nth", "after"];

/// Reads `[[faults]]`.
pub(super) fn faults(value: Spanned<DeValue<'_>>, valid: &Words<'_>, complaints: &mut Diagnostics<'_>) -> Vec<Fault> {
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
    valid: &Words<'_>,
    leaving: &mut BTreeSet<String>,
    complaints: &mut Diagnostics<'_>,
) -> Option<Fault> {
    let keys: Vec<&str> = KEYS.iter().copied().chain(args(valid.vocabulary)).collect();
    let mut section = Section::of(value, "a fault", &keys, complaints)?;
    let kind = kind(&mut section, valid.vocabulary, complaints);
    let row = kind.as_ref().map(Kind::row);
    let typed = targets(&mut section, row, valid, complaints);
    if let Some(row) = row {
        scaling(row, &typed, valid, leaving, complaints);
    }
    let trigger = trigger(&mut section, valid, complaints);
    let origin = typed.iter().find(|target| of_origin(target.get_ref()));
    if let (Some(origin), Some(trigger)) = (origin, &trigger)
        && !matches!(trigger, Trigger::On(_))
    {
        let says = "`origin` is the process that caused an event: it needs `on = { event = \"…\" }`";
        complaints.wrong(&origin.span(), says);
    }
    let targets = typed.into_iter().map(Spanned::into_inner).collect();
    let length = length(&mut section, row, valid, complaints);
    let part = part(&mut section, row, valid.vocabulary, complaints);
    let every = every(&mut section, length.as_ref(), complaints);
    if let (Some(row), Some(length)) = (row, &length) {
        judge(&part, row, length, &section, complaints);
    }
    section.end(complaints);
    Some(Fault { kind: kind?, targets, trigger: trigger?, length: length?, part, every })
}

fn kind(section: &mut Section<'_>, valid: &Vocabulary, complaints: &mut Diagnostics<'_>) -> Option<Kind> {
    let word = section.need("kind", complaints).and_then(|value| text(value, "kind", complaints));
    let row = word.as_ref().and_then(|word| {
        let row = valid.kind(word.get_ref());
        if row.is_none() {
            let words = valid.kinds().into_iter().map(FaultRow::word);
            complaints.unknown(&word.span(), "kind of fault", word.get_ref(), words);
        }
        row
    });
    let mut kind = row.map(Kind::of);
    for name in args(valid) {
        let Some(value) = section.take(name) else { continue };
        let Some(row) = row else { continue };
        let Some(arg) = row.arg(name) else {
            let elsewhere = if ON_KEYS.contains(&name) { " or into `on`" } else { "" };
            let takers = listed(valid, |row| row.arg(name).is_some());
            complaints
                .wrong(&value.span(), format!("`{name}` belongs to {takers}{elsewhere}, not to `{}`", row.word()));
            continue;
        };
        // What cannot be read has been complained of.
        let value = argument(arg, value, complaints).unwrap_or(Value::Count(1));
        kind = kind.map(|kind| kind.with(name, value));
    }
    let kind = kind?;
    for arg in kind.row().args {
        if let (Some(example), None, Some(word)) = (arg.required, kind.arg(arg.name), &word) {
            complaints.wrong(&word.span(), format!("`{}` needs `{}`, as in `{example}`", kind.word(), arg.name));
        }
    }
    Some(kind)
}

/// The name of each argument that any kind of fault takes.
fn args(valid: &Vocabulary) -> Vec<&'static str> {
    let names: BTreeSet<&str> = valid.kinds().into_iter().flat_map(|row| row.args).map(|arg| arg.name).collect();
    names.into_iter().collect()
}

fn argument(arg: &Arg, value: Spanned<DeValue<'_>>, complaints: &mut Diagnostics<'_>) -> Option<Value> {
    let (name, span) = (arg.name, value.span());
    match &arg.takes {
        Takes::Time => time(value, name, complaints).map(Value::Time),
        Takes::TimeUpTo(max, says) => {
            let time = time(value, name, complaints)?;
            if time > *max {
                complaints.wrong(&span, *says);
            }
            Some(Value::Time(time))
        }
        Takes::Count(max, because) => {
            let count = *number(value, name, complaints)?.get_ref();
            if !(1..=*max).contains(&count) {
                complaints.wrong(&span, format!("`{name}` must be from 1 to {max}: {because}"));
            }
            Some(Value::Count(count))
        }
        Takes::OneOf(known) => {
            let count = *number(value, name, complaints)?.get_ref();
            if !known.iter().any(|known| u64::from(*known) == count) {
                let list: Vec<String> = known.iter().map(u16::to_string).collect();
                complaints.wrong(&span, format!("`{name}` must be one of {}", list.join(", ")));
            }
            Some(Value::Count(count))
        }
        Takes::OneOfWords(known) => {
            let word = text(value, name, complaints)?.into_inner();
            if !known.contains(&word.as_str()) {
                complaints.wrong(&span, format!("`{name}` must be one of {}", known.join(", ")));
            }
            Some(Value::Text(word))
        }
        Takes::Text => Some(Value::Text(text(value, name, complaints)?.into_inner())),
    }
}

fn targets(
    section: &mut Section<'_>,
    kind: Option<&FaultRow>,
    valid: &Words<'_>,
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
        match kind.target {
            TargetKind::Caller => complain_of_caller(target, valid, complaints, kind),
            TargetKind::Service => complain_of_service(target, valid, complaints, kind),
            _ if of_origin(name) && takes_origin(kind) => complain_of_origin(target, valid, complaints, kind),
            TargetKind::HttpLink if !valid.vocabulary.speaks_http(name) => {
                let of = kind.word();
                let says = format!("`{of}` speaks HTTP, and not on `{name}`; `list faults` tells what ails servers");
                complaints.wrong(&target.span(), says);
            }
            TargetKind::Link | TargetKind::HttpLink if !valid.links.contains(name) => {
                complain_of_link(target, valid, complaints, kind.word());
            }
            TargetKind::Process | TargetKind::ManagedProcess if !valid.processes.contains(name) => {
                let what = format!("process for `{}`", kind.word());
                complaints.unknown(&target.span(), &what, name, valid.processes.iter().map(String::as_str));
            }
            TargetKind::ManagedProcess if !valid.managed.contains_key(name) => {
                let says =
                    format!("`{name}` is booted by its container engine: `{}` is the service manager's", kind.word());
                complaints.wrong(&target.span(), says);
            }
            _ => {}
        }
    }
    typed
}

/// Whether it can strike the process that causes an event; no other fault asks which that is.
fn takes_origin(kind: &FaultRow) -> bool {
    kind.cast == Cast::Each
}

/// What comes must have been waiting; what goes for good must leave somebody of its role behind.
fn scaling(
    kind: &FaultRow,
    typed: &[Spanned<String>],
    valid: &Words<'_>,
    leaving: &mut BTreeSet<String>,
    complaints: &mut Diagnostics<'_>,
) {
    let replaces = kind.cast == Cast::Replaces;
    if let (true, Some(first)) = (replaces && typed.len() != 2, typed.first()) {
        let says = format!(
            "`{}` takes two processes: `target = [\"executor-1\", \"executor-2\"]`, the old one first",
            kind.word()
        );
        return complaints.wrong(&first.span(), says);
    }
    let coming = if replaces { &typed[typed.len().min(1)..] } else { typed };
    for target in coming.iter().filter(|_| kind.boots()) {
        let name = target.get_ref();
        if let Some((_, false)) = valid.managed.get(name) {
            let says = format!("`{name}` is there from the beginning: say `[service.{name}]`, `first_boot = \"24h\"`");
            complaints.wrong(&target.span(), says);
        }
    }
    let going = if replaces { &typed[..typed.len().min(1)] } else { typed };
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
fn complain_of_origin(target: &Spanned<String>, valid: &Words<'_>, complaints: &mut Diagnostics<'_>, kind: &FaultRow) {
    let far = target.get_ref().split_once("->").map(|(_, far)| far);
    let says = match (kind.on_process(), far) {
        (true, None) => return,
        (true, Some(_)) => format!("`{}` strikes a process: write `origin`", kind.word()),
        (_, None) => format!("`{}` strikes a link: write `origin->redis`", kind.word()),
        (_, Some(far)) if valid.links.iter().any(|link| link.ends_with(&format!("->{far}"))) => return,
        (_, Some(far)) => format!("no process has a link to `{far}`"),
    };
    complaints.wrong(&target.span(), says);
}

/// Unless it is `SERVICE/NAME`, of a service that there is and that does so to its callers.
fn complain_of_caller(target: &Spanned<String>, valid: &Words<'_>, complaints: &mut Diagnostics<'_>, of: &FaultRow) {
    let able = able(valid, of);
    let word = of.word();
    match target.get_ref().split_once('/') {
        Some((service, name)) if able.contains(&service) && !name.is_empty() => {}
        Some((service, name)) if valid.vocabulary.reached().contains(&service) && !name.is_empty() => {
            let able: Vec<String> = able.iter().map(|service| format!("`{service}/{name}`")).collect();
            let who = if able.is_empty() { "no service here does".to_owned() } else { able.join(" or ") };
            complaints.wrong(&target.span(), format!("`{service}` does not do `{word}` to its callers: {who}"));
        }
        Some((service, name)) if !name.is_empty() => {
            complaints.unknown(&target.span(), &format!("service for `{word}`"), service, able);
        }
        _ => {
            let says = format!("`{word}` strikes a caller of a service: write SERVICE/NAME, as `provider/sk-a`");
            complaints.wrong(&target.span(), says);
        }
    }
}

/// Unless it is a service that there is, and that can fail so.
fn complain_of_service(target: &Spanned<String>, valid: &Words<'_>, complaints: &mut Diagnostics<'_>, of: &FaultRow) {
    let name = target.get_ref().as_str();
    let able = able(valid, of);
    if !able.contains(&name) {
        complaints.unknown(&target.span(), &format!("service for `{}`", of.word()), name, able);
    }
}

/// The services of this product that have a kind of fault.
fn able(valid: &Words<'_>, row: &FaultRow) -> Vec<&'static str> {
    let reached = valid.vocabulary.reached();
    valid.vocabulary.having(row).into_iter().filter(|service| reached.contains(service)).collect()
}

fn complain_of_link(target: &Spanned<String>, valid: &Words<'_>, complaints: &mut Diagnostics<'_>, of: &str) {
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

fn trigger(section: &mut Section<'_>, valid: &Words<'_>, complaints: &mut Diagnostics<'_>) -> Option<Trigger> {
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
        (Some(at), None) => time(at, "at", complaints).map(Trigger::At),
        (None, Some(on)) => on_what(on, valid, complaints),
    }
}

fn on_what(value: Spanned<DeValue<'_>>, valid: &Words<'_>, complaints: &mut Diagnostics<'_>) -> Option<Trigger> {
    let mut section = Section::of(value, "`on`", ON_KEYS, complaints)?;
    let link = section.text("link", complaints);
    let matches = section.text("matches", complaints);
    let Some(link) = link else {
        if let Some(matches) = matches {
            complaints.wrong(&matches.span(), "`matches` needs `link` beside it");
        }
        return event_match(section, valid, complaints).map(Trigger::On);
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

fn event_match(mut section: Section<'_>, valid: &Words<'_>, complaints: &mut Diagnostics<'_>) -> Option<EventMatch> {
    let event = section.need("event", complaints).and_then(|value| text(value, "event", complaints));
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
    if !valid.vocabulary.events.contains(&name.as_str()) {
        complaints.unknown(&event.span(), "event", name, valid.vocabulary.events.iter().copied());
    } else if let (Some(session), true) = (&session, valid.vocabulary.world_events.contains(&name.as_str())) {
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
    kind: Option<&FaultRow>,
    valid: &Words<'_>,
    complaints: &mut Diagnostics<'_>,
) -> Option<Lifetime> {
    let lasts = section.take("lasts");
    let until = section.take("until");
    let kind = kind?;
    if let Some(odd) = lasts.as_ref().or(until.as_ref())
        && kind.instant()
    {
        complaints.wrong(&odd.span(), format!("`{}` is an instant: it has no `lasts` and no `until`", kind.word()));
        return None;
    }
    match (lasts, until) {
        (Some(lasts), Some(until)) => {
            let later = if until.span().start > lasts.span().start { until.span() } else { lasts.span() };
            complaints.wrong(&later, "a fault `lasts` for a time or ends `until` an event, not both");
            None
        }
        (Some(lasts), None) => time(lasts, "lasts", complaints).map(Lifetime::Lasts),
        (None, Some(until)) => until_what(until, valid, complaints),
        (None, None) => {
            let usual = kind.course.usual();
            if usual.is_none() {
                let says = format!(
                    "`{}` needs `lasts = \"30s\"`, `until = {{ event = \"…\" }}` or `until = \"heal\"`",
                    kind.word()
                );
                complaints.wrong(&section.span, says);
            }
            usual
        }
    }
}

fn until_what(value: Spanned<DeValue<'_>>, valid: &Words<'_>, complaints: &mut Diagnostics<'_>) -> Option<Lifetime> {
    match value.get_ref() {
        DeValue::String(word) if word == "heal" => Some(Lifetime::UntilHeal),
        DeValue::Table(_) => {
            let section = Section::of(value, "`until`", CUE_KEYS, complaints)?;
            event_match(section, valid, complaints).map(Lifetime::Until)
        }
        other => {
            let says = format!("`until` must be `{{ event = \"…\" }}` or \"heal\", not {}", described(other));
            complaints.wrong(&value.span(), says);
            None
        }
    }
}
