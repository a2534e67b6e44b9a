//! The words that a plan may use, as data: one list each for the parser, for `list` and for messages. A product's own come from
//! the readers of its plans.

use std::collections::BTreeMap;
use std::time::Duration;

use super::fault_row::{FaultRow, TargetKind};

/// Everything that a plan may name.
#[derive(Clone, Debug)]
pub struct Vocabulary {
    /// The kinds of process, in the order in which they boot.
    pub roles: &'static [Role],
    /// The settings that `[config.*]` may override.
    pub settings: Vec<&'static str>,
    /// Every event of the world and of the product.
    pub events: Vec<&'static str>,
    /// The events of the world, which belong to no session.
    pub world_events: &'static [&'static str],
    /// The invariants: name, and what each says.
    pub invariants: Vec<(&'static str, &'static str)>,
    /// The faults of links and processes.
    pub faults: Vec<&'static FaultRow>,
    /// What is known of services, their faults included.
    pub services: &'static [&'static ServiceWords],
}

/// A setting of the product's processes, which a plan's `[config.*]` may override.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The name of its environment variable.
    pub name: &'static str,
    /// What it sets, with its unit if it has one.
    pub says: &'static str,
    /// What holds without it.
    pub default: &'static str,
}

/// What a plan may say of a service.
#[derive(Debug)]
pub struct ServiceWords {
    /// As in `executor-1->redis`.
    pub name: &'static str,
    /// Whether it speaks HTTP.
    pub http: bool,
    /// The faults that it and its callers can have.
    pub faults: &'static [&'static FaultRow],
}

/// A kind of process. Its processes are named `gateway-1`, `gateway-2`, …
#[derive(Debug)]
pub struct Role {
    /// As in `[topology]`.
    pub name: &'static str,
    /// The services that it talks to, each through a link of its own.
    pub services: &'static [&'static str],
    /// The port on which it serves users, if it does.
    pub port: Option<u16>,
    /// How many there are unless the plan says otherwise.
    pub count: usize,
    /// Time from SIGTERM to SIGKILL by the service manager.
    pub grace: Duration,
    /// Time from an exit to the next boot.
    pub restart_delay: Duration,
    /// Set if a container engine boots its processes; `count` is the number of agents then, and `port` the one that
    /// each container listens on.
    pub contained: Option<Contained>,
}

/// A role whose processes are containers. Agent `agent-2` has slots `agent-2.1`, `agent-2.2`, …: a container of that
/// agent is the process in one of them, from its start to its end.
#[derive(Debug)]
pub struct Contained {
    /// The service that is the container engine.
    pub engine: &'static str,
    /// How many containers of an agent can run at once.
    pub slots: usize,
    /// The label of a container that names its agent.
    pub label: &'static str,
    /// The service by which other roles name all of them. A role with it among its services is given one address; the
    /// port is to be replaced by the one that the engine says it published.
    pub reached_as: &'static str,
}

impl Role {
    /// The names of its processes if there are `count`, each with the agent that it belongs to: itself, unless it is a
    /// slot. Berths come agent by agent.
    pub fn processes(&self, count: usize) -> Vec<(String, String)> {
        let agents = (1..=count).map(|number| format!("{}-{number}", self.name));
        let Some(contained) = &self.contained else { return agents.map(|name| (name.clone(), name)).collect() };
        let slots = |agent: String| (1..=contained.slots).map(move |nth| (agent.clone(), format!("{agent}.{nth}")));
        agents.flat_map(slots).collect()
    }
}

