//! The world of one run: a node for each stand-in, process, user and link, and the phases that they live through.
//! Its one law: the world follows from the topology, never from the faults, so that dropping a fault changes nothing else.
//!
//! **Chaos** lasts until no fault has a timer running and all users have ended; for [`PATIENCE`] longer (counted from the
//! last strike, too) if a fault is still to come or stands without a timer. It also ends when no event of the product has
//! happened for [`STANDSTILL`], and `settle_max` after the last timer of a fault, so that users who wait for an answer
//! that only healing allows do not wait in vain. A fault that lasts until everything heals ends then. **Heal**: every fault that stands ends, and none begins any more; the
//! service manager brings up what is down. **Settle**: until users have ended, processes are up and nothing must happen
//! any more, at least [`SETTLE_MIN`] if anything had to at its beginning, at most `settle_max`.

pub(crate) mod backend;
pub(crate) mod container;
pub(crate) mod dispatcher;
pub(crate) mod monitor;
pub mod nemesis;
pub(crate) mod nodes;
pub(crate) mod process;
pub mod process_faults;
pub mod product;
pub(crate) mod report;
#[cfg(not(madsim))]
pub(crate) mod taps;
#[cfg(test)]
pub(crate) mod test_product;
pub mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc};

use crate::link::{Link, Target, relay};
use crate::plan::seed::Seed;
use crate::plan::{Plan, ServiceManager};
use crate::standins::listener::MemoryListener;
#[cfg(madsim)]
use crate::standins::observation::Log;
use crate::standins::{Control, StandIn};
use crate::trace::event::{ProductEvent, WorldEvent};
#[cfg(madsim)]
use crate::trace::log::{Line, LogCapture};
use crate::world::dispatcher::{Dispatcher, DispatcherObserver, Handles};
use crate::world::nodes::{NodeAllocator, NodeHandle, NodeId};
use crate::world::process::{ProcessHandle, ProcessSpec, keep, man, settings};
use crate::world::product::{Actors, BootFn, Contained, Role, UserContext};

/// For how long faults that are still to come are waited for once the users have ended, and for how long one without an
/// end of its own stands then.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// After so long without an event of the product nothing will happen unless something heals.
pub const STANDSTILL: Duration = Duration::from_secs(300);
/// Settling takes at least this long if something had to happen: what goes wrong a minute later still counts. Where a
/// minute is one, ten seconds must do.
pub const SETTLE_MIN: Duration = Duration::from_secs(if cfg!(not(madsim)) { 10 } else { 70 });
/// How often the world looks at itself.
const TICK: Duration = Duration::from_secs(1);
/// How long a stand-in that has returned is out of service.
const SERVICE_PAUSE: Duration = Duration::from_millis(10);

/// A link's near end, as the process or user that owns it is told.
struct LinkEndpoint {
    link: Arc<Link>,
    near: SocketAddr,
}

struct Builder<O> {
    ground: NodeAllocator,
    dispatcher: Arc<Dispatcher<O>>,
    boot: BootFn,
    links: BTreeMap<String, Arc<Link>>,
    /// By service.
    services: BTreeMap<&'static str, (Site, u16)>,
    container_roles: Vec<Fleet>,
    /// By service: ends its life.
    restarts: BTreeMap<&'static str, Arc<Notify>>,
}

/// Where a service is.
#[derive(Clone)]
enum Site {
    /// A stand-in's.
    MemoryListener(MemoryListener),
    /// A real server's.
    #[cfg(not(madsim))]
    Server(SocketAddr),
}

impl Site {
    /// What the relay at this address carries to.
    fn seen_from(self, relay: IpAddr) -> Target {
        match self {
            Site::MemoryListener(listener) => Target::MemoryListener(listener, relay),
            #[cfg(not(madsim))]
            Site::Server(addr) => addr.into(),
        }
    }
}

/// The slots of a contained role.
struct Fleet {
    contained: &'static Contained,
    /// With the agent of each.
    slots: Vec<(String, ProcessSpec)>,
}

