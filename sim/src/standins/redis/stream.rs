//! A stream: entries by id, ids only grow. Approximate trimming (`~`) drops whole nodes only, as Redis does.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::ops::Bound;

use bytes::Bytes;

use super::keyspace::Refusal;

/// Redis starts another node after this many entries (`stream-node-max-entries`).
const NODE_ENTRIES_MAX: usize = 100;

/// Redis starts another node when the next entry would fill one beyond this (`stream-node-max-bytes`).
const NODE_BYTES_MAX: usize = 4096;

/// What an entry's id and lengths cost in a node beside its fields, roughly.
const ENTRY_BYTES: usize = 10;

/// An entry's place: `3-14`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Id {
    /// Milliseconds, if Redis chose it.
    pub ms: u64,
    /// The place among those of one `ms`.
    pub seq: u64,
}

impl Id {
    /// Before all entries.
    pub const MIN: Id = Id { ms: 0, seq: 0 };
    /// After all entries.
    pub const MAX: Id = Id { ms: u64::MAX, seq: u64::MAX };

    /// Reads `3-14`, or `3` with `seq` in place of what is missing.
    ///
    /// # Errors
    /// Redis's complaint about anything else.
    pub fn parse(word: &[u8], seq: u64) -> Result<Id, Refusal> {
        let invalid = || Refusal("ERR Invalid stream ID specified as stream command argument".into());
        let text = std::str::from_utf8(word).map_err(|_| invalid())?;
        let number = |digits: &str| -> Result<u64, Refusal> {
            if digits.bytes().all(|byte| byte.is_ascii_digit()) {
                digits.parse().map_err(|_| invalid())
            } else {
                Err(invalid())
            }
        };
        match text.split_once('-') {
            Some((ms, seq)) => Ok(Id { ms: number(ms)?, seq: number(seq)? }),
            None => Ok(Id { ms: number(text)?, seq }),
        }
    }

    /// The next one, unless this is the last.
    pub fn next(self) -> Option<Id> {
        match self.seq.checked_add(1) {
            Some(seq) => Some(Id { ms: self.ms, seq }),
            None => self.ms.checked_add(1).map(|ms| Id { ms, seq: 0 }),
        }
    }

    /// The one before, unless this is the first.
    pub fn previous(self) -> Option<Id> {
        match self.seq.checked_sub(1) {
            Some(seq) => Some(Id { ms: self.ms, seq }),
            None => self.ms.checked_sub(1).map(|ms| Id { ms, seq: u64::MAX }),
        }
    }
}

impl fmt::Display for Id {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}-{}", self.ms, self.seq)
    }
}

/// The id that XADD asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// `*`
    Any,
    /// `3-*`
    Ms(u64),
    /// `3-14`
    Exactly(Id),
}

/// What a stream may keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// MAXLEN: the newest so many.
    Lifetime(usize),
    /// MINID: those from here on.
    From(Id),
}

/// How to trim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trim {
    /// What to keep.
    pub limit: Limit,
    /// `~`: whole nodes only, and at most so many entries at once.
    pub approximate: Option<usize>,
}

/// Field, value, field, value.
pub type Fields = Vec<Bytes>;

#[derive(Clone, Debug)]
struct Node {
    first: Id,
    /// Including deleted ones.
    entries: usize,
    bytes: usize,
}

/// The entries.
#[derive(Clone, Debug, Default)]
pub struct Stream {
    entries: BTreeMap<Id, Fields>,
    nodes: VecDeque<Node>,
    /// The newest id that there ever was.
    pub last: Id,
}

impl Stream {
    /// Appends. `now` is in Unix milliseconds.
    ///
    /// # Errors
    /// An id that is not larger than all before.
    pub fn add(&mut self, wanted: Wanted, now: u64, fields: Fields) -> Result<Id, Refusal> {
        let exhausted =
            || Refusal("ERR The stream has exhausted the last possible ID, unable to add more items".into());
        let small =
            || Refusal("ERR The ID specified in XADD is equal or smaller than the target stream top item".into());
        if self.last == Id::MAX {
            return Err(exhausted());
        }
        let id = match wanted {
            Wanted::Any if now > self.last.ms => Id { ms: now, seq: 0 },
            Wanted::Any => self.last.next().ok_or_else(exhausted)?,
            Wanted::Ms(ms) if ms == self.last.ms => Id { ms, seq: self.last.seq.checked_add(1).ok_or_else(small)? },
            Wanted::Ms(ms) => Id { ms, seq: 0 },
            Wanted::Exactly(id) => id,
        };
        if id <= self.last {
            return Err(small());
        }
        let bytes = ENTRY_BYTES + fields.iter().map(|word| word.len() + 2).sum::<usize>();
        match self.nodes.back_mut() {
            Some(node) if node.entries < NODE_ENTRIES_MAX && node.bytes + bytes < NODE_BYTES_MAX => {
                node.entries += 1;
                node.bytes += bytes;
            }
            _ => self.nodes.push_back(Node { first: id, entries: 1, bytes }),
        }
        self.entries.insert(id, fields);
        self.last = id;
        Ok(id)
    }

    /// How many entries there are.
    pub fn count(&self) -> usize {
        self.entries.len()
    }

    /// The entries from `start` to `end`, both included, oldest first.
    pub fn range(&self, start: Id, end: Id) -> impl DoubleEndedIterator<Item = (Id, &Fields)> {
        let bounds = if start <= end {
            (Bound::Included(start), Bound::Included(end))
        } else {
            (Bound::Included(start), Bound::Excluded(start))
        };
        self.entries.range(bounds).map(|(id, fields)| (*id, fields))
    }

    /// Whether there is an entry after `id`.
    pub fn has_after(&self, id: Id) -> bool {
        self.entries.last_key_value().is_some_and(|(last, _)| *last > id)
    }

    /// Takes one entry out; says whether it was there.
    pub fn delete(&mut self, id: Id) -> bool {
        let found = self.entries.remove(&id).is_some();
        if found {
            self.drop_empty_nodes();
        }
        found
    }

    /// Drops the oldest entries; says how many.
    pub fn trim(&mut self, trim: Trim) -> usize {
        let surplus = match trim.limit {
            Limit::Lifetime(max) => self.entries.len().saturating_sub(max),
            Limit::From(id) => self.entries.range(..id).count(),
        };
        let dropped = match trim.approximate {
            None => surplus,
            Some(at_once) => self.whole_nodes_within(surplus, at_once),
        };
        for _ in 0..dropped {
            self.entries.pop_first();
        }
        self.drop_empty_nodes();
        dropped
    }

    /// How many entries the oldest nodes hold that lie wholly within the oldest `surplus` entries.
    fn whole_nodes_within(&self, surplus: usize, at_once: usize) -> usize {
        let mut dropped = 0;
        for index in 0..self.nodes.len() {
            let in_node = self.in_node(index);
            if dropped + in_node > surplus || dropped + in_node > at_once {
                break;
            }
            dropped += in_node;
        }
        dropped
    }

    /// The living entries of one node.
    fn in_node(&self, index: usize) -> usize {
        let start = self.nodes[index].first;
        match self.nodes.get(index + 1) {
            Some(next) => self.entries.range(start..next.first).count(),
            None => self.entries.range(start..).count(),
        }
    }

    fn drop_empty_nodes(&mut self) {
        // Trimming empties nodes from the front; a node in the middle that XDEL emptied is dropped with its neighbours.
        while !self.nodes.is_empty() && self.in_node(0) == 0 {
            self.nodes.pop_front();
        }
    }
}
