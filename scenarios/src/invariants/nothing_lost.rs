//! What was accepted is consumed or reported, and what was done is not done again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lychgate::limits::{ATTEMPTS_PER_TURN, BACKOFF_MAX, POSTGRES_CALL, RATE_LIMIT_PATIENCE, RATE_LIMIT_WAIT};
use lychgate::run::{STORE_REFUSED, Status};
use lychgate_sim::trace::event::{Event, What};
use lychgate_sim::trace::invariant::{Breach, Obligation};

use super::Promise;
use super::rightly_asked::is_spoilt;
use super::world::{World, leads_to};
use crate::events::{Did, RunEvent, StoreEvent, TurnEvent};
use crate::names::{Role, ends, role};

#[derive(Default)]
struct Run {
    accepted: Duration,
    newest: i64,
    checkpointed: i64,
    /// The fence and the turn of the newest answer that its model has given whole.
    answered: (i64, i64),
    /// Whether that answer has no more turns.
    answered_last: bool,
    /// When it gave it.
    answered_at: Duration,
    /// Whether its last turn is checkpointed.
    finished: bool,
    consumed: bool,
    reported: bool,
    ended: Option<Duration>,
    claims: u32,
    /// Whether Postgres has lost its newest claim: no answer that is given until the next one can be kept.
    unclaimed: bool,
    calls: u32,
    /// The number of the newest call's attempt.
    attempt: i64,
    /// The status with which the provider itself failed over it, if it did.
    turned_away: Option<u16>,
    /// Answers to one turn under one fence that were cut: which, and how many.
    cut: ((i64, i64), u32),
    tries: Tries,
}

/// The attempts at one turn that reached the model through one life of a container, since the model was last refused.
#[derive(Default)]
struct Tries {
    /// The fence and the turn.
    of: (i64, i64),
    through: (String, u32),
    attempts: BTreeSet<i64>,
    /// How often the model's provider refused it.
    refused: u32,
}

/// How often the provider may refuse one turn through one life of a container. It is asked at once, and after pauses that grow to
/// [`BACKOFF_MAX`], for as long as a run waits for a provider at most.
const REFUSED_MOST: u32 =
    8 + ((RATE_LIMIT_WAIT.as_secs() + RATE_LIMIT_PATIENCE.as_secs()) / BACKOFF_MAX.as_secs()) as u32;

/// See the module.
#[derive(Default)]
pub struct NothingLost {
    runs: BTreeMap<String, Run>,
    /// The runs that are over, with a message that is neither consumed nor reported.
    unread: BTreeSet<String>,
    armed: bool,
}

/// The report of what an end leaves unread stands in the end's own transaction.
const SAME_MOMENT: Duration = Duration::from_millis(1);

/// A turn whose answers were cut so often has failed: each counts, but one that an agent's restart has cut.
const CUT_MOST: u32 = 2 * ATTEMPTS_PER_TURN;

/// Whether nothing explains that an answer which was whole at this time was not kept: of faults there was nothing but trouble of
/// Postgres, and that was over before one call to it may give up.
fn thrown_away(world: &World, answered: Duration) -> bool {
    let postgres = |target: &str| target == "postgres" || leads_to(target, "postgres");
    let elsewhere = world.health.calm_since(|target| !postgres(target));
    let well = world.health.calm_since(postgres);
    elsewhere.is_some_and(|calm| calm.is_zero()) && well.is_some_and(|well| well < answered + POSTGRES_CALL)
}

/// Whether it is in the way of a turn, from its executor to its model.
fn matters_to_turns(target: &str) -> bool {
    let agent = |name: &str| role(name) == Some(Role::Agent);
    leads_to(target, "provider") || ends(target).map_or(agent(target), |(from, to)| agent(from) || agent(to))
}

/// Whether it is in the way of a turn between its executor and its agent.
fn matters_to_agents(target: &str) -> bool {
    match ends(target) {
        Some((from, to)) => role(from) == Some(Role::Executor) && (to.starts_with("agent-") || to == "engine"),
        None => target == "engine" || matches!(role(target), Some(Role::Agent | Role::Executor)),
    }
}

