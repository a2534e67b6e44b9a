//! The words that plans of a product may use, gathered from the product, the world, links and services.

use std::collections::{BTreeMap, BTreeSet};

use crate::link;
use crate::plan::{self, Expect, Plan, PlanErrors, Vocabulary, Workload};
use crate::trace::event::{ProductEvent, WorldEvent};
use crate::world::process_faults;
use crate::world::product::Product;

#[cfg(test)]
mod tests;

/// A plan in which nothing goes wrong and the product has its usual shape.
pub fn bare<P: Product>() -> Plan<P::Workload> {
    Plan {
        about: String::new(),
        arms: Vec::new(),
        must_reach: Vec::new(),
        topology: P::roles().iter().map(|role| (role.name.to_owned(), role.count)).collect(),
        config: BTreeMap::new(),
        service: BTreeMap::new(),
        users: P::Workload::default(),
        faults: Vec::new(),
        expect: Expect { verdict: "passed".to_owned(), invariant: None },
        repro: None,
    }
}

/// All that a plan of the product may name.
///
/// # Panics
/// If two events have one name: a trigger would not know which of them it waits for.
pub fn vocabulary<P: Product>() -> Vocabulary {
    let events: Vec<&str> = WorldEvent::NAMES.iter().chain(<P::Event as ProductEvent>::NAMES).copied().collect();
    if let Some(word) = twice(&events) {
        panic!("`{word}` names two events, of the product or of the world: give one of them another name");
    }
    Vocabulary {
        roles: P::roles(),
        settings: P::settings().iter().map(|setting| setting.name).collect(),
        events,
        world_events: WorldEvent::NAMES,
        invariants: invariants::<P>(),
        faults: link::faults::ROWS.iter().chain(process_faults::ROWS).copied().collect(),
        services: P::service_words(),
    }
}

/// A word that stands here twice.
fn twice<'w>(words: &[&'w str]) -> Option<&'w str> {
    let mut known = BTreeSet::new();
    words.iter().copied().find(|word| !known.insert(*word))
}

/// The invariants of a product: name and what it says.
pub fn invariants<P: Product>() -> Vec<(&'static str, &'static str)> {
    P::invariants(&bare::<P>()).iter().map(|invariant| (invariant.name(), invariant.says())).collect()
}

/// The links of a plan's world.
pub fn links<P: Product>(plan: &Plan<P::Workload>) -> Vec<String> {
    vocabulary::<P>().links(&plan.topology, &plan.users.users())
}

/// Reads a plan of the product; see [`plan::parse`].
///
/// # Errors
/// Everything that is wrong with it, in the order of the text.
pub fn parse<P: Product>(path: &str, source: &str) -> Result<Plan<P::Workload>, PlanErrors> {
    plan::parse(path, source, &vocabulary::<P>())
}

/// Reads every plan that `source` offers; see [`plan::parse_all`].
///
/// # Errors
/// As [`plan::parse_all`].
pub fn parse_all<P: Product>(path: &str, source: &str) -> Result<Vec<Plan<P::Workload>>, PlanErrors> {
    plan::parse_all(path, source, &vocabulary::<P>())
}
