//! What a command line asks to be struck, and when; what is not there is answered with what is.

use crate::cli::Usage;
use crate::plan::{self, EventMatch, Plan, Role, Vocabulary, Workload, told_cue};
use crate::trace::anchor::Anchor;

/// The processes that are to be struck.
pub(super) fn struck<W>(
    asked: Option<&str>,
    valid: &Vocabulary,
    story: &Plan<W>,
    name: &str,
) -> Result<Vec<String>, String> {
    let there = |role: &Role| {
        let processes = role.processes(story.topology.get(role.name).copied().unwrap_or(role.count));
        processes.into_iter().map(|(_, process)| process).collect::<Vec<_>>()
    };
    let of_roles = |wanted: &dyn Fn(&Role) -> bool| -> Vec<String> {
        valid.roles.iter().filter(|role| wanted(role)).flat_map(there).collect()
    };
    let all = of_roles(&|_| true);
    let found = match asked {
        None => {
            let inner = of_roles(&|role| role.contained.is_none() && role.port.is_none());
            if inner.is_empty() { of_roles(&|role| role.contained.is_none()) } else { inner }
        }
        Some(asked) if all.iter().any(|process| process == asked) => vec![asked.to_owned()],
        Some(asked) => of_roles(&|role| role.name == asked),
    };
    if !found.is_empty() {
        return Ok(found);
    }
    let asked = asked.unwrap_or("process");
    let roles = valid.roles.iter().filter(|role| !there(role).is_empty()).map(|role| role.name);
    let names: Vec<&str> = roles.chain(all.iter().map(String::as_str)).collect();
    let nearest = plan::nearest(asked, names.iter().copied()).map(|name| format!("; did you mean `{name}`?"));
    let list = names.join(", ");
    Err(format!("{name} has no `{asked}` to strike{}\n  `--target` takes one of {list}", nearest.unwrap_or_default()))
}

/// Whether a window may name this event.
pub(super) fn known<W: Workload>(
    event: &EventMatch,
    valid: &Vocabulary,
    story: &Plan<W>,
    sim: &str,
) -> Result<(), String> {
    let hint = |typed: &str, words: &[&str]| {
        plan::nearest(typed, words.iter().copied()).map(|word| format!("; did you mean `{word}`?")).unwrap_or_default()
    };
    if !valid.events.contains(&event.event.as_str()) {
        let hint = hint(&event.event, &valid.events);
        return Err(format!("`--window`: unknown event `{}`{hint}\n  `{sim} list events` shows all", event.event));
    }
    let sessions = story.users.sessions();
    match &event.session {
        Some(session) if !sessions.contains(session) => {
            let words: Vec<&str> = sessions.iter().map(String::as_str).collect();
            let hint = hint(session, &words);
            Err(format!("`--window`: unknown session `{session}`{hint}\n  the story has {}", words.join(", ")))
        }
        Some(session) if valid.world_events.contains(&event.event.as_str()) => Err(format!(
            "`--window`: `{}` is an event of the world and belongs to no session: leave out `:{session}`",
            event.event
        )),
        _ => Ok(()),
    }
}

/// What is said of a window whose event does not come.
pub(super) fn never(event: &EventMatch, anchors: &[Anchor], name: &str, seed: u64) -> Usage {
    let mut come: Vec<&str> = anchors.iter().map(|anchor| anchor.event.as_str()).collect();
    come.sort_unstable();
    come.dedup();
    Usage(format!(
        "`--window`: {} never comes in {name}@{seed}, or only once everything heals, when no fault begins any more\n  \
         try another `--seed`, or one of the events that come: {}",
        told_cue(event),
        come.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::explore::crash_points::Window;
    use crate::world::test_product::{TestProduct, Visitors};
    use crate::world::words;

    fn story() -> Plan<Visitors> {
        words::bare::<TestProduct>()
    }

    #[test]
    fn the_usual_target_is_whom_no_user_reaches() {
        let valid = words::vocabulary::<TestProduct>();
        let struck = |asked| struck(asked, &valid, &story(), "quiet");
        assert_eq!(struck(None).unwrap(), ["executor-1", "executor-2"]);
        assert_eq!(struck(Some("gateway")).unwrap(), ["gateway-1"]);
        assert_eq!(struck(Some("executor-2")).unwrap(), ["executor-2"]);
        let says = struck(Some("executer")).unwrap_err();
        assert!(says.starts_with("quiet has no `executer` to strike; did you mean `executor`?"), "{says}");
        assert!(says.contains("one of gateway, executor, gateway-1"), "{says}");
    }

    #[test]
    fn a_window_names_what_there_is() {
        let valid = words::vocabulary::<TestProduct>();
        let says = |window: &str| {
            let window = Window::parse(window).unwrap();
            window.named().try_for_each(|event| known(event, &valid, &story(), "go")).err().unwrap_or_default()
        };
        assert_eq!(says("turn_started..exited"), "");
        assert!(
            says("turn_stared..").contains("unknown event `turn_stared`; did you mean `turn_started`?\n  `go list")
        );
        assert!(says("..exited:ann/1").contains("unknown session `ann/1`"));
    }
}
