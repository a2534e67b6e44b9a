//! The product's client of Redis beside the stand-in, on the virtual clock.
#![cfg(madsim)]
#![allow(missing_docs)]

use std::sync::Arc;
use std::time::Duration;

use lychgate::config::Address;
use lychgate::live;
use lychgate_sim::standins::redis::{PORT, Redis};
use madsim::runtime::{Handle, Runtime};
use tokio::net::TcpListener;
use tokio::time::sleep;

const BOUND: Duration = Duration::from_secs(1);

async fn ping(redis: &live::Redis) -> Result<String, live::RedisDown> {
    redis.command(BOUND, &redis::cmd("PING")).await
}

/// One question on a connection that is known to be dead would be one sweep of the live view for nothing.
async fn asks_a_restarted_redis_once() {
    let stand_in = Redis::new();
    let boot = move || {
        let served = stand_in.clone();
        async move {
            let listener = TcpListener::bind(("0.0.0.0", PORT)).await.expect("the port is free");
            served.serve(listener, Arc::new(drop)).await;
        }
    };
    let world = Handle::current();
    let server = world.create_node().name("redis").ip([10, 0, 0, 1].into()).init(boot).build();
    let client = world.create_node().ip([10, 0, 0, 2].into()).build();
    sleep(BOUND).await;
    let asked = client.spawn(async {
        let nothing = String::new;
        let host = format!("10.0.0.1:{PORT}");
        let redis = live::Redis::new(&Address { host, user: nothing(), password: nothing(), path: nothing() });
        assert_eq!(ping(&redis).await.expect("it is there"), "PONG");
        sleep(10 * BOUND).await;
        assert_eq!(ping(&redis).await.expect("it is there again"), "PONG");
    });
    sleep(5 * BOUND).await;
    world.kill(server.id());
    world.restart(server.id());
    asked.await.expect("it asks twice");
}

#[test]
fn a_connection_that_redis_has_closed_is_not_asked_again() {
    let run = || Runtime::with_seed_and_config(1, madsim::Config::default()).block_on(asks_a_restarted_redis_once());
    std::thread::spawn(run).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}
