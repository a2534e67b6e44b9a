//! Nobody works for nobody: how often a process asks a service is explained by its own beats and sweeps, by the runs that go on,
//! and by who is connected to it. A loop without a pause works, and costs a processor and a server.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use lychgate_sim::trace::event::{Event, What, WorldEvent};
use lychgate_sim::trace::invariant::Breach;

use super::Promise;
use super::world::World;
use crate::events::{DeliveryEvent, Did, How, LiveEvent, RunEvent};
use crate::names::{near, role};

/// Requests a second that a process may send to one service by itself. It beats every five seconds and sweeps about as often,
/// each with a handful of statements, and looks after each agent every fifteen.
const BY_ITSELF: f64 = 4.0;
/// Requests a second that each run, and each connection of a user or a caller, may add: a token is a frame, and a frame a request;
/// a model that is faster than this explains its frames itself, see [`FRAME`];
/// a claim that a store refuses is tried twice a second, half a dozen requests each, and both a hint and a sweep lead to one.
const EACH: f64 = 32.0;

/// Requests that each frame explains, of its writer and of each process whose readers see it: alone in its batch it is written and
/// kept, read and waited for.
const FRAME: f64 = 4.0;

/// A process gives one run's delivery back so often within [`WINDOW`] at most: it keeps each for seconds, as for its claim or for
/// a slot, before it does.
const GIVEN_BACK: usize = 8;
/// The length over which that is counted.
const WINDOW: Duration = Duration::from_secs(10);

/// What is known of a link since its requests were last told.
struct Since {
    at: Duration,
    /// The most runs and connections at once.
    work: usize,
    /// The frames that were written meanwhile.
    frames: u32,
}

/// See the module.
#[derive(Default)]
pub struct NothingForNobody {
    links: BTreeMap<String, Since>,
    /// The last times at which a process gave the delivery of a run back, the newest last.
    given_back: BTreeMap<(String, String), VecDeque<Duration>>,
    armed: bool,
}

/// How many runs and connections a process may work for.
fn work(world: &World, process: &str) -> usize {
    world.runs.open().count() + world.links.leading_to(process)
}

impl NothingForNobody {
    fn look(&mut self, world: &World) {
        for (link, since) in &mut self.links {
            since.work = since.work.max(work(world, near(link)));
        }
    }

    fn gave_back(&mut self, process: &str, run: &str, at: Duration) -> Result<(), Breach> {
        let times = self.given_back.entry((process.to_owned(), run.to_owned())).or_default();
        times.push_back(at);
        times.retain(|time| *time + WINDOW >= at);
        if times.len() <= GIVEN_BACK {
            return Ok(());
        }
        Err(Breach::now(format!("{process} gave the delivery of {run} back {} times in {WINDOW:?}", times.len())))
    }

    fn asked(&mut self, world: &World, at: Duration, link: &str, requests: u32) -> Result<(), Breach> {
        let now = Since { at, work: work(world, near(link)), frames: 0 };
        let work = now.work;
        let Some(before) = self.links.insert(link.to_owned(), now) else { return Ok(()) };
        self.armed = true;
        let work = work.max(before.work);
        let (took, most) = ((at - before.at).as_secs_f64(), BY_ITSELF + EACH * work as f64);
        if f64::from(requests) <= took * most + FRAME * f64::from(before.frames) {
            return Ok(());
        }
        let says = format!("{requests} requests on {link} in {took:.1} s, for {work} runs and connections at most");
        Err(Breach::now(says))
    }
}

impl Promise for NothingForNobody {
    fn name(&self) -> &'static str {
        "nothing_for_nobody"
    }

    fn says(&self) -> &'static str {
        "a process asks its services no oftener than its beats, its runs and its callers explain, and no delivery spins"
    }

    fn observe(&mut self, event: &Event<Did>, world: &World) -> Result<(), Breach> {
        match &event.what {
            What::World(WorldEvent::Asked { link, requests }) if role(near(link)).is_some() => {
                self.asked(world, event.at, link, *requests)?;
            }
            What::Product(Did::Delivery(DeliveryEvent::Settled { run, how: How::GivenBack, .. })) => {
                self.gave_back(&event.process, run, event.at)?;
            }
            What::Product(Did::Live(LiveEvent::Framed { .. })) => {
                self.links.values_mut().for_each(|since| since.frames += 1);
            }
            What::World(WorldEvent::LinkOpened { .. }) | What::Product(Did::Run(RunEvent::Accepted { .. })) => {
                self.look(world);
            }
            _ => {}
        }
        Ok(())
    }

    fn armed(&self) -> bool {
        self.armed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::world::SharedWorld;

    /// Two hundred requests of an idle executor, and two hundred more so many seconds later.
    fn asked_after(seconds: u64, link: &str) -> Result<(), Breach> {
        let (world, mut promise) = (SharedWorld::default(), NothingForNobody::default());
        let asked = || What::World(WorldEvent::Asked { link: link.to_owned(), requests: 200 });
        for (seq, at) in [(0, 10), (1, 10 + seconds)] {
            let (at, process) = (Duration::from_secs(at), near(link).to_owned());
            let event = Event { seq, at, process, incarnation: 1, what: asked() };
            promise.observe(&event, &world.after(&event))?;
        }
        Ok(())
    }

    #[test]
    fn who_has_nothing_to_do_asks_little_and_users_ask_as_they_like() {
        let breach = asked_after(20, "executor-1->postgres").unwrap_err().says;
        assert_eq!(breach, "200 requests on executor-1->postgres in 20.0 s, for 0 runs and connections at most");
        assert_eq!(asked_after(50, "executor-1->postgres"), Ok(()));
        assert_eq!(asked_after(1, "ann->gateway-1"), Ok(()));
    }
}
