//! On loopback containers are tasks, reached at their real ports, and levers break subscriptions by hand.
#![cfg(madsim)]

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::handshake;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use lychgate_scenarios::dev::{Container, Loopback, REPLY};
use madsim::runtime::{Handle, Runtime};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Says its color to whoever connects, until it gets a SIGTERM.
async fn paint(mut container: Container) -> i32 {
    let listener = TcpListener::bind(container.listen).await.expect("the port is free");
    loop {
        tokio::select! {
            biased;
            Some(()) = container.signals.recv() => return 5,
            Ok((mut stream, _)) = listener.accept() => {
                stream.write_all(container.env["COLOR"].as_bytes()).await.expect("somebody listens");
                stream.flush().await.expect("somebody listens");
            }
        }
    }
}

async fn ask(to: SocketAddr, method: Method, path: &str, body: Value) -> (u16, Value) {
    let stream = TcpStream::connect(to).await.expect("it listens");
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await.expect("a handshake is local");
    tokio::spawn(connection);
    let request =
        Request::builder().method(method).uri(path).header("Host", "engine").header("Authorization", "Bearer sk-a");
    let request = request.body(Full::new(Bytes::from(body.to_string()))).expect("a request");
    let answer = sender.send_request(request).await.expect("an answer");
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.expect("a body").to_bytes();
    (status, serde_json::from_slice(&body).unwrap_or_default())
}

async fn read(port: u16) -> Option<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.ok()?;
    let mut bytes = [0; 3];
    stream.read_exact(&mut bytes).await.ok()?;
    String::from_utf8(bytes.to_vec()).ok()
}

async fn play() {
    let mut loopback = Loopback::start(REPLY).await.expect("loopback is free");
    loopback.start_engine(|container| paint(container).boxed()).await.expect("loopback is free");
    let engine = loopback.links["engine"];
    let body = json!({
        "Image": "x", "Env": ["COLOR=red"], "ExposedPorts": {"8090/tcp": {}},
        "HostConfig": {"PortBindings": {"8090/tcp": [{"HostPort": ""}]}},
    });
    assert_eq!(ask(engine, Method::POST, "/containers/create?name=a", body).await.0, 201);
    let mut ports = Vec::new();
    for end in ["stop", "drop"] {
        assert_eq!(ask(engine, Method::POST, "/containers/a/start", Value::Null).await.0, 204);
        let (_, shown) = ask(engine, Method::GET, "/containers/a/json", Value::Null).await;
        let port = shown["NetworkSettings"]["Ports"]["8090/tcp"][0]["HostPort"].as_str().expect("it runs").to_owned();
        ports.push(port.parse().expect("a port"));
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(read(ports[ports.len() - 1]).await.as_deref(), Some("red"));
        if end == "stop" {
            assert_eq!(ask(engine, Method::POST, "/containers/a/stop", Value::Null).await.0, 204);
            let (_, shown) = ask(engine, Method::GET, "/containers/a/json", Value::Null).await;
            assert_eq!(shown["State"]["ExitCode"], json!(5));
        }
    }
    drop(loopback);
    tokio::time::sleep(Duration::from_millis(100)).await;
    for port in ports {
        assert_eq!(read(port).await, None, "containers end with the loopback");
    }
}

async fn pull() {
    let mut loopback = Loopback::start(REPLY).await.expect("loopback is free");
    loopback.start_levers(vec!["sk-a".into(), "sk-b".into()]).await.expect("loopback is free");
    let (levers, provider) = (loopback.links["levers"], loopback.links["provider"]);
    let called = async || {
        let body = json!({"model": "m", "messages": [{"role": "user", "content": "hello"}], "stream": true});
        ask(provider, Method::POST, "/v1/chat/completions", body).await.0
    };
    let pulled = async |method: Method, path: &str| ask(levers, method, path, Value::Null).await.0;
    assert_eq!(pulled(Method::POST, "/subscriptions/sk-b/fail?status=429").await, 200);
    assert_eq!(called().await, 200, "another one is refused");
    for (path, status) in [("/subscriptions/sk-a/fail", 429), ("/subscriptions/sk-a/fail?status=401", 401)] {
        assert_eq!(pulled(Method::POST, path).await, 200);
        assert_eq!(called().await, status);
    }
    let wrong = [
        (Method::POST, "/subscriptions/sk-c/heal", 404),
        (Method::POST, "/subscriptions/sk-a/mend", 404),
        (Method::GET, "/subscriptions/sk-a/heal", 405),
        (Method::POST, "/subscriptions/sk-a/fail?status=418", 400),
    ];
    for (method, path, status) in wrong {
        assert_eq!(pulled(method, path).await, status, "{path}");
        assert_eq!(called().await, 401, "{path} changes nothing");
    }
    assert_eq!(pulled(Method::POST, "/subscriptions/sk-a/heal").await, 200);
    assert_eq!(called().await, 200);
}

fn on_one_node(play: impl Future<Output = ()> + Send + 'static) {
    Runtime::with_seed_and_config(1, madsim::Config::default()).block_on(async {
        let node = Handle::current().create_node().ip([10, 0, 0, 1].into()).build();
        node.spawn(play).await.expect("it ran to its end");
    });
}

#[test]
fn a_container_is_a_task() {
    on_one_node(play());
}

#[test]
fn whoever_pulls_a_lever_makes_the_provider_refuse_and_take_that_token() {
    on_one_node(pull());
}
