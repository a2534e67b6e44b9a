//! What a RabbitMQ does when it is not well.

use crate::plan::{Course, FaultRow, ServiceWords};
use crate::standins::faults;
use crate::trace::fault::FaultKind;

/// RabbitMQ forgets what is not durable.
pub static RESTART: FaultRow = FaultRow { help: "it is down, then up again, with what is on disk", ..faults::RESTART };

/// An alarm goes off: publishers wait.
pub static FULL: FaultRow = FaultRow { help: "publishers are blocked", ..faults::FULL };

/// An operator purges every queue; what is not acknowledged stays.
pub static PURGE: FaultRow = FaultRow {
    kind: FaultKind { word: "purge", struck: Some("the queues of {} are purged"), ..FaultRow::SERVICE.kind },
    course: Course::Instant,
    help: "what is ready in any queue is gone",
    ..FaultRow::SERVICE
};

/// Somebody else's program publishes to every queue what is meant for another.
pub static FOREIGN: FaultRow = FaultRow {
    kind: FaultKind {
        word: "foreign_message",
        struck: Some("somebody else's message is in each queue of {}"),
        ..FaultRow::SERVICE.kind
    },
    course: Course::Instant,
    help: "each queue gets a message that is JSON and none of the product's",
    ..FaultRow::SERVICE
};

/// What plans may say of it.
pub static WORDS: ServiceWords =
    ServiceWords { name: "rabbitmq", http: false, faults: &[&RESTART, &FULL, &PURGE, &FOREIGN] };
