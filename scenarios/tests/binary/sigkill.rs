//! SIGKILL in the middle of a drain loses nothing: the mark was durable before the wait, the next life of the process
//! goes on behind the last checkpoint, and the user is told why.

use std::time::Duration;

use lychgate_scenarios::dev::{REPLY, Reply};
use serde_json::json;
use tokio::time::timeout;

use crate::PATIENCE;
use crate::stage::Stage;
use crate::user::{answer, restarted, shown};

#[tokio::test(flavor = "multi_thread")]
async fn sigkill_in_the_middle_of_a_drain_loses_nothing() {
    timeout(PATIENCE, story()).await.expect("it ends");
}

async fn story() {
    let stage = Stage::set(Reply { takes: Duration::from_secs(3), tokens: 6, ..REPLY }).await;
    let user = &stage.user;
    let hurried = [("LYCHGATE_SWEEP_MIN", "1s"), ("LYCHGATE_SWEEP_MAX", "1s")];
    let _gateway = stage.start("gateway", &[]);
    let executor = stage.start("executor", &hurried);
    user.gateway_is_up().await;

    let said = user.say("/sessions", "one").await;
    let mut watch = user.watch(&said).await;
    let mut events = watch.until_word_of(2).await;
    executor.terminate();
    executor.says("marked").await;
    // It waits for its run, which is going.
    events.extend(watch.until_word_of(2).await);
    executor.kill();
    let seen = user.look(&said).await;
    assert_eq!((&seen["status"], &seen["turns"]), (&json!("running"), &json!(1)), "{seen}");

    let heir = stage.start("executor", &hurried);
    events.extend(watch.rest().await);
    assert_eq!(shown(&events), (answer("one", 2, 6), &json!("completed")));
    // Words were taken back of the turn that was cut, and no checkpointed one was called again.
    assert_eq!(restarted(&events), [2].into());
    let first_turn = events.iter().filter(|(kind, data)| kind == "token" && data["turn"] == 1);
    assert_eq!(first_turn.count(), 6, "{events:?}");

    let seen = user.look(&said).await;
    let notices = seen["notices"].as_array().expect("a list");
    assert_eq!(notices.len(), 1, "{seen}");
    // What only the mark could tell.
    assert!(notices[0]["text"].as_str().is_some_and(|text| text.contains("was shut down")), "{seen}");
    assert_eq!(notices[0]["run"], said["run"], "{seen}");
    heir.terminate();
    let (status, log) = heir.exit().await;
    assert_eq!(status.code(), Some(0), "{log:?}");
}
