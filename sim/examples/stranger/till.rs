//! The binding of a service that is no Rust: its command line, who uses it, what Redis's wire says of it, what must hold.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use lychgate_sim::plan::seed::Seed;
use lychgate_sim::plan::{Plan, ServiceWords, Setting};
use lychgate_sim::real::{Options, RealServer, run, servers};
use lychgate_sim::standins::StandIn;
use lychgate_sim::standins::observation::Observation;
use lychgate_sim::standins::redis::{Redis, faults, observation};
use lychgate_sim::trace::event::{Event, ProductEvent, What, WorldEvent};
use lychgate_sim::trace::invariant::{Breach, Invariant, Obligation};
use lychgate_sim::trace::verdict::Report;
use lychgate_sim::world::product::{Boot, Origin, Product, Reader, Role, Scenario, User, UserContext, Workload};
use lychgate_sim::world::words;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

/// So long does a customer wait before asking again.
const PATIENCE: Duration = Duration::from_secs(5);
/// Everything is healed: so long may what is left take.
const CAUGHT_UP: Duration = Duration::from_secs(20);

/// What Python must have for the service.
pub const INSTALL: &str = "apt-get install -y python3 python3-redis redis-server (or python3 -m pip install redis)";

/// A Python that has redis-py: the first one in PATH, else the distribution's own, which has what apt-get installs.
pub fn python() -> Option<&'static str> {
    let has_redis = |python: &&str| {
        let asked = Command::new(python).args(["-c", "import redis"]).output();
        asked.is_ok_and(|asked| asked.status.success())
    };
    ["python3", "/usr/bin/python3"].into_iter().find(has_redis)
}

/// Runs the plan against the service and a fresh Redis; `bug` is an option that the service has.
pub fn tell(python: &'static str, bug: bool) -> Report {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/stranger");
    let path = here.join("plan.toml");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let plan =
        words::parse::<Till>("sim/examples/stranger/plan.toml", &text).unwrap_or_else(|errors| panic!("{errors}"));
    let server = servers::redis::start();
    let command = move |boot: &Boot| {
        let listen = boot.listen.expect("its role has a port");
        let redis = boot.links["redis"];
        let mut command = Command::new(python);
        command.arg(here.join("service.py")).stderr(std::process::Stdio::null());
        command.env("HOST", listen.ip().to_string()).env("PORT", listen.port().to_string());
        command.env("REDIS_HOST", redis.ip().to_string()).env("REDIS_PORT", redis.port().to_string());
        if bug {
            command.env("TILL_BUG", "1");
        }
        command
    };
    let servers = [("redis", RealServer { addr: server.addr })].into();
    let wall_max = Duration::from_secs(200);
    run::<Till>("stranger", &plan, Options { servers, command: Box::new(command), trace: None, wall_max })
}

/// The system under test.
struct Till;

static ROLES: [Role; 1] = [Role {
    name: "till",
    services: &["redis"],
    port: Some(7000),
    count: 1,
    grace: Duration::from_secs(5),
    restart_delay: Duration::from_secs(1),
    contained: None,
}];

impl Product for Till {
    type Event = Did;
    type Workload = Customers;

    fn roles() -> &'static [Role] {
        &ROLES
    }

    fn settings() -> &'static [Setting] {
        &[]
    }

    fn service_words() -> &'static [&'static ServiceWords] {
        static WORDS: &[&ServiceWords] = &[&faults::WORDS];
        WORDS
    }

    fn services(_: &Plan<Customers>, _: Seed) -> Vec<Arc<dyn StandIn>> {
        vec![Arc::new(Redis::new())]
    }

    fn boot(_: Boot) -> BoxFuture<'static, i32> {
        panic!("a service in Python runs outside of the simulation alone")
    }

    fn users(plan: &Plan<Customers>, _: Seed) -> Vec<User<Did>> {
        let user = |customer: &Customer| {
            let customer = customer.clone();
            User { name: customer.name.clone(), act: Box::new(move |seat| Box::pin(shop(customer, seat))) }
        };
        plan.users.0.iter().map(user).collect()
    }

    fn reader(_: &Plan<Customers>) -> Box<dyn Reader<Did>> {
        Box::new(Ledger)
    }

    fn invariants(_: &Plan<Customers>) -> Vec<Box<dyn Invariant<Did>>> {
        vec![Box::new(CountedOnce::default())]
    }

    fn command() -> &'static str {
        "cargo run -p lychgate-sim --example stranger --"
    }

    fn crates() -> &'static [&'static str] {
        &[]
    }

    fn settle_max(_: &Plan<Customers>) -> Duration {
        CAUGHT_UP * 2
    }

    fn scenarios() -> Vec<Scenario<Customers>> {
        Vec::new()
    }
}

/// `[[users]]` of a plan.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
struct Customers(Vec<Customer>);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Customer {
    name: String,
    orders: u32,
    #[serde(default, with = "lychgate_sim::plan::duration")]
    at: Duration,
    #[serde(default, with = "lychgate_sim::plan::duration")]
    every: Duration,
}

impl Workload for Customers {
    fn sessions(&self) -> Vec<String> {
        let orders = |customer: &Customer| {
            let name = customer.name.clone();
            (1..=customer.orders).map(move |number| format!("{name}/{number}"))
        };
        self.0.iter().flat_map(orders).collect()
    }

