//! What a gateway may answer, request by request: each has a table of statuses and shapes. An answer that is in none of its
//! rows is an event, and `answers_make_sense` breaks on it; users go on as if nothing had been answered.

use std::collections::BTreeMap;

use hyper::Method;
use lychgate::run::{MessageState, Status};
use serde::de::{DeserializeOwned, Error, IgnoredAny};
use serde::{Deserialize, Deserializer};

use crate::told;

/// How much of an unexpected answer is told.
const TOLD_MAX: usize = 200;

/// A request of a user or an operator, and what may be answered to it.
pub struct Endpoint<A: 'static> {
    /// As the API's documentation has it: `POST /sessions/ID/messages`.
    pub name: &'static str,
    legal: &'static [Legal<A>],
}

/// One row of an endpoint's table.
struct Legal<A> {
    status: u16,
    /// The fields of the answer, or the word of the problem.
    shape: &'static str,
    /// What it means, if the body has the shape.
    read: fn(&[u8]) -> Option<A>,
}

/// What was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer<A> {
    /// This.
    This(A),
    /// The gateway cannot say now: the same request is to be sent again.
    Unavailable,
}

/// An answer that is not in the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unexpected {
    /// The request, as its endpoint is named.
    pub request: &'static str,
    /// The status and the beginning of the body.
    pub answer: String,
    /// What would have been legal.
    pub legal: String,
}

impl<A> Endpoint<A> {
    /// Reads an answer.
    ///
    /// # Errors
    /// No row of the table has its status and its shape.
    pub fn read(&self, status: u16, body: &[u8]) -> Result<Answer<A>, Unexpected> {
        if status == 503 && problem("unavailable", body).is_some() {
            return Ok(Answer::Unavailable);
        }
        let rows = self.legal.iter().filter(|legal| legal.status == status);
        rows.filter_map(|legal| (legal.read)(body))
            .next()
            .map(Answer::This)
            .ok_or_else(|| self.unexpected(status, body))
    }

    /// How it is asked.
    pub fn method(&self) -> Method {
        if self.name.starts_with("GET ") { Method::GET } else { Method::POST }
    }

    /// Each answer that may be given, but for 503: its status, and the word of the problem if it is one.
    pub fn answers(&self) -> impl Iterator<Item = String> {
        let is_word = |shape: &str| !shape.starts_with('{');
        self.legal.iter().map(move |Legal { status, shape, .. }| match is_word(shape) {
            true => format!("{status} {shape}"),
            false => status.to_string(),
        })
    }

    /// An answer that has its shape, and lacks what it must tell of `label`.
    pub fn without(&self, label: &str) -> Unexpected {
        self.unexpected(200, format!("without {label}, which was accepted").as_bytes())
    }

    /// An answer that is in no row.
    fn unexpected(&self, status: u16, body: &[u8]) -> Unexpected {
        let rows = self.legal.iter().map(|legal| format!("{} {}", legal.status, legal.shape));
        let legal: Vec<String> = rows.chain(["503 unavailable".to_owned()]).collect();
        Unexpected { request: self.name, answer: format!("{status} {}", beginning(body)), legal: legal.join(", ") }
    }
}

/// The first characters of what was answered.
fn beginning(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    if text.is_empty() { "with an empty body".to_owned() } else { text.chars().take(TOLD_MAX).collect() }
}

fn json<T: DeserializeOwned>(body: &[u8]) -> Option<T> {
    serde_json::from_slice(body).ok()
}

/// A problem with this word.
fn problem(word: &str, body: &[u8]) -> Option<()> {
    told::problem(body).filter(|said| said == word).map(drop)
}

/// A field that holds a word of a closed set.
fn word<'de, D: Deserializer<'de>, T>(deserializer: D, parse: fn(&str) -> Option<T>) -> Result<T, D::Error> {
    let word = String::deserialize(deserializer)?;
    parse(&word).ok_or_else(|| D::Error::custom(format!("an unknown word: {word}")))
}

fn status<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Status, D::Error> {
    word(deserializer, Status::parse)
}

fn message_state<'de, D: Deserializer<'de>>(deserializer: D) -> Result<MessageState, D::Error> {
    word(deserializer, MessageState::parse)
}

