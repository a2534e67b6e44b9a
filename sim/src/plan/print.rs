//! Prints a plan in the format that is read: `parse(print(plan)) == plan`.

use serde::Serialize;

use super::{Cast, EventMatch, Fault, Lifetime, Plan, Scope, Trigger, Value, Workload};
use crate::plan::duration;

/// The text of `plan`.
///
/// # Panics
/// If the product's workload cannot be written as TOML.
pub fn print<W: Workload>(plan: &Plan<W>) -> String {
    let mut text = format!("about = {}\n", quoted(&plan.about));
    for (key, words) in [("arms", &plan.arms), ("must_reach", &plan.must_reach)] {
        if !words.is_empty() {
            text.push_str(&format!("{key} = {}\n", list(words)));
        }
    }
    let users = users(&plan.users);
    // A workload that is one value, not tables, must stand above the first table.
    let above = users.starts_with("users = ");
    if above {
        text.push_str(&users);
    }
    if !plan.topology.is_empty() {
        text.push_str("\n[topology]\n");
        for (role, count) in &plan.topology {
            text.push_str(&format!("{} = {count}\n", key(role)));
        }
    }
    for (scope, settings) in &plan.config {
        text.push_str(&format!("\n[config.{}]\n", key(scope)));
        for (name, value) in settings {
            text.push_str(&format!("{} = {}\n", key(name), quoted(value)));
        }
    }
    for (scope, manager) in &plan.service {
        text.push_str(&format!("\n[service.{}]\n", key(scope)));
        text.extend(manager.said().map(|(name, value)| format!("{name} = {}\n", time(value))));
    }
    if !above && !users.is_empty() {
        text.push('\n');
        text.push_str(&users);
    }
    for one in &plan.faults {
        text.push_str(&fault(one));
    }
    if plan.expect.verdict != "passed" || plan.expect.invariant.is_some() {
        text.push_str(&format!("\n[expect]\nverdict = {}\n", quoted(&plan.expect.verdict)));
        if let Some(invariant) = &plan.expect.invariant {
            text.push_str(&format!("invariant = {}\n", quoted(invariant)));
        }
    }
    if let Some(repro) = &plan.repro {
        text.push_str(&format!("\n[repro]\nseed = {}\n", repro.seed));
        for (key, value) in [("commit", &repro.commit), ("toolchain", &repro.toolchain), ("lock", &repro.lock)]
            .into_iter()
            .filter(|(_, value)| !value.is_empty())
        {
            text.push_str(&format!("{key} = {}\n", quoted(value)));
        }
    }
    text
}

/// One fault in one line, for reports: `wedge executor-1->redis, on turn_started of ann/1, for 30s`.
pub fn told(fault: &Fault) -> String {
    let kind = told_part(&fault.part, fault.kind.told());
    let begins = match &fault.trigger {
        Trigger::At(at) => format!("at {}", duration::print(*at)),
        Trigger::On(event_match) => format!("on {}", told_cue(event_match)),
        Trigger::OnRequest { link, matches, nth, .. } => format!("on request {nth} with `{matches}` on {link}"),
    };
    let ends = match &fault.length {
        Lifetime::Instant => String::new(),
        Lifetime::Lasts(lasts) => format!(", for {}", duration::print(*lasts)),
        Lifetime::Until(event_match) => format!(", until {}", told_cue(event_match)),
        Lifetime::UntilHeal => ", until everything heals".to_owned(),
    };
    let again = fault.every.map(|every| format!(", again after {}", duration::print(every))).unwrap_or_default();
    format!(
        "{kind} {}, {begins}{ends}{again}",
        fault.targets.join(match fault.kind.cast {
            Cast::InTurn => ", then ",
            Cast::Replaces => " makes way for ",
            _ => " and ",
        })
    )
}

