//! What must hold in every run. One promise, one struct, one file; each sees events and nothing else.

mod agents_ready;
mod bounded_memory;
mod bounded_shutdown;
mod bounded_waits;
mod exactly_one_switch;
mod fair_drain;
mod health_answers;
mod no_leaks;
mod no_write_after_pool_close;
mod no_zombies;
mod nothing_lost;
mod one_live_executor;
mod resumable;
mod stream_truth;
mod terminal_once;

use lychgate_sim::trace::invariant::Invariant;

use crate::events::Did;
use crate::settings::Settings;

pub use agents_ready::AgentsReady;
pub use bounded_memory::BoundedMemory;
pub use bounded_shutdown::BoundedShutdown;
pub use bounded_waits::BoundedWaits;
pub use exactly_one_switch::ExactlyOneSwitch;
pub use fair_drain::FairDrain;
pub use health_answers::HealthAnswers;
pub use no_leaks::NoLeaks;
pub use no_write_after_pool_close::NoWriteAfterPoolClose;
pub use no_zombies::{Deadlines, NoZombies};
pub use nothing_lost::NothingLost;
pub use one_live_executor::OneLiveExecutor;
pub use resumable::Resumable;
pub use stream_truth::StreamTruth;
pub use terminal_once::TerminalOnce;

/// All of them, for a run with these deadlines and settings, and so many slots per executor.
pub fn all(deadlines: Deadlines, settings: &Settings, slots: usize) -> Vec<Box<dyn Invariant<Did>>> {
    vec![
        Box::new(NoZombies::new(deadlines, slots)),
        Box::new(TerminalOnce::default()),
        Box::new(OneLiveExecutor::new(deadlines, settings.clone())),
        Box::new(FairDrain::new(settings.clone())),
        Box::new(Resumable::new(settings.clone())),
        Box::new(NoWriteAfterPoolClose::default()),
        Box::new(ExactlyOneSwitch::new(settings.subscriptions())),
        Box::new(AgentsReady::default()),
        Box::new(HealthAnswers::default()),
        Box::new(NothingLost::default()),
        Box::new(BoundedWaits::default()),
        Box::new(StreamTruth::default()),
        Box::new(BoundedShutdown::new(settings.clone())),
        Box::new(NoLeaks::default()),
        Box::new(BoundedMemory::new(slots)),
    ]
}
