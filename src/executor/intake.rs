//! Hearing of runs: deliveries from the broker, each settled once its run is over or somebody else's.

use std::sync::Arc;

use super::Executor;
use super::claim::Taken;
use crate::amqp::Error;
use crate::backoff::Backoff;
use crate::broker::{Arrival, Held, Hint, Intake};
use crate::limits;
use crate::run::Stop;

impl Executor {
    /// Listens to the broker for as long as this process lives, redialling whenever the connection is lost.
    pub(super) async fn take_in(self: Arc<Self>) {
        let mut backoff = Backoff::default();
        while !self.leaving.is_cancelled() {
            let (address, name, word) = (&self.config.stores.rabbitmq, &self.owner.process, self.mint.word());
            let opened = tokio::select! {
                biased;
                () = self.leaving.cancelled() => return,
                opened = Intake::open(address, name, &word, self.config.limits.slots) => opened,
            };
            match opened {
                Ok(intake) => {
                    backoff.reset();
                    match self.listen(intake).await {
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
    async fn listen(self: &Arc<Self>, mut intake: Intake) -> Result<(), Error> {
        loop {
            let arrival = tokio::select! {
                biased;
                () = self.drains() => break,
                arrival = intake.next() => arrival?,
            };
            self.receive(arrival);
        }
        intake.stop().await?;
        // Cancellations are still heard, and the connection is kept alive for the acknowledgements.
        loop {
            let arrival = tokio::select! {
                biased;
                () = self.leaving.cancelled() => break,
                arrival = intake.next() => match arrival {
                    // The runs' consumer has ended, as we asked.
                    Err(Error::Closed | Error::Cancelled) => {
                        tokio::select! {
                            () = self.leaving.cancelled() => break,
                            error = intake.over() => return Err(error),
                        }
                    }
                    arrival => arrival?,
                },
            };
            self.receive(arrival);
        }
        intake.close().await
    }

    fn receive(self: &Arc<Self>, arrival: Arrival) {
        match arrival {
            Arrival::Cancelled(run) => self.desk.stop(&run, Stop::Cancelled),
            Arrival::Waiting { hint, redelivered, delivery } => {
                self.send_on_errand(self.clone().handle(hint, redelivered, delivery));
            }
        }
    }

    async fn handle(self: Arc<Self>, hint: Option<Hint>, redelivered: bool, delivery: Held) {
        let Some(Hint { session, run }) = hint else {
            tracing::error!("a message on the queue of runs is no hint; dropped");
            return delivery.ack().await;
        };
        if self.is_draining() {
            return delivery.give_back().await;
        }
        let Some(slot) = self.desk.slot_within(limits::SLOT_WAIT).await else {
            return delivery.give_back().await;
        };
        if self.is_draining() {
            return delivery.give_back().await;
        }
        match self.take(&run, &session, redelivered, slot).await {
            Taken::Done => delivery.ack().await,
            Taken::HandedBack => delivery.give_back().await,
            Taken::Unknown => {
                // Kept for a moment, so that a sick Postgres does not make the delivery spin.
                tokio::time::sleep(limits::GIVE_BACK_AFTER).await;
                delivery.give_back().await;
            }
        }
    }
}
