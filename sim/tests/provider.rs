//! The model provider stand-in through hyper's client, in the simulation.
#![cfg(madsim)]

use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use lychgate_sim::plan::FaultRow;
use lychgate_sim::standins::StandIn;
use lychgate_sim::standins::observation::{Observation, Tap};
use lychgate_sim::standins::provider::dialect::Dialect;
use lychgate_sim::standins::provider::faults::{MALFORMED, STALL, TRUNCATE};
use lychgate_sim::standins::provider::observation::Provider as Seen;
use lychgate_sim::standins::provider::{PORT, Provider, Refusal, Reply, Script};
use madsim::runtime::{Handle, Runtime};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

type Log = Arc<Mutex<Vec<Seen>>>;

fn script() -> Script {
    let reply =
        Reply { turns: 2, takes: Duration::from_secs(4), tokens: 4, first_token_after: None, dialect: Dialect::Plain };
    let slow_to_begin = Reply { turns: 1, first_token_after: Some(Duration::from_secs(3)), ..reply };
    let replies = [("ann/1#1".to_string(), reply), ("think first".to_string(), slow_to_begin)];
    Script { replies: replies.into(), default_reply: None }
}

/// Runs `caller` against a provider on a fresh thread, and gives what the provider saw, but for its first words.
fn simulate<F>(seed: u64, caller: fn(Provider) -> F) -> Vec<Seen>
where
    F: Future<Output = ()> + Send + 'static,
{
    let run = move || {
        let log = Log::default();
        Runtime::with_seed_and_config(seed, madsim::Config::default()).block_on(world(log.clone(), caller));
        let log = log.lock().expect("nobody panicked");
        log.iter().filter(|seen| !matches!(seen, Seen::Began { .. })).cloned().collect()
    };
    std::thread::spawn(run).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

async fn world<F: Future<Output = ()> + Send + 'static>(log: Log, caller: fn(Provider) -> F) {
    let provider = Provider::new(script());
    let tap: Tap = Arc::new(move |observation: Observation| {
        let seen = observation.take().unwrap_or_else(|other| panic!("{other:?} is not the provider's"));
        log.lock().expect("nobody panicked").push(seen);
    });
    let handle = Handle::current();
    let served = provider.clone();
    let node = handle.create_node().name("provider").ip([10, 0, 0, 1].into()).build();
    node.spawn(async move {
        let listener = TcpListener::bind(("0.0.0.0", PORT)).await.expect("the port is free");
        StandIn::serve(&served, listener.into(), tap).await;
    });
    tokio::time::sleep(Duration::from_millis(10)).await;
    let node = handle.create_node().ip([10, 0, 1, 1].into()).build();
    node.spawn(caller(provider)).await.expect("the caller ran to its end");
}

async fn connect() -> SendRequest<Full<Bytes>> {
    let stream = TcpStream::connect(("10.0.0.1", PORT)).await.expect("it listens");
    let (sender, connection) = handshake(TokioIo::new(stream)).await.expect("a handshake is local");
    tokio::spawn(async move {
        let _ = connection.await;
    });
    sender
}

fn request(body: &Value) -> Request<Full<Bytes>> {
    Request::post("/v1/chat/completions")
        .header("Host", "provider")
        .header("Authorization", "Bearer sk-1")
        .header("X-Attempt", "3/1/1")
        .body(Full::new(Bytes::from(body.to_string())))
        .expect("a request")
}

fn asking(texts: &[(&str, &str)]) -> Value {
    let messages: Vec<_> = texts.iter().map(|(role, content)| json!({"role": role, "content": content})).collect();
    json!({"model": "m", "stream": true, "messages": messages})
}

async fn text(response: Response<Incoming>) -> String {
    let body = response.into_body().collect().await.expect("the body ends");
    String::from_utf8(body.to_bytes().to_vec()).expect("text")
}

/// The words and the finish reason of a whole answer.
async fn read(response: Response<Incoming>) -> (String, String) {
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let text = text(response).await;
    let events: Vec<_> = text.split_terminator("\n\n").map(|event| event.strip_prefix("data: ").unwrap()).collect();
    let (last, chunks) = events.split_last().expect("some events");
    assert_eq!(*last, "[DONE]");
    let chunks: Vec<Value> = chunks.iter().map(|chunk| serde_json::from_str(chunk).expect("JSON")).collect();
    assert!(chunks.iter().all(|chunk| chunk["object"] == "chat.completion.chunk" && chunk["model"] == "m"));
    let words = chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str()).collect();
    let reasons = chunks.iter().filter_map(|chunk| chunk["choices"][0]["finish_reason"].as_str());
    (words, reasons.collect())
}

