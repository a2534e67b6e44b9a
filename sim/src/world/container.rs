//! Berths: the nodes on which containers are processes of the world. A container engine boots them, nobody else does.
//! Its one law: a container gets the lowest berth of its agent that no living process lies in, and gets it only once
//! whoever lay there before is buried.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::{BoxFuture, FutureExt};
use tokio::sync::Mutex as Turn;
use tokio::sync::oneshot;

use crate::standins::container::{FIRST_PUBLISHED, KILLED, Runner, Running, Spec};
use crate::trace::event::ProductEvent;
use crate::world::dispatcher::Dispatcher;
use crate::world::nodes::NodeHandle;
use crate::world::process::{Ended, Supervised};

/// The port of the host at which the berth with this index, over all agents and from 0, is reached.
pub(crate) fn published(index: usize) -> u16 {
    u16::try_from(index).ok().and_then(|index| FIRST_PUBLISHED.checked_add(index)).expect("a world has few berths")
}

/// A berth.
struct ContainerSlot {
    agent: String,
    process: String,
    inside: SocketAddr,
    published: u16,
    /// A container's process lives in it.
    taken: Mutex<bool>,
    /// Held from a boot to the burial.
    manned: Arc<Turn<Supervised>>,
}

/// Runs containers in these berths; their lives are kept by tasks on `stage`.
pub(crate) fn runner<O: ProductEvent>(
    dispatcher: &Arc<Dispatcher<O>>,
    stage: &NodeHandle,
    label: &'static str,
    berths: Vec<(String, Supervised)>,
) -> Runner {
    let berth = |(index, (agent, manned)): (usize, (String, Supervised))| {
        let process = manned.process().to_owned();
        let inside = manned.listen().expect("the role of a container has a port");
        let (taken, manned) = (Mutex::new(false), Arc::new(Turn::new(manned)));
        Arc::new(ContainerSlot { agent, process, inside, published: published(index), taken, manned })
    };
    let berths: Vec<_> = berths.into_iter().enumerate().map(berth).collect();
    let (dispatcher, stage) = (dispatcher.clone(), stage.clone());
    Runner(Box::new(move |spec| -> BoxFuture<'static, Result<Running, String>> {
        let berth = take(&berths, label, &spec);
        let (dispatcher, stage) = (dispatcher.clone(), stage.clone());
        Box::pin(async move { Ok(boot(dispatcher, &stage, berth?, spec.env).await) })
    }))
}

/// Takes the lowest free berth, at once: two containers that start together get two.
fn take(berths: &[Arc<ContainerSlot>], label: &str, spec: &Spec) -> Result<Arc<ContainerSlot>, String> {
    let agent = spec.labels.get(label).unwrap_or_else(|| panic!("container {} has no label {label}", spec.name));
    let own: Vec<_> = berths.iter().filter(|berth| berth.agent == *agent).collect();
    let last = own.last().unwrap_or_else(|| panic!("container {} is of {agent}, which [topology] has not", spec.name));
    let free = own.iter().find(|berth| !std::mem::replace(&mut *berth.taken(), true));
    free.map(|berth| Arc::clone(berth)).ok_or_else(|| {
        format!(
            "driver failed programming external connectivity on endpoint {}: Bind for 0.0.0.0:{} failed: port is \
             already allocated",
            spec.name, last.published
        )
    })
}

async fn boot<O: ProductEvent>(
    dispatcher: Arc<Dispatcher<O>>,
    stage: &NodeHandle,
    berth: Arc<ContainerSlot>,
    env: BTreeMap<String, String>,
) -> Running {
    let mut manned = berth.manned.clone().lock_owned().await;
    let life = manned.bear(&dispatcher, env);
    let incarnation = life.incarnation;
    let (died, death) = oneshot::channel();
    // The world keeps each life to its end; it drops one only when it ends itself.
    let exit = async move { death.await.unwrap_or(KILLED) }.boxed().shared();
    let order = |kill: bool| -> Arc<dyn Fn() + Send + Sync> {
        let (dispatcher, process) = (dispatcher.clone(), berth.process.clone());
        Arc::new(move || {
            dispatcher.act(|monitor| match monitor.life(&process).incarnation == incarnation {
                true if kill => monitor.kill(&process),
                true => monitor.terminate(&process),
                false => {}
            });
        })
    };
    let (terminate, kill) = (order(false), order(true));
    let ContainerSlot { process, inside, published, .. } = &*berth;
    let running = Running { process: process.clone(), published: *published, inside: *inside, exit, terminate, kill };
    stage.spawn(async move {
        // Nobody but the engine's clients ends a container: no grace.
        let code = match manned.live(&dispatcher, life, None).await {
            Ended::Exited(code) => code,
            Ended::Killed => KILLED,
        };
        *berth.taken() = false;
        let _ = died.send(code); // an engine that has forgotten the container asks no more
        manned.bury().await;
    });
    running
}

impl ContainerSlot {
    fn taken(&self) -> MutexGuard<'_, bool> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
