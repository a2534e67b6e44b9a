//! The events of a run as a plan can name them: where a fault can be hung. Listed only up to healing, for no fault begins
//! after it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::trace::event::{Event, ProductEvent, What, WorldEvent};

/// An event on which a fault can be hung.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Anchor {
    /// The place in the trace, from 0.
    pub seq: u64,
    /// Virtual time since the world began.
    pub at: Duration,
    /// The name in plans.
    pub event: String,
    /// The label of the session it is about.
    pub session: Option<String>,
    /// The process that it happened at or was caused by; empty for the world itself.
    pub process: String,
    /// What it says of the life of that process.
    pub life: Life,
}

/// What an event says of the life of its process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Life {
    /// A life begins.
    Begins,
    /// The life is over.
    Ends,
    /// Nothing changes.
    GoesOn,
}

impl Anchor {
    /// That of an event.
    pub fn of<O: ProductEvent>(event: &Event<O>) -> Anchor {
        let life = match &event.what {
            What::World(WorldEvent::Booted) => Life::Begins,
            What::World(WorldEvent::Exited { .. } | WorldEvent::Killed | WorldEvent::Panicked) => Life::Ends,
            _ => Life::GoesOn,
        };
        Anchor {
            seq: event.seq,
            at: event.at,
            event: event.what.name().to_owned(),
            session: event.what.session().map(str::to_owned),
            process: event.process.clone(),
            life,
        }
    }
}
