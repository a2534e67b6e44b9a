//! No remote call outlives its bound, and a cancel that was acknowledged is heard at the next beat.
//!
//! Bounds are a service's longest legal silence as its clients' limits have it, and some slack for the way.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lychgate::limits::{self, Limits};
use lychgate_sim::trace::event::{Event, What, WorldEvent};
use lychgate_sim::trace::invariant::{Breach, Obligation};

use super::Promise;
use super::world::World;
use crate::events::{Did, ProcessEvent, RunEvent};
use crate::names::{Role, far, near, role};
use crate::settings::Settings;

/// For latency, and for a client to notice that its bound has passed.
const SLACK: Duration = Duration::from_secs(5);

/// How long a process may rightly wait for a byte on this link, where these are the bounds of agents.
fn bound(link: &str, limits: &Limits) -> Duration {
    match far(link) {
        "postgres" => limits::CONNECT.max(limits::POSTGRES_CALL),
        "redis" => limits::REDIS_CALL,
        // Acknowledgements are not answered; what must come is a heartbeat.
        "rabbitmq" => limits::BROKER_HEARTBEAT * 2 + limits::BROKER_CALL,
        // A stop answers when the container has ended.
        "engine" => limits::ENGINE_STOP,
        agent if role(agent) == Some(Role::Agent) => limits.agent_first_line().max(limits.agent_stall()),
        "provider" => limits.model_silence,
        // Users leave a stream that is silent for longer than two heartbeats.
        _ => limits::SSE_HEARTBEAT * 2 + limits::POSTGRES_CALL * 2,
    }
}

/// See the module.
pub struct BoundedWaits {
    limits: Limits,
    waiting: BTreeMap<(String, u32), Duration>,
    /// Runs whose cancel is committed and which no beat has named since.
    cancels: BTreeSet<String>,
    armed: bool,
}

impl BoundedWaits {
    /// For a run with these settings.
    pub fn new(settings: &Settings) -> Self {
        let limits = Limits { model_silence: settings.model_silence(), ..Limits::default() };
        BoundedWaits { limits, waiting: BTreeMap::new(), cancels: BTreeSet::new(), armed: false }
    }
}

impl Promise for BoundedWaits {
    fn name(&self) -> &'static str {
        "bounded_waits"
    }

    fn says(&self) -> &'static str {
        "no remote call outlives its bound; an acknowledged cancel is heard at the next beat"
    }

    fn observe(&mut self, event: &Event<Did>, _: &World) -> Result<(), Breach> {
        match &event.what {
            What::World(WorldEvent::Unanswered { link, conn, since }) => {
                self.waiting.insert((link.clone(), *conn), *since);
                self.armed |= far(link) != "rabbitmq";
            }
            What::World(WorldEvent::AnsweredLate { link, conn, .. } | WorldEvent::LinkClosed { link, conn, .. }) => {
                self.waiting.remove(&(link.clone(), *conn));
            }
            What::World(WorldEvent::Resumed) => {
                let mine = self.waiting.iter_mut().filter(|((link, _), _)| near(link) == event.process);
                // Its own clocks have gone on; what it does about them begins now.
                mine.for_each(|(_, since)| *since = event.at);
            }
            What::Product(Did::Run(RunEvent::CancelRequested { run, .. })) => {
                self.cancels.insert(run.clone());
            }
            What::Product(Did::Process(ProcessEvent::Beat { confirmed, .. })) => {
                for (run, _, cancel) in confirmed {
                    let asked = self.cancels.remove(run);
                    self.armed |= asked;
                    if asked && !cancel {
                        return Err(Breach::now(format!("a beat did not hear that {run} shall stop")));
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn pending(&self, world: &World) -> Vec<Obligation> {
        // A process that stands still cannot give up.
        let able = self.waiting.iter().filter(|((link, _), _)| !world.health.life(near(link)).paused);
        let waiting = able.map(|((link, _), since)| {
            let says = format!("a request on {link} is answered or given up");
            let due = *since + bound(link, &self.limits) + SLACK;
            // Our own heartbeats wait for the broker's, for ever.
            let standing = far(link) == "rabbitmq";
            if standing { Obligation::standing(says, *since, due) } else { Obligation::new(says, *since, due) }
        });
        waiting.collect()
    }

    fn armed(&self) -> bool {
        self.armed
    }
}
