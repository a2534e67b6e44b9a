//! The model provider as a stand-in: OpenAI's chat completions, streamed. What it says and how long it takes stands in a
//! script; the words it says depend on the prompt and the turn alone, so that an answer betrays what it is an answer to.

pub mod dialect;
pub mod faults;
pub mod observation;

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::poll_fn;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use self::dialect::Dialect;
use self::faults::{DIALECT, ERROR_EVENT, MALFORMED, REFUSE, STALL, TRUNCATE};
use self::observation::Provider as Seen;
use crate::plan::{FaultRow, Kind};
use crate::standins::listener::{Listener, Stream};
use crate::standins::observation::Tap;
use crate::standins::{Control, StandIn};

/// Where the provider listens.
pub const PORT: u16 = 8081;

/// The longest request: 1000 messages of history at a generous 4 kB.
const REQUEST_MAX: usize = 4 << 20;

/// The longest part of a prompt that its words repeat.
const ECHO_MAX: usize = 64;

/// What the provider says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Script {
    /// By the text of the latest user message.
    pub replies: BTreeMap<String, Reply>,
    /// What it says to any other text; without it such a request is refused with 400.
    pub default_reply: Option<Reply>,
}

/// An answer, given in turns: each but the last ends with `length`, upon which the client calls again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    /// How many turns there are; 0 counts as 1.
    pub turns: u32,
    /// How long each turn takes from the request to its last token.
    pub takes: Duration,
    /// How many tokens each turn has.
    pub tokens: u32,
    /// When the first token of a turn comes; without it tokens are spread evenly over `takes`.
    pub first_token_after: Option<Duration>,
    /// The dialect that it comes in, unless a fault says another one.
    pub dialect: Dialect,
}

impl Reply {
    /// When token `nth` (from 1) is due after the request.
    fn due(&self, nth: u32) -> Duration {
        match self.first_token_after {
            None => self.takes * nth / self.tokens,
            Some(first) if self.tokens < 2 => first,
            Some(first) => first + self.takes.saturating_sub(first) * (nth - 1) / (self.tokens - 1),
        }
    }

    /// When the answer ends.
    fn ends(&self) -> Duration {
        self.takes.max(self.first_token_after.unwrap_or_default())
    }
}

/// How the provider turns a caller away, in OpenAI's form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// As 429.
    pub status: StatusCode,
    /// OpenAI's `error.code`, as `insufficient_quota`.
    pub code: &'static str,
    /// For people.
    pub message: String,
    /// The Retry-After header.
    pub retry_after: Option<Duration>,
}

impl Refusal {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Refusal { status, code, message: message.into(), retry_after: None }
    }

    fn response(&self) -> Response<Body> {
        let kind = match self.status {
            StatusCode::UNAUTHORIZED => "authentication_error",
            StatusCode::FORBIDDEN => "permission_error",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        };
        let error = json!({"error": {"message": self.message, "type": kind, "param": null, "code": self.code}});
        let mut response = Response::new(Full::new(Bytes::from(error.to_string())).boxed());
        *response.status_mut() = self.status;
        response.headers_mut().insert(CONTENT_TYPE, "application/json".parse().expect("a media type is a header"));
        if let Some(after) = self.retry_after {
            response.headers_mut().insert(RETRY_AFTER, after.as_secs().into());
        }
        response
    }
}

type Body = BoxBody<Bytes, Infallible>;

/// A model provider. Clones are the same one.
#[derive(Clone)]
pub struct Provider {
    script: Arc<Script>,
    state: Arc<Mutex<State>>,
    /// Somebody is disturbed no longer.
    calmed: Arc<Notify>,
}

#[derive(Default)]
struct State {
    /// Answers begun, for their ids.
    answers: u64,
    /// By Authorization header.
    refused: BTreeMap<String, Refusal>,
    /// By Authorization header, the words of the faults.
    disturbed: BTreeMap<String, BTreeSet<&'static str>>,
    /// By Authorization header, the dialect of answers that begin.
    dialects: BTreeMap<String, Dialect>,
    /// By Authorization header, where an answer that fails says so.
    error_forms: BTreeMap<String, String>,
}

impl fmt::Debug for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Provider").finish_non_exhaustive()
    }
}

impl Provider {
    /// One that says what is in `script`.
    pub fn new(script: Script) -> Self {
        Provider { script: Arc::new(script), state: Arc::default(), calmed: Arc::default() }
    }

