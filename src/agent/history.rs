//! The last that was said through this agent, for people who look. The record of truth is in the checkpoints.

use std::collections::VecDeque;

use crate::ids::SessionId;
use crate::provider::Role;

/// An entry of the history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub session: SessionId,
    pub role: Role,
    pub content: String,
}

/// First in, first out, bounded in number and in bytes at every instant.
#[derive(Debug)]
pub(super) struct History {
    entries: VecDeque<Entry>,
    bytes: usize,
    limit: usize,
    bytes_limit: usize,
}

impl Entry {
    fn bytes(&self) -> usize {
        self.session.0.len() + self.content.len()
    }
}

impl History {
    pub fn new(limit: usize, bytes_limit: usize) -> Self {
        History { entries: VecDeque::new(), bytes: 0, limit, bytes_limit }
    }

    /// Makes room, then keeps it. What alone is larger than everything that may be kept is not kept.
    pub fn push(&mut self, entry: Entry) {
        let needs = entry.bytes();
        if needs > self.bytes_limit {
            return;
        }
        while self.entries.len() >= self.limit || self.bytes + needs > self.bytes_limit {
            let Some(oldest) = self.entries.pop_front() else { return };
            self.bytes -= oldest.bytes();
        }
        self.bytes += needs;
        self.entries.push_back(entry);
    }

    /// Number, bytes, and the limits of both.
    pub fn size(&self) -> [usize; 4] {
        [self.entries.len(), self.bytes, self.limit, self.bytes_limit]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(content: &str) -> Entry {
        Entry { session: SessionId("s".into()), role: Role::User, content: content.into() }
    }

    #[test]
    fn the_last_ones_stay_in_order_and_neither_bound_is_ever_passed() {
        let mut history = History::new(3, 1000);
        (0..7).for_each(|n| history.push(said(&format!("msg-{n}"))));
        let kept: Vec<_> = history.entries.iter().map(|entry| entry.content.as_str()).collect();
        assert_eq!(kept, ["msg-4", "msg-5", "msg-6"]);

        let mut history = History::new(100, 30);
        for n in 1..20 {
            history.push(said(&"x".repeat(n)));
            assert!(history.bytes <= 30);
        }
        history.push(said(&"x".repeat(30)));
        let [number, bytes, ..] = history.size();
        assert_eq!((number, bytes), (1, 20));
    }
}
