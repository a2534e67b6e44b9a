//! A turn's commit, and what a stopped run owes to one that has begun: the run waits for the answer, because a run
//! whose last turn is committed is completed, whatever stopped it.

use std::sync::Arc;

use tokio::sync::watch;

use crate::limits;
use crate::retry::retry;
use crate::run::{End, Intent, Stop};
use crate::store::{Checkpoint, Checkpoints, Commit, StoreError, Writing};

/// Commits a turn, for as long as the run is ours.
pub(super) async fn commit(
    checkpoints: &Checkpoints,
    checkpoint: Checkpoint,
    writing: &watch::Sender<Writing>,
) -> Result<Commit, StoreError> {
    let checkpoint = Arc::new(checkpoint);
    let Checkpoint { claimed, turn, .. } = &*checkpoint;
    let what = format!("turn {turn} of run {}", claimed.run);
    retry(what, || checkpoints.write(checkpoint.clone(), writing)).await
}

/// The end of a run that was told to stop.
pub(super) async fn after_stop(why: Stop, writing: &watch::Sender<Writing>) -> Intent {
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
