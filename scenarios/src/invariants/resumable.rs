//! A process that is told to stop notes at once, durably, what it has in flight; the one that claims such a run tells its user why.
//! A mark is its maker's, and a suspended session's run is neither marked nor resumed. What was handed back in order counts
//! against no session.

use std::collections::BTreeMap;
use std::time::Duration;

use lychgate::limits;
use lychgate::run::{SUSPENDED, Status};
use lychgate_sim::trace::event::{Event, What, WorldEvent};
use lychgate_sim::trace::invariant::{Breach, Obligation};

use super::Promise;
use super::world::{Owner, World};
use crate::events::{Did, ProcessEvent, RunEvent, StoreEvent, UserEvent};
use crate::names::{Role, ends, role};
use crate::settings::Settings;

/// For the way of a signal.
const SLACK: Duration = Duration::from_secs(2);
/// What was claimed so shortly before the signal may not have been known yet: it is handed back.
const IN_FLIGHT: Duration = Duration::from_secs(1);
/// Statements of one transaction are shown together.
const SAME_MOMENT: Duration = Duration::from_millis(1);
/// How long after its line to Postgres has healed a process can still suffer from it; and how long it may take over an end.
const HEALED: Duration = Duration::from_secs(60);

struct Mark {
    /// As it is written.
    by: String,
    /// The process, and which life of it, as the world counts.
    life: (String, u32),
}

/// See the module.
pub struct Resumable {
    settings: Settings,
    /// The marks that runs bear.
    marks: BTreeMap<String, Mark>,
    /// How many notices to its user each run has had.
    notices: BTreeMap<String, usize>,
    /// Runs that must be marked: by whom, and since when.
    owed: BTreeMap<String, (Owner, Duration)>,
    /// Runs whose users must be told why they were claimed anew.
    untold: BTreeMap<String, Duration>,
    /// Runs whose users were told that they are given up.
    given_up: BTreeMap<String, Duration>,
    /// Runs of suspended sessions that must end, and since when.
    held: BTreeMap<String, Duration>,
    armed: bool,
}

/// A claim has suspended a session: so many executors were lost over a run of it.
fn suspended(world: &World, session: &str) -> Result<(), Breach> {
    let vain = world.runs.of_session(session).map(|(_, run)| run.vain).max().unwrap_or_default();
    if vain >= limits::CLAIMS_WITHOUT_TURN {
        return Ok(());
    }
    Err(Breach::now(format!("{session} was suspended, although {vain} claims of a run of it came to nothing, no more")))
}

impl Resumable {
    /// For a run with these settings.
    pub fn new(settings: Settings) -> Self {
        Resumable {
            settings,
            marks: BTreeMap::new(),
            notices: BTreeMap::new(),
            owed: BTreeMap::new(),
            untold: BTreeMap::new(),
            given_up: BTreeMap::new(),
            held: BTreeMap::new(),
            armed: false,
        }
    }

    fn calm(&self, world: &World, process: &str) -> Option<Duration> {
        let link = format!("{process}->postgres");
        world.health.calm_since(|target| target == link)
    }

    fn world(&mut self, world: &World, event: &Event<Did>, happening: &WorldEvent) -> Result<(), Breach> {
        let mine = |owner: &Owner| owner.is(&event.process, event.incarnation);
        match happening {
            WorldEvent::Signalled { nth: 1 } => {
                for (label, run) in world.runs.owned_by(&event.process, event.incarnation) {
                    let Some(owner) = run.owner() else { continue };
                    let known = owner.since + IN_FLIGHT <= event.at;
                    if known && !self.marks.contains_key(label) && !world.runs.is_suspended(&run.session) {
                        self.owed.insert(label.to_owned(), (owner.clone(), event.at));
                        self.armed = true;
                    }
                }
            }
            WorldEvent::Exited { .. } => {
                // A transaction that stands still, on whatever connection, holds up the one that takes marks off.
                let calm = world.health.calm_since(|target| ends(target).is_some_and(|(_, far)| far == "postgres"));
                let excused = calm.is_none_or(|calm| !calm.is_zero() && calm + HEALED > event.at);
                let life = (event.process.clone(), event.incarnation);
                let forgotten =
                    self.marks.iter().find(|(run, mark)| mark.life == life && world.runs.over(run).is_some());
                if let Some((label, _)) = forgotten.filter(|_| !excused) {
                    let says = format!("{} has exited and left its mark on {label}, which is over", event.process);
                    return Err(Breach::now(says));
                }
                self.owed.retain(|_, (owner, _)| !mine(owner));
            }
            WorldEvent::Killed | WorldEvent::Panicked => self.owed.retain(|_, (owner, _)| !mine(owner)),
            _ => {}
        }
        Ok(())
    }