/// Lives through a whole run of these actors. Returns why it made no progress, if it did not.
pub(crate) async fn live<O: ProductEvent, W>(
    dispatcher: Arc<Dispatcher<O>>,
    actors: Actors<O>,
    plan: &Plan<W>,
    seed: Seed,
) -> Vec<String> {
    let settle_max = actors.settle_max;
    let mut users = build(&dispatcher, actors, plan, seed).await;
    if chaos(&dispatcher, &mut users, settle_max).await {
        return Vec::new();
    }
    dispatcher.act(|monitor| {
        monitor.happened("", 0, WorldEvent::Phase { name: "heal" });
        monitor.heal_all();
    });
    settle(&dispatcher, &mut users, settle_max).await
}

/// The users that have not ended.
struct Crowd {
    acting: BTreeSet<String>,
    left: tokio::sync::mpsc::UnboundedReceiver<String>,
}

impl Crowd {
    fn is_empty(&mut self) -> bool {
        while let Ok(user) = self.left.try_recv() {
            self.acting.remove(&user);
        }
        self.acting.is_empty()
    }
}

/// Tells a service what is done to it in the order in which it is done, and in a task of its own: the service may be in the
/// middle of the very step that brought it about.
fn orderly<O: ProductEvent>(
    control_node: &NodeHandle,
    dispatcher: &Arc<Dispatcher<O>>,
    standin: Arc<dyn StandIn>,
) -> mpsc::UnboundedSender<Control> {
    let (told, mut hears) = mpsc::unbounded_channel();
    let dispatcher = dispatcher.clone();
    control_node.spawn(async move {
        while let Some(control) = hears.recv().await {
            if let Err(why) = standin.control(control) {
                dispatcher.act(|monitor| monitor.fail(why));
            }
        }
    });
    told
}

async fn build<O: ProductEvent, W>(
    dispatcher: &Arc<Dispatcher<O>>,
    actors: Actors<O>,
    plan: &Plan<W>,
    seed: Seed,
) -> Crowd {
    let Actors { roles, crates, standins, boot, users, .. } = actors;
    let ground = NodeAllocator::new();
    let (services, container_roles) = (BTreeMap::new(), Vec::new());
    let (links, restarts) = (BTreeMap::new(), BTreeMap::new());
    let mut builder =
        Builder { ground, dispatcher: dispatcher.clone(), boot, links, services, container_roles, restarts };
    let (control_node, _) = builder.ground.node("world");
    let (mut services, mut controls) = (BTreeMap::new(), BTreeMap::new());
    for standin in standins {
        controls.insert(standin.name(), orderly(&control_node, dispatcher, standin.clone()));
        services.insert(standin.name(), standin.clone());
        builder.service(standin);
    }
    let count = |role: &Role| plan.topology.get(role.name).copied().unwrap_or(role.count);
    for role in roles {
        if let Some(contained) = &role.contained {
            builder.container_role(plan, role, contained, count(role), seed).await;
        }
    }
    let mut specs = Vec::new();
    let mut serving = BTreeMap::new();
    for role in roles.iter().filter(|role| role.contained.is_none()) {
        for (_, process) in role.processes(count(role)) {
            let spec = builder.process(plan, role, process.clone(), &process, seed).await;
            serving.extend(spec.listen.map(|listen| (spec.process.clone(), listen)));
            specs.push(spec);
        }
    }
    let mut seats = Vec::new();
    for user in users {
        let mut links = BTreeMap::new();
        for (process, listen) in &serving {
            let endpoint = builder.relayed(&user.name, process, listen.port(), |_| Target::Address(*listen)).await;
            if let Some(spec) = specs.iter_mut().find(|spec| spec.process == *process) {
                spec.far.push(endpoint.link);
            }
            links.insert(process.clone(), endpoint.near);
        }
        seats.push((user, links));
    }
    let contained =
        builder.container_roles.iter().flat_map(|container_role| &container_role.slots).map(|(_, spec)| spec);
    let nodes = specs.iter().chain(contained).map(|spec| (spec.node, spec.process.clone())).collect();
    let nodes: BTreeMap<NodeId, String> = nodes;
    dispatcher.act(|monitor| monitor.runs_on(nodes.keys().copied()));
    listen(dispatcher, crates, nodes);
    let mut service_managers = BTreeMap::new();
    for container_role in std::mem::take(&mut builder.container_roles) {
        container_role.attach(dispatcher, &control_node, &services, &mut service_managers);
    }
    let mut managers = Vec::new();
    for spec in specs {
        let process = spec.process.clone();
        dispatcher.act(|monitor| {
            monitor.expected(&process);
            if !spec.pre_stop.is_zero() {
                monitor.lingers(&process);
            }
        });
        let (service_manager, manager) = keep(dispatcher.clone(), spec);
        service_managers.insert(process, service_manager);
        managers.push(manager);
    }
    let restarts = builder.restarts;
    dispatcher.arm(Handles {
        links: builder.links,
        service_managers,
        controls,
        restarts,
        control_node: control_node.clone(),
    });
    dispatcher.act(|monitor| {
        monitor.happened("", 0, WorldEvent::Phase { name: "chaos" });
        monitor.open();
    });
    managers.into_iter().for_each(|manager| drop(control_node.spawn(manager)));
    let (leave, left) = tokio::sync::mpsc::unbounded_channel();
    let mut acting = BTreeSet::new();
    for (user, links) in seats {
        let (node, _) = builder.ground.node(&user.name);
        acting.insert(user.name.clone());
        let seat = UserContext { links, tell: dispatcher.ear(&user.name) };
        let (dispatcher, leave) = (dispatcher.clone(), leave.clone());
        node.spawn(async move {
            (user.act)(seat).await;
            let _ = leave.send(user.name); // the crowd outlives the run
            dispatcher.bell.notify_one();
        });
    }
    Crowd { acting, left }
}

