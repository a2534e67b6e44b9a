//! Runs as Postgres has them: which waits, which life of which process owns which, which are over; which sessions are suspended.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lychgate_sim::trace::event::{Event, What};

use super::Health;
use crate::events::{Did, RunEvent, StoreEvent};
use crate::names::session_of;

/// A life of a process that claimed a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The process's name.
    pub process: String,
    /// The incarnation when the claim was committed.
    pub incarnation: u32,
    /// The name that it signs marks with.
    pub mark: String,
    /// When the claim was committed.
    pub since: Duration,
}

impl Owner {
    /// Whether this life of the process is the owner.
    pub fn is(&self, process: &str, incarnation: u32) -> bool {
        self.process == process && self.incarnation == incarnation
    }
}

/// The end of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Over {
    /// When the terminal status was committed.
    pub at: Duration,
    /// The process that committed it.
    pub by: String,
}

/// Where a run stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The message is accepted, or it was handed back: it may be claimed.
    Queued,
    /// The run is claimed.
    Owned(Owner),
    /// The run has a terminal status.
    Over(Over),
}

/// What Postgres has of a run.
#[derive(Clone, Debug)]
pub struct Run {
    /// The session's label.
    pub session: String,
    /// When the message was accepted.
    pub accepted: Duration,
    /// Where it stands.
    pub stage: Stage,
    /// When that began.
    pub since: Duration,
    /// When what was before that began.
    pub before: Duration,
    /// The owner that the last event of the run took it from, if it took it from one.
    pub left: Option<Owner>,
    /// The fence of the newest claim; after a handing back, the one that the next claim exceeds.
    pub fence: i64,
    /// When the checkpoint of its last turn was committed.
    pub finished: Option<Duration>,
    /// When its user's request to stop it was first committed.
    pub stopped: Option<Duration>,
    /// Claims since its last checkpoint, but those that were handed back in order.
    pub vain: i64,
    /// Whether its owner has lost it.
    lost: bool,
}

impl Run {
    fn of(session: String, at: Duration) -> Run {
        let (stage, fence) = (Stage::Queued, 0);
        Run {
            session,
            accepted: at,
            stage,
            since: at,
            before: at,
            left: None,
            fence,
            finished: None,
            stopped: None,
            vain: 0,
            lost: false,
        }
    }

    fn enter(&mut self, stage: Stage, at: Duration) {
        self.left = match std::mem::replace(&mut self.stage, stage) {
            Stage::Owned(owner) => Some(owner),
            Stage::Queued | Stage::Over(_) => None,
        };
        self.before = std::mem::replace(&mut self.since, at);
        self.lost = false;
    }

