//! The Redis stand-in through the real client, in the simulation.
#![cfg(madsim)]

use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lychgate_sim::plan::Kind;
use lychgate_sim::standins::Control;
use lychgate_sim::standins::clock;
use lychgate_sim::standins::observation::{FaultObserved, Observation, Tap};
use lychgate_sim::standins::redis::faults::{COMMAND_ERROR, EVICT, FLUSH, TOO_MANY_CONNECTIONS};
use lychgate_sim::standins::redis::observation::Command;
use lychgate_sim::standins::redis::{PORT, Redis, resp};
use madsim::runtime::{Handle, Runtime};
use redis::aio::MultiplexedConnection;
use redis::{AsyncCommands, AsyncConnectionConfig, RedisConnectionInfo, Script, Value};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

const ADDRESS: &str = "10.0.0.1:6379";

type Log = Arc<Mutex<Vec<String>>>;

/// Runs `clients` against a stand-in, on a fresh thread as the world does, and gives the commands that it saw.
fn simulate<F>(seed: u64, clients: fn(Handle, Redis) -> F) -> Vec<String>
where
    F: Future<Output = ()> + 'static,
{
    let run = move || {
        let log = Log::default();
        let runtime = Runtime::with_seed_and_config(seed, madsim::Config::default());
        runtime.block_on(world(log.clone(), clients));
        let log = log.lock().expect("nobody panicked");
        log.clone()
    };
    std::thread::spawn(run).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

async fn world<F: Future<Output = ()>>(log: Log, clients: fn(Handle, Redis) -> F) {
    let redis = Redis::new();
    let started = Instant::now();
    let tap: Tap = Arc::new(move |observation: Observation| {
        if observation.of::<FaultObserved>().is_some() {
            return;
        }
        let command: Command = observation.take().unwrap_or_else(|other| panic!("{other:?} is not Redis's"));
        let words: Vec<_> = command.words.iter().map(|word| String::from_utf8_lossy(word)).collect();
        let reply = command.reply.escape_ascii();
        log.lock().expect("nobody panicked").push(format!("{:?} {words:?} {reply}", started.elapsed()));
    });
    let handle = Handle::current();
    let served = redis.clone();
    let boot = move || {
        let (served, tap) = (served.clone(), tap.clone());
        async move {
            let listener = TcpListener::bind(("0.0.0.0", PORT)).await.expect("the port is free");
            served.serve(listener, tap).await;
        }
    };
    handle.create_node().name("redis").ip([10, 0, 0, 1].into()).init(boot).build();
    tokio::time::sleep(Duration::from_millis(10)).await;
    clients(handle, redis).await;
}

/// Runs one client on a node of its own.
async fn client<F>(handle: &Handle, last: u8, act: F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let node = handle.create_node().ip([10, 0, 1, last].into()).build();
    node.spawn(act).await.expect("the client ran to its end");
}

async fn connect() -> MultiplexedConnection {
    let stream = TcpStream::connect(ADDRESS).await.expect("it listens");
    let config = AsyncConnectionConfig::new().set_response_timeout(None).set_connection_timeout(None);
    let (connection, driver) = MultiplexedConnection::new_with_config(&RedisConnectionInfo::default(), stream, config)
        .await
        .expect("it greets");
    tokio::spawn(driver);
    connection
}

async fn sleep(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}

async fn one_client<F: Future<Output = ()> + Send + 'static>(handle: Handle, act: F) {
    client(&handle, 1, act).await;
}

#[test]
fn strings_expire_on_the_virtual_clock() {
    simulate(1, |handle, _| {
        one_client(handle, async {
            let mut redis = connect().await;
            let () = redis.set("k", "v").await.unwrap();
            let expiring = redis::SetOptions::default().with_expiration(redis::SetExpiry::PX(60_000));
            let () = redis.set_options("timed", "v", expiring).await.unwrap();
            let value: Option<String> = redis.get("k").await.unwrap();
            assert_eq!(value.as_deref(), Some("v"));
            sleep(59_000).await;
            let ttl: i64 = redis.pttl("timed").await.unwrap();
            assert!((1..=1000).contains(&ttl), "{ttl}");
            sleep(1_001).await;
            let value: Option<String> = redis.get("timed").await.unwrap();
            assert_eq!(value, None);
            let ttl: i64 = redis.ttl("timed").await.unwrap();
            assert_eq!(ttl, -2);
            let all: usize = redis::cmd("DBSIZE").query_async(&mut redis).await.unwrap();
            assert_eq!(all, 1);
        })
    });
}

