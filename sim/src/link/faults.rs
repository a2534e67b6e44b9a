//! The faults of links: a row for each kind, and the effect that it has. What an effect does to bytes stands in
//! `conversation.rs`.

use std::time::Duration;

use crate::plan::{Arg, Course, FaultRow, Kind, Reach, Takes, TargetKind};
use crate::trace::fault::FaultKind;

/// What a fault does to a link while it lasts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Bytes are taken and not carried, in either direction; connecting succeeds.
    Wedge,
    /// New connections are closed at once. Those that stood when it began are closed by [`super::Link::strike`] already.
    Close,
    /// New connections are refused, as by a port on which nobody listens. Those that stand go on.
    ConnectionRefused,
    /// The next request that contains `matches` (any, if `None`) is carried; its answer is dropped with the connection.
    ReplyLost {
        /// Bytes that the request must contain.
        matches: Option<Vec<u8>>,
    },
    /// Each chunk is carried this much later, in order.
    Delay(Duration),
    /// Connections that stand when it begins carry nothing any more, and are closed when it ends.
    HalfOpen,
    /// At most this many bytes of each direction of a connection are carried at a time, and nothing for so long after.
    Trickle {
        /// How many.
        bytes: usize,
        /// For how long.
        by: Duration,
    },
    /// The first chunk of the answer to the next request that contains `matches` (of whatever comes back next, if `None`)
    /// is carried up to half of its bytes; then the connection ends.
    Cut {
        /// Bytes that the request must contain.
        matches: Option<Vec<u8>>,
    },
    /// The next request that contains `matches` (any, if `None`) is delivered once more, over a connection of its own, when
    /// its answer begins; the second answer is dropped.
    Duplicate {
        /// Bytes that the request must contain.
        matches: Option<Vec<u8>>,
    },
    /// The first byte of the answer to the next request that contains `matches` (of whatever comes back next, if `None`) has
    /// its highest bit flipped: no protocol begins a message so, and no text has such a byte alone.
    Corrupt {
        /// Bytes that the request must contain.
        matches: Option<Vec<u8>>,
    },
    /// The next request that contains `matches` (any, if `None`) is not carried; it is answered with this status of HTTP,
    /// and then the connection ends.
    Answer {
        /// An HTTP status.
        status: u16,
        /// Bytes that the request must contain.
        matches: Option<Vec<u8>>,
    },
}

/// Bytes are held.
pub static WEDGE: FaultRow = FaultRow {
    kind: FaultKind { word: "wedge", struck: Some("{} wedges"), ..FaultRow::LINK.kind },
    reach: Reach::Directions,
    help: "bytes are accepted and not carried, in either direction; connecting succeeds",
    ..FaultRow::LINK
};

/// Connections end.
pub static CLOSE: FaultRow = FaultRow {
    kind: FaultKind { word: "close", struck: Some("{} closes"), ..FaultRow::LINK.kind },
    course: Course::Once,
    reach: Reach::Connections,
    help: "every connection is closed once; with `lasts` or `until`, new ones are closed too until then",
    ..FaultRow::LINK
};

/// New connections are refused; standing ones go on.
pub static CONNECTION_REFUSED: FaultRow = FaultRow {
    kind: FaultKind { word: "connection_refused", struck: Some("{} refuses new connections"), ..FaultRow::LINK.kind },
    help: "new connections are refused as by a port on which nobody listens; those that stand go on",
    ..FaultRow::LINK
};

/// A request is carried out and its answer is lost with the connection.
pub static REPLY_LOST: FaultRow = FaultRow {
    kind: FaultKind { word: "reply_lost", struck: Some("{} is about to lose a reply"), healed: None },
    args: &[Arg { name: "matches", takes: Takes::Text, required: None, told: " of `{}`" }],
    course: Course::NextAnswer,
    help: "the next request (that `matches`) is carried out, its answer dropped with the connection",
    ..FaultRow::LINK
};

/// Every chunk is carried later.
pub static DELAY: FaultRow = FaultRow {
    kind: FaultKind { word: "delay", struck: Some("{} slows down"), ..FaultRow::LINK.kind },
    args: &[Arg { name: "by", takes: Takes::Time, required: Some("by = \"200ms\""), told: " by {}" }],
    reach: Reach::Directions,
    help: "every chunk is carried later, `by` this much",
    ..FaultRow::LINK
};

/// Connections carry nothing any more, and neither end is told.
pub static HALF_OPEN: FaultRow = FaultRow {
    kind: FaultKind {
        word: "half_open",
        struck: Some("the connections of {} are dead, and nobody knows"),
        healed: Some("the dead connections of {} close"),
    },
    course: Course::Lasts(super::HALF_OPEN),
    help: "connections that stand say nothing more to either side, and close at its end; new ones work",
    ..FaultRow::LINK
};

