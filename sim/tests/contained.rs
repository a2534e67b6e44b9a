//! Containers as processes of the world: a keeper has the engine run agents, and calls them at their published ports.
#![cfg(madsim)]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::handshake;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use lychgate_sim::explore::run::{Options, run_here};
use lychgate_sim::link::faults::DELAY;
use lychgate_sim::plan::seed::Seed;
use lychgate_sim::plan::{Expect, Fault, Kind, Lifetime, Plan, Setting, Trigger};
use lychgate_sim::standins::StandIn;
use lychgate_sim::standins::engine::Engine;
use lychgate_sim::standins::engine::observation::Engine as Seen;
use lychgate_sim::standins::listener::Listener;
use lychgate_sim::standins::observation::{Log, Observation, Tap};
use lychgate_sim::trace::event::{Event, ProductEvent};
use lychgate_sim::trace::invariant::{Breach, Invariant, Obligation};
use lychgate_sim::trace::verdict::{Report, Verdict};
use lychgate_sim::world::process_faults::{SIGKILL, SIGTERM};
use lychgate_sim::world::product::{Boot, Contained, Origin, Product, Reader, Role, Scenario, User, Workload};
use lychgate_sim::world::words;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout};

/// Which play the keeper follows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Play(String);

impl Workload for Play {
    fn sessions(&self) -> Vec<String> {
        Vec::new()
    }
    fn users(&self) -> Vec<String> {
        vec!["ann".into()]
    }
    fn smaller(&self) -> Vec<Self> {
        Vec::new()
    }
}

/// Something happened, in words.
#[derive(Clone, Debug, Serialize)]
struct Told(String);

impl ProductEvent for Told {
    const NAMES: &'static [&'static str] = &["told"];
    fn name(&self) -> &'static str {
        "told"
    }
    fn session(&self) -> Option<&str> {
        None
    }
    fn story(&self) -> Option<String> {
        Some(self.0.clone())
    }
}

struct Ears;

impl Reader<Told> for Ears {
    fn read(&mut self, observation: &Observation, origin: &Origin) -> Vec<Told> {
        let told = match (observation.of(), observation.of::<Log>()) {
            (Some(Seen::Probed { name, process, status, body, took, .. }), _) => {
                assert_eq!(origin.process, "");
                assert!(*took <= Duration::from_secs(2) && body.len() <= 2, "{observation:?}");
                format!("probed {name} in {process}: {status:?}")
            }
            (Some(Seen::Exited { name, code, .. }), _) => format!("exited {name}: {code}"),
            (Some(seen), _) => {
                assert_eq!((origin.process.as_str(), origin.incarnation), ("keeper-1", 1), "{seen:?}");
                match seen {
                    Seen::Created { name, .. } => format!("created {name}"),
                    Seen::Started { name, process, .. } => format!("started {name} in {process}"),
                    Seen::Stopped { name, .. } => format!("stopped {name}"),
                    Seen::Removed { name, .. } => format!("removed {name}"),
                    Seen::Exited { .. } | Seen::Probed { .. } => unreachable!("they stand above"),
                }
            }
            (None, Some(log)) => format!("{}/{}: {}", log.process, log.incarnation, log.message),
            (None, None) => return Vec::new(),
        };
        vec![Told(told)]
    }
    fn mentioned(&self, _: &[u8]) -> Option<String> {
        None
    }
    fn served_by(&self, process: &str) -> Option<String> {
        Some(process.to_owned())
    }
}

/// Says what it is told.
struct Echo;

impl StandIn for Echo {
    fn name(&self) -> &'static str {
        "echo"
    }

    fn port(&self) -> u16 {
        7
    }

    fn serve(&self, listener: Listener, _: Tap) -> BoxFuture<'static, ()> {
        Box::pin(echo(listener))
    }
}

struct Nothing;

