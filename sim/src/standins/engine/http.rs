//! The words of requests and answers: Docker's own paths, status codes, JSON and messages. The detail of a message about
//! malformed JSON is serde's, not Go's.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Engine, Verb};
use crate::standins::listener::Stream;

/// The longest request: an environment and some labels.
const REQUEST_MAX: usize = 1 << 20;
/// What Docker waits for between SIGTERM and SIGKILL unless it is told.
const GRACE: Duration = Duration::from_secs(10);

/// Serves one connection.
pub(super) async fn connection(engine: Engine, stream: Stream, peer: SocketAddr) {
    let answer = service_fn(|request| {
        let engine = engine.clone();
        async move {
            let wanted = read(request).await?;
            // A task of its own: a client that hangs up does not stop what it began.
            let answer = tokio::spawn(async move { engine.answer(wanted, peer).await }).await;
            let answer = answer.unwrap_or_else(|error| panic!("a request to the container engine died: {error}"));
            Ok::<_, hyper::Error>(answer.response())
        }
    });
    // hyper caches its Date header per thread: it would carry time from one run into the next.
    let connection = http1::Builder::new().auto_date_header(false).serve_connection(TokioIo::new(stream), answer);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a client of the container engine hung up");
    }
}

/// What a request wants.
pub(super) enum Wanted {
    /// The error is what is wrong with the JSON.
    Create {
        name: String,
        created: Result<Created, String>,
    },
    Start {
        who: String,
    },
    Stop {
        who: String,
        grace: Duration,
    },
    Remove {
        who: String,
        force: bool,
    },
    Inspect {
        who: String,
    },
    List {
        all: bool,
        labels: Vec<String>,
    },
}

impl Wanted {
    pub(super) fn verb(&self) -> Verb {
        match self {
            Wanted::Create { .. } => Verb::Create,
            Wanted::Start { .. } => Verb::Start,
            Wanted::Stop { .. } => Verb::Stop,
            Wanted::Remove { .. } => Verb::Remove,
            Wanted::Inspect { .. } => Verb::Inspect,
            Wanted::List { .. } => Verb::List,
        }
    }
}

/// What a request to create says of the container.
pub(super) struct Created {
    pub(super) image: String,
    pub(super) env: BTreeMap<String, String>,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) port: u16,
}

/// An answer.
pub(super) enum Answer {
    Empty(StatusCode),
    Json(StatusCode, Value),
    Garbage,
}

impl Answer {
    pub(super) fn json(value: Value) -> Answer {
        Answer::Json(StatusCode::OK, value)
    }

    pub(super) fn error(status: StatusCode, message: impl Into<String>) -> Answer {
        Answer::Json(status, json!({"message": message.into()}))
    }

    fn response(self) -> Response<Full<Bytes>> {
        let (status, body) = match self {
            Answer::Empty(status) => (status, Bytes::new()),
            Answer::Json(status, value) => (status, Bytes::from(value.to_string())),
            Answer::Garbage => (StatusCode::OK, Bytes::from_static(b"<html>it works</html>")),
        };
        let has_body = !body.is_empty();
        let mut response = Response::new(Full::new(body));
        *response.status_mut() = status;
        if has_body {
            let json = "application/json".parse().expect("a media type is a header");
            response.headers_mut().insert(CONTENT_TYPE, json);
        }
        response
    }
}

