//! The container engine stand-in through hyper's client, with containers that are no processes.
#![cfg(madsim)]

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt, Shared};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use lychgate_sim::plan::Kind;
use lychgate_sim::standins::Control;
use lychgate_sim::standins::engine::faults::{self, FAILED_CREATE, NOT_READY, SLOW_STOP, STALE_HANDLE};
use lychgate_sim::standins::engine::observation::Engine as Seen;
use lychgate_sim::standins::engine::{Engine, FIRST_PUBLISHED, Failure, KILLED, PORT, Runner, Running, Spec, Verb};
use lychgate_sim::standins::observation::{FaultObserved, Observation, Tap};
use madsim::runtime::{Handle, NodeHandle, Runtime};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

/// What the engine shows, without peers, ids and times, and without probes that went as the one before.
type Log = Arc<Mutex<Vec<String>>>;

fn told(observation: Observation) -> String {
    if let Some(FaultObserved { ailment, request, .. }) = observation.of() {
        return format!("suffered {ailment} {}", String::from_utf8_lossy(request).trim_end());
    }
    match observation.take().unwrap_or_else(|other| panic!("{other:?} is not the engine's")) {
        Seen::Created { name, labels, .. } => format!("created {name} {labels:?}"),
        Seen::Started { name, process, .. } => format!("started {name} as {process}"),
        Seen::Stopped { name, .. } => format!("stopped {name}"),
        Seen::Exited { name, code, .. } => format!("exited {name} {code}"),
        Seen::Removed { name, .. } => format!("removed {name}"),
        Seen::Probed { name, status, body, .. } => format!("probed {name} {status:?} {body}"),
    }
}

/// A container ends by itself after `LIVES` seconds, takes `DIES` seconds over a SIGTERM, and answers probes as `HEALTH`
/// says: with that status, or not at all.
fn fake(hosts: &NodeHandle, starts: Arc<AtomicU32>) -> Runner {
    let hosts = hosts.clone();
    Runner(Box::new(move |spec: Spec| {
        let nth = u16::try_from(starts.fetch_add(1, Ordering::Relaxed)).expect("few starts");
        let seconds = |key: &str| spec.env.get(key).map(|text| text.parse().map(Duration::from_secs).expect("seconds"));
        if spec.env.contains_key("BROKEN") {
            return Box::pin(async { Err("port is already allocated".to_owned()) });
        }
        let (end, mut seen) = watch::channel(None);
        let exit = async move { seen.wait_for(Option::is_some).await.ok().and_then(|code| *code).unwrap_or(KILLED) };
        let exit = exit.boxed().shared();
        let ends = move |after: Duration, code: i32| {
            let end = end.clone();
            let end: Arc<dyn Fn() + Send + Sync> = Arc::new(move || {
                let end = end.clone();
                tokio::spawn(async move {
                    sleep(after).await;
                    end.send_if_modified(|is| is.replace(code).is_none());
                });
            });
            end
        };
        if let Some(lives) = seconds("LIVES") {
            ends(lives, 3)();
        }
        let terminate = ends(seconds("DIES").unwrap_or_default(), 0);
        let kill = ends(Duration::ZERO, KILLED);
        let port = spec.port + nth;
        if let Some(health) = spec.env.get("HEALTH").cloned() {
            hosts.spawn(healthy(port, health, exit.clone()));
        }
        let inside = format!("10.0.0.2:{port}").parse().expect("an address");
        let process = format!("fake-{nth}");
        Box::pin(
            async move { Ok(Running { process, published: FIRST_PUBLISHED + nth, inside, exit, terminate, kill }) },
        )
    }))
}

async fn healthy(port: u16, health: String, exit: Shared<BoxFuture<'static, i32>>) {
    let listener = TcpListener::bind(("0.0.0.0", port)).await.expect("a port for each start");
    let answer = async {
        loop {
            let (mut stream, _) = listener.accept().await.expect("it listens");
            let mut request = vec![0; 1000];
            let read = stream.read(&mut request).await.expect("a probe");
            assert!(request[..read].starts_with(b"GET /health HTTP/1.1\r\n"));
            if health == "silent" {
                sleep(Duration::from_secs(100)).await;
            }
            let answer = format!("HTTP/1.1 {health} Word\r\ncontent-length: 2\r\n\r\n{{}}");
            stream.write_all(answer.as_bytes()).await.expect("a probe waits");
            stream.flush().await.expect("a probe waits");
            let hung_up = stream.read(&mut request).await.expect("nothing, until the probe hangs up");
            assert_eq!(hung_up, 0);
        }
    };
    tokio::select! {
        () = answer => {}
        _ = exit => {}
    }
}

