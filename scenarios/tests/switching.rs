//! Subscriptions that fail, and engines and executors that fail over it: executors beside the stand-ins, on the virtual
//! clock. Each test is some simulations, each on a fresh thread.
#![cfg(madsim)]
#![allow(missing_docs)]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt;
use lychgate::config::{self, Environment};
use lychgate::ids::Mint;
use lychgate::signal::Signal;
use lychgate::store::Store;
use lychgate_scenarios::roles;
use lychgate_sim::standins::engine::observation::Engine as Did;
use lychgate_sim::standins::engine::{Engine, Failure, KILLED, Runner, Running, Spec, Verb};
use lychgate_sim::standins::observation::{Observation, Tap, untapped};
use lychgate_sim::standins::postgres::Postgres;
use lychgate_sim::standins::postgres::observation::Value;
use lychgate_sim::standins::provider::dialect::Dialect;
use lychgate_sim::standins::provider::{Provider, Refusal, Reply, Script};
use lychgate_sim::standins::{StandIn, rabbit, redis};
use madsim::runtime::{Handle, NodeHandle, Runtime};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout};

/// Where containers listen, each at its own port.
const AGENTS: [u8; 4] = [10, 0, 0, 6];

struct World {
    seed: u64,
    postgres: Postgres,
    provider: Provider,
    engine: Engine,
    links: BTreeMap<&'static str, SocketAddr>,
    done: Arc<Mutex<Vec<String>>>,
    store: Store,
    mint: Mint,
    executors: Vec<NodeHandle>,
}

fn simulate<F: Future<Output = ()> + Send + 'static>(executors: usize, agents: &'static str, test: fn(World) -> F) {
    for seed in 1..=4 {
        let run = move || {
            Runtime::with_seed_and_config(seed, madsim::Config::default()).block_on(async move {
                let mut world = World::new(seed).await;
                (1..=executors).for_each(|number| world.boot(number, agents));
                let node = Handle::current().create_node().name("test").ip([10, 0, 0, 9].into()).build();
                timeout(Duration::from_secs(24 * 3600), node.spawn(test(world))).await.expect("it ends").unwrap();
            });
        };
        std::thread::spawn(run).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    }
}

fn node(name: &str, ip: impl Into<std::net::IpAddr>) -> NodeHandle {
    Handle::current().create_node().name(name).ip(ip.into()).build()
}

/// Containers are tasks of one node. Killing one here is only the end of its first task.
fn runner(host: NodeHandle) -> Runner {
    let ports = AtomicU16::new(32768);
    Runner(Box::new(move |spec: Spec| {
        let port = ports.fetch_add(1, Ordering::Relaxed);
        let mut environment = spec.env;
        environment.insert("LYCHGATE_LISTEN".into(), format!("0.0.0.0:{port}"));
        let config = config::Agent::from(&environment).unwrap();
        let (tell, signals) = mpsc::unbounded_channel();
        let (kill, killed) = oneshot::channel::<()>();
        let task = host.spawn(async move {
            tokio::select! {
                exit = lychgate::agent::serve(config, || 1, signals) => exit.code(),
                _ = killed => KILLED,
            }
        });
        let kill = Mutex::new(Some(kill));
        let running = Running {
            process: spec.name,
            published: port,
            inside: SocketAddr::from((AGENTS, port)),
            exit: async move { task.await.unwrap() }.boxed().shared(),
            terminate: Arc::new(move || {
                let _ = tell.send(Signal::Terminate);
            }),
            kill: Arc::new(move || drop(kill.lock().unwrap().take())),
        };
        async move { Ok(running) }.boxed()
    }))
}

impl World {
    async fn new(seed: u64) -> World {
        let long = Reply {
            turns: 1,
            takes: Duration::from_secs(50),
            tokens: 10,
            first_token_after: None,
            dialect: Dialect::Plain,
        };
        let short = Reply { takes: Duration::from_secs(4), ..long };
        let script = Script { replies: [("long".to_string(), long)].into(), default_reply: Some(short) };
        let (postgres, provider, engine) = (Postgres::new(), Provider::new(script), Engine::new([7; 32]));
        let done = Arc::new(Mutex::new(Vec::new()));
        engine.run_with(runner(node("agents", AGENTS)));
        let services: [Arc<dyn StandIn>; 5] = [
            Arc::new(postgres.clone()),
            Arc::new(redis::Redis::new()),
            Arc::new(rabbit::Rabbit::new(rabbit::Settings::default())),
            Arc::new(provider.clone()),
            Arc::new(engine.clone()),
        ];
        let mut links = BTreeMap::new();
        for (service, last) in services.into_iter().zip(1..) {
            let (name, port) = (service.name(), service.port());
            links.insert(name, SocketAddr::from(([10, 0, 0, last], port)));
            let tap = if name == "engine" { noting(done.clone()) } else { untapped() };
            node(name, [10, 0, 0, last]).spawn(async move {
                service.serve(TcpListener::bind(("0.0.0.0", port)).await.unwrap().into(), tap).await;
            });
        }
        links.insert("agents", SocketAddr::from((AGENTS, 0)));
        sleep(Duration::from_millis(100)).await;
        let address = config::Address {
            host: links["postgres"].to_string(),
            user: "lychgate".into(),
            password: String::new(),
            path: "lychgate".into(),
        };
        let (store, mint) = (Store::new(&address, "test"), Mint::seeded([9; 32]));
        World { seed, postgres, provider, engine, links, done, store, mint, executors: Vec::new() }
    }

