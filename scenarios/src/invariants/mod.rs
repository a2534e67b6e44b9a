//! What must hold in every run. One promise, one struct, one file; each sees events and nothing else.

mod agents_ready;
mod answers_bind;
mod answers_make_sense;
mod bounded_memory;
mod bounded_shutdown;
mod bounded_waits;
mod exactly_one_switch;
mod fair_drain;
mod health_answers;
mod no_leaks;
mod no_write_after_pool_close;
mod no_zombies;
mod nothing_for_nobody;
mod nothing_lost;
mod one_live_executor;
mod prompt;
mod resumable;
mod rightly_asked;
mod stream_truth;
mod terminal_once;
mod undisturbed;
pub mod world;

use lychgate_sim::trace::event::Event;
use lychgate_sim::trace::invariant::{Breach, Floor, Invariant, Obligation};

use self::world::{SharedWorld, World};
use crate::events::Did;
use crate::settings::Settings;

pub use agents_ready::AgentsReady;
pub use answers_bind::AnswersBind;
pub use answers_make_sense::AnswersMakeSense;
pub use bounded_memory::BoundedMemory;
pub use bounded_shutdown::BoundedShutdown;
pub use bounded_waits::BoundedWaits;
pub use exactly_one_switch::ExactlyOneSwitch;
pub use fair_drain::FairDrain;
pub use health_answers::HealthAnswers;
pub use no_leaks::NoLeaks;
pub use no_write_after_pool_close::NoWriteAfterPoolClose;
pub use no_zombies::{Deadlines, NoZombies};
pub use nothing_for_nobody::NothingForNobody;
pub use nothing_lost::NothingLost;
pub use one_live_executor::OneLiveExecutor;
pub use prompt::Prompt;
pub use resumable::Resumable;
pub use rightly_asked::RightlyAsked;
pub use stream_truth::StreamTruth;
pub use terminal_once::TerminalOnce;
pub use undisturbed::Undisturbed;

/// One promise about every run. It judges by events and by the world that they have made, which it shares with all others.
pub trait Promise: Send + 'static {
    /// The name, as in `no_zombies`.
    fn name(&self) -> &'static str;

    /// What it promises, in one line for `list`.
    fn says(&self) -> &'static str;

    /// Learns of `event`, of which `world` has learned before.
    ///
    /// # Errors
    /// The event breaks the promise.
    fn observe(&mut self, event: &Event<Did>, world: &World) -> Result<(), Breach>;

    /// What must still happen, each with its deadline.
    fn pending(&self, _: &World) -> Vec<Obligation> {
        Vec::new()
    }

    /// Speaks once more after settling.
    ///
    /// # Errors
    /// The promise is broken at rest.
    fn conclude(&mut self) -> Result<(), Breach> {
        Ok(())
    }

    /// Whether this run put it to the test.
    fn armed(&self) -> bool;

    /// What came of the work that nothing disturbed, if it knows which that is.
    fn floor(&self, _: &World) -> Option<Floor> {
        None
    }
}

/// A promise with its handle to the world: what the simulation takes for an invariant.
struct Judge<P> {
    promise: P,
    world: SharedWorld,
}

impl<P: Promise> Invariant<Did> for Judge<P> {
    fn name(&self) -> &'static str {
        self.promise.name()
    }

    fn says(&self) -> &'static str {
        self.promise.says()
    }

    fn observe(&mut self, event: &Event<Did>) -> Result<(), Breach> {
        self.promise.observe(event, &self.world.after(event))
    }

    fn pending(&self) -> Vec<Obligation> {
        self.promise.pending(&self.world.now())
    }

    fn conclude(&mut self) -> Result<(), Breach> {
        self.promise.conclude()
    }

    fn armed(&self) -> bool {
        self.promise.armed()
    }

    fn floor(&self) -> Option<Floor> {
        self.promise.floor(&self.world.now())
    }
}

/// All of them, for a run with these deadlines and settings, and so many slots per executor. They share one world.
pub fn all(deadlines: Deadlines, settings: &Settings, slots: usize) -> Vec<Box<dyn Invariant<Did>>> {
    let world = SharedWorld::default();
    vec![
        world.judge(NoZombies::new(deadlines, slots)),
        world.judge(TerminalOnce::default()),
        world.judge(OneLiveExecutor::new(deadlines, settings.clone())),
        world.judge(FairDrain::new(settings.clone())),
        world.judge(Resumable::new(settings.clone())),
        world.judge(NoWriteAfterPoolClose::default()),
        world.judge(ExactlyOneSwitch::new(settings.subscriptions())),
        world.judge(AgentsReady::default()),
        world.judge(HealthAnswers::default()),
        world.judge(NothingLost::default()),
        world.judge(BoundedWaits::new(settings)),
        world.judge(StreamTruth::default()),
        world.judge(BoundedShutdown::new(settings.clone())),
        world.judge(NoLeaks::default()),
        world.judge(BoundedMemory::new(slots, settings.history_limit())),
        world.judge(AnswersMakeSense::default()),
        world.judge(Undisturbed::default()),
        world.judge(AnswersBind::default()),
        world.judge(NothingForNobody::default()),
        world.judge(RightlyAsked::new(settings)),
        world.judge(Prompt::default()),
    ]
}

impl SharedWorld {
    /// The invariant that holds this promise about this world.
    fn judge(&self, promise: impl Promise) -> Box<dyn Invariant<Did>> {
        Box::new(Judge { promise, world: self.clone() })
    }
}