/// Runs `client` against an engine on a fresh thread, and gives what the engine showed.
fn simulate<F>(client: fn(Engine) -> F) -> Vec<String>
where
    F: Future<Output = ()> + Send + 'static,
{
    let run = move || {
        let log = Log::default();
        Runtime::with_seed_and_config(1, madsim::Config::default()).block_on(world(log.clone(), client));
        let log = log.lock().expect("nobody panicked");
        log.clone()
    };
    std::thread::spawn(run).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

async fn world<F: Future<Output = ()> + Send + 'static>(log: Log, client: fn(Engine) -> F) {
    let tap: Tap = Arc::new(move |observation| {
        let mut log = log.lock().expect("nobody panicked");
        let line = told(observation);
        if !line.starts_with("probed") || log.last() != Some(&line) {
            log.push(line);
        }
    });
    let handle = Handle::current();
    let hosts = handle.create_node().name("containers").ip([10, 0, 0, 2].into()).build();
    let engine = Engine::new([7; 32]);
    engine.run_with(fake(&hosts, Arc::default()));
    let served = engine.clone();
    let node = handle.create_node().name("engine").ip([10, 0, 0, 1].into()).build();
    // Two lives: whoever calls `restart` below ends the first one.
    let serve = move |listener: TcpListener| served.clone().serve(listener, tap.clone());
    node.spawn(async move {
        let listener = TcpListener::bind(("0.0.0.0", PORT)).await.expect("the port is free");
        tokio::select! {
            () = serve(listener) => {}
            () = sleep(RESTART) => {}
        }
        let listener = loop {
            sleep(Duration::from_millis(10)).await;
            if let Ok(listener) = TcpListener::bind(("0.0.0.0", PORT)).await {
                break listener;
            }
        };
        serve(listener).await;
    });
    sleep(Duration::from_millis(10)).await;
    let node = handle.create_node().ip([10, 0, 1, 1].into()).build();
    node.spawn(client(engine)).await.expect("the client ran to its end");
}

/// When the engine begins its second life.
const RESTART: Duration = Duration::from_secs(1000);

struct Client(SendRequest<Full<Bytes>>);

impl Client {
    async fn connect() -> Client {
        let stream = TcpStream::connect(("10.0.0.1", PORT)).await.expect("it listens");
        let (sender, connection) = handshake(TokioIo::new(stream)).await.expect("a handshake is local");
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Client(sender)
    }

    async fn raw(&mut self, method: Method, path: &str, body: String) -> (u16, String) {
        let request = Request::builder().method(method).uri(path).header("Host", "engine");
        let request = request.body(Full::new(Bytes::from(body))).expect("a request");
        let answer = self.0.send_request(request).await.expect("an answer");
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.expect("a body").to_bytes();
        (status, String::from_utf8(body.to_vec()).expect("text"))
    }

    async fn ask(&mut self, method: Method, path: &str) -> (u16, Value) {
        let (status, body) = self.raw(method, path, String::new()).await;
        (status, if body.is_empty() { Value::Null } else { serde_json::from_str(&body).expect("JSON") })
    }

    async fn post(&mut self, path: &str) -> u16 {
        self.ask(Method::POST, path).await.0
    }

