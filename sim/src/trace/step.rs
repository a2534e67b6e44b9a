//! What a run streams while it goes on, for a parent that compares it with another run of the same seed: a line for each
//! thing that went into the digest, with the digest up to there. Its one law: streaming changes nothing that the run sees;
//! a parent that reads slowly stops the wall's clock, never the world's.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::trace::event::{Event, ProductEvent};
use crate::trace::verdict::Report;

/// So many bytes are written at once: as many as a pipe takes without waiting.
const BATCH: usize = 64 << 10;

/// So many bytes of a chunk are shown. Requests and answers are shorter; the digest covers what is cut.
const SHOWN_MAX: usize = 2048;

/// Something that went into the digest: an event, or a chunk on a link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The digest up to and with it, in hexadecimal.
    pub digest: String,
    /// Virtual time since the world began.
    pub at: Duration,
    /// `executor-1, life 2`, or `executor-1->redis, connection 3, up`; empty for the world itself.
    pub place: String,
    /// An event as JSON; of a chunk its bytes, those that do not print escaped.
    pub what: String,
}

/// A line of the stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// The next item.
    Step(Step),
    /// The last line: what came of the run.
    End(Box<Report>),
}

impl Step {
    /// Of an event.
    pub fn event<O: ProductEvent>(event: &Event<O>, digest: String) -> Step {
        let place = match event.incarnation {
            0 => event.process.clone(),
            life => format!("{}, life {life}", event.process),
        };
        // One that does not serialise is reported by the writer of the trace.
        let what = serde_json::to_string(&event.what).unwrap_or_else(|error| error.to_string());
        Step { digest, at: event.at, place, what }
    }

    /// Of a chunk.
    pub fn chunk(link: &str, conn: u32, up: bool, bytes: &[u8], at: Duration, digest: String) -> Step {
        let way = if up { "up" } else { "down" };
        let cut = &bytes[..bytes.len().min(SHOWN_MAX)];
        let more = bytes.len() - cut.len();
        let rest = if more > 0 { format!(" … and {more} more bytes") } else { String::new() };
        Step {
            digest,
            at,
            place: format!("{link}, connection {conn}, {way}"),
            what: format!("{}{rest}", cut.escape_ascii()),
        }
    }
}

/// Where items go.
pub(crate) struct Steps {
    out: BufWriter<Arc<File>>,
}

impl Steps {
    pub(crate) fn new(out: Arc<File>) -> Self {
        Steps { out: BufWriter::with_capacity(BATCH, out) }
    }

    pub(crate) fn write(&mut self, line: &Line) -> io::Result<()> {
        serde_json::to_writer(&mut self.out, line)?;
        self.out.write_all(b"\n")
    }

    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
