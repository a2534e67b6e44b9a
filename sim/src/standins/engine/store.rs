//! What the engine keeps. Its one law: containers, and the processes in them, outlive the engine.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::sync::Mutex as Turn;

use super::faults::Faults;
use super::observation::Engine as Seen;
use super::{Failure, Running, Spec, Verb};
use crate::plan::FaultRow;
use crate::standins::observation::{FaultObserved, Tap, untapped};

/// A container is unhealthy after so many probes in a row have failed: Docker's default.
const RETRIES: u32 = 3;

/// Everything that the engine knows.
pub(super) struct Store {
    /// By id. Outlive a restart of the engine.
    containers: BTreeMap<String, Container>,
    /// How many were ever created. Outlives a restart.
    created: u64,
    entropy: [u8; 32],
    /// The number of the engine's life: what an earlier life had begun to tend is left alone.
    pub(super) life: u64,
    tap: Tap,
    /// What the next requests of each kind are told to fail with.
    pub(super) failures: BTreeMap<Verb, VecDeque<Failure>>,
    /// What ails it. Outlives a restart.
    pub(super) faults: Faults,
    /// By how much the next stop answers late.
    pub(super) stop_extra: Duration,
}

/// A container.
pub(super) struct Container {
    pub(super) spec: Spec,
    pub(super) state: State,
    /// Counts its starts.
    pub(super) start: u64,
    /// The holder may change the container; others wait in line.
    pub(super) turn: Arc<Turn<()>>,
    nth: u64,
}

/// Where a container stands.
pub(super) enum State {
    Created,
    Running { running: Running, health: Health, stopped_by: Option<SocketAddr> },
    Exited { code: i32 },
}

/// What the probes have shown.
#[derive(Clone, Copy, Default)]
pub(super) struct Health {
    answered: bool,
    failing: u32,
}

impl Store {
    pub(super) fn new(entropy: [u8; 32]) -> Self {
        Store {
            containers: BTreeMap::new(),
            created: 0,
            entropy,
            life: 0,
            tap: untapped(),
            failures: BTreeMap::new(),
            faults: Faults::default(),
            stop_extra: Duration::ZERO,
        }
    }

    /// A life of the engine begins. Gives the containers that run, each with the number of its start.
    pub(super) fn begin(&mut self, tap: Tap) -> Vec<(String, u64)> {
        self.tap = tap;
        self.life += 1;
        let running = self.containers.iter().filter(|(_, container)| container.running().is_some());
        running.map(|(id, container)| (id.clone(), container.start)).collect()
    }

    pub(super) fn tell(&self, seen: Seen) {
        (self.tap)(seen.into());
    }

    /// A request about a container with these labels was answered otherwise because of what ails the engine.
    pub(super) fn suffer(&self, fault: &FaultRow, labels: &BTreeMap<String, String>, peer: SocketAddr) {
        let request: String = labels.iter().map(|(label, value)| format!("{label}={value}\n")).collect();
        let request = request.into_bytes();
        (self.tap)(FaultObserved { peer, service: "engine", ailment: fault.word(), request }.into());
    }

    /// By id or by name.
    pub(super) fn find(&self, who: &str) -> Option<&Container> {
        self.containers.get(who).or_else(|| self.named(who))
    }

    pub(super) fn named(&self, name: &str) -> Option<&Container> {
        self.containers.values().find(|container| container.spec.name == name)
    }

    pub(super) fn get_mut(&mut self, id: &str) -> Option<&mut Container> {
        self.containers.get_mut(id)
    }

    /// The newest first, as Docker lists them.
    pub(super) fn newest_first(&self) -> Vec<&Container> {
        let mut all: Vec<_> = self.containers.values().collect();
        all.sort_by_key(|container| std::cmp::Reverse(container.nth));
        all
    }

    /// The id of the next container, as long as it may come to nothing.
    pub(super) fn mint(&mut self) -> String {
        self.created += 1;
        let mut hash = Sha256::new();
        hash.update(self.entropy);
        hash.update(self.created.to_le_bytes());
        hash.finalize().iter().fold(String::new(), |mut id, byte| {
            // Writing to a String cannot fail.
            let _ = write!(id, "{byte:02x}");
            id
        })
    }

