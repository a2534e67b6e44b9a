//! A tiny product for tests of the world: a user asks a worker for a job, the worker keeps its steps in a store that
//! speaks lines. Quirks of the plan make it misbehave.
#![allow(dead_code)] // each test binary uses its part

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use lychgate_sim::plan::seed::Seed;
use lychgate_sim::plan::{EventMatch, Expect, Fault, Kind, Lifetime, Plan, Setting, Trigger};
use lychgate_sim::standins::StandIn;
use lychgate_sim::standins::listener::Listener;
use lychgate_sim::standins::observation::{Log, Observation, Observed, Tap};
use lychgate_sim::trace::event::{Event, ProductEvent, What};
use lychgate_sim::trace::invariant::{Breach, Floor, Invariant, Obligation};
use lychgate_sim::world::product::{
    Boot, Origin, Product, Reader, Role, Scenario, Source, User, UserContext, Workload,
};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Jobs {
    pub steps: u32,
    pub quirks: BTreeSet<String>,
}

impl Workload for Jobs {
    fn sessions(&self) -> Vec<String> {
        vec!["ann/1".into()]
    }
    fn users(&self) -> Vec<String> {
        vec!["ann".into()]
    }
    fn smaller(&self) -> Vec<Self> {
        Vec::new()
    }
}

#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum TestProduct {
    Claimed { session: String },
    Stepped { session: String, step: u32 },
    Done { session: String },
    Drained,
    Told { session: String, words: String },
}

impl ProductEvent for TestProduct {
    const NAMES: &'static [&'static str] = &["claimed", "stepped", "done", "drained", "told"];

    fn name(&self) -> &'static str {
        match self {
            TestProduct::Claimed { .. } => "claimed",
            TestProduct::Stepped { .. } => "stepped",
            TestProduct::Done { .. } => "done",
            TestProduct::Drained => "drained",
            TestProduct::Told { .. } => "told",
        }
    }

    fn session(&self) -> Option<&str> {
        match self {
            TestProduct::Claimed { session } | TestProduct::Stepped { session, .. } | TestProduct::Done { session } => {
                Some(session)
            }
            TestProduct::Told { session, .. } => Some(session),
            TestProduct::Drained => None,
        }
    }

    fn story(&self) -> Option<String> {
        match self {
            TestProduct::Claimed { session } => Some(format!("{session} begins")),
            TestProduct::Done { session } => Some(format!("{session} is done")),
            _ => None,
        }
    }
}

#[derive(Default)]
struct Ears {
    live: BTreeMap<String, String>,
    done: BTreeSet<String>,
}

impl Ears {
    fn line(&mut self, line: &Line, origin: &Origin) -> TestProduct {
        assert!(origin.process.starts_with("worker-"), "the store is reached through links: {origin:?}");
        let session = line.words[1].clone();
        match line.words[0].as_str() {
            "CLAIM" => {
                if !self.done.contains(&session) {
                    self.live.insert(session.clone(), origin.process.clone());
                }
                TestProduct::Claimed { session }
            }
            "STEP" => TestProduct::Stepped { session, step: line.words[2].parse().expect("a number") },
            "DONE" => {
                self.live.remove(&session);
                self.done.insert(session.clone());
                TestProduct::Done { session }
            }
            other => panic!("the reader knows no {other}"),
        }
    }
}

impl Reader<TestProduct> for Ears {
    fn read(&mut self, observation: &Observation, origin: &Origin) -> Vec<TestProduct> {
        if let Some(line) = observation.of::<Line>() {
            assert_eq!(observation.service, "store");
            return vec![self.line(line, origin)];
        }
        let Some(log) = observation.of::<Log>().filter(|log| log.message == "drained") else { return Vec::new() };
        assert_eq!((&log.process, log.incarnation), (&origin.process, origin.incarnation));
        assert_eq!(log.fields["color"], "red");
        vec![TestProduct::Drained]
    }

    fn mentioned(&self, request: &[u8]) -> Option<String> {
        let text = String::from_utf8_lossy(request);
        self.live.keys().find(|label| text.contains(label.as_str())).cloned()
    }

    fn served_by(&self, process: &str) -> Option<String> {
        self.live.iter().find(|(_, by)| *by == process).map(|(label, _)| label.clone())
    }
}

/// What is claimed is done within 100 s.
#[derive(Default)]
struct Promptness {
    open: BTreeMap<String, Duration>,
    /// Jobs that are done as their user was told, and as the store saw.
    floor: Floor,
}

