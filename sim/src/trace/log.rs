//! What processes log through `tracing`, as the judge hears it: INFO and above, of processes alone.
//! Fields of spans are not heard: an event says itself what it is about.
//! Its one law: it costs a run nothing that the run could see, no span, no hash, no random number.

use std::collections::BTreeMap;
use std::fmt::{Debug, Write};

use madsim::task::NodeId;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber};

/// A line that a process logged, before the judge adds the incarnation.
pub(crate) struct Line {
    pub(crate) level: &'static str,
    pub(crate) message: String,
    pub(crate) fields: BTreeMap<String, String>,
}

/// The subscriber of a run's thread.
pub(crate) struct LogCapture<F> {
    /// The crates whose events are heard.
    pub(crate) crates: &'static [&'static str],
    /// The process of each node.
    pub(crate) processes: BTreeMap<NodeId, String>,
    /// Takes each line with the process that logged it.
    pub(crate) tell: F,
}

impl<F> LogCapture<F> {
    fn wants(&self, metadata: &Metadata<'_>) -> bool {
        let krate = metadata.target().split("::").next().unwrap_or_default();
        metadata.is_event() && *metadata.level() <= Level::INFO && self.crates.contains(&krate)
    }
}

impl<F: Fn(&str, Line) + Send + Sync + 'static> Subscriber for LogCapture<F> {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if self.wants(metadata) { Interest::always() } else { Interest::never() }
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.wants(metadata)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::INFO)
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1) // no span is ever enabled
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        // Such events are logged by tasks alone: madsim's own, which timers log, were refused above.
        let Some(process) = self.processes.get(&madsim::plugin::node()) else { return };
        let level = event.metadata().level().as_str();
        let mut line = Line { level, message: String::new(), fields: BTreeMap::new() };
        event.record(&mut line);
        (self.tell)(process, line);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message.push_str(value);
        } else {
            self.fields.insert(field.name().to_owned(), value.to_owned());
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            // Writing to a String cannot fail.
            let _ = write!(self.message, "{value:?}");
        } else {
            self.fields.insert(field.name().to_owned(), format!("{value:?}"));
        }
    }
}
