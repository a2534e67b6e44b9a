//! The model provider: one call is one turn of one run, named, and streamed token by token. Every wait has a bound.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::config::Address;
use crate::ids::{Fence, RunId};
use crate::limits;

/// The header that names a call: `RUN FENCE TURN ATTEMPT`.
pub const CALL: &str = "lychgate-call";

/// Who said something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The user.
    User,
    /// The model.
    Assistant,
}

/// One thing that was said, as the provider wants it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Said {
    /// By whom.
    pub role: Role,
    /// What.
    pub content: String,
}

/// The name of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallName {
    /// The run.
    pub run: RunId,
    /// The fence under which it is made.
    pub fence: Fence,
    /// The turn, from 1.
    pub turn: i64,
    /// The attempt at this turn under this fence, from 1.
    pub attempt: u32,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The model has said what it had to say.
    Stop,
    /// It was cut for length: the next turn goes on.
    Length,
}

/// Why a call came to nothing.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum CallError {
    /// Another attempt may succeed.
    #[error("the provider is unavailable: {0}")]
    Unavailable(String),
    /// It will not.
    #[error("the provider refused the call: {0}")]
    Refused(String),
}

fn unavailable(why: impl std::fmt::Display) -> CallError {
    CallError::Unavailable(why.to_string())
}

/// An OpenAI-compatible provider.
#[derive(Clone)]
pub struct Provider {
    address: Address,
    key: String,
    model: String,
}

#[derive(Serialize)]
struct Ask<'a> {
    model: &'a str,
    stream: bool,
    messages: &'a [Said],
}

#[derive(Deserialize)]
struct Chunk {
    choices: Vec<Choice>,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    delta: Delta,
    finish_reason: Option<String>,
}

#[derive(Default, Deserialize)]
struct Delta {
    content: Option<String>,
}

/// Ends a connection's task with its user: hanging up is how a call is aborted.
struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Provider {
    /// A provider at `address` that wants `key`.
    pub fn new(address: &Address, key: &str, model: &str) -> Self {
        Provider { address: address.clone(), key: key.to_string(), model: model.to_string() }
    }

    /// Makes one call and hands each token to `token` as it comes. Returns the whole answer. Dropped, it hangs up.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn call(
        &self,
        name: &CallName,
        said: &[Said],
        mut token: impl FnMut(&str),
    ) -> Result<(String, Finish), CallError> {
        let call = async {
            let (response, _driver) = self.send(name, said).await?;
            read(response, &mut token).await
        };
        tokio::time::timeout(limits::PROVIDER_CALL, call).await.map_err(|_| unavailable("the call took too long"))?
    }

    async fn send(&self, name: &CallName, said: &[Said]) -> Result<(Response<Incoming>, Driver), CallError> {
        let dial = async {
            let stream = TcpStream::connect(&self.address.host).await.map_err(unavailable)?;
            http1::handshake(TokioIo::new(stream)).await.map_err(unavailable)
        };
        let dialled = tokio::time::timeout(limits::CONNECT, dial).await;
        let (mut sender, connection) = dialled.map_err(|_| unavailable("connecting took too long"))??;
        let driver = Driver(tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a provider connection ended");
            }
        }));
        let request = self.request(name, said)?;
        let answered = tokio::time::timeout(limits::PROVIDER_FIRST_TOKEN, sender.send_request(request)).await;
        let response = answered.map_err(|_| unavailable("no answer to the call"))?.map_err(unavailable)?;
        match response.status() {
            StatusCode::OK => Ok((response, driver)),
            status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                Err(unavailable(format!("it answered {status}")))
            }
            status => Err(CallError::Refused(format!("it answered {status}"))),
        }
    }

    fn request(&self, name: &CallName, said: &[Said]) -> Result<Request<Full<Bytes>>, CallError> {
        let refused = |why: &dyn std::fmt::Display| CallError::Refused(why.to_string());
        let ask = Ask { model: &self.model, stream: true, messages: said };
        let body = serde_json::to_vec(&ask).map_err(|error| refused(&error))?;
        let call = format!("{} {} {} {}", name.run, name.fence, name.turn, name.attempt);
        let mut key = HeaderValue::try_from(format!("Bearer {}", self.key)).map_err(|error| refused(&error))?;
        key.set_sensitive(true);
        Request::builder()
            .method(Method::POST)
            .uri("/v1/chat/completions")
            .header(HOST, &self.address.host)
            .header(AUTHORIZATION, key)
            .header(CONTENT_TYPE, "application/json")
            .header(CALL, call)
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| refused(&error))
    }
}

async fn read(response: Response<Incoming>, token: &mut impl FnMut(&str)) -> Result<(String, Finish), CallError> {
    let mut body = response.into_body();
    let mut lines = Lines::default();
    let mut answer = String::new();
    let mut finish = None;
    let mut wait: Duration = limits::PROVIDER_FIRST_TOKEN;
    loop {
        let part = tokio::time::timeout(wait, body.frame()).await.map_err(|_| unavailable("the answer stalled"))?;
        let Some(part) = part else { break };
        wait = limits::PROVIDER_STALL;
        let Ok(data) = part.map_err(unavailable)?.into_data() else { continue };
        lines.push(&data)?;
        while let Some(line) = lines.next() {
            let Some(event) = line.strip_prefix("data:").map(str::trim) else { continue };
            if event == "[DONE]" {
                return finish.map(|finish| (answer, finish)).ok_or_else(|| unavailable("an answer without an end"));
            }
            let chunk: Chunk = serde_json::from_str(event).map_err(|_| unavailable("a malformed event"))?;
            for choice in chunk.choices {
                if let Some(text) = choice.delta.content.filter(|text| !text.is_empty()) {
                    // Postgres has no place for NUL in a text.
                    let text = text.replace('\0', "\u{fffd}");
                    if answer.len() + text.len() > limits::ANSWER_BYTES {
                        return Err(CallError::Refused("the answer is too long".into()));
                    }
                    answer.push_str(&text);
                    token(&text);
                }
                finish = match choice.finish_reason.as_deref() {
                    None => finish,
                    Some("stop") => Some(Finish::Stop),
                    Some("length") => Some(Finish::Length),
                    Some(other) => return Err(CallError::Refused(format!("an answer that ends with {other:?}"))),
                };
            }
        }
    }
    Err(unavailable("the answer was cut"))
}

/// Splits an event stream into lines of bounded length.
#[derive(Default)]
struct Lines {
    bytes: Vec<u8>,
}

impl Lines {
    fn push(&mut self, data: &[u8]) -> Result<(), CallError> {
        self.bytes.extend_from_slice(data);
        let unfinished = self.bytes.iter().rev().take_while(|byte| **byte != b'\n').count();
        if unfinished > limits::PROVIDER_LINE { Err(unavailable("an event without an end")) } else { Ok(()) }
    }

    fn next(&mut self) -> Option<String> {
        let end = self.bytes.iter().position(|byte| *byte == b'\n')?;
        let line: Vec<u8> = self.bytes.drain(..=end).collect();
        Some(String::from_utf8_lossy(&line).trim_end().to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_whole_however_they_were_cut() {
        let mut lines = Lines::default();
        lines.push(b"data: a\r\nda").unwrap();
        assert_eq!(lines.next().as_deref(), Some("data: a"));
        assert_eq!(lines.next(), None);
        lines.push(b"ta: b\n\n").unwrap();
        assert_eq!(lines.next().as_deref(), Some("data: b"));
        assert_eq!(lines.next().as_deref(), Some(""));
        assert!(lines.push(&vec![b'x'; limits::PROVIDER_LINE + 1]).is_err());
    }
}