impl Fleet {
    /// Handles the slots to their engine.
    fn attach<O: ProductEvent>(
        self,
        dispatcher: &Arc<Dispatcher<O>>,
        control_node: &NodeHandle,
        services: &BTreeMap<&'static str, Arc<dyn StandIn>>,
        service_managers: &mut BTreeMap<String, ProcessHandle>,
    ) {
        let Contained { engine, label, .. } = self.contained;
        let service = services.get(engine).unwrap_or_else(|| panic!("there is no service {engine}"));
        let mut slots = Vec::new();
        for (agent, spec) in self.slots {
            let (process, far) = (spec.process.clone(), spec.far.clone());
            dispatcher.act(|monitor| monitor.slot(&process));
            let (service_manager, supervised) = man(spec);
            service_managers.insert(process, service_manager);
            slots.push((agent, supervised, far));
        }
        let told = service.run_with(container::runner(dispatcher, control_node, label, slots));
        assert!(told.is_ok(), "service {engine} is no container engine");
    }
}

/// Of a process of the operating system its lines are heard.
#[cfg(not(madsim))]
fn listen<O: ProductEvent>(_: &Arc<Dispatcher<O>>, _: &[&str], _: BTreeMap<NodeId, String>) {}

/// Hears what processes log, on this thread, for the rest of its life.
#[cfg(madsim)]
fn listen<O: ProductEvent>(
    dispatcher: &Arc<Dispatcher<O>>,
    crates: &'static [&'static str],
    processes: BTreeMap<NodeId, String>,
) {
    let dispatcher = dispatcher.clone();
    let tell = move |process: &str, line: Line| {
        dispatcher.try_act(|monitor| {
            monitor.logged(process, |incarnation| {
                let Line { level, message, fields } = line;
                Log { process: process.to_owned(), incarnation, level, message, fields }.into()
            });
        });
    };
    // The run has a thread of its own; the guard would only take the journal away again.
    std::mem::forget(tracing::subscriber::set_default(LogCapture { crates, processes, tell }));
}

impl<O: ProductEvent> Builder<O> {
    fn service(&mut self, standin: Arc<dyn StandIn>) {
        let name = standin.name();
        #[cfg(not(madsim))]
        if let Some(server) = self.dispatcher.around.servers.get(name) {
            self.services.insert(name, (Site::Server(server.addr), server.addr.port()));
            self.dispatcher.around.tap(name, &*standin, server.addr);
            return;
        }
        let (node, _) = self.ground.node(name);
        let (tap, listener) = (self.dispatcher.tap(name), MemoryListener::default());
        self.services.insert(name, (Site::MemoryListener(listener.clone()), standin.port()));
        let restart = Arc::new(Notify::new());
        self.restarts.insert(name, restart.clone());
        let mut accepting = listener.open();
        node.spawn(async move {
            loop {
                tokio::select! {
                    biased;
                    () = restart.notified() => {}
                    () = standin.serve(accepting, tap.clone()) => {}
                }
                tokio::time::sleep(SERVICE_PAUSE).await;
                accepting = listener.open();
            }
        });
    }

