//! What the world needs of a product: how its processes boot, who uses it, how to read what it did, what it promises.
//! The world knows no product; the crate that binds the two implements [`Product`].

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::mpsc;

use crate::plan::seed::Seed;
pub use crate::plan::{Contained, Role, Workload};
use crate::plan::{Plan, ServiceWords, Setting, vocabulary};
use crate::standins::StandIn;
use crate::standins::observation::Observation;
use crate::trace::event::{Event, ProductEvent};
use crate::trace::invariant::Invariant;

/// A system under test.
pub trait Product: Sized + 'static {
    /// The events.
    type Event: ProductEvent;
    /// What its users do, as a plan says it under `users`.
    type Workload: Workload;

    /// The kinds of process it has, in the order in which they boot.
    fn roles() -> &'static [Role];

    /// The environment settings that a plan's `[config.*]` may override.
    fn settings() -> &'static [Setting];

    /// The stand-ins that it talks to, fresh for one run.
    fn services(plan: &Plan<Self::Workload>, seed: Seed) -> Vec<Arc<dyn StandIn>>;

    /// What plans may say of the services: a fault inside of one, or of its callers, is one that stands here.
    fn service_words() -> &'static [&'static ServiceWords] {
        &[]
    }

    /// One life of one process. Its output is the exit code.
    fn boot(boot: Boot) -> BoxFuture<'static, i32>;

    /// The users, each with what it does from the beginning to its end.
    fn users(plan: &Plan<Self::Workload>, seed: Seed) -> Vec<User<Self::Event>>;

    /// Makes events of observations.
    fn reader(plan: &Plan<Self::Workload>) -> Box<dyn Reader<Self::Event>>;

    /// What must hold in every run of this plan.
    fn invariants(plan: &Plan<Self::Workload>) -> Vec<Box<dyn Invariant<Self::Event>>>;

    /// The moments in which a fault matters most. A sweep tells how often each kind was felt in each.
    fn moments() -> Box<dyn Moments<Self::Event>> {
        Box::new(())
    }

    /// The longest that a link may rightly keep a request without a byte of answer, by service, and how long
    /// everything that must happen after healing may take together.
    fn settle_max(plan: &Plan<Self::Workload>) -> Duration;

    /// The scenarios: files by name and text, and those that draw their plan from the seed.
    fn scenarios() -> Vec<Scenario<Self::Workload>>;

    /// What people type before a command of its command line: lines to paste begin with it.
    fn command() -> &'static str;

    /// The crates whose `tracing` events are statements of the product's. Libraries and the world itself log, too.
    fn crates() -> &'static [&'static str];
}

/// How a life of a process runs. Its output is the exit code.
pub(crate) type BootFn = Arc<dyn Fn(Boot) -> BoxFuture<'static, i32> + Send + Sync>;

/// A system under test as values, for one run: what lives in the world, and who judges it.
pub(crate) struct System<O> {
    pub(crate) actors: Actors<O>,
    pub(crate) judges: Judges<O>,
}

/// What lives in the world of one run.
pub(crate) struct Actors<O> {
    pub(crate) roles: &'static [Role],
    /// Whose `tracing` events are the product's statements.
    pub(crate) crates: &'static [&'static str],
    pub(crate) standins: Vec<Arc<dyn StandIn>>,
    pub(crate) boot: BootFn,
    pub(crate) users: Vec<User<O>>,
    pub(crate) settle_max: Duration,
}

/// The judges of one run.
pub(crate) struct Judges<O> {
    pub(crate) reader: Box<dyn Reader<O>>,
    pub(crate) invariants: Vec<Box<dyn Invariant<O>>>,
    pub(crate) moments: Box<dyn Moments<O>>,
}

impl<O: ProductEvent> System<O> {
    /// A product as values.
    pub(crate) fn of<P: Product<Event = O>>(plan: &Plan<P::Workload>, seed: Seed) -> System<O> {
        let actors = Actors {
            roles: P::roles(),
            crates: P::crates(),
            standins: P::services(plan, seed),
            boot: Arc::new(P::boot),
            users: P::users(plan, seed),
            settle_max: P::settle_max(plan),
        };
        let judges = Judges { reader: P::reader(plan), invariants: P::invariants(plan), moments: P::moments() };
        System { actors, judges }
    }
}

