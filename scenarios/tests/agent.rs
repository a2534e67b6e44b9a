//! The agent as a process of its own, beside the provider's stand-in, on the virtual clock. Each test is one simulation on
//! a fresh thread.
#![cfg(madsim)]
#![allow(missing_docs)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use lychgate::agent::{self, Callee, Client, Kind, TurnError};
use lychgate::config;
use lychgate::ids::{Fence, RunId, SessionId};
use lychgate::limits::Limits;
use lychgate::provider::{CallName, Finish, Role, Said};
use lychgate::signal::{Exit, Signal};
use lychgate_sim::plan::FaultRow;
use lychgate_sim::standins::observation::{Observation, Tap};
use lychgate_sim::standins::provider::dialect::Dialect;
use lychgate_sim::standins::provider::faults::{ERROR_EVENT, MALFORMED, STALL, TRUNCATE};
use lychgate_sim::standins::provider::observation::Provider as Seen;
use lychgate_sim::standins::provider::{PORT, Provider, Refusal, Reply, Script};
use madsim::runtime::{Handle, Runtime};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

const AGENT: &str = "10.0.0.2:8090";

struct World {
    provider: Provider,
    seen: Arc<Mutex<Vec<Seen>>>,
    signal: mpsc::UnboundedSender<Signal>,
    served: JoinHandle<Exit>,
}

fn simulate<F: Future<Output = ()> + Send + 'static>(settings: &'static [(&str, &str)], test: fn(World) -> F) {
    let run = move || {
        Runtime::with_seed_and_config(1, madsim::Config::default()).block_on(async move {
            let world = World::new(settings).await;
            let caller = Handle::current().create_node().ip([10, 0, 0, 3].into()).build();
            timeout(Duration::from_secs(3600), caller.spawn(test(world))).await.expect("it ends").unwrap();
        });
    };
    std::thread::spawn(run).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

impl World {
    async fn new(settings: &[(&str, &str)]) -> World {
        let slow = Reply {
            turns: 1,
            takes: Duration::from_secs(20),
            tokens: 4,
            first_token_after: None,
            dialect: Dialect::Plain,
        };
        let quick = Reply { takes: Duration::from_secs(4), ..slow };
        let thinks = Reply { takes: Duration::from_secs(1200), tokens: 2, ..slow };
        let replies = [("slow".to_string(), slow), ("thinks".to_string(), thinks)].into();
        let script = Script { replies, default_reply: Some(quick) };
        let (provider, seen) = (Provider::new(script), Arc::new(Mutex::new(Vec::new())));
        let tap: Tap = {
            let seen = seen.clone();
            Arc::new(move |observation: Observation| {
                seen.lock().unwrap().push(observation.take().unwrap_or_else(|other| panic!("{other:?}")));
            })
        };
        let served = provider.clone();
        let node = Handle::current().create_node().name("provider").ip([10, 0, 0, 1].into()).build();
        node.spawn(async move { served.serve(TcpListener::bind(("0.0.0.0", PORT)).await.unwrap(), tap).await });

        let mut environment: BTreeMap<_, _> = [
            ("LYCHGATE_AGENT", "agent-1"),
            ("LYCHGATE_EPOCH", "3"),
            ("LYCHGATE_SUBSCRIPTION", "a"),
            ("LYCHGATE_SUBSCRIPTION_TOKEN", "sk-a"),
            ("LYCHGATE_PROVIDER", "http://10.0.0.1:8081"),
            ("LYCHGATE_LISTEN", "0.0.0.0:8090"),
        ]
        .map(|(name, value)| (name.to_string(), value.to_string()))
        .into();
        environment.extend(settings.iter().map(|(name, value)| (name.to_string(), value.to_string())));
        let config = config::Agent::from(&environment).unwrap();
        let (signal, signals) = mpsc::unbounded_channel();
        let node = Handle::current().create_node().name("agent").ip([10, 0, 0, 2].into()).build();
        let served = node.spawn(agent::serve(config, || 7, signals));
        sleep(Duration::from_millis(100)).await;
        World { provider, seen, signal, served }
    }

    fn calls(&self) -> Vec<String> {
        let seen = self.seen.lock().unwrap();
        let word = |seen: &Seen| {
            Some(match seen {
                Seen::Called { headers, .. } => {
                    assert_eq!(headers["authorization"], "Bearer sk-a");
                    format!("called {}", headers["lychgate-call"])
                }
                Seen::Began { .. } => return None,
                Seen::Answered { .. } => "answered".to_string(),
                Seen::Abandoned { headers, .. } => format!("abandoned {}", headers["lychgate-call"]),
                Seen::Refused { .. } => "refused".to_string(),
                Seen::Disturbed { fault, .. } => fault.to_string(),
            })
        };
        seen.iter().filter_map(word).collect()
    }
}

fn name(run: &str, fence: i64, attempt: u32) -> CallName {
    CallName { run: RunId(run.into()), fence: Fence(fence), turn: 1, attempt }
}

async fn turn(session: &str, name: CallName, epoch: i64, words: &str) -> (Result<(String, Finish), TurnError>, usize) {
    turn_of("agent-1", session, name, epoch, words).await
}

async fn turn_of(
    agent: &str,
    session: &str,
    name: CallName,
    epoch: i64,
    words: &str,
) -> (Result<(String, Finish), TurnError>, usize) {
    let said = [Said { role: Role::User, content: words.into() }];
    let mut tokens = 0;
    let callee = Callee { host: AGENT, agent, epoch };
    let session = SessionId(session.into());
    let answered = Client::new(&Limits::default()).turn(callee, &name, &session, &said, |_| tokens += 1).await;
    (answered, tokens)
}

async fn health() -> Value {
    let asked = Instant::now();
    let stream = TcpStream::connect(AGENT).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = hyper::Request::get("/health").header("host", "a").body(Empty::<bytes::Bytes>::new()).unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.status(), 200);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    connection.abort();
    assert!(asked.elapsed() < Duration::from_secs(1));
    serde_json::from_slice(&body).unwrap()
}