    /// From now on turns away every new call with this Authorization header, as `Bearer sk-1`. Answers that have begun go
    /// on.
    pub fn refuse(&self, authorization: &str, refusal: Refusal) {
        self.state().refused.insert(authorization.to_string(), refusal);
    }

    /// Takes calls with this Authorization header again.
    pub fn accept(&self, authorization: &str) {
        self.state().refused.remove(authorization);
    }

    /// From now on every answer to this Authorization header goes wrong at its next event, those that have begun too.
    pub fn disturb(&self, authorization: &str, fault: &FaultRow) {
        self.state().disturbed.entry(authorization.to_string()).or_default().insert(fault.word());
    }

    /// Answers to it go wrong in this way no longer; what has stalled goes on.
    pub fn calm(&self, authorization: &str, fault: &FaultRow) {
        self.state().disturbed.entry(authorization.to_string()).or_default().remove(fault.word());
        self.calmed.notify_waiters();
    }

    /// From now on gives this Authorization header its answers in that dialect. Answers that have begun go on in theirs.
    pub fn speak(&self, authorization: &str, dialect: Dialect) {
        self.state().dialects.insert(authorization.to_string(), dialect);
    }

    fn disturbances(&self, authorization: &str) -> BTreeSet<&'static str> {
        self.state().disturbed.get(authorization).cloned().unwrap_or_default()
    }

    /// Does to the caller with that bearer token what a fault wants.
    ///
    /// # Panics
    /// A fault that it does not know, and a status that is none of 401, 403, 429 and 500 to 599.
    pub fn control(&self, control: Control) {
        let authorization = |caller: &str| format!("Bearer {caller}");
        match control {
            Control::BeginFor { caller, fault } if fault.is(&REFUSE) => {
                self.refuse(&authorization(&caller), refusal(&fault));
            }
            Control::EndFor { caller, fault } if fault.is(&REFUSE) => self.accept(&authorization(&caller)),
            Control::BeginFor { caller, fault } if fault.is(&DIALECT) => {
                let dialect = fault.text("form").and_then(Dialect::of).expect("a plan names a dialect that there is");
                self.speak(&authorization(&caller), dialect);
            }
            Control::EndFor { caller, fault } if fault.is(&DIALECT) => {
                self.speak(&authorization(&caller), Dialect::Plain);
            }
            Control::BeginFor { caller, fault } => {
                if let Some(form) = fault.text("form") {
                    self.state().error_forms.insert(authorization(&caller), form.to_owned());
                }
                self.disturb(&authorization(&caller), &fault);
            }
            Control::EndFor { caller, fault } => self.calm(&authorization(&caller), &fault),
            Control::Begin(fault) | Control::End(fault) => {
                panic!("the provider stand-in does not know the fault {}", fault.word())
            }
        }
    }

    /// One life: accepts connections until it is dropped.
    ///
    /// # Panics
    /// A request for anything but chat completions.
    pub async fn serve(self, listener: impl Into<Listener>, tap: Tap) {
        let mut listener = listener.into();
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => {
                    tokio::spawn(connection(self.clone(), stream, peer, tap.clone()));
                }
                Err(error) => tracing::debug!(%error, "the provider could not accept"),
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StandIn for Provider {
    fn name(&self) -> &'static str {
        "provider"
    }

    fn port(&self) -> u16 {
        PORT
    }

    fn serve(&self, listener: Listener, tap: Tap) -> BoxFuture<'static, ()> {
        Box::pin(Provider::serve(self.clone(), listener, tap))
    }

    fn control(&self, control: Control) -> Result<(), String> {
        Provider::control(self, control);
        Ok(())
    }
}

async fn connection(provider: Provider, stream: Stream, peer: SocketAddr, tap: Tap) {
    let answer = service_fn(|request| {
        let call = Call { provider: provider.clone(), peer, tap: tap.clone() };
        async move { Ok::<_, Infallible>(call.answer(request).await.unwrap_or_else(|refusal| refusal.response())) }
    });
    // hyper caches its Date header per thread: it would carry time from one run into the next.
    let connection = http1::Builder::new().auto_date_header(false).serve_connection(TokioIo::new(stream), answer);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a caller of the provider hung up");
    }
}

#[derive(Deserialize)]
struct Completion {
    model: String,
    messages: Vec<Message>,
    #[serde(default)]
    stream: bool,
}

#[derive(Deserialize)]
struct Message {
    role: Role,
    content: Option<Content>,
}

#[derive(Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Role {
    System,
    Developer,
    User,
    Assistant,
    Tool,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Deserialize)]
