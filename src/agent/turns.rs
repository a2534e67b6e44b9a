//! Answering a turn: one call of the provider, passed on token by token. The caller hanging up, a newer call of the
//! same session, and the end of the drain each end it at once.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::Agent;
use super::history::Entry;
use super::order::Admitted;
use super::wire::{AGENT, AnswerLine, Ask, EPOCH, Kind, Refused};
use crate::limits;
use crate::provider::{CALL, CallError, CallName, Finish, Piece, Role};

/// A message of a turn's task to the connection that asked for the turn.
enum Told {
    Piece(Piece),
    Over(Result<Finish, CallError>),
}

impl From<Piece> for Told {
    fn from(piece: Piece) -> Self {
        Told::Piece(piece)
    }
}

/// A place among [`limits::AGENT_TURNS`]. Free again when it is dropped.
struct Place(watch::Sender<usize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.send_modify(|runs| *runs -= 1);
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let status = match &self {
            Refused::Subscription { kind: Kind::RateLimit, .. } => StatusCode::TOO_MANY_REQUESTS,
            Refused::Subscription { kind: Kind::Auth, .. } => StatusCode::UNAUTHORIZED,
            Refused::Provider { .. } => StatusCode::BAD_GATEWAY,
            Refused::Stale { .. } => StatusCode::CONFLICT,
            Refused::Draining | Refused::Busy => StatusCode::SERVICE_UNAVAILABLE,
            Refused::Never { .. } => StatusCode::UNPROCESSABLE_ENTITY,
        };
        (status, Json(self)).into_response()
    }
}

fn refused(message: impl Into<String>) -> Refused {
    Refused::Never { message: message.into() }
}

fn stale(message: impl Into<String>) -> Refused {
    Refused::Stale { message: message.into() }
}

pub(super) async fn turn(
    State(agent): State<Arc<Agent>>,
    headers: HeaderMap,
    ask: Result<Json<Ask>, JsonRejection>,
) -> Result<Response, Refused> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let name: CallName =
        text(CALL).parse().map_err(|()| refused(format!("the header `{CALL}` is not `RUN FENCE TURN ATTEMPT`")))?;
    // A port that was another agent's may be this one's by now, and both count their epochs from 1.
    if headers.contains_key(AGENT) && text(AGENT) != agent.config.agent {
        return Err(stale(format!("this is {}, not {:?}", agent.config.agent, text(AGENT))));
    }
    if text(EPOCH) != agent.config.epoch.to_string() {
        return Err(stale(format!("this is epoch {}, not {:?}", agent.config.epoch, text(EPOCH))));
    }
    let Json(ask) = ask.map_err(|rejection| refused(rejection.body_text()))?;
    let told = admit(&agent, name, ask)?;
    answer(&agent, told).await
}

/// Starts the turn's task, if it may begin.
fn admit(agent: &Arc<Agent>, name: CallName, ask: Ask) -> Result<mpsc::Receiver<Told>, Refused> {
    if agent.draining.is_cancelled() {
        return Err(Refused::Draining);
    }
    let older = |_| stale("a newer call of this session was seen");
    let mut order = agent.order();
    order.check(&ask.session, &name).map_err(older)?;
    // Admission happens under the lock: nobody else counts up meanwhile.
    if agent.runs() >= limits::AGENT_TURNS {
        // What it supersedes shall make room for its next try.
        order.cut(&ask.session);
        return Err(Refused::Busy);
    }
    let Admitted { serial, stop, before } = order.admit(&ask.session, &name).map_err(older)?;
    agent.runs.send_modify(|runs| *runs += 1);
    let place = Place(agent.runs.clone());
    let (tell, told) = mpsc::channel(limits::AGENT_TOKENS_QUEUED);
    let (this, session) = (agent.clone(), ask.session.clone());
    let task = agent.tasks.spawn(async move {
        if let Some(before) = before {
            before.end().await;
        }
        this.work(&name, &ask, &stop, &tell).await;
        this.order().ended(&ask.session, serial);
        drop(place);
    });
    order.begun(&session, serial, task);
    Ok(told)
}

impl Agent {
    async fn work(&self, name: &CallName, ask: &Ask, stop: &CancellationToken, tell: &mpsc::Sender<Told>) {
        let called = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tell.closed() => return,
            called = self.provider.call(name, &ask.said, tell) => called,
        };
        let over = match called {
            Ok((answer, finish)) => {
                self.remember(ask, answer);
                Ok(finish)
            }
            Err(error) => {
                tracing::info!(run = %name.run, turn = name.turn, attempt = name.attempt, %error, "a turn failed");
                Err(error)
            }
        };
        // A caller that has gone meanwhile makes the call again.
        let _ = tell.send(Told::Over(over)).await;
    }

    /// Keeps the user's last words and the answer.
    fn remember(&self, ask: &Ask, answer: String) {
        let mut history = self.history();
        let entry = |role, content| Entry { session: ask.session.clone(), role, content };
        if let Some(asked) = ask.said.iter().rfind(|said| said.role == Role::User) {
            history.push(entry(Role::User, asked.content.clone()));
        }
        history.push(entry(Role::Assistant, answer));
    }
}

/// The head says what the turn says first; after the first line only a line can tell of trouble.
async fn answer(agent: &Agent, mut told: mpsc::Receiver<Told>) -> Result<Response, Refused> {
    let first = match told.recv().await {
        None if agent.draining.is_cancelled() => return Err(Refused::Draining),
        None => return Err(stale("a newer call of this session has come")),
        Some(Told::Over(Err(error))) => return Err(trouble(agent, error)),
        Some(first) => first,
    };
    let lines = stream::unfold((Some(first), Some(told)), |(next, told)| async {
        let mut told = told?;
        let next = match next {
            Some(next) => Some(next),
            None => told.recv().await,
        };
        let (line, last) = match next {
            Some(Told::Piece(Piece::Token(token))) => (AnswerLine::Token(token), false),
            Some(Told::Piece(Piece::Alive)) => (AnswerLine::Alive, false),
            Some(Told::Over(Ok(finish))) => (AnswerLine::Finish(finish), true),
            Some(Told::Over(Err(error))) => (AnswerLine::Failed(error.to_string()), true),
            None => (AnswerLine::Failed("the turn was stopped".into()), true),
        };
        let mut bytes = serde_json::to_vec(&line).expect("a line is JSON");
        bytes.push(b'\n');
        Some((Ok::<_, Infallible>(Bytes::from(bytes)), (None, (!last).then_some(told))))
    });
    let headers = [(header::CONTENT_TYPE, "application/x-ndjson"), (header::CACHE_CONTROL, "no-store")];
    Ok((headers, Body::from_stream(lines)).into_response())
}

fn trouble(agent: &Agent, error: CallError) -> Refused {
    let message = error.to_string();
    let failed = |kind, retry_after| Refused::Subscription {
        kind,
        retry_after,
        message: message.clone(),
        subscription: agent.config.subscription.name.clone(),
        epoch: agent.config.epoch,
    };
    match error {
        CallError::RateLimited { retry_after } => failed(Kind::RateLimit, retry_after),
        CallError::Auth(_) => failed(Kind::Auth, None),
        CallError::Unavailable(_) | CallError::Abandoned => Refused::Provider { message },
        CallError::Refused(_) => Refused::Never { message },
    }
}
