//! Berths: the nodes on which containers are processes of the world. A container engine boots them, nobody else does.
//! Its one law: a container gets the lowest slot of its agent that no living process lies in, and gets it only once
//! the process that lay there before is reaped.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::{BoxFuture, FutureExt};
use tokio::sync::Mutex as Turn;
use tokio::sync::oneshot;

use crate::link::Link;
use crate::standins::container::{FIRST_PUBLISHED, KILLED, Runner, Running, Spec};
use crate::trace::event::ProductEvent;
use crate::world::dispatcher::Dispatcher;
use crate::world::nodes::NodeHandle;
use crate::world::process::{Ended, Supervised};

/// The ports of the host at which a slot is reached, one in each life, in turn: an engine gives a container that is started
/// again another port.
pub(crate) const PORTS: usize = 2;

/// The port in that turn of the slot with this index, over all agents and from 0.
pub(crate) fn published(index: usize, turn: usize) -> u16 {
    let port = u16::try_from(index * PORTS + turn % PORTS).ok().and_then(|port| FIRST_PUBLISHED.checked_add(port));
    port.expect("a world has few slots")
}

/// A slot.
struct ContainerSlot {
    agent: String,
    process: String,
    inside: SocketAddr,
    index: usize,
    /// The links that lead to it.
    far: Vec<Arc<Link>>,
    /// A container's process lives in it.
    taken: Mutex<bool>,
    /// Held from a boot to the burial.
    supervised: Arc<Turn<Supervised>>,
}

/// Runs containers in these slots; their lives are kept by tasks on `control_node`.
pub(crate) fn runner<O: ProductEvent>(
    dispatcher: &Arc<Dispatcher<O>>,
    control_node: &NodeHandle,
    label: &'static str,
    slots: Vec<(String, Supervised, Vec<Arc<Link>>)>,
) -> Runner {
    let slot = |(index, (agent, supervised, far)): (usize, (String, Supervised, Vec<Arc<Link>>))| {
        let process = supervised.process().to_owned();
        let inside = supervised.listen().expect("the role of a container has a port");
        let (taken, supervised) = (Mutex::new(false), Arc::new(Turn::new(supervised)));
        Arc::new(ContainerSlot { agent, process, inside, index, far, taken, supervised })
    };
    let slots: Vec<_> = slots.into_iter().enumerate().map(slot).collect();
    let (dispatcher, control_node) = (dispatcher.clone(), control_node.clone());
    Runner(Box::new(move |spec| -> BoxFuture<'static, Result<Running, String>> {
        let slot = take(&slots, label, &spec);
        let (dispatcher, control_node) = (dispatcher.clone(), control_node.clone());
        Box::pin(async move { Ok(boot(dispatcher, &control_node, slot?, spec.env).await) })
    }))
}

/// Takes the lowest free slot, at once: two containers that start together get two.
fn take(slots: &[Arc<ContainerSlot>], label: &str, spec: &Spec) -> Result<Arc<ContainerSlot>, String> {
    let agent = spec.labels.get(label).unwrap_or_else(|| panic!("container {} has no label {label}", spec.name));
    let own: Vec<_> = slots.iter().filter(|slot| slot.agent == *agent).collect();
    let last = own.last().unwrap_or_else(|| panic!("container {} is of {agent}, which [topology] has not", spec.name));
    let free = own.iter().find(|slot| !std::mem::replace(&mut *slot.taken(), true));
    free.map(|slot| Arc::clone(slot)).ok_or_else(|| {
        format!(
            "driver failed programming external connectivity on endpoint {}: Bind for 0.0.0.0:{} failed: port is \
             already allocated",
            spec.name,
            published(last.index, 0)
        )
    })
}

async fn boot<O: ProductEvent>(
    dispatcher: Arc<Dispatcher<O>>,
    control_node: &NodeHandle,
    slot: Arc<ContainerSlot>,
    env: BTreeMap<String, String>,
) -> Running {
    let mut supervised = slot.supervised.clone().lock_owned().await;
    let life = supervised.bear(&dispatcher, env);
    let incarnation = life.incarnation;
    let (died, death) = oneshot::channel();
    // The world keeps each life to its end; it drops one only when it ends itself.
    let exit = async move { death.await.unwrap_or(KILLED) }.boxed().shared();
    let order = |kill: bool| -> Arc<dyn Fn() + Send + Sync> {
        let (dispatcher, process) = (dispatcher.clone(), slot.process.clone());
        Arc::new(move || {
            dispatcher.act(|monitor| match monitor.life(&process).incarnation == incarnation {
                true if kill => monitor.kill(&process),
                true => monitor.terminate(&process),
                false => {}
            });
        })
    };
    let (terminate, kill) = (order(false), order(true));
    let published = published(slot.index, incarnation as usize);
    slot.far.iter().for_each(|link| link.reached_at(published));
    let (process, inside) = (slot.process.clone(), slot.inside);
    let running = Running { process, published, inside, exit, terminate, kill };
    control_node.spawn(async move {
        // Nobody but the engine's clients ends a container: no grace.
        let code = match supervised.live(&dispatcher, life, None).await {
            Ended::Exited(code) => code,
            Ended::Killed => KILLED,
        };
        *slot.taken() = false;
        let _ = died.send(code); // an engine that has forgotten the container asks no more
        supervised.reap().await;
    });
    running
}

impl ContainerSlot {
    fn taken(&self) -> MutexGuard<'_, bool> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
