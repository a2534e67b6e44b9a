//! A turn's commit, and what a cancelled run owes to one that has begun: it waits for the answer, because a run whose last
//! turn is committed is completed, whoever stopped it.

use std::sync::Arc;

use tokio::sync::watch;

use super::Executor;
use crate::backoff::Backoff;
use crate::limits;
use crate::run::{End, Intent, Stop};
use crate::store::{Checkpoint, Commit, StoreError, Writing};

impl Executor {
    /// Commits a turn, for as long as the run is ours.
    pub(super) async fn commit(
        &self,
        checkpoint: Checkpoint,
        writing: &watch::Sender<Writing>,
    ) -> Result<Commit, StoreError> {
        let checkpoint = Arc::new(checkpoint);
        let mut backoff = Backoff::default();
        loop {
            match self.checkpoints.write(checkpoint.clone(), writing).await {
                Err(StoreError::Unavailable(why)) => {
                    let Checkpoint { claimed, turn, .. } = &*checkpoint;
                    tracing::warn!(run = %claimed.run, turn, why, "not checkpointed yet");
                }
                answered => return answered,
            }
            backoff.wait().await;
        }
    }

    /// What becomes of a run that was told to stop.
    pub(super) async fn stopped_for(&self, why: Stop, writing: &watch::Sender<Writing>) -> Intent {
        if !why.is_ours() {
            return why.intent();
        }
        let mut writing = writing.subscribe();
        let answered = writing.wait_for(|writing| *writing != Writing::Begun);
        match tokio::time::timeout(limits::CANCEL_GRACE, answered).await {
            Ok(Ok(writing)) if *writing == Writing::Finished => Intent::End(End::completed()),
            _ => why.intent(),
        }
    }
}
