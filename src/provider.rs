//! The model provider: one call is one turn of one run, named, and streamed token by token. Every wait has a bound.
//! That the subscription is the trouble, and not the call, is told apart: another subscription may do.

use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, DATE, HOST, HeaderMap, HeaderValue, RETRY_AFTER};
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

/// A piece of an answer that is under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Words of the answer.
    Token(String),
    /// A sign of life without a word, as of a model that reasons; at most one every [`limits::SIGNS_OF_LIFE`].
    Alive,
}

/// An OpenAI-compatible provider.
#[derive(Clone)]
pub struct Provider {
    address: Address,
    key: String,
    model: String,
    /// The longest time without a sign of life.
    silence: Duration,
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
    choices: Option<Vec<Choice>>,
    /// Trouble after the head: an event in place of a status.
    error: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Choice {
    delta: Option<Delta>,
    finish_reason: Option<String>,
}

/// The body of a refusal, as far as it decides anything.
#[derive(Default, Deserialize)]
struct Refusal {
    error: Option<RefusalError>,
}

#[derive(Default, Deserialize)]
struct RefusalError {
    code: Option<serde_json::Value>,
    r#type: Option<String>,
}

impl Refusal {
    /// Whether it speaks of money and not of pace: waiting does not help.
    fn is_of_quota(&self) -> bool {
        let word = "insufficient_quota";
        let error = self.error.as_ref();
        error.is_some_and(|error| {
            error.r#type.as_deref() == Some(word) || error.code.as_ref().is_some_and(|code| code == word)
        })
    }
}

#[derive(Default, Deserialize)]
struct Delta {
    content: Option<String>,
}

impl Provider {
    /// A provider at `address` that wants `key`, with a model that is never silent for longer than `silence`. Its
    /// connections are among `tasks`.
    pub fn new(address: &Address, key: &str, model: &str, silence: Duration, tasks: &TaskTracker) -> Self {
        let (key, model) = (key.to_string(), model.to_string());
        Provider { address: address.clone(), key, model, silence, tasks: tasks.clone() }
    }

    /// Makes one call and sends each piece to `pieces` as it comes; a reader that lags behind slows the call down.
    /// Returns the whole answer. Dropped, it hangs up.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn call<T: From<Piece>>(
        &self,
        name: &CallName,
        said: &[Said],
        pieces: &mpsc::Sender<T>,
    ) -> Result<(String, Finish), CallError> {
        let call = async { Reading::new(pieces, self.silence).read(self.send(name, said).await?).await };
        tokio::time::timeout(limits::PROVIDER_CALL, call).await.map_err(|_| unavailable("the call took too long"))?
    }

    async fn send(&self, name: &CallName, said: &[Said]) -> Result<Answer, CallError> {
        let request = self.request(name, said)?;
        let client = Client::connect(&self.address.host, &self.tasks).await?;
        let answer = client.send(request, self.silence).await?;
        let says = |status: StatusCode| format!("it answered {status}");
        match answer.head().status() {
            StatusCode::OK => Ok(answer),
            StatusCode::TOO_MANY_REQUESTS => {
                let retry_after = retry_after(answer.head().headers());
                // Without a body that says otherwise it is about pace.
                let body = answer.body(limits::HEALTH_BODY, limits::CONNECT).await.unwrap_or_default();
                let refusal: Refusal = serde_json::from_slice(&body).unwrap_or_default();
                Err(CallError::RateLimited { retry_after: retry_after.filter(|_| !refusal.is_of_quota()) })
            }
            StatusCode::PAYMENT_REQUIRED => Err(CallError::RateLimited { retry_after: None }),
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => Err(CallError::Auth(says(status))),
            status @ (StatusCode::REQUEST_TIMEOUT | StatusCode::CONFLICT | StatusCode::TOO_EARLY) => {
                Err(unavailable(says(status)))
            }
            status if status.is_server_error() => Err(unavailable(says(status))),
            status => Err(CallError::Refused(says(status))),
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

/// The seconds of a Retry-After header, which says them as a number or as a date; a date is read by the clock of the one
/// who set it, which Date shows. Rounded up: who comes too early is refused again.
fn retry_after(headers: &HeaderMap) -> Option<u64> {
    let text = |name| Some(headers.get(name)?.to_str().ok()?.trim());
    let date = |text| httpdate::parse_http_date(text).ok();
    let asked = text(RETRY_AFTER)?;
    let seconds = match asked.parse::<f64>() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).ok()?,
        Err(_) => date(asked)?.duration_since(date(text(DATE)?)?).unwrap_or_default(),
    };
    Some(seconds.as_secs() + u64::from(seconds.subsec_nanos() > 0))
}

/// The reading of one answer.
struct Reading<'a, T> {
    pieces: &'a mpsc::Sender<T>,
    /// The longest time without a sign of life.
    silence: Duration,
    answer: String,
    finish: Option<Finish>,
    /// The last piece that was handed on, if any.
    handed_on: Option<Instant>,
}

