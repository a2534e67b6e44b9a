//! The active runs: which runs this process works on right now, under which fence, and how each is told to stop.
//! Nothing of it outlives the process.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::slots::Slots;
use crate::ids::{Fence, RunId};
use crate::run::Stop;
use crate::store::Claimed;
use crate::task_tracker::TaskTracker;

/// A claimed run whose end is not confirmed yet.
struct ActiveRun {
    fence: Fence,
    stop: watch::Sender<Option<Stop>>,
    /// When the last beat that Postgres confirmed was sent; before the first, when the claim was.
    confirmed: Instant,
    beats: bool,
}

/// The active runs of a process, and the slots that bound their number.
pub(super) struct ActiveRuns {
    /// The slots of claims and runs in progress.
    pub(super) slots: Slots,
    runs: Mutex<BTreeMap<RunId, ActiveRun>>,
    /// Slots in use, counted for the drain.
    busy: TaskTracker,
}

impl ActiveRuns {
    pub(super) fn new(slots: usize) -> Self {
        let busy = TaskTracker::default();
        ActiveRuns { slots: Slots::new(slots, busy.clone()), runs: Mutex::default(), busy }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<RunId, ActiveRun>> {
        self.runs.lock().expect("nothing panics while it holds the active runs")
    }

    /// Adds a claimed run. `claimed_at` is when the claim was sent. The receiver gets the reason to stop.
    pub(super) fn insert(&self, claimed: &Claimed, claimed_at: Instant) -> watch::Receiver<Option<Stop>> {
        let (stop, stopped) = watch::channel(None);
        let active = ActiveRun { fence: claimed.fence, stop, confirmed: claimed_at, beats: true };
        self.lock().insert(claimed.run.clone(), active);
        stopped
    }

    /// Removes a run: its end is written, or it is another owner's. One that came back under a newer fence
    /// meanwhile stays.
    pub(super) fn remove(&self, run: &RunId, fence: Fence) {
        let mut runs = self.lock();
        if runs.get(run).is_some_and(|active| active.fence == fence) {
            runs.remove(run);
        }
    }

    /// Whether `run` is active.
    pub(super) fn has(&self, run: &RunId) -> bool {
        self.lock().contains_key(run)
    }

    /// The number of active runs.
    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }

    /// The active runs with their fences.
    pub(super) fn runs(&self) -> Vec<(RunId, Fence)> {
        self.lock().iter().map(|(run, active)| (run.clone(), active.fence)).collect()
    }

    /// The runs to name in a beat.
    pub(super) fn beating(&self) -> Vec<(RunId, Fence)> {
        self.lock().iter().filter(|(_, active)| active.beats).map(|(run, active)| (run.clone(), active.fence)).collect()
    }

    /// Notes that a beat was confirmed for this run, which was sent at `sent`.
    pub(super) fn confirm(&self, run: &RunId, fence: Fence, sent: Instant) {
        if let Some(active) = self.lock().get_mut(run).filter(|active| active.fence == fence) {
            active.confirmed = active.confirmed.max(sent);
        }
    }

    /// Runs whose last confirmed beat was sent longer ago than `limit`.
    pub(super) fn silent_for(&self, limit: Duration) -> Vec<(RunId, Fence)> {
        let silent = |active: &ActiveRun| active.beats && active.confirmed.elapsed() >= limit;
        self.lock()
            .iter()
            .filter(|(_, active)| silent(active))
            .map(|(run, active)| (run.clone(), active.fence))
            .collect()
    }

    /// Tells a run to stop. The first reason stays, but one that says that it is not ours any more wins.
    pub(super) fn stop(&self, run: &RunId, why: Stop) {
        let fence = self.lock().get(run).map(|active| active.fence);
        if let Some(fence) = fence {
            self.stop_under(run, fence, why);
        }
    }

    /// Tells a run to stop if it is still the one under `fence`.
    pub(super) fn stop_under(&self, run: &RunId, fence: Fence, why: Stop) {
        if let Some(active) = self.lock().get_mut(run).filter(|active| active.fence == fence) {
            let ours = why.is_ours();
            active.beats &= ours;
            active.stop.send_if_modified(|stop| {
                let news = stop.is_none() || (!ours && stop.is_some_and(Stop::is_ours));
                if news {
                    *stop = Some(why);
                }
                news
            });
        }
    }

    /// Tells every run to stop.
    pub(super) fn stop_all(&self, why: Stop) {
        for (run, fence) in self.runs() {
            self.stop_under(&run, fence, why);
        }
    }

    /// Waits until no claim and no run is in progress.
    pub(super) async fn idle(&self) {
        self.busy.wait_empty().await;
    }
}