/// Everything comes in drops.
pub static TRICKLE: FaultRow = FaultRow {
    kind: FaultKind { word: "trickle", struck: Some("{} trickles"), ..FaultRow::LINK.kind },
    args: &[
        Arg {
            name: "bytes",
            takes: Takes::Count(16 * 1024, "a link carries no more at a time"),
            required: Some("how many are carried at a time, as in `bytes = 16`"),
            told: " of {} bytes",
        },
        Arg { name: "by", takes: Takes::Time, required: Some("by = \"200ms\""), told: " in {}" },
    ],
    reach: Reach::Directions,
    help: "so many `bytes` are carried at a time, the next `by` so much later",
    ..FaultRow::LINK
};

/// An answer breaks off.
pub static CUT: FaultRow = FaultRow {
    kind: FaultKind { word: "cut", struck: Some("{} is about to cut an answer"), healed: None },
    args: &[Arg { name: "matches", takes: Takes::Text, required: None, told: " of what answers `{}`" }],
    course: Course::NextAnswer,
    help: "the next answer (to what `matches`) is carried up to half of its first bytes; then its connection ends",
    ..FaultRow::LINK
};

/// An answer is damaged.
pub static CORRUPT: FaultRow = FaultRow {
    kind: FaultKind { word: "corrupt", struck: Some("{} is about to damage an answer"), healed: None },
    args: &[Arg { name: "matches", takes: Takes::Text, required: None, told: " of what answers `{}`" }],
    course: Course::NextAnswer,
    help: "the next answer (to what `matches`) has its first byte changed on the way, and goes on as it was",
    ..FaultRow::LINK
};

/// A request arrives twice.
pub static DUPLICATE: FaultRow = FaultRow {
    kind: FaultKind { word: "duplicate", struck: Some("{} is about to repeat a request"), healed: None },
    target: TargetKind::HttpLink,
    args: &[Arg { name: "matches", takes: Takes::Text, required: None, told: " of `{}`" }],
    course: Course::NextAnswer,
    help: "to HTTP: the next request (that `matches`) is delivered once more by something in between, its second answer dropped",
    ..FaultRow::LINK
};

/// Something in between answers.
pub static ANSWER: FaultRow = FaultRow {
    kind: FaultKind { word: "answer", struck: Some("{} is about to answer an error"), healed: None },
    target: TargetKind::HttpLink,
    args: &[
        Arg { name: "status", takes: Takes::OneOf(ANSWERS), required: Some("status = 503"), told: " of {}" },
        Arg { name: "matches", takes: Takes::Text, required: None, told: " to `{}`" },
    ],
    course: Course::NextAnswer,
    help: "to HTTP: the next request (that `matches`) is answered with `status` by something in between, and not carried",
    ..FaultRow::LINK
};

/// The statuses that `answer` may answer with: what proxies say of servers.
pub const ANSWERS: &[u16] = &[500, 502, 503, 504];

/// Every fault of links.
pub static ROWS: &[&FaultRow] = &[
    &WEDGE,
    &CLOSE,
    &CONNECTION_REFUSED,
    &REPLY_LOST,
    &DELAY,
    &HALF_OPEN,
    &TRICKLE,
    &CUT,
    &ANSWER,
    &CORRUPT,
    &DUPLICATE,
];

impl Effect {
    /// What a fault of links does.
    ///
    /// # Panics
    /// Of a fault of something else, or a row without an effect.
    pub fn of(kind: &Kind) -> Effect {
        let matches = || kind.text("matches").map(|text| text.as_bytes().to_vec());
        match kind.row() {
            row if *row == WEDGE => Effect::Wedge,
            row if *row == CLOSE => Effect::Close,
            row if *row == CONNECTION_REFUSED => Effect::ConnectionRefused,
            row if *row == REPLY_LOST => Effect::ReplyLost { matches: matches() },
            row if *row == DELAY => Effect::Delay(kind.time("by")),
            row if *row == HALF_OPEN => Effect::HalfOpen,
            row if *row == TRICKLE => {
                let bytes = usize::try_from(kind.count("bytes")).unwrap_or(usize::MAX);
                Effect::Trickle { bytes, by: kind.time("by") }
            }
            row if *row == CUT => Effect::Cut { matches: matches() },
            row if *row == CORRUPT => Effect::Corrupt { matches: matches() },
            row if *row == DUPLICATE => Effect::Duplicate { matches: matches() },
            row if *row == ANSWER => Effect::Answer { status: kind.status(), matches: matches() },
            row => panic!("`{}` does nothing to a link", row.word()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_has_an_effect() {
        for row in ROWS {
            Effect::of(&Kind::of(row));
        }
    }
}
