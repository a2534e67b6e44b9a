//! The HTTP surface. Where a message enters: [`begin`] and [`say`].

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::JsonRejection;
use axum::extract::{DefaultBodyLimit, Path, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::json;

use super::problem::Problem;
use super::{Gateway, ViewChange, events, operating};
use crate::broker::Topic;
use crate::ids::{RunId, SessionId};
use crate::limits;
use crate::store::{CancelOutcome, Refusal};

pub(super) fn router(gateway: Arc<Gateway>) -> Router {
    Router::new()
        .route("/sessions", post(begin))
        .route("/sessions/{session}", get(show))
        .route("/sessions/{session}/messages", post(post_message).get(messages))
        .route("/sessions/{session}/cancel", post(cancel))
        .route("/runs/{run}/events", get(events::stream))
        .layer(from_fn_with_state(gateway.clone(), authorize))
        .merge(operating::router(&gateway))
        .route("/health", get(health))
        .fallback(nowhere)
        .layer(DefaultBodyLimit::max(limits::HTTP_BODY))
        .with_state(gateway)
}

/// The body of a request that begins a session.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Beginning {
    text: String,
    agent: Option<String>,
}

/// The body of a further message.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Saying {
    text: String,
}

async fn authorize(State(gateway): State<Arc<Gateway>>, request: Request, next: Next) -> Response {
    let sent = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = sent.and_then(|value| value.strip_prefix("Bearer "));
    if token.is_some_and(|token| constant_time_eq(token.as_bytes(), gateway.config.token.as_bytes())) {
        return next.run(request).await;
    }
    let says = "send `Authorization: Bearer TOKEN`, with the token of LYCHGATE_TOKEN";
    Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", says).into_response()
}

/// Compares in a time that does not tell where two secrets differ.
pub(super) fn constant_time_eq(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}

async fn nowhere() -> Problem {
    let says = "no such path: POST /sessions, GET /sessions/ID, GET and POST /sessions/ID/messages, \
                POST /sessions/ID/cancel, POST /sessions/ID/suspend and /unsuspend, GET /agents/ID, \
                POST /agents/ID/reassign, GET /runs/ID/events, GET /health";
    Problem::new(StatusCode::NOT_FOUND, "no_path", says)
}

async fn health(State(gateway): State<Arc<Gateway>>) -> Response {
    let streams = limits::STREAMS_MAX - gateway.streams.available_permits();
    let process = &gateway.config.stores.process;
    Json(json!({ "status": "ok", "role": "gateway", "process": process, "streams": streams })).into_response()
}

/// Begins a session with its first message.
async fn begin(
    State(gateway): State<Arc<Gateway>>,
    headers: HeaderMap,
    beginning: Result<Json<Beginning>, JsonRejection>,
) -> Result<Response, Problem> {
    let Json(Beginning { text, agent }) = beginning.map_err(|rejection| Problem::bad_request(rejection.body_text()))?;
    let agents = &gateway.config.agents;
    let agent = match agent {
        Some(agent) if !agents.contains(&agent) => {
            let says = format!("`agent` is none of {}; leave it out for {}", agents.join(", "), agents[0]);
            return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "no_agent", says));
        }
        Some(agent) => agent,
        None => agents[0].clone(),
    };
    accept(&gateway, &headers, None, &agent, text).await
}

/// Accepts a further message in a session.
async fn post_message(
    State(gateway): State<Arc<Gateway>>,
    Path(session): Path<SessionId>,
    headers: HeaderMap,
    saying: Result<Json<Saying>, JsonRejection>,
) -> Result<Response, Problem> {
    let Json(Saying { text }) = saying.map_err(|rejection| Problem::bad_request(rejection.body_text()))?;
    // The session has an agent already.
    accept(&gateway, &headers, Some(session), "", text).await
}

/// 202 follows the commit. The hint and the live view follow when their stores allow it.
async fn accept(
    gateway: &Gateway,
    headers: &HeaderMap,
    session: Option<SessionId>,
    agent: &str,
    text: String,
) -> Result<Response, Problem> {
    let key = headers.get("idempotency-key").and_then(|key| key.to_str().ok()).unwrap_or_default();
    if key.is_empty() || key.len() > limits::IDEMPOTENCY_KEY {
        let says = "send an `Idempotency-Key` of 1 to 200 visible characters, the same one for every try of a message";
        return Err(Problem::bad_request(says));
    }
    if text.is_empty() || text.contains('\0') {
        return Err(Problem::bad_request("`text` is empty, or holds a NUL character"));
    }
    let accepted = match gateway.store.accept(&gateway.mint, key, session.as_ref(), agent, &text).await? {
        Ok(accepted) => accepted,
        Err(refusal) => return Err(refused(refusal)),
    };
    if accepted.new {
        tracing::info!(session = %accepted.session, run = %accepted.run, "accepted");
        gateway.hints.send(Topic::Waiting, &accepted.session, &accepted.run);
        gateway.change_view(ViewChange::Waiting { session: accepted.session.clone(), run: accepted.run.clone() });
    }
    let events = format!("/runs/{}/events", accepted.run);
    let body = json!({
        "session": accepted.session, "message": accepted.message, "run": accepted.run, "events": events,
    });
    Ok((StatusCode::ACCEPTED, Json(body)).into_response())
}

