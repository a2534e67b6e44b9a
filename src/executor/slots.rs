//! Slots: how many runs a process works on at once, and the order of those that wait for one. What has waited for longest
//! goes first: a run that lost its owner or its hint before one whose hint has just come.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::oneshot;

use crate::task_tracker::{TaskToken, TaskTracker};

/// The two lines in front of the slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// Runs that a sweep found: they wait for a minute at least.
    Overdue,
    /// Runs that a hint has told of.
    Hinted,
}

#[derive(Default)]
struct Waiting {
    free: usize,
    overdue: VecDeque<oneshot::Sender<Slot>>,
    hinted: VecDeque<oneshot::Sender<Slot>>,
}

/// The slots of a process. The lines are as long as its deliveries are many, and one sweep more.
#[derive(Clone)]
pub(super) struct Slots {
    waiting: Arc<Mutex<Waiting>>,
    busy: TaskTracker,
}

/// A slot for a run; free again when this is dropped.
pub(super) struct Slot {
    slots: Slots,
    _busy: TaskToken,
}

impl Slots {
    /// `free` slots, whose use is counted in `busy`.
    pub(super) fn new(free: usize, busy: TaskTracker) -> Self {
        Slots { waiting: Arc::new(Mutex::new(Waiting { free, ..Waiting::default() })), busy }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().expect("nothing panics while it holds the slots")
    }

    fn slot(&self) -> Slot {
        Slot { slots: self.clone(), _busy: self.busy.token() }
    }

    /// Waits for a free slot.
    pub(super) async fn take(&self, line: Line) -> Slot {
        let receiver = {
            let mut waiting = self.lock();
            if waiting.free > 0 {
                waiting.free -= 1;
                return self.slot();
            }
            let (sender, receiver) = oneshot::channel();
            match line {
                Line::Overdue => waiting.overdue.push_back(sender),
                Line::Hinted => waiting.hinted.push_back(sender),
            }
            receiver
        };
        receiver.await.expect("a waiting sender lives as long as the slots")
    }
}

impl Drop for Slot {
    /// Hands the slot to the first that still waits.
    fn drop(&mut self) {
        let mut waiting = self.slots.lock();
        // Those that do not wait any more are in nobody's way.
        waiting.overdue.retain(|sender| !sender.is_closed());
        waiting.hinted.retain(|sender| !sender.is_closed());
        let next = waiting.overdue.pop_front().or_else(|| waiting.hinted.pop_front());
        if next.is_none() {
            waiting.free += 1;
        }
        drop(waiting);
        if let Some(next) = next {
            // A receiver that is gone by now drops the slot, which hands it on.
            drop(next.send(self.slots.slot()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn what_is_overdue_goes_before_what_came_earlier_by_a_hint() {
        let slots = Slots::new(1, TaskTracker::default());
        let held = slots.take(Line::Hinted).await;
        let (sender, mut order) = tokio::sync::mpsc::channel(2);
        for line in [Line::Hinted, Line::Overdue] {
            let (slots, sender) = (slots.clone(), sender.clone());
            tokio::spawn(async move {
                let slot = slots.take(line).await;
                sender.send(line).await.unwrap();
                drop(slot);
            });
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        drop(held);
        assert_eq!((order.recv().await, order.recv().await), (Some(Line::Overdue), Some(Line::Hinted)));
    }

    #[tokio::test]
    async fn a_slot_is_not_lost_with_one_that_gave_up() {
        let busy = TaskTracker::default();
        let slots = Slots::new(1, busy.clone());
        let held = slots.take(Line::Hinted).await;
        for line in [Line::Overdue, Line::Hinted] {
            assert!(timeout(Duration::from_millis(10), slots.take(line)).await.is_err());
        }
        drop(held);
        let again = timeout(Duration::from_secs(1), slots.take(Line::Hinted)).await.expect("it is free");
        drop(again);
        busy.wait_empty().await;
        assert_eq!(slots.lock().free, 1);
    }
}
