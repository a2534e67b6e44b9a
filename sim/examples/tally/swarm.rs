//! Plans drawn from the seed: who orders how much, and what goes wrong near the moments that matter.

use std::time::Duration;

use lychgate_sim::plan::seed::{Purpose, Seed};
use lychgate_sim::plan::{EventMatch, Fault, Kind, Lifetime, Plan, ServiceFault, Trigger, words};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng;

use super::customers::{Customer, Customers};
use super::product::Tally;

/// For `list`.
pub const ABOUT: &str = "Customers, link faults and kills drawn from the seed";

const NAMES: [&str; 3] = ["ann", "ben", "cid"];
const LINKS: [&str; 4] = ["worker-1->redis", "worker-1->rabbitmq", "worker-1->objects", "till-1->rabbitmq"];
const EVENTS: [&str; 4] = ["ordered", "taken", "counted", "counted"];

/// The plan of a seed. Each purpose has a stream of its own: one more draw for the faults leaves the customers as they are.
pub fn draw(seed: Seed) -> Plan<Customers> {
    let mut workload = seed.stream(Purpose::Workload);
    let mut faults = seed.stream(Purpose::Faults);
    let customers = NAMES[..1 + below(&mut workload, 3)].iter().map(|name| customer(name, &mut workload)).collect();
    let count = 1 + below(&mut faults, 4);
    Plan {
        about: format!("Drawn from seed {}", seed.0),
        users: Customers(customers),
        faults: (0..count).map(|_| fault(&mut faults)).collect(),
        ..words::bare::<Tally>()
    }
}

/// For `list`.
pub const STORE_FULL: &str = "The object store takes no receipts for a while: orders wait, and count once all the same";

/// The same for every seed: a plan in a file knows the faults of the world's own stand-ins alone.
pub fn store_full(_: Seed) -> Plan<Customers> {
    let (at, every) = (Duration::from_secs(1), Duration::from_secs(2));
    let counted = EventMatch { event: "counted".to_owned(), session: None, nth: 2, after: Duration::ZERO };
    let (target, lasts) = (vec!["objects".to_owned()], Lifetime::Lasts(Duration::from_secs(10)));
    Plan {
        about: STORE_FULL.to_owned(),
        arms: vec!["counted_once".to_owned(), "receipted".to_owned()],
        must_reach: vec!["counted_before".to_owned(), "receipted".to_owned()],
        users: Customers(vec![Customer { name: "ann".to_owned(), orders: 3, at, every }]),
        faults: vec![Fault::new(Kind::Ail(ServiceFault::Full), target, Trigger::On(counted), lasts)],
        ..words::bare::<Tally>()
    }
}

fn customer(name: &str, from: &mut ChaCha8Rng) -> Customer {
    let orders = 1 + below(from, 6) as u32;
    Customer { name: name.to_owned(), orders, at: millis(from, 3_000), every: millis(from, 10_000) }
}

fn fault(from: &mut ChaCha8Rng) -> Fault {
    let link = LINKS[below(from, LINKS.len())].to_owned();
    let process = ["worker-1", "worker-1", "till-1"][below(from, 3)].to_owned();
    let lasts = Lifetime::Lasts(Duration::from_secs(1) + millis(from, 40_000));
    let (kind, target, length) = match below(from, 6) {
        0 => (Kind::Wedge, link, lasts),
        1 => (Kind::Close, link, Lifetime::Instant),
        2 => (Kind::Delay { by: millis(from, 3_000) }, link, lasts),
        3 => (Kind::ReplyLost { matches: None }, link, Lifetime::Instant),
        4 => (Kind::Sigterm, process, Lifetime::Instant),
        _ => (Kind::Sigkill, process, Lifetime::Instant),
    };
    let event = EVENTS[below(from, EVENTS.len())].to_owned();
    // Most of them at the very moment of the event, when its answer has not left yet: an order is soon counted.
    let after = if below(from, 4) > 0 { Duration::ZERO } else { millis(from, 2_000) };
    let trigger = Trigger::On(EventMatch { event, session: None, nth: 1 + below(from, 4) as u32, after });
    Fault::new(kind, vec![target], trigger, length)
}

/// A whole number from 0 to less than `end`. Not quite even, which does not matter here.
fn below(from: &mut ChaCha8Rng, end: usize) -> usize {
    from.next_u32() as usize % end
}

fn millis(from: &mut ChaCha8Rng, max: usize) -> Duration {
    Duration::from_millis(below(from, max + 1) as u64)
}
