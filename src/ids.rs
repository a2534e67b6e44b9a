//! Names of things, each a type of its own, so that a session is never taken for a run.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub String);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

id!(
    /// A conversation.
    SessionId
);
id!(
    /// What a user said, once.
    MessageId
);
id!(
    /// The work that a message started.
    RunId
);
id!(
    /// One attempt to claim, so that repeating it after a lost reply gives the same fence.
    ClaimId
);

/// The number that Postgres mints when a run is claimed. Every durable write, provider call and frame names it; the
/// larger one is the one that counts. 0 is a run that nobody has claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fence(pub i64);

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One life of one process, counted per process name by Postgres, from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The configured process name, as `executor-1`.
    pub process: String,
    /// Which life of it.
    pub incarnation: i64,
}