async fn error(response: Response<Incoming>) -> (u16, String) {
    let status = response.status().as_u16();
    let body: Value = serde_json::from_str(&text(response).await).expect("JSON");
    assert!(body["error"]["message"].is_string() && body["error"]["type"].is_string(), "{body}");
    (status, body["error"]["code"].as_str().expect("a code").to_string())
}

#[test]
fn turns_follow_each_other_on_one_connection() {
    let log = simulate(1, |_| async {
        let mut provider = connect().await;
        let started = Instant::now();
        let first = provider.send_request(request(&asking(&[("system", "be"), ("user", "ann/1#1")]))).await.unwrap();
        let (words, reason) = read(first).await;
        assert_eq!(words, "ann/1#1-t1-w1 ann/1#1-t1-w2 ann/1#1-t1-w3 ann/1#1-t1-w4 ");
        assert_eq!(reason, "length");
        assert!((4_000..4_100).contains(&started.elapsed().as_millis()), "{:?}", started.elapsed());
        let second = asking(&[("user", "old"), ("assistant", "old"), ("user", "ann/1#1"), ("assistant", "so far")]);
        let (words, reason) = read(provider.send_request(request(&second)).await.unwrap()).await;
        assert!(words.starts_with("ann/1#1-t2-w1 "), "{words}");
        assert_eq!(reason, "stop");
    });
    let [Seen::Called { turn: 1, headers, prompt, .. }, first, Seen::Called { turn: 2, token, asked, .. }, second] =
        &log[..]
    else {
        panic!("{log:#?}")
    };
    let asked: Vec<(bool, &str)> = asked.iter().map(|(by_user, text)| (*by_user, text.as_str())).collect();
    assert_eq!(asked, [(true, "old"), (false, "old"), (true, "ann/1#1"), (false, "so far")]);
    assert_eq!(token, "sk-1");
    assert_eq!((headers["x-attempt"].as_str(), prompt.as_str()), ("3/1/1", "ann/1#1"));
    assert!(matches!(first, Seen::Answered { finish_reason, .. } if finish_reason == "length"));
    assert!(matches!(second, Seen::Answered { finish_reason, .. } if finish_reason == "stop"));
}

#[test]
fn tokens_come_when_they_are_due() {
    simulate(2, |_| async {
        let mut provider = connect().await;
        let started = Instant::now();
        let response = provider.send_request(request(&asking(&[("user", "think first")]))).await.unwrap();
        let mut body = response.into_body();
        let mut seen = Vec::new();
        while let Some(frame) = body.frame().await {
            assert!(frame.unwrap().is_data());
            seen.push(started.elapsed().as_millis() / 100);
        }
        assert_eq!(seen[..4], [30, 33, 36, 40], "tenths of a second");
    });
}

#[test]
fn a_caller_who_hangs_up_is_seen_to() {
    let log = simulate(3, |_| async {
        let mut provider = connect().await;
        let response = provider.send_request(request(&asking(&[("user", "ann/1#1")]))).await.unwrap();
        let mut body = response.into_body();
        body.frame().await.expect("a first token").unwrap();
        drop((body, provider));
        tokio::time::sleep(Duration::from_millis(500)).await;
    });
    assert!(matches!(&log[..], [Seen::Called { .. }, Seen::Abandoned { .. }]), "{log:#?}");
}

#[test]
fn what_is_not_in_order_is_refused_in_openais_form() {
    simulate(4, |stand_in| async move {
        let mut provider = connect().await;
        let asked = asking(&[("user", "ann/1#1")]);
        let mut anonymous = request(&asked);
        anonymous.headers_mut().remove("authorization");
        assert_eq!(error(provider.send_request(anonymous).await.unwrap()).await, (401, "invalid_api_key".into()));
        let unknown = asking(&[("user", "what?")]);
        assert_eq!(error(provider.send_request(request(&unknown)).await.unwrap()).await, (400, "not_in_script".into()));
        let beyond = asking(&[("user", "ann/1#1"), ("assistant", "1"), ("assistant", "2")]);
        assert_eq!(error(provider.send_request(request(&beyond)).await.unwrap()).await, (400, "not_in_script".into()));
        let mut whole = asked.clone();
        whole["stream"] = false.into();
        assert_eq!(error(provider.send_request(request(&whole)).await.unwrap()).await, (400, "stream_required".into()));
        let large = asking(&[("user", &"x".repeat(5 << 20))]);
        // The refusal comes before the body is whole, so whether it is read or the line breaks first is open.
        let refused = connect().await.send_request(request(&large)).await;
        assert!(refused.is_err() || refused.is_ok_and(|response| response.status() == 413));

        let exhausted = Refusal {
            status: StatusCode::TOO_MANY_REQUESTS,
            code: "insufficient_quota",
            message: "You exceeded your current quota.".into(),
            retry_after: Some(Duration::from_secs(60)),
        };
        stand_in.refuse("Bearer sk-1", exhausted);
        let mut provider = connect().await;
        let refused = provider.send_request(request(&asked)).await.unwrap();
        assert_eq!(refused.headers()["retry-after"], "60");
        assert_eq!(error(refused).await, (429, "insufficient_quota".into()));
        stand_in.accept("Bearer sk-1");
        assert_eq!(provider.send_request(request(&asked)).await.unwrap().status(), 200);
    });
}