#[test]
fn keys_expire_when_the_servers_clock_says_so() {
    simulate(1, |handle, server| async move {
        let minute = Duration::from_secs(60);
        one_client(handle, async move {
            let mut redis = connect().await;
            let expiring = |ms| redis::SetOptions::default().with_expiration(redis::SetExpiry::PX(ms));
            server.control(Control::Begin(Kind::of(&clock::BEHIND).with("by", minute)));
            let () = redis.set_options("late", "v", expiring(30_000)).await.unwrap();
            server.control(Control::End(Kind::of(&clock::BEHIND).with("by", minute)));
            let () = redis.set_options("soon", "v", expiring(30_000)).await.unwrap();
            let late: Option<String> = redis.get("late").await.unwrap();
            assert_eq!(late, None, "the clock has come back over its time");
            let soon: Option<String> = redis.get("soon").await.unwrap();
            assert_eq!(soon.as_deref(), Some("v"));
            server.control(Control::Begin(Kind::of(&clock::AHEAD).with("by", minute)));
            let soon: Option<String> = redis.get("soon").await.unwrap();
            assert_eq!(soon, None);
        })
        .await;
    });
}

#[test]
fn hashes_and_wrong_types() {
    simulate(2, |handle, _| {
        one_client(handle, async {
            let mut redis = connect().await;
            let () = redis.hset_multiple("h", &[("b", "2"), ("a", "1")]).await.unwrap();
            let pairs: Vec<(String, String)> = redis.hgetall("h").await.unwrap();
            assert_eq!(pairs, [("b".into(), "2".into()), ("a".into(), "1".into())]);
            let length: usize = redis.hlen("h").await.unwrap();
            assert_eq!(length, 2);
            let error = redis.get::<_, String>("h").await.unwrap_err();
            assert_eq!(error.code(), Some("WRONGTYPE"));
        })
    });
}

#[test]
fn pipelines_are_answered_in_order() {
    simulate(3, |handle, _| {
        one_client(handle, async {
            let mut redis = connect().await;
            let mut pipeline = redis::pipe();
            (1..=100).for_each(|_| {
                pipeline.cmd("INCR").arg("n");
            });
            let numbers: Vec<u32> = pipeline.query_async(&mut redis).await.unwrap();
            assert_eq!(numbers, (1..=100).collect::<Vec<_>>());
        })
    });
}

#[test]
fn a_script_is_loaded_when_its_hash_is_not_known() {
    let log = simulate(4, |handle, _| {
        one_client(handle, async {
            let mut redis = connect().await;
            let script =
                Script::new("if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end");
            let () = redis.set("lease", "mine").await.unwrap();
            let gone: Option<i64> = script.key("lease").arg("theirs").invoke_async(&mut redis).await.unwrap();
            assert_eq!(gone, None);
            let gone: Option<i64> = script.key("lease").arg("mine").invoke_async(&mut redis).await.unwrap();
            assert_eq!(gone, Some(1));
        })
    });
    let scripts: Vec<_> = log.iter().filter(|line| line.contains("EVAL")).collect();
    assert!(scripts[0].contains("NOSCRIPT"), "{scripts:#?}");
    assert!(scripts.last().expect("three").contains("redis.call('DEL', KEYS[1])"), "{scripts:#?}");
}

async fn read_blocking(redis: &mut MultiplexedConnection, block: u64, after: &str) -> Value {
    redis::cmd("XREAD")
        .arg("BLOCK")
        .arg(block)
        .arg("STREAMS")
        .arg("s")
        .arg(after)
        .query_async(redis)
        .await
        .expect("XREAD answers")
}

#[test]
fn a_blocked_read_is_woken_by_another_connection_or_by_its_timeout() {
    simulate(5, |handle, _| async move {
        let writer = async {
            let mut redis = connect().await;
            sleep(500).await;
            let () = redis::cmd("XADD").arg("s").arg("3-14").arg("f").arg("v").query_async(&mut redis).await.unwrap();
            sleep(1000).await;
            let script = Script::new("return redis.call('XADD', KEYS[1], '3-15', 'f', 'w')");
            let id: String = script.key("s").invoke_async(&mut redis).await.unwrap();
            assert_eq!(id, "3-15");
        };
        let reader = async {
            let (mut blocked, mut free) = (connect().await, connect().await);
            let started = Instant::now();
            let waits = tokio::spawn(async move {
                let first = read_blocking(&mut blocked, 5_000, "0").await;
                (first, blocked)
            });
            // A blocked connection holds up nobody else.
            sleep(100).await;
            let () = free.set("k", "v").await.unwrap();
            assert!(started.elapsed() < Duration::from_millis(300));
            let (first, mut blocked) = waits.await.unwrap();
            assert!(format!("{first:?}").contains("3-14"), "{first:?}");
            assert!(started.elapsed() < Duration::from_millis(700), "{:?}", started.elapsed());
            let second = read_blocking(&mut blocked, 5_000, "$").await;
            assert!(format!("{second:?}").contains("3-15"), "{second:?}");
            let started = Instant::now();
            assert_eq!(read_blocking(&mut blocked, 2_000, "$").await, Value::Nil);
            let waited = started.elapsed();
            assert!((2_000..2_100).contains(&waited.as_millis()), "{waited:?}");
        };
        futures_util::join!(client(&handle, 1, reader), client(&handle, 2, writer));
    });
}

