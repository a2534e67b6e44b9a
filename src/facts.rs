//! What processes log that somebody relies on: an operator's alarm, or the judge of the simulation. A fact is its sentence and
//! the names of its fields. Whatever else is logged may change at any time.

/// A line of the log, known by its sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fact {
    /// The message.
    pub says: &'static str,
    /// The fields that it always has; others may come with it.
    pub fields: &'static [&'static str],
}

/// A process that was told to stop takes nothing new.
pub const DRAINING: Fact = Fact { says: "draining", fields: &[] };
/// A process that was told to stop could not mark what it has in flight.
pub const MARK_FAILED: Fact = Fact { says: "runs could not be marked", fields: &["error"] };
/// A pool of connections to Postgres is closed in order.
pub const POOL_CLOSED: Fact = Fact { says: "pool_closed", fields: &["pool"] };
/// A pool of connections to Postgres is closed by force.
pub const POOL_ABANDONED: Fact = Fact { says: "pool_abandoned", fields: &["pool"] };
/// A turn came to be committed after its pool was closed.
pub const CHECKPOINT_TRIED: Fact = Fact { says: "a checkpoint was tried on a closed pool", fields: &["run"] };
/// The end of a run was written by the safety net, not by the first tries.
pub const SAVED: Fact = Fact { says: "saved by the safety net", fields: &["run"] };
/// An executor acts no more on a run, which may be another's by now.
pub const LOST: Fact = Fact { says: "lost: no beat was confirmed for too long", fields: &["run"] };

/// Logs a fact at a level, with fields as in `tracing`'s macros: `fact!(warn, facts::LOST, %run)`.
macro_rules! fact {
    ($level:ident, $fact:expr $(, $($fields:tt)+)?) => {
        tracing::$level!($($($fields)+,)? "{}", $fact.says)
    };
}
pub(crate) use fact;
