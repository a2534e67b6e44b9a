//! A model is asked by the right one, and the right thing: by the agent that the user wants, with the token of the subscription
//! that the agent is assigned, about the session's conversation as Postgres has it. A run that completes with half of
//! the conversation, or at another one's expense, would keep every other promise.

use std::collections::BTreeMap;
use std::time::Duration;

use lychgate::run::MessageState;
use lychgate_sim::trace::event::{Event, What};
use lychgate_sim::trace::invariant::Breach;

use super::Promise;
use super::world::{World, leads_to};
use crate::events::{Asked, Caller, Did, RunEvent, TurnEvent, UserEvent};
use crate::names::{Role, ends, role};
use crate::settings::Settings;

/// See the module.
pub struct RightlyAsked {
    /// The token of each subscription, by its name.
    tokens: BTreeMap<String, String>,
    model: String,
    /// By session: the agent that its user wants.
    wanted: BTreeMap<String, String>,
    /// By session: its runs, in the order in which their messages were accepted.
    runs: BTreeMap<String, Vec<String>>,
    /// By session: the conversation that a model was last asked to go on with.
    asked: BTreeMap<String, Vec<String>>,
    armed: bool,
}

/// Whether bytes that were changed on the way may be what a model of this run was asked: in what Postgres stores, for ever; between
/// executor, agent and model, since the run began.
pub(super) fn is_spoilt(world: &World, run: &str) -> bool {
    let of_turns = |target: &str| {
        let agent = |name: &str| role(name) == Some(Role::Agent);
        leads_to(target, "provider") || ends(target).is_some_and(|(from, to)| agent(from) || agent(to))
    };
    let since = world.runs.get(run).map_or(Duration::ZERO, |run| run.accepted);
    world.health.was_struck_since(&["corrupt"], |target| leads_to(target, "postgres"), Duration::ZERO)
        || world.health.was_struck_since(&["corrupt"], of_turns, since)
}

/// Where two conversations part: the number of the entry, from 1, and both entries.
fn parts(due: &[String], asked: &[String]) -> Option<(usize, String, String)> {
    let entry =
        |of: &[String], nth: usize| of.get(nth).map_or_else(|| "nothing".to_owned(), |entry| format!("`{entry}`"));
    let nth = (0..due.len().max(asked.len())).find(|nth| due.get(*nth) != asked.get(*nth))?;
    Some((nth + 1, entry(due, nth), entry(asked, nth)))
}

impl RightlyAsked {
    /// One for a run with these settings.
    pub fn new(settings: &Settings) -> Self {
        let (tokens, model) = (settings.tokens(), settings.model());
        let (wanted, runs, asked) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        RightlyAsked { tokens, model, wanted, runs, asked, armed: false }
    }

    /// The conversation of a session before this turn of a run: each message with the answers to it, but what was given up unread.
    fn due(&self, world: &World, session: &str, run: &str, turn: i64) -> Vec<String> {
        let (mut due, now) = (Vec::new(), world.health.now());
        for label in self.runs.get(session).into_iter().flatten() {
            if world.history.message(label, now).last() == Some(&MessageState::Reported) {
                continue;
            }
            let checkpointed = world.history.turns(label, now).last().copied().unwrap_or_default();
            let before = if label == run { turn - 1 } else { checkpointed };
            due.push(label.clone());
            due.extend((1..=before).map(|turn| format!("{label}/{turn}")));
            if label == run {
                break;
            }
        }
        due
    }

    fn said(&mut self, session: &str, asked: &Asked) -> &[String] {
        let conversation = self.asked.entry(session.to_owned()).or_default();
        conversation.truncate(asked.kept);
        conversation.extend(asked.then.iter().cloned());
        conversation
    }

    fn is_by(&self, world: &World, session: &str, run: &str, by: &Caller) -> Result<(), Breach> {
        let Caller { agent, epoch, token, model } = by;
        if *model != self.model && !is_spoilt(world, run) {
            let due = &self.model;
            return Err(Breach::now(format!("{agent} asked the model `{model}` for {run}, and `{due}` is configured")));
        }
        if let Some(wanted) = self.wanted.get(session).filter(|wanted| *wanted != agent) {
            return Err(Breach::now(format!("{agent} asked the model for {run}, and its user wants {wanted}")));
        }
        let mut assigned = world.history.assignment(agent, Duration::ZERO);
        let subscription = assigned.find(|(_, under)| under == epoch).map(|(subscription, _)| subscription);
        let Some(subscription) = subscription else {
            return Err(Breach::now(format!("{agent} asked the model for {run} without an assignment")));
        };
        match self.tokens.get(subscription) {
            Some(due) if due != token => Err(Breach::now(format!(
                "{agent} asked the model for {run} with `{token}`, and is assigned {subscription}, whose token is `{due}`"
            ))),
            _ => Ok(()),
        }
    }
}

impl Promise for RightlyAsked {
    fn name(&self) -> &'static str {
        "rightly_asked"
    }

    fn says(&self) -> &'static str {
        "the session's agent asks a model, with the token that it is assigned, about the session's whole conversation"
    }

    fn observe(&mut self, event: &Event<Did>, world: &World) -> Result<(), Breach> {
        let What::Product(did) = &event.what else { return Ok(()) };
        match did {
            Did::User(UserEvent::Said { session, agent, .. }) => {
                self.wanted.entry(session.clone()).or_insert_with(|| agent.clone());
            }
            Did::Run(RunEvent::Accepted { session, run }) => {
                self.runs.entry(session.clone()).or_default().push(run.clone());
            }
            Did::Turn(TurnEvent::Called { session, run, turn, by, asked, .. }) => {
                let due = self.due(world, session, run, *turn);
                let parts = parts(&due, self.said(session, asked));
                self.armed |= due.len() > 1;
                if let Some(by) = by {
                    self.is_by(world, session, run, by)?;
                }
                if let Some((nth, due, asked)) = parts
                    && !is_spoilt(world, run)
                {
                    return Err(Breach::now(format!(
                        "a model was asked for turn {turn} of {run}, and entry {nth} of the conversation was {asked}, not {due}"
                    )));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_entry_that_differs_is_named_and_so_is_one_that_is_missing() {
        let entries = |of: &[&str]| of.iter().map(|entry| (*entry).to_owned()).collect::<Vec<_>>();
        let due = entries(&["a/1#1", "a/1#1/1", "a/1#2"]);
        assert_eq!(parts(&due, &due), None);
        assert_eq!(parts(&due, &due[..2]), Some((3, "`a/1#2`".into(), "nothing".into())));
        assert_eq!(parts(&due, &entries(&["a/1#1", "a/1#2"])), Some((2, "`a/1#1/1`".into(), "`a/1#2`".into())));
    }
}
