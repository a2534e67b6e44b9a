//! Plans drawn from the seed: who orders how much, and what goes wrong near the moments that matter.

use std::time::Duration;

use lychgate_sim::link::faults::{CLOSE, DELAY, REPLY_LOST, WEDGE};
use lychgate_sim::plan::seed::{Purpose, Seed};
use lychgate_sim::plan::{EventMatch, Fault, Kind, Lifetime, Plan, Trigger};
use lychgate_sim::world::process_faults::{SIGKILL, SIGTERM};
use lychgate_sim::world::words;
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

fn customer(name: &str, from: &mut ChaCha8Rng) -> Customer {
    let orders = 1 + below(from, 6) as u32;
    Customer { name: name.to_owned(), orders, at: millis(from, 3_000), every: millis(from, 10_000) }
}

fn fault(from: &mut ChaCha8Rng) -> Fault {
    let link = LINKS[below(from, LINKS.len())].to_owned();
    let process = ["worker-1", "worker-1", "till-1"][below(from, 3)].to_owned();
    let lasts = Lifetime::Lasts(Duration::from_secs(1) + millis(from, 40_000));
    let (kind, target, length) = match below(from, 6) {
        0 => (Kind::of(&WEDGE), link, lasts),
        1 => (Kind::of(&CLOSE), link, Lifetime::Instant),
        2 => (Kind::of(&DELAY).with("by", millis(from, 3_000)), link, lasts),
        3 => (Kind::of(&REPLY_LOST), link, Lifetime::Instant),
        4 => (Kind::of(&SIGTERM), process, Lifetime::Instant),
        _ => (Kind::of(&SIGKILL), process, Lifetime::Instant),
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
