//! What a process of the simulation consists of: a node of madsim, and the relays at both ends of it.
//! Its one law: the dead say nothing more. What an incarnation had flushed when it died still arrives; what its
//! destructors write, send or log does not.
//!
//! madsim runs destructors on a kill, so death takes these steps: it stands still (not one more poll) → what it had
//! flushed reaches the relays → the relays stop reading → it is dropped → a moment → the next life. A chunk takes at
//! least 1 ms to be read, so of a burst of more than ten on one connection the last ones are lost with it.
//!
//! With a lost host nothing of that arrives: its relays fall silent at once, and close what it left half-open only
//! [`crate::link::HALF_OPEN`] after its next boot.

use std::sync::Arc;
use std::time::Duration;

use madsim::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

use crate::link::Link;
use crate::trace::event::ProductEvent;
use crate::world::dispatcher::Dispatcher;
use crate::world::nodes::NodeId;
use crate::world::product::{Boot, BootFn};

/// The world's network takes less than 10 ms for a chunk: by then what was flushed before a death has arrived.
const LAST_WORDS: Duration = Duration::from_millis(11);
/// The least time from a death to the next boot: futures of the dead are dropped and relays have closed by then.
pub(crate) const BURIAL: Duration = Duration::from_millis(20);

/// One process, apart from its lives.
pub(crate) struct ProcessBackend {
    node: NodeId,
    /// Links on which it is the near end.
    pub(crate) near: Vec<Arc<Link>>,
    /// Links on which it is the far end.
    pub(crate) far: Vec<Arc<Link>>,
}

/// The incarnation that lives in it now.
pub(crate) struct RunningProcess(mpsc::UnboundedSender<()>);

impl ProcessBackend {
    pub(crate) fn new(node: NodeId, near: Vec<Arc<Link>>, far: Vec<Arc<Link>>) -> ProcessBackend {
        ProcessBackend { node, near, far }
    }

    /// SIGKILL: from this call on it makes no step.
    pub(crate) fn stop(&self) {
        Handle::current().pause(self.node);
        self.near.iter().for_each(|link| link.near_down());
    }

    /// The main panics: the same, and everything that it had opened closes now.
    pub(crate) fn crash(&self) {
        self.stop();
        self.near.iter().for_each(|link| link.cut_near());
        self.far.iter().for_each(|link| link.cut_far());
    }

    /// The host is lost: the same, and nothing of what it had opened says anything more.
    pub(crate) fn lose(&self) {
        self.stop();
        self.near.iter().for_each(|link| link.lose_near());
        self.far.iter().for_each(|link| link.lose_far());
    }

    /// SIGSTOP.
    pub(crate) fn pause(&self) {
        Handle::current().pause(self.node);
    }

    /// SIGCONT. Not for the dead: they would make a step.
    pub(crate) fn resume(&self) {
        Handle::current().resume(self.node);
    }

    /// Makes ready for a life after another.
    pub(crate) fn wake(&self) {
        Handle::current().restart(self.node);
    }

    /// Begins a life; the receiver is told its exit code.
    pub(crate) fn begin<O: ProductEvent>(
        &self,
        _: &Arc<Dispatcher<O>>,
        main: &BootFn,
        mut boot: Boot,
    ) -> (RunningProcess, oneshot::Receiver<i32>) {
        let (signals, received) = mpsc::unbounded_channel();
        let (ended, exit) = oneshot::channel();
        boot.signals = received;
        let node = Handle::current().get_node(self.node).expect("nodes are never removed");
        let main = main.clone();
        node.spawn(async move {
            let code = main(boot).await;
            let _ = ended.send(code); // nobody listens to one that is being killed
        });
        (RunningProcess(signals), exit)
    }

    /// Buries who was killed or has exited.
    pub(crate) async fn reap(&self) {
        self.stop();
        tokio::time::sleep(LAST_WORDS).await;
        self.near.iter().for_each(|link| link.cut_near());
        self.far.iter().for_each(|link| link.cut_far());
        let world = Handle::current();
        world.resume(self.node); // a paused node would be dropped right here, inside this task
        world.kill(self.node);
    }
}

impl RunningProcess {
    /// SIGTERM.
    pub(crate) fn terminate(&self) {
        let _ = self.0.send(()); // a process may have dropped its receiver: it ignores SIGTERM
    }

    /// Waits until one that was killed is gone: it makes no step any more.
    pub(crate) async fn end(self, _: oneshot::Receiver<i32>) {}
}