    fn boot(&mut self, number: usize, agents: &str) {
        let process = format!("executor-{number}");
        let mut environment: Environment = roles::environment("executor", &process, &self.links);
        let settings = [
            ("LYCHGATE_PROVIDER", format!("http://{}", self.links["provider"])),
            ("LYCHGATE_AGENTS", agents.to_string()),
            ("LYCHGATE_QUEUED_CLAIM_AFTER", "1s".to_string()),
            ("LYCHGATE_SWEEP_MIN", "1s".to_string()),
            ("LYCHGATE_SWEEP_MAX", "1s".to_string()),
            ("LYCHGATE_TAKEOVER_AFTER", "60s".to_string()),
        ];
        environment.extend(settings.map(|(name, value)| (name.to_string(), value)));
        let config = config::Executor::from(&environment).unwrap();
        let entropy = [u8::try_from(number).unwrap() + 16 * u8::try_from(self.seed).unwrap(); 32];
        let executor = node(&process, [10, 0, 2, u8::try_from(number).unwrap()]);
        executor.spawn(async move {
            let (_keep, signals) = mpsc::unbounded_channel();
            lychgate::executor::serve(config, Mint::seeded(entropy), signals).await;
        });
        self.executors.push(executor);
    }

    async fn say(&self, key: &str, agent: &str, words: &str) {
        self.store.accept(&self.mint, key, None, agent, words).await.unwrap().unwrap();
    }

    fn refuse(&self, token: &str) {
        let status = hyper::StatusCode::TOO_MANY_REQUESTS;
        let refusal = Refusal { status, code: "quota", message: "no more".into(), retry_after: None };
        self.provider.refuse(&format!("Bearer {token}"), refusal);
    }

    /// Rows as text, columns between spaces.
    fn rows(&self, sql: &str) -> Vec<String> {
        let word = |value: &Value| match value {
            Value::Null => "-".to_string(),
            Value::Int(number) => number.to_string(),
            Value::Text(text) => text.clone(),
            other => format!("{other:?}"),
        };
        let rows = self.postgres.query(sql);
        rows.iter().map(|row| row.values().map(word).collect::<Vec<_>>().join(" ")).collect()
    }

    async fn until(&self, sql: &str, expected: &[&str]) -> Duration {
        let since = Instant::now();
        while self.rows(sql) != expected {
            assert!(since.elapsed() < Duration::from_secs(3600), "{:?} is not {expected:?}", self.rows(sql));
            sleep(Duration::from_millis(100)).await;
        }
        since.elapsed()
    }

    async fn ready(&self) {
        self.store.prepare().await.unwrap();
        self.until("SELECT count(*) AS n FROM switches WHERE state <> 'notified'", &["0"]).await;
        while self.rows("SELECT state FROM switches").is_empty() {
            sleep(Duration::from_millis(100)).await;
        }
        self.until("SELECT count(*) AS n FROM switches WHERE state <> 'notified'", &["0"]).await;
    }

    fn done(&self, what: &str) -> Vec<String> {
        let done = self.done.lock().unwrap();
        done.iter().filter_map(|line| line.strip_prefix(what)).map(|line| line.trim().to_string()).collect()
    }
}

fn noting(done: Arc<Mutex<Vec<String>>>) -> Tap {
    Arc::new(move |observation: Observation| {
        let line = match observation.of() {
            Some(Did::Created { name, .. }) => format!("created {name}"),
            Some(Did::Started { name, .. }) => format!("started {name}"),
            Some(Did::Stopped { name, .. }) => format!("stopped {name}"),
            Some(Did::Exited { name, code, .. }) => format!("exited {name} {code}"),
            Some(Did::Removed { name, .. }) => format!("removed {name}"),
            _ => return,
        };
        done.lock().unwrap().push(line);
    })
}

const RUNS: &str = "SELECT end_reason, status FROM runs ORDER BY queued_at";
const SWITCHES: &str =
    "SELECT agent, epoch, from_subscription, state, to_subscription FROM switches ORDER BY agent, epoch";
const NOTICES: &str = "SELECT agent, body, epoch FROM notices ORDER BY agent, epoch";

