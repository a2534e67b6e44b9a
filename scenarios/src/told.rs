//! What a user or an operator was told, in labels: the request and what was odd about it, the answer and what it shows.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lychgate::run::{MessageState, Status};
use serde::{Deserialize, Serialize};

use crate::answers::{Assignment, Conversation, Live, Said, Session};

/// What sets a request apart from one that a user sends in good order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Oddity {
    /// It has no token.
    NoToken,
    /// Its token is nobody's, or not of those who may ask this.
    WrongToken,
    /// It is an operator's, and its token a user's.
    UsersToken,
    /// Its body is no JSON.
    NotJson,
    /// It names a session that there is not.
    UnknownSession,
    /// It names a run that there is not.
    UnknownRun,
    /// It says something else under a key that was used.
    OtherText,
    /// It says once more what was accepted, under the same key.
    SaidAgain,
    /// It stops whatever run is going, and names none.
    Unnamed,
}

/// What an answer says that the live view shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum View {
    /// It was not there to look at.
    Unknown,
    /// No run.
    Idle,
    /// This run; one that its user does not know has no label.
    Going(Option<String>),
}

/// What an answer shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)] // the fields are named as in the API
pub enum Shows {
    /// No more than its status says.
    Nothing,
    /// A run: one that its user does not know has no label.
    Run(Option<String>),
    /// No run.
    NoRun,
    /// A session, by its newest run, and what the live view shows of it.
    Session { run: Option<String>, status: Status, turns: i64, suspended: bool, live: View },
    /// A conversation: each message, and how many answers to it there are.
    Conversation(Vec<(String, MessageState, usize)>),
    /// An agent's assignment.
    Assignment { subscription: String, epoch: i64 },
}

/// An answer, with what was asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Told {
    /// The request, as its endpoint is named.
    pub request: &'static str,
    /// The agent that it is about, if it is about one.
    pub agent: Option<String>,
    /// What was odd about it.
    pub odd: Option<Oddity>,
    /// The status.
    pub status: u16,
    /// The word of the problem, if the answer is one and nothing else.
    pub problem: Option<String>,
    /// What it shows.
    pub shows: Shows,
}

impl Told {
    /// The status, and the word of the problem if it is one, as tables of answers have it: `409 busy`.
    pub fn answer(&self) -> String {
        match &self.problem {
            Some(word) => format!("{} {word}", self.status),
            None => self.status.to_string(),
        }
    }
}

/// The word of a problem, if the body is one and nothing else.
pub fn problem(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Problem {
        error: String,
        message: String,
    }
    serde_json::from_slice::<Problem>(body).ok().filter(|problem| !problem.message.is_empty()).map(|said| said.error)
}

/// The labels of the runs that a user has heard of, by id: each id has one label, and each label one id.
#[derive(Clone, Default)]
pub struct Labels(Arc<Mutex<BTreeMap<String, String>>>);

impl Labels {
    /// The label of the run with this id, if the user knows it.
    pub fn of(&self, run: &str) -> Option<String> {
        self.all().get(run).cloned()
    }

    /// Learns that `label` is the run with this id, unless either is known otherwise.
    pub fn learn(&self, run: &str, label: &str) {
        let mut all = self.all();
        if !all.values().any(|known| known == label) {
            all.entry(run.to_owned()).or_insert_with(|| label.to_owned());
        }
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What can be shown in labels.
pub trait Shown {
    /// What it shows to a user who knows these; `label` is what the request was about.
    fn shows(&self, label: &str, labels: &Labels) -> Shows;
}

impl Shown for () {
    fn shows(&self, _: &str, _: &Labels) -> Shows {
        Shows::Nothing
    }
}

impl Shown for Said {
    fn shows(&self, label: &str, labels: &Labels) -> Shows {
        let Said::Accepted(accepted) = self else { return Shows::Nothing };
        labels.learn(&accepted.run, label);
        Shows::Run(labels.of(&accepted.run))
    }
}

impl Shown for Option<String> {
    fn shows(&self, _: &str, labels: &Labels) -> Shows {
        self.as_ref().map_or(Shows::NoRun, |run| Shows::Run(labels.of(run)))
    }
}

impl Shown for Option<Assignment> {
    fn shows(&self, _: &str, _: &Labels) -> Shows {
        let shown = |it: &Assignment| Shows::Assignment { subscription: it.subscription.clone(), epoch: it.epoch };
        self.as_ref().map_or(Shows::Nothing, shown)
    }
}

impl Shown for Conversation {
    fn shows(&self, _: &str, labels: &Labels) -> Shows {
        let message = |message: &crate::answers::Message| {
            labels.learn(&message.run, &message.text);
            let answers = self.answers.iter().filter(|answer| answer.run == message.run).count();
            (message.text.clone(), message.state, answers)
        };
        Shows::Conversation(self.messages.iter().map(message).collect())
    }
}

impl Shown for Session {
    fn shows(&self, _: &str, labels: &Labels) -> Shows {
        Shows::Session {
            run: labels.of(&self.run),
            status: self.status,
            turns: self.turns,
            suspended: self.suspended.is_some(),
            live: match &self.live {
                Live::Word(word) if word == "idle" => View::Idle,
                Live::Word(_) => View::Unknown,
                Live::Going { run, .. } => View::Going(labels.of(run)),
            },
        }
    }
}