#[test]
fn a_turn_is_streamed_and_remembered() {
    simulate(&[("AGENT_HISTORY_LIMIT", "3")], |world| async move {
        let before = health().await;
        assert_eq!((&before["threads"], &before["runs"], &before["history"]), (&7.into(), &0.into(), &0.into()));
        let (answered, tokens) = turn("s", name("r", 1, 1), 3, "hello").await;
        let (answer, finish) = answered.unwrap();
        assert_eq!((tokens, finish), (4, Finish::Stop));
        assert!(answer.starts_with("hello-t1-w1 "), "{answer}");
        assert_eq!(health().await["history"], 2);
        turn("s", name("r2", 1, 1), 3, "again").await.0.unwrap();
        let after = health().await;
        assert_eq!((&after["history"], &after["history_limit"], &after["sessions"]), (&3.into(), &3.into(), &1.into()));
        assert_eq!(after["tasks"], before["tasks"], "nothing is left behind");
        assert_eq!(world.calls(), ["called r 1 1 1", "answered", "called r2 1 1 1", "answered"]);
    });
}

#[test]
fn a_newer_call_ends_what_runs_and_an_older_one_is_refused() {
    simulate(&[], |world| async move {
        let first = tokio::spawn(turn("s", name("r", 1, 1), 3, "slow"));
        sleep(Duration::from_secs(7)).await;
        assert_eq!(health().await["runs"], 1);
        let (newer, _) = turn("s", name("r", 2, 1), 3, "hello").await;
        newer.unwrap();
        let (cut, tokens) = first.await.unwrap();
        assert_eq!((cut, tokens), (Err(TurnError::Cut("the turn was stopped".into())), 1));
        for older in [name("r", 1, 2), name("r", 2, 1)] {
            assert!(matches!(turn("s", older, 3, "hello").await.0, Err(TurnError::Stale(_))));
        }
        assert!(matches!(turn("s", name("r", 3, 1), 2, "hello").await.0, Err(TurnError::Stale(_))), "another epoch");
        let others = turn_of("agent-2", "s", name("r", 3, 1), 3, "hello").await.0;
        assert!(matches!(others, Err(TurnError::Stale(_))), "another agent, of the same epoch");
        assert_eq!(world.calls(), ["called r 1 1 1", "abandoned r 1 1 1", "called r 2 1 1", "answered"]);
        assert_eq!(health().await["runs"], 0);
    });
}

