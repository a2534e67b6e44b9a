//! The dialects of OpenAI's stream: ways in which providers that call themselves compatible say the same thing. An answer
//! in any of them is whole.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The pause between two signs of life of a model that has no word to say yet.
const SIGN_OF_LIFE: Duration = Duration::from_secs(10);

/// A dialect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dialect {
    /// OpenAI's own.
    #[default]
    Plain,
    /// `finish_reason` is the empty text in every event, the last one included.
    EmptyFinish,
    /// The last `finish_reason` is a word that OpenAI does not have.
    UnknownFinish,
    /// No event has a reason; `[DONE]` alone says that the answer is over.
    NoFinish,
    /// The connection's end stands in the place of `[DONE]`.
    NoDone,
    /// An answer that is cut for its length ends with `max_tokens`, where OpenAI says `length`.
    MaxTokens,
    /// The `delta` of the last event is null.
    NullDelta,
    /// An event without any choice, which counts tokens, comes after the last one.
    Usage,
    /// Lines end with CR LF.
    CarriageReturns,
    /// Comments keep the line open while the model thinks.
    Comments,
    /// The model says what it reasons, which is no part of the answer.
    Reasoning,
}

impl Dialect {
    /// Every dialect but OpenAI's own, by its word in plans.
    pub const WORDS: &[&str] = &[
        "empty_finish",
        "unknown_finish",
        "no_finish",
        "no_done",
        "max_tokens",
        "null_delta",
        "usage",
        "carriage_returns",
        "comments",
        "reasoning",
    ];

    /// The dialect of this word.
    pub fn of(word: &str) -> Option<Dialect> {
        use Dialect::*;
        let all = [
            EmptyFinish,
            UnknownFinish,
            NoFinish,
            NoDone,
            MaxTokens,
            NullDelta,
            Usage,
            CarriageReturns,
            Comments,
            Reasoning,
        ];
        Self::WORDS.iter().zip(all).find(|(known, _)| **known == word).map(|(_, dialect)| dialect)
    }

    /// The `finish_reason` of an event that is not the last one.
    pub(super) fn unfinished(self) -> Value {
        if self == Dialect::EmptyFinish { json!("") } else { Value::Null }
    }

    /// The last event's `delta`, and its `finish_reason` where OpenAI says `reason`. That more is to come is said by all.
    pub(super) fn last(self, reason: &str) -> (Value, Value) {
        let delta = if self == Dialect::NullDelta { Value::Null } else { json!({}) };
        let reason = match self {
            Dialect::EmptyFinish if reason == "stop" => json!(""),
            Dialect::UnknownFinish if reason == "stop" => json!("eos_token"),
            Dialect::NoFinish if reason == "stop" => Value::Null,
            Dialect::MaxTokens if reason == "length" => json!("max_tokens"),
            _ => json!(reason),
        };
        (delta, reason)
    }

    /// What comes behind the last event.
    pub(super) fn end(self) -> &'static str {
        match self {
            Dialect::NoDone => "",
            Dialect::Usage => "data: {\"choices\": [], \"usage\": {\"total_tokens\": 7}}\n\ndata: [DONE]\n\n",
            _ => "data: [DONE]\n\n",
        }
    }

    /// How often a model without a word shows that it lives, if it does.
    pub fn shows_life_every(self) -> Option<Duration> {
        matches!(self, Dialect::Comments | Dialect::Reasoning).then_some(SIGN_OF_LIFE)
    }

    /// The delta of such a sign; `None` for a comment.
    pub(super) fn sign_of_life(self) -> Option<Value> {
        (self == Dialect::Reasoning).then(|| json!({"content": null, "reasoning_content": "hm "}))
    }

    /// The text as it goes over the line.
    pub(super) fn write(self, text: String) -> String {
        if self == Dialect::CarriageReturns { text.replace('\n', "\r\n") } else { text }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_word_is_a_dialect_of_its_own() {
        let all: Vec<Dialect> = Dialect::WORDS.iter().filter_map(|word| Dialect::of(word)).collect();
        assert_eq!(all.len(), Dialect::WORDS.len());
        assert!(all.iter().enumerate().all(|(n, dialect)| !all[..n].contains(dialect)));
        assert_eq!(Dialect::of("latin"), None);
        assert!(all.iter().zip(Dialect::WORDS).all(|(dialect, word)| json!(dialect) == json!(word)));
    }
}