impl Invariant<TestProduct> for Promptness {
    fn name(&self) -> &'static str {
        "promptness"
    }
    fn says(&self) -> &'static str {
        "what is claimed is done within 100 s"
    }
    fn observe(&mut self, event: &Event<TestProduct>) -> Result<(), Breach> {
        match &event.what {
            What::Product(TestProduct::Claimed { session }) => {
                self.open.entry(session.clone()).or_insert(event.at);
            }
            What::Product(TestProduct::Done { session }) => {
                self.open.remove(session);
                self.floor.kept += 1;
            }
            What::Product(TestProduct::Told { .. }) => self.floor.promised += 1,
            What::Product(TestProduct::Stepped { step: 66, session }) => {
                return Err(Breach::now(format!("{session} took step 66")));
            }
            _ => {}
        }
        Ok(())
    }
    fn pending(&self) -> Vec<Obligation> {
        let each = |(session, since): (&String, &Duration)| {
            Obligation::new(format!("{session} is done"), *since, *since + Duration::from_secs(100))
        };
        self.open.iter().map(each).collect()
    }
    fn armed(&self) -> bool {
        true
    }
    fn floor(&self) -> Option<Floor> {
        Some(self.floor)
    }
}

pub struct Toys;

static ROLES: [Role; 1] = [Role {
    name: "worker",
    services: &["store", "spare"],
    port: Some(7000),
    count: 1,
    grace: Duration::from_secs(5),
    restart_delay: Duration::from_secs(2),
    contained: None,
}];

impl Product for Toys {
    type Event = TestProduct;
    type Workload = Jobs;

    fn roles() -> &'static [Role] {
        &ROLES
    }

    fn settings() -> &'static [Setting] {
        &[Setting { name: "STUBBORN", says: "whether a process ignores SIGTERM", default: "no" }]
    }

    fn services(plan: &Plan<Jobs>, _: Seed) -> Vec<Arc<dyn StandIn>> {
        let quirks = plan.users.quirks.clone();
        vec![
            Arc::new(LineStore { name: "store", port: 6000, quirks, served: Arc::default() }),
            Arc::new(LineStore { name: "spare", port: 6001, quirks: BTreeSet::new(), served: Arc::default() }),
        ]
    }

    fn boot(boot: Boot) -> BoxFuture<'static, i32> {
        Box::pin(work(boot))
    }

    fn users(plan: &Plan<Jobs>, _: Seed) -> Vec<User<TestProduct>> {
        let jobs = plan.users.clone();
        vec![User { name: "ann".into(), act: Box::new(move |seat| Box::pin(ask(seat, jobs))) }]
    }

    fn reader(_: &Plan<Jobs>) -> Box<dyn Reader<TestProduct>> {
        Box::new(Ears::default())
    }

    fn invariants(_: &Plan<Jobs>) -> Vec<Box<dyn Invariant<TestProduct>>> {
        vec![Box::new(Promptness::default())]
    }

    fn command() -> &'static str {
        "cargo sim"
    }

    fn crates() -> &'static [&'static str] {
        &[env!("CARGO_CRATE_NAME")]
    }

    fn settle_max(_: &Plan<Jobs>) -> Duration {
        Duration::from_secs(1000)
    }

    fn scenarios() -> Vec<Scenario<Jobs>> {
        let drawn = |quirk: &str, draw| Scenario {
            name: quirk.to_owned(),
            source: Source::Drawn { about: "the same plan on every seed", draw },
        };
        vec![
            drawn("busy", |_| quirky("busy")),
            drawn("lazy", |_| quirky("lazy")),
            drawn("unasked", |_| quirky("unasked")),
        ]
    }
}

/// A store that speaks lines.
struct LineStore {
    name: &'static str,
    port: u16,
    quirks: BTreeSet<String>,
    served: Arc<Mutex<u32>>,
}

impl StandIn for LineStore {
    fn name(&self) -> &'static str {
        self.name
    }

    fn port(&self) -> u16 {
        self.port
    }

    fn serve(&self, listener: Listener, tap: Tap) -> BoxFuture<'static, ()> {
        Box::pin(store(listener, tap, self.quirks.clone(), self.served.clone()))
    }
}

/// A line that the store has read.
#[derive(Debug)]
struct Line {
    peer: SocketAddr,
    words: Vec<String>,
}

impl Observed for Line {
    fn peer(&self) -> Option<SocketAddr> {
        Some(self.peer)
    }
}

