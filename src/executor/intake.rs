//! The intake: deliveries from the broker, each settled once its run is over or another owner's.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::active_runs::ActiveRuns;
use super::claim::{Claims, Outcome};
use super::drain_signal::DrainSignal;
use super::slots::Line;
use super::tasks::Tasks;
use crate::amqp::Error;
use crate::backoff::Backoff;
use crate::broker::{Arrival, Held, Hint, HintConsumer};
use crate::config::Address;
use crate::ids::Mint;
use crate::limits;
use crate::run::Stop;

/// The consumer of hints.
pub(super) struct Intake {
    pub broker: Address,
    /// The process's name, for the broker's own listings.
    pub process: String,
    pub mint: Arc<Mint>,
    pub slots: usize,
    pub active: Arc<ActiveRuns>,
    pub claims: Arc<Claims>,
    pub drain: DrainSignal,
    pub tasks: Tasks,
    /// Asks for the end of the connection.
    pub leaving: CancellationToken,
}

/// An intake that runs. Its connection outlives the executor's other tasks: it carries their last acknowledgements.
pub(super) struct RunningIntake {
    task: JoinHandle<()>,
    leaving: CancellationToken,
}

impl RunningIntake {
    /// Closes the connection; aborts and joins the task when `bound` is over.
    pub(super) async fn close(mut self, bound: Duration) {
        self.leaving.cancel();
        if tokio::time::timeout(bound, &mut self.task).await.is_err() {
            self.task.abort();
            // Aborted: it is gone after this.
            let _ = self.task.await;
        }
    }
}

impl Intake {
    /// Starts the intake in a task of its own.
    pub(super) fn start(self) -> RunningIntake {
        let leaving = self.leaving.clone();
        RunningIntake { task: tokio::spawn(self.run()), leaving }
    }

    /// Listens to the broker for as long as this process lives, redialling whenever the connection is lost.
    pub(super) async fn run(self) {
        let mut backoff = Backoff::default();
        while !self.leaving.is_cancelled() {
            let word = self.mint.word();
            let opened = tokio::select! {
                biased;
                () = self.leaving.cancelled() => return,
                opened = HintConsumer::open(&self.broker, &self.process, &word, self.slots) => opened,
            };
            match opened {
                Ok(consumer) => {
                    backoff.reset();
                    match self.listen(consumer).await {
                        Ok(()) => return,
                        Err(error) => tracing::warn!(%error, "the line to the broker was lost"),
                    }
                }
                Err(error) => tracing::warn!(%error, "waiting for the broker"),
            }
            backoff.wait().await;
        }
    }

    /// Listens over one connection. Once draining, gives back what comes; closes when everything else is closed.
    async fn listen(&self, mut consumer: HintConsumer) -> Result<(), Error> {
        loop {
            let arrival = tokio::select! {
                biased;
                () = self.drain.wait() => break,
                arrival = consumer.next() => arrival?,
            };
            self.receive(arrival);
        }
        consumer.stop().await?;
        // Cancellations are still heard, and the connection is kept alive for the acknowledgements.
        loop {
            let arrival = tokio::select! {
                biased;
                () = self.leaving.cancelled() => break,
                arrival = consumer.next() => match arrival {
                    // The runs' consumer has ended, as we asked.
                    Err(Error::Closed | Error::Cancelled) => {
                        tokio::select! {
                            () = self.leaving.cancelled() => break,
                            error = consumer.over() => return Err(error),
                        }
                    }
                    arrival => arrival?,
                },
            };
            self.receive(arrival);
        }
        consumer.close().await
    }

    fn receive(&self, arrival: Arrival) {
        match arrival {
            Arrival::Cancelled(run) => self.active.stop(&run, Stop::Cancelled),
            Arrival::Waiting { hint, redelivered, delivery } => {
                let delivered =
                    Delivered { claims: self.claims.clone(), active: self.active.clone(), drain: self.drain.clone() };
                self.tasks.spawn_run(delivered.handle(hint, redelivered, delivery));
            }
        }
    }
}

/// The handling of one delivery.
struct Delivered {
    claims: Arc<Claims>,
    active: Arc<ActiveRuns>,
    drain: DrainSignal,
}

impl Delivered {
    async fn handle(self, hint: Option<Hint>, redelivered: bool, delivery: Held) {
        let Some(Hint { session, run }) = hint else {
            tracing::error!("a message on the queue of runs is no hint; dropped");
            return delivery.ack().await;
        };
        if self.drain.has_begun() {
            return delivery.requeue().await;
        }
        let Ok(slot) = tokio::time::timeout(limits::SLOT_WAIT, self.active.slots.take(Line::Hinted)).await else {
            return delivery.requeue().await;
        };
        if self.drain.has_begun() {
            return delivery.requeue().await;
        }
        match self.claims.claim_and_work(&run, &session, redelivered, slot).await {
            Outcome::Done => delivery.ack().await,
            Outcome::HandedBack => delivery.requeue().await,
            Outcome::NotNow => {
                // Kept for a moment, so that it does not spin between the broker and who cannot use it.
                tokio::time::sleep(limits::GIVE_BACK_AFTER).await;
                delivery.requeue().await;
            }
        }
    }
}