#[test]
fn a_reader_that_hangs_up_waits_no_longer() {
    let log = simulate(6, |handle, _| {
        one_client(handle, async {
            let mut gone = connect().await;
            let waits = tokio::spawn(async move { read_blocking(&mut gone, 0, "$").await });
            sleep(100).await;
            waits.abort();
            let _ = waits.await;
            sleep(100).await;
            let mut redis = connect().await;
            let () = redis::cmd("XADD").arg("s").arg("1-1").arg("f").arg("v").query_async(&mut redis).await.unwrap();
            sleep(100).await;
        })
    });
    assert!(!log.iter().any(|line| line.contains("XREAD")), "{log:#?}");
}

/// Says `words` and gives everything that has arrived 100 ms later.
async fn say(stream: &mut TcpStream, words: &[&str]) -> String {
    let words: Vec<_> = words.iter().map(|word| bytes::Bytes::copy_from_slice(word.as_bytes())).collect();
    stream.write_all(&resp::encode_command(&words)).await.unwrap();
    stream.flush().await.unwrap();
    hear(stream).await
}

async fn hear(stream: &mut TcpStream) -> String {
    let mut got = Vec::new();
    while let Ok(read) = tokio::time::timeout(Duration::from_millis(100), stream.read_buf(&mut got)).await {
        assert_ne!(read.unwrap(), 0, "the server hung up");
    }
    got.escape_ascii().to_string()
}

/// redis-rs's own PubSub starts its driver on real tokio, so this speaks RESP itself.
#[test]
fn listeners_hear_what_is_published() {
    simulate(7, |handle, _| {
        one_client(handle, async {
            let mut listener = TcpStream::connect(ADDRESS).await.unwrap();
            let mut redis = connect().await;
            let subscribed = say(&mut listener, &["SUBSCRIBE", "c"]).await;
            assert_eq!(subscribed, r"*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n");
            let heard: usize = redis.publish("c", "hello").await.unwrap();
            assert_eq!(heard, 1);
            assert_eq!(hear(&mut listener).await, r"*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$5\r\nhello\r\n");
            drop(listener);
            sleep(100).await;
            let heard: usize = redis.publish("c", "hello").await.unwrap();
            assert_eq!(heard, 0);
        })
    });
}

#[test]
fn data_outlives_a_restart_unless_it_is_to_be_empty() {
    simulate(8, |handle, redis| async move {
        let server = handle.get_node("redis").expect("it was created").id();
        for empty in [false, true] {
            client(&handle, 1 + u8::from(empty), async {
                let mut redis = connect().await;
                let () = redis.set("k", "v").await.unwrap();
                let _: String = Script::new("return 'x'").invoke_async(&mut redis).await.unwrap();
            })
            .await;
            handle.kill(server);
            sleep(1).await;
            if empty {
                redis.restart_empty();
            }
            handle.restart(server);
            sleep(10).await;
            let act = async move {
                let mut redis = connect().await;
                let there: bool = redis.exists("k").await.unwrap();
                assert_eq!(there, !empty);
                let hash = Script::new("return 'x'").get_hash().to_string();
                let known: Vec<bool> =
                    redis::cmd("SCRIPT").arg("EXISTS").arg(hash).query_async(&mut redis).await.unwrap();
                assert_eq!(known, [false]);
            };
            client(&handle, 3 + u8::from(empty), act).await;
        }
    });
}

#[test]
fn what_is_flushed_is_gone_and_connections_readers_and_scripts_stay() {
    simulate(11, |handle, server| {
        one_client(handle, async move {
            let (mut redis, mut blocked) = (connect().await, connect().await);
            let () = redis.set("k", "v").await.unwrap();
            let expiring = redis::SetOptions::default().with_expiration(redis::SetExpiry::EX(60));
            let () = redis.set_options("timed", "v", expiring).await.unwrap();
            let _: String = Script::new("return 'x'").invoke_async(&mut redis).await.unwrap();
            let waits = tokio::spawn(async move { read_blocking(&mut blocked, 5_000, "$").await });
            sleep(100).await;
            let mut left = async || -> (bool, bool, usize) {
                let there = (redis.exists("k").await.unwrap(), redis.exists("timed").await.unwrap());
                (there.0, there.1, redis::cmd("DBSIZE").query_async(&mut redis).await.unwrap())
            };
            server.control(Control::Begin(Kind::of(&EVICT)));
            assert_eq!(left().await, (true, false, 1), "an eviction takes what would expire");
            server.control(Control::Begin(Kind::of(&FLUSH)));
            assert_eq!(left().await, (false, false, 0));
            let hash = Script::new("return 'x'").get_hash().to_string();
            let known: Vec<bool> = redis::cmd("SCRIPT").arg("EXISTS").arg(hash).query_async(&mut redis).await.unwrap();
            assert_eq!(known, [true]);
            let () = redis::cmd("XADD").arg("s").arg("1-1").arg("f").arg("v").query_async(&mut redis).await.unwrap();
            let read = waits.await.unwrap();
            assert!(format!("{read:?}").contains("1-1"), "{read:?}");
        })
    });
}