/// The text of an answer that is disturbed after its first word until four seconds after that, and when it was over.
async fn disturbed(stand_in: Provider, disturbance: &'static FaultRow) -> (String, u128) {
    let mut provider = connect().await;
    let started = Instant::now();
    let response = provider.send_request(request(&asking(&[("user", "ann/1#1")]))).await.unwrap();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(1500)).await;
        stand_in.disturb("Bearer sk-1", disturbance);
        stand_in.disturb("Bearer sk-2", &TRUNCATE);
        tokio::time::sleep(Duration::from_secs(4)).await;
        stand_in.calm("Bearer sk-1", disturbance);
    });
    (text(response).await, started.elapsed().as_millis() / 100)
}

fn words(text: &str) -> usize {
    let events = text.split_terminator("\n\n").filter_map(|event| event.strip_prefix("data: "));
    let events = events.filter_map(|event| serde_json::from_str::<Value>(event).ok());
    events.filter(|event| event["choices"][0]["delta"]["content"].is_string()).count()
}

#[test]
fn an_answer_that_stalls_goes_on_where_it_stopped() {
    let log = simulate(6, |stand_in| async {
        let (text, tenths) = disturbed(stand_in, &STALL).await;
        assert_eq!((words(&text), text.ends_with("data: [DONE]\n\n")), (4, true), "{text}");
        assert_eq!(tenths, 55, "what was late comes at once");
    });
    let [Seen::Called { .. }, Seen::Disturbed { token, over: false, .. }, Seen::Answered { .. }] = &log[..] else {
        panic!("{log:#?}")
    };
    assert_eq!(token, "sk-1");
}

#[test]
fn a_stalled_answer_that_nobody_waits_for_is_seen_to() {
    let log = simulate(7, |stand_in| async move {
        stand_in.disturb("Bearer sk-1", &STALL);
        let mut provider = connect().await;
        let response = provider.send_request(request(&asking(&[("user", "ann/1#1")]))).await.unwrap();
        let mut body = response.into_body();
        let half = body.frame().await.expect("half an event").unwrap().into_data().expect("data");
        assert!(half.starts_with(b"data: {") && !half.ends_with(b"\n"), "{half:?}");
        let more = tokio::time::timeout(Duration::from_secs(600), body.frame()).await;
        assert!(more.is_err(), "{more:?}");
        drop((body, provider));
        tokio::time::sleep(Duration::from_millis(500)).await;
    });
    assert!(matches!(&log[..], [Seen::Called { .. }, Seen::Disturbed { .. }, Seen::Abandoned { .. }]), "{log:#?}");
}

#[test]
fn a_truncated_answer_ends_in_order_and_without_its_end() {
    let log = simulate(8, |stand_in| async {
        let (text, tenths) = disturbed(stand_in, &TRUNCATE).await;
        assert_eq!((words(&text), text.contains("[DONE]"), tenths), (1, false, 20), "{text}");
    });
    assert!(matches!(&log[..], [Seen::Called { .. }, Seen::Disturbed { over: true, .. }]), "{log:#?}");
}

#[test]
fn a_garbled_answer_has_one_event_that_is_none_and_is_no_answer() {
    let log = simulate(9, |stand_in| async {
        let (text, tenths) = disturbed(stand_in, &MALFORMED).await;
        assert_eq!((words(&text), text.contains("[DONE]"), tenths), (3, true, 40), "{text}");
    });
    let [Seen::Called { .. }, Seen::Disturbed { over: false, .. }, Seen::Disturbed { over: true, .. }] = &log[..]
    else {
        panic!("{log:#?}")
    };
}

#[test]
#[should_panic(expected = "the provider stand-in does not know GET /v1/models")]
fn another_endpoint_stops_the_run() {
    simulate(5, |_| async {
        let mut provider = connect().await;
        let request = Request::get("/v1/models").header("Host", "p").body(Full::default()).unwrap();
        let _ = provider.send_request(request).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    });
}
