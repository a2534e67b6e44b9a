//! What RabbitMQ shows of itself: what becomes of messages.

use std::net::SocketAddr;

use bytes::Bytes;

use crate::standins::observation::Observed;

/// What RabbitMQ did with a message.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // the fields are AMQP's and HTTP's own words; `peer` is the connection's other end
pub enum Broker {
    /// A message was routed to `queues` (none: unroutable), before its confirm leaves.
    Published { peer: SocketAddr, exchange: String, routing_key: String, queues: Vec<String>, body: Bytes },
    /// A message was handed to a consumer.
    Delivered { peer: SocketAddr, queue: String, redelivered: bool, body: Bytes },
    /// A delivery was acknowledged.
    Acked { peer: SocketAddr, queue: String, body: Bytes },
    /// A delivery was refused; `requeue` says whether it went back.
    Nacked { peer: SocketAddr, queue: String, requeue: bool, body: Bytes },
    /// A delivery went back because its channel or connection ended.
    Requeued { peer: SocketAddr, queue: String, body: Bytes },
    /// A delivery was refused for good (`rejected`), or refused or left behind too often (`delivery_limit`), and its queue
    /// gave it up: `queues` have it now (none: it is gone). It stands in place of `Nacked` and `Requeued`.
    DeadLettered { peer: SocketAddr, queue: String, reason: &'static str, queues: Vec<String>, body: Bytes },
}

impl Observed for Broker {
    fn peer(&self) -> Option<SocketAddr> {
        match self {
            Broker::Published { peer, .. }
            | Broker::Delivered { peer, .. }
            | Broker::Acked { peer, .. }
            | Broker::Nacked { peer, .. }
            | Broker::Requeued { peer, .. }
            | Broker::DeadLettered { peer, .. } => Some(*peer),
        }
    }
}