#[test]
fn who_waits_is_answered_when_a_script_has_ended() {
    simulate(12, |handle, server| {
        one_client(handle, async move {
            let busy = || Kind::of(&COMMAND_ERROR).with("code", "BUSY");
            let (mut redis, mut blocked) = (connect().await, connect().await);
            let waits = tokio::spawn(async move {
                let since = Instant::now();
                (read_blocking(&mut blocked, 1_000, "$").await, since.elapsed().as_millis())
            });
            sleep(500).await;
            server.control(Control::Begin(busy()));
            let refused = redis.get::<_, Option<String>>("k").await.unwrap_err();
            assert_eq!(refused.code(), Some("BUSY"));
            sleep(2_000).await;
            server.control(Control::End(busy()));
            let (read, waited) = waits.await.unwrap();
            assert_eq!(read, Value::Nil);
            assert!((2_500..2_700).contains(&waited), "{waited}");
        })
    });
}

#[test]
fn who_finds_no_room_is_told_and_hung_up_on() {
    simulate(13, |handle, server| {
        one_client(handle, async move {
            let mut redis = connect().await;
            server.control(Control::Begin(Kind::of(&TOO_MANY_CONNECTIONS)));
            let (mut stream, mut said) = (TcpStream::connect(ADDRESS).await.unwrap(), Vec::new());
            stream.read_to_end(&mut said).await.unwrap();
            assert_eq!(said, b"-ERR max number of clients reached\r\n");
            let () = redis.set("k", "v").await.unwrap();
            server.control(Control::End(Kind::of(&TOO_MANY_CONNECTIONS)));
            let value: String = connect().await.get("k").await.unwrap();
            assert_eq!(value, "v");
        })
    });
}

#[test]
#[should_panic(expected = "the Redis stand-in does not know the command ZADD")]
fn an_unknown_command_stops_the_run() {
    simulate(9, |handle, _| {
        one_client(handle, async {
            let mut redis = connect().await;
            let () = redis.zadd("z", "member", 1).await.unwrap();
        })
    });
}

#[test]
#[should_panic(expected = "the Redis stand-in's scripts do not have math.random")]
fn a_script_cannot_catch_that_it_asks_too_much() {
    simulate(10, |handle, _| {
        one_client(handle, async {
            let mut redis = connect().await;
            let script = Script::new("return pcall(function() return math.random() end)");
            let _: Value = script.invoke_async(&mut redis).await.unwrap();
        })
    });
}

async fn busy(handle: Handle, _: Redis) {
    let act = |name: u8| async move {
        let mut redis = connect().await;
        for round in 0..20_u32 {
            let _: i64 = redis::cmd("INCR")
                .arg("shared")
                .query_async(&mut redis)
                .await
                .unwrap_or_else(|error| panic!("{error}"));
            let () = redis::cmd("XADD").arg("s").arg("*").arg("by").arg(name).query_async(&mut redis).await.unwrap();
            let _: Value = read_blocking(&mut redis, 20, "$").await;
            let script =
                Script::new("local n = {} for k in pairs({a=1,b=2,c=3,[ARGV[1]]=4}) do n[#n+1] = k end return n");
            let _: Value = script.arg(round).invoke_async(&mut redis).await.unwrap();
            let _: Value = redis::cmd("SCAN").arg(0).arg("COUNT").arg(1).query_async(&mut redis).await.unwrap();
        }
    };
    futures_util::join!(client(&handle, 1, act(1)), client(&handle, 2, act(2)), client(&handle, 3, act(3)));
}

#[test]
fn a_seed_gives_the_same_log_twice() {
    let logs: Vec<_> = [11, 11, 12].map(|seed| simulate(seed, busy)).into();
    assert!(logs[0].len() > 300, "{}", logs[0].len());
    assert_eq!(logs[0], logs[1]);
    assert_ne!(logs[0], logs[2]);
}
