//! Ids, each a type of its own, so that a session is never taken for a run, and [`Mint`], which makes them. The
//! operating system seeds it in production; nothing else in this crate is random.

use std::fmt;
use std::sync::Mutex;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
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
    /// A message of a user, accepted once.
    MessageId
);
id!(
    /// The work that a message started.
    RunId
);
id!(
    /// An attempt to claim, so that repeating it after a lost reply gives the same fence.
    ClaimId
);

/// The number that Postgres mints when a run is claimed. Every durable write, provider call and frame names it; the
/// larger one is the one that counts. 0 is a run that no executor has claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fence(pub i64);

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An incarnation of a process, counted per process name by Postgres, from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The configured process name, as `executor-1`.
    pub process: String,
    /// The incarnation's number.
    pub incarnation: i64,
}

/// Mints ids: 128 random bits as 32 hexadecimal digits.
pub struct Mint(Mutex<ChaCha8Rng>);

impl Mint {
    /// A mint that gives the same ids for the same 32 bytes of entropy.
    pub fn seeded(entropy: [u8; 32]) -> Self {
        Mint(Mutex::new(ChaCha8Rng::from_seed(entropy)))
    }

    /// A new session's id.
    pub fn session(&self) -> SessionId {
        SessionId(self.word())
    }

    /// A new message's id.
    pub fn message(&self) -> MessageId {
        MessageId(self.word())
    }

    /// A new run's id.
    pub fn run(&self) -> RunId {
        RunId(self.word())
    }

    /// A new claim's id.
    pub fn claim(&self) -> ClaimId {
        ClaimId(self.word())
    }

    /// A name for something that lives as long as a connection, as an exclusive queue.
    pub fn word(&self) -> String {
        let mut rng = self.0.lock().expect("nothing panics while it mints");
        format!("{:016x}{:016x}", rng.next_u64(), rng.next_u64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_entropy_mints_the_same_ids_and_no_two_are_equal() {
        let (a, b) = (Mint::seeded([7; 32]), Mint::seeded([7; 32]));
        let minted: Vec<_> = (0..100).map(|_| a.run()).collect();
        assert_eq!(minted, (0..100).map(|_| b.run()).collect::<Vec<_>>());
        let distinct: std::collections::BTreeSet<_> = minted.iter().collect();
        assert_eq!(distinct.len(), minted.len());
        assert!(minted.iter().all(|id| id.0.len() == 32));
    }
}
