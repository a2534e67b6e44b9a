//! Error answers: a status, a word for machines, a sentence that says what to do, and when.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::store::StoreError;

/// An answer that is not what was asked for.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    error: &'static str,
    message: String,
    retry_after: Option<u32>,
}

impl Problem {
    pub(super) fn new(status: StatusCode, error: &'static str, message: impl Into<String>) -> Self {
        Problem { status, error, message: message.into(), retry_after: None }
    }

    pub(super) fn no_session() -> Self {
        Problem::new(StatusCode::NOT_FOUND, "no_session", "there is no such session; POST /sessions begins one")
    }

    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Problem::new(StatusCode::BAD_REQUEST, "bad_request", message)
    }

    /// The same request may succeed after so many seconds.
    pub(super) fn retry_after(self, seconds: u32) -> Self {
        Problem { retry_after: Some(seconds), ..self }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        tracing::warn!(%error, "a request failed");
        match error {
            StoreError::Unavailable(_) | StoreError::Login(_) | StoreError::Closed => {
                let says = "the store did not answer; send the same request again, under the same key";
                Problem::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", says).retry_after(1)
            }
            StoreError::Refused(_) => {
                Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the store refused; see the gateway's log")
            }
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = Json(json!({ "error": self.error, "message": self.message }));
        let mut response = (self.status, body).into_response();
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