async fn store(mut listener: Listener, tap: Tap, quirks: BTreeSet<String>, served: Arc<Mutex<u32>>) {
    loop {
        let Ok((stream, peer)) = listener.accept().await else { return };
        let (tap, quirks, served) = (tap.clone(), quirks.clone(), served.clone());
        tokio::spawn(async move {
            let mut stream = BufReader::new(stream);
            let mut line = String::new();
            while stream.read_line(&mut line).await.unwrap_or(0) > 0 {
                let words: Vec<_> = line.split_whitespace().map(str::to_owned).collect();
                let count = {
                    let mut served = served.lock().expect("no panic holds it");
                    *served += 1;
                    *served
                };
                let mut reply = format!("OK {count}\n");
                if quirks.contains("other byte") && count == 2 {
                    reply = "OK !\n".into();
                }
                tap(Line { peer, words }.into());
                if quirks.contains("store panics") && count == 2 {
                    panic!("the store does not know this");
                }
                if quirks.contains("nanosecond") && count == 2 {
                    sleep(Duration::from_nanos(5_000_001)).await;
                } else if count == 2 {
                    sleep(Duration::from_nanos(5_000_000)).await;
                }
                if stream.write_all(reply.as_bytes()).await.is_err() || stream.flush().await.is_err() {
                    return;
                }
                line.clear();
            }
        });
    }
}

/// A connection to the store that is made anew after every trouble.
struct Store {
    address: SocketAddr,
    stream: Option<BufReader<TcpStream>>,
}

impl Store {
    async fn call(&mut self, request: &str) {
        loop {
            match timeout(Duration::from_secs(10), self.attempt(request)).await {
                Ok(Ok(())) => return,
                _ => self.stream = None,
            }
            sleep(Duration::from_millis(500)).await;
        }
    }

