//! What ails a service from inside. Each is the service's own way to fail: what it answers then, the real server answers.

use std::time::Duration;

/// What is wrong with a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)] // the variants say what the fields are
pub enum Ailment {
    /// Its process ends, and begins again when the fault heals: connections are closed, and refused meanwhile. Redis forgets
    /// everything, RabbitMQ what is not durable, Postgres what is not committed.
    Restart,
    /// Redis: it is a replica now, and takes no writes.
    Readonly,
    /// Redis: it reads its data from disk, and answers nothing else.
    Loading,
    /// Redis: no memory is left, writes are refused. RabbitMQ: an alarm, publishers wait. Postgres: no disk is left,
    /// whatever needs some is refused.
    Full,
    /// Redis: what is written while it lasts is lost at its end, with every connection: a replica took over that had not
    /// heard of it.
    Failover,
    /// Redis: whatever would expire some day is gone now.
    Evict,
    /// RabbitMQ: an operator purges every queue; what is not acknowledged stays.
    Purge,
    /// Postgres: each commit of a change is refused with 40001.
    SerializationFailure,
    /// Postgres: nobody new may connect.
    TooManyConnections,
    /// Postgres: a commit takes so much longer.
    SlowCommit { by: Duration },
}

/// By service: what can ail it.
const KNOWN: &[(&str, &[&str])] = &[
    ("redis", &["restart", "readonly", "loading", "full", "failover", "evict"]),
    ("rabbitmq", &["restart", "full", "purge"]),
    ("postgres", &["restart", "full", "serialization_failure", "too_many_connections", "slow_commit"]),
];

impl Ailment {
    /// Each word that a plan may use.
    pub const NAMES: [&'static str; 10] = [
        "restart",
        "readonly",
        "loading",
        "full",
        "failover",
        "evict",
        "purge",
        "serialization_failure",
        "too_many_connections",
        "slow_commit",
    ];

    /// By its word. `by` is for `slow_commit` alone.
    pub fn named(word: &str, by: Option<Duration>) -> Option<Ailment> {
        Some(match word {
            "restart" => Ailment::Restart,
            "readonly" => Ailment::Readonly,
            "loading" => Ailment::Loading,
            "full" => Ailment::Full,
            "failover" => Ailment::Failover,
            "evict" => Ailment::Evict,
            "purge" => Ailment::Purge,
            "serialization_failure" => Ailment::SerializationFailure,
            "too_many_connections" => Ailment::TooManyConnections,
            "slow_commit" => Ailment::SlowCommit { by: by? },
            _ => return None,
        })
    }

    /// The word in plans.
    pub fn name(self) -> &'static str {
        match self {
            Ailment::Restart => "restart",
            Ailment::Readonly => "readonly",
            Ailment::Loading => "loading",
            Ailment::Full => "full",
            Ailment::Failover => "failover",
            Ailment::Evict => "evict",
            Ailment::Purge => "purge",
            Ailment::SerializationFailure => "serialization_failure",
            Ailment::TooManyConnections => "too_many_connections",
            Ailment::SlowCommit { .. } => "slow_commit",
        }
    }

    /// Whether it can have no length.
    pub fn instant(self) -> bool {
        matches!(self, Ailment::Evict | Ailment::Purge)
    }

    /// Whether everybody loses the connection when it begins.
    pub fn closes(self) -> bool {
        self == Ailment::Restart
    }

    /// The services that a kind can strike.
    pub fn services(word: &str) -> impl Iterator<Item = &'static str> {
        KNOWN.iter().filter(move |(_, words)| words.contains(&word)).map(|(service, _)| *service)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_an_ailment_of_some_service() {
        for word in Ailment::NAMES {
            let ailment = Ailment::named(word, Some(Duration::ZERO)).expect(word);
            assert_eq!(ailment.name(), word);
            assert!(Ailment::services(word).next().is_some(), "{word}");
        }
    }
}