    fn marked(&mut self, world: &World, label: &str, by: &str, life: (String, u32)) -> Result<(), Breach> {
        self.owed.remove(label);
        let Some(run) = world.runs.get(label) else { return Ok(()) };
        if world.runs.is_suspended(&run.session) {
            return Err(Breach::now(format!("{label} was marked, although its session is suspended")));
        }
        if run.owner().is_none_or(|owner| owner.mark != by) {
            return Err(Breach::now(format!("{label} was marked by {by}, whose it is not")));
        }
        if let Some(mark) = self.marks.insert(label.to_owned(), Mark { by: by.to_string(), life }) {
            return Err(Breach::now(format!("{label} bore the mark of {} and was marked again", mark.by)));
        }
        Ok(())
    }

    fn unmarked(&mut self, world: &World, label: &str, by: &str, marked_by: &str) -> Result<(), Breach> {
        if by != marked_by {
            return Err(Breach::now(format!("{by} took off the mark that {marked_by} had left on {label}")));
        }
        if world.runs.is_open(label) {
            return Err(Breach::now(format!("the mark of {label} was taken off while it was going")));
        }
        self.marks.remove(label);
        Ok(())
    }

    fn claimed(&mut self, world: &World, label: &str, at: Duration) -> Result<(), Breach> {
        self.owed.remove(label);
        if world.runs.get(label).is_some_and(|run| world.runs.is_suspended(&run.session)) {
            return Err(Breach::now(format!("{label} was claimed, although its session is suspended")));
        }
        // What a process that is to stop has claimed with its last breath is handed back, or marked as what it had before.
        let owner = world
            .runs
            .get(label)
            .and_then(|run| run.owner())
            .filter(|owner| world.health.life(&owner.process).draining);
        if let Some(owner) = owner {
            self.owed.insert(label.to_owned(), (owner.clone(), at));
        }
        if self.marks.remove(label).is_some() {
            self.armed = true;
            self.untold.insert(label.to_string(), at);
        }
        Ok(())
    }

    fn ended(
        &mut self,
        world: &World,
        label: &str,
        status: Status,
        reason: &str,
        by_owner: bool,
    ) -> Result<(), Breach> {
        for open in [&mut self.given_up, &mut self.held] {
            open.remove(label);
        }
        self.owed.remove(label);
        let Some(run) = world.runs.get(label) else { return Ok(()) };
        if !by_owner || status == Status::Interrupted {
            self.marks.remove(label);
        }
        let wins = by_owner || status != Status::Interrupted || reason == SUSPENDED;
        if world.runs.is_suspended(&run.session) && !wins {
            return Err(Breach::now(format!("{label} ended as {reason}, although its session is suspended")));
        }
        Ok(())
    }
}

