//! The one source of ids. Seeded by the operating system in production; nothing else in this crate is random.

use std::sync::Mutex;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::ids::{ClaimId, MessageId, RunId, SessionId};

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
