//! The container engine: a subset of Docker's HTTP API, a connection per call, every call bounded. What a caller acts
//! on is told apart: done, done already, not there, the name is taken.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request, StatusCode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::config::Address;
use crate::http::client::{Client, ClientError};
use crate::limits;
use crate::task_tracker::TaskTracker;

/// The label that names a container's agent.
pub const LABEL_AGENT: &str = "lychgate.agent";
/// The label that says its epoch.
pub const LABEL_EPOCH: &str = "lychgate.epoch";
/// The label that names its subscription.
pub const LABEL_SUBSCRIPTION: &str = "lychgate.subscription";

/// The engine did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// No answer in time, or one that says that it has trouble: it may have happened.
    #[error("the container engine is unavailable: {0}")]
    Unavailable(String),
    /// The engine gave an answer that no engine of this kind gives, or refuses the request as wrong.
    #[error("the container engine is unusable: {0}")]
    Unusable(String),
}

/// An engine at an address.
#[derive(Clone)]
pub struct Engine {
    address: Address,
    tasks: TaskTracker,
}

/// The engine's own name of a container.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ContainerId(pub String);

impl std::fmt::Display for ContainerId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// The specification of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// The name, unique in the engine.
    pub name: String,
    /// The image.
    pub image: String,
    /// The environment.
    pub environment: BTreeMap<String, String>,
    /// The labels.
    pub labels: BTreeMap<String, String>,
    /// The port on which it listens; published on one that the engine chooses.
    pub port: u16,
}

/// The outcome of a creation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Created {
    /// The container was created.
    New(ContainerId),
    /// Another container has this name: maybe the one of an earlier try.
    NameTaken,
}

/// The outcome of a start, stop or removal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changed {
    /// The change was made.
    Done,
    /// The container was in that state before.
    Already,
    /// There is no such container.
    Gone,
}

/// A container as the engine shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// The engine's name of it.
    pub id: ContainerId,
    /// The labels.
    pub labels: BTreeMap<String, String>,
    /// Whether its process lives.
    pub running: bool,
    /// The code with which its process ended, if it has.
    pub exit_code: Option<i64>,
    /// Where its port is published, if it is.
    pub published: Option<u16>,
}

impl Container {
    /// The epoch on its label, if it is one.
    pub fn epoch(&self) -> Option<i64> {
        self.labels.get(LABEL_EPOCH)?.parse().ok()
    }
}

#[derive(Deserialize)]
struct CreatedBody {
    #[serde(rename = "Id")]
    id: String,
}

