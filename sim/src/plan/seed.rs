//! A seed is one root and many streams. Each purpose draws from its own stream, so that one more draw for one purpose
//! does not reshuffle the others.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use sha2::{Digest, Sha256};

/// The root of everything that is random in one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seed(pub u64);

/// What a stream of random numbers is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The draws of what users say, and when.
    Workload,
    /// The draws of faults, and where they strike.
    Faults,
    /// How long bytes travel on each link.
    Links,
    /// The order in which ready tasks run.
    Schedule,
    /// What the model provider answers.
    Provider,
}

impl Seed {
    /// The stream for `purpose`: the same for ever, whatever else is drawn.
    pub fn stream(self, purpose: Purpose) -> ChaCha8Rng {
        self.labelled(&format!("{purpose:?}"))
    }

    /// A stream of its own for any label, as `mint/executor-1/2`.
    pub fn labelled(self, label: &str) -> ChaCha8Rng {
        ChaCha8Rng::from_seed(self.key(label))
    }

    /// 32 bytes that depend on this seed and on `label` alone.
    pub fn key(self, label: &str) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(self.0.to_le_bytes());
        hash.update(label.as_bytes());
        hash.finalize().into()
    }

    /// A number for a library that takes one, as madsim's runtime does.
    pub fn number(self, label: &str) -> u64 {
        let key = self.key(label);
        u64::from_le_bytes(key[..8].try_into().expect("32 bytes hold 8"))
    }
}