impl Promise for Resumable {
    fn name(&self) -> &'static str {
        "resumable"
    }

    fn says(&self) -> &'static str {
        "what is in flight is marked before any wait, and resumed with a notice; own marks only; suspended wins"
    }

    fn observe(&mut self, event: &Event<Did>, world: &World) -> Result<(), Breach> {
        let did = match &event.what {
            What::World(happening) => return self.world(world, event, happening),
            What::Product(did) => did,
        };
        match did {
            Did::Run(RunEvent::Claimed { run, .. }) => self.claimed(world, run, event.at)?,
            Did::Run(RunEvent::Marked { run, by, .. }) => {
                self.marked(world, run, by, (event.process.clone(), event.incarnation))?
            }
            Did::Run(RunEvent::Unmarked { run, by, marked_by, .. }) => self.unmarked(world, run, by, marked_by)?,
            Did::Process(ProcessEvent::MarkFailed { process }) => {
                self.owed.retain(|_, (owner, _)| owner.process != *process)
            }
            Did::User(UserEvent::Found { run: label, notices, .. })
                if self.notices.get(label).is_some_and(|written| notices < written) =>
            {
                return Err(Breach::now(format!("the user of {label} does not find the notice about it")));
            }
            Did::Run(RunEvent::Noticed { run, .. }) => {
                *self.notices.entry(run.clone()).or_default() += 1;
                if self.untold.remove(run).is_none() {
                    self.given_up.insert(run.clone(), event.at);
                }
            }
            Did::Run(RunEvent::HandedBack { run, .. }) => _ = self.owed.remove(run),
            Did::Store(StoreEvent::CommitsLost { runs }) => self.owed.retain(|run, _| !runs.contains(run)),
            Did::Run(RunEvent::Ended { run, status, reason, by_owner, .. }) => {
                self.ended(world, run, *status, reason, *by_owner)?
            }
            Did::Run(RunEvent::Suspended { session }) => {
                if role(&event.process) == Some(Role::Executor) {
                    suspended(world, session)?;
                }
                for (label, run) in world.runs.open().filter(|(_, run)| run.session == *session) {
                    self.owed.remove(label);
                    if run.owner().is_some() {
                        self.held.insert(label.to_owned(), event.at);
                        self.armed = true;
                    }
                }
            }
            Did::Run(RunEvent::Unsuspended { session }) => {
                self.held.retain(|label, _| world.runs.get(label).is_some_and(|run| run.session != *session));
            }
            _ => {}
        }
        Ok(())
    }

    fn pending(&self, world: &World) -> Vec<Obligation> {
        let marks = self.owed.iter().map(|(label, (owner, since))| {
            let says = format!("{label}, which {} has in flight, is marked", owner.process);
            let life = world.health.life(&owner.process);
            // One that stands still hears of the signal when it goes on.
            let moves = (!life.paused).then(|| life.went_on.map_or(*since, |at| at.max(*since)));
            let due = self.calm(world, &owner.process).zip(moves);
            let due = due.map(|(calm, moves)| calm.max(moves) + limits::MARK + SLACK);
            Obligation::new(says, *since, due.unwrap_or(Duration::MAX))
        });
        let told = self.untold.iter().map(|(label, since)| {
            Obligation::new(format!("the user of {label} is told why it was taken over"), *since, *since + SAME_MOMENT)
        });
        let given_up = self.given_up.iter().map(|(label, since)| {
            let says = format!("{label}, of which its user was told that it is given up, is over");
            Obligation::new(says, *since, *since + SAME_MOMENT)
        });
        let held = self.held.iter().map(|(label, since)| {
            let owner = world.runs.get(label).and_then(|run| run.owner());
            // A run whose owner is gone waits for a takeover, as in any session.
            let lives = owner.filter(|owner| world.health.is_alive(&owner.process, owner.incarnation));
            let due = lives.and_then(|owner| {
                let within = self.settings.beat_every(&owner.process) + limits::POSTGRES_CALL + HEALED;
                self.calm(world, &owner.process).map(|calm| calm.max(*since) + within)
            });
            let says = format!("{label}, whose session is suspended, is over");
            Obligation::new(says, *since, due.unwrap_or(Duration::MAX))
        });
        marks.chain(told).chain(given_up).chain(held).collect()
    }

    fn armed(&self) -> bool {
        self.armed
    }
}
