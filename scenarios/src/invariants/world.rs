//! The one model of the world that every invariant shares: who is up, what is sick and since when, which clocks are off, who
//! stands still, which connections are open, what Redis remembers, who owns which run. It is fed each event once, before any invariant sees it.

mod health;
mod history;
mod links;
mod runs;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lychgate_sim::trace::event::Event;

pub use health::{Health, Memory, leads_to, matters_to_agent, matters_to_ends};
pub use history::{History, Session};
pub use links::Links;
pub use runs::{Over, Owner, Run, Runs, Stage};

use crate::events::Did;

/// See the module.
#[derive(Debug, Default)]
pub struct World {
    /// Faults, clocks and processes.
    pub health: Health,
    /// Open connections.
    pub links: Links,
    /// Runs and their owners, suspended sessions.
    pub runs: Runs,
    /// What Postgres had, and when.
    pub history: History,
    /// The number of events that it has learned.
    learned: u64,
}

impl World {
    /// Learns of an event, in order. An event that it has learned before changes nothing.
    fn learn(&mut self, event: &Event<Did>) {
        if event.seq < self.learned {
            return;
        }
        self.learned = event.seq + 1;
        self.health.observe(event);
        self.links.observe(event);
        self.runs.observe(event, &self.health);
        self.history.observe(event);
    }
}

/// A handle to the world of one run. Every invariant of the run has one.
#[derive(Clone, Debug, Default)]
pub struct SharedWorld(Arc<Mutex<World>>);

impl SharedWorld {
    /// The world as it is now.
    pub fn now(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The world after `event`. The first invariant that is given an event teaches it to the world of all.
    pub fn after(&self, event: &Event<Did>) -> MutexGuard<'_, World> {
        let mut world = self.now();
        world.learn(event);
        world
    }
}
