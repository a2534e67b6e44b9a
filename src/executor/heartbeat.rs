//! Saying that we live: one statement for all runs, and in its answer what became of them. An owner that cannot say it
//! for half the time after which others take over acts no more.

use std::sync::Arc;

use tokio::time::Instant;

use super::Executor;
use crate::facts::{self, fact};
use crate::limits;
use crate::run::Stop;

impl Executor {
    pub(super) async fn keep_beating(self: Arc<Self>) {
        loop {
            tokio::time::sleep(self.config.limits.beat_every).await;
            self.beat().await;
        }
    }

    async fn beat(&self) {
        let named = self.desk.beating();
        if named.is_empty() {
            return;
        }
        let sent = Instant::now();
        match self.store.beat(&self.owner, &named).await {
            Ok(answer) => {
                for (run, fence) in named {
                    match answer.get(&run).filter(|beating| beating.fence == fence) {
                        Some(beating) => {
                            self.desk.confirm(&run, fence, sent);
                            if beating.cancel_requested {
                                self.desk.stop_under(&run, fence, Stop::Cancelled);
                            }
                            if beating.suspended {
                                self.desk.stop_under(&run, fence, Stop::Suspended);
                            }
                        }
                        None => self.desk.stop_under(&run, fence, Stop::Fenced),
                    }
                }
            }
            Err(error) => tracing::warn!(%error, "a beat was not confirmed"),
        }
        // The next look comes after another pause and another beat at its bound; it must not come too late.
        let next_look = self.config.limits.beat_every + limits::POSTGRES_CALL;
        for (run, fence) in self.desk.silent_for((self.config.limits.takeover_after / 2).saturating_sub(next_look)) {
            fact!(warn, facts::LOST, %run);
            self.desk.stop_under(&run, fence, Stop::Lost);
        }
    }
}
