//! What a model provider does to a caller when it is not well.

use super::dialect::Dialect;
use crate::plan::{Arg, FaultRow, ServiceWords, Takes};
use crate::trace::fault::FaultKind;

/// The statuses that `refuse` may answer with.
pub const REFUSALS: &[u16] = &[429, 401, 403, 500, 503, 529];

/// Calls are answered with this status of HTTP.
pub static REFUSE: FaultRow = FaultRow {
    kind: FaultKind { word: "refuse", struck: Some("{} is refused"), healed: Some("{} is let in again") },
    args: &[
        Arg { name: "status", takes: Takes::OneOf(REFUSALS), required: Some("status = 429"), told: " with {}" },
        Arg { name: "retry_after", takes: Takes::Time, required: None, told: "" },
    ],
    help: "calls of `SERVICE/NAME` are answered with `status` (and `retry_after`) meanwhile",
    ..FaultRow::CALLER
};

/// An answer stops in the middle of an event, and goes on at the end of the fault.
pub static STALL: FaultRow = FaultRow {
    kind: FaultKind { word: "stall", struck: Some("answers to {} stall"), ..FaultRow::CALLER.kind },
    help: "answers to `SERVICE/NAME` stop in the middle of an event, and go on at its end",
    ..FaultRow::CALLER
};

/// An answer ends in order, but before its last event.
pub static TRUNCATE: FaultRow = FaultRow {
    kind: FaultKind { word: "truncate", struck: Some("answers to {} break off"), ..FaultRow::CALLER.kind },
    help: "answers to `SERVICE/NAME` end before their last event meanwhile",
    ..FaultRow::CALLER
};

/// One event of an answer is not what it should be.
pub static MALFORMED: FaultRow = FaultRow {
    kind: FaultKind { word: "malformed", struck: Some("answers to {} are garbled"), ..FaultRow::CALLER.kind },
    help: "answers to `SERVICE/NAME` have an event that is not JSON meanwhile",
    ..FaultRow::CALLER
};

/// The ways in which an answer says that it has failed: in an event of its own, after which the line ends; beside the choices of an event;
/// or before events that end an answer in order.
pub const ERROR_FORMS: &[&str] = &["alone", "beside_choices", "before_the_end"];

/// An answer ends with an event that says that the provider has failed.
pub static ERROR_EVENT: FaultRow = FaultRow {
    kind: FaultKind { word: "error_event", struck: Some("answers to {} end with an error"), ..FaultRow::CALLER.kind },
    args: &[Arg { name: "form", takes: Takes::OneOfWords(ERROR_FORMS), required: None, told: ", {}" }],
    help: "answers to `SERVICE/NAME` end, in the middle, with an event that says so (`form`: where) meanwhile",
    ..FaultRow::CALLER
};

/// Answers that begin are whole, in another dialect than OpenAI's own.
pub static DIALECT: FaultRow = FaultRow {
    kind: FaultKind { word: "dialect", struck: Some("answers to {} come in another dialect"), ..FaultRow::CALLER.kind },
    args: &[Arg {
        name: "form",
        takes: Takes::OneOfWords(Dialect::WORDS),
        required: Some("form = \"no_done\""),
        told: ", {}",
    }],
    help: "answers to `SERVICE/NAME` are whole and in another dialect (`form`) meanwhile",
    ..FaultRow::CALLER
};

/// What plans may say of it.
pub static WORDS: ServiceWords = ServiceWords {
    name: "provider",
    http: true,
    faults: &[&REFUSE, &STALL, &TRUNCATE, &MALFORMED, &ERROR_EVENT, &DIALECT],
};
