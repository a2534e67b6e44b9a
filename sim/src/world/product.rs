//! What the world needs of a product: how its processes boot, who uses it, how to read what it did, what it promises.
//! The world knows no product; whoever binds the two implements [`Product`].

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::mpsc;

use crate::plan::seed::Seed;
pub use crate::plan::{Contained, Role, Workload};
use crate::plan::{Kind, Plan, ServiceWords};
use crate::standins::engine::Engine;
use crate::standins::listener::Listener;
use crate::standins::observation::{Observation, Tap};
use crate::trace::event::{Event, ProductEvent};
use crate::trace::invariant::Invariant;

/// A system under test.
pub trait Product: Sized + 'static {
    /// Its events.
    type Event: ProductEvent;
    /// What its users do, as a plan says it under `users`.
    type Workload: Workload;

    /// The kinds of process it has, in the order in which they boot.
    fn roles() -> &'static [Role];

    /// The environment settings that a plan's `[config.*]` may override, for validation.
    fn settings() -> &'static [&'static str];

    /// The stand-ins that it talks to, fresh for one run.
    fn services(plan: &Plan<Self::Workload>, seed: Seed) -> Vec<Service>;

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

/// A stand-in on a node of its own.
pub struct Service {
    /// As in `executor-1->redis`.
    pub name: &'static str,
    /// Where it listens.
    pub port: u16,
    /// One life of it. State that outlives a restart is shared by the calls.
    pub serve: Arc<dyn Fn(Listener, Tap) -> BoxFuture<'static, ()> + Send + Sync>,
    /// How faults inside of it reach it; `None` if it has none.
    pub control: Option<Arc<dyn Fn(Control) + Send + Sync>>,
    /// Itself, if it is a container engine: the world says what runs its containers.
    pub engine: Option<Engine>,
}

/// What a service is told to do: to all, or to the caller who authenticates with a name.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the variants say what the fields are
pub enum Control {
    /// From now on it has this fault.
    Begin(Kind),
    /// It has no fault of this kind any more.
    End(Kind),
    /// From now on this caller has this fault of it. It takes the place of one of the same kind.
    BeginFor { caller: String, fault: Kind },
    /// This caller has no fault of this kind any more.
    EndFor { caller: String, fault: Kind },
}

impl Control {
    /// Whether the fault begins.
    pub fn begins(&self) -> bool {
        matches!(self, Control::Begin(_) | Control::BeginFor { .. })
    }

    /// The fault.
    pub fn fault(&self) -> &Kind {
        match self {
            Control::Begin(fault) | Control::End(fault) => fault,
            Control::BeginFor { fault, .. } | Control::EndFor { fault, .. } => fault,
        }
    }
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
    /// container: its environment, under what `[config.all]`, `[config.ROLE]`, `[config.AGENT]` and `[config.BERTH]` set.
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

/// Who stood at the other end of an observation.
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
    /// Those in which the work with this label is, or whoever a fault on `target` strikes. The target of what changes how
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