impl Invariant<Told> for Nothing {
    fn name(&self) -> &'static str {
        "nothing"
    }
    fn says(&self) -> &'static str {
        "nothing"
    }
    fn observe(&mut self, _: &Event<Told>) -> Result<(), Breach> {
        Ok(())
    }
    fn pending(&self) -> Vec<Obligation> {
        Vec::new()
    }
    fn armed(&self) -> bool {
        true
    }
}

static ROLES: [Role; 2] = [
    Role {
        name: "keeper",
        services: &["engine", "agents"],
        port: None,
        count: 1,
        grace: Duration::from_secs(5),
        restart_delay: Duration::from_secs(2),
        contained: None,
    },
    Role {
        name: "agent",
        services: &["echo"],
        port: Some(8090),
        count: 2,
        grace: Duration::from_secs(5),
        restart_delay: Duration::from_secs(2),
        contained: Some(Contained { engine: "engine", slots: 2, label: "of", reached_as: "agents" }),
    },
];

struct Kept;

impl Product for Kept {
    type Event = Told;
    type Workload = Play;

    fn roles() -> &'static [Role] {
        &ROLES
    }
    fn settings() -> &'static [Setting] {
        const {
            &[
                Setting { name: "COLOR", says: "what a process calls itself", default: "none" },
                Setting { name: "STUBBORN", says: "whether a process ignores SIGTERM", default: "no" },
                Setting { name: "PLAY", says: "what a process does", default: "nothing" },
            ]
        }
    }
    fn services(_: &Plan<Play>, seed: Seed) -> Vec<Arc<dyn StandIn>> {
        vec![Arc::new(Echo), Arc::new(Engine::new(seed.key("engine")))]
    }
    fn boot(boot: Boot) -> BoxFuture<'static, i32> {
        match boot.role {
            "agent" => Box::pin(agent(boot)),
            _ => Box::pin(keep(boot)),
        }
    }
    fn users(_: &Plan<Play>, _: Seed) -> Vec<User<Told>> {
        let act = |seat: lychgate_sim::world::product::UserContext<Told>| -> BoxFuture<'static, ()> {
            assert!(seat.links.is_empty(), "users reach no container");
            Box::pin(sleep(Duration::from_secs(60)))
        };
        vec![User { name: "ann".into(), act: Box::new(act) }]
    }
    fn reader(_: &Plan<Play>) -> Box<dyn Reader<Told>> {
        Box::new(Ears)
    }
    fn invariants(_: &Plan<Play>) -> Vec<Box<dyn Invariant<Told>>> {
        vec![Box::new(Nothing)]
    }
    fn command() -> &'static str {
        "cargo sim"
    }

    fn crates() -> &'static [&'static str] {
        &[env!("CARGO_CRATE_NAME")]
    }

    fn settle_max(_: &Plan<Play>) -> Duration {
        Duration::from_secs(1000)
    }
    fn scenarios() -> Vec<Scenario<Play>> {
        Vec::new()
    }
}

async fn echo(mut listener: Listener) {
    loop {
        let Ok((mut stream, _)) = listener.accept().await else { return };
        tokio::spawn(async move {
            let mut bytes = [0; 100];
            while let Ok(read @ 1..) = stream.read(&mut bytes).await {
                if stream.write_all(&bytes[..read]).await.is_err() || stream.flush().await.is_err() {
                    return;
                }
            }
        });
    }
}

/// Answers anything with who it is, once the echo has agreed.
async fn agent(mut boot: Boot) -> i32 {
    let listener = TcpListener::bind(boot.listen.expect("the role has a port")).await.expect("a fresh process");
    let stubborn = boot.config.contains_key("STUBBORN");
    let who = format!("{}/{} {}", boot.process, boot.incarnation, boot.config["COLOR"]);
    let echo = boot.links["echo"];
    loop {
        tokio::select! {
            biased;
            Some(()) = boot.signals.recv(), if !stubborn => return 0,
            Ok((stream, _)) = listener.accept() => drop(tokio::spawn(answer(stream, who.clone(), echo))),
        }
    }
}

