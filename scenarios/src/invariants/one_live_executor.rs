//! Once a newer claim has committed, nothing of an older one counts; who cannot say that it lives stops acting long before
//! others may take over; and nobody takes over from one that has said so a moment ago. A Postgres that has lost its newest commits
//! gives out a fence again: then what counts is that of the later claim alone.

use std::collections::BTreeMap;
use std::time::Duration;

use lychgate::live::Kind;
use lychgate_sim::trace::event::{Event, What};
use lychgate_sim::trace::invariant::Breach;

use super::Deadlines;
use super::Promise;
use super::world::World;
use crate::answers::Shown;
use crate::events::{Did, LiveEvent, ProcessEvent, RunEvent, StoreEvent, TurnEvent, UserEvent};
use crate::settings::Settings;

/// What a call or a frame may be on its way.
const ON_THE_WAY: Duration = Duration::from_secs(2);
/// A beat is seen when it is committed, and may be older by so much: Postgres commits late, or is waited for in between.
const LATE_COMMIT: Duration = Duration::from_secs(15);

#[derive(Default)]
struct Run {
    newest: i64,
    owners: BTreeMap<i64, Owner>,
    /// The newest fence of which its user has seen a frame.
    seen: i64,
}

struct Owner {
    process: String,
    /// The name that it goes by in rows: the next life of the same may take what it had at once.
    name: String,
    /// When its last confirmed beat, or its claim, was executed.
    beat: Duration,
}

/// See the module.
pub struct OneLiveExecutor {
    deadlines: Deadlines,
    settings: Settings,
    runs: BTreeMap<String, Run>,
    armed: bool,
}

impl OneLiveExecutor {
    /// For a run with these deadlines and settings.
    pub fn new(deadlines: Deadlines, settings: Settings) -> Self {
        OneLiveExecutor { deadlines, settings, runs: BTreeMap::new(), armed: false }
    }

    fn run(&mut self, label: &str) -> &mut Run {
        self.runs.entry(label.to_string()).or_default()
    }

    /// A claim by `claimant`, while the run was somebody's. Times are Postgres's alone: whatever other clocks show, an owner
    /// has been silent for as long as that says, and it errs only where it has stepped ahead since the last beat.
    fn taken(&self, world: &World, label: &str, (claimant, name): (&str, &str), at: Duration) -> Result<(), Breach> {
        let owner = self.runs.get(label).and_then(|run| run.owners.get(&run.newest));
        let Some(Owner { process, beat, .. }) = owner.filter(|owner| owner.name != name) else { return Ok(()) };
        let silent = at.saturating_sub(*beat);
        if silent + LATE_COMMIT >= self.settings.takeover_after(claimant)
            || world.health.has_stepped_since("postgres", *beat)
        {
            return Ok(());
        }
        let silent = format!("{:.3} s", silent.as_secs_f64());
        Err(Breach::now(format!("{claimant} took {label} from {process}, which had said {silent} ago that it lives")))
    }

    /// A write of `process` that was accepted under `fence`.
    fn wrote(&mut self, label: &str, fence: i64, process: &str, what: &str) -> Result<(), Breach> {
        let run = self.run(label);
        if fence < run.newest {
            return Err(Breach::now(format!("{what} of {label} was accepted under an older fence")));
        }
        let owner = run.owners.get(&fence).filter(|_| fence == run.newest).map(|owner| owner.process.as_str());
        if owner != Some(process) {
            let whose = owner.map_or("nobody".to_owned(), str::to_owned);
            let says = format!("{what} of {label} was accepted from {process}, under the fence of {whose}");
            return Err(Breach::now(says));
        }
        Ok(())
    }