struct Part {
    text: String,
}

impl Content {
    fn text(&self) -> String {
        match self {
            Content::Text(text) => text.clone(),
            Content::Parts(parts) => parts.iter().map(|part| part.text.as_str()).collect(),
        }
    }
}

impl Completion {
    /// The text of the latest user message, and which turn of the answer to it is asked for.
    fn prompt(&self) -> Option<(String, u32)> {
        let latest = self.messages.iter().rposition(|message| message.role == Role::User)?;
        let prompt = self.messages[latest].content.as_ref()?.text();
        let after = &self.messages[latest + 1..];
        let answered = after.iter().filter(|message| message.role == Role::Assistant).count();
        Some((prompt, u32::try_from(answered).ok()?.checked_add(1)?))
    }

    /// The texts of the conversation, each with whether a user has said it.
    fn asked(&self) -> Vec<(bool, String)> {
        let said = self.messages.iter().filter(|message| matches!(message.role, Role::User | Role::Assistant));
        let text = |message: &Message| message.content.as_ref().map(Content::text).unwrap_or_default();
        said.map(|message| (message.role == Role::User, text(message))).collect()
    }
}

/// One request.
struct Call {
    provider: Provider,
    peer: SocketAddr,
    tap: Tap,
}

impl Call {
    async fn answer(self, request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
        let started = Instant::now();
        let (head, body) = request.into_parts();
        assert!(
            head.method == Method::POST && head.uri.path() == "/v1/chat/completions",
            "the provider stand-in does not know {} {}",
            head.method,
            head.uri
        );
        let headers = lower_case(&head.headers);
        let body = whole(body).await?;
        let Some(authorization) = headers.get("authorization").filter(|value| value.starts_with("Bearer ")) else {
            let message = "You didn't provide an API key in an Authorization header using Bearer auth.";
            return Err(Refusal::new(StatusCode::UNAUTHORIZED, "invalid_api_key", message));
        };
        let completion: Completion = serde_json::from_slice(&body)
            .map_err(|error| bad("invalid_body", format!("The body is not a chat completion: {error}")))?;
        let Some((prompt, turn)) = completion.prompt() else {
            return Err(bad("invalid_messages", "There is no user message with content.".into()));
        };
        let authorization = authorization.clone();
        let (peer, called, asked) = (self.peer, headers.clone(), completion.asked());
        let token_shown = token(&authorization);
        let (text, model) = (prompt.clone(), completion.model.clone());
        let called = Seen::Called { peer, headers: called, token: token_shown, turn, prompt: text, model, asked };
        (self.tap)(called.into());
        let refused = self.provider.state().refused.get(&authorization).cloned();
        if let Some(refusal) = refused {
            let token = token(&authorization);
            let (peer, status) = (self.peer, refusal.status.as_u16());
            let retry_after = refusal.retry_after.map(|after| after.as_secs());
            (self.tap)(Seen::Refused { peer, headers, token, status, retry_after }.into());
            return Err(refusal);
        }
        if !completion.stream {
            return Err(bad("stream_required", "This stand-in only streams: say \"stream\": true.".into()));
        }
        let reply = self.provider.script.reply(&prompt, turn)?;
        let chunks = Chunks { id: self.provider.next_id(), created: unix_seconds(), model: completion.model };
        let ordered = self.provider.state().dialects.get(&authorization).copied();
        let (sender, mut receiver) = mpsc::channel(1);
        let answer = Answer {
            provider: self.provider,
            authorization,
            dialect: ordered.unwrap_or(reply.dialect),
            by_fault: ordered.is_some(),
            reply,
            prompt,
            turn,
            chunks,
            started,
            peer,
            headers,
            tap: self.tap,
            sender,
        };
        tokio::spawn(answer.run());
        let frames = poll_fn(move |context| receiver.poll_recv(context).map(|event| event.map(Frame::data).map(Ok)));
        let mut response = Response::new(StreamBody::new(frames).boxed());
        response.headers_mut().insert(CONTENT_TYPE, "text/event-stream".parse().expect("a media type is a header"));
        Ok(response)
    }
}

impl Provider {
    fn next_id(&self) -> String {
        let mut state = self.state();
        state.answers += 1;
        format!("chatcmpl-{}", state.answers)
    }
}