async fn answer(mut stream: TcpStream, who: String, echo: SocketAddr) -> Option<()> {
    let mut request = [0; 1000];
    while let Ok(read @ 1..) = stream.read(&mut request).await {
        let mut body = b"{}".to_vec();
        if !request[..read].starts_with(b"GET /health ") {
            let mut echo = TcpStream::connect(echo).await.ok()?;
            echo.write_all(who.as_bytes()).await.ok()?;
            echo.flush().await.ok()?;
            body = vec![0; who.len()];
            echo.read_exact(&mut body).await.ok()?;
        }
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
        stream.write_all(&[head.as_bytes(), &body].concat()).await.ok()?;
        stream.flush().await.ok()?;
    }
    Some(())
}

async fn keep(boot: Boot) -> i32 {
    let keeper = Keeper { engine: boot.links["engine"], agents: boot.links["agents"] };
    assert_eq!(keeper.agents.port(), 0, "it is to be replaced");
    match boot.config["PLAY"].as_str() {
        "lives" => keeper.lives().await,
        "slots" => keeper.slots().await,
        "grace" => keeper.grace().await,
        other => panic!("no play {other}"),
    }
    std::future::pending().await
}

struct Keeper {
    engine: SocketAddr,
    agents: SocketAddr,
}

impl Keeper {
    async fn ask(&self, method: Method, path: &str, body: Value) -> (u16, Value) {
        let (status, text) = ask(self.engine, method, path, body.to_string()).await.expect("no fault is on this link");
        (status, if text.is_empty() { Value::Null } else { serde_json::from_str(&text).expect("JSON") })
    }

    async fn create(&self, name: &str, agent: &str) {
        let body = json!({
            "Image": "x", "Env": ["COLOR=red"], "Labels": {"of": agent}, "ExposedPorts": {"8090/tcp": {}},
            "HostConfig": {"PortBindings": {"8090/tcp": [{"HostPort": ""}]}},
        });
        let (status, body) = self.ask(Method::POST, &format!("/containers/create?name={name}"), body).await;
        assert_eq!(status, 201, "{body}");
    }

    async fn post(&self, name: &str, verb: &str) -> (u16, Value) {
        self.ask(Method::POST, &format!("/containers/{name}/{verb}"), Value::Null).await
    }

    async fn state(&self, name: &str) -> Value {
        self.ask(Method::GET, &format!("/containers/{name}/json"), Value::Null).await.1
    }

    async fn port(&self, name: &str) -> u16 {
        let state = self.state(name).await;
        let port = state["NetworkSettings"]["Ports"]["8090/tcp"][0]["HostPort"].as_str().expect("it runs");
        port.parse().expect("a port")
    }

    async fn call(&self, port: u16) -> Option<String> {
        Some(ask(SocketAddr::new(self.agents.ip(), port), Method::POST, "/", String::new()).await?.1)
    }

    /// Killed by a fault after 10 s, started again, stopped, removed.
    async fn lives(&self) {
        self.create("a", "agent-1").await;
        assert_eq!(self.call(32768).await, None, "nobody listens yet");
        assert_eq!(self.post("a", "start").await.0, 204);
        let port = self.port("a").await;
        assert_eq!(port, 32769);
        assert_eq!(self.call(port).await.as_deref(), Some("agent-1.1/1 red"));
        sleep(Duration::from_secs(11)).await;
        assert_eq!(self.call(port).await, None, "it is dead");
        let dead = self.state("a").await;
        assert_eq!((&dead["State"]["Status"], &dead["State"]["ExitCode"]), (&json!("exited"), &json!(137)));
        assert_eq!(dead["NetworkSettings"]["Ports"], json!({}));
        assert_eq!(self.post("a", "start").await.0, 204);
        let second = self.port("a").await;
        assert_eq!(second, 32768, "another one");
        assert_eq!(self.call(port).await, None, "it is reached there no longer");
        assert_eq!(self.call(second).await.as_deref(), Some("agent-1.1/2 red"));
        assert_eq!(self.post("a", "stop?t=3").await.0, 204);
        assert_eq!(self.post("a", "start").await.0, 204);
        let third = self.port("a").await;
        assert_eq!(self.call(third).await.as_deref(), Some("agent-1.1/3 red"), "the same slot, at once");
        assert_eq!(self.post("a", "stop?t=3").await.0, 204);
        assert_eq!(self.ask(Method::DELETE, "/containers/a", Value::Null).await.0, 204);
        tracing::info!("done");
    }