fn refused(refusal: Refusal) -> Problem {
    match refusal {
        Refusal::NoSession => Problem::no_session(),
        Refusal::Busy { run } => {
            let says = format!("run {run} of this session is going; wait for its end, or cancel it");
            Problem::new(StatusCode::CONFLICT, "busy", says).retry_after(5)
        }
        Refusal::Suspended(reason) => Problem::new(StatusCode::LOCKED, "suspended", reason),
        Refusal::KeyReused => {
            let says = "this Idempotency-Key was used for another message";
            Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "key_reused", says)
        }
    }
}

impl Gateway {
    pub(super) fn change_view(&self, change: ViewChange) {
        if self.views.try_send(change).is_err() {
            tracing::warn!("the live view is left to a sweep: Redis is too slow");
        }
    }
}

/// Shows a session: what Postgres knows of its newest run, what the live view shows, and what its user was told.
async fn show(State(gateway): State<Arc<Gateway>>, Path(session): Path<SessionId>) -> Result<Response, Problem> {
    let row = gateway.store.newest_run(&session).await?.ok_or_else(Problem::no_session)?;
    let live = match gateway.live.look(&session).await {
        Ok(Some(entry)) => json!({ "run": entry.run, "fence": entry.fence, "status": entry.status }),
        Ok(None) => json!("idle"),
        Err(_) => json!("unknown"),
    };
    let notices = gateway.store.notices(&session).await?;
    let notices = notices.iter().map(|notice| json!({ "run": notice.run, "text": notice.body, "at": notice.at }));
    let body = json!({
        "session": session, "run": row.run, "status": row.status, "reason": row.end_reason, "turns": row.turns,
        "suspended": row.suspended, "live": live, "notices": notices.collect::<Vec<_>>(),
    });
    Ok(Json(body).into_response())
}

/// The conversation: each message with what became of it, and the answers.
async fn messages(State(gateway): State<Arc<Gateway>>, Path(session): Path<SessionId>) -> Result<Response, Problem> {
    let (messages, answers) = gateway.store.conversation(&session).await?;
    if messages.is_empty() {
        return Err(Problem::no_session());
    }
    let messages: Vec<_> = messages
        .into_iter()
        .map(|m| {
            json!({
                "message": m.message, "run": m.run, "position": m.position, "text": m.body,
                "state": m.state, "turn": m.turn, "reason": m.reason,
            })
        })
        .collect();
    let answers: Vec<_> = answers
        .into_iter()
        .map(|a| json!({ "run": a.run, "turn": a.turn, "position": a.position, "text": a.text }))
        .collect();
    Ok(Json(json!({ "messages": messages, "answers": answers })).into_response())
}

/// The body of a request to stop a run; it may be left out.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Stop {
    run: RunId,
}

/// Stops the run that is going in a session, or the one that the body names: 202 follows the commit.
async fn cancel(
    State(gateway): State<Arc<Gateway>>,
    Path(session): Path<SessionId>,
    body: Bytes,
) -> Result<Response, Problem> {
    let named = match &body[..] {
        [] => None,
        text => Some(serde_json::from_slice::<Stop>(text).map_err(|error| {
            Problem::bad_request(format!(
                "the body is no `{{\"run\": ID}}`: {error}; leave it out for the run that is going"
            ))
        })?),
    };
    let accepted = |run: RunId| (StatusCode::ACCEPTED, Json(json!({ "run": run }))).into_response();
    match gateway.store.cancel(&session, named.as_ref().map(|stop| &stop.run)).await? {
        CancelOutcome::Asked(run) => {
            gateway.hints.send(Topic::Cancelled, &session, &run);
            Ok(accepted(run))
        }
        CancelOutcome::Ended { run, fence, end } => {
            gateway.change_view(ViewChange::Ended { session, run: run.clone(), fence, end });
            Ok(accepted(run))
        }
        CancelOutcome::Idle => Ok(Json(json!({ "run": null })).into_response()),
        CancelOutcome::NoSession => Err(Problem::no_session()),
        CancelOutcome::NoRun => {
            Err(Problem::new(StatusCode::NOT_FOUND, "no_run", "there is no such run in this session"))
        }
    }
}
