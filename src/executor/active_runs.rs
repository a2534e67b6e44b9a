//! The desk: which runs are ours right now, under which fence, and how each is told to stop. It dies with its process.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;

use crate::ids::{Fence, RunId};
use crate::run::Stop;
use crate::store::Claimed;
use crate::task_tracker::{TaskToken, TaskTracker};

struct Seat {
    fence: Fence,
    stop: watch::Sender<Option<Stop>>,
    /// When the last beat that Postgres confirmed was sent; before the first, when the claim was.
    confirmed: Instant,
    beats: bool,
}

/// What is on the desk.
pub(super) struct Desk {
    slots: Arc<Semaphore>,
    seats: Mutex<BTreeMap<RunId, Seat>>,
    /// Claims and runs in progress, counted for the drain.
    busy: TaskTracker,
}

/// A place for a run. Free again when it is dropped.
pub(super) struct Slot {
    _permit: OwnedSemaphorePermit,
    _busy: TaskToken,
}

impl Desk {
    pub(super) fn new(slots: usize) -> Self {
        Desk { slots: Arc::new(Semaphore::new(slots)), seats: Mutex::default(), busy: TaskTracker::default() }
    }

    fn seats(&self) -> MutexGuard<'_, BTreeMap<RunId, Seat>> {
        self.seats.lock().expect("nothing panics while it holds the desk")
    }

    fn slot(&self, permit: OwnedSemaphorePermit) -> Slot {
        Slot { _permit: permit, _busy: self.busy.token() }
    }

    /// A free slot, now.
    pub(super) fn free_slot(&self) -> Option<Slot> {
        self.slots.clone().try_acquire_owned().ok().map(|permit| self.slot(permit))
    }

    /// A free slot, within `bound`.
    pub(super) async fn slot_within(&self, bound: Duration) -> Option<Slot> {
        let permit = tokio::time::timeout(bound, self.slots.clone().acquire_owned()).await;
        permit.ok()?.ok().map(|permit| self.slot(permit))
    }

    /// Puts a claimed run on the desk. `claimed_at` is when the claim was sent.
    pub(super) fn put(&self, claimed: &Claimed, claimed_at: Instant) -> watch::Receiver<Option<Stop>> {
        let (stop, told) = watch::channel(None);
        let seat = Seat { fence: claimed.fence, stop, confirmed: claimed_at, beats: true };
        self.seats().insert(claimed.run.clone(), seat);
        told
    }

    /// Takes a run off the desk: its end is written, or it is somebody else's. One that came back under a newer fence
    /// meanwhile stays.
    pub(super) fn remove(&self, run: &RunId, fence: Fence) {
        let mut seats = self.seats();
        if seats.get(run).is_some_and(|seat| seat.fence == fence) {
            seats.remove(run);
        }
    }

    /// Whether it is on the desk.
    pub(super) fn has(&self, run: &RunId) -> bool {
        self.seats().contains_key(run)
    }

    /// How many are.
    pub(super) fn len(&self) -> usize {
        self.seats().len()
    }

    /// Which are.
    pub(super) fn runs(&self) -> Vec<(RunId, Fence)> {
        self.seats().iter().map(|(run, seat)| (run.clone(), seat.fence)).collect()
    }

    /// Those to name in a beat.
    pub(super) fn beating(&self) -> Vec<(RunId, Fence)> {
        self.seats().iter().filter(|(_, seat)| seat.beats).map(|(run, seat)| (run.clone(), seat.fence)).collect()
    }

    /// A beat that was sent at `sent` was confirmed for this run.
    pub(super) fn confirm(&self, run: &RunId, fence: Fence, sent: Instant) {
        if let Some(seat) = self.seats().get_mut(run).filter(|seat| seat.fence == fence) {
            seat.confirmed = seat.confirmed.max(sent);
        }
    }

    /// Runs whose last confirmed beat was sent longer ago than `limit`.
    pub(super) fn silent_for(&self, limit: Duration) -> Vec<(RunId, Fence)> {
        let silent = |seat: &Seat| seat.beats && seat.confirmed.elapsed() >= limit;
        self.seats().iter().filter(|(_, seat)| silent(seat)).map(|(run, seat)| (run.clone(), seat.fence)).collect()
    }

    /// Tells a run to stop. The first reason stays, but one that says that it is not ours any more wins.
    pub(super) fn stop(&self, run: &RunId, why: Stop) {
        let fence = self.seats().get(run).map(|seat| seat.fence);
        if let Some(fence) = fence {
            self.stop_under(run, fence, why);
        }
    }

    /// Tells it only if it is still the one under `fence`.
    pub(super) fn stop_under(&self, run: &RunId, fence: Fence, why: Stop) {
        if let Some(seat) = self.seats().get_mut(run).filter(|seat| seat.fence == fence) {
            let ours = why.is_ours();
            seat.beats &= ours;
            seat.stop.send_if_modified(|stop| {
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
