//! The kinds of fault that several services have. Each service has its own row of them, which says what they are like there.

use crate::plan::{Connections, FaultRow};
use crate::trace::fault::FaultKind;

/// The service's process ends, and begins again when the fault heals: connections are closed, and refused meanwhile.
pub const RESTART: FaultRow = FaultRow {
    kind: FaultKind { word: "restart", struck: Some("{} goes down"), healed: Some("{} comes up again") },
    connections: Connections::Down,
    ..FaultRow::SERVICE
};

/// What the service takes while it lasts is lost at its end, with every connection: another node takes over that had not heard of it.
pub const FAILOVER: FaultRow = FaultRow {
    kind: FaultKind {
        word: "failover",
        struck: Some("what {} takes from here on will be lost"),
        healed: Some("another {} takes over"),
    },
    connections: Connections::LostAtEnd,
    ..FaultRow::SERVICE
};

/// The service has no room left.
pub const FULL: FaultRow = FaultRow {
    kind: FaultKind { word: "full", struck: Some("{} is full"), ..FaultRow::SERVICE.kind },
    ..FaultRow::SERVICE
};

/// Nobody new may connect.
pub const TOO_MANY_CONNECTIONS: FaultRow = FaultRow {
    kind: FaultKind {
        word: "too_many_connections",
        struck: Some("{} takes no more connections"),
        ..FaultRow::SERVICE.kind
    },
    ..FaultRow::SERVICE
};

#[cfg(test)]
mod tests {
    use crate::standins::{engine, postgres, provider, rabbit, redis};

    #[test]
    fn rows_of_one_word_differ_in_nothing_but_their_help() {
        let all = [
            &redis::faults::WORDS,
            &rabbit::faults::WORDS,
            &postgres::faults::WORDS,
            &engine::faults::WORDS,
            &provider::faults::WORDS,
        ];
        let rows: Vec<_> = all.iter().flat_map(|service| service.faults).collect();
        for row in &rows {
            for other in rows.iter().filter(|other| other.word() == row.word()) {
                let names = |row: &crate::plan::FaultRow| row.args.iter().map(|arg| arg.name).collect::<Vec<_>>();
                assert_eq!((row.target, row.course, row.connections), (other.target, other.course, other.connections));
                assert_eq!(names(row), names(other), "{}", row.word());
                assert_eq!((row.kind.struck, row.kind.healed), (other.kind.struck, other.kind.healed));
            }
        }
    }
}
