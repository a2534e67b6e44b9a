//! The messages between an agent and its callers: JSON in, lines of JSON out.

use serde::{Deserialize, Serialize};

use crate::ids::SessionId;
use crate::provider::{Finish, Said};

/// The header that says which agent a call is meant for. An older executor does not say it.
pub const AGENT: &str = "lychgate-agent";
/// The header that says which epoch of the agent a call is meant for.
pub const EPOCH: &str = "lychgate-epoch";

/// The body of a turn's request. The header [`crate::provider::CALL`] names the turn.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ask {
    pub session: SessionId,
    pub said: Vec<Said>,
}

/// A line of an answer. The last one is `finish` or `failed`; an answer without either was cut.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum AnswerLine {
    Token(String),
    /// The model is at work and has no word yet.
    Alive,
    Finish(Finish),
    Failed(String),
}

/// Why a turn is refused before the first line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "error", rename_all = "snake_case")]
pub(super) enum Refused {
    /// The subscription failed, not the call: 429 or 401.
    Subscription {
        kind: Kind,
        message: String,
        subscription: String,
        epoch: i64,
        /// The wait that the provider asks for, seconds.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_after: Option<u64>,
    },
    /// The provider failed; another attempt may do: 502.
    Provider { message: String },
    /// A newer call of that session was seen, or another epoch is wanted: 409.
    Stale { message: String },
    /// The agent stops: 503.
    Draining,
    /// Too many turns are going: 503.
    Busy,
    /// The request will not succeed, however often it is tried: 422.
    #[serde(rename = "refused")]
    Never { message: String },
}

/// The kind of a subscription's failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The subscription has used up its quota.
    RateLimit,
    /// The subscription's token is not accepted.
    Auth,
}

impl Kind {
    /// The word in Postgres and on the wire.
    pub fn word(self) -> &'static str {
        match self {
            Kind::RateLimit => "rate_limit",
            Kind::Auth => "auth",
        }
    }
}

/// The health report of an agent, as far as its executor needs it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Health {
    /// The agent's name.
    pub agent: String,
    /// The epoch that it serves.
    pub epoch: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_refusals_look_as_agreed() {
        let text = |line: &AnswerLine| serde_json::to_string(line).unwrap();
        assert_eq!(text(&AnswerLine::Token("a".into())), r#"{"token":"a"}"#);
        assert_eq!(text(&AnswerLine::Alive), r#""alive""#);
        assert_eq!(text(&AnswerLine::Finish(Finish::Length)), r#"{"finish":"length"}"#);
        assert_eq!(text(&AnswerLine::Failed("cut".into())), r#"{"failed":"cut"}"#);
        let refused = |refused: &Refused| serde_json::to_string(refused).unwrap();
        assert_eq!(refused(&Refused::Draining), r#"{"error":"draining"}"#);
        let failed = |retry_after| {
            let (message, subscription) = ("m".into(), "a".into());
            Refused::Subscription { kind: Kind::RateLimit, message, subscription, epoch: 1, retry_after }
        };
        let text = r#"{"error":"subscription","kind":"rate_limit","message":"m","subscription":"a","epoch":1}"#;
        assert_eq!(refused(&failed(None)), text);
        assert!(refused(&failed(Some(3))).contains(r#""retry_after":3"#));
    }
}