    /// Two for each agent and no more; the lowest first; agents do not share them.
    async fn slots(&self) {
        for (name, agent) in [("a", "agent-1"), ("b", "agent-1"), ("c", "agent-1"), ("d", "agent-2")] {
            self.create(name, agent).await;
        }
        let (first, second) = tokio::join!(self.post("a", "start"), self.post("b", "start"));
        assert_eq!((first.0, second.0), (204, 204));
        let (status, refused) = self.post("c", "start").await;
        let message = refused["message"].as_str().expect("a message");
        assert!(status == 500 && message.ends_with("port is already allocated"), "{message}");
        assert_eq!(self.post("d", "start").await.0, 204);
        assert_eq!(self.port("d").await, 32773);
        assert_eq!(self.call(32773).await.as_deref(), Some("agent-2.1/1 blue"), "what the plan sets wins");
        assert_eq!(self.ask(Method::DELETE, "/containers/a?force=1", Value::Null).await.0, 204);
        assert_eq!(self.post("c", "start").await.0, 204);
        tracing::info!("done");
    }

    /// It ignores SIGTERM, from the engine or from a fault, and only the engine kills for it.
    async fn grace(&self) {
        self.create("a", "agent-1").await;
        self.post("a", "start").await;
        sleep(Duration::from_secs(30)).await;
        assert_eq!(self.state("a").await["State"]["Status"], json!("running"), "a fault told it to stop at 10 s");
        let began = Instant::now();
        assert_eq!(self.post("a", "stop?t=7").await.0, 204);
        let took = began.elapsed();
        assert!((Duration::from_secs(7)..Duration::from_secs(8)).contains(&took), "{took:?}");
        assert_eq!(self.state("a").await["State"]["ExitCode"], json!(137));
        tracing::info!("done");
    }
}

async fn ask(to: SocketAddr, method: Method, path: &str, body: String) -> Option<(u16, String)> {
    let stream = TcpStream::connect(to).await.ok()?;
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await.ok()?;
    tokio::spawn(async move {
        let _ = connection.await;
    });
    let request = Request::builder().method(method).uri(path).header("Host", "x").body(Full::new(Bytes::from(body)));
    let answer = sender.send_request(request.expect("a request"));
    let answer = timeout(Duration::from_secs(20), answer).await.ok()?.ok()?;
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.ok()?.to_bytes();
    Some((status, String::from_utf8(body.to_vec()).expect("text")))
}

fn plan(play: &str, faults: Vec<Fault>) -> Plan<Play> {
    let set = |key: &str, value: &str| BTreeMap::from([(key.to_owned(), value.to_owned())]);
    let mut config =
        BTreeMap::from([("keeper".to_owned(), set("PLAY", play)), ("agent-2".to_owned(), set("COLOR", "blue"))]);
    if play == "grace" {
        config.insert("agent-1.1".to_owned(), set("STUBBORN", "1"));
    }
    Plan {
        service: BTreeMap::new(),
        about: String::new(),
        arms: Vec::new(),
        must_reach: Vec::new(),
        topology: BTreeMap::new(),
        config,
        users: Play(play.to_owned()),
        faults,
        expect: Expect { verdict: "passed".into(), invariant: None },
        repro: None,
    }
}

