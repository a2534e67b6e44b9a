//! What operators may do: hold a session, and let it go. They send a token of their own; without one configured there
//! are no operators.

use std::sync::Arc;

use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::json;

use super::problem::Problem;
use super::routes::same;
use super::{Gateway, View};
use crate::ids::SessionId;
use crate::limits;
use crate::store::Suspension;

pub(super) fn router(gateway: &Arc<Gateway>) -> Router<Arc<Gateway>> {
    Router::new()
        .route("/sessions/{session}/suspend", post(suspend))
        .route("/sessions/{session}/unsuspend", post(unsuspend))
        .layer(from_fn_with_state(gateway.clone(), authorize))
}

/// Why a session is held.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Hold {
    reason: String,
}

async fn authorize(State(gateway): State<Arc<Gateway>>, request: Request, next: Next) -> Response {
    let Some(wanted) = &gateway.config.operator_token else {
        let says = "this gateway has no operators: set LYCHGATE_OPERATOR_TOKEN to have some";
        return Problem::new(StatusCode::FORBIDDEN, "no_operators", says).into_response();
    };
    let sent = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = sent.and_then(|value| value.strip_prefix("Bearer "));
    if token.is_some_and(|token| same(token.as_bytes(), wanted.as_bytes())) {
        return next.run(request).await;
    }
    let says = "send `Authorization: Bearer TOKEN`, with the token of LYCHGATE_OPERATOR_TOKEN";
    Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", says).into_response()
}

/// Holds a session: 202 follows the commit. A run that waits is over with it; the owner of one that is going hears of it
/// by its next beat.
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
            gateway.change_view(View::Ended { session: session.clone(), run: run.clone(), fence, end });
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