    fn users(&self) -> Vec<String> {
        self.0.iter().map(|customer| customer.name.clone()).collect()
    }

    fn smaller(&self) -> Vec<Self> {
        Vec::new()
    }
}

async fn shop(customer: Customer, seat: UserContext<Did>) {
    sleep(customer.at).await;
    let Some(till) = seat.links.values().next().copied() else { return };
    for number in 1..=customer.orders {
        let order = format!("{}/{number}", customer.name);
        (seat.tell)(Did::Ordered { order: order.clone() });
        while !matches!(timeout(PATIENCE, place(till, &order)).await, Ok(Ok(true))) {
            sleep(Duration::from_millis(300)).await;
        }
        (seat.tell)(Did::Accepted { order });
        sleep(customer.every).await;
    }
}

async fn place(till: SocketAddr, order: &str) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect(till).await?;
    stream.write_all(format!("POST /{order} HTTP/1.0\r\ncontent-length: 0\r\n\r\n").as_bytes()).await?;
    let mut said = Vec::new();
    stream.read_to_end(&mut said).await?;
    Ok(String::from_utf8_lossy(&said).contains(" 204 "))
}

/// What happened. `order` is a label of the plan, as `ann/1`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Did {
    /// A customer asks for it.
    Ordered { order: String },
    /// The tally went up to `total` for it.
    Counted { order: String, total: u64 },
    /// The tally stayed as it was.
    CountedBefore { order: String },
    /// The customer knows.
    Accepted { order: String },
}

impl ProductEvent for Did {
    const NAMES: &'static [&'static str] = &["ordered", "counted", "counted_before", "accepted"];

    fn name(&self) -> &'static str {
        match self {
            Did::Ordered { .. } => "ordered",
            Did::Counted { .. } => "counted",
            Did::CountedBefore { .. } => "counted_before",
            Did::Accepted { .. } => "accepted",
        }
    }

    fn session(&self) -> Option<&str> {
        let (Did::Ordered { order }
        | Did::Counted { order, .. }
        | Did::CountedBefore { order }
        | Did::Accepted { order }) = self;
        Some(order)
    }

    fn story(&self) -> Option<String> {
        match self {
            Did::Counted { order, total } => Some(format!("{order} is counted: {total}")),
            Did::CountedBefore { order } => Some(format!("{order} has been counted before")),
            _ => None,
        }
    }
}

/// Reads Redis's wire: a script whose last word is an order.
struct Ledger;

impl Reader<Did> for Ledger {
    fn read(&mut self, observation: &Observation, _: &Origin) -> Vec<Did> {
        let Some(command) = observation.of::<observation::Command>() else { return Vec::new() };
        if !command.words.first().is_some_and(|word| word.eq_ignore_ascii_case(b"EVAL")) {
            return Vec::new();
        }
        let order = command.words.last().map(|word| String::from_utf8_lossy(word).into_owned()).unwrap_or_default();
        let reply = String::from_utf8_lossy(&command.reply);
        let total = reply.trim_end().strip_prefix(':').and_then(|total| total.parse().ok());
        match total {
            None => Vec::new(),
            Some(0) => vec![Did::CountedBefore { order }],
            Some(total) => vec![Did::Counted { order, total }],
        }
    }

    fn mentioned(&self, request: &[u8]) -> Option<String> {
        let request = String::from_utf8_lossy(request);
        let at = request.find("ann/")?;
        Some(request[at..].chars().take_while(|letter| letter.is_alphanumeric() || *letter == '/').collect())
    }

    fn served_by(&self, process: &str) -> Option<String> {
        // Somebody orders all the time: whatever befalls the till, an order feels it.
        Some(format!("an order at {process}"))
    }
}

/// Each order counts once: never twice, and none is forgotten.
#[derive(Default)]
struct CountedOnce {
    /// By order, when it was asked for.
    open: BTreeMap<String, Duration>,
    orders: u64,
    healed: Option<Duration>,
    tempted: bool,
}

impl Invariant<Did> for CountedOnce {
    fn name(&self) -> &'static str {
        "counted_once"
    }

    fn says(&self) -> &'static str {
        "the tally is the number of orders: none counts twice, none is forgotten"
    }

    fn observe(&mut self, event: &Event<Did>) -> Result<(), Breach> {
        match &event.what {
            What::World(WorldEvent::Phase { name: "heal" }) => self.healed = Some(event.at),
            What::World(WorldEvent::Killed | WorldEvent::FaultStruck { .. }) => self.tempted = true,
            What::Product(Did::Ordered { order }) => {
                self.orders += 1;
                self.open.insert(order.clone(), event.at);
            }
            What::Product(Did::Counted { order, total }) => {
                self.open.remove(order);
                if *total > self.orders {
                    return Err(Breach::now(format!("the tally says {total} after {} orders", self.orders)));
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn pending(&self) -> Vec<Obligation> {
        let obligation = |(order, since): (&String, &Duration)| {
            let due = self.healed.map_or(Duration::MAX, |healed| healed.max(*since) + CAUGHT_UP);
            Obligation::new(format!("{order} is counted"), *since, due)
        };
        self.open.iter().map(obligation).collect()
    }

    fn armed(&self) -> bool {
        self.tempted
    }
}