impl Script {
    fn reply(&self, prompt: &str, turn: u32) -> Result<Reply, Refusal> {
        let reply =
            self.replies.get(prompt).or(self.default_reply.as_ref()).copied().ok_or_else(|| {
                bad("not_in_script", format!("The script has no reply to the user message {prompt:?}."))
            })?;
        if turn > reply.turns.max(1) {
            let message =
                format!("The reply to {prompt:?} has {} turns, and this would be number {turn}.", reply.turns);
            return Err(bad("not_in_script", message));
        }
        Ok(reply)
    }
}

fn bad(code: &'static str, message: String) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, code, message)
}

fn lower_case(headers: &HeaderMap) -> BTreeMap<String, String> {
    // `HeaderName` is lower-case by construction.
    let text = |value: &hyper::header::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    headers.iter().map(|(name, value)| (name.as_str().to_string(), text(value))).collect()
}

async fn whole(body: Incoming) -> Result<Bytes, Refusal> {
    let body = Limited::new(body, REQUEST_MAX).collect().await;
    body.map(|body| body.to_bytes()).map_err(|error| {
        if error.is::<http_body_util::LengthLimitError>() {
            let message = format!("The body is larger than {REQUEST_MAX} bytes.");
            Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message)
        } else {
            bad("invalid_body", format!("The body did not arrive: {error}"))
        }
    })
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// What all events of one answer share.
struct Chunks {
    id: String,
    created: u64,
    model: String,
}

impl Chunks {
    fn event(&self, delta: Value, finish_reason: Value) -> String {
        let chunk = json!({
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.model,
            "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}],
        });
        format!("data: {chunk}\n\n")
    }
}

/// What is said of a failure in the middle of an answer.
fn failure(form: &str) -> String {
    let error = json!({"message": "The server had an error.", "type": "server_error", "code": 500});
    let choices = |finish_reason: &str| json!([{"index": 0, "delta": {"content": ""}, "finish_reason": finish_reason}]);
    match form {
        "beside_choices" => format!("data: {}\n\n", json!({"error": error, "choices": choices("error")})),
        "before_the_end" => {
            let (error, end) = (json!({"error": error}), json!({"choices": choices("stop")}));
            format!("data: {error}\n\ndata: {end}\n\ndata: [DONE]\n\n")
        }
        _ => format!("data: {}\n\n", json!({"error": error})),
    }
}

/// An answer under way. A task of its own, so that what it says of a caller who hung up is said by a living provider.
struct Answer {
    provider: Provider,
    authorization: String,
    dialect: Dialect,
    /// Whether a fault has it speak so.
    by_fault: bool,
    reply: Reply,
    prompt: String,
    turn: u32,
    chunks: Chunks,
    started: Instant,
    peer: SocketAddr,
    headers: BTreeMap<String, String>,
    tap: Tap,
    sender: mpsc::Sender<Bytes>,
}

/// Why an answer ends before its time.
enum Cut {
    /// The caller hung up.
    Abandoned,
    /// A fault ends it.
    Truncated,
}

impl Answer {
    async fn run(self) {
        if let Err(Cut::Abandoned) = self.speak().await {
            let Answer { peer, headers, tap, .. } = self;
            tap(Seen::Abandoned { peer, headers }.into());
        }
    }

    async fn speak(&self) -> Result<(), Cut> {
        let mut garbled = false;
        if self.by_fault && self.dialect != Dialect::Plain {
            self.tell(&DIALECT, false);
        }
        for nth in 1..=self.reply.tokens {
            self.think_until(self.reply.due(nth)).await?;
            let delta = json!({"content": word(&self.prompt, self.turn, nth)});
            let event = self.chunks.event(delta, self.dialect.unfinished());
            self.say(self.disturbed(event, &mut garbled).await?).await?;
            if nth == 1 {
                let (peer, headers) = (self.peer, self.headers.clone());
                (self.tap)(Seen::Began { peer, headers }.into());
            }
        }
        self.think_until(self.reply.ends()).await?;
        let finish_reason = if self.turn < self.reply.turns { "length" } else { "stop" };
        let (delta, said) = self.dialect.last(finish_reason);
        let event = self.chunks.event(delta, said);
        let event = self.disturbed(event, &mut garbled).await?;
        let permit = self.sender.reserve().await.map_err(|_| Cut::Abandoned)?;
        if garbled {
            self.tell(&MALFORMED, true);
        } else {
            let (peer, headers) = (self.peer, self.headers.clone());
            (self.tap)(Seen::Answered { peer, headers, finish_reason: finish_reason.into() }.into());
        }
        permit.send(self.dialect.write(event + self.dialect.end()).into());
        Ok(())
    }

