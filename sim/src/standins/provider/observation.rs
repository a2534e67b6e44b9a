//! What the model provider shows of itself: calls, and how its answers end.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::faults::REFUSE;
use crate::standins::observation::{FaultFelt, Observed};

/// What the model provider saw of a call.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // the fields are AMQP's and HTTP's own words; `peer` is the connection's other end
pub enum Provider {
    /// A request arrived whole. `headers` are lower-case, `token` is the bearer's, `model` the one that is asked for, and `asked` the texts of the conversation
    /// that the model shall go on with, in order: each with whether a user has said it, rather than the model.
    Called {
        peer: SocketAddr,
        headers: BTreeMap<String, String>,
        token: String,
        turn: u32,
        prompt: String,
        model: String,
        asked: Vec<(bool, String)>,
    },
    /// The first token was sent.
    Began { peer: SocketAddr, headers: BTreeMap<String, String> },
    /// The last token was sent, with the reason that the answer ends with.
    Answered { peer: SocketAddr, headers: BTreeMap<String, String>, finish_reason: String },
    /// The caller hung up before the last token.
    Abandoned { peer: SocketAddr, headers: BTreeMap<String, String> },
    /// After `Called`: this bearer token is turned away for now, and told to come back after `retry_after` seconds, if
    /// anything.
    Refused {
        peer: SocketAddr,
        headers: BTreeMap<String, String>,
        token: String,
        status: u16,
        retry_after: Option<u64>,
    },
    /// In an answer to this bearer token: a fault shows here. If it is `over` with that, no `Answered` and no
    /// `Abandoned` follows: whatever its caller got is no whole answer.
    Disturbed { peer: SocketAddr, headers: BTreeMap<String, String>, token: String, fault: &'static str, over: bool },
}

impl Observed for Provider {
    fn peer(&self) -> Option<SocketAddr> {
        match self {
            Provider::Called { peer, .. }
            | Provider::Began { peer, .. }
            | Provider::Answered { peer, .. }
            | Provider::Abandoned { peer, .. }
            | Provider::Refused { peer, .. }
            | Provider::Disturbed { peer, .. } => Some(*peer),
        }
    }

    fn fault_felt(&self) -> Option<FaultFelt> {
        let (headers, token, fault) = match self {
            Provider::Refused { headers, token, .. } => (headers, token, REFUSE.word()),
            Provider::Disturbed { headers, token, fault, .. } => (headers, token, *fault),
            Provider::Called { .. }
            | Provider::Began { .. }
            | Provider::Answered { .. }
            | Provider::Abandoned { .. } => {
                return None;
            }
        };
        let request: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        Some(FaultFelt { fault, caller: Some(token.clone()), request: request.into_bytes() })
    }
}
