//! A user of the gateway, and what a stream shows to one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use lychgate_scenarios::roles::TOKEN;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::{PAUSE, SOON};

pub struct User {
    pub gateway: SocketAddr,
}

/// One request of its own connection; `None` if nobody listens.
async fn ask(to: SocketAddr, method: Method, path: &str, body: &Value) -> Option<Response<Incoming>> {
    let stream = TcpStream::connect(to).await.ok()?;
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

async fn whole(response: Response<Incoming>) -> (StatusCode, Value) {
    let status = response.status();
    let body = response.into_body().collect().await.expect("a body").to_bytes();
    (status, serde_json::from_slice(&body).expect("JSON"))
}

/// What the container engine at `engine` says of an agent's containers, of those that have ended too.
pub async fn containers(engine: SocketAddr, agent: &str) -> Vec<Value> {
    // As `{"label":["lychgate.agent=agent-1"]}`.
    let path = format!("/containers/json?all=1&filters=%7B%22label%22%3A%5B%22lychgate.agent%3D{agent}%22%5D%7D");
    let response = timeout(SOON, ask(engine, Method::GET, &path, &Value::Null)).await.expect("in time");
    let (status, listed) = whole(response.expect("it listens")).await;
    assert_eq!(status, StatusCode::OK, "{listed}");
    listed.as_array().expect("a list").clone()
}

impl User {
    pub async fn answer(&self, method: Method, path: &str, body: Value) -> (StatusCode, Value) {
        let response = timeout(SOON, ask(self.gateway, method, path, &body)).await.expect("in time");
        whole(response.expect("it listens")).await
    }

    pub async fn gateway_is_up(&self) {
        let up = async {
            while ask(self.gateway, Method::GET, "/health", &Value::Null).await.is_none() {
                sleep(PAUSE).await;
            }
        };
        timeout(SOON, up).await.expect("the gateway comes up");
    }

    /// Says `text` and gives what was accepted.
    pub async fn say(&self, path: &str, text: &str) -> Value {
        let (status, answer) = self.answer(Method::POST, path, json!({ "text": text })).await;
        assert_eq!(status, StatusCode::ACCEPTED, "{answer}");
        answer
    }

    pub async fn watch(&self, said: &Value) -> Watch {
        let path = said["events"].as_str().expect("where to watch");
        let response = ask(self.gateway, Method::GET, path, &Value::Null).await.expect("it listens");
        assert_eq!(response.status(), StatusCode::OK);
        Watch { body: response.into_body(), unread: String::new() }
    }

    /// How the session stands of which `said` is a message.
    pub async fn look(&self, said: &Value) -> Value {
        let (status, seen) = self.answer(Method::GET, &session(said), Value::Null).await;
        assert_eq!(status, StatusCode::OK, "{seen}");
        seen
    }
}

/// Where the session is of which `said` is a message.
pub fn session(said: &Value) -> String {
    format!("/sessions/{}", said["session"].as_str().expect("an id"))
}

/// An event of a stream: what it is, and its data.
pub type Event = (String, Value);

/// A stream of events.
pub struct Watch {
    body: Incoming,
    unread: String,
}

impl Watch {
    /// The next event. `None` once the stream has ended.
    pub async fn next(&mut self) -> Option<Event> {
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

    /// Everything up to the next word of turn `turn`, and that word.
    pub async fn until_word_of(&mut self, turn: u64) -> Vec<Event> {
        let mut events = Vec::new();
        loop {
            events.push(self.next().await.expect("it is not over"));
            let (kind, data) = &events[events.len() - 1];
            if kind == "token" && data["turn"] == turn {
                return events;
            }
        }
    }

    /// Everything up to the end of the stream.
    pub async fn rest(mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(event) = self.next().await {
            events.push(event);
        }
        events
    }
}

/// What a reader is left with: the words in order, without those that a turn's restart took back, and the status at the
/// end. A stream with a gap fails the test: here Redis loses nothing.
pub fn shown(events: &[Event]) -> (String, &Value) {
    let mut turns: BTreeMap<u64, String> = BTreeMap::new();
    for (kind, data) in events {
        match kind.as_str() {
            "token" => turns.entry(turn(data)).or_default().push_str(text(data)),
            // The whole turn, for a reader who may have seen a part of it.
            "turn" => drop(turns.insert(turn(data), text(data).to_string())),
            "turn_restarted" => drop(turns.remove(&turn(data))),
            "turn_done" | "end" => {}
            other => panic!("{other} is not expected: {events:?}"),
        }
    }
    let (kind, end) = events.last().expect("a stream says something");
    assert_eq!(kind, "end", "{events:?}");
    (turns.into_values().collect(), &end["status"])
}

fn turn(data: &Value) -> u64 {
    data["turn"].as_u64().expect("an event of a turn")
}

fn text(data: &Value) -> &str {
    data["text"].as_str().expect("words")
}

/// The turns of which the stream said that they begin anew.
pub fn restarted(events: &[Event]) -> BTreeSet<u64> {
    events.iter().filter(|(kind, _)| kind == "turn_restarted").map(|(_, data)| turn(data)).collect()
}

/// What the provider says to `prompt`, of one word, in `turns` turns of `words` words.
pub fn answer(prompt: &str, turns: u32, words: u32) -> String {
    let word = |(turn, word): (u32, u32)| format!("{prompt}-t{turn}-w{word} ");
    (1..=turns).flat_map(|turn| (1..=words).map(move |word| (turn, word))).map(word).collect()
}
