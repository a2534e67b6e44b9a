//! Where nothing is amiss, nobody waits for the product: each request is answered, each word of a model is shown, within two seconds,
//! and no stream breaks off. A product that shows an answer when it is over, or after a rescue, would keep every other promise.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use lychgate::live::Kind;
use lychgate_sim::trace::event::{Event, What};
use lychgate_sim::trace::invariant::{Breach, Obligation};

use super::Promise;
use super::stream_truth::place;
use super::world::World;
use crate::answers::Shown;
use crate::events::{Did, LiveEvent, RunEvent, TurnEvent, UserEvent};

/// From a request to its answer: a handful of statements. From a word of the model to its frame, and from there to a reader: a write and
/// a read of Redis.
const PROMPTLY: Duration = Duration::from_secs(2);
/// Frames of one run that its reader has not seen; of more, the oldest are waited for no longer.
const UNSEEN: usize = 64;

/// What a reader of one run has to see.
#[derive(Debug, Default)]
struct Reader {
    /// Whether a reader that takes no time over events is there.
    listens: bool,
    /// The frames that were written since, by fence, turn and number, with the time of each.
    unseen: VecDeque<((i64, i64, i64), Duration)>,
}

/// See the module.
#[derive(Default)]
pub struct Prompt {
    /// By run: when its model gave the first word of a turn that no frame shows.
    begun: BTreeMap<String, Duration>,
    readers: BTreeMap<String, Reader>,
    armed: bool,
}

impl Prompt {
    fn framed(&mut self, run: &str, frame: (i64, i64, i64), at: Duration) {
        if let Some(reader) = self.readers.get_mut(run).filter(|reader| reader.listens) {
            reader.unseen.push_back((frame, at));
            if reader.unseen.len() > UNSEEN {
                reader.unseen.pop_front();
            }
        }
    }

    /// A reader has seen this frame, and so all before it.
    fn saw(&mut self, run: &str, id: &str) {
        let Some((reader, (fence, turn, seq, _))) = self.readers.get_mut(run).zip(place(id)) else { return };
        while reader.unseen.front().is_some_and(|(frame, _)| *frame <= (fence, turn, seq)) {
            self.armed = true;
            reader.unseen.pop_front();
        }
    }

    /// Whether nothing has been amiss since the run was accepted, and its reader takes no time over events.
    fn never_ill(&self, world: &World, run: &str) -> bool {
        let listens = self.readers.get(run).is_some_and(|reader| reader.listens);
        listens && world.runs.get(run).is_some_and(|run| is_well(world, run.accepted))
    }

    fn looks_away(&mut self, run: &str) {
        self.readers.remove(run);
    }
}

/// Whether nothing has been amiss since.
fn is_well(world: &World, since: Duration) -> bool {
    world.health.is_undisturbed_since(since)
}

/// Whether nothing has been amiss since, and the gateway had begun to serve by then.
fn serves(world: &World, gateway: &str, since: Duration) -> bool {
    world.health.life(gateway).since + PROMPTLY <= since && is_well(world, since)
}

impl Promise for Prompt {
    fn name(&self) -> &'static str {
        "prompt"
    }

    fn says(&self) -> &'static str {
        "where nothing is amiss each request is answered and each word is shown within two seconds, and no stream breaks"
    }

    fn observe(&mut self, event: &Event<Did>, world: &World) -> Result<(), Breach> {
        let What::Product(did) = &event.what else { return Ok(()) };
        match did {
            Did::User(UserEvent::Told { run, gateway, took, told, .. })
                if *took > PROMPTLY && serves(world, gateway, event.at.saturating_sub(*took)) =>
            {
                let says =
                    format!("{gateway} took {took:.1?} over {}, about {run}, and nothing was amiss", told.request);
                return Err(Breach::now(says));
            }
            Did::User(UserEvent::Unheeded { run, gateway, request, took, .. })
                if serves(world, gateway, event.at.saturating_sub(*took)) =>
            {
                let says = format!("{gateway} gave {request}, about {run}, no answer, and nothing was amiss");
                return Err(Breach::now(says));
            }
            Did::User(UserEvent::Opened { run, slowly, .. }) => {
                self.readers.insert(run.clone(), Reader { listens: !slowly, ..Reader::default() });
            }
            Did::User(UserEvent::Broke { run, by_her, lasted, .. }) => {
                let listened = self.readers.get(run).is_some_and(|reader| reader.listens);
                self.looks_away(run);
                if listened && !by_her && is_well(world, event.at.saturating_sub(*lasted)) {
                    return Err(Breach::now(format!("the stream of {run} broke off, and nothing was amiss")));
                }
            }
            Did::User(UserEvent::SawEnd { run, .. }) => self.looks_away(run),
            Did::User(UserEvent::Saw { run, kind: Shown::Gap, .. }) if self.never_ill(world, run) => {
                return Err(Breach::now(format!("the reader of {run} was told of a gap, and nothing was amiss")));
            }
            Did::User(UserEvent::Saw { run, id, .. }) => self.saw(run, id),
            Did::Turn(TurnEvent::Began { run, .. }) => _ = self.begun.insert(run.clone(), event.at),
            Did::Live(LiveEvent::Framed { run, fence, turn, seq, kind, .. }) => {
                if *kind == Kind::Token {
                    self.begun.remove(run);
                }
                if matches!(kind, Kind::Token | Kind::TurnDone) {
                    let number = |of: u64| i64::try_from(of).unwrap_or(i64::MAX);
                    self.framed(run, (*fence, number(*turn), number(*seq)), event.at);
                }
            }
            Did::Turn(TurnEvent::HungUp { run, .. } | TurnEvent::Spoiled { run, .. })
            | Did::Run(
                RunEvent::Ended { run, .. }
                | RunEvent::HandedBack { run, .. }
                | RunEvent::Lost { run, .. }
                | RunEvent::CancelRequested { run, .. },
            ) => _ = self.begun.remove(run),
            _ => {}
        }
        Ok(())
    }

    fn pending(&self, world: &World) -> Vec<Obligation> {
        let due = |says: String, since: Duration| {
            is_well(world, since).then(|| Obligation::new(says, since, since + PROMPTLY))
        };
        let begun = self.begun.iter().filter(|(run, _)| world.runs.is_open(run));
        let begun =
            begun.filter_map(|(run, since)| due(format!("the first word of a turn of {run} is a frame"), *since));
        let unseen = self.readers.iter().filter_map(|(run, reader)| {
            let ((_, turn, seq), since) = reader.unseen.front()?;
            due(format!("the reader of {run} is shown frame {turn}-{seq}"), *since)
        });
        begun.chain(unseen).collect()
    }

    fn armed(&self) -> bool {
        self.armed
    }
}
