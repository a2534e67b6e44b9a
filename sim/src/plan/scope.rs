//! Which part of a link a fault acts on, and how often it strikes. Its one law: what a part leaves out passes as if there
//! were no fault.

use std::time::Duration;

use toml::Spanned;

use super::section::{Diagnostics, Section};
use super::{Course, FaultRow, Lifetime, Vocabulary};

/// What strikes more often than this is a fault that lasts.
pub const EVERY_MIN: Duration = Duration::from_secs(1);

/// The words for a direction.
pub(super) const DIRECTIONS: [(&str, Direction); 2] = [("up", Direction::Up), ("down", Direction::Down)];

/// One way of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Towards the service.
    Up,
    /// From it.
    Down,
}

/// A part of a link; without more, all of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// One way alone.
    pub direction: Option<Direction>,
    /// Only connections on which a request that contains this is sent while the fault lasts, each from that request on:
    /// the request itself is struck, what was sent before it is not, and neither is connecting.
    pub only: Option<String>,
}

impl Scope {
    /// Whether it has that direction.
    pub fn goes(&self, direction: Direction) -> bool {
        self.direction.is_none_or(|one| one == direction)
    }
}

impl Direction {
    /// The word in plans.
    pub fn name(self) -> &'static str {
        match self {
            Direction::Up => "up",
            Direction::Down => "down",
        }
    }
}

/// Reads `direction` and `only`.
pub(super) fn part(
    section: &mut Section<'_>,
    kind: Option<&FaultRow>,
    valid: &Vocabulary,
    complaints: &mut Diagnostics<'_>,
) -> Scope {
    let direction = section.text("direction", complaints);
    let only = section.text("only", complaints);
    let Some(kind) = kind else { return Scope::default() };
    let name = kind.word();
    if let (Some(direction), false) = (&direction, kind.one_way()) {
        let says = format!("`direction` belongs to {}, not to `{name}`", listed(valid, FaultRow::one_way));
        complaints.wrong(&direction.span(), says);
    }
    if let Some(only) = &only {
        let says = match kind {
            kind if kind.awaits_answer() => Some(format!("for `{name}` write `matches` instead of `only`")),
            kind if !kind.selective() => {
                Some(format!("`only` belongs to {}, not to `{name}`", listed(valid, FaultRow::selective)))
            }
            _ if only.get_ref().is_empty() => Some("`only` says nothing: leave it out, or say some bytes".to_owned()),
            _ => None,
        };
        says.into_iter().for_each(|says| complaints.wrong(&only.span(), says));
    }
    let known = direction.and_then(|typed| {
        let found = DIRECTIONS.iter().find(|(word, _)| word == typed.get_ref()).map(|(_, direction)| *direction);
        if found.is_none() {
            let words = DIRECTIONS.iter().map(|(word, _)| *word);
            complaints.unknown(&typed.span(), "direction (`up` is towards the service)", typed.get_ref(), words);
        }
        found
    });
    Scope { direction: known, only: only.map(Spanned::into_inner) }
}

/// The kinds of fault of which something is true, as a message names them.
pub(super) fn listed(valid: &Vocabulary, which: impl Fn(&FaultRow) -> bool) -> String {
    let words: Vec<String> =
        valid.kinds().into_iter().filter(|row| which(row)).map(|row| format!("`{}`", row.word())).collect();
    match words.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
        None => "no kind of fault".to_owned(),
    }
}

/// Complains of a part that this length makes pointless.
pub(super) fn judge(
    part: &Scope,
    kind: &FaultRow,
    length: &Lifetime,
    section: &Section<'_>,
    complaints: &mut Diagnostics<'_>,
) {
    if part.only.is_some() && kind.course == Course::Once && *length == Lifetime::Instant {
        let says = format!(
            "`{}` with `only` waits for such requests: say for how long, as `lasts = \"30s\"` or `until = \"heal\"`",
            kind.word()
        );
        complaints.wrong(&section.span, says);
    }
}

/// Reads `every`: how long after its end the fault strikes again.
pub(super) fn every(
    section: &mut Section<'_>,
    length: Option<&Lifetime>,
    complaints: &mut Diagnostics<'_>,
) -> Option<Duration> {
    let span = section.span_of("every")?;
    let every = section.duration("every", complaints)?;
    if every < EVERY_MIN {
        complaints.wrong(&span, "`every` is at least \"1s\": what strikes more often is a fault that lasts");
    }
    if length == Some(&Lifetime::UntilHeal) {
        let says = "`every` counts from the end of a fault, and this one has none: add `lasts = \"10s\"` or \
                    `until = { event = \"…\" }`";
        complaints.wrong(&span, says);
    }
    Some(every)
}
