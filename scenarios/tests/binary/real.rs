//! The binary on the production runtime: processes of it, stand-ins on loopback, real HTTP, real signals.
#![cfg(real)]

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use lychgate::config::{Environment, SETTINGS};
use lychgate_scenarios::loopback::{Loopback, REPLY, Reply, free_port};
use lychgate_scenarios::roles::{self, TOKEN};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

/// The whole of it takes about 10 s: two runs of two turns of two seconds, and the waits of an orderly exit.
const PATIENCE: Duration = Duration::from_secs(45);
/// One answer, or an exit with nothing left to do.
const SOON: Duration = Duration::from_secs(15);
const PAUSE: Duration = Duration::from_millis(50);

/// A process of the binary, and what it logs. Killed when it is dropped.
struct Process {
    child: Child,
    log: Option<JoinHandle<Vec<Value>>>,
}

impl Process {
    fn start(role: &str, environment: &Environment) -> Self {
        let mut child = binary(&[role], environment).stdout(Stdio::piped()).spawn().expect("it starts");
        let stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        let read = |line: std::io::Result<String>| {
            let line = line.expect("text");
            serde_json::from_str(&line).unwrap_or_else(|error| panic!("not JSON ({error}): {line}"))
        };
        let log = std::thread::spawn(move || stdout.lines().map(read).collect());
        Process { child, log: Some(log) }
    }

    fn terminate(&self) {
        let pid = self.child.id().try_into().expect("a pid");
        // SAFETY: it only sends a signal. The child has not been waited for, so the pid is still its own.
        let sent = unsafe { libc::kill(pid, libc::SIGTERM) };
        assert_eq!(sent, 0, "{}", std::io::Error::last_os_error());
    }

    /// Waits for its exit, and gives what it said in its life.
    async fn exit(mut self) -> (ExitStatus, Vec<String>) {
        let exits = async {
            loop {
                if let Some(status) = self.child.try_wait().expect("it is ours") {
                    return status;
                }
                sleep(PAUSE).await;
            }
        };
        let status = timeout(SOON, exits).await.expect("it exits by itself");
        let log = self.log.take().expect("nobody took it").join().expect("its lines are JSON");
        (status, log.iter().map(|line| line["message"].as_str().unwrap_or_default().to_string()).collect())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It has usually ended; then there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn binary(words: &[&str], environment: &Environment) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lychgate"));
    command.args(words).env_clear().envs(environment);
    command
}

/// What the binary says of wrong words or settings, without ever starting a role.
fn says(words: &[&str], environment: &Environment) -> Output {
    let mut command = binary(words, environment);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let patience = Instant::now() + SOON;
    while child.try_wait().expect("it is ours").is_none() {
        if Instant::now() > patience {
            child.kill().expect("it is ours");
            panic!("{words:?} started something: {:?}", child.wait_with_output());
        }
        std::thread::sleep(PAUSE);
    }
    child.wait_with_output().expect("it has ended")
}

/// A user of the gateway.
struct User {
    gateway: SocketAddr,
}

impl User {
    async fn ask(&self, method: Method, path: &str, body: &Value) -> Option<Response<Incoming>> {
        let stream = TcpStream::connect(self.gateway).await.ok()?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("HTTP");
        tokio::spawn(connection);
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "lychgate")
            .header("authorization", format!("Bearer {TOKEN}"))
            .header("content-type", "application/json")
            .header("idempotency-key", &body)
            .body(Full::new(Bytes::from(body)));
        Some(sender.send_request(request.expect("a request")).await.expect("an answer"))
    }

    async fn answer(&self, method: Method, path: &str, body: Value) -> (StatusCode, Value) {
        let response = timeout(SOON, self.ask(method, path, &body)).await.expect("in time").expect("it listens");
        let status = response.status();
        let body = response.into_body().collect().await.expect("a body").to_bytes();
        (status, serde_json::from_slice(&body).expect("JSON"))
    }

    async fn gateway_is_up(&self) {
        let up = async {
            while self.ask(Method::GET, "/health", &Value::Null).await.is_none() {
                sleep(PAUSE).await;
            }
        };
        timeout(SOON, up).await.expect("the gateway comes up");
    }

    async fn say(&self, path: &str, text: &str) -> Value {
        let (status, answer) = self.answer(Method::POST, path, json!({ "text": text })).await;
        assert_eq!(status, StatusCode::ACCEPTED, "{answer}");
        answer
    }

    async fn watch(&self, said: &Value) -> Watch {
        let path = said["events"].as_str().expect("where to watch");
        let response = self.ask(Method::GET, path, &Value::Null).await.expect("it listens");
        assert_eq!(response.status(), StatusCode::OK);
        Watch { body: response.into_body(), unread: String::new() }
    }
}

/// A stream of events.
struct Watch {
    body: Incoming,
    unread: String,
}

impl Watch {
    /// The next event: what it is, and its data. `None` once the stream has ended.
    async fn next(&mut self) -> Option<(String, Value)> {
        loop {
            if let Some(end) = self.unread.find("\n\n") {
                let event: String = self.unread.drain(..end + 2).collect();
                let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name));
                let Some(kind) = field("event: ") else { continue };
                let data = field("data: ").expect("an event has data");
                return Some((kind.to_string(), serde_json::from_str(data).expect("JSON")));
            }
            let part = timeout(SOON, self.body.frame()).await.expect("something comes")?.expect("no cut stream");
            self.unread.push_str(std::str::from_utf8(part.data_ref().expect("data")).expect("text"));
        }
    }

    /// Everything up to the end of the stream.
    async fn rest(mut self) -> Vec<(String, Value)> {
        let mut events = Vec::new();
        while let Some(event) = self.next().await {
            events.push(event);
        }
        events
    }
}

