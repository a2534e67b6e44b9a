//! A process has many lives, one incarnation after another, and a service manager that ends and begins them.
//! Its one law: the dead say nothing more. What an incarnation had flushed when it died still arrives; what its
//! destructors write, send or log does not.
//!
//! madsim runs destructors on a kill, so death takes these steps: it stands still (not one more poll) → what it had
//! flushed reaches the relays → the relays stop reading → it is dropped → a moment → the next life. A chunk takes at
//! least 1 ms to be read, so of a burst of more than ten on one connection the last ones are lost with it.
//!
//! With a lost host nothing of that arrives: its relays fall silent at once, and close what it left half-open only
//! [`crate::link::HALF_OPEN`] after its next boot.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use madsim::runtime::Handle;
use madsim::task::NodeId;
use tokio::sync::{mpsc, oneshot};

use crate::event::Occurrence;
use crate::hub::Hub;
use crate::link::Link;
use crate::plan::Plan;
use crate::product::{Boot, Product, Role};
use crate::seed::Seed;

/// The world's network takes less than 10 ms for a chunk: by then what was flushed before a death has arrived.
const LAST_WORDS: Duration = Duration::from_millis(11);
/// The least time from a death to the next boot: futures of the dead are dropped and relays have closed by then.
const BURIAL: Duration = Duration::from_millis(20);

/// What the service manager is told. Each order is for one incarnation and void for the next.
enum Order {
    Terminate(u32),
    Kill(u32),
}

/// The world's end of a process's service manager.
pub(crate) struct Keeper {
    body: Arc<Body>,
    orders: mpsc::UnboundedSender<Order>,
}

/// What a process consists of, apart from its lives.
struct Body {
    node: NodeId,
    /// Links on which it is the near end.
    near: Vec<Arc<Link>>,
    /// Links on which it is the far end.
    far: Vec<Arc<Link>>,
}

/// Everything that a life of one process needs.
pub(crate) struct Birth {
    pub(crate) role: &'static Role,
    pub(crate) process: String,
    pub(crate) node: NodeId,
    pub(crate) near: Vec<Arc<Link>>,
    pub(crate) far: Vec<Arc<Link>>,
    pub(crate) links: BTreeMap<&'static str, SocketAddr>,
    pub(crate) listen: Option<SocketAddr>,
    pub(crate) config: BTreeMap<String, String>,
    /// Time from SIGTERM to SIGKILL.
    pub(crate) grace: Duration,
    /// Time from an exit to the next boot.
    pub(crate) restart_delay: Duration,
    pub(crate) seed: Seed,
}

impl Keeper {
    /// SIGTERM.
    pub(crate) fn terminate(&self, incarnation: u32) {
        // It fails only when the world is being taken down.
        let _ = self.orders.send(Order::Terminate(incarnation));
    }

    /// SIGKILL: from this call on the process makes no step.
    pub(crate) fn kill(&self, incarnation: u32) {
        self.body.stop();
        let _ = self.orders.send(Order::Kill(incarnation));
    }

    /// Its host is lost: from this call on it makes no step, and nothing of what it had opened says anything more.
    pub(crate) fn lose(&self, incarnation: u32) {
        self.kill(incarnation);
        self.body.near.iter().for_each(|link| link.lose_near());
        self.body.far.iter().for_each(|link| link.lose_far());
    }

    /// What its first `losses` lost hosts left half-open is closed.
    pub(crate) fn expire(&self, losses: u32) {
        self.body.near.iter().for_each(|link| link.expire_near(losses));
        self.body.far.iter().for_each(|link| link.expire_far(losses));
    }

    /// SIGSTOP.
    pub(crate) fn pause(&self) {
        Handle::current().pause(self.body.node);
    }

    /// SIGCONT. Not for the dead: they would make a step.
    pub(crate) fn resume(&self) {
        Handle::current().resume(self.body.node);
    }
}

impl Body {
    fn stop(&self) {
        Handle::current().pause(self.node);
        self.near.iter().for_each(|link| link.near_down());
    }

