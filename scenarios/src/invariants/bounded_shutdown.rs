//! A process that is told to stop is gone within its budget, for any number of signals and whatever is wedged. Who has nothing
//! left to do does not wait for the budget's end, and its exit code says whether anything is left.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lychgate_sim::trace::event::{Event, What, WorldEvent};
use lychgate_sim::trace::invariant::{Breach, Obligation};

use super::Promise;
use super::world::World;
use crate::events::{Did, ProcessEvent};
use crate::settings::Settings;

/// For the way of a signal and of the last words.
const SLACK: Duration = Duration::from_secs(2);
/// A claim in flight at its bound, the view of the last run with its net, and the closes: nothing else is left to do.
const NOTHING_LEFT: Duration = Duration::from_secs(60);

/// See the module.
pub struct BoundedShutdown {
    settings: Settings,
    /// Processes that were told to stop, by name: when, and how much of the time since does not count.
    told: BTreeMap<String, (Duration, Duration)>,
    /// The runs that each process named in its last beat.
    named: BTreeMap<String, BTreeSet<String>>,
    armed: bool,
}

impl BoundedShutdown {
    /// For a run with these settings.
    pub fn new(settings: Settings) -> Self {
        BoundedShutdown { settings, told: BTreeMap::new(), named: BTreeMap::new(), armed: false }
    }

    /// A process has stood still until now: what of that came after it was told to stop does not count.
    fn goes_on(&mut self, world: &World, process: &str, at: Duration) {
        let since = world.health.life(process).stood_still;
        if let (Some((told, excused)), Some(since)) = (self.told.get_mut(process), since) {
            *excused += at.saturating_sub(since.max(*told));
        }
    }

    /// Whether a process that exits with 0 owns no run any more, but one that it lost, or of which it has never said that it knows.
    fn leaves_nothing(&self, world: &World, process: &str, incarnation: u32) -> Result<(), Breach> {
        let mut owned = world.runs.owned_by(process, incarnation);
        let knows = |run: &str| self.named.get(process).is_some_and(|named| named.contains(run));
        match owned.find(|(run, _)| knows(run) && world.runs.acting(run).is_some()) {
            None => Ok(()),
            Some((run, _)) => {
                Err(Breach::now(format!("{process} exited with 0, as if all was done, and leaves {run}")))
            }
        }
    }

    fn due(&self, world: &World, process: &str, told: Duration, excused: Duration) -> Duration {
        let budget = told + self.settings.shutdown(process) + SLACK;
        let link = format!("{process}->postgres");
        let idle = !world.runs.owns_any(process, world.health.life(process).incarnation);
        let early = world
            .health
            .calm_since(|target| target == link)
            .filter(|_| idle)
            .map(|calm| calm.max(world.runs.let_go(process)).max(told) + NOTHING_LEFT);
        early.map_or(budget, |early| early.min(budget)) + excused
    }
}

impl Promise for BoundedShutdown {
    fn name(&self) -> &'static str {
        "bounded_shutdown"
    }

    fn says(&self) -> &'static str {
        "a process exits inside its stated budget, for any number of signals and any wedge"
    }

    fn observe(&mut self, event: &Event<Did>, world: &World) -> Result<(), Breach> {
        match &event.what {
            What::World(WorldEvent::Signalled { nth: 1 }) => {
                self.told.insert(event.process.clone(), (event.at, Duration::ZERO));
                self.armed |= world.runs.owns_any(&event.process, event.incarnation);
            }
            What::Product(Did::Process(ProcessEvent::Beat { owner, named, .. })) => {
                self.named.insert(owner.clone(), named.iter().map(|(run, _)| run.clone()).collect());
            }
            What::World(WorldEvent::Resumed) => self.goes_on(world, &event.process, event.at),
            What::World(WorldEvent::Exited { code }) => {
                self.told.remove(&event.process);
                if *code == 0 {
                    self.leaves_nothing(world, &event.process, event.incarnation)?;
                }
            }
            What::World(WorldEvent::Killed | WorldEvent::Panicked) => _ = self.told.remove(&event.process),
            _ => {}
        }
        Ok(())
    }

    fn pending(&self, world: &World) -> Vec<Obligation> {
        let exits = self.told.iter().map(|(process, (told, excused))| {
            let says = format!("{process}, which was told to stop, has exited");
            // Who stands still cannot exit.
            let due = match world.health.life(process).paused {
                true => Duration::MAX,
                false => self.due(world, process, *told, *excused),
            };
            Obligation::new(says, *told, due)
        });
        exits.collect()
    }

    fn armed(&self) -> bool {
        self.armed
    }
}