#[test]
fn many_failures_switch_once_and_the_turn_that_is_cut_is_made_again() {
    simulate(2, "agent-1", |world| async move {
        world.ready().await;
        world.say("going", "agent-1", "long").await;
        sleep(Duration::from_secs(15)).await;
        world.refuse("sk-a");
        for key in ["x", "y", "z"] {
            world.say(key, "agent-1", "hello").await;
        }
        world.until(RUNS, &["done completed"; 4]).await;
        world.until(SWITCHES, &["agent-1 1 - notified a", "agent-1 2 a notified b"]).await;
        assert_eq!(world.rows(NOTICES), ["agent-1 agent-1 uses subscription b now: a failed 2"]);
        assert_eq!(world.done("created"), ["lychgate-agent-1-1", "lychgate-agent-1-2"]);
        assert_eq!(world.done("removed"), ["lychgate-agent-1-1"]);
        let failures = world.rows("SELECT DISTINCT epoch, subscription FROM subscription_failures");
        assert_eq!(failures, ["1 a"], "a stale failure leaves no trace");
        assert_eq!(world.rows("SELECT switching_by FROM agents"), ["-"], "the lock is free");
    });
}

#[test]
fn each_failure_moves_on_and_the_last_one_is_told() {
    simulate(2, "agent-1", |world| async move {
        world.ready().await;
        ["sk-a", "sk-b", "sk-c"].iter().for_each(|token| world.refuse(token));
        world.say("x", "agent-1", "hello").await;
        world.until("SELECT status FROM runs", &["failed"]).await;
        let [reason] = &world.rows("SELECT end_reason FROM runs")[..] else { panic!("one run") };
        let soon = ["try again in 71", "try again in 7200"].iter().any(|when| reason.contains(when));
        assert!(reason.starts_with("no_subscription: ") && soon, "{reason}");
        assert_eq!(world.rows("SELECT epoch, subscription FROM agents"), ["3 c"]);
        // When the first one may be tried again, it is.
        ["Bearer sk-a", "Bearer sk-b"].iter().for_each(|token| world.provider.accept(token));
        sleep(Duration::from_secs(2 * 3600)).await;
        world.say("y", "agent-1", "hello").await;
        world.until("SELECT status FROM runs ORDER BY queued_at", &["failed", "completed"]).await;
        assert_eq!(world.rows("SELECT epoch, subscription FROM agents"), ["4 a"]);
    });
}

#[test]
fn whoever_finds_a_switch_unfinished_finishes_it() {
    simulate(2, "agent-1", |mut world| async move {
        world.ready().await;
        world.refuse("sk-a");
        world.say("x", "agent-1", "hello").await;
        world.until("SELECT epoch FROM agents", &["2"]).await;
        // Its holder dies somewhere between the assignment and the readiness.
        sleep(Duration::from_millis(world.seed * 700)).await;
        let holder = world.rows("SELECT coalesce(switching_by, 'executor-1/') AS by FROM agents")[0].clone();
        let place = if holder.starts_with("executor-1/") { 0 } else { 1 };
        let died = world.executors.remove(place);
        Handle::current().kill(died.id());
        world.until(SWITCHES, &["agent-1 1 - notified a", "agent-1 2 a notified b"]).await;
        world.until(RUNS, &["done completed"]).await;
        assert_eq!(world.done("created"), ["lychgate-agent-1-1", "lychgate-agent-1-2"]);
        assert_eq!(world.rows(NOTICES).len(), 1);
    });
}

#[test]
fn an_engine_in_trouble_delays_a_switch_and_loses_nothing() {
    simulate(2, "agent-1", |world| async move {
        world.ready().await;
        let verbs = [Verb::List, Verb::Stop, Verb::Remove, Verb::Create, Verb::Start, Verb::Inspect];
        for verb in verbs {
            world.engine.fail_next(verb, Failure::Refused("out of disk".into()));
            world.engine.fail_next(verb, Failure::Garbage);
        }
        world.refuse("sk-a");
        world.say("x", "agent-1", "hello").await;
        world.until(RUNS, &["done completed"]).await;
        world.until(SWITCHES, &["agent-1 1 - notified a", "agent-1 2 a notified b"]).await;
        assert_eq!(world.done("created"), ["lychgate-agent-1-1", "lychgate-agent-1-2"]);
    });
}

#[test]
fn agents_do_not_wait_for_one_another() {
    simulate(2, "agent-1,agent-2", |world| async move {
        world.ready().await;
        world.engine.slow_stop(Duration::from_secs(8));
        world.refuse("sk-a");
        world.say("x", "agent-1", "hello").await;
        world.until("SELECT epoch FROM agents WHERE agent = 'agent-1'", &["2"]).await;
        world.say("y", "agent-2", "hello").await;
        let waited =
            world.until("SELECT state FROM switches WHERE agent = 'agent-2' AND epoch = 2", &["notified"]).await;
        assert!(waited < Duration::from_secs(15), "{waited:?}");
        world.until(RUNS, &["done completed"; 2]).await;
        assert_eq!(world.rows("SELECT epoch FROM agents ORDER BY agent"), ["2", "2"]);
    });
}
