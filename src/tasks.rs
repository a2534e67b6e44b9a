//! The tasks of a process, counted: a leak shows as a number that does not come back.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::task::JoinHandle;

/// Spawns tasks and knows how many of them live. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct Tasks(Arc<AtomicUsize>);

/// One task's place in the count, until it is dropped.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Tasks {
    /// Spawns a task; it counts until its future is dropped.
    pub fn spawn<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
        self.0.fetch_add(1, Ordering::Relaxed);
        let counted = Counted(self.0.clone());
        tokio::spawn(async move {
            let _counted = counted;
            future.await
        })
    }

    /// How many live.
    pub fn len(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Whether none does.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