    async fn attempt(&mut self, request: &str) -> std::io::Result<()> {
        if self.stream.is_none() {
            self.stream = Some(BufReader::new(TcpStream::connect(self.address).await?));
        }
        let Some(stream) = &mut self.stream else { unreachable!("it was just made") };
        stream.write_all(request.as_bytes()).await?;
        stream.flush().await?;
        let mut answer = String::new();
        match stream.read_line(&mut answer).await? {
            0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

/// Says something when it is dropped, as no killed process can.
struct LastWords(Option<TcpStream>);

impl Drop for LastWords {
    fn drop(&mut self) {
        tracing::info!(color = "red", "drained");
        if let Some(stream) = &mut self.0 {
            let waker = std::task::Waker::noop();
            let mut context = std::task::Context::from_waker(waker);
            let mut stream = std::pin::Pin::new(stream);
            let _ = tokio::io::AsyncWrite::poll_write(stream.as_mut(), &mut context, b"STEP ann/1 66\n");
            let _ = tokio::io::AsyncWrite::poll_flush(stream.as_mut(), &mut context);
        }
    }
}

async fn work(mut boot: Boot) -> i32 {
    let listen = boot.listen.expect("the role has a port");
    let listener = TcpListener::bind(listen).await.expect("a fresh incarnation binds its port");
    let address = boot.links["store"];
    let stubborn = boot.config.contains_key("STUBBORN");
    let _last_words = stubborn.then(|| {
        tokio::spawn(async move {
            let words = LastWords(TcpStream::connect(address).await.ok());
            sleep(Duration::from_secs(1_000_000)).await;
            drop(words);
        })
    });
    let (mut busy, mut ended) = (0, false);
    let (done, mut finished) = tokio::sync::mpsc::unbounded_channel();
    loop {
        tokio::select! {
            biased;
            Some(()) = boot.signals.recv(), if !stubborn => ended = true,
            Some(()) = finished.recv() => busy -= 1,
            Ok((stream, _)) = listener.accept() => {
                busy += 1;
                let done = done.clone();
                tokio::spawn(async move {
                    job(stream, address).await;
                    let _ = done.send(());
                });
            }
        }
        if ended && busy == 0 {
            tracing::info!(color = "red", "drained");
            return 0;
        }
    }
}

async fn job(stream: TcpStream, address: SocketAddr) {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
        return;
    }
    if line.starts_with("GET /health ") {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        let _ = stream.flush().await;
        // Whoever asks hangs up.
        while stream.read_line(&mut line).await.unwrap_or(0) > 0 {}
        return;
    }
    let mut words = line.split_whitespace();
    let session = words.next().expect("a session").to_owned();
    let steps: Vec<u32> = words.map(|step| step.parse().expect("a number")).collect();
    assert!(!steps.contains(&13), "unlucky step");
    if steps.contains(&27) {
        let _ = stream.write_all(b"done\n").await;
        let _ = stream.flush().await;
        return;
    }
    let mut store = Store { address, stream: None };
    let mut chance = if steps.contains(&7) { chance().await } else { String::new() };
    chance += &outside(&steps).await;
    store.call(&format!("CLAIM {session} {chance}\n")).await;
    for step in steps {
        store.call(&format!("STEP {session} {step}\n")).await;
        sleep(Duration::from_secs(1)).await;
    }
    store.call(&format!("DONE {session}\n")).await;
    let _ = stream.write_all(b"done\n").await;
    let _ = stream.flush().await;
}

/// Words that depend on the keys of hash maps and on the order of both kinds of select.
async fn chance() -> String {
    let map: std::collections::HashMap<u32, ()> = (0..10).map(|key| (key, ())).collect();
    let mut words: String = map.keys().map(|key| key.to_string()).collect();
    for _ in 0..20 {
        words += tokio::select! { () = async {} => "a", () = async {} => "b", () = async {} => "c" };
        let (mut one, mut other) = (std::future::ready(()).fuse(), std::future::ready(()).fuse());
        words += futures_util::select! { () = one => "x", () = other => "y" };
    }
    words
}

/// What no seed rules: the kernel's entropy, its clock, its numbers.
async fn outside(steps: &[u32]) -> String {
    let mut bytes = [0_u8; 16];
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: both calls fill what they are given, in full. They are raw because the runtime answers libc's own functions.
    unsafe {
        assert_eq!(libc::syscall(libc::SYS_getrandom, bytes.as_mut_ptr(), bytes.len(), 0), 16);
        assert_eq!(libc::syscall(libc::SYS_clock_gettime, libc::CLOCK_REALTIME, &raw mut now), 0);
    }
    if steps.contains(&23) {
        // The keys of a map whose hasher has a key from the kernel, in the order of their hashes.
        let salt = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"));
        let mut keys: Vec<u64> = (10..30).collect();
        keys.sort_by_key(|key| (key ^ salt).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        return keys.iter().map(|key| format!(" {key}")).collect();
    }
    if steps.contains(&24) {
        sleep(Duration::from_nanos(now.tv_nsec as u64 / 2)).await;
    }
    match steps {
        steps if steps.contains(&21) => bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
        steps if steps.contains(&22) => format!("at {}{:09}", now.tv_sec, now.tv_nsec),
        steps if steps.contains(&25) => std::process::id().to_string(),
        steps if steps.contains(&26) => format!("{:p}", &raw const bytes),
        _ => String::new(),
    }
}

async fn ask(seat: UserContext<TestProduct>, jobs: Jobs) {
    let worker = seat.links["worker-1"];
    let mut request = "ann/1".to_owned();
    for step in 1..=jobs.steps {
        request += &format!(" {step}");
    }
    let quirks = [("unlucky", " 13"), ("evil", " 66"), ("chance", " 7"), ("entropy", " 21"), ("time", " 22")];
    let more = [("order", " 23"), ("delay", " 24"), ("pid", " 25"), ("pointer", " 26"), ("lazy", " 27")];
    for (quirk, step) in quirks.into_iter().chain(more) {
        if jobs.quirks.contains(quirk) {
            request += step;
        }
    }
    request.push('\n');
    if jobs.quirks.contains("unasked") {
        return;
    }
    if jobs.quirks.contains("hang") {
        std::future::pending::<()>().await;
    }
    loop {
        let mut store = Store { address: worker, stream: None };
        if let Ok(Ok(())) = timeout(Duration::from_secs(400), store.attempt(&request)).await {
            break;
        }
        sleep(Duration::from_secs(1)).await;
    }
    (seat.tell)(TestProduct::Told { session: "ann/1".into(), words: "done".into() });
}

pub fn plan(faults: Vec<Fault>) -> Plan<Jobs> {
    Plan {
        about: "ann has a job done".into(),
        arms: vec!["promptness".into()],
        must_reach: vec!["done".into()],
        topology: BTreeMap::new(),
        config: BTreeMap::new(),
        service: BTreeMap::new(),
        users: Jobs { steps: 5, quirks: BTreeSet::new() },
        faults,
        expect: Expect { verdict: "passed".into(), invariant: None },
        repro: None,
    }
}

pub fn quirky(quirk: &str) -> Plan<Jobs> {
    let mut plan = plan(Vec::new());
    plan.users.quirks.insert(quirk.into());
    plan
}

pub fn fault(kind: Kind, target: &str, trigger: Trigger, length: Lifetime) -> Fault {
    Fault::new(kind, vec![target.into()], trigger, length)
}

pub fn on(event: &str, nth: u32) -> EventMatch {
    EventMatch { event: event.into(), session: None, nth, after: Duration::ZERO }
}
