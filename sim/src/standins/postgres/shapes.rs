//! The shapes of messages: their types, and statements by their names.

use std::collections::BTreeSet;
use std::str::from_utf8;

use crate::standins::shapes::{Lane, Shapes};

/// The messages and statements that were seen.
#[derive(Debug, Default)]
pub(super) struct Messages {
    seen: BTreeSet<String>,
}

impl Shapes for Messages {
    fn read(&mut self, lane: &mut Lane, up: bool) -> Option<()> {
        if !up {
            lane.bytes.clear();
            return None;
        }
        let head = usize::from(lane.open);
        let length = u32::from_be_bytes(lane.bytes.get(head..head + 4)?.try_into().ok()?) as usize;
        let whole = lane.bytes.len() >= head + length;
        let message = whole.then(|| lane.bytes.split_to(head + length))?;
        if !lane.open {
            // Only a start-up is followed by messages with a type; what asks for TLS is followed by another of its kind.
            lane.open = message.get(4..8) == Some(&[0, 3, 0, 0]);
            let what = if lane.open { "start-up" } else { "request before start-up" };
            self.seen.insert(format!("postgres {what}"));
            return Some(());
        }
        let text = |from: usize| from_utf8(message.get(from..)?.split(|byte| *byte == 0).next()?).ok();
        match message[0] {
            b'Q' => self.statement(text(5)?),
            b'P' => self.statement(text(5 + text(5)?.len() + 1)?),
            _ => {}
        }
        self.seen.insert(format!("postgres message {}", char::from(message[0])));
        Some(())
    }

    fn seen(&self) -> BTreeSet<String> {
        self.seen.clone()
    }
}

impl Messages {
    /// By its name in the leading comment, or else by its first word.
    fn statement(&mut self, text: &str) {
        let text = text.trim_start();
        let named = text.strip_prefix("/* ").and_then(|rest| rest.split_once(" */"));
        let name = named.map_or_else(
            || text.split(|letter: char| !letter.is_alphanumeric()).next().unwrap_or_default().to_ascii_uppercase(),
            |(name, _)| name.to_owned(),
        );
        self.seen.insert(format!("postgres {name}"));
    }
}
