//! What a trace says of faults: which one of the plan, and of what kind.

use std::fmt;

use serde::{Serialize, Serializer};

/// A fault of a plan, by its place there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FaultId(usize);

impl FaultId {
    /// The fault at this place of its plan, from 0.
    pub const fn at(place: usize) -> FaultId {
        FaultId(place)
    }

    /// The fault with this number, from 1.
    ///
    /// # Panics
    /// With 0.
    pub const fn numbered(number: usize) -> FaultId {
        assert!(number > 0, "faults are counted from 1");
        FaultId(number - 1)
    }

    /// The place in the plan, from 0.
    pub fn place(self) -> usize {
        self.0
    }

    /// The number as people count, from 1.
    pub fn number(self) -> usize {
        self.0 + 1
    }
}

impl fmt::Display for FaultId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "fault {}", self.number())
    }
}

/// The number, from 1.
impl Serialize for FaultId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.number() as u64)
    }
}

/// A kind of fault as events carry it. Two with the same word are the same kind.
#[derive(Clone, Copy)]
pub struct FaultKind {
    /// The word in plans and traces, as `wedge`.
    pub word: &'static str,
    /// The line of the story when it strikes, with `{}` for its target. `None`: what the struck process does tells it.
    pub struck: Option<&'static str>,
    /// The line of the story when it has lasted and heals, with `{}` for its target.
    pub healed: Option<&'static str>,
}

impl FaultKind {
    /// The story's line for a strike at `target`.
    pub fn struck(&self, target: &str) -> Option<String> {
        self.struck.map(|line| line.replace("{}", target))
    }

    /// The story's line for the end of a strike at `target`.
    pub fn healed(&self, target: &str) -> Option<String> {
        self.healed.map(|line| line.replace("{}", target))
    }
}

impl PartialEq for FaultKind {
    fn eq(&self, other: &FaultKind) -> bool {
        self.word == other.word
    }
}

impl Eq for FaultKind {}

impl fmt::Debug for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word)
    }
}

/// A kind is written as its word.
impl Serialize for FaultKind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.word)
    }
}