    /// A frame under `fence`, or a call that an agent passes on for its executor.
    fn sent(&self, world: &World, label: &str, fence: i64, at: Duration, by_agent: Option<&str>) -> Result<(), Breach> {
        let Some(owner) = self.runs.get(label).and_then(|run| run.owners.get(&fence)) else {
            return Err(Breach::now(format!("{label} was worked on under a fence that nobody was given")));
        };
        let late = at > owner.beat + self.deadlines.takeover_after / 2 + ON_THE_WAY;
        if !late {
            return Ok(());
        }
        let links = match by_agent {
            None => vec![format!("{}->redis", owner.process)],
            Some(agent) => vec![format!("{}->{agent}", owner.process), format!("{agent}->provider")],
        };
        // What a faulty link has kept was sent earlier.
        let calm = world.health.calm_since(|target| links.iter().any(|link| link == target));
        let held = calm.is_none_or(|calm| !calm.is_zero() && calm + ON_THE_WAY >= owner.beat);
        // Who was stopped in the middle of a step takes that step before it can look at its clock.
        let mut steps = [Some(owner.process.as_str()), by_agent].into_iter().flatten();
        let woken = steps.any(|process| world.health.has_just_gone_on(process, ON_THE_WAY));
        if !held && !woken {
            let says = format!("{} worked on {label} long after its last confirmed beat", owner.process);
            return Err(Breach::now(says));
        }
        Ok(())
    }
}

impl Promise for OneLiveExecutor {
    fn name(&self) -> &'static str {
        "one_live_executor"
    }

    fn says(&self) -> &'static str {
        "once a newer claim has committed, no write, call or frame of an older one counts"
    }

    fn observe(&mut self, event: &Event<Did>, world: &World) -> Result<(), Breach> {
        let What::Product(did) = &event.what else { return Ok(()) };
        match did {
            Did::Run(RunEvent::Claimed { run: label, fence, owner, mark, .. }) => {
                let name = mark.rsplit_once('/').map_or(mark.as_str(), |(name, _)| name);
                self.taken(world, label, (owner, name), event.at)?;
                let owner = Owner { process: owner.clone(), name: name.to_owned(), beat: event.at };
                let run = self.run(label);
                if *fence <= run.newest {
                    return Err(Breach::now(format!("{label} was claimed under a fence that is not new")));
                }
                let again = !run.owners.is_empty();
                run.newest = *fence;
                run.owners.insert(*fence, owner);
                self.armed |= again;
            }
            // Who had claimed it goes on with it until it hears of that: its calls and frames are still of somebody.
            Did::Store(StoreEvent::CommitsLost { runs }) => {
                for label in runs {
                    self.run(label).newest = world.runs.get(label).map_or(0, |run| run.fence);
                }
            }
            Did::Process(ProcessEvent::Beat { confirmed, .. }) => {
                for (label, fence, _) in confirmed {
                    if let Some(owner) = self.run(label).owners.get_mut(fence) {
                        owner.beat = event.at;
                    }
                }
            }
            Did::Run(RunEvent::HandedBack { run, fence, .. }) => {
                self.wrote(run, *fence, &event.process, "a hand-back")?;
                let run = self.run(run);
                run.newest = run.newest.max(fence + 1);
            }
            Did::Run(RunEvent::Checkpointed { run, fence, .. }) => {
                self.wrote(run, *fence, &event.process, "a checkpoint")?
            }
            Did::Run(RunEvent::Ended { run, fence, by_owner: true, .. }) => {
                self.wrote(run, *fence, &event.process, "an end")?;
                // It went through under this fence: nobody else has the run, nor will. Its last frames follow it.
                if let Some(owner) = self.run(run).owners.get_mut(fence) {
                    owner.beat = event.at;
                }
            }
            Did::Turn(TurnEvent::Called { run, fence, .. }) => {
                self.sent(world, run, *fence, event.at, Some(&event.process))?
            }
            Did::Live(LiveEvent::Framed { run, fence, kind, .. }) if *kind == Kind::Token => {
                self.sent(world, run, *fence, event.at, None)?
            }
            Did::User(UserEvent::Saw { run: label, id, kind, .. }) if *kind != Shown::Gap => {
                let fence = id.split('.').next().and_then(|fence| fence.parse().ok()).unwrap_or(0);
                let run = self.run(label);
                if fence < run.seen {
                    return Err(Breach::now(format!("the user was shown a frame of an older owner of {label}")));
                }
                run.seen = fence;
            }
            _ => {}
        }
        Ok(())
    }

    fn armed(&self) -> bool {
        self.armed
    }
}