    async fn bury(&self) {
        self.stop();
        tokio::time::sleep(LAST_WORDS).await;
        self.near.iter().for_each(|link| link.cut_near());
        self.far.iter().for_each(|link| link.cut_far());
        let world = Handle::current();
        world.resume(self.node); // a paused node would be dropped right here, inside this task
        world.kill(self.node);
    }
}

/// The settings of one process: for all, for its role, for itself, the narrowest winning.
pub(crate) fn settings<W>(plan: &Plan<W>, role: &str, process: &str) -> BTreeMap<String, String> {
    let mut settings = BTreeMap::new();
    for scope in ["all", role, process] {
        settings.extend(plan.config.get(scope).into_iter().flatten().map(|(key, value)| (key.clone(), value.clone())));
    }
    settings
}

/// Starts the service manager of a process; the future keeps it alive for ever.
pub(crate) fn keep<P: Product>(
    hub: Arc<Hub<P::Occurrence>>,
    birth: Birth,
) -> (Keeper, impl Future<Output = ()> + Send + 'static) {
    let (orders, inbox) = mpsc::unbounded_channel();
    let body = Arc::new(Body { node: birth.node, near: birth.near.clone(), far: birth.far.clone() });
    (Keeper { body: body.clone(), orders }, manage::<P>(hub, birth, body, inbox))
}

async fn manage<P: Product>(
    hub: Arc<Hub<P::Occurrence>>,
    birth: Birth,
    body: Arc<Body>,
    mut inbox: mpsc::UnboundedReceiver<Order>,
) {
    for incarnation in 1.. {
        if incarnation > 1 {
            Handle::current().restart(birth.node);
        }
        let (signals, exit) = bear::<P>(&hub, &birth, incarnation);
        live(&hub, &birth, incarnation, &mut inbox, signals, exit).await;
        body.bury().await;
        tokio::time::sleep(birth.restart_delay.max(BURIAL)).await;
    }
}

/// Begins a life.
fn bear<P: Product>(
    hub: &Arc<Hub<P::Occurrence>>,
    birth: &Birth,
    incarnation: u32,
) -> (mpsc::UnboundedSender<()>, oneshot::Receiver<i32>) {
    let (signals, received) = mpsc::unbounded_channel();
    let (ended, exit) = oneshot::channel();
    let boot = Boot {
        role: birth.role.name,
        process: birth.process.clone(),
        incarnation,
        links: birth.links.clone(),
        listen: birth.listen,
        config: birth.config.clone(),
        entropy: birth.seed.key(&format!("mint/{}/{incarnation}", birth.process)),
        signals: received,
    };
    birth.near.iter().for_each(|link| link.near_up(incarnation));
    birth.far.iter().for_each(|link| link.far_up());
    hub.act(|watch| watch.booted(&birth.process, incarnation));
    let node = Handle::current().get_node(birth.node).expect("nodes are never removed");
    node.spawn(async move {
        let code = P::boot(boot).await;
        let _ = ended.send(code); // nobody listens to one that is being killed
    });
    (signals, exit)
}

/// Waits for the end of a life, and brings it about if it is told to.
async fn live<O: Occurrence>(
    hub: &Arc<Hub<O>>,
    birth: &Birth,
    incarnation: u32,
    inbox: &mut mpsc::UnboundedReceiver<Order>,
    signals: mpsc::UnboundedSender<()>,
    mut exit: oneshot::Receiver<i32>,
) {
    let grace = tokio::time::sleep(Duration::MAX / 4);
    tokio::pin!(grace);
    let mut dying = false;
    loop {
        tokio::select! {
            biased;
            order = inbox.recv() => match order {
                Some(Order::Kill(whom)) if whom == incarnation => return,
                Some(Order::Terminate(whom)) if whom == incarnation => {
                    let _ = signals.send(()); // a process may have dropped its receiver: it ignores SIGTERM
                    if !std::mem::replace(&mut dying, true) {
                        grace.set(tokio::time::sleep(birth.grace));
                    }
                }
                Some(_) => {}
                None => return,
            },
            Ok(code) = &mut exit => return hub.act(|watch| watch.exited(&birth.process, code)),
            () = &mut grace, if dying => return hub.act(|watch| watch.kill(&birth.process)),
        }
    }
}