impl Vocabulary {
    /// Every row, in the order of lists: links, processes, callers, services. A kind that several services have comes with
    /// each of them, side by side.
    pub fn rows(&self) -> Vec<(Option<&'static str>, &'static FaultRow)> {
        let own = self.faults.iter().map(|row| (None, *row));
        let of_services =
            self.services.iter().flat_map(|service| service.faults.iter().map(|row| (Some(service.name), *row)));
        let mut all: Vec<_> = own.chain(of_services).collect();
        let first = |row: &FaultRow, all: &[(Option<&str>, &FaultRow)]| all.iter().position(|(_, other)| *other == row);
        let keys: Vec<_> = all.iter().map(|(_, row)| (rank(row.target), first(row, &all))).collect();
        let mut keyed: Vec<_> = keys.into_iter().zip(all.drain(..)).collect();
        keyed.sort_by_key(|(key, _)| *key);
        keyed.into_iter().map(|(_, row)| row).collect()
    }

    /// Each kind of fault once.
    pub fn kinds(&self) -> Vec<&'static FaultRow> {
        let mut kinds: Vec<_> = self.rows().into_iter().map(|(_, row)| row).collect();
        kinds.dedup();
        kinds
    }

    /// The kind of that word.
    pub fn kind(&self, word: &str) -> Option<&'static FaultRow> {
        self.rows().into_iter().map(|(_, row)| row).find(|row| row.word() == word)
    }

    /// The services that have this kind of fault, or callers that do.
    pub fn having(&self, row: &FaultRow) -> Vec<&'static str> {
        self.services.iter().filter(|service| service.faults.contains(&row)).map(|service| service.name).collect()
    }

    /// Whether HTTP is spoken on a link, as `executor-1->engine`. Processes that are talked to speak it.
    pub fn speaks_http(&self, link: &str) -> bool {
        let far = link.split_once("->").map_or("", |(_, far)| far);
        self.services.iter().find(|service| service.name == far).is_none_or(|service| service.http)
    }

    /// The processes of a topology, `executor-1` and so on, and the slots of containers, `agent-1.1` and so on.
    pub fn processes(&self, topology: &BTreeMap<String, usize>) -> Vec<String> {
        self.roles.iter().flat_map(|role| of_role(role, topology)).map(|(_, process)| process).collect()
    }

    /// The processes that the service manager boots, each with its role.
    pub fn managed(&self, topology: &BTreeMap<String, usize>) -> Vec<(&'static str, String)> {
        let roles = self.roles.iter().filter(|role| role.contained.is_none());
        roles.flat_map(|role| of_role(role, topology).into_iter().map(|(_, process)| (role.name, process))).collect()
    }

    /// The agents whose processes are containers, `agent-1` and so on.
    pub fn agents(&self, topology: &BTreeMap<String, usize>) -> Vec<String> {
        let contained = self.roles.iter().filter(|role| role.contained.is_some());
        let mut agents: Vec<_> = contained.flat_map(|role| of_role(role, topology)).map(|(agent, _)| agent).collect();
        agents.dedup();
        agents
    }

    /// The links of a topology of its roles.
    pub fn links(&self, topology: &BTreeMap<String, usize>, users: &[String]) -> Vec<String> {
        links(self.roles, topology, users)
    }

    /// The services that any process talks to.
    pub fn reached(&self) -> Vec<&'static str> {
        let mut services: Vec<&str> = self.roles.iter().flat_map(|role| role.services).copied().collect();
        services.sort_unstable();
        services.dedup();
        services
    }
}

/// The links of a topology: each process to each of its services, or to each container that it reaches by that name;
/// each user to each process that serves users.
pub(crate) fn links(roles: &[Role], topology: &BTreeMap<String, usize>, users: &[String]) -> Vec<String> {
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

fn of_role(role: &Role, topology: &BTreeMap<String, usize>) -> Vec<(String, String)> {
    role.processes(topology.get(role.name).copied().unwrap_or(role.count))
}

/// The place of a kind of target in lists.
fn rank(target: TargetKind) -> usize {
    match target {
        TargetKind::Link | TargetKind::HttpLink => 0,
        TargetKind::Process | TargetKind::ManagedProcess => 1,
        TargetKind::Caller => 2,
        TargetKind::Service => 3,
    }
}