impl NothingLost {
    fn run(&mut self, label: &str) -> &mut Run {
        self.runs.entry(label.to_string()).or_default()
    }

    fn sort(&mut self, label: &str) {
        let run = self.run(label);
        match run.ended.is_some() && !run.consumed && !run.reported {
            true => self.unread.insert(label.to_string()),
            false => self.unread.remove(label),
        };
    }
}

impl Promise for NothingLost {
    fn name(&self) -> &'static str {
        "nothing_lost"
    }

    fn says(&self) -> &'static str {
        "an accepted message is consumed or reported, a turn answered whole; what is over or checkpointed is not done again"
    }

    fn observe(&mut self, event: &Event<Did>, world: &World) -> Result<(), Breach> {
        let What::Product(did) = &event.what else { return Ok(()) };
        match did {
            Did::Run(RunEvent::Accepted { run: label, .. }) => {
                if self.runs.contains_key(label) {
                    return Err(Breach::now(format!("{label} was accepted twice")));
                }
                self.run(label).accepted = event.at;
            }
            Did::Run(RunEvent::Claimed { run: label, fence, .. }) => {
                let run = self.run(label);
                if run.ended.is_some() {
                    return Err(Breach::now(format!("{label} was over and was claimed again")));
                }
                run.newest = *fence;
                run.claims += 1;
                if std::mem::take(&mut run.unclaimed) {
                    run.answered = (0, 0);
                }
            }
            Did::Store(StoreEvent::CommitsLost { runs }) => {
                for label in runs {
                    let newest = world.runs.get(label).map_or(0, |run| run.fence);
                    let run = self.run(label);
                    (run.newest, run.unclaimed) = (newest, true);
                }
            }
            Did::Turn(TurnEvent::Called { run: label, fence, turn, attempt, .. }) => {
                let run = self.run(label);
                if run.answered.1 == *turn && thrown_away(world, run.answered_at) {
                    return Err(Breach::now(format!(
                        "turn {turn} of {label} was answered whole, Postgres was ill for a moment alone, and the model is asked again"
                    )));
                }
                if run.cut.0 == (*fence, *turn) && run.cut.1 >= CUT_MOST {
                    return Err(Breach::now(format!(
                        "turn {turn} of {label} was cut {} times, and is asked again",
                        run.cut.1
                    )));
                }
                let through = (event.process.clone(), event.incarnation);
                if (run.tries.of, &run.tries.through) != ((*fence, *turn), &through) {
                    run.tries = Tries { of: (*fence, *turn), through, ..Tries::default() };
                }
                run.tries.attempts.insert(*attempt);
                let calm = world.health.calm_since(matters_to_agents).is_some_and(|calm| calm <= run.accepted);
                if calm && run.tries.attempts.len() > ATTEMPTS_PER_TURN as usize {
                    return Err(Breach::now(format!(
                        "the model was asked {ATTEMPTS_PER_TURN} times for turn {turn} of {label}, and is asked again"
                    )));
                }
                run.calls += 1;
                (run.attempt, run.turned_away) = (*attempt, None);
                if *fence == run.newest && *turn <= run.checkpointed {
                    return Err(Breach::now(format!("turn {turn} of {label} is checkpointed and was called again")));
                }
                if *fence == run.newest && run.ended.is_some() {
                    return Err(Breach::now(format!("{label} was over and was called again")));
                }
            }
            Did::Turn(TurnEvent::Refused { run: label, status, .. }) => {
                let run = self.run(label);
                run.turned_away = (*status >= 500).then_some(*status);
                if *status < 500 {
                    // Its agent is moved, or it waits as it was asked to.
                    run.tries.attempts.clear();
                    run.tries.refused += 1;
                    if run.tries.refused > REFUSED_MOST {
                        let says =
                            format!("a turn of {label} was refused {REFUSED_MOST} times, and the model is asked again");
                        return Err(Breach::now(says));
                    }
                }
            }
            Did::Turn(TurnEvent::Answered { run: label, fence, turn, last, .. }) => {
                let run = self.run(label);
                (run.answered, run.answered_last, run.answered_at) = ((*fence, *turn), *last, event.at);
            }
            Did::Turn(TurnEvent::Spoiled { run: label, fence, turn, .. }) => {
                let run = self.run(label);
                let before = if run.cut.0 == (*fence, *turn) { run.cut.1 } else { 0 };
                run.cut = ((*fence, *turn), before + 1);
            }
            Did::Run(RunEvent::Checkpointed { run: label, turn, fence, last, .. }) => {
                let spoilt = is_spoilt(world, label);
                let run = self.run(label);
                if run.answered != (*fence, *turn) {
                    return Err(Breach::now(format!("turn {turn} of {label} was checkpointed without a whole answer")));
                }
                if *turn != run.checkpointed + 1 {
                    return Err(Breach::now(format!("turn {turn} of {label} was checkpointed out of order")));
                }
                if *last != run.answered_last && !spoilt {
                    let says =
                        if *last { "is kept as the last, and its model has more to say" } else { "was the last" };
                    return Err(Breach::now(format!("turn {turn} of {label} {says}")));
                }
                run.checkpointed = *turn;
                run.finished = *last;
            }
            Did::Run(RunEvent::Consumed { message, .. }) => {
                self.run(message).consumed = true;
                self.sort(message);
            }
            Did::Run(RunEvent::Reported { run, .. }) => {
                if self.run(run).checkpointed > 0 {
                    return Err(Breach::now(format!(
                        "the message of {run} was answered, and is reported as never read"
                    )));
                }
                self.run(run).reported = true;
                self.sort(run);
            }
            Did::Run(RunEvent::Ended { run: label, status, reason, .. }) => {
                // No fault of a store makes a statement of ours wrong, but one that changes its bytes.
                let store = |target: &str| leads_to(target, "postgres");
                let spoiled = world.health.was_struck_since(&["corrupt"], store, Duration::ZERO);
                if *status == Status::Failed && reason.starts_with(STORE_REFUSED) && !spoiled {
                    let says = format!("{label} failed, for good, because a store was not well: {reason}");
                    return Err(Breach::now(says));
                }
                let calm = world.health.calm_since(|_| true);
                let provider = world.health.calm_since(|target| leads_to(target, "provider"));
                let asked = world.health.calm_since(matters_to_turns);
                let run = self.run(label);
                run.ended = Some(event.at);
                if *status == Status::Failed && asked.is_some_and(|calm| calm <= run.accepted) {
                    return Err(Breach::now(format!(
                        "{label} has failed, although its agent and its model were well all the time: {reason}"
                    )));
                }
                if run.finished && *status != Status::Completed {
                    return Err(Breach::now(format!(
                        "the last turn of {label} is checkpointed, and yet it is {}",
                        status.word()
                    )));
                }
                let tries = i64::from(ATTEMPTS_PER_TURN);
                if *status == Status::Failed && provider.is_some_and(|calm| calm.is_zero()) && run.attempt < tries {
                    return Err(Breach::now(format!(
                        "{label} has failed, although its model was there and was not asked often enough"
                    )));
                }
                let told = run.turned_away.filter(|turned_away| reason.contains(&turned_away.to_string()));
                if let Some(turned_away) = told.filter(|_| *status == Status::Failed && run.attempt < tries) {
                    return Err(Breach::now(format!(
                        "{label} has failed, although a provider that says {turned_away} is to be asked again: {reason}"
                    )));
                }
                if *status == Status::Completed && !run.consumed {
                    return Err(Breach::now(format!("{label} is completed, but nobody has read its message")));
                }
                let tried = run.claims > 1 || run.calls as i64 > run.checkpointed;
                let disturbed = calm.is_none_or(|calm| calm > run.accepted);
                self.armed |= tried || disturbed;
                self.sort(label);
            }
            _ => {}
        }
        Ok(())
    }

    fn pending(&self, _: &World) -> Vec<Obligation> {
        let owed = |label: &String| {
            let since = self.runs.get(label)?.ended?;
            let says = format!("the message of {label}, which is over, is consumed or reported");
            Some(Obligation::new(says, since, since + SAME_MOMENT))
        };
        self.unread.iter().filter_map(owed).collect()
    }

    fn armed(&self) -> bool {
        self.armed
    }
}