impl<'a, T: From<Piece>> Reading<'a, T> {
    fn new(pieces: &'a mpsc::Sender<T>, silence: Duration) -> Self {
        Reading { pieces, silence, answer: String::new(), finish: None, handed_on: None }
    }

    /// Reads to the end. A whole line, whatever it says, is a sign of life: an event without a word, as of a model that
    /// reasons, or a comment that keeps the line open. Half a line is none.
    async fn read(mut self, mut answering: Answer) -> Result<(String, Finish), CallError> {
        let mut lines = Lines::default();
        let mut alive = Instant::now();
        while let Some(data) = answering.chunk((alive + self.silence).saturating_duration_since(Instant::now())).await?
        {
            lines.push(&data)?;
            while let Some(line) = lines.next() {
                alive = Instant::now();
                match line.strip_prefix("data:").map(str::trim) {
                    Some("[DONE]") => {
                        // Some give no reason at all: what they mark as done is whole, if there is anything.
                        let finish = self.finish.or((!self.answer.is_empty()).then_some(Finish::Stop));
                        let without = || unavailable("an answer without an end");
                        return finish.map(|finish| (self.answer, finish)).ok_or_else(without);
                    }
                    Some(event) => self.event(event).await?,
                    None => self.alive().await?,
                }
            }
        }
        // Some close the line where others say that it is done.
        let cut = || unavailable("the answer was cut");
        self.finish.map(|finish| (self.answer, finish)).ok_or_else(cut)
    }

    async fn event(&mut self, event: &str) -> Result<(), CallError> {
        let chunk: Chunk = serde_json::from_str(event).map_err(|_| unavailable("a malformed event"))?;
        if let Some(error) = chunk.error.filter(|error| !error.is_null()) {
            return Err(unavailable(format!("it failed in the middle of its answer: {error:.200}")));
        }
        let mut spoke = false;
        for choice in chunk.choices.unwrap_or_default() {
            let text = choice.delta.and_then(|delta| delta.content).filter(|text| !text.is_empty());
            spoke |= text.is_some();
            if let Some(text) = text {
                self.token(&text).await?;
            }
            self.finish = match choice.finish_reason.as_deref() {
                // Some say in every event that there is no reason yet, in this word.
                None | Some("") => self.finish,
                Some("length" | "max_tokens") => Some(Finish::Length),
                Some(word @ ("content_filter" | "tool_calls" | "function_call")) => {
                    return Err(CallError::Refused(format!("an answer that ends with {word:?}")));
                }
                Some("stop") => Some(Finish::Stop),
                // A word of its own for an end: whatever was said is the answer.
                Some(_) if !self.answer.is_empty() => Some(Finish::Stop),
                Some(other) => return Err(unavailable(format!("no answer, which ends with {other:?}"))),
            };
        }
        if spoke { Ok(()) } else { self.alive().await }
    }

    async fn token(&mut self, text: &str) -> Result<(), CallError> {
        // Postgres has no place for NUL in a text.
        let text = text.replace('\0', "\u{fffd}");
        if self.answer.len() + text.len() > limits::ANSWER_BYTES {
            return Err(CallError::Refused("the answer is too long".into()));
        }
        self.answer.push_str(&text);
        self.hand_on(Piece::Token(text)).await
    }

    async fn alive(&mut self) -> Result<(), CallError> {
        match self.handed_on {
            Some(last) if last.elapsed() < limits::SIGNS_OF_LIFE => Ok(()),
            _ => self.hand_on(Piece::Alive).await,
        }
    }

    /// Waits for a reader that lags behind, but not for ever.
    async fn hand_on(&mut self, piece: Piece) -> Result<(), CallError> {
        self.handed_on = Some(Instant::now());
        match tokio::time::timeout(limits::TOKEN_READ, self.pieces.send(piece.into())).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(CallError::Abandoned),
        }
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

    #[test]
    fn the_wait_that_a_provider_asks_for_is_a_number_or_a_date() {
        let date = HeaderValue::from_static("Wed, 21 Oct 2015 07:28:00 GMT");
        let seconds = |text: &str| {
            let asked = HeaderValue::try_from(text).unwrap();
            retry_after(&[(DATE, date.clone()), (RETRY_AFTER, asked)].into_iter().collect())
        };
        assert_eq!(seconds("1"), Some(1));
        assert_eq!(seconds(" 0.2 "), Some(1));
        assert_eq!(seconds("Wed, 21 Oct 2015 07:29:30 GMT"), Some(90));
        assert_eq!(seconds("Wed, 21 Oct 2015 07:27:00 GMT"), Some(0));
        for nonsense in ["", "soon", "-5", "inf", "NaN", "1e300"] {
            assert_eq!(seconds(nonsense), None, "{nonsense:?}");
        }
    }
}
