//! Which RabbitMQ it is. Its one law: **what 3.10 does was seen**, and is held against a real one; what a later one does
//! otherwise is what its documentation says, and each such place says so. Nothing here has met one.

/// A version whose ways are known here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// Debian 12's, and the one that the conformance tests start.
    #[default]
    V3_10,
    /// A quorum queue without a limit of its own gives up what came back more than 20 times. Source: the release notes of
    /// RabbitMQ 4.0, and "Quorum Queues: Poison Message Handling" in its documentation.
    V4_0,
    /// As well, a consumer may have a timeout of its own; and when one runs out, a client that understands it is told that
    /// its consumer is cancelled, and keeps its channel. Source: the documentation of RabbitMQ 4.3 on acknowledgement
    /// timeouts.
    V4_3,
}

impl Version {
    /// What it says of itself.
    pub fn number(self) -> &'static str {
        match self {
            Version::V3_10 => "3.10.8",
            Version::V4_0 => "4.0.0",
            Version::V4_3 => "4.3.0",
        }
    }

    /// How often a message of a quorum queue may come back if its queue does not say.
    pub(super) fn delivery_limit(self) -> Option<u64> {
        (self >= Version::V4_0).then_some(20)
    }

    /// Whether a consumer that is late is cancelled, rather than its channel closed.
    pub(super) fn cancels_who_is_late(self) -> bool {
        self >= Version::V4_3
    }
}
