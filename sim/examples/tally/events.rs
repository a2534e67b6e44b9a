//! What happened, as the judge sees it: read from what RabbitMQ, Redis and the object store did, never asked of the service.

use std::collections::BTreeMap;

use lychgate_sim::standins::observation::Observation;
use lychgate_sim::standins::rabbit::observation::Broker;
use lychgate_sim::standins::redis::observation::Command;
use lychgate_sim::trace::event::ProductEvent;
use lychgate_sim::world::product::{Origin, Reader};
use serde::Serialize;

use super::objects::Stored;

/// One event. `order` is a label of the plan, as `ann/1`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Did {
    /// RabbitMQ has an order.
    Ordered { order: String },
    /// The customer knows.
    Accepted { order: String },
    /// A worker got it; `again` if RabbitMQ had handed it out before.
    Taken { order: String, again: bool },
    /// The tally of a customer went up.
    Counted { customer: String, total: u64 },
    /// It did not, because the order had been counted.
    CountedBefore { customer: String },
    /// Its receipt is kept; `again` if there was one.
    Receipted { order: String, again: bool },
    /// RabbitMQ is rid of the order.
    Acked { order: String },
}

impl ProductEvent for Did {
    const NAMES: &'static [&'static str] =
        &["ordered", "accepted", "taken", "counted", "counted_before", "receipted", "acked"];

    fn name(&self) -> &'static str {
        match self {
            Did::Ordered { .. } => "ordered",
            Did::Accepted { .. } => "accepted",
            Did::Taken { .. } => "taken",
            Did::Counted { .. } => "counted",
            Did::CountedBefore { .. } => "counted_before",
            Did::Receipted { .. } => "receipted",
            Did::Acked { .. } => "acked",
        }
    }

    fn session(&self) -> Option<&str> {
        match self {
            Did::Ordered { order } | Did::Accepted { order } | Did::Acked { order } => Some(order),
            Did::Taken { order, .. } | Did::Receipted { order, .. } => Some(order),
            Did::Counted { .. } | Did::CountedBefore { .. } => None,
        }
    }

    fn story(&self) -> Option<String> {
        match self {
            Did::Ordered { order } => Some(format!("{order} is ordered")),
            Did::Taken { order, again: true } => Some(format!("{order} is handed out again")),
            Did::Counted { customer, total } => Some(format!("{customer} has {total}")),
            Did::Receipted { order, again: false } => Some(format!("{order} has a receipt")),
            Did::CountedBefore { customer } => Some(format!("{customer} has no more than before")),
            _ => None,
        }
    }
}

/// Turns observations into events, and knows which orders are still to be counted.
#[derive(Default)]
pub struct Ledger {
    /// By order: the process that works on it, if one does.
    open: BTreeMap<String, Option<String>>,
}

impl Reader<Did> for Ledger {
    fn read(&mut self, observation: &Observation, origin: &Origin) -> Vec<Did> {
        let queued = observation.of::<Broker>().and_then(|broker| self.broker(broker, origin));
        let counted = || observation.of::<Command>().and_then(counted);
        let stored = || observation.of::<Stored>().and_then(receipted);
        queued.or_else(counted).or_else(stored).into_iter().collect()
    }

    fn mentioned(&self, request: &[u8]) -> Option<String> {
        let request = String::from_utf8_lossy(request);
        self.open.keys().find(|order| request.contains(order.as_str())).cloned()
    }

    fn served_by(&self, process: &str) -> Option<String> {
        self.open.iter().find(|(_, by)| by.as_deref() == Some(process)).map(|(order, _)| order.clone())
    }
}

impl Ledger {
    fn broker(&mut self, broker: &Broker, origin: &Origin) -> Option<Did> {
        let order = |body: &[u8]| String::from_utf8_lossy(body).into_owned();
        match broker {
            Broker::Published { body, .. } => {
                let order = order(body);
                self.open.entry(order.clone()).or_default();
                Some(Did::Ordered { order })
            }
            Broker::Delivered { body, redelivered, .. } => {
                let order = order(body);
                self.open.insert(order.clone(), Some(origin.process.clone()));
                Some(Did::Taken { order, again: *redelivered })
            }
            Broker::Acked { body, .. } => {
                let order = order(body);
                self.open.remove(&order);
                Some(Did::Acked { order })
            }
            Broker::Requeued { body, .. } | Broker::Nacked { body, .. } | Broker::DeadLettered { body, .. } => {
                self.open.insert(order(body), None);
                None
            }
        }
    }
}

/// The receipt that an object is, if it is one.
fn receipted(stored: &Stored) -> Option<Did> {
    let order = stored.key.strip_prefix("receipts/")?.to_owned();
    Some(Did::Receipted { order, again: stored.again })
}

/// What a command did to a tally, if it is about one: its last word is the tally's key, its answer the total.
fn counted(command: &Command) -> Option<Did> {
    let key = String::from_utf8_lossy(command.words.last()?).into_owned();
    let customer = key.strip_prefix("tally:")?.to_owned();
    let reply = String::from_utf8_lossy(&command.reply);
    let total = reply.trim_end().strip_prefix(':')?.parse().ok()?;
    Some(if total == 0 { Did::CountedBefore { customer } } else { Did::Counted { customer, total } })
}
