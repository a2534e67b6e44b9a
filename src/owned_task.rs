//! A task that ends with its owner: aborted when it is dropped. The driver of a connection that waits for a wedged
//! server would never notice otherwise that its user is gone.

use tokio::task::JoinHandle;

/// A spawned task, aborted when this is dropped.
#[derive(Debug)]
pub(crate) struct OwnedTask(Option<JoinHandle<()>>);

impl OwnedTask {
    /// Owns `task` from here on.
    pub fn new(task: JoinHandle<()>) -> Self {
        OwnedTask(Some(task))
    }

    /// Aborts the task now.
    pub fn abort(&self) {
        self.0.iter().for_each(JoinHandle::abort);
    }

    /// Whether the task has ended.
    pub fn is_finished(&self) -> bool {
        self.0.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Lets the task end by itself.
    pub fn detach(mut self) {
        self.0 = None;
    }
}

impl Drop for OwnedTask {
    fn drop(&mut self) {
        self.abort();
    }
}
