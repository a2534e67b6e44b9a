//! What RabbitMQ handed out and got back, by connection. A message counts as handed out until it is settled.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use lychgate::broker::{CANCELS, RUNS};
use lychgate_sim::standins::rabbit::observation::Broker;

use super::{Misread, hinted};
use crate::events::{DeliveryEvent, Did, How, Queue};
use crate::names::session_of;

/// Knows connections apart.
#[derive(Default)]
pub(super) struct Deliveries {
    /// Each connection's number. An address that is used again stands for a connection that has given everything back.
    lines: BTreeMap<SocketAddr, u32>,
}

impl Deliveries {
    /// `label` knows the label of a run by its id.
    pub(super) fn read(
        &mut self,
        broker: &Broker,
        label: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Did>, Misread> {
        let (peer, queue, body, how) = match broker {
            Broker::Published { .. } => return Ok(None),
            Broker::Delivered { peer, queue, body, .. } => (peer, queue, body, None),
            Broker::Acked { peer, queue, body } => (peer, queue, body, Some(How::Acked)),
            Broker::Nacked { peer, queue, requeue: true, body } => (peer, queue, body, Some(How::GivenBack)),
            Broker::Nacked { peer, queue, requeue: false, body } => (peer, queue, body, Some(How::Dropped)),
            Broker::Requeued { peer, queue, body } => (peer, queue, body, Some(How::Returned)),
            Broker::DeadLettered { peer, queue, body, .. } => (peer, queue, body, Some(How::Dropped)),
        };
        let next = self.lines.len() as u32 + 1;
        let line = *self.lines.entry(*peer).or_insert(next);
        let queue = match queue.as_str() {
            RUNS => Queue::Runs,
            // A process's own queue of cancellations carries a minted word.
            queue if queue.starts_with(CANCELS) => Queue::Cancels,
            queue => return Err(Misread(format!("no queue of the product is named `{queue}`"))),
        };
        let run = hinted(body)?.and_then(|id| label(&id)).unwrap_or_else(|| "an unknown run".into());
        let session = session_of(&run);
        Ok(Some(match how {
            None => Did::Delivery(DeliveryEvent::Delivered { session, run, queue, line }),
            Some(how) => Did::Delivery(DeliveryEvent::Settled { session, run, queue, line, how }),
        }))
    }
}
