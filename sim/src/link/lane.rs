//! One direction of a connection: what has been read and not yet carried, and whom it blames for being late. Its one law:
//! bytes leave it in the order in which they came.

use std::collections::VecDeque;
use std::time::Duration;

use super::{LATE, Link, LinkObserver, Pace};
use crate::trace::fault::FaultId;

/// One direction: what has been read and not yet carried.
#[derive(Default)]
pub(super) struct Lane {
    pub(super) chunks: VecDeque<Chunk>,
    pub(super) bytes: usize,
    due: Duration,
    /// When the next bytes may be carried at a slow pace.
    ready: Duration,
}

pub(super) struct Chunk {
    pub(super) bytes: Vec<u8>,
    due: Duration,
    pub(super) held: Held,
}

/// What faults did to a chunk, or to a connection that waits to be dialled.
#[derive(Default)]
pub(super) struct Held {
    since: Duration,
    blame: Vec<FaultId>,
    /// The live work that it is about; looked up when the first fault touches it.
    label: Option<String>,
    told: usize,
}

impl Held {
    pub(super) fn since(since: Duration) -> Held {
        Held { since, ..Held::default() }
    }

    /// Adds faults to blame; `label` is asked once.
    pub(super) fn by(&mut self, faults: &[FaultId], label: impl FnOnce() -> Option<String>) {
        if self.blame.is_empty() && !faults.is_empty() {
            self.label = label();
        }
        for fault in faults {
            if !self.blame.contains(fault) {
                self.blame.push(*fault);
            }
        }
    }

    /// Tells each fault that made this late, once. Returns when it will be late, if it is not yet.
    pub(super) fn tell(&mut self, link: &Link, observer: &dyn LinkObserver, now: Duration) -> Option<Duration> {
        if self.told == self.blame.len() {
            return None;
        }
        if now < self.since + LATE {
            return Some(self.since + LATE);
        }
        if let Some(label) = &self.label {
            self.blame[self.told..].iter().for_each(|fault| observer.felt(link, *fault, label));
        }
        self.told = self.blame.len();
        None
    }
}

impl Lane {
    pub(super) fn push(
        &mut self,
        bytes: &[u8],
        now: Duration,
        delays: &[(FaultId, Duration)],
        label: impl FnOnce() -> Option<String>,
    ) {
        let by: Duration = delays.iter().map(|(_, by)| *by).sum();
        self.due = self.due.max(now + by);
        let mut held = Held::since(now);
        let faults: Vec<FaultId> = delays.iter().map(|(fault, _)| *fault).collect();
        held.by(&faults, label);
        self.bytes += bytes.len();
        self.chunks.push_back(Chunk { bytes: bytes.to_vec(), due: self.due, held });
    }

    /// What may be carried now, or when there may be something. What a slow pace makes late is blamed on its faults.
    pub(super) fn next(
        &mut self,
        now: Duration,
        pace: &Pace,
        label: impl Fn(&[u8]) -> Option<String>,
    ) -> Result<Chunk, Duration> {
        let head = self.chunks.front_mut().ok_or(Duration::MAX)?;
        if head.due > now {
            return Err(head.due);
        }
        if pace.faults.is_empty() {
            return self.pop().ok_or(Duration::MAX);
        }
        let waits = self.ready > now;
        if waits || head.bytes.len() > pace.bytes {
            head.held.by(&pace.faults, || label(&head.bytes));
        }
        if waits {
            return Err(self.ready);
        }
        self.ready = now + pace.by;
        if head.bytes.len() <= pace.bytes {
            return self.pop().ok_or(Duration::MAX);
        }
        let rest = head.bytes.split_off(pace.bytes);
        let bytes = std::mem::replace(&mut head.bytes, rest);
        self.bytes -= bytes.len();
        Ok(Chunk { bytes, due: head.due, held: Held::since(now) })
    }

    fn pop(&mut self) -> Option<Chunk> {
        let chunk = self.chunks.pop_front()?;
        self.bytes -= chunk.bytes.len();
        Some(chunk)
    }
}