    /// The owner, if it has one.
    pub fn owner(&self) -> Option<&Owner> {
        match &self.stage {
            Stage::Owned(owner) => Some(owner),
            Stage::Queued | Stage::Over(_) => None,
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Runs {
    /// Every run whose message was accepted, by label.
    runs: BTreeMap<String, Run>,
    /// The runs that are not over. Deadlines are asked for every half second, of days.
    open: BTreeSet<String>,
    /// Suspended sessions.
    suspended: BTreeSet<String>,
    /// When each session was last suspended.
    suspended_at: BTreeMap<String, Duration>,
    /// When a run of each process was last handed back, ended, or claimed by another.
    let_go: BTreeMap<String, Duration>,
    /// When any run was last handed back or ended.
    last_let_go: Duration,
    /// The runs that a standby knows which was left behind, as it knows them.
    left_behind: BTreeMap<String, Run>,
}

impl Runs {
    pub(super) fn observe(&mut self, event: &Event<Did>, health: &Health) {
        let at = event.at;
        let event_of_run = match &event.what {
            What::Product(Did::Run(event_of_run)) => event_of_run,
            What::Product(Did::Store(StoreEvent::LeftBehind {})) => return self.left_behind.clone_from(&self.runs),
            What::Product(Did::Store(StoreEvent::CommitsLost { runs })) => {
                return runs.iter().for_each(|run| self.unclaimed(run, at));
            }
            What::World(_) | What::Product(_) => return,
        };
        match event_of_run {
            RunEvent::Accepted { session, run } => {
                self.open.insert(run.clone());
                self.runs.insert(run.clone(), Run::of(session.clone(), at));
            }
            RunEvent::Claimed { run, owner: process, fence, mark, .. } => {
                let (process, mark) = (process.clone(), mark.clone());
                let incarnation = health.life(&process).incarnation;
                let run = self.moved(run, Stage::Owned(Owner { process, incarnation, mark, since: at }), at);
                run.fence = *fence;
                run.vain += 1;
            }
            RunEvent::HandedBack { run, fence, .. } => {
                self.last_let_go = at;
                let run = self.moved(run, Stage::Queued, at);
                run.fence = fence + 1;
                run.vain = (run.vain - 1).max(0);
            }
            RunEvent::Ended { run, fence, .. } => {
                self.last_let_go = at;
                self.open.remove(run);
                self.moved(run, Stage::Over(Over { at, by: event.process.clone() }), at).fence = *fence;
            }
            RunEvent::Checkpointed { run, last, .. } => {
                let run = self.run(run, at);
                run.vain = 0;
                if *last {
                    run.finished.get_or_insert(at);
                }
            }
            RunEvent::CancelRequested { run, .. } => _ = self.run(run, at).stopped.get_or_insert(at),
            RunEvent::Lost { run, .. } => self.run(run, at).lost = true,
            RunEvent::Suspended { session } => {
                self.suspended.insert(session.clone());
                self.suspended_at.insert(session.clone(), at);
            }
            RunEvent::Unsuspended { session } => _ = self.suspended.remove(session),
            _ => {}
        }
    }

    /// The record of a run, made if there is none.
    fn run(&mut self, label: &str, at: Duration) -> &mut Run {
        self.runs.entry(label.to_owned()).or_insert_with(|| Run::of(session_of(label), at))
    }

    fn moved(&mut self, label: &str, stage: Stage, at: Duration) -> &mut Run {
        let run = self.runs.entry(label.to_owned()).or_insert_with(|| Run::of(session_of(label), at));
        run.enter(stage, at);
        if let Some(owner) = &run.left {
            self.let_go.insert(owner.process.clone(), at);
        }
        run
    }

    /// The run's claims since the standby was left behind never were.
    fn unclaimed(&mut self, label: &str, at: Duration) {
        let Some(known) = self.left_behind.get(label).cloned() else { return };
        let run = self.moved(label, known.stage, at);
        (run.fence, run.vain) = (known.fence, known.vain);
    }

    /// What Postgres has of the run.
    pub fn get(&self, run: &str) -> Option<&Run> {
        self.runs.get(run)
    }

    /// The runs of a session, with their labels.
    pub fn of_session(&self, session: &str) -> impl Iterator<Item = (&str, &Run)> {
        let prefix = format!("{session}#");
        let from = self.runs.range(prefix.clone()..);
        from.take_while(move |(label, _)| label.starts_with(&prefix)).map(|(label, run)| (label.as_str(), run))
    }

    /// The runs whose messages were accepted and that are not over, with their labels.
    pub fn open(&self) -> impl Iterator<Item = (&str, &Run)> {
        self.open.iter().filter_map(|label| Some((label.as_str(), self.runs.get(label)?)))
    }

    /// The runs that this life of a process owns, with their labels.
    pub fn owned_by(&self, process: &str, incarnation: u32) -> impl Iterator<Item = (&str, &Run)> {
        self.open().filter(move |(_, run)| run.owner().is_some_and(|owner| owner.is(process, incarnation)))
    }

    /// The owner that still acts on the run: none if the run waits or is over, if its user has stopped it, or if its owner has
    /// lost it.
    pub fn acting(&self, run: &str) -> Option<&Owner> {
        self.get(run).filter(|run| run.stopped.is_none() && !run.lost)?.owner()
    }

    /// Whether the run's message was accepted and the run is not over.
    pub fn is_open(&self, run: &str) -> bool {
        self.open.contains(run)
    }

    /// Whether its user's request to stop the run was committed.
    pub fn is_stopped(&self, run: &str) -> bool {
        self.get(run).is_some_and(|run| run.stopped.is_some())
    }

    /// Whether this life of a process owns a run.
    pub fn owns_any(&self, process: &str, incarnation: u32) -> bool {
        self.owned_by(process, incarnation).next().is_some()
    }

    /// Whether any run is owned.
    pub fn any_owned(&self) -> bool {
        self.open().any(|(_, run)| run.owner().is_some())
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
        match &self.get(run)?.stage {
            Stage::Over(over) => Some(over),
            Stage::Queued | Stage::Owned(_) => None,
        }
    }

    /// Whether the session is suspended.
    pub fn is_suspended(&self, session: &str) -> bool {
        self.suspended.contains(session)
    }

    /// Whether the session has been suspended at any time since then.
    pub fn was_suspended_since(&self, session: &str, since: Duration) -> bool {
        self.is_suspended(session) || self.suspended_at.get(session).is_some_and(|at| *at >= since)
    }
}
