//! What happened in a run and whether it was right: events, the recorder that keeps them, the log lines of processes, the
//! invariants that read events, and the verdict.

pub mod anchor;
pub mod event;
pub mod fault;
pub mod invariant;
#[cfg(madsim)]
pub(crate) mod log;
pub mod recorder;
pub mod step;
pub mod verdict;
