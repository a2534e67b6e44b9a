//! Reads the faults of a plan: what, where, when, until when. Each must be possible in the plan's own topology and with
//! its own users.

use std::time::Duration;

use toml::Spanned;
use toml::de::DeValue;

use super::section::{Complaints, Section, described, words};
use super::{Cue, Fault, Kind, Length, Trigger};
use crate::event::Happening;

/// What a fault of this plan may name.
pub(super) struct Words {
    pub(super) processes: Vec<String>,
    pub(super) links: Vec<String>,
    pub(super) events: Vec<&'static str>,
    /// `None` where the users could not be read.
    pub(super) sessions: Option<Vec<String>>,
}

const KEYS: &[&str] = &["kind", "target", "at", "on", "lasts", "until", "by", "matches"];
const CUE_KEYS: &[&str] = &["event", "session", "nth", "after"];
const ON_KEYS: &[&str] = &["event", "session", "link", "matches", "nth", "after"];

/// Reads `[[faults]]`.
pub(super) fn faults(value: Spanned<DeValue<'_>>, valid: &Words, complaints: &mut Complaints<'_>) -> Vec<Fault> {
    let span = value.span();
    let DeValue::Array(array) = value.into_inner() else {
        complaints.wrong(&span, "`faults` must be a list: write `[[faults]]` above each");
        return Vec::new();
    };
    array.into_iter().filter_map(|value| fault(value, valid, complaints)).collect()
}

fn fault(value: Spanned<DeValue<'_>>, valid: &Words, complaints: &mut Complaints<'_>) -> Option<Fault> {
    let mut section = Section::of(value, "a fault", KEYS, complaints)?;
    let kind = kind(&mut section, complaints);
    let targets = targets(&mut section, kind.as_ref(), valid, complaints);
    let trigger = trigger(&mut section, valid, complaints);
    let length = length(&mut section, kind.as_ref(), valid, complaints);
    section.end(complaints);
    Some(Fault { kind: kind?, targets, trigger: trigger?, length: length? })
}

fn kind(section: &mut Section<'_>, complaints: &mut Complaints<'_>) -> Option<Kind> {
    let word = section.need("kind", complaints).and_then(|value| super::section::text(value, "kind", complaints));
    let by_span = section.take("by");
    let by = by_span.clone().and_then(|value| {
        let mut alone = Section::new([key("by", value)].into_iter().collect(), section.span.clone(), "a fault", KEYS);
        alone.duration("by", complaints)
    });
    let matches = section.text("matches", complaints);
    let word = word?;
    let name = word.get_ref().as_str();
    if !Kind::NAMES.contains(&name) {
        complaints.unknown(&word.span(), "kind of fault", name, Kind::NAMES.iter().copied());
        return None;
    }
    if let (Some(by), true) = (&by_span, name != "delay") {
        complaints.wrong(&by.span(), format!("`by` belongs to `delay`, not to `{name}`"));
    }
    if let (Some(matches), true) = (&matches, name != "reply_lost") {
        complaints.wrong(&matches.span(), format!("`matches` belongs to `reply_lost` or into `on`, not to `{name}`"));
    }
    match name {
        "wedge" => Some(Kind::Wedge),
        "close" => Some(Kind::Close),
        "reply_lost" => Some(Kind::ReplyLost { matches: matches.map(Spanned::into_inner) }),
        "delay" => {
            if by_span.is_none() {
                complaints.wrong(&word.span(), "`delay` needs `by`, as in `by = \"200ms\"`");
            }
            by.map(|by| Kind::Delay { by })
        }
        "sigterm" => Some(Kind::Sigterm),
        "sigkill" => Some(Kind::Sigkill),
        _ => unreachable!("{name} is among Kind::NAMES"),
    }
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
    complaints: &mut Complaints<'_>,
) -> Vec<String> {
    let Some(value) = section.need("target", complaints) else { return Vec::new() };
    let span = value.span();
    let typed = words(value, "target", complaints);
    if typed.is_empty() {
        complaints.wrong(&span, "`target` names nothing");
    }
    let Some(kind) = kind else { return Vec::new() };
    for target in &typed {
        let name = target.get_ref();
        if kind.on_link() {
            if !valid.links.contains(name) {
                complain_of_link(target, valid, complaints, kind.name());
            }
        } else if !valid.processes.contains(name) {
            let what = format!("process for `{}`", kind.name());
            complaints.unknown(&target.span(), &what, name, valid.processes.iter().map(String::as_str));
        }
    }
    typed.into_iter().map(Spanned::into_inner).collect()
}

fn complain_of_link(target: &Spanned<String>, valid: &Words, complaints: &mut Complaints<'_>, of: &str) {
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

fn trigger(section: &mut Section<'_>, valid: &Words, complaints: &mut Complaints<'_>) -> Option<Trigger> {
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

fn on_what(value: Spanned<DeValue<'_>>, valid: &Words, complaints: &mut Complaints<'_>) -> Option<Trigger> {
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

fn cue(mut section: Section<'_>, valid: &Words, complaints: &mut Complaints<'_>) -> Option<Cue> {
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
    } else if let (Some(session), true) = (&session, Happening::NAMES.contains(&name.as_str())) {
        complaints.wrong(&session.span(), format!("`{name}` is an event of the world and belongs to no session"));
    }
    Some(Cue { event: event.into_inner(), session: session.map(Spanned::into_inner), nth, after })
}

fn nth_and_after(section: &mut Section<'_>, complaints: &mut Complaints<'_>) -> (u32, Duration) {
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
    complaints: &mut Complaints<'_>,
) -> Option<Length> {
    let lasts = section.take("lasts");
    let until = section.take("until");
    let kind = kind?;
    if let Some(odd) = lasts.as_ref().or(until.as_ref())
        && instant(kind)
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
            alone.duration("lasts", complaints).map(Length::Lasts)
        }
        (None, Some(until)) => until_what(until, valid, complaints),
        (None, None) => Some(usual(kind)),
    }
}

fn until_what(value: Spanned<DeValue<'_>>, valid: &Words, complaints: &mut Complaints<'_>) -> Option<Length> {
    match value.get_ref() {
        DeValue::String(word) if word == "heal" => Some(Length::UntilHeal),
        DeValue::Table(_) => {
            let section = Section::of(value, "`until`", CUE_KEYS, complaints)?;
            cue(section, valid, complaints).map(Length::Until)
        }
        other => {
            let says = format!("`until` must be `{{ event = \"…\" }}` or \"heal\", not {}", described(other));
            complaints.wrong(&value.span(), says);
            None
        }
    }
}

/// Whether faults of this kind can have no length.
fn instant(kind: &Kind) -> bool {
    !kind.on_link()
}

/// The length of a fault that says none. `close` without one closes what is open, once; `reply_lost` without one waits
/// for the next request.
pub(super) fn usual(kind: &Kind) -> Length {
    match kind {
        Kind::Wedge | Kind::Delay { .. } => Length::UntilHeal,
        Kind::Close | Kind::ReplyLost { .. } | Kind::Sigterm | Kind::Sigkill => Length::Instant,
    }
}
