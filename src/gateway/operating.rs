//! Operators' requests: hold a session, and let it go; give an agent another subscription. They send a token of their
//! own; without one configured there are no operators.

use std::sync::Arc;

use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::json;

use super::problem::Problem;
use super::routes::constant_time_eq;
use super::{Gateway, ViewChange};
use crate::ids::SessionId;
use crate::limits;
use crate::store::{AgentRow, Reassignment, Suspension};

pub(super) fn router(gateway: &Arc<Gateway>) -> Router<Arc<Gateway>> {
    Router::new()
        .route("/sessions/{session}/suspend", post(suspend))
        .route("/sessions/{session}/unsuspend", post(unsuspend))
        .route("/agents/{agent}", get(agent))
        .route("/agents/{agent}/reassign", post(reassign))
        .layer(from_fn_with_state(gateway.clone(), authorize))
}

/// Why a session is held.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Hold {
    reason: String,
}

/// The body of a reassignment: the subscription to assign, and the epoch that the operator saw when deciding that.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wish {
    subscription: String,
    epoch: i64,
}

async fn authorize(State(gateway): State<Arc<Gateway>>, request: Request, next: Next) -> Response {
    let sent = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    match admit(gateway.config.operator_token.as_deref(), sent) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

/// Whether what was `sent` as authorization is the `wanted` operators' token.
fn admit(wanted: Option<&str>, sent: Option<&str>) -> Result<(), Problem> {
    let Some(wanted) = wanted else {
        let says = "this gateway has no operators: set LYCHGATE_OPERATOR_TOKEN to have some";
        return Err(Problem::new(StatusCode::FORBIDDEN, "no_operators", says));
    };
    let token = sent.and_then(|value| value.strip_prefix("Bearer "));
    if token.is_some_and(|token| constant_time_eq(token.as_bytes(), wanted.as_bytes())) {
        return Ok(());
    }
    let says = "send `Authorization: Bearer TOKEN`, with the token of LYCHGATE_OPERATOR_TOKEN";
    Err(Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", says))
}

/// Holds a session: 202 follows the commit. A run that waits is over with it; the owner of one that is going hears of
/// it by its next beat.
async fn suspend(
    State(gateway): State<Arc<Gateway>>,
    Path(session): Path<SessionId>,
    hold: Result<Json<Hold>, JsonRejection>,
) -> Result<Response, Problem> {
    let Json(Hold { reason }) = hold.map_err(|rejection| Problem::bad_request(rejection.body_text()))?;
    if reason.is_empty() || reason.len() > limits::SUSPENSION_REASON || reason.contains('\0') {
        return Err(Problem::bad_request("`reason` must be 1 to 500 bytes without NUL; users are shown it"));
    }
    let run = match gateway.store.suspend(&session, &reason).await? {
        Suspension::NoSession => return Err(Problem::no_session()),
        Suspension::Idle => None,
        Suspension::Asked(run) => Some(run),
        Suspension::Ended { run, fence, end } => {
            gateway.change_view(ViewChange::Ended { session: session.clone(), run: run.clone(), fence, end });
            Some(run)
        }
    };
    tracing::info!(%session, reason, "suspended");
    Ok((StatusCode::ACCEPTED, Json(json!({ "session": session, "run": run }))).into_response())
}

/// Lets a session go.
async fn unsuspend(State(gateway): State<Arc<Gateway>>, Path(session): Path<SessionId>) -> Result<Response, Problem> {
    if !gateway.store.unsuspend(&session).await? {
        return Err(Problem::no_session());
    }
    tracing::info!(%session, "unsuspended");
    Ok(Json(json!({ "session": session })).into_response())
}

/// Shows what an agent is assigned, and how far that has come.
async fn agent(State(gateway): State<Arc<Gateway>>, Path(agent): Path<String>) -> Result<Response, Problem> {
    known(&gateway, &agent)?;
    let row = gateway.store.agent(&agent).await?.ok_or_else(|| no_assignment(&agent))?;
    Ok(Json(shown(&row)).into_response())
}

/// Gives an agent another subscription: 202 follows the commit, and executors do the rest. The epoch that the operator
/// saw goes with the wish: one that is sent again is the same wish, and one that came too late changes nothing.
async fn reassign(
    State(gateway): State<Arc<Gateway>>,
    Path(agent): Path<String>,
    wish: Result<Json<Wish>, JsonRejection>,
) -> Result<Response, Problem> {
    let Json(Wish { subscription, epoch }) = wish.map_err(|rejection| Problem::bad_request(rejection.body_text()))?;
    known(&gateway, &agent)?;
    let subscriptions = &gateway.config.subscriptions;
    if !subscriptions.contains(&subscription) {
        let says = match subscriptions.is_empty() {
            true => "this gateway knows no subscriptions: set LYCHGATE_SUBSCRIPTIONS to their names".to_string(),
            false => format!("`subscription` is none of {}", subscriptions.join(", ")),
        };
        return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "no_subscription", says));
    }
    match gateway.store.reassign(&agent, epoch, &subscription).await? {
        Reassignment::Assigned(epoch) => {
            tracing::info!(agent, epoch, to = subscription, "reassigned");
            let body = json!({ "agent": agent, "subscription": subscription, "epoch": epoch, "state": "assigned" });
            Ok((StatusCode::ACCEPTED, Json(body)).into_response())
        }
        Reassignment::Already(row) => Ok(Json(shown(&row)).into_response()),
        Reassignment::Moved(row) => {
            let AgentRow { subscription, epoch, .. } = row;
            let says =
                format!("{agent} has moved: it is assigned {subscription} now, under epoch {epoch}; send that one");
            Err(Problem::new(StatusCode::CONFLICT, "moved", says))
        }
        Reassignment::NoAssignment => Err(no_assignment(&agent)),
    }
}

fn shown(row: &AgentRow) -> serde_json::Value {
    let AgentRow { agent, subscription, epoch, state, .. } = row;
    json!({ "agent": agent, "subscription": subscription, "epoch": epoch, "state": state.word() })
}

/// Whether there is such an agent.
fn known(gateway: &Gateway, agent: &String) -> Result<(), Problem> {
    let agents = &gateway.config.agents;
    let says = || format!("there is no such agent, only {}", agents.join(", "));
    let missing = || Problem::new(StatusCode::NOT_FOUND, "no_agent", says());
    agents.contains(agent).then_some(()).ok_or_else(missing)
}

fn no_assignment(agent: &str) -> Problem {
    let says = format!("{agent} has no assignment yet; it gets one from the first executor that comes up");
    Problem::new(StatusCode::CONFLICT, "no_assignment", says).retry_after(5)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_token_nobody_is_an_operator_and_with_one_only_who_sends_it() {
        let status = |wanted, sent| admit(wanted, sent).map_err(|problem| problem.into_response().status());
        assert_eq!(status(None, Some("Bearer secret")), Err(StatusCode::FORBIDDEN));
        assert_eq!(status(Some("secret"), None), Err(StatusCode::UNAUTHORIZED));
        assert_eq!(status(Some("secret"), Some("Bearer other")), Err(StatusCode::UNAUTHORIZED));
        assert_eq!(status(Some("secret"), Some("Bearer secret")), Ok(()));
    }
}
