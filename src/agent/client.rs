//! The client of an agent. Every wait has a bound. Errors are told apart by what the caller does: a call that was cut
//! by a restart of its agent does not count against the turn.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request, StatusCode};

use super::wire::{AGENT, AnswerLine, Ask, EPOCH, Health, Kind, Refused};
use crate::http::client::{self as http, Answer, ClientError, Lines};
use crate::ids::SessionId;
use crate::limits::{self, Limits};
use crate::provider::{CALL, CallName, Finish, Said};
use crate::task_tracker::TaskTracker;

/// The reason why a turn was not answered.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum TurnError {
    /// There is no agent that would take the turn now: unreachable, silent or draining.
    #[error("the agent is away: {0}")]
    Away(String),
    /// The agent answers as many turns as it may; another one will end.
    #[error("the agent has too much to do")]
    Busy,
    /// The agent has seen a newer call, or serves another epoch.
    #[error("the agent says that the call is stale: {0}")]
    Stale(String),
    /// The agent's subscription failed.
    #[error("the subscription {subscription} failed: {message}")]
    Subscription {
        /// The kind of the failure.
        kind: Kind,
        /// The agent's words.
        message: String,
        /// The subscription's name.
        subscription: String,
        /// The epoch of the assignment.
        epoch: i64,
        /// The wait that the provider asks for.
        retry_after: Option<Duration>,
    },
    /// The agent's provider failed; another attempt may succeed.
    #[error("{0}")]
    Provider(String),
    /// The answer ended before its end.
    #[error("the answer was cut: {0}")]
    Cut(String),
    /// Another attempt will not do.
    #[error("the agent refused the turn: {0}")]
    Refused(String),
}

/// Calls agents.
#[derive(Clone)]
pub struct Client {
    /// The longest wait for the first line of an answer.
    first_line: Duration,
    /// The longest silence after it.
    stall: Duration,
    tasks: TaskTracker,
}

/// The agent that a call is meant for. Whatever else answers there refuses it.
#[derive(Clone, Copy, Debug)]
pub struct Callee<'a> {
    /// `HOST:PORT`.
    pub host: &'a str,
    /// The agent's name.
    pub agent: &'a str,
    /// The serial of its assignment.
    pub epoch: i64,
}

impl Client {
    /// Waits for agents as long as `limits` has it.
    pub fn new(limits: &Limits) -> Self {
        Client { first_line: limits.agent_first_line(), stall: limits.agent_stall(), tasks: TaskTracker::default() }
    }

    /// Has one turn answered by an agent, and hands each token to `token` as it comes. Returns the whole answer. Dropped, it hangs up.
    ///
    /// # Errors
    /// [`TurnError`].
    pub async fn turn(
        &self,
        callee: Callee<'_>,
        name: &CallName,
        session: &SessionId,
        said: &[Said],
        mut token: impl FnMut(&str),
    ) -> Result<(String, Finish), TurnError> {
        let request = request(callee, name, session, said)?;
        let call = async {
            let away = |error: ClientError| TurnError::Away(error.0);
            let client = http::Client::connect(callee.host, &self.tasks).await.map_err(away)?;
            let answer = client.send(request, self.first_line).await.map_err(away)?;
            match answer.head().status() {
                StatusCode::OK => self.read(answer, &mut token).await,
                status => Err(refusal(status, answer).await),
            }
        };
        let took_too_long = |_| TurnError::Cut("the turn took too long".into());
        tokio::time::timeout(limits::AGENT_CALL, call).await.map_err(took_too_long)?
    }

    /// Asks the agent at `host` for its health, within [`limits::READY_PROBE`].
    ///
    /// # Errors
    /// Why there is none, for people.
    pub async fn health(&self, host: &str) -> Result<Health, String> {
        let request = Request::builder().uri("/health").header(HOST, host).body(Full::default());
        let request = request.map_err(|error| error.to_string())?;
        let probe = async {
            let client = http::Client::connect(host, &self.tasks).await?;
            let answer = client.send(request, limits::READY_PROBE).await?;
            let status = answer.head().status();
            Ok((status, answer.body(limits::HEALTH_BODY, limits::READY_PROBE).await?))
        };
        let probed =
            tokio::time::timeout(limits::READY_PROBE, probe).await.map_err(|_| "no answer in time".to_string())?;
        let (status, body) = probed.map_err(|error: ClientError| error.0)?;
        if status != StatusCode::OK {
            return Err(format!("it answered {status}"));
        }
        serde_json::from_slice(&body).map_err(|error| format!("its answer is no agent's: {error}"))
    }

    async fn read(&self, mut answering: Answer, token: &mut impl FnMut(&str)) -> Result<(String, Finish), TurnError> {
        let cut = |error: ClientError| TurnError::Cut(error.0);
        let mut lines = Lines::default();
        let mut answer = String::new();
        while let Some(data) = answering.chunk(self.stall).await.map_err(cut)? {
            lines.push(&data).map_err(cut)?;
            while let Some(line) = lines.next() {
                match serde_json::from_str(&line) {
                    Ok(AnswerLine::Token(text)) => {
                        if answer.len() + text.len() > limits::ANSWER_BYTES {
                            return Err(TurnError::Refused("the answer is too long".into()));
                        }
                        answer.push_str(&text);
                        token(&text);
                    }
                    Ok(AnswerLine::Alive) => {}
                    Ok(AnswerLine::Finish(finish)) => return Ok((answer, finish)),
                    Ok(AnswerLine::Failed(why)) => return Err(TurnError::Cut(why)),
                    Err(_) => return Err(TurnError::Cut("a malformed line".into())),
                }
            }
        }
        Err(TurnError::Cut("it has no end".into()))
    }
}

fn request(
    callee: Callee<'_>,
    name: &CallName,
    session: &SessionId,
    said: &[Said],
) -> Result<Request<Full<Bytes>>, TurnError> {
    let ask = Ask { session: session.clone(), said: said.to_vec() };
    let refused = |why: &dyn std::fmt::Display| TurnError::Refused(why.to_string());
    let body = serde_json::to_vec(&ask).map_err(|error| refused(&error))?;
    if body.len() > limits::AGENT_BODY {
        return Err(TurnError::Refused("the conversation is too long; begin another session".into()));
    }
    Request::builder()
        .method(Method::POST)
        .uri("/turns")
        .header(HOST, callee.host)
        .header(CONTENT_TYPE, "application/json")
        .header(CALL, name.to_string())
        .header(AGENT, callee.agent)
        .header(EPOCH, callee.epoch)
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| refused(&error))
}

async fn refusal(status: StatusCode, answer: Answer) -> TurnError {
    let body = match answer.body(limits::HEALTH_BODY, limits::AGENT_REFUSAL).await {
        Ok(body) => body,
        Err(error) => return TurnError::Away(error.0),
    };
    match serde_json::from_slice(&body) {
        Ok(Refused::Subscription { kind, message, subscription, epoch, retry_after }) => {
            let retry_after = retry_after.map(Duration::from_secs);
            TurnError::Subscription { kind, message, subscription, epoch, retry_after }
        }
        Ok(Refused::Provider { message }) => TurnError::Provider(message),
        Ok(Refused::Stale { message }) => TurnError::Stale(message),
        Ok(Refused::Draining) => TurnError::Away("it stops".into()),
        Ok(Refused::Busy) => TurnError::Busy,
        Ok(Refused::Never { message }) => TurnError::Refused(message),
        // A proxy in between, or something that is no agent.
        Err(_) => TurnError::Away(format!("it answered {status}, and not as an agent does")),
    }
}