#[test]
fn a_caller_that_hangs_up_ends_its_turn() {
    simulate(&[], |world| async move {
        let caller = tokio::spawn(turn("s", name("r", 1, 1), 3, "slow"));
        sleep(Duration::from_secs(7)).await;
        caller.abort();
        let _ = caller.await;
        sleep(Duration::from_secs(1)).await;
        assert_eq!(world.calls(), ["called r 1 1 1", "abandoned r 1 1 1"]);
        assert_eq!(health().await["runs"], 0);
    });
}

#[test]
fn a_failed_subscription_is_told_from_a_failed_provider() {
    simulate(&[], |world| async move {
        // The whole of it: an agent whose signals can come no more drains.
        let world = &world;
        let refuse = |status| {
            let status = hyper::StatusCode::from_u16(status).unwrap();
            let refusal = Refusal { status, code: "no", message: "no".into(), retry_after: None };
            world.provider.refuse("Bearer sk-a", refusal);
        };
        let mut attempt = 0;
        for (status, expected) in [(429, Some(Kind::RateLimit)), (401, Some(Kind::Auth)), (403, Some(Kind::Auth))] {
            refuse(status);
            attempt += 1;
            match turn("s", name("r", 1, attempt), 3, "hello").await.0 {
                Err(TurnError::Subscription { kind, subscription, epoch: 3, .. }) => {
                    assert_eq!((Some(kind), subscription.as_str()), (expected, "a"));
                }
                other => panic!("{status}: {other:?}"),
            }
        }
        refuse(500);
        assert!(matches!(turn("s", name("r", 1, 4), 3, "hello").await.0, Err(TurnError::Provider(_))));
        refuse(400);
        assert!(matches!(turn("s", name("r", 1, 5), 3, "hello").await.0, Err(TurnError::Refused(_))));
        assert_eq!(health().await["history"], 0);
    });
}

/// How a turn ends whose answer is disturbed so late, with how many tokens, and after how many seconds.
async fn disturbed(
    world: &World,
    what: &'static FaultRow,
    after: u64,
) -> (Result<(String, Finish), TurnError>, usize, u64) {
    let (provider, asked) = (world.provider.clone(), Instant::now());
    let later = tokio::spawn(async move {
        sleep(Duration::from_secs(after)).await;
        provider.disturb("Bearer sk-a", what);
    });
    let (answered, tokens) = turn("s", name(&format!("{}-{after}", what.word()), 1, 1), 3, "slow").await;
    let took = asked.elapsed().as_secs();
    later.await.unwrap();
    world.provider.calm("Bearer sk-a", what);
    (answered, tokens, took)
}