/// 202 to a message.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)] // the API's own words
pub struct Accepted {
    pub session: String,
    pub message: String,
    pub run: String,
    pub events: String,
}

/// What comes of a message that is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// The message and its run are committed.
    Accepted(Accepted),
    /// A run of the session is going.
    Busy,
    /// The session is suspended.
    Suspended,
}

const ACCEPTED: Legal<Said> = Legal {
    status: 202,
    shape: "{session, message, run, events}",
    read: |body| json(body).filter(is_accepted).map(Said::Accepted),
};
const SUSPENDED: Legal<Said> =
    Legal { status: 423, shape: "suspended", read: |body| problem("suspended", body).map(|()| Said::Suspended) };
const BUSY: Legal<Said> = Legal { status: 409, shape: "busy", read: |body| problem("busy", body).map(|()| Said::Busy) };

fn is_accepted(accepted: &Accepted) -> bool {
    let Accepted { session, message, run, events } = accepted;
    ![session, message, run].iter().any(|id| id.is_empty()) && *events == format!("/runs/{run}/events")
}

/// A session's first message. Sent again under the same key, it may meet what has become of the session since.
pub const BEGIN: Endpoint<Said> = Endpoint { name: "POST /sessions", legal: &[ACCEPTED] };

/// A session's next message.
pub const SAY: Endpoint<Said> = Endpoint { name: "POST /sessions/ID/messages", legal: &[ACCEPTED, BUSY, SUSPENDED] };

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NoRun {
    run: Option<String>,
}