#[derive(Deserialize)]
struct ListedBody {
    #[serde(rename = "Id")]
    id: String,
    #[serde(rename = "Labels")]
    labels: Option<BTreeMap<String, String>>,
    #[serde(rename = "State")]
    state: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InspectedBody {
    id: String,
    state: StateBody,
    config: ConfigBody,
    network_settings: NetworkBody,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct StateBody {
    running: bool,
    exit_code: Option<i64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ConfigBody {
    labels: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct NetworkBody {
    /// An exposed port that is not published has null.
    ports: Option<BTreeMap<String, Option<Vec<BindingBody>>>>,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "PascalCase")]
struct BindingBody {
    host_port: String,
}

impl Engine {
    /// An engine at `address`; nothing is dialled yet.
    pub fn new(address: &Address) -> Self {
        Engine { address: address.clone(), tasks: TaskTracker::default() }
    }

    /// Creates a container; it does not run yet.
    ///
    /// # Errors
    /// [`EngineError`]; after [`EngineError::Unavailable`] it may be there: repeat it, and the name is taken.
    pub async fn create(&self, spec: &Spec) -> Result<Created, EngineError> {
        let port = format!("{}/tcp", spec.port);
        let environment: Vec<_> = spec.environment.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let bindings = BTreeMap::from([(port.clone(), [BindingBody { host_port: String::new() }])]);
        let body = json!({
            "Image": spec.image,
            "Env": environment,
            "Labels": spec.labels,
            "ExposedPorts": { port: {} },
            "HostConfig": { "PortBindings": bindings },
        });
        let path = format!("/containers/create?name={}", encoded(&spec.name));
        match self.call(Method::POST, &path, Some(&body), limits::ENGINE_CALL).await? {
            (StatusCode::CREATED, body) => {
                let created: CreatedBody = read("create", &body)?;
                Ok(Created::New(ContainerId(created.id)))
            }
            (StatusCode::CONFLICT, _) => Ok(Created::NameTaken),
            other => Err(unexpected("create", other)),
        }
    }

    /// Starts a container.
    ///
    /// # Errors
    /// [`EngineError`]; repeat it.
    pub async fn start(&self, id: &ContainerId) -> Result<Changed, EngineError> {
        let path = format!("/containers/{}/start", encoded(&id.0));
        changed("start", self.call(Method::POST, &path, None, limits::ENGINE_CALL).await?)
    }

    /// Stops a container: SIGTERM, then SIGKILL after [`limits::STOP_GRACE`].
    ///
    /// # Errors
    /// [`EngineError`]; repeat it.
    pub async fn stop(&self, id: &ContainerId) -> Result<Changed, EngineError> {
        let path = format!("/containers/{}/stop?t={}", encoded(&id.0), limits::STOP_GRACE.as_secs());
        changed("stop", self.call(Method::POST, &path, None, limits::ENGINE_STOP).await?)
    }

    /// Removes a container, whether it runs or not.
    ///
    /// # Errors
    /// [`EngineError`]; repeat it.
    pub async fn remove(&self, id: &ContainerId) -> Result<Changed, EngineError> {
        let path = format!("/containers/{}?force=1", encoded(&id.0));
        match self.call(Method::DELETE, &path, None, limits::ENGINE_CALL).await? {
            (StatusCode::CONFLICT, _) => Err(EngineError::Unavailable("another removal is going on".into())),
            answered => changed("remove", answered),
        }
    }

    /// Shows a container, by id or by name.
    ///
    /// # Errors
    /// [`EngineError`].
    pub async fn inspect(&self, id_or_name: &str) -> Result<Option<Container>, EngineError> {
        let path = format!("/containers/{}/json", encoded(id_or_name));
        match self.call(Method::GET, &path, None, limits::ENGINE_CALL).await? {
            (StatusCode::OK, body) => {
                let InspectedBody { id, state, config, network_settings } = read("inspect", &body)?;
                let bindings = network_settings.ports.unwrap_or_default().into_values().flatten().flatten();
                let published = bindings.filter_map(|binding| binding.host_port.parse().ok()).next();
                Ok(Some(Container {
                    id: ContainerId(id),
                    labels: config.labels.unwrap_or_default(),
                    running: state.running,
                    exit_code: state.exit_code.filter(|_| !state.running),
                    published,
                }))
            }
            (StatusCode::NOT_FOUND, _) => Ok(None),
            other => Err(unexpected("inspect", other)),
        }
    }

    /// Every container of `agent`, whether it runs or not. Ports are not listed.
    ///
    /// # Errors
    /// [`EngineError`].
    pub async fn list(&self, agent: &str) -> Result<Vec<Container>, EngineError> {
        let filters = json!({ "label": [format!("{LABEL_AGENT}={agent}")] }).to_string();
        let path = format!("/containers/json?all=1&filters={}", encoded(&filters));
        match self.call(Method::GET, &path, None, limits::ENGINE_CALL).await? {
            (StatusCode::OK, body) => {
                let listed: Vec<ListedBody> = read("list", &body)?;
                let container = |listed: ListedBody| Container {
                    id: ContainerId(listed.id),
                    labels: listed.labels.unwrap_or_default(),
                    running: listed.state == "running",
                    exit_code: None,
                    published: None,
                };
                let ours =
                    |container: &Container| container.labels.get(LABEL_AGENT).is_some_and(|label| label == agent);
                Ok(listed.into_iter().map(container).filter(ours).collect())
            }
            other => Err(unexpected("list", other)),
        }
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&serde_json::Value>,
        bound: Duration,
    ) -> Result<(StatusCode, Vec<u8>), EngineError> {
        let body = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, &self.address.host)
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| EngineError::Unusable(error.to_string()))?;
        let call = async {
            let client = Client::connect(&self.address.host, &self.tasks).await?;
            let answer = client.send(request, bound).await?;
            let status = answer.head().status();
            Ok((status, answer.body(limits::ENGINE_BODY, bound).await?))
        };
        let called = tokio::time::timeout(bound, call).await;
        let called = called.map_err(|_| EngineError::Unavailable(format!("{path}: no answer in time")))?;
        called.map_err(|error: ClientError| EngineError::Unavailable(format!("{path}: {error}")))
    }
}

fn changed(what: &str, (status, body): (StatusCode, Vec<u8>)) -> Result<Changed, EngineError> {
    match status {
        StatusCode::NO_CONTENT => Ok(Changed::Done),
        StatusCode::NOT_MODIFIED => Ok(Changed::Already),
        StatusCode::NOT_FOUND => Ok(Changed::Gone),
        status => Err(unexpected(what, (status, body))),
    }
}

/// The error for a status on which no caller acts.
fn unexpected(what: &str, (status, body): (StatusCode, Vec<u8>)) -> EngineError {
    #[derive(Deserialize)]
    struct Says {
        message: String,
    }
    let says = match serde_json::from_slice::<Says>(&body) {
        Ok(says) => says.message,
        Err(_) => String::from_utf8_lossy(&body).chars().take(200).collect(),
    };
    let text = format!("{what}: it answered {status}: {says}");
    let trouble = status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS || status == StatusCode::CONFLICT;
    if trouble { EngineError::Unavailable(text) } else { EngineError::Unusable(text) }
}

fn read<T: DeserializeOwned>(what: &str, body: &[u8]) -> Result<T, EngineError> {
    serde_json::from_slice(body)
        .map_err(|error| EngineError::Unusable(format!("{what}: garbage as an answer: {error}")))
}

/// Percent-encodes what is not plain, for a path or a query.
fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    let encode = |byte: u8| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    text.bytes().map(encode).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_plain_is_encoded() {
        assert_eq!(encoded(r#"{"a b"}"#), "%7B%22a%20b%22%7D");
        assert_eq!(encoded("lychgate-agent-1-2"), "lychgate-agent-1-2");
    }

    #[test]
    fn garbage_is_unusable_and_trouble_is_not() {
        let refused = unexpected("create", (StatusCode::BAD_REQUEST, br#"{"message":"no such image"}"#.to_vec()));
        assert_eq!(
            refused.to_string(),
            "the container engine is unusable: create: it answered 400 Bad Request: no such image"
        );
        let trouble = unexpected("start", (StatusCode::INTERNAL_SERVER_ERROR, b"<html>".to_vec()));
        assert!(matches!(trouble, EngineError::Unavailable(_)), "{trouble}");
        assert!(matches!(read::<CreatedBody>("create", b"[]"), Err(EngineError::Unusable(_))));
    }
}
