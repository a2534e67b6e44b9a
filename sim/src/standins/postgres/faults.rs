//! What a Postgres answers when it is not well. SQLSTATEs and texts are those of its source (`errcodes.txt`, `md.c`,
//! `predicate.c`); a full disk and a serialization failure cannot be shown at will on a real server.

use std::time::Duration;

use super::refusal::Refusal;
use super::statement::Verb;
use crate::plan::ServiceFault;
use crate::standins::clock::Clock;

/// What ails it.
#[derive(Debug, Default)]
pub(super) struct Faults {
    full: bool,
    serialization_failure: bool,
    too_many_connections: bool,
    /// By how much commits are late.
    slow_commit: Duration,
    pub clock: Clock,
}

impl Faults {
    /// Begins or ends.
    ///
    /// # Panics
    /// What Postgres does not suffer from.
    pub fn set(&mut self, ailment: ServiceFault, on: bool) {
        match ailment {
            ServiceFault::Full => self.full = on,
            ServiceFault::SerializationFailure => self.serialization_failure = on,
            ServiceFault::TooManyConnections => self.too_many_connections = on,
            ServiceFault::SlowCommit { by } => self.slow_commit = if on { by } else { Duration::ZERO },
            // Its next life knows what was committed.
            ServiceFault::Restart => {}
            other if self.clock.set(other, on) => {}
            other => panic!("the Postgres stand-in does not know the fault {}", other.name()),
        }
    }

    /// What a statement is refused with: without disk each that writes a row.
    pub fn refuses(&self, verb: &Verb) -> Option<(ServiceFault, Refusal)> {
        if self.full && matches!(verb, Verb::Insert | Verb::Update | Verb::Schema(_)) {
            let text = "could not extend file \"base/5/16384\": No space left on device";
            return Some((ServiceFault::Full, Refusal::new("53100", text)));
        }
        None
    }

    /// What the commit of a change is refused with.
    pub fn refuses_commit(&self) -> Option<(ServiceFault, Refusal)> {
        let text = "could not serialize access due to read/write dependencies among transactions";
        self.serialization_failure.then(|| (ServiceFault::SerializationFailure, Refusal::new("40001", text)))
    }

    /// By how much such a commit is late.
    pub fn slow_commit(&self) -> Duration {
        self.slow_commit
    }

    /// Whether somebody new may connect.
    pub fn allow_connection(&self) -> bool {
        !self.too_many_connections
    }
}