fn told_part(part: &Scope, mut kind: String) -> String {
    kind.extend(part.direction.map(|direction| format!(" {}", direction.name())));
    kind.extend(part.only.as_ref().map(|only| format!(" from `{only}` on,")));
    kind
}

/// An event that is waited for, in a line about it: `claimed no. 2 of ann/1`.
pub fn told_cue(event_match: &EventMatch) -> String {
    let mut text = event_match.event.clone();
    if event_match.nth != 1 {
        text = format!("{text} no. {}", event_match.nth);
    }
    if let Some(session) = &event_match.session {
        text = format!("{text} of {session}");
    }
    if !event_match.after.is_zero() {
        text = format!("{text} and {} more", duration::print(event_match.after));
    }
    text
}

fn fault(fault: &Fault) -> String {
    let target = match fault.targets.as_slice() {
        [one] => quoted(one),
        several => list(several),
    };
    let mut text = format!("\n[[faults]]\nkind = {}\ntarget = {target}\n", quoted(fault.kind.word()));
    for (arg, given) in fault.kind.args() {
        text.push_str(&format!("{} = {}\n", arg.name, value(given)));
    }
    text.extend(fault.part.direction.map(|direction| format!("direction = {}\n", quoted(direction.name()))));
    text.extend(fault.part.only.as_ref().map(|only| format!("only = {}\n", quoted(only))));
    match &fault.trigger {
        Trigger::At(at) => text.push_str(&format!("at = {}\n", time(*at))),
        Trigger::On(waited) => text.push_str(&format!("on = {}\n", event_match(waited))),
        Trigger::OnRequest { link, matches, nth, after } => {
            let what = format!("link = {}, matches = {}", quoted(link), quoted(matches));
            text.push_str(&format!("on = {{ {what}{} }}\n", nth_and_after(*nth, *after)));
        }
    }
    if fault.kind.course.usual().as_ref() != Some(&fault.length) {
        match &fault.length {
            // An instant that this kind has not by itself is a length of nothing.
            Lifetime::Instant => text.push_str("lasts = \"0s\"\n"),
            Lifetime::Lasts(lasts) => text.push_str(&format!("lasts = {}\n", time(*lasts))),
            Lifetime::Until(waited) => text.push_str(&format!("until = {}\n", event_match(waited))),
            Lifetime::UntilHeal => text.push_str("until = \"heal\"\n"),
        }
    }
    text.extend(fault.every.map(|every| format!("every = {}\n", time(every))));
    text
}

fn event_match(event_match: &EventMatch) -> String {
    let session =
        event_match.session.as_ref().map(|session| format!(", session = {}", quoted(session))).unwrap_or_default();
    format!(
        "{{ event = {}{session}{} }}",
        quoted(&event_match.event),
        nth_and_after(event_match.nth, event_match.after)
    )
}

fn nth_and_after(nth: u32, after: std::time::Duration) -> String {
    let mut text = String::new();
    if nth != 1 {
        text.push_str(&format!(", nth = {nth}"));
    }
    if !after.is_zero() {
        text.push_str(&format!(", after = {}", time(after)));
    }
    text
}

fn users<W: Workload>(users: &W) -> String {
    #[derive(Serialize)]
    struct Part<'w, W> {
        users: &'w W,
    }
    if *users == W::default() {
        return String::new();
    }
    toml::to_string(&Part { users }).unwrap_or_else(|error| panic!("the workload cannot be written as TOML: {error}"))
}

fn value(value: &Value) -> String {
    match value {
        Value::Time(duration) => time(*duration),
        Value::Count(count) => count.to_string(),
        Value::Text(text) => quoted(text),
    }
}

fn time(duration: std::time::Duration) -> String {
    quoted(&duration::print(duration))
}

fn list(words: &[String]) -> String {
    format!("[{}]", words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(", "))
}

/// `text` as TOML writes it.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// `name` as a key: bare where TOML allows it.
fn key(name: &str) -> String {
    let bare = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    if bare { name.to_owned() } else { quoted(name) }
}
