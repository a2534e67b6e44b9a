//! What Postgres had and the live view showed, and when: what an answer shows was so at some moment between the request and the answer.

use std::collections::BTreeMap;
use std::time::Duration;

use lychgate::run::{MessageState, Status};
use lychgate_sim::trace::event::{Event, What};

use super::health::Memory;
use crate::events::{AgentEvent, Did, LiveEvent, RunEvent, StoreEvent};
use crate::names::session_of;

/// A session, as its row and that of its newest run have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// The newest run.
    pub run: String,
    /// Where that stands.
    pub status: Status,
    /// How many of its turns are checkpointed.
    pub turns: i64,
    /// Whether the session is suspended.
    pub suspended: bool,
}

/// States, each with the moment in which it began.
type Course<T> = Vec<(Duration, T)>;

/// See the module.
#[derive(Debug, Default)]
pub struct History {
    sessions: BTreeMap<String, Course<Session>>,
    /// By the run that the message started.
    messages: BTreeMap<String, Course<MessageState>>,
    /// Checkpointed turns, by run.
    turns: BTreeMap<String, Course<i64>>,
    /// By agent: subscription and epoch.
    assignments: BTreeMap<String, Course<(String, i64)>>,
    /// The run that the live view shows of each session.
    shown: BTreeMap<String, Course<Option<String>>>,
    /// What it showed when Redis's memory was noted.
    noted: BTreeMap<String, Option<String>>,
    /// By session: the newest run and where it stood, as a standby of Postgres knows it which was left behind.
    left_behind: BTreeMap<String, (String, Status)>,
}

/// Each state that stood at some moment since then.
fn stood<T>(course: Option<&Course<T>>, since: Duration) -> impl Iterator<Item = &T> {
    let states = course.into_iter().flatten();
    let before = course.map_or(0, |course| course.partition_point(|(began, _)| *began <= since));
    states.skip(before.saturating_sub(1)).map(|(_, state)| state)
}

impl History {
    pub(super) fn observe(&mut self, event: &Event<Did>) {
        let at = event.at;
        if let Some(memory) = Memory::of(event) {
            self.remembers(memory, at);
        }
        match &event.what {
            What::Product(Did::Run(did)) => self.run(did, at),
            What::Product(Did::Store(StoreEvent::LeftBehind {})) => {
                let last = |course: &Course<Session>| course.last().map(|(_, now)| (now.run.clone(), now.status));
                let known = |(session, course)| Some((String::clone(session), last(course)?));
                self.left_behind = self.sessions.iter().filter_map(known).collect();
            }
            What::Product(Did::Store(StoreEvent::CommitsLost { runs })) => {
                for run in runs {
                    let session = session_of(run);
                    let Some((_, status)) = self.left_behind.get(&session).filter(|(known, _)| known == run) else {
                        continue;
                    };
                    let status = *status;
                    self.change(&session, run, at, |now| now.status = status);
                }
            }
            What::Product(Did::Live(LiveEvent::Shown { session, run, .. })) => {
                self.show(session, Some(run.clone()), at)
            }
            What::Product(Did::Live(LiveEvent::Unshown { session, run })) => {
                let shown = self.shown.get(session).and_then(|course| course.last());
                if shown.is_some_and(|(_, shown)| shown.as_ref() == Some(run)) {
                    self.show(session, None, at);
                }
            }
            What::Product(Did::Agent(AgentEvent::Assigned { agent, to, epoch, .. })) => {
                self.assignments.entry(agent.clone()).or_default().push((at, (to.clone(), *epoch)));
            }
            _ => {}
        }
    }

    /// The live view is what is left in Redis.
    fn remembers(&mut self, memory: Memory, at: Duration) {
        if memory == Memory::Noted {
            let last = |course: &Course<Option<String>>| course.last().and_then(|(_, run)| run.clone());
            self.noted = self.shown.iter().map(|(session, course)| (session.clone(), last(course))).collect();
            return;
        }
        for (session, course) in &mut self.shown {
            let kept = self.noted.get(session).filter(|_| memory == Memory::Restored);
            course.push((at, kept.cloned().flatten()));
        }
    }

    fn show(&mut self, session: &str, run: Option<String>, at: Duration) {
        self.shown.entry(session.to_owned()).or_insert_with(|| vec![(Duration::ZERO, None)]).push((at, run));
    }

