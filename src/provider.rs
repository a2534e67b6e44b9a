//! The model provider: one call is one turn of one run, named, and streamed token by token. Every wait has a bound.
//! That the subscription is the trouble, and not the call, is told apart: another subscription may do.

use std::str::FromStr;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue, RETRY_AFTER};
use hyper::{Method, Request, StatusCode};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::config::Address;
use crate::http::client::{Answer, Client, ClientError, Lines};
use crate::ids::{Fence, RunId};
use crate::limits;
use crate::task_tracker::TaskTracker;

/// The header that names a call: `RUN FENCE TURN ATTEMPT`.
pub const CALL: &str = "lychgate-call";

/// The author of an entry of a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The user.
    User,
    /// The model.
    Assistant,
}

/// An entry of a conversation, as the provider wants it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Said {
    /// By whom.
    pub role: Role,
    /// The text.
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

impl std::fmt::Display for CallName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} {} {}", self.run, self.fence, self.turn, self.attempt)
    }
}

impl FromStr for CallName {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut words = text.split(' ');
        let mut word = || words.next().filter(|word| !word.is_empty()).ok_or(());
        let name = CallName {
            run: RunId(word()?.to_string()),
            fence: Fence(word()?.parse().map_err(drop)?),
            turn: word()?.parse().map_err(drop)?,
            attempt: word()?.parse().map_err(drop)?,
        };
        if word().is_ok() { Err(()) } else { Ok(name) }
    }
}

/// The reason why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// The model has said what it had to say.
    Stop,
    /// The answer was cut for length: the next turn goes on.
    Length,
}

/// The reason why a call failed.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum CallError {
    /// Another attempt may succeed.
    #[error("the provider is unavailable: {0}")]
    Unavailable(String),
    /// The subscription has used up what it may. 429.
    #[error("the subscription is rate limited{}", retry_after.map(|secs| format!(", retry after {secs} s")).unwrap_or_default())]
    RateLimited {
        /// The wait that the provider asks for, seconds.
        retry_after: Option<u64>,
    },
    /// The subscription is not let in. 401 or 403.
    #[error("the subscription is not accepted: {0}")]
    Auth(String),
    /// The call will not succeed, however often it is repeated.
    #[error("the provider refused the call: {0}")]
    Refused(String),
    /// The reader of the answer is gone.
    #[error("nobody reads the answer")]
    Abandoned,
}

impl From<ClientError> for CallError {
    fn from(error: ClientError) -> Self {
        CallError::Unavailable(error.0)
    }
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
    tasks: TaskTracker,
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

impl Provider {
    /// A provider at `address` that wants `key`. Its connections are among `tasks`.
    pub fn new(address: &Address, key: &str, model: &str, tasks: &TaskTracker) -> Self {
        Provider { address: address.clone(), key: key.to_string(), model: model.to_string(), tasks: tasks.clone() }
    }

    /// Makes one call and sends each token to `tokens` as it comes; a reader that lags behind slows the call down.
    /// Returns the whole answer. Dropped, it hangs up.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn call<T: From<String>>(
        &self,
        name: &CallName,
        said: &[Said],
        tokens: &mpsc::Sender<T>,
    ) -> Result<(String, Finish), CallError> {
        let call = async { read(self.send(name, said).await?, tokens).await };
        tokio::time::timeout(limits::PROVIDER_CALL, call).await.map_err(|_| unavailable("the call took too long"))?
    }

    async fn send(&self, name: &CallName, said: &[Said]) -> Result<Answer, CallError> {
        let request = self.request(name, said)?;
        let client = Client::connect(&self.address.host, &self.tasks).await?;
        let answer = client.send(request, limits::PROVIDER_FIRST_TOKEN).await?;
        let head = answer.head();
        match head.status() {
            StatusCode::OK => Ok(answer),
            StatusCode::TOO_MANY_REQUESTS => {
                let seconds = head.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
                Err(CallError::RateLimited { retry_after: seconds })
            }
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                Err(CallError::Auth(format!("it answered {status}")))
            }
            status if status.is_server_error() => Err(unavailable(format!("it answered {status}"))),
            status => Err(CallError::Refused(format!("it answered {status}"))),
        }
    }

    fn request(&self, name: &CallName, said: &[Said]) -> Result<Request<Full<Bytes>>, CallError> {
        let refused = |why: &dyn std::fmt::Display| CallError::Refused(why.to_string());
        let ask = Ask { model: &self.model, stream: true, messages: said };
        let body = serde_json::to_vec(&ask).map_err(|error| refused(&error))?;
        let mut key = HeaderValue::try_from(format!("Bearer {}", self.key)).map_err(|error| refused(&error))?;
        key.set_sensitive(true);
        Request::builder()
            .method(Method::POST)
            .uri("/v1/chat/completions")
            .header(HOST, &self.address.host)
            .header(AUTHORIZATION, key)
            .header(CONTENT_TYPE, "application/json")
            .header(CALL, name.to_string())
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| refused(&error))
    }
}

async fn read<T: From<String>>(mut answering: Answer, tokens: &mpsc::Sender<T>) -> Result<(String, Finish), CallError> {
    let mut lines = Lines::default();
    let mut answer = String::new();
    let mut finish = None;
    // Until the first token whatever comes is no sign of life: a comment now and then, or half an event, would
    // otherwise keep the caller of this agent waiting for longer than its own bound.
    let first = Instant::now() + limits::PROVIDER_FIRST_TOKEN;
    let waits = |answer: &str| match answer.is_empty() {
        true => first.saturating_duration_since(Instant::now()),
        false => limits::PROVIDER_STALL,
    };
    while let Some(data) = answering.chunk(waits(&answer)).await? {
        lines.push(&data)?;
        while let Some(line) = lines.next() {
            let Some(event) = line.strip_prefix("data:").map(str::trim) else { continue };
            if event == "[DONE]" {
                // Some give no reason at all: what they mark as done is whole, if there is anything.
                let finish = finish.or((!answer.is_empty()).then_some(Finish::Stop));
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
                    hand_on(tokens, text).await?;
                }
                finish = match choice.finish_reason.as_deref() {
                    // Some say in every event that there is no reason yet, in this word.
                    None | Some("") => finish,
                    Some("stop") => Some(Finish::Stop),
                    Some("length") => Some(Finish::Length),
                    Some(other) => return Err(CallError::Refused(format!("an answer that ends with {other:?}"))),
                };
            }
        }
    }
    Err(unavailable("the answer was cut"))
}

/// Waits for a reader that lags behind, but not for ever.
async fn hand_on<T: From<String>>(tokens: &mpsc::Sender<T>, text: String) -> Result<(), CallError> {
    match tokio::time::timeout(limits::TOKEN_READ, tokens.send(text.into())).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(CallError::Abandoned),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_has_one_name_and_nothing_else_is_one() {
        let name = CallName { run: RunId("abc".into()), fence: Fence(2), turn: 3, attempt: 4 };
        assert_eq!(name.to_string().parse(), Ok(name));
        for wrong in ["", "abc", "abc 1 2", "abc 1 2 3 4", "abc one 2 3", " 1 2 3", "abc 1 2 -3"] {
            assert_eq!(wrong.parse::<CallName>(), Err(()), "{wrong}");
        }
    }
}
