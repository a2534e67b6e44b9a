//! The tasks of an executor: they live no longer than it does, and the drain waits for those that see to a run.

use tokio_util::sync::CancellationToken;

use crate::task_tracker::TaskTracker;

/// Spawns an executor's tasks, and ends them.
#[derive(Clone, Default)]
pub(super) struct Tasks {
    all: TaskTracker,
    /// The tasks among them that see to one run or delivery.
    runs: TaskTracker,
    /// Ends the tasks, wherever they stand.
    over: CancellationToken,
}

impl Tasks {
    /// Spawns a task.
    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let over = self.over.clone();
        self.all.spawn(async move {
            tokio::select! {
                biased;
                () = over.cancelled() => {}
                () = work => {}
            }
        });
    }

    /// Spawns a task that sees to one run or delivery.
    pub(super) fn spawn_run(&self, work: impl Future<Output = ()> + Send + 'static) {
        let run = self.runs.token();
        self.spawn(async move {
            let _run = run;
            work.await;
        });
    }

    /// Waits until no task sees to a run or delivery.
    pub(super) async fn runs_over(&self) {
        self.runs.wait_empty().await;
    }

    /// Ends every task and waits until the last one is gone.
    pub(super) async fn end(&self) {
        self.over.cancel();
        self.all.wait_empty().await;
    }
}
