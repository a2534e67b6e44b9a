//! A subscription fails while a message is answered: its agent moves to another one, once, and no turn is lost over it.

use std::time::Duration;

use lychgate_scenarios::dev::{Control, Kind, REFUSE, REPLY, Reply};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::PATIENCE;
use crate::stage::Stage;
use crate::user::{answer, containers, restarted, session, shown};

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_that_fails_is_switched_once_and_the_answer_goes_on() {
    timeout(PATIENCE, story()).await.expect("it ends");
}

async fn story() {
    let stage = Stage::set(Reply { takes: Duration::from_millis(2500), tokens: 5, ..REPLY }).await;
    let user = &stage.user;
    let _gateway = stage.start("gateway", &[]);
    let executor = stage.start("executor", &[("LYCHGATE_SUBSCRIPTIONS", "a=sk-a,b=sk-b,c=sk-c")]);
    user.gateway_is_up().await;
    let epochs = || executor.lines("switch assigned").iter().map(|line| line["epoch"].clone()).collect::<Vec<_>>();

    let said = user.say("/sessions", "one").await;
    let mut watch = user.watch(&said).await;
    let mut events = watch.until_word_of(1).await;
    assert_eq!(names(&stage).await, ["/lychgate-agent-1-1 on a: running"]);
    stage
        .stand_ins
        .provider
        .control(Control::BeginFor { caller: "sk-a".into(), fault: Kind::of(&REFUSE).with("status", 429_u16) });
    events.extend(watch.rest().await);
    assert_eq!(shown(&events), (answer("one", 2, 5), &json!("completed")));
    // The turn that had begun was not cut, the one that was refused was called again.
    assert_eq!(restarted(&events), [2].into());
    assert_eq!(epochs(), [json!(1), json!(2)]);
    assert_eq!(names(&stage).await, ["/lychgate-agent-1-2 on b: running"]);

    let said = user.say(&format!("{}/messages", session(&said)), "two").await;
    let events = user.watch(&said).await.rest().await;
    assert_eq!(shown(&events), (answer("two", 2, 5), &json!("completed")));
    assert_eq!((restarted(&events), epochs().len()), ([].into(), 2));
    assert_eq!(names(&stage).await, ["/lychgate-agent-1-2 on b: running"]);
}

/// The agent's containers, those that have ended too: each with its subscription and its state.
async fn names(stage: &Stage) -> Vec<String> {
    let text = |value: &Value| value.as_str().expect("a text").to_string();
    let name = |container: &Value| {
        let subscription = text(&container["Labels"]["lychgate.subscription"]);
        format!("{} on {subscription}: {}", text(&container["Names"][0]), text(&container["State"]))
    };
    containers(stage.stand_ins.links["engine"], "agent-1").await.iter().map(name).collect()
}