fn fault(kind: Kind, target: &str, length: Lifetime) -> Fault {
    Fault::new(kind, vec![target.into()], Trigger::At(Duration::from_secs(10)), length)
}

fn run(plan: &Plan<Play>) -> Report {
    let report = run_here::<Kept>("kept", plan, Seed(1), &Options { strict: true, ..Options::default() });
    assert_eq!(report.verdict, Verdict::Passed, "{report:#?}");
    report
}

/// The story without probes.
fn story(report: &Report) -> Vec<&str> {
    report.story.iter().map(String::as_str).filter(|line| !line.starts_with("probed")).collect()
}

#[test]
fn a_container_has_many_lives_and_each_ends_only_once() {
    let kill = || fault(Kind::of(&SIGKILL), "agent-1.1", Lifetime::Instant);
    let report = run(&plan("lives", vec![kill()]));
    let expected = [
        "created a",
        "started a in agent-1.1",
        "agent-1.1 is killed",
        "exited a: 137",
        "agent-1.1 boots again",
        "started a in agent-1.1",
        "agent-1.1 gets SIGTERM",
        "agent-1.1 exits with code 0",
        "stopped a",
        "agent-1.1 boots again",
        "started a in agent-1.1",
        "agent-1.1 gets SIGTERM",
        "agent-1.1 exits with code 0",
        "stopped a",
        "removed a",
        "keeper-1/1: done",
    ];
    assert_eq!(story(&report), expected, "{report:#?}");
    assert!(report.story.contains(&"probed a in agent-1.1: Some(200)".to_owned()), "{report:#?}");
    assert_eq!(report.digest, run(&plan("lives", vec![kill()])).digest);
}

#[test]
fn a_container_gets_the_lowest_free_berth_of_its_agent() {
    let report = run(&plan("slots", Vec::new()));
    let slot = |name: &str| {
        let says = format!("started {name} in ");
        story(&report).iter().find_map(|line| line.strip_prefix(&says).map(str::to_owned)).expect("it was started")
    };
    let mut first = [slot("a"), slot("b")];
    assert_eq!(slot("c"), first[0], "whose container was killed");
    first.sort_unstable();
    assert_eq!(first, ["agent-1.1", "agent-1.2"]);
    assert_eq!(slot("d"), "agent-2.1");
}

#[test]
fn nobody_but_the_engine_kills_after_a_sigterm() {
    let report = run(&plan("grace", vec![fault(Kind::of(&SIGTERM), "agent-1.1", Lifetime::Instant)]));
    assert_eq!((report.reached["signalled"], report.reached["killed"]), (2, 1), "{report:#?}");
}

#[test]
fn links_to_and_of_berths_take_faults() {
    let mut faults = Vec::new();
    for link in ["keeper-1->agent-1.1", "agent-1.1->echo", "keeper-1->engine"] {
        let plan = plan("lives", Vec::new());
        assert!(words::links::<Kept>(&plan).contains(&link.to_owned()), "{link}");
        let delay = Kind::of(&DELAY).with("by", Duration::from_millis(100));
        let length = Lifetime::Lasts(Duration::from_secs(5));
        faults.push(Fault::new(delay, vec![link.into()], Trigger::At(Duration::ZERO), length));
    }
    faults.push(fault(Kind::of(&SIGKILL), "agent-1.1", Lifetime::Instant));
    let report = run_here::<Kept>("kept", &plan("lives", faults), Seed(1), &Options::default());
    assert_eq!(report.verdict, Verdict::Passed, "{report:#?}");
    assert!(report.story.iter().any(|line| line == "keeper-1/1: done"), "{report:#?}");
    let plan = plan("lives", Vec::new());
    let processes = words::vocabulary::<Kept>().processes(&plan.topology);
    assert_eq!(processes, ["keeper-1", "agent-1.1", "agent-1.2", "agent-2.1", "agent-2.2"]);
    assert_eq!(words::links::<Kept>(&plan).len(), 1 + 4 + 4, "no user reaches a container");
}