impl<O> Actors<O> {
    /// Every link of this topology.
    pub(crate) fn links(&self, topology: &BTreeMap<String, usize>) -> Vec<String> {
        let users: Vec<String> = self.users.iter().map(|user| user.name.clone()).collect();
        vocabulary::links(self.roles, topology, &users)
    }
}

/// A scenario by name.
pub struct Scenario<W> {
    /// As typed on the command line.
    pub name: String,
    /// Where its plan comes from.
    pub source: Source<W>,
}

/// Where a scenario's plan comes from.
#[allow(missing_docs)] // the variants say what the fields are
pub enum Source<W> {
    /// A file: its path for messages, its text.
    File { path: String, text: String },
    /// Drawn from the seed.
    Drawn { about: &'static str, draw: fn(Seed) -> Plan<W> },
}

/// What one incarnation is born with.
pub struct Boot {
    /// `executor`.
    pub role: &'static str,
    /// `executor-1`.
    pub process: String,
    /// From 1.
    pub incarnation: u32,
    /// Where it reaches each of its services: the near end of the link.
    pub links: BTreeMap<&'static str, SocketAddr>,
    /// Where it listens, if its role has a port.
    pub listen: Option<SocketAddr>,
    /// Overrides from the plan's `[config.all]`, `[config.ROLE]` and `[config.PROCESS]`, the narrowest winning. Of a
    /// container: its environment, under what `[config.ROLE]`, `[config.AGENT]` and `[config.SLOT]` set.
    pub config: BTreeMap<String, String>,
    /// Seeds everything that it mints.
    pub entropy: [u8; 32],
    /// SIGTERMs as they come.
    pub signals: mpsc::UnboundedReceiver<()>,
}

/// A user: an actor outside the system, on a node of its own.
pub struct User<O> {
    /// `ann`; its links are `ann->gateway-1`, ….
    pub name: String,
    /// Everything it does. The run settles only after every user has ended.
    pub act: Box<dyn FnOnce(UserContext<O>) -> BoxFuture<'static, ()> + Send>,
}

/// Where a user sits.
pub struct UserContext<O> {
    /// The near end of the link to each process that serves users, by process name.
    pub links: BTreeMap<String, SocketAddr>,
    /// Says what the user saw.
    pub tell: Arc<dyn Fn(O) + Send + Sync>,
}

/// The other end of an observation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// `executor-1`; empty if the connection is not of a link.
    pub process: String,
    /// From 1; 0 where there is none.
    pub incarnation: u32,
}

/// Knows the moments in which a fault matters most: a drain, a terminal write. Fed every event in order.
pub trait Moments<O>: Send {
    /// All of them.
    fn names(&self) -> &'static [&'static str];
    /// Learns of `event`.
    fn observe(&mut self, event: &Event<O>);
    /// The moments in which the work with this label is, or the process that a fault on `target` strikes. The target of what changes how
    /// many processes of a service there are is that service, as `executor`.
    fn during(&self, target: &str, label: &str) -> Vec<&'static str>;
}

/// None.
impl<O> Moments<O> for () {
    fn names(&self) -> &'static [&'static str] {
        &[]
    }

    fn observe(&mut self, _: &Event<O>) {}

    fn during(&self, _: &str, _: &str) -> Vec<&'static str> {
        Vec::new()
    }
}

/// Turns observations into events, and knows which work is live.
pub trait Reader<O>: Send {
    /// The events that `observation` stands for, in order.
    fn read(&mut self, observation: &Observation, origin: &Origin) -> Vec<O>;
    /// What of the last observation made no sense, if anything: the run stops with it as an error of the harness.
    fn misread(&mut self) -> Option<String> {
        None
    }
    /// The label of a run that is not over, which these bytes of a request mention.
    fn mentioned(&self, request: &[u8]) -> Option<String>;
    /// The label of a run that has been claimed by this process and is not over.
    fn served_by(&self, process: &str) -> Option<String>;
}
