//! The words that a plan of a product may use. One list each for the parser, for `list` and for messages.

use std::collections::BTreeMap;

use crate::plan::{Expect, Plan};
use crate::trace::event::{ProductEvent, WorldEvent};
use crate::world::product::{Product, Role, Workload};

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

/// The invariants of a product: name and what it says.
pub fn invariants<P: Product>() -> Vec<(&'static str, &'static str)> {
    P::invariants(&bare::<P>()).iter().map(|invariant| (invariant.name(), invariant.says())).collect()
}

/// The events of the world and of the product.
pub fn events<P: Product>() -> Vec<&'static str> {
    WorldEvent::NAMES.iter().chain(<P::Event as ProductEvent>::NAMES).copied().collect()
}

/// The processes of a topology, `executor-1` and so on, and the berths of containers, `agent-1.1` and so on.
pub fn processes<P: Product>(topology: &BTreeMap<String, usize>) -> Vec<String> {
    P::roles().iter().flat_map(|role| of_role(role, topology)).map(|(_, process)| process).collect()
}

/// The processes that the service manager boots, each with its role.
pub fn managed<P: Product>(topology: &BTreeMap<String, usize>) -> Vec<(&'static str, String)> {
    let roles = P::roles().iter().filter(|role| role.contained.is_none());
    roles.flat_map(|role| of_role(role, topology).into_iter().map(|(_, process)| (role.name, process))).collect()
}

/// The agents whose processes are containers, `agent-1` and so on.
pub fn agents<P: Product>(topology: &BTreeMap<String, usize>) -> Vec<String> {
    let contained = P::roles().iter().filter(|role| role.contained.is_some());
    let mut agents: Vec<_> = contained.flat_map(|role| of_role(role, topology)).map(|(agent, _)| agent).collect();
    agents.dedup();
    agents
}

fn of_role(role: &Role, topology: &BTreeMap<String, usize>) -> Vec<(String, String)> {
    role.processes(topology.get(role.name).copied().unwrap_or(role.count))
}

/// The links of a topology: each process to each of its services, or to each container that it reaches by that name; each
/// user to each process that serves users.
pub fn links<P: Product>(topology: &BTreeMap<String, usize>, users: &P::Workload) -> Vec<String> {
    links_of(P::roles(), topology, &users.users())
}

/// The links of a topology of these roles.
pub(crate) fn links_of(roles: &[Role], topology: &BTreeMap<String, usize>, users: &[String]) -> Vec<String> {
    let mut links = Vec::new();
    for role in roles {
        for (_, process) in of_role(role, topology) {
            for service in role.services {
                let reached = |role: &&Role| role.contained.as_ref().is_some_and(|it| it.reached_as == *service);
                match roles.iter().find(reached) {
                    Some(role) => {
                        links.extend(of_role(role, topology).iter().map(|(_, far)| format!("{process}->{far}")));
                    }
                    None => links.push(format!("{process}->{service}")),
                }
            }
            if role.port.is_some() && role.contained.is_none() {
                links.extend(users.iter().map(|user| format!("{user}->{process}")));
            }
        }
    }
    links
}

/// The services that any process talks to.
pub fn services<P: Product>() -> Vec<&'static str> {
    let mut services: Vec<&str> = P::roles().iter().flat_map(|role| role.services).copied().collect();
    services.sort_unstable();
    services.dedup();
    services
}