#[test]
fn no_part_of_an_answer_is_taken_for_a_whole_one_nor_waited_for_for_ever() {
    simulate(&[], |world| async move {
        let before = health().await;
        for what in [&TRUNCATE, &MALFORMED, &ERROR_EVENT] {
            // Before the first of four tokens there is no line to cut.
            let (answered, tokens, took) = disturbed(&world, what, 0).await;
            assert!(matches!(answered, Err(TurnError::Provider(_))), "{answered:?}");
            assert_eq!((tokens, took), (0, 5));
            for (after, whole) in [(6, 1), (16, 3)] {
                let (answered, tokens, took) = disturbed(&world, what, after).await;
                assert!(matches!(answered, Err(TurnError::Cut(_))), "{answered:?}");
                assert_eq!((tokens, took), (whole, 5 * (whole as u64 + 1)));
            }
        }
        // The first token has two minutes, half of it or not; so has every other.
        let (answered, tokens, took) = disturbed(&world, &STALL, 0).await;
        assert!(matches!(answered, Err(TurnError::Provider(_))), "{answered:?}");
        assert_eq!((tokens, took), (0, 120));
        let (answered, tokens, took) = disturbed(&world, &STALL, 6).await;
        assert!(matches!(answered, Err(TurnError::Cut(_))), "{answered:?}");
        assert_eq!((tokens, took), (1, 125));
        sleep(Duration::from_secs(1)).await;
        let after = health().await;
        let kept = |health: &Value| ["tasks", "runs", "history"].map(|gauge| health[gauge].clone());
        assert_eq!(kept(&after), kept(&before), "nothing is left behind, and nothing is remembered");
        assert!(!world.calls().iter().any(|call| call == "answered"));
    });
}

#[test]
fn a_model_that_shows_that_it_lives_may_think_for_as_long_as_it_needs() {
    simulate(&[], |world| async move {
        // The whole of it: an agent whose signals can come no more drains.
        let world = &world;
        for dialect in ["comments", "reasoning"] {
            world.provider.speak("Bearer sk-a", Dialect::of(dialect).unwrap());
            let (answered, tokens) = turn("s", name(dialect, 1, 1), 3, "thinks").await;
            assert!(matches!(answered, Ok((_, Finish::Stop))), "{answered:?}");
            assert_eq!(tokens, 2);
        }
        world.provider.speak("Bearer sk-a", Dialect::Plain);
        let asked = Instant::now();
        let (answered, _) = turn("s", name("silent", 1, 1), 3, "thinks").await;
        assert!(matches!(answered, Err(TurnError::Provider(_))), "{answered:?}");
        assert_eq!(asked.elapsed().as_secs(), 120);
    });
}

#[test]
fn a_full_agent_says_so_and_its_health_still_answers() {
    simulate(&[], |world| async move {
        let _world = &world;
        let turns: Vec<_> = (0..32)
            .map(|n| tokio::spawn(async move { turn(&format!("s{n}"), name("r", 1, 1), 3, "slow").await }))
            .collect();
        sleep(Duration::from_secs(2)).await;
        assert_eq!(health().await["runs"], 32);
        assert!(matches!(turn("one more", name("r", 1, 1), 3, "hello").await.0, Err(TurnError::Busy)));
        for turn in turns {
            turn.await.unwrap().0.unwrap();
        }
        turn("one more", name("r", 1, 1), 3, "hello").await.0.unwrap();
    });
}

#[test]
fn a_drain_refuses_turns_finishes_those_that_are_quick_and_cuts_the_rest() {
    simulate(&[], |world| async move {
        let quick = tokio::spawn(turn("quick", name("r", 1, 1), 3, "hello"));
        let slow = tokio::spawn(turn("slow", name("r", 1, 1), 3, "slow"));
        sleep(Duration::from_millis(500)).await;
        let told = Instant::now();
        for _ in 0..3 {
            world.signal.send(Signal::Terminate).unwrap();
        }
        sleep(Duration::from_millis(500)).await;
        assert!(matches!(turn("s", name("r", 1, 1), 3, "hello").await.0, Err(TurnError::Away(_))));
        let health = health().await;
        assert_eq!((&health["draining"], &health["runs"]), (&true.into(), &2.into()));
        quick.await.unwrap().0.unwrap();
        assert!(matches!(slow.await.unwrap().0, Err(TurnError::Cut(_))));
        assert_eq!(world.served.await.unwrap(), Exit::Clean);
        assert!(told.elapsed() < Duration::from_secs(9), "{:?}", told.elapsed());
    });
}
