//! What a user sees of a run, over all her connections: each frame once and in order, a hole only with a gap, every
//! turn of a completed run, the end once and last; and a sign of life while nothing happens. The words are the model's,
//! in its order, and those that the user finds later are the ones that were streamed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lychgate::limits;
use lychgate_sim::trace::event::{Event, What};
use lychgate_sim::trace::invariant::{Breach, Obligation};

use super::Promise;
use super::world::World;
use crate::answers::Shown;
use crate::events::{Did, RunEvent, UserEvent};
use crate::names::{Role, ends, far, near, role, user_of};

/// Two heartbeats and what the gateway may wait for its stores in between.
const SILENCE: Duration = Duration::from_secs(2 * limits::SSE_HEARTBEAT.as_secs() + 5);
/// From a run's end until its reader knows, with a healthy gateway.
const TOLD: Duration = Duration::from_secs(60);
/// The same, where nothing is amiss and she listens: the end's frame leads to a look at the row, and does not wait for the
/// heartbeat's.
const PROMPTLY: Duration = Duration::from_secs(2);

/// A place in a stream: fence, turn, frame, and whether the turn is whole.
type Place = (i64, i64, i64, bool);

struct Stream {
    /// When anything was last seen on it.
    alive: Duration,
    /// When a frame was last seen on it: who reads slowly has the end behind all of them.
    read: Duration,
    /// When it was last lost, or left.
    lost: Duration,
    /// When it was opened last, and whether its events are read as they come.
    listens: Option<Duration>,
    /// When its user came back last, having been away for longer than it takes to tell her.
    back: Duration,
    place: Place,
    /// A gap was told since the last frame.
    gap: bool,
    /// Turns that were seen whole.
    whole: i64,
    /// What was said of the turn that is going.
    words: Words,
    /// How many words the turns had that were seen from their first to their last.
    lengths: BTreeMap<i64, u32>,
    gaps: u32,
    ended: bool,
}

/// See the module.
#[derive(Default)]
pub struct StreamTruth {
    streams: BTreeMap<String, Stream>,
    /// The streams that somebody reads.
    open: BTreeSet<String>,
    /// Turns that are checkpointed, by run.
    turns: BTreeMap<String, i64>,
    armed: bool,
}

/// How far the answer of a turn has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Words {
    turn: i64,
    /// The number of the last one; `None` behind a gap.
    last: Option<u32>,
}

/// The number of a word that the model says in this turn of its answer to `label`.
fn nth_word(label: &str, turn: i64, word: &str) -> Option<u32> {
    word.strip_prefix(label)?.strip_prefix(&format!("-t{turn}-w"))?.parse().ok()
}

/// How many words a whole answer has, if it is the model's: all of them, in order.
fn whole_answer(label: &str, turn: i64, text: &str) -> Option<u32> {
    let mut count = 0;
    for word in text.split_whitespace() {
        count += 1;
        if nth_word(label, turn, word) != Some(count) {
            return None;
        }
    }
    (count > 0).then_some(count)
}

/// The place of a frame, by the id of its event.
pub(super) fn place(id: &str) -> Option<Place> {
    let (id, whole) = id.strip_suffix('+').map_or((id, false), |id| (id, true));
    let (fence, frame) = id.split_once('.')?;
    let (turn, seq) = frame.split_once('-')?;
    Some((fence.parse().ok()?, turn.parse().ok()?, seq.parse().ok()?, whole))
}

impl Stream {
    /// Whether the words of an event are the model's, each once and in order.
    fn hear(&mut self, label: &str, kind: Shown, turn: i64, text: &str) -> Result<(), Breach> {
        if self.words.turn != turn {
            self.words = Words { turn, last: (!self.gap).then_some(0) };
        }
        match kind {
            Shown::Gap => self.words.last = None,
            Shown::TurnRestarted => self.words.last = Some(0),
            Shown::Token => {
                let nth = nth_word(label, turn, text.trim());
                if nth.is_none() || self.words.last.is_some_and(|last| nth != Some(last + 1)) {
                    return Err(Breach::now(format!("the user of {label} was shown words that do not follow: {text}")));
                }
                self.words.last = nth;
            }
            Shown::Turn => {
                let Some(length) = whole_answer(label, turn, text) else {
                    return Err(Breach::now(format!("the user of {label} was shown another answer: {text}")));
                };
                self.lengths.insert(turn, length);
            }
            Shown::TurnDone => {
                if let Some(length) = self.words.last {
                    self.lengths.insert(turn, length);
                }
            }
        }
        Ok(())
    }

    fn see(&mut self, label: &str, kind: Shown, id: &str) -> Result<(), Breach> {
        if self.ended {
            return Err(Breach::now(format!("something follows the end of {label}")));
        }
        let Some(next) = place(id) else {
            return Err(Breach::now(format!("an event of {label} has no place: `{id}`")));
        };
        if kind == Shown::Gap {
            (self.gap, self.gaps) = (true, self.gaps + 1);
            return Ok(());
        }
        let (fence, turn, seq, whole) = self.place;
        if (next.0, next.1, next.2) <= (fence, turn, seq) {
            return Err(Breach::now(format!("the user of {label} was shown the same or an older frame again")));
        }
        let follows = match kind {
            // A turn that is given whole stands in for its frames.
            Shown::Turn => next.1 == self.whole + 1 || self.gap,
            _ if next.0 > fence => next.2 == 1 && next.1 <= self.whole + 1,
            _ if whole => next.1 == turn + 1 && next.2 == 1,
            _ => next.1 == turn && next.2 == seq + 1,
        };
        if !follows && !self.gap {
            return Err(Breach::now(format!("the stream of {label} has a hole that nobody told of")));
        }
        if self.gap {
            // What lies before the frame behind a gap is what the gap was about.
            self.whole = self.whole.max(next.1 - 1);
        }
        if matches!(kind, Shown::Turn | Shown::TurnDone) {
            self.whole = next.1;
        }
        (self.place, self.gap) = (next, false);
        Ok(())
    }
}