    async fn get(&mut self, path: &str) -> Value {
        let (status, body) = self.ask(Method::GET, path).await;
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    async fn create(&mut self, name: &str, env: &[&str], labels: &[(&str, &str)]) -> (u16, Value) {
        let body = body(env, labels).to_string();
        let (status, body) = self.raw(Method::POST, &format!("/containers/create?name={name}"), body).await;
        (status, serde_json::from_str(&body).expect("JSON"))
    }

    async fn state(&mut self, name: &str) -> String {
        let shown = self.get(&format!("/containers/{name}/json")).await;
        shown["State"]["Status"].as_str().expect("text").to_owned()
    }
}

fn body(env: &[&str], labels: &[(&str, &str)]) -> Value {
    let labels: BTreeMap<_, _> = labels.iter().copied().collect();
    json!({
        "Image": "lychgate",
        "Env": env,
        "Labels": labels,
        "ExposedPorts": {"8090/tcp": {}},
        "HostConfig": {"PortBindings": {"8090/tcp": [{"HostPort": ""}]}},
    })
}

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

#[test]
fn a_container_is_created_started_stopped_and_removed() {
    let log = simulate(|_| async {
        let mut docker = Client::connect().await;
        let (status, created) = docker.create("a", &["K=V=W"], &[("color", "red")]).await;
        let id = created["Id"].as_str().expect("an id").to_owned();
        assert_eq!((status, created["Warnings"].clone(), id.len()), (201, json!([]), 64));
        assert!(id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')), "{id}");
        let mut shown = json!({
            "Id": id,
            "Name": "/a",
            "State": {"Status": "created", "Running": false, "ExitCode": 0},
            "Config": {"Env": ["K=V=W"], "Labels": {"color": "red"}, "Image": "lychgate"},
            "NetworkSettings": {"Ports": {}},
        });
        assert_eq!(docker.get("/containers/a/json").await, shown);
        assert_eq!(docker.post("/containers/a/stop").await, 304);
        assert_eq!(docker.post("/containers/a/start").await, 204);
        assert_eq!(docker.post(&format!("/v1.43/containers/{id}/start")).await, 304);
        let health = json!({"Status": "starting", "FailingStreak": 0});
        shown["State"] = json!({"Status": "running", "Running": true, "ExitCode": 0, "Health": health});
        shown["NetworkSettings"]["Ports"] = json!({"8090/tcp": [{"HostIp": "0.0.0.0", "HostPort": "32768"}]});
        assert_eq!(docker.get(&format!("/v1.43/containers/{id}/json")).await, shown);
        let (status, refused) = docker.ask(Method::DELETE, "/containers/a").await;
        assert_eq!(status, 409);
        let message = refused["message"].as_str().expect("a message");
        assert!(message.starts_with(&format!("You cannot remove a running container {id}. Stop")), "{message}");
        assert_eq!(docker.post("/containers/a/stop?t=3").await, 204);
        assert_eq!(docker.post("/containers/a/stop?t=3").await, 304);
        shown["State"] = json!({"Status": "exited", "Running": false, "ExitCode": 0});
        shown["NetworkSettings"]["Ports"] = json!({});
        assert_eq!(docker.get("/containers/a/json").await, shown);
        assert_eq!(docker.post("/containers/a/start").await, 204, "it can be started again");
        assert_eq!(docker.ask(Method::DELETE, "/containers/a?force=1").await, (204, Value::Null));
        let nobody = (404, json!({"message": "No such container: a"}));
        for (method, path) in [
            (Method::DELETE, "/containers/a"),
            (Method::GET, "/containers/a/json"),
            (Method::POST, "/containers/a/start"),
            (Method::POST, "/containers/a/stop"),
        ] {
            assert_eq!(docker.ask(method, path).await, nobody, "{path}");
        }
    });
    let expected = [
        r#"created a {"color": "red"}"#,
        "started a as fake-0",
        "stopped a",
        "started a as fake-1",
        "exited a 137",
        "removed a",
    ];
    assert_eq!(log, expected);
}

#[test]
fn a_name_is_one_containers_and_the_first_one_can_be_adopted() {
    let log = simulate(|_| async {
        let mut docker = Client::connect().await;
        let (_, first) = docker.create("a", &[], &[]).await;
        let id = first["Id"].as_str().expect("an id").to_owned();
        let (status, refused) = docker.create("a", &["NEW=1"], &[]).await;
        let message = format!(
            "Conflict. The container name \"/a\" is already in use by container \"{id}\". You have to remove (or \
             rename) that container to be able to reuse that name."
        );
        assert_eq!((status, refused), (409, json!({"message": message})));
        assert_eq!(docker.get("/containers/a/json").await["Id"], json!(id));
        assert_eq!(docker.post("/containers/a/start").await, 204);
        let (status, broken) = docker.raw(Method::POST, "/containers/create?name=b", "{\"Image\":".into()).await;
        assert_eq!(status, 400);
        assert!(broken.starts_with("{\"message\":\"invalid JSON: "), "{broken}");
        let (_, other) = docker.create("b", &["BROKEN=1"], &[]).await;
        assert_ne!(other["Id"], json!(id));
        let (status, refused) = docker.ask(Method::POST, "/containers/b/start").await;
        assert_eq!((status, refused), (500, json!({"message": "port is already allocated"})));
        assert_eq!(docker.state("b").await, "created");
    });
    assert_eq!(log, ["created a {}", "started a as fake-0", "created b {}"]);
}

#[test]
fn a_stop_answers_when_it_is_over_and_the_others_wait_in_line() {
    let log = simulate(|engine| async move {
        let mut docker = Client::connect().await;
        docker.create("slow", &["DIES=4"], &[]).await;
        docker.create("deaf", &["DIES=100"], &[]).await;
        for name in ["slow", "deaf"] {
            assert_eq!(docker.post(&format!("/containers/{name}/start")).await, 204);
        }
        let began = Instant::now();
        let restarted = tokio::spawn(async move {
            sleep(secs(1)).await;
            let mut other = Client::connect().await;
            assert_eq!(other.state("slow").await, "running", "looking waits for nobody");
            let status = other.post("/containers/slow/start").await;
            (status, began.elapsed())
        });
        assert_eq!(docker.post("/containers/slow/stop").await, 204);
        assert!((secs(4)..secs(5)).contains(&began.elapsed()), "{:?}", began.elapsed());
        let (status, after) = restarted.await.expect("no panic");
        assert_eq!(status, 204, "it was not running any more when its turn came");
        assert!((secs(4)..secs(5)).contains(&after), "{after:?}");
        assert_eq!(docker.state("slow").await, "running");

        let began = Instant::now();
        assert_eq!(docker.post("/containers/deaf/stop?t=6").await, 204);
        assert!((secs(6)..secs(7)).contains(&began.elapsed()), "{:?}", began.elapsed());
        assert_eq!(docker.get("/containers/deaf/json").await["State"]["ExitCode"], json!(KILLED));
        docker.post("/containers/deaf/start").await;
        engine.slow_stop(secs(30));
        let began = Instant::now();
        assert_eq!(docker.post("/containers/deaf/stop?t=0").await, 204);
        assert!((secs(30)..secs(31)).contains(&began.elapsed()), "{:?}", began.elapsed());
    });
    let expected = [
        "created slow {}",
        "created deaf {}",
        "started slow as fake-0",
        "started deaf as fake-1",
        "stopped slow",
        "started slow as fake-2",
        "probed slow None ",
        "probed deaf None ",
        "stopped deaf",
        "started deaf as fake-3",
        "stopped deaf",
    ];
    let log: Vec<_> = log.into_iter().filter(|line| !line.starts_with("probed")).collect();
    assert_eq!(log, expected.into_iter().filter(|line| !line.starts_with("probed")).collect::<Vec<_>>());
}

#[test]
fn what_was_begun_is_finished_though_the_client_hangs_up() {
    let log = simulate(|_| async {
        let mut docker = Client::connect().await;
        docker.create("a", &["DIES=3"], &[]).await;
        docker.post("/containers/a/start").await;
        let stop = docker.post("/containers/a/stop");
        assert!(tokio::time::timeout(secs(1), stop).await.is_err(), "it takes 3 s");
        drop(docker);
        sleep(secs(3)).await;
        assert_eq!(Client::connect().await.state("a").await, "exited");
    });
    assert_eq!(log, ["created a {}", "started a as fake-0", "stopped a"]);
}

#[test]
fn a_list_shows_the_newest_first_by_label() {
    simulate(|_| async {
        let mut docker = Client::connect().await;
        for (name, agent) in [("a", "agent-1"), ("b", "agent-2"), ("c", "agent-1")] {
            docker.create(name, &[], &[("lychgate.agent", agent)]).await;
        }
        docker.post("/containers/a/start").await;
        let names = |list: Value| -> Vec<String> {
            let list = list.as_array().expect("a list").iter();
            list.map(|each| each["Names"][0].as_str().expect("a name").to_owned()).collect()
        };
        assert_eq!(names(docker.get("/containers/json?all=1").await), ["/c", "/b", "/a"]);
        assert_eq!(names(docker.get("/containers/json").await), ["/a"]);
        let escaped = "%7B%22label%22%3A%5B%22lychgate.agent%3Dagent-1%22%5D%7D";
        let own = docker.get(&format!("/containers/json?all=true&filters={escaped}")).await;
        assert_eq!(names(own.clone()), ["/c", "/a"]);
        let ports = json!([{"IP": "0.0.0.0", "PrivatePort": 8090, "PublicPort": 32768, "Type": "tcp"}]);
        let shown = json!({
            "Id": own[1]["Id"], "Names": ["/a"], "Image": "lychgate", "Labels": {"lychgate.agent": "agent-1"},
            "State": "running", "Ports": ports,
        });
        assert_eq!(own[1], shown);
        let any = "%7B%22label%22%3A%5B%22lychgate.agent%22%5D%7D";
        assert_eq!(names(docker.get(&format!("/containers/json?filters={any}")).await), ["/a"]);
    });
}

#[test]
fn probes_come_from_inside_and_show_in_inspect() {
    let log = simulate(|_| async {
        let mut docker = Client::connect().await;
        for (name, health) in [("well", "200"), ("ill", "503"), ("mute", "silent")] {
            docker.create(name, &[&format!("HEALTH={health}")], &[]).await;
            docker.post(&format!("/containers/{name}/start")).await;
        }
        let health = async |docker: &mut Client, name: &str| {
            let shown = docker.get(&format!("/containers/{name}/json")).await;
            shown["State"]["Health"]["Status"].as_str().expect("text").to_owned()
        };
        sleep(secs(4)).await;
        assert_eq!(health(&mut docker, "well").await, "starting");
        sleep(secs(2)).await;
        assert_eq!(health(&mut docker, "well").await, "healthy");
        assert_eq!(health(&mut docker, "ill").await, "starting");
        sleep(secs(10)).await;
        assert_eq!(health(&mut docker, "ill").await, "unhealthy", "three times in 15 s");
        assert_eq!(health(&mut docker, "mute").await, "starting", "twice, and 2 s each");
        sleep(secs(6)).await;
        assert_eq!(health(&mut docker, "mute").await, "unhealthy");
    });
    for line in ["probed well Some(200) {}", "probed ill Some(503) {}", "probed mute None "] {
        assert!(log.iter().any(|seen| seen == line), "{line}: {log:?}");
    }
}

#[test]
fn a_container_that_ends_by_itself_has_exited() {
    let log = simulate(|_| async {
        let mut docker = Client::connect().await;
        docker.create("a", &["LIVES=2"], &[]).await;
        docker.post("/containers/a/start").await;
        sleep(secs(3)).await;
        let state = docker.get("/containers/a/json").await["State"].clone();
        assert_eq!(state, json!({"Status": "exited", "Running": false, "ExitCode": 3}));
        assert_eq!(docker.post("/containers/a/stop").await, 304);
        assert_eq!(docker.ask(Method::DELETE, "/containers/a").await.0, 204);
    });
    assert_eq!(log, ["created a {}", "started a as fake-0", "exited a 3", "removed a"]);
}

#[test]
fn a_request_that_is_to_fail_is_not_carried_out() {
    let log = simulate(|engine| async move {
        let mut docker = Client::connect().await;
        docker.create("a", &[], &[]).await;
        engine.fail_next(Verb::Create, Failure::Refused("no space left on device".into()));
        let failed = (500, json!({"message": "no space left on device"}));
        assert_eq!(docker.create("b", &[], &[]).await, failed);
        assert_eq!(docker.create("b", &[], &[]).await.0, 201, "only the next one");
        for (verb, method, path) in [
            (Verb::Start, Method::POST, "/containers/a/start"),
            (Verb::Inspect, Method::GET, "/containers/a/json"),
            (Verb::Stop, Method::POST, "/containers/a/stop"),
            (Verb::List, Method::GET, "/containers/json"),
            (Verb::Remove, Method::DELETE, "/containers/a"),
        ] {
            engine.fail_next(verb, Failure::Refused("no space left on device".into()));
            engine.fail_next(verb, Failure::Garbage);
            assert_eq!(docker.ask(method.clone(), path).await, failed);
            let (status, garbage) = docker.raw(method, path, String::new()).await;
            assert_eq!(status, 200);
            assert!(serde_json::from_str::<Value>(&garbage).is_err(), "{garbage}");
        }
        assert_eq!(docker.state("a").await, "created");
    });
    assert_eq!(log, ["created a {}", "created b {}"]);
}

#[test]
fn containers_outlive_the_engine() {
    let log = simulate(|_| async {
        let mut docker = Client::connect().await;
        docker.create("a", &["LIVES=1100", "HEALTH=200"], &[]).await;
        docker.post("/containers/a/start").await;
        drop(docker);
        sleep(RESTART + secs(1)).await;
        let mut docker = Client::connect().await;
        let shown = docker.get("/containers/a/json").await;
        assert_eq!(shown["State"]["Health"]["Status"], json!("healthy"));
        assert_eq!(docker.create("a", &[], &[]).await.0, 409);
        sleep(secs(200)).await;
        assert_eq!(docker.state("a").await, "exited");
    });
    assert_eq!(log, ["created a {}", "started a as fake-0", "probed a Some(200) {}", "exited a 3"]);
}

fn loud(client: fn() -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>>) -> String {
    let run = std::panic::catch_unwind(|| {
        let run = move || {
            let world = async move {
                world(Log::default(), |_| async {}).await;
                let node = Handle::current().create_node().ip([10, 0, 1, 2].into()).build();
                node.spawn(client()).await.expect("the client ran to its end");
            };
            Runtime::with_seed_and_config(1, madsim::Config::default()).block_on(world);
        };
        std::thread::spawn(run).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    let panic = run.expect_err("the stand-in is loud");
    panic.downcast_ref::<String>().cloned().expect("a message")
}

#[test]
fn what_it_does_not_know_is_loud() {
    let why = loud(|| {
        Box::pin(async {
            Client::connect().await.ask(Method::POST, "/containers/a/kill").await;
        })
    });
    assert!(why.contains("does not know POST /containers/a/kill"), "{why}");
    let why = loud(|| {
        Box::pin(async {
            Client::connect().await.ask(Method::GET, "/containers/json?limit=3").await;
        })
    });
    assert!(why.contains("does not know GET /containers/json?limit=3"), "{why}");
    let why = loud(|| {
        Box::pin(async {
            let mut body = body(&[], &[]);
            body["User"] = json!("root");
            let mut docker = Client::connect().await;
            docker.raw(Method::POST, "/containers/create?name=a", body.to_string()).await;
        })
    });
    assert!(why.contains("cannot create a") && why.contains("User"), "{why}");
}

#[test]
fn what_ails_it_is_felt_and_heals() {
    let log = simulate(|engine| async move {
        let mut docker = Client::connect().await;
        let ail = |ailment| engine.control(&Control::Begin(ailment));
        let heal = |ailment| engine.control(&Control::End(ailment));
        ail(Kind::of(&FAILED_CREATE));
        let (status, body) = docker.create("one", &[], &[("agent", "a")]).await;
        let message = body["message"].as_str().expect("a message");
        assert!(status == 500 && message.ends_with("-init: no space left on device"), "{status} {message}");
        heal(Kind::of(&FAILED_CREATE));
        let (status, body) = docker.create("one", &["DIES=100"], &[("agent", "a")]).await;
        assert_eq!(status, 201, "nothing was left behind");
        let id = body["Id"].as_str().expect("an id").to_owned();

        ail(Kind::of(&STALE_HANDLE));
        let (status, body) = docker.ask(Method::POST, &format!("/containers/{id}/start")).await;
        assert_eq!((status, body), (404, json!({"message": format!("No such container: {id}")})));
        assert_eq!(docker.state("one").await, "created", "it is shown");
        assert_eq!(docker.post(&format!("/containers/{id}/start")).await, 204, "once only");
        heal(Kind::of(&STALE_HANDLE));

        let slow = Kind::of(&SLOW_STOP).with("by", secs(5));
        ail(slow.clone());
        let began = Instant::now();
        assert_eq!(docker.post("/containers/one/stop?t=2").await, 204);
        assert!((secs(7)..secs(8)).contains(&began.elapsed()), "{:?}", began.elapsed());
        heal(slow);

        ail(Kind::of(&NOT_READY));
        assert_eq!(docker.post("/containers/one/start").await, 204);
        heal(Kind::of(&NOT_READY));

        // A stop that the end of the engine cuts short leaves the container to itself.
        let stopped = tokio::spawn(async move { docker.post("/containers/one/stop?t=50").await });
        sleep(secs(1)).await;
        ail(Kind::of(&faults::RESTART));
        assert_eq!(stopped.await.expect("no panic"), 503);
        let mut docker = Client::connect().await;
        assert_eq!(docker.state("one").await, "running");
    });
    let expected = [
        "suffered failed_create agent=a",
        "created one {\"agent\": \"a\"}",
        "suffered stale_handle agent=a",
        "started one as fake-0",
        "suffered slow_stop agent=a",
        "probed one None ",
        "stopped one",
        "suffered not_ready agent=a",
        "started one as fake-1",
    ];
    assert_eq!(log, expected);
}
