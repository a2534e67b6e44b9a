//! A message is answered; an executor that is told to stop sees its run to the end.

use std::time::Duration;

use hyper::{Method, StatusCode};
use lychgate_scenarios::dev::{REPLY, Reply};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::PATIENCE;
use crate::stage::Stage;
use crate::user::{answer, session, shown};

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_answered_and_a_run_outlives_sigterm() {
    timeout(PATIENCE, story()).await.expect("it ends");
}

async fn story() {
    let stage = Stage::set(Reply { takes: Duration::from_secs(2), tokens: 3, ..REPLY }).await;
    let user = &stage.user;
    let gateway = stage.start("gateway", &[]);
    let executor = stage.start("executor", &[]);
    user.gateway_is_up().await;

    let said = user.say("/sessions", "one").await;
    let events = user.watch(&said).await.rest().await;
    assert_eq!(shown(&events), (answer("one", 2, 3), &json!("completed")));

    let session = session(&said);
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
    assert_eq!(shown(&events), (answer("two", 2, 3), &json!("completed")));
    let (status, log) = executor.exit().await;
    assert_eq!(status.code(), Some(0), "{log:?}");
    let said_in_order = log.iter().filter(|line| ["ready", "draining", "stopped"].contains(&line.as_str()));
    assert_eq!(said_in_order.collect::<Vec<_>>(), ["ready", "draining", "stopped"], "{log:?}");

    let seen = user.look(&said).await;
    assert_eq!((&seen["status"], &seen["live"]), (&json!("completed"), &json!("idle")), "{seen}");
    gateway.terminate();
    let (status, log) = gateway.exit().await;
    assert_eq!(status.code(), Some(0), "{log:?}");
}
