//! An agent that is up says how it is: 200, at once, whatever its turns wait for, and what it says of them is true.

use std::collections::BTreeMap;
use std::time::Duration;

use lychgate_sim::trace::event::{Event, What, WorldEvent};
use lychgate_sim::trace::invariant::Breach;

use super::Promise;
use super::world::World;
use crate::events::{AgentEvent, Did, TurnEvent};

/// A gauge may lag by so much behind what the provider sees, and lead it by as much.
const MOMENT: Duration = Duration::from_millis(200);

/// After a fault of an agent's line to its provider so much later, at most, the provider knows who has hung up.
const HEARD: Duration = Duration::from_secs(15);
/// What every answer tells.
const GAUGES: [&str; 5] = ["threads", "tasks", "runs", "history", "history_limit"];

/// See the module.
#[derive(Default)]
pub struct HealthAnswers {
    /// Calls that are going at the provider, by slot: since when.
    calls: BTreeMap<String, BTreeMap<String, Duration>>,
    armed: bool,
}

/// Whether the process has stood still at any time since then.
fn has_paused(world: &World, process: &str, since: Duration) -> bool {
    let life = world.health.life(process);
    life.paused || life.went_on.is_some_and(|went_on| went_on >= since)
}

impl Promise for HealthAnswers {
    fn name(&self) -> &'static str {
        "health_answers"
    }

    fn says(&self) -> &'static str {
        "an agent's /health answers 200 in bounded time, with gauges that are true, whatever is stuck"
    }

    fn observe(&mut self, event: &Event<Did>, world: &World) -> Result<(), Breach> {
        let process = event.process.clone();
        match &event.what {
            What::World(WorldEvent::Booted | WorldEvent::Exited { .. } | WorldEvent::Killed | WorldEvent::Panicked) => {
                self.calls.remove(&process);
            }
            What::Product(Did::Turn(TurnEvent::Called { run, .. })) => {
                self.calls.entry(process).or_default().insert(run.clone(), event.at);
            }
            What::Product(
                Did::Turn(TurnEvent::Answered { run, .. })
                | Did::Turn(TurnEvent::HungUp { run, .. })
                | Did::Turn(TurnEvent::Spoiled { run, .. })
                | Did::Turn(TurnEvent::Refused { run, .. }),
            ) => {
                if let Some(calls) = self.calls.get_mut(&process) {
                    calls.remove(run);
                }
            }
            What::Product(Did::Agent(AgentEvent::Probed { process, agent, status, gauges, took })) => {
                let asked = event.at.saturating_sub(*took);
                if has_paused(world, process, asked) {
                    return Ok(());
                }
                if *status != Some(200) {
                    return Err(Breach::now(format!("{agent} is up, and its /health does not answer 200")));
                }
                if let Some(missing) = GAUGES.iter().find(|name| gauges.get(**name).is_none_or(|gauge| *gauge < 0)) {
                    return Err(Breach::now(format!("{agent}'s /health does not tell its {missing}")));
                }
                let calls = self.calls.get(process);
                let settled = |since: &&Duration| **since + MOMENT <= asked;
                // Of a call over a faulty line the provider may not know yet that its caller is gone.
                let line = format!("{process}->provider");
                let calm = world.health.calm_since(|target| target == line);
                let hears = calm.is_some_and(|calm| calm.is_zero() || calm + HEARD <= asked);
                let going = calls.filter(|_| hears).map_or(0, |calls| calls.values().filter(settled).count());
                self.armed |= going > 0;
                if gauges.get("runs").is_none_or(|runs| *runs < i64::try_from(going).unwrap_or(i64::MAX)) {
                    let says = format!("{agent} works on {going} turns at least, and its /health does not say so");
                    return Err(Breach::now(says));
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn armed(&self) -> bool {
        self.armed
    }
}