/// Stops the run of a session, and says which by its id. It may be over, and then there is none.
pub const CANCEL: Endpoint<Option<String>> = Endpoint {
    name: "POST /sessions/ID/cancel",
    legal: &[
        Legal { status: 202, shape: "{run}", read: |body| json::<Named>(body).map(|named| Some(named.run)) },
        Legal {
            status: 200,
            shape: "{run: null}",
            read: |body| json::<NoRun>(body).filter(|none| none.run.is_none()).map(|_| None),
        },
    ],
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    run: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Held {
    #[serde(rename = "session")]
    _session: String,
    #[serde(rename = "run")]
    _run: Option<String>,
}

/// An operator suspends a session.
pub const SUSPEND: Endpoint<()> = Endpoint {
    name: "POST /sessions/ID/suspend",
    legal: &[Legal { status: 202, shape: "{session, run}", read: |body| json::<Held>(body).map(drop) }],
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LetGo {
    #[serde(rename = "session")]
    _session: String,
}

/// An operator lifts a suspension.
pub const UNSUSPEND: Endpoint<()> = Endpoint {
    name: "POST /sessions/ID/unsuspend",
    legal: &[Legal { status: 200, shape: "{session}", read: |body| json::<LetGo>(body).map(drop) }],
};

/// What an agent is assigned.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)] // the API's own words
pub struct Assignment {
    pub agent: String,
    pub subscription: String,
    pub epoch: i64,
    #[serde(deserialize_with = "switch_state")]
    pub state: lychgate::store::State,
}

fn switch_state<'de, D: Deserializer<'de>>(deserializer: D) -> Result<lychgate::store::State, D::Error> {
    word(deserializer, lychgate::store::State::parse)
}

const ASSIGNMENT: &str = "{agent, subscription, epoch, state}";

/// An operator looks at an agent. `None`: it has no assignment yet.
pub const AGENT: Endpoint<Option<Assignment>> = Endpoint {
    name: "GET /agents/ID",
    legal: &[
        Legal { status: 200, shape: ASSIGNMENT, read: |body| json(body).map(Some) },
        Legal { status: 409, shape: "no_assignment", read: |body| problem("no_assignment", body).map(|()| None) },
    ],
};

/// An operator moves an agent. `None`: it has moved meanwhile.
pub const REASSIGN: Endpoint<Option<Assignment>> = Endpoint {
    name: "POST /agents/ID/reassign",
    legal: &[
        Legal { status: 202, shape: ASSIGNMENT, read: |body| json(body).map(Some) },
        Legal { status: 200, shape: ASSIGNMENT, read: |body| json(body).map(Some) },
        Legal { status: 409, shape: "moved", read: |body| problem("moved", body).map(|()| None) },
    ],
};

/// What was said and answered in a session.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)] // the API's own words
pub struct Conversation {
    pub messages: Vec<Message>,
    pub answers: Vec<Turn>,
}

/// A message, with what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)] // the API's own words
pub struct Message {
    pub message: String,
    pub run: String,
    pub position: i64,
    pub text: String,
    #[serde(deserialize_with = "message_state")]
    pub state: MessageState,
    pub turn: Option<i64>,
    pub reason: Option<String>,
}

/// A turn's answer.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)] // the API's own words
pub struct Turn {
    pub run: String,
    pub turn: i64,
    pub position: i64,
    pub text: String,
}

/// The conversation of a session that has a message at least.
pub const MESSAGES: Endpoint<Conversation> = Endpoint {
    name: "GET /sessions/ID/messages",
    legal: &[Legal {
        status: 200,
        shape: "{messages: [{message, run, position, text, state, turn, reason}], answers: [{run, turn, position, text}]}",
        read: |body| json(body).filter(|all: &Conversation| !all.messages.is_empty()),
    }],
};

/// A session, as its user is shown it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)] // the API's own words
pub struct Session {
    pub session: String,
    pub run: String,
    #[serde(deserialize_with = "status")]
    pub status: Status,
    pub reason: Option<String>,
    pub turns: i64,
    pub suspended: Option<String>,
    pub live: Live,
    pub notices: Vec<Notice>,
}

/// What the live view shows.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
#[allow(missing_docs)] // the API's own words
pub enum Live {
    Going { run: String, fence: i64, status: String },
    Word(String),
}

/// What a user was told.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)] // the API's own words
pub struct Notice {
    pub run: Option<String>,
    pub text: String,
    pub at: i64,
}

fn is_live(session: &Session) -> bool {
    match &session.live {
        Live::Going { status, .. } => Status::parse(status).is_some(),
        Live::Word(word) => matches!(word.as_str(), "idle" | "unknown"),
    }
}

/// A session.
pub const SESSION: Endpoint<Session> = Endpoint {
    name: "GET /sessions/ID",
    legal: &[Legal {
        status: 200,
        shape: "{session, run, status, reason, turns, suspended, live, notices: [{run, text, at}]}",
        read: |body| json(body).filter(is_live),
    }],
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Health {
    status: String,
    role: String,
    #[serde(rename = "process")]
    _process: String,
    #[serde(rename = "streams")]
    _streams: usize,
}

/// How a gateway is. Everybody may ask.
pub const HEALTH: Endpoint<()> = Endpoint {
    name: "GET /health",
    legal: &[Legal {
        status: 200,
        shape: "{status, role, process, streams}",
        read: |body| json(body).filter(|it: &Health| it.status == "ok" && it.role == "gateway").map(drop),
    }],
};

/// The stream of a run, before its first event. Its events have a table of their own, [`read_event`].
pub const EVENTS: Endpoint<()> = Endpoint {
    name: "GET /runs/ID/events",
    legal: &[Legal { status: 503, shape: "too_many_streams", read: |body| problem("too_many_streams", body) }],
};

/// An event of a run's stream.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the API's own words
pub enum Sent {
    Heartbeat,
    Reconnect,
    Shown { kind: Shown, id: String, turn: i64, text: String },
    End { id: String, status: Status },
}

/// What an event of a stream shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Shown {
    /// The next words of a turn.
    Token,
    /// What was shown of the turn is void.
    TurnRestarted,
    /// The turn is checkpointed.
    TurnDone,
    /// A whole turn, in the place of its frames.
    Turn,
    /// Something is missing here.
    Gap,
}

/// Reads one event of a stream.
///
/// # Errors
/// It is none that a stream may send.
pub fn read_event(event: &str) -> Result<Sent, Unexpected> {
    if event.trim_end() == ": heartbeat" {
        return Ok(Sent::Heartbeat);
    }
    let fields: BTreeMap<&str, &str> = event.lines().filter_map(|line| line.split_once(": ")).collect();
    sent(&fields).ok_or_else(|| Unexpected {
        request: EVENTS.name,
        answer: format!("the event {:?}", beginning(event.as_bytes())),
        legal:
            "heartbeat, reconnect {}, token {turn, text}, turn_restarted {turn}, turn_done {turn}, turn {turn, text}, \
                gap {after}, end {status, reason}"
                .to_owned(),
    })
}

fn sent(fields: &BTreeMap<&str, &str>) -> Option<Sent> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Place {
        turn: i64,
    }
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Words {
        turn: i64,
        text: String,
    }
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Gap {
        #[serde(rename = "after")]
        _after: String,
    }
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct End {
        #[serde(deserialize_with = "status")]
        status: Status,
        #[serde(rename = "reason")]
        _reason: Option<String>,
    }
    let data = fields.get("data")?.as_bytes();
    let kind = *fields.get("event")?;
    if kind == "reconnect" {
        return json::<BTreeMap<String, IgnoredAny>>(data).filter(BTreeMap::is_empty).map(|_| Sent::Reconnect);
    }
    let id = (*fields.get("id")?).to_owned();
    let shown = |kind, turn, text| Sent::Shown { kind, id: id.clone(), turn, text };
    let words = |kind| json(data).map(|Words { turn, text }| shown(kind, turn, text));
    let place = |kind| json(data).map(|Place { turn }| shown(kind, turn, String::new()));
    match kind {
        "token" => words(Shown::Token),
        "turn" => words(Shown::Turn),
        "turn_restarted" => place(Shown::TurnRestarted),
        "turn_done" => place(Shown::TurnDone),
        "gap" => json::<Gap>(data).map(|_| shown(Shown::Gap, 0, String::new())),
        "end" => json(data)
            .filter(|End { status, .. }| status.is_terminal())
            .map(|End { status, .. }| Sent::End { id, status }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &[u8] = br#"{"session":"s","message":"m","run":"r","events":"/runs/r/events"}"#;

    #[test]
    fn an_answer_of_the_table_is_read_and_no_other_one() {
        assert!(matches!(SAY.read(202, BODY), Ok(Answer::This(Said::Accepted(accepted))) if accepted.run == "r"));
        let unavailable = br#"{"error":"unavailable","message":"later"}"#;
        assert_eq!(SAY.read(503, unavailable), Ok(Answer::Unavailable));
        for (status, body) in [(200, BODY), (202, b"".as_slice()), (202, b"{}"), (500, unavailable), (503, b"")] {
            assert!(SAY.read(status, body).is_err(), "{status}");
        }
        let Unexpected { request, answer, legal } = SAY.read(200, b"").unwrap_err();
        assert_eq!((request, answer.as_str()), ("POST /sessions/ID/messages", "200 with an empty body"));
        assert_eq!(legal, "202 {session, message, run, events}, 409 busy, 423 suspended, 503 unavailable");
    }

    #[test]
    fn an_event_of_a_stream_is_read_and_no_other_one() {
        assert_eq!(read_event(": heartbeat\n\n"), Ok(Sent::Heartbeat));
        assert_eq!(read_event("event: reconnect\ndata: {}\n\n"), Ok(Sent::Reconnect));
        let token = read_event("id: 1.1-1\nevent: token\ndata: {\"turn\":1,\"text\":\"a: b\"}\n\n");
        assert_eq!(token, Ok(Sent::Shown { kind: Shown::Token, id: "1.1-1".into(), turn: 1, text: "a: b".into() }));
        let end = read_event("id: 1.1-2+\nevent: end\ndata: {\"status\":\"completed\",\"reason\":\"done\"}\n\n");
        assert_eq!(end, Ok(Sent::End { id: "1.1-2+".into(), status: Status::Completed }));
        for event in
            ["event: token\ndata: {}\n\n", "id: 1\nevent: tokens\ndata: {\"turn\":1}\n\n", "data: x\n\n", "\n\n"]
        {
            assert!(read_event(event).is_err(), "{event:?}");
        }
        assert!(read_event("id: 1\nevent: end\ndata: {\"status\":\"running\",\"reason\":null}\n\n").is_err());
    }
}
