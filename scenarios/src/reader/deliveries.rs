//! What RabbitMQ handed out and got back, by connection. A message counts as handed out until it is settled.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use lychgate::broker::{CANCELS, RUNS};
use lychgate_sim::standins::rabbit::observation::Broker;

use super::{hinted, session_of};
use crate::events::Did;

/// Knows connections apart.
#[derive(Default)]
pub(super) struct Deliveries {
    /// Each connection's number. An address that is used again stands for a connection that has given everything back.
    lines: BTreeMap<SocketAddr, u32>,
}

impl Deliveries {
    /// `label` knows the label of a run by its id.
    pub(super) fn read(&mut self, broker: &Broker, label: impl Fn(&str) -> Option<String>) -> Option<Did> {
        let (peer, queue, body, how) = match broker {
            Broker::Published { .. } => return None,
            Broker::Delivered { peer, queue, body, .. } => (peer, queue, body, None),
            Broker::Acked { peer, queue, body } => (peer, queue, body, Some("acked")),
            Broker::Nacked { peer, queue, requeue: true, body } => (peer, queue, body, Some("given_back")),
            Broker::Nacked { peer, queue, requeue: false, body } => (peer, queue, body, Some("dropped")),
            Broker::Requeued { peer, queue, body } => (peer, queue, body, Some("returned")),
            Broker::DeadLettered { peer, queue, body, .. } => (peer, queue, body, Some("dropped")),
        };
        let next = self.lines.len() as u32 + 1;
        let line = *self.lines.entry(*peer).or_insert(next);
        // A process's own queue of cancellations carries a minted word.
        let queue = match queue.as_str() {
            RUNS => "runs",
            queue if queue.starts_with(CANCELS) => "cancels",
            queue => queue,
        };
        let run = label(&hinted(body)).unwrap_or_else(|| "an unknown run".into());
        let (session, queue) = (session_of(&run), queue.to_string());
        Some(match how {
            None => Did::Delivered { session, run, queue, line },
            Some(how) => Did::Settled { session, run, queue, line, how },
        })
    }
}