    /// The slots of a role; they are made before the processes that call them.
    async fn container_role<W>(
        &mut self,
        plan: &Plan<W>,
        role: &'static Role,
        contained: &'static Contained,
        agents: usize,
        seed: Seed,
    ) {
        let mut slots = Vec::new();
        for (agent, process) in role.processes(agents) {
            let spec = self.process(plan, role, process, &agent, seed).await;
            slots.push((agent, spec));
        }
        self.container_roles.push(Fleet { contained, slots });
    }

    /// A process of a role that is one of `agent`'s: itself, unless it is a slot.
    async fn process<W>(
        &mut self,
        plan: &Plan<W>,
        role: &'static Role,
        process: String,
        agent: &str,
        seed: Seed,
    ) -> ProcessSpec {
        let (node, ip) = self.ground.node(&process);
        let (mut near, mut links) = (Vec::new(), BTreeMap::new());
        for service in role.services {
            if let Some(container_role) =
                self.container_roles.iter().position(|container_role| container_role.contained.reached_as == *service)
            {
                links.insert(*service, self.slot_addresses(&process, container_role, &mut near).await);
                continue;
            }
            let known = self.services.get(service);
            let (site, port) = known.cloned().unwrap_or_else(|| panic!("role {}: no service {service}", role.name));
            let endpoint = self.relayed(&process, service, port, |ip| site.seen_from(ip)).await;
            near.push(endpoint.link);
            links.insert(*service, endpoint.near);
        }
        let listen = role.port.map(|port| SocketAddr::new(ip, port));
        let manager = ServiceManager::of(&plan.service, role.name, &process);
        let grace = manager.grace.unwrap_or(role.grace);
        let restart_delay = manager.restart_delay.unwrap_or(role.restart_delay);
        let first_boot = manager.first_boot.unwrap_or_default();
        let (pre_stop, probe) = (manager.pre_stop.unwrap_or_default(), manager.probe);
        let restart_max = manager.restart_max.unwrap_or(restart_delay);
        let config = settings(plan, role, &[agent, &process]);
        let (node, far) = (node.id(), Vec::new());
        ProcessSpec {
            boot: self.boot.clone(),
            role,
            process,
            node,
            near,
            far,
            links,
            listen,
            config,
            grace,
            restart_delay,
            first_boot,
            pre_stop,
            probe,
            restart_max,
            seed,
        }
    }

    /// One address at which a process reaches every slot of a container_role, each at the ports that the engine publishes for it.
    async fn slot_addresses(&mut self, process: &str, container_role: usize, near: &mut Vec<Arc<Link>>) -> SocketAddr {
        let (node, ip) =
            self.ground.node(&format!("{process}->{}", self.container_roles[container_role].contained.reached_as));
        for (index, (_, slot)) in self.container_roles[container_role].slots.iter_mut().enumerate() {
            let link = Link::new(process, &slot.process);
            let target = slot.listen.expect("the role of a container has a port");
            for turn in 0..container::PORTS {
                let listener = bind(&node, ip, container::published(index, turn)).await;
                let observer = Arc::new(DispatcherObserver(self.dispatcher.clone()));
                node.spawn(relay(link.clone(), observer, listener, target));
            }
            self.links.insert(link.name.clone(), link.clone());
            slot.far.push(link.clone());
            near.push(link);
        }
        SocketAddr::new(ip, 0)
    }

    /// `target` learns the address of the relay.
    async fn relayed(
        &mut self,
        near: &str,
        far: &str,
        port: u16,
        target: impl FnOnce(IpAddr) -> Target,
    ) -> LinkEndpoint {
        let link = Link::new(near, far);
        let (node, ip) = self.ground.node(&link.name);
        let listener = bind(&node, ip, port).await;
        node.spawn(relay(link.clone(), Arc::new(DispatcherObserver(self.dispatcher.clone())), listener, target(ip)));
        self.links.insert(link.name.clone(), link.clone());
        LinkEndpoint { link, near: SocketAddr::new(ip, port) }
    }
}

