//! Each order counts once: never twice, and none is forgotten.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lychgate_sim::trace::event::{Event, What, WorldEvent};
use lychgate_sim::trace::invariant::{Breach, Invariant, Obligation};

use super::events::Did;

/// A minute after everything has healed the backlog is counted: a restart takes 2 s, finding a dead connection 30 s.
const CAUGHT_UP: Duration = Duration::from_secs(60);

/// What a customer has ordered, and what the tally says of it.
#[derive(Default)]
struct Account {
    orders: BTreeSet<String>,
    last: Duration,
    total: u64,
}

/// The invariant.
#[derive(Default)]
pub struct CountedOnce {
    accounts: BTreeMap<String, Account>,
    healed: Option<Duration>,
    tempted: bool,
}

impl Invariant<Did> for CountedOnce {
    fn name(&self) -> &'static str {
        "counted_once"
    }

    fn says(&self) -> &'static str {
        "a customer's tally is the number of orders: none counts twice, none is forgotten"
    }

    fn observe(&mut self, event: &Event<Did>) -> Result<(), Breach> {
        match &event.what {
            What::World(WorldEvent::Phase { name: "heal" }) => self.healed = Some(event.at),
            What::Product(Did::Ordered { order }) => {
                let customer = order.split('/').next().unwrap_or(order);
                let account = self.accounts.entry(customer.to_owned()).or_default();
                account.orders.insert(order.clone());
                account.last = event.at;
            }
            What::Product(Did::Counted { customer, total }) => {
                let account = self.accounts.entry(customer.clone()).or_default();
                account.total = *total;
                let orders = account.orders.len() as u64;
                if *total > orders {
                    return Err(Breach::now(format!("{customer}'s tally says {total} after {orders} orders")));
                }
            }
            What::Product(Did::CountedBefore { .. }) => self.tempted = true,
            _ => {}
        }
        Ok(())
    }

    /// What must still happen. While something may be broken there is no deadline.
    fn pending(&self) -> Vec<Obligation> {
        let behind = self.accounts.iter().filter(|(_, account)| account.total < account.orders.len() as u64);
        let obligation = |(customer, account): (&String, &Account)| {
            let due = self.healed.map_or(Duration::MAX, |healed| healed.max(account.last) + CAUGHT_UP);
            let says = format!("{customer}'s tally, {}, reaches {}", account.total, account.orders.len());
            Obligation::new(says, account.last, due)
        };
        behind.map(obligation).collect()
    }

    /// A run in which no order came up for counting again would not have shown the bug.
    fn armed(&self) -> bool {
        self.tempted
    }
}
