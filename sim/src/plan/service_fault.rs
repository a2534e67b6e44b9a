//! What ails a service from inside. Each is the service's own way to fail: what it answers then, the real server answers.

use std::time::Duration;

/// What is wrong with a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)] // the variants say what the fields are
pub enum ServiceFault {
    /// Its process ends, and begins again when the fault heals: connections are closed, and refused meanwhile. Redis forgets
    /// everything, RabbitMQ what is not durable, Postgres what is not committed, the container engine what it was about to
    /// do; its containers live on.
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
    /// Redis: an operator flushes it: every key is gone, connections and loaded scripts stay.
    Flush,
    /// RabbitMQ: an operator purges every queue; what is not acknowledged stays.
    Purge,
    /// Postgres: each commit of a change is refused with 40001.
    SerializationFailure,
    /// Postgres: nobody new may connect.
    TooManyConnections,
    /// Postgres: a commit takes so much longer.
    SlowCommit { by: Duration },
    /// Postgres: somebody's ALTER TABLE has every table to itself; statements wait for it, transactions that are open go on.
    TableLock,
    /// Redis, Postgres: the clock of its machine goes ahead, until it steps back.
    ClockAhead { by: Duration },
    /// Redis, Postgres: the clock of its machine was set back, until it steps ahead again.
    ClockBehind { by: Duration },
    /// Container engine: a container that is stopped does not hear it, and is killed only so much after its grace.
    SlowStop { by: Duration },
    /// Container engine: it creates none.
    FailedCreate,
    /// Container engine: a container that is started hangs before it does anything, until the fault heals.
    NotReady,
    /// Container engine: it denies once that there is a container which it shows, to each kind of change of each.
    StaleHandle,
}

/// By service: what can ail it.
const KNOWN: &[(&str, &[&str])] = &[
    ("redis", &["restart", "readonly", "loading", "full", "failover", "evict", "flush", "clock_ahead", "clock_behind"]),
    ("rabbitmq", &["restart", "full", "purge"]),
    (
        "postgres",
        &[
            "restart",
            "full",
            "serialization_failure",
            "too_many_connections",
            "slow_commit",
            "table_lock",
            "clock_ahead",
            "clock_behind",
        ],
    ),
    ("engine", &["restart", "slow_stop", "failed_create", "not_ready", "stale_handle"]),
];

impl ServiceFault {
    /// Each word that a plan may use.
    pub const NAMES: [&'static str; 18] = [
        "restart",
        "readonly",
        "loading",
        "full",
        "failover",
        "evict",
        "flush",
        "purge",
        "serialization_failure",
        "too_many_connections",
        "slow_commit",
        "table_lock",
        "clock_ahead",
        "clock_behind",
        "slow_stop",
        "failed_create",
        "not_ready",
        "stale_handle",
    ];

    /// Those of them that say by how much, with the word `by`.
    pub const TAKING_BY: [&'static str; 4] = ["slow_commit", "slow_stop", "clock_ahead", "clock_behind"];

    /// Those that are of a clock.
    pub const OF_CLOCK: [&'static str; 2] = ["clock_ahead", "clock_behind"];

    /// A clock is off by at most this: what keeps time over the network corrects more at once, or raises an alarm.
    pub const CLOCK_OFF_MAX: Duration = Duration::from_secs(60);

    /// By its word. `by` is for [`ServiceFault::TAKING_BY`] alone.
    pub fn named(word: &str, by: Option<Duration>) -> Option<ServiceFault> {
        Some(match word {
            "restart" => ServiceFault::Restart,
            "readonly" => ServiceFault::Readonly,
            "loading" => ServiceFault::Loading,
            "full" => ServiceFault::Full,
            "failover" => ServiceFault::Failover,
            "evict" => ServiceFault::Evict,
            "flush" => ServiceFault::Flush,
            "purge" => ServiceFault::Purge,
            "serialization_failure" => ServiceFault::SerializationFailure,
            "too_many_connections" => ServiceFault::TooManyConnections,
            "slow_commit" => ServiceFault::SlowCommit { by: by? },
            "table_lock" => ServiceFault::TableLock,
            "clock_ahead" => ServiceFault::ClockAhead { by: by? },
            "clock_behind" => ServiceFault::ClockBehind { by: by? },
            "slow_stop" => ServiceFault::SlowStop { by: by? },
            "failed_create" => ServiceFault::FailedCreate,
            "not_ready" => ServiceFault::NotReady,
            "stale_handle" => ServiceFault::StaleHandle,
            _ => return None,
        })
    }

    /// The word in plans.
    pub fn name(self) -> &'static str {
        match self {
            ServiceFault::Restart => "restart",
            ServiceFault::Readonly => "readonly",
            ServiceFault::Loading => "loading",
            ServiceFault::Full => "full",
            ServiceFault::Failover => "failover",
            ServiceFault::Evict => "evict",
            ServiceFault::Flush => "flush",
            ServiceFault::Purge => "purge",
            ServiceFault::SerializationFailure => "serialization_failure",
            ServiceFault::TooManyConnections => "too_many_connections",
            ServiceFault::SlowCommit { .. } => "slow_commit",
            ServiceFault::TableLock => "table_lock",
            ServiceFault::ClockAhead { .. } => "clock_ahead",
            ServiceFault::ClockBehind { .. } => "clock_behind",
            ServiceFault::SlowStop { .. } => "slow_stop",
            ServiceFault::FailedCreate => "failed_create",
            ServiceFault::NotReady => "not_ready",
            ServiceFault::StaleHandle => "stale_handle",
        }
    }

    /// By how much, where it says so.
    pub fn by(self) -> Option<Duration> {
        match self {
            ServiceFault::SlowCommit { by }
            | ServiceFault::SlowStop { by }
            | ServiceFault::ClockAhead { by }
            | ServiceFault::ClockBehind { by } => Some(by),
            _ => None,
        }
    }

    /// Whether it can have no length.
    pub fn instant(self) -> bool {
        matches!(self, ServiceFault::Evict | ServiceFault::Flush | ServiceFault::Purge)
    }

    /// Whether everybody loses the connection when it begins.
    pub fn closes(self) -> bool {
        self == ServiceFault::Restart
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
        for word in ServiceFault::NAMES {
            let ailment = ServiceFault::named(word, Some(Duration::ZERO)).expect(word);
            assert_eq!(ailment.name(), word);
            assert!(ServiceFault::services(word).next().is_some(), "{word}");
        }
    }
}