/// The words that were shown, in order, and the status at the end.
fn shown(events: &[(String, Value)]) -> (String, &Value) {
    let text = events.iter().filter(|(kind, _)| kind == "token").filter_map(|(_, data)| data["text"].as_str());
    let (kind, end) = events.last().expect("a stream says something");
    assert_eq!(kind, "end", "{events:?}");
    (text.collect(), &end["status"])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_answered_and_a_run_outlives_sigterm() {
    timeout(PATIENCE, story()).await.expect("it ends");
}

async fn story() {
    let reply = Reply { takes: Duration::from_secs(2), tokens: 3, ..REPLY };
    let mut stand_ins = Loopback::start(reply).await.expect("loopback is free");
    stand_ins.start_agents().await.expect("loopback is free");
    let user = User { gateway: free_port().await.expect("a port is free") };
    let environment = |role: &str| {
        let mut environment = roles::environment(role, &format!("{role}-1"), &stand_ins.links);
        environment.insert("LYCHGATE_LISTEN".into(), user.gateway.to_string());
        environment
    };
    let gateway = Process::start("gateway", &environment("gateway"));
    let executor = Process::start("executor", &environment("executor"));
    user.gateway_is_up().await;

    let said = user.say("/sessions", "one").await;
    let events = user.watch(&said).await.rest().await;
    let words = "one-t1-w1 one-t1-w2 one-t1-w3 one-t2-w1 one-t2-w2 one-t2-w3 ";
    assert_eq!(shown(&events), (words.to_string(), &json!("completed")));

    let session = format!("/sessions/{}", said["session"].as_str().expect("an id"));
    let (status, seen) = user.answer(Method::GET, &session, Value::Null).await;
    assert_eq!((status, &seen["status"], &seen["run"]), (StatusCode::OK, &json!("completed"), &said["run"]), "{seen}");

    let said = user.say(&format!("{session}/messages"), "two").await;
    let mut watch = user.watch(&said).await;
    let mut events = vec![watch.next().await.expect("it begins")];
    // As often as an impatient operator likes.
    for _ in 0..3 {
        executor.terminate();
    }
    events.extend(watch.rest().await);
    let words = words.replace("one", "two");
    assert_eq!(shown(&events), (words, &json!("completed")));
    let (status, log) = executor.exit().await;
    assert_eq!(status.code(), Some(0), "{log:?}");
    let said_in_order = log.iter().filter(|line| ["ready", "draining", "stopped"].contains(&line.as_str()));
    assert_eq!(said_in_order.collect::<Vec<_>>(), ["ready", "draining", "stopped"], "{log:?}");

    let (_, seen) = user.answer(Method::GET, &session, Value::Null).await;
    assert_eq!((&seen["status"], &seen["live"]), (&json!("completed"), &json!("idle")), "{seen}");
    gateway.terminate();
    let (status, log) = gateway.exit().await;
    assert_eq!(status.code(), Some(0), "{log:?}");
}

#[test]
fn help_teaches_the_roles_and_every_setting() {
    let output = says(&["--help"], &Environment::new());
    assert_eq!(output.status.code(), Some(0));
    let help = String::from_utf8(output.stdout).expect("text");
    for (name, what, default) in SETTINGS {
        let line = help.lines().find(|line| line.contains(name)).unwrap_or_else(|| panic!("{name} is missing: {help}"));
        assert!(line.contains(what) && line.contains(default), "{line}");
    }
    assert!(["gateway", "executor", "agent"].iter().all(|role| help.contains(&format!("  {role} "))), "{help}");
}

#[test]
fn what_is_wrong_is_said_in_one_line() {
    let somewhere = SocketAddr::from(([127, 0, 0, 1], 1));
    let links = ["postgres", "redis", "rabbitmq", "engine"].map(|service| (service, somewhere)).into();
    let wrong = |words: &[&str], name: &str, value: &str, expected: &str| {
        let mut environment = roles::environment(words.first().unwrap_or(&""), "process-1", &links);
        environment.insert(name.to_string(), value.to_string());
        let output = says(words, &environment);
        let problem = String::from_utf8(output.stderr).expect("text");
        assert_eq!((output.status.code(), problem.lines().count()), (Some(2), 1), "{problem}");
        assert!(problem.contains(expected), "{problem}");
        assert!(output.stdout.is_empty());
    };
    wrong(&[], "A", "b", "which role?");
    wrong(&["janitor"], "A", "b", "`janitor` is no role");
    wrong(&["gateway", "--port"], "A", "b", "`--port` is too much");
    wrong(&["gateway"], "LYCHGATE_LISTEN", "here", "LYCHGATE_LISTEN: `here` is no IP:PORT");
    wrong(&["gateway"], "RUST_LOG", "lychgate=loud", "RUST_LOG: `lychgate=loud` is no filter");
    wrong(&["executor"], "LYCHGATE_SLOT", "4", "LYCHGATE_SLOT: no such setting");
    wrong(&["executor"], "LYCHGATE_KILL_WINDOW", "", "LYCHGATE_KILL_WINDOW: not set");
}