impl StreamTruth {
    /// The answers that are kept are those that were checkpointed, whole, and the ones that were streamed.
    fn found(&self, label: &str, answers: &[(i64, String)]) -> Result<(), Breach> {
        let turns = self.turns.get(label).copied().unwrap_or(0);
        if !answers.iter().map(|(turn, _)| *turn).eq(1..=turns) {
            return Err(Breach::now(format!("{label} has {turns} turns; its user finds others, or in another order")));
        }
        for (turn, text) in answers {
            let streamed = self.streams.get(label).and_then(|stream| stream.lengths.get(turn));
            let whole = whole_answer(label, *turn, text);
            if whole.is_none() || streamed.is_some_and(|streamed| whole != Some(*streamed)) {
                return Err(Breach::now(format!("turn {turn} of {label} is not kept as it was said")));
            }
        }
        Ok(())
    }
}

impl Promise for StreamTruth {
    fn name(&self) -> &'static str {
        "stream_truth"
    }

    fn says(&self) -> &'static str {
        "a user sees each frame once, every gap told, the end once and last, and heartbeats meanwhile"
    }

    fn observe(&mut self, event: &Event<Did>, _: &World) -> Result<(), Breach> {
        let What::Product(did) = &event.what else { return Ok(()) };
        match did {
            Did::User(UserEvent::Opened { run, nth, slowly, .. }) => {
                let new = Stream {
                    alive: event.at,
                    read: event.at,
                    lost: event.at,
                    listens: None,
                    back: event.at,
                    place: (0, 0, 0, true),
                    gap: false,
                    whole: 0,
                    words: Words::default(),
                    lengths: BTreeMap::new(),
                    gaps: 0,
                    ended: false,
                };
                let stream = self.streams.entry(run.clone()).or_insert(new);
                stream.alive = event.at;
                stream.listens = (!slowly).then_some(event.at);
                if event.at > stream.lost + TOLD {
                    stream.back = event.at;
                }
                if !stream.ended {
                    self.open.insert(run.clone());
                }
                self.armed |= *nth > 1;
            }
            Did::User(UserEvent::Broke { run, .. }) => {
                self.open.remove(run);
                if let Some(stream) = self.streams.get_mut(run) {
                    stream.lost = event.at;
                }
            }
            Did::User(UserEvent::Heartbeat { run, .. }) => {
                self.armed = true;
                if let Some(stream) = self.streams.get_mut(run) {
                    stream.alive = event.at;
                }
            }
            Did::User(UserEvent::Saw { run, kind, id, turn, text, .. }) => {
                if let Some(stream) = self.streams.get_mut(run) {
                    (stream.alive, stream.read) = (event.at, event.at);
                    stream.hear(run, *kind, *turn, text)?;
                    stream.see(run, *kind, id)?;
                }
            }
            Did::Run(RunEvent::Checkpointed { run, turn, .. }) => {
                self.turns.insert(run.clone(), *turn);
            }
            Did::User(UserEvent::Found { run: label, answers, .. }) => self.found(label, answers)?,
            Did::User(UserEvent::SawEnd { run: label, .. }) => {
                let turns = self.turns.get(label).copied().unwrap_or(0);
                if let Some(stream) = self.streams.get_mut(label) {
                    if stream.ended {
                        return Err(Breach::now(format!("the stream of {label} ended twice")));
                    }
                    if stream.whole < turns && stream.gaps == 0 {
                        let says = format!("the stream of {label} ended without all of its turns, and told of no gap");
                        return Err(Breach::now(says));
                    }
                    stream.ended = true;
                    self.open.remove(label);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn pending(&self, world: &World) -> Vec<Obligation> {
        let open = self.open.iter().filter_map(|label| Some((label, self.streams.get(label)?)));
        let owed = open.flat_map(|(label, stream)| {
            let user = user_of(label);
            // Her own links, the gateways, and their stores: Redis's silence is theirs to bear.
            let matters = |target: &str| {
                ends(target).is_some_and(|(near, _)| near == user)
                    || role(near(target)) == Some(Role::Gateway) && !matches!(far(target), "redis" | "rabbitmq")
            };
            let calm = world.health.calm_since(matters);
            let due = |since: Duration, within: Duration| {
                calm.map_or(Duration::MAX, |calm| calm.max(since).saturating_add(within))
            };
            let says = format!("the open stream of {label} shows a sign of life");
            let sign = Obligation::new(says, stream.alive, due(stream.alive, SILENCE));
            let end = world.runs.over(label).map(|over| {
                let says = format!("the stream of {label}, which is over, ends");
                // A reader that has just come back has until its first silence to be told. The frame of a run that waited is
                // in a stream that nobody reads: it ended under a new fence.
                let ended = stream.back.max(over.at).max(stream.read);
                let run = world.runs.get(label);
                let listened = stream.listens.is_some_and(|listens| listens < over.at);
                if listened && run.is_some_and(|run| world.health.is_undisturbed_since(run.accepted)) {
                    return Obligation::new(says, ended, ended + PROMPTLY);
                }
                Obligation::new(says, ended, due(stream.alive.clamp(ended, ended + SILENCE), TOLD))
            });
            [Some(sign), end].into_iter().flatten()
        });
        owed.collect()
    }

    fn armed(&self) -> bool {
        self.armed
    }
}