async fn bind(node: &NodeHandle, ip: IpAddr, port: u16) -> TcpListener {
    let bound = node.spawn(async move { TcpListener::bind((ip, port)).await }).await;
    bound.expect("a node of the world is never cancelled").expect("a fresh node has every port free")
}

/// Returns whether the run was stopped.
async fn chaos<O: ProductEvent>(dispatcher: &Arc<Dispatcher<O>>, users: &mut Crowd, settle_max: Duration) -> bool {
    let (mut calm_since, mut ended_since) = (None, None);
    loop {
        let (calm, done, struck, heard) = dispatcher.look(|monitor| {
            let nemesis = &monitor.nemesis;
            (nemesis.calm(), nemesis.done(), nemesis.last_struck(), monitor.last_product())
        });
        let now = dispatcher.now();
        calm_since = calm.then(|| calm_since.unwrap_or(now));
        ended_since = users.is_empty().then(|| ended_since.unwrap_or(now));
        if let Some(calm) = calm_since {
            let patient =
                ended_since.is_some_and(|ended: Duration| done || now >= ended.max(calm).max(struck) + PATIENCE);
            if patient || now >= heard.max(calm) + STANDSTILL || now >= calm + settle_max {
                return false;
            }
        }
        if rest(dispatcher).await {
            return true;
        }
    }
}

/// Returns why there was no progress, if there was none.
async fn settle<O: ProductEvent>(
    dispatcher: &Arc<Dispatcher<O>>,
    users: &mut Crowd,
    settle_max: Duration,
) -> Vec<String> {
    let began = dispatcher.now();
    let most = settle_max.max(SETTLE_MIN);
    dispatcher.act(|monitor| monitor.happened("", 0, WorldEvent::Phase { name: "settle" }));
    let mut least = began;
    loop {
        let pending = dispatcher.act(|monitor| monitor.check_deadlines());
        let (down, stopped) = dispatcher.look(|monitor| {
            (monitor.down().into_iter().map(str::to_owned).collect::<Vec<_>>(), monitor.stop().is_some())
        });
        if stopped {
            return Vec::new();
        }
        let now = dispatcher.now();
        if now == began && !pending.is_empty() {
            least = began + SETTLE_MIN;
        }
        if users.is_empty() && pending.is_empty() && down.is_empty() && now >= least {
            dispatcher.act(|monitor| monitor.conclude());
            return Vec::new();
        }
        if now >= began + most {
            let mut because = vec![format!("{} s after healing it has not settled", most.as_secs())];
            because.extend(pending.iter().map(|obligation| {
                let (since, due) = (obligation.since.as_secs_f64(), obligation.due.as_secs_f64());
                format!("waits for: {} (since {since:.1} s, due {due:.1} s)", obligation.says)
            }));
            because.extend(users.acting.iter().map(|user| format!("user {user} has not ended")));
            because.extend(down.iter().map(|process| format!("{process} is down")));
            because.extend(dispatcher.look(|monitor| silence(monitor.silent())));
            return because;
        }
        if rest(dispatcher).await {
            return Vec::new();
        }
    }
}

fn silence(silent: &BTreeMap<(String, u32), Duration>) -> Vec<String> {
    let line = |((link, conn), since): (&(String, u32), &Duration)| {
        format!("{link} (connection {conn}) has had no answer since {:.1} s", since.as_secs_f64())
    };
    silent.iter().map(line).collect()
}

/// Waits for a tick, a deadline, a user's end or the run's. Returns whether the run was stopped.
async fn rest<O: ProductEvent>(dispatcher: &Arc<Dispatcher<O>>) -> bool {
    let due = dispatcher.look(|monitor| monitor.next_due());
    let wait = due.saturating_sub(dispatcher.now()).saturating_add(Duration::from_micros(1)).min(TICK);
    tokio::select! {
        biased;
        () = dispatcher.bell.notified() => {}
        () = tokio::time::sleep(wait) => {}
    }
    dispatcher.act(|monitor| {
        monitor.check_deadlines_again();
        monitor.stop().is_some()
    })
}
