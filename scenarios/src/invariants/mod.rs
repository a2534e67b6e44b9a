//! What must hold in every run. One promise, one struct, one file; each sees events and nothing else.

mod bounded_memory;
mod bounded_waits;
mod fair_drain;
mod no_leaks;
mod no_zombies;
mod nothing_lost;
mod one_live_executor;
mod stream_truth;
mod terminal_once;

use lychgate_sim::judge::Invariant;

use crate::events::Did;

pub use bounded_memory::BoundedMemory;
pub use bounded_waits::BoundedWaits;
pub use fair_drain::FairDrain;
pub use no_leaks::NoLeaks;
pub use no_zombies::{Deadlines, NoZombies};
pub use nothing_lost::NothingLost;
pub use one_live_executor::OneLiveExecutor;
pub use stream_truth::StreamTruth;
pub use terminal_once::TerminalOnce;

/// All of them, for a run with these deadlines and so many slots per executor.
pub fn all(deadlines: Deadlines, slots: usize) -> Vec<Box<dyn Invariant<Did>>> {
    vec![
        Box::new(NoZombies::new(deadlines)),
        Box::new(TerminalOnce::default()),
        Box::new(OneLiveExecutor::new(deadlines)),
        Box::new(NothingLost::default()),
        Box::new(BoundedWaits::default()),
        Box::new(StreamTruth::default()),
        Box::new(FairDrain::default()),
        Box::new(NoLeaks::default()),
        Box::new(BoundedMemory::new(slots)),
    ]
}
