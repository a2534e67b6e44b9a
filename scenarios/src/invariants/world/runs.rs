//! Runs as Postgres has them: which process owns which, which are over, which sessions are suspended.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lychgate_sim::trace::event::{Event, What};

use super::Health;
use crate::events::{Did, RunEvent};

/// A life of a process that claimed a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The process's name.
    pub process: String,
    /// Its incarnation when the claim was committed.
    pub incarnation: u32,
}

/// The end of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Over {
    /// When the terminal status was committed.
    pub at: Duration,
    /// The process that committed it.
    pub by: String,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Runs {
    /// Runs that are claimed and not over, by label.
    owners: BTreeMap<String, Owner>,
    over: BTreeMap<String, Over>,
    /// Runs whose message was accepted and that are not over.
    open: BTreeSet<String>,
    /// Those of them whose user's request to stop them was committed.
    stopped: BTreeSet<String>,
    /// Owned runs that their owner has lost.
    lost: BTreeSet<String>,
    suspended: BTreeSet<String>,
    /// When a run of each process was last handed back, ended, or claimed by another.
    let_go: BTreeMap<String, Duration>,
    /// When any run was last handed back or ended.
    last_let_go: Duration,
}

impl Runs {
    pub(super) fn observe(&mut self, event: &Event<Did>, health: &Health) {
        let What::Product(Did::Run(event_of_run)) = &event.what else { return };
        match event_of_run {
            RunEvent::Accepted { run, .. } => _ = self.open.insert(run.clone()),
            RunEvent::Claimed { run, owner, .. } => {
                self.release(run, event.at);
                let owner = Owner { process: owner.clone(), incarnation: health.life(owner).incarnation };
                self.owners.insert(run.clone(), owner);
            }
            RunEvent::HandedBack { run, .. } => {
                self.release(run, event.at);
                self.last_let_go = event.at;
            }
            RunEvent::Ended { run, .. } => {
                self.release(run, event.at);
                self.last_let_go = event.at;
                self.open.remove(run);
                self.over.insert(run.clone(), Over { at: event.at, by: event.process.clone() });
            }
            RunEvent::CancelRequested { run, .. } => _ = self.stopped.insert(run.clone()),
            RunEvent::Lost { run, .. } => _ = self.lost.insert(run.clone()),
            RunEvent::Suspended { session } => _ = self.suspended.insert(session.clone()),
            RunEvent::Unsuspended { session } => _ = self.suspended.remove(session),
            _ => {}
        }
    }

    fn release(&mut self, run: &str, at: Duration) {
        self.lost.remove(run);
        if let Some(owner) = self.owners.remove(run) {
            self.let_go.insert(owner.process, at);
        }
    }

    /// The owner that still acts on the run: none if the run waits or is over, if its user has stopped it, or if its owner has
    /// lost it.
    pub fn acting(&self, run: &str) -> Option<&Owner> {
        self.owners.get(run).filter(|_| !self.stopped.contains(run) && !self.lost.contains(run))
    }

    /// Whether the run's message was accepted and the run is not over.
    pub fn is_open(&self, run: &str) -> bool {
        self.open.contains(run)
    }

    /// Whether its user's request to stop the run was committed.
    pub fn is_stopped(&self, run: &str) -> bool {
        self.stopped.contains(run)
    }

    /// Whether this life of a process owns a run.
    pub fn owns_any(&self, process: &str, incarnation: u32) -> bool {
        self.owners.values().any(|owner| owner.process == process && owner.incarnation == incarnation)
    }

    /// Whether any run is owned.
    pub fn any_owned(&self) -> bool {
        !self.owners.is_empty()
    }

    /// When a run of the process was last handed back, ended, or claimed by another; zero if none was.
    pub fn let_go(&self, process: &str) -> Duration {
        self.let_go.get(process).copied().unwrap_or_default()
    }

    /// When any run was last handed back or ended; zero if none was.
    pub fn last_let_go(&self) -> Duration {
        self.last_let_go
    }

    /// The end of the run, once it is over.
    pub fn over(&self, run: &str) -> Option<&Over> {
        self.over.get(run)
    }

    /// Whether the session is suspended.
    pub fn is_suspended(&self, session: &str) -> bool {
        self.suspended.contains(session)
    }
}
