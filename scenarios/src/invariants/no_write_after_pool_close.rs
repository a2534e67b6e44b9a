//! The pool through which turns are committed is closed when the last run is over, and once: after that nothing of its
//! process's life is written through it, and nothing tries to. Only a Postgres that does not answer excuses a pool that
//! is abandoned.

use std::collections::BTreeMap;
use std::time::Duration;

use lychgate_sim::trace::event::{Event, What, WorldEvent};
use lychgate_sim::trace::invariant::Breach;

use super::Promise;
use super::world::World;
use crate::events::{Did, ProcessEvent, RunEvent, StoreEvent, TurnEvent};
use crate::names::{Role, role};

/// The pool of checkpoints.
const CHECKPOINTS: &str = "checkpoints";
/// The pool of everything else, opened first and closed last.
const STORE: &str = "store";
/// How long after its line to Postgres has healed a process can still suffer from it.
const HEALED: Duration = Duration::from_secs(60);

/// One life of one process.
type Life = (String, u32);

struct Run {
    owner: Option<Life>,
    /// Whether the model has answered a turn that is not checkpointed.
    answered: bool,
}

/// See the module.
#[derive(Default)]
pub struct NoWriteAfterPoolClose {
    runs: BTreeMap<String, Run>,
    /// The pools that a life has closed or abandoned, in order.
    closed: BTreeMap<Life, Vec<String>>,
    armed: bool,
}

impl NoWriteAfterPoolClose {
    /// Whether its line to Postgres is, or was lately, sick; or it has just stood still, and its budget is spent.
    fn excused(&self, world: &World, process: &str, at: Duration) -> bool {
        if world.health.has_just_gone_on(process, HEALED) {
            return true;
        }
        let link = format!("{process}->postgres");
        let calm = world.health.calm_since(|target| target == link);
        calm.is_none_or(|calm| !calm.is_zero() && calm + HEALED > at)
    }

    fn has_closed(&self, life: &Life, pool: &str) -> bool {
        self.closed.get(life).is_some_and(|closed| closed.iter().any(|closed| closed == pool))
    }

    fn close(&mut self, world: &World, life: Life, pool: &str, at: Duration) -> Result<(), Breach> {
        let (process, _) = &life;
        if self.has_closed(&life, pool) {
            return Err(Breach::now(format!("{process} closed its pool `{pool}` twice")));
        }
        let executor = role(process) == Some(Role::Executor);
        if pool == STORE && executor && !self.has_closed(&life, CHECKPOINTS) {
            let says = format!("{process} closed its pool `{pool}`, which it opened first, before `{CHECKPOINTS}`");
            return Err(Breach::now(says));
        }
        let going = self.runs.iter().find(|(_, run)| run.owner.as_ref() == Some(&life));
        if let Some((run, _)) = going.filter(|_| !self.excused(world, process, at)) {
            return Err(Breach::now(format!("{process} closed its pool `{pool}` while {run} was going")));
        }
        self.closed.entry(life).or_default().push(pool.to_string());
        Ok(())
    }

    fn exit(&self, life: &Life) -> Result<(), Breach> {
        let pools: &[&str] = match role(&life.0) {
            Some(Role::Executor) => &[CHECKPOINTS, STORE],
            Some(Role::Gateway) => &[STORE],
            _ => &[],
        };
        match pools.iter().find(|pool| !self.has_closed(life, pool)) {
            Some(pool) => Err(Breach::now(format!("{} exited without closing its pool `{pool}`", life.0))),
            None => Ok(()),
        }
    }
}

impl Promise for NoWriteAfterPoolClose {
    fn name(&self) -> &'static str {
        "no_write_after_pool_close"
    }

    fn says(&self) -> &'static str {
        "runs end before the checkpoint pool is closed; afterwards nothing is written through it, and nothing tries"
    }

    fn observe(&mut self, event: &Event<Did>, world: &World) -> Result<(), Breach> {
        let life = (event.process.clone(), event.incarnation);
        let did = match &event.what {
            What::World(WorldEvent::Signalled { .. }) => {
                let mine = |run: &Run| run.owner.as_ref() == Some(&life);
                self.armed |= self.runs.values().any(|run| mine(run) && run.answered);
                return Ok(());
            }
            What::World(WorldEvent::Exited { .. }) => return self.exit(&life),
            What::World(_) => return Ok(()),
            What::Product(did) => did,
        };
        match did {
            Did::Run(RunEvent::Claimed { run, owner, .. }) => {
                let owner = (owner.clone(), world.health.life(owner).incarnation);
                self.runs.insert(run.clone(), Run { owner: Some(owner), answered: false });
            }
            Did::Turn(TurnEvent::Answered { run, .. }) => {
                if let Some(run) = self.runs.get_mut(run) {
                    run.answered = true;
                }
            }
            Did::Run(RunEvent::HandedBack { run, .. }) | Did::Run(RunEvent::Ended { run, .. }) => {
                self.runs.remove(run);
            }
            // Whose it was before has long lost it.
            Did::Store(StoreEvent::CommitsLost { runs }) => self.runs.retain(|run, _| !runs.contains(run)),
            Did::Run(RunEvent::Checkpointed { run, pool, .. }) => {
                if pool != CHECKPOINTS {
                    return Err(Breach::now(format!("a turn of {run} was committed through the pool `{pool}`")));
                }
                if self.has_closed(&life, pool) && !self.excused(world, &life.0, event.at) {
                    return Err(Breach::now(format!("a turn of {run} was committed after {} closed the pool", life.0)));
                }
                if let Some(run) = self.runs.get_mut(run) {
                    run.answered = false;
                }
            }
            Did::Run(RunEvent::CheckpointTried { run, .. }) => {
                return Err(Breach::now(format!("a turn of {run} was to be committed after the pool was closed")));
            }
            Did::Process(ProcessEvent::PoolClosed { pool, .. }) => self.close(world, life, pool, event.at)?,
            Did::Process(ProcessEvent::PoolAbandoned { process, pool }) => {
                if !self.excused(world, process, event.at) {
                    return Err(Breach::now(format!("{process} abandoned its pool `{pool}`")));
                }
                self.closed.entry(life).or_default().push(pool.clone());
            }
            _ => {}
        }
        Ok(())
    }

    fn armed(&self) -> bool {
        self.armed
    }
}
