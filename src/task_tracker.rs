//! TaskTracker, counted: a leak shows as a number that does not come back, and who closes what tasks use waits until
//! the last one has gone. A task that is dropped in the middle of its work is no longer counted either.

use tokio::sync::watch;
use tokio::task::JoinHandle;

/// A count of live tasks. Clones count together.
#[derive(Clone, Debug)]
pub struct TaskTracker(watch::Sender<usize>);

/// A task's place in the count, until it is dropped.
#[derive(Debug)]
pub struct TaskToken(watch::Sender<usize>);

impl Drop for TaskToken {
    fn drop(&mut self) {
        self.0.send_modify(|tasks| *tasks -= 1);
    }
}

impl Default for TaskTracker {
    fn default() -> Self {
        TaskTracker(watch::Sender::new(0))
    }
}

impl TaskTracker {
    /// Spawns a task; it counts until its future is dropped.
    pub fn spawn<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
        let token = self.token();
        tokio::spawn(async move {
            let _token = token;
            future.await
        })
    }

    /// A place in the count for what is not spawned here.
    pub fn token(&self) -> TaskToken {
        self.0.send_modify(|tasks| *tasks += 1);
        TaskToken(self.0.clone())
    }

    /// The number of live tasks.
    pub fn len(&self) -> usize {
        *self.0.borrow()
    }

    /// Whether no task lives.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Waits until no task lives. The caller bounds the wait.
    pub async fn wait_empty(&self) {
        let mut tasks = self.0.subscribe();
        // The sender lives as long as `self`, so waiting cannot fail.
        let _ = tasks.wait_for(|tasks| *tasks == 0).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_token_no_longer_counts() {
        let tracker = TaskTracker::default();
        let (one, two) = (tracker.token(), tracker.clone().token());
        assert_eq!(tracker.len(), 2);
        drop(one);
        assert!(!tracker.is_empty());
        drop(two);
        assert!(tracker.is_empty());
    }
}
