//! No order is done with before its receipt is kept.

use std::collections::BTreeSet;

use lychgate_sim::trace::event::{Event, What};
use lychgate_sim::trace::invariant::{Breach, Invariant};

use super::events::Did;

/// The invariant.
#[derive(Default)]
pub struct Receipted {
    kept: BTreeSet<String>,
    acked: bool,
}

impl Invariant<Did> for Receipted {
    fn name(&self) -> &'static str {
        "receipted"
    }

    fn says(&self) -> &'static str {
        "an order is acknowledged only after its receipt is in the object store"
    }

    fn observe(&mut self, event: &Event<Did>) -> Result<(), Breach> {
        match &event.what {
            What::Product(Did::Receipted { order, .. }) => _ = self.kept.insert(order.clone()),
            What::Product(Did::Acked { order }) if !self.kept.contains(order) => {
                return Err(Breach::now(format!("{order} is acknowledged and has no receipt")));
            }
            What::Product(Did::Acked { .. }) => self.acked = true,
            _ => {}
        }
        Ok(())
    }

    /// A run in which nothing was acknowledged shows nothing.
    fn armed(&self) -> bool {
        self.acked
    }
}