    fn run(&mut self, did: &RunEvent, at: Duration) {
        match did {
            RunEvent::Accepted { session, run } => {
                let suspended = self.now(session).is_some_and(|now| now.suspended);
                let fresh = Session { run: run.clone(), status: Status::Queued, turns: 0, suspended };
                self.sessions.entry(session.clone()).or_default().push((at, fresh));
                self.becomes(run, MessageState::Unread, at);
                self.turns.insert(run.clone(), vec![(at, 0)]);
            }
            RunEvent::Claimed { session, run, .. } => self.change(session, run, at, |now| now.status = Status::Running),
            RunEvent::HandedBack { session, run, .. } => {
                self.change(session, run, at, |now| now.status = Status::Queued);
            }
            RunEvent::Checkpointed { session, run, turn, .. } => {
                self.turns.entry(run.clone()).or_default().push((at, *turn));
                self.change(session, run, at, |now| now.turns = *turn);
            }
            RunEvent::Ended { session, run, status, .. } => self.change(session, run, at, |now| now.status = *status),
            RunEvent::Suspended { session } => self.suspend(session, true, at),
            RunEvent::Unsuspended { session } => self.suspend(session, false, at),
            RunEvent::Consumed { message, .. } => self.becomes(message, MessageState::Consumed, at),
            RunEvent::Reported { run, .. } => self.becomes(run, MessageState::Reported, at),
            _ => {}
        }
    }

    fn now(&self, session: &str) -> Option<&Session> {
        self.sessions.get(session)?.last().map(|(_, now)| now)
    }

    /// The session's newest run changes, if it is this one.
    fn change(&mut self, session: &str, run: &str, at: Duration, change: impl FnOnce(&mut Session)) {
        let Some(mut now) = self.now(session).filter(|now| now.run == run).cloned() else { return };
        change(&mut now);
        self.sessions.entry(session.to_owned()).or_default().push((at, now));
    }

    fn suspend(&mut self, session: &str, suspended: bool, at: Duration) {
        let Some(now) = self.now(session).cloned() else { return };
        self.sessions.entry(session.to_owned()).or_default().push((at, Session { suspended, ..now }));
    }

    fn becomes(&mut self, message: &str, state: MessageState, at: Duration) {
        self.messages.entry(message.to_owned()).or_default().push((at, state));
    }

    /// What a session was since then.
    pub fn session(&self, session: &str, since: Duration) -> impl Iterator<Item = &Session> {
        stood(self.sessions.get(session), since)
    }

    /// The run that the live view showed of a session since then.
    pub fn shown(&self, session: &str, since: Duration) -> impl Iterator<Item = &Option<String>> {
        static NEVER: Option<String> = None;
        let never = (!self.shown.contains_key(session)).then_some(&NEVER);
        stood(self.shown.get(session), since).chain(never)
    }

    /// What a message was since then, by its run.
    pub fn message(&self, run: &str, since: Duration) -> impl Iterator<Item = &MessageState> {
        stood(self.messages.get(run), since)
    }

    /// How many turns of a run were checkpointed since then.
    pub fn turns(&self, run: &str, since: Duration) -> impl Iterator<Item = &i64> {
        stood(self.turns.get(run), since)
    }

    /// What an agent was assigned since then: subscription and epoch.
    pub fn assignment(&self, agent: &str, since: Duration) -> impl Iterator<Item = &(String, i64)> {
        stood(self.assignments.get(agent), since)
    }

    /// Whether an agent had no assignment then.
    pub fn was_unassigned(&self, agent: &str, then: Duration) -> bool {
        self.assignments.get(agent).and_then(|course| course.first()).is_none_or(|(began, _)| *began >= then)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stood_since_a_moment_is_what_stood_in_it_and_what_came_after() {
        let at = Duration::from_secs;
        let course = vec![(at(1), "a"), (at(3), "b"), (at(5), "c")];
        let since = |seconds| stood(Some(&course), at(seconds)).copied().collect::<Vec<_>>();
        assert_eq!(since(0), ["a", "b", "c"]);
        assert_eq!(since(2), ["a", "b", "c"]);
        assert_eq!(since(3), ["b", "c"]);
        assert_eq!(since(9), ["c"]);
        assert_eq!(stood::<u8>(None, at(1)).next(), None);
    }
}