    /// Mints the id, and keeps the container.
    pub(super) fn create(&mut self, spec: impl FnOnce(String) -> Spec, peer: SocketAddr) -> String {
        let id = self.mint();
        let spec = spec(id.clone());
        let (name, labels) = (spec.name.clone(), spec.labels.clone());
        let container = Container { spec, state: State::Created, start: 0, turn: Arc::default(), nth: self.created };
        self.containers.insert(id.clone(), container);
        self.tell(Seen::Created { peer, id: id.clone(), name, labels });
        id
    }

    /// The process has begun. Returns the number of this start.
    pub(super) fn started(&mut self, id: &str, running: Running, peer: SocketAddr) -> u64 {
        let container = self.containers.get_mut(id).expect("a caller that starts a container holds its turn");
        let process = running.process.clone();
        container.state = State::Running { running, health: Health::default(), stopped_by: None };
        container.start += 1;
        let (start, name) = (container.start, container.spec.name.clone());
        self.tell(Seen::Started { peer, id: id.to_owned(), name, process });
        start
    }

    /// The process has ended. It is reported once for each start, by the first to see it.
    pub(super) fn ended(&mut self, id: &str, start: u64, code: i32) {
        let Some(container) = self.containers.get_mut(id).filter(|container| container.start == start) else { return };
        let State::Running { stopped_by, .. } = &container.state else { return };
        let (id, name) = (id.to_owned(), container.spec.name.clone());
        let seen = match *stopped_by {
            Some(peer) => Seen::Stopped { peer, id, name },
            None => Seen::Exited { id, name, code },
        };
        container.state = State::Exited { code };
        self.tell(seen);
    }

    pub(super) fn remove(&mut self, id: &str, peer: SocketAddr) {
        if let Some(container) = self.containers.remove(id) {
            self.tell(Seen::Removed { peer, id: id.to_owned(), name: container.spec.name });
        }
    }
}

impl Container {
    pub(super) fn running(&self) -> Option<&Running> {
        match &self.state {
            State::Running { running, .. } => Some(running),
            State::Created | State::Exited { .. } => None,
        }
    }

    pub(super) fn status(&self) -> &'static str {
        match self.state {
            State::Created => "created",
            State::Running { .. } => "running",
            State::Exited { .. } => "exited",
        }
    }

    pub(super) fn probed(&mut self, well: bool) {
        if let State::Running { health, .. } = &mut self.state {
            health.answered |= well;
            health.failing = if well { 0 } else { health.failing.saturating_add(1) };
        }
    }

    /// As `GET /containers/ID/json` shows it, without what depends on a clock.
    pub(super) fn inspected(&self) -> Value {
        let Spec { id, name, image, env, labels, port } = &self.spec;
        let code = if let State::Exited { code } = self.state { code } else { 0 };
        let mut state = json!({"Status": self.status(), "Running": self.running().is_some(), "ExitCode": code});
        if let State::Running { health, .. } = &self.state {
            state["Health"] = json!({"Status": health.status(), "FailingStreak": health.failing});
        }
        let env: Vec<_> = env.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let mut ports = json!({});
        if let Some(running) = self.running() {
            let published = running.published.to_string();
            ports[format!("{port}/tcp")] = json!([{"HostIp": "0.0.0.0", "HostPort": published}]);
        }
        json!({
            "Id": id,
            "Name": format!("/{name}"),
            "State": state,
            "Config": {"Env": env, "Labels": labels, "Image": image},
            "NetworkSettings": {"Ports": ports},
        })
    }

    /// As `GET /containers/json` shows it.
    pub(super) fn listed(&self) -> Value {
        let Spec { id, name, image, labels, port, .. } = &self.spec;
        let published = |running: &Running| json!({"IP": "0.0.0.0", "PrivatePort": port, "PublicPort": running.published, "Type": "tcp"});
        let ports: Vec<_> = self.running().map(published).into_iter().collect();
        let names = [format!("/{name}")];
        json!({"Id": id, "Names": names, "Image": image, "Labels": labels, "State": self.status(), "Ports": ports})
    }
}

impl Health {
    fn status(self) -> &'static str {
        match self {
            Health { failing: RETRIES.., .. } => "unhealthy",
            Health { answered: true, .. } => "healthy",
            Health { answered: false, .. } => "starting",
        }
    }
}