    /// Sleeps, and shows signs of life meanwhile if its dialect has any.
    async fn think_until(&self, due: Duration) -> Result<(), Cut> {
        let Some(every) = self.dialect.shows_life_every() else { return self.sleep_until(due).await };
        loop {
            let next = self.started.elapsed() + every;
            if next >= due {
                return self.sleep_until(due).await;
            }
            self.sleep_until(next).await?;
            let sign = self.dialect.sign_of_life();
            let event = |delta| self.chunks.event(delta, self.dialect.unfinished());
            self.say(sign.map_or_else(|| ": keep-alive\n\n".to_owned(), event)).await?;
        }
    }

    /// What is left to say of this event, which is all of it unless something is to go wrong.
    async fn disturbed(&self, event: String, garbled: &mut bool) -> Result<String, Cut> {
        let disturbances = self.provider.disturbances(&self.authorization);
        if disturbances.contains(TRUNCATE.word()) {
            self.tell(&TRUNCATE, true);
            return Err(Cut::Truncated);
        }
        if disturbances.contains(ERROR_EVENT.word()) {
            let form = self.provider.state().error_forms.get(&self.authorization).cloned();
            self.say(failure(form.as_deref().unwrap_or_default())).await?;
            self.tell(&ERROR_EVENT, true);
            return Err(Cut::Truncated);
        }
        let (before, after) = event.split_at(half(&event));
        if disturbances.contains(STALL.word()) {
            self.say(before.to_owned()).await?;
            self.tell(&STALL, false);
            self.stall().await?;
            return Ok(after.to_owned());
        }
        if disturbances.contains(MALFORMED.word()) && !*garbled {
            *garbled = true;
            self.tell(&MALFORMED, false);
            return Ok(format!("{before}\n\n"));
        }
        Ok(event)
    }

    async fn say(&self, text: String) -> Result<(), Cut> {
        self.sender.reserve().await.map_err(|_| Cut::Abandoned)?.send(self.dialect.write(text).into());
        Ok(())
    }

    /// Until it does not stall any more.
    async fn stall(&self) -> Result<(), Cut> {
        loop {
            let calmed = self.provider.calmed.notified();
            tokio::pin!(calmed);
            calmed.as_mut().enable();
            if !self.provider.disturbances(&self.authorization).contains(STALL.word()) {
                return Ok(());
            }
            tokio::select! {
                biased;
                () = self.sender.closed() => return Err(Cut::Abandoned),
                () = calmed => {}
            }
        }
    }

    fn tell(&self, fault: &'static FaultRow, over: bool) {
        let (peer, headers, token) = (self.peer, self.headers.clone(), token(&self.authorization));
        (self.tap)(Seen::Disturbed { peer, headers, token, fault: fault.word(), over }.into());
    }

    async fn sleep_until(&self, due: Duration) -> Result<(), Cut> {
        tokio::select! {
            biased;
            () = self.sender.closed() => Err(Cut::Abandoned),
            () = tokio::time::sleep_until(self.started + due) => Ok(()),
        }
    }
}

/// What a caller is told that a fault refuses.
fn refusal(fault: &Kind) -> Refusal {
    let status = StatusCode::from_u16(fault.status()).unwrap_or_else(|_| panic!("{fault:?} has no status of HTTP"));
    let (code, message) = match status {
        StatusCode::TOO_MANY_REQUESTS => ("rate_limit_exceeded", "Rate limit reached for this key."),
        StatusCode::UNAUTHORIZED => ("invalid_api_key", "Incorrect API key provided."),
        StatusCode::FORBIDDEN => ("permission_denied", "This key is not allowed to use this model."),
        status if status.is_server_error() => ("server_error", "The server had an error; try again."),
        status => panic!("the provider stand-in does not know how to refuse with {status}"),
    };
    Refusal { retry_after: fault.time_said("retry_after"), ..Refusal::new(status, code, message) }
}

/// The bearer token in an Authorization header.
fn token(authorization: &str) -> String {
    authorization.trim_start_matches("Bearer ").to_owned()
}

/// Where to break an event, or a little before.
fn half(event: &str) -> usize {
    (0..=event.len() / 2).rev().find(|at| event.is_char_boundary(*at)).unwrap_or(0)
}

/// As `ann/1#1-t2-w3 `: whose prompt, which turn, which word.
fn word(prompt: &str, turn: u32, nth: u32) -> String {
    let echo: String = prompt.split_whitespace().collect::<Vec<_>>().join("_").chars().take(ECHO_MAX).collect();
    format!("{echo}-t{turn}-w{nth} ")
}
