//! Invariants speak at once when safety is broken, and by a deadline when something that must happen does not.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::trace::event::Event;

/// One promise about every run. Fed every event in order; it sees nothing else.
pub trait Invariant<O>: Send {
    /// The name, as in `no_zombies`.
    fn name(&self) -> &'static str;

    /// What it promises, in one line for `list`.
    fn says(&self) -> &'static str;

    /// Learns of `event`; the run stops at the first breach.
    fn observe(&mut self, event: &Event<O>) -> Result<(), Breach>;

    /// What must still happen, each with its deadline. The judge calls it a breach when virtual time passes `due`,
    /// and settling waits until nobody has anything pending. Nothing, for a promise that is broken at once or never.
    fn pending(&self) -> Vec<Obligation> {
        Vec::new()
    }

    /// Speaks once more after settling.
    fn conclude(&mut self) -> Result<(), Breach> {
        Ok(())
    }

    /// Whether this run put it to the test: a run in which it could not have been broken proves nothing.
    fn armed(&self) -> bool;

    /// What came of the work that nothing disturbed, if the invariant knows which that is; so far, and at the end of the run.
    /// It breaks nothing by itself: a sweep adds up, and where hardly anything is done the sweep is void. Only an invariant
    /// that looks at work which is over or given up for good can say so: each piece counts once.
    fn floor(&self) -> Option<Floor> {
        None
    }
}

/// Work that nothing disturbed. A product that does none of it can break no promise about how work is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Floor {
    /// How many pieces of it there were.
    pub promised: u64,
    /// How many of them were done.
    pub kept: u64,
}

/// Something that must happen until a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obligation {
    /// What must happen, as `ann/1 leaves the live view`.
    pub says: String,
    /// Virtual time at which it became due to happen.
    pub since: Duration,
    /// Virtual time until which it must have happened; `Duration::MAX` while a sick store suspends the deadline.
    pub due: Duration,
    /// A duty that comes back for ever, as a heartbeat does: it has deadlines, but settling does not wait for it.
    pub standing: bool,
}

impl Obligation {
    /// Something that settling waits for.
    pub fn new(says: impl Into<String>, since: Duration, due: Duration) -> Self {
        Obligation { says: says.into(), since, due, standing: false }
    }

    /// A duty that comes back for ever.
    pub fn standing(says: impl Into<String>, since: Duration, due: Duration) -> Self {
        Obligation { standing: true, ..Obligation::new(says, since, due) }
    }
}

/// How an invariant was broken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Breach {
    /// What is wrong, in one sentence with labels, never ids.
    pub says: String,
    /// The obligation's beginning, for one that was missed.
    pub since: Option<Duration>,
    /// The obligation's end, for one that was missed.
    pub due: Option<Duration>,
}

impl Breach {
    /// A breach of safety: wrong at this very event.
    pub fn now(says: impl Into<String>) -> Self {
        Breach { says: says.into(), since: None, due: None }
    }

    /// An obligation whose deadline has passed.
    pub fn missed(obligation: Obligation) -> Self {
        Breach { says: obligation.says, since: Some(obligation.since), due: Some(obligation.due) }
    }
}