async fn read(request: Request<Incoming>) -> Result<Wanted, hyper::Error> {
    let (head, body) = request.into_parts();
    let unknown = || -> ! { panic!("the container engine stand-in does not know {} {}", head.method, head.uri) };
    let body = match Limited::new(body, REQUEST_MAX).collect().await {
        Ok(body) => body.to_bytes(),
        // The client is gone; what it wanted is not known.
        Err(error) => match error.downcast::<hyper::Error>() {
            Ok(error) => return Err(*error),
            Err(error) => panic!("a request to the container engine stand-in: {error}"),
        },
    };
    let path: Vec<&str> = head.uri.path().split('/').skip(1).collect();
    let path = match path.first() {
        Some(first) if is_version(first) => &path[1..],
        _ => &path[..],
    };
    let mut query = query(&head.uri);
    let mut say = |key: &str| query.remove(key);
    let who = |who: &&str| (*who).to_owned();
    let wanted = match (&head.method, path) {
        (&Method::POST, ["containers", "create"]) => {
            let name = say("name").unwrap_or_else(|| unknown());
            Wanted::Create { created: created(&name, &body), name }
        }
        (&Method::POST, ["containers", id, "start"]) => Wanted::Start { who: who(id) },
        (&Method::POST, ["containers", id, "stop"]) => {
            let seconds = |text: String| text.parse().map(Duration::from_secs).unwrap_or_else(|_| unknown());
            Wanted::Stop { who: who(id), grace: say("t").map_or(GRACE, seconds) }
        }
        (&Method::DELETE, ["containers", id]) => {
            Wanted::Remove { who: who(id), force: say("force").is_some_and(|text| truth(&text)) }
        }
        (&Method::GET, ["containers", "json"]) => {
            let labels = say("filters").map_or_else(Vec::new, |text| filtered(&text));
            Wanted::List { all: say("all").is_some_and(|text| truth(&text)), labels }
        }
        (&Method::GET, ["containers", id, "json"]) => Wanted::Inspect { who: who(id) },
        _ => unknown(),
    };
    if !query.is_empty() {
        unknown();
    }
    Ok(wanted)
}

/// As `v1.43`.
fn is_version(segment: &str) -> bool {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let parts = segment.strip_prefix('v').and_then(|version| version.split_once('.'));
    parts.is_some_and(|(major, minor)| number(major) && number(minor))
}

/// Docker takes anything for true but these.
fn truth(text: &str) -> bool {
    !matches!(text.trim().to_lowercase().as_str(), "" | "0" | "no" | "false" | "none")
}

fn query(uri: &Uri) -> BTreeMap<String, String> {
    let pairs = uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (unescaped(key), unescaped(value))
        })
        .collect()
}

/// Undoes the escaping of a query: `%22` and `+`.
fn unescaped(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let digits = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        rest = after;
        match (first, digits.and_then(|digits| u8::from_str_radix(digits, 16).ok())) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            (b'+', _) => bytes.push(b' '),
            _ => bytes.push(first),
        }
    }
    String::from_utf8(bytes).unwrap_or_else(|_| panic!("the container engine stand-in was sent a query {text:?}"))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Filters {
    #[serde(default)]
    label: Vec<String>,
}

fn filtered(text: &str) -> Vec<String> {
    let filters: Result<Filters, _> = serde_json::from_str(text);
    filters
        .unwrap_or_else(|error| panic!("the container engine stand-in does not know the filters {text}: {error}"))
        .label
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Create {
    image: String,
    #[serde(default)]
    env: Vec<String>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    exposed_ports: BTreeMap<String, Nothing>,
    #[serde(default)]
    host_config: HostConfig,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct HostConfig {
    #[serde(default)]
    port_bindings: BTreeMap<String, Vec<Binding>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Binding {
    host_port: String,
}

/// Reads the body of a create: malformed JSON is the client's error, what Docker may know and the stand-in does not is
/// loud.
fn created(name: &str, body: &[u8]) -> Result<Created, String> {
    let value: Value = serde_json::from_slice(body).map_err(|error| format!("invalid JSON: {error}"))?;
    let unknown =
        |why: &dyn std::fmt::Display| -> ! { panic!("the container engine stand-in cannot create {name}: {why}") };
    let create: Create = serde_json::from_value(value).unwrap_or_else(|error| unknown(&error));
    let env = create.env.iter().map(|setting| match setting.split_once('=') {
        Some((key, value)) => (key.to_owned(), value.to_owned()),
        None => unknown(&format!("the setting {setting:?} has no value")),
    });
    let ports: Vec<_> = create.host_config.port_bindings.iter().collect();
    let [(port, bindings)] = ports[..] else { unknown(&"it must publish one port") };
    let free = |binding: &Binding| matches!(binding.host_port.as_str(), "" | "0");
    if bindings.len() != 1 || !bindings.iter().all(free) || !create.exposed_ports.contains_key(port) {
        unknown(&format!("port {port} must be exposed, and published at any one free port"));
    }
    let number = port.strip_suffix("/tcp").and_then(|number| number.parse().ok());
    let number = number.unwrap_or_else(|| unknown(&format!("port {port} is not of TCP")));
    Ok(Created { image: create.image, env: env.collect(), labels: create.labels, port: number })
}
