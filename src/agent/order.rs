//! The order of a session's calls: which is the newest, and which is going. An older one is refused; a newer one ends
//! the one that is going.

use std::collections::{BTreeMap, VecDeque};

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::ids::{Fence, RunId, SessionId};
use crate::limits;
use crate::provider::CallName;

/// A turn that is going: how it is told to let go, and how one waits for it.
#[derive(Debug)]
pub(super) struct Going {
    serial: u64,
    stop: CancellationToken,
    task: Option<JoinHandle<()>>,
}

impl Going {
    /// Token first, then abort, then join.
    pub async fn end(mut self) {
        self.stop.cancel();
        if let Some(mut task) = self.task.take()
            && tokio::time::timeout(limits::AGENT_LETS_GO, &mut task).await.is_err()
        {
            task.abort();
            // Aborted: it is gone after this.
            let _ = task.await;
        }
    }
}

#[derive(Debug)]
struct Seen {
    run: RunId,
    /// Fence, turn and attempt.
    newest: (Fence, i64, u32),
    /// Runs of this session before this one.
    past: VecDeque<RunId>,
    /// The key in `silent`.
    serial: u64,
    going: Option<Going>,
}

/// The calls that were seen, of a bounded number of sessions.
#[derive(Debug)]
pub(super) struct Order {
    sessions: BTreeMap<SessionId, Seen>,
    /// Sessions by their last call, the longest silent one first.
    silent: BTreeMap<u64, SessionId>,
    serial: u64,
    limit: usize,
}

/// A newer call of that session was seen.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stale;

/// Leave to answer a call.
pub(super) struct Admitted {
    /// Names it in [`Order::begun`] and [`Order::ended`].
    pub serial: u64,
    /// Cancelled when a newer call comes.
    pub stop: CancellationToken,
    /// The call that was going and must have ended before this one begins.
    pub before: Option<Going>,
}

impl Order {
    pub fn new(limit: usize) -> Self {
        Order { sessions: BTreeMap::new(), silent: BTreeMap::new(), serial: 0, limit }
    }

    /// Whether this call is newer than all that were seen of its session. Changes nothing.
    pub fn check(&self, session: &SessionId, name: &CallName) -> Result<(), Stale> {
        let Some(seen) = self.sessions.get(session) else { return Ok(()) };
        let older = if seen.run == name.run { order(name) <= seen.newest } else { seen.past.contains(&name.run) };
        if older { Err(Stale) } else { Ok(()) }
    }

    /// Tells the turn of this session that is going to let go, if there is one.
    pub fn cut(&self, session: &SessionId) {
        if let Some(going) = self.sessions.get(session).and_then(|seen| seen.going.as_ref()) {
            going.stop.cancel();
        }
    }

    /// Tells every turn.
    pub fn cut_all(&self) {
        self.sessions.values().filter_map(|seen| seen.going.as_ref()).for_each(|going| going.stop.cancel());
    }

    /// Admits a call as the newest of its session.
    pub fn admit(&mut self, session: &SessionId, name: &CallName) -> Result<Admitted, Stale> {
        self.check(session, name)?;
        self.serial += 1;
        let (serial, stop) = (self.serial, CancellationToken::new());
        let earlier = self.sessions.remove(session);
        let (mut past, before) = match earlier {
            None => (VecDeque::new(), None),
            Some(Seen { run, mut past, serial, going, .. }) => {
                self.silent.remove(&serial);
                if run != name.run {
                    past.push_back(run);
                }
                (past, going)
            }
        };
        while past.len() > limits::AGENT_PAST_RUNS {
            past.pop_front();
        }
        if let Some(going) = &before {
            going.stop.cancel();
        }
        let going = Some(Going { serial, stop: stop.clone(), task: None });
        let seen = Seen { run: name.run.clone(), newest: order(name), past, serial, going };
        self.sessions.insert(session.clone(), seen);
        self.silent.insert(serial, session.clone());
        self.forget();
        Ok(Admitted { serial, stop, before })
    }

    /// Forgets who was silent the longest; never one whose turn is going.
    fn forget(&mut self) {
        while self.sessions.len() > self.limit {
            let idle = |session: &SessionId| self.sessions.get(session).is_none_or(|seen| seen.going.is_none());
            let Some(serial) = self.silent.iter().find(|(_, session)| idle(session)).map(|(serial, _)| *serial) else {
                return;
            };
            if let Some(session) = self.silent.remove(&serial) {
                self.sessions.remove(&session);
            }
        }
    }

    /// The task of an admitted call. One that has ended, or was superseded, is let go.
    pub fn begun(&mut self, session: &SessionId, serial: u64, task: JoinHandle<()>) {
        if let Some(going) = self.going(session, serial) {
            going.task = Some(task);
        }
    }

    /// An admitted call has ended.
    pub fn ended(&mut self, session: &SessionId, serial: u64) {
        if self.going(session, serial).is_some()
            && let Some(seen) = self.sessions.get_mut(session)
        {
            seen.going = None;
        }
    }

    fn going(&mut self, session: &SessionId, serial: u64) -> Option<&mut Going> {
        self.sessions.get_mut(session)?.going.as_mut().filter(|going| going.serial == serial)
    }

    /// Sessions that are remembered.
    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    /// The most sessions that are remembered.
    pub fn limit(&self) -> usize {
        self.limit
    }
}

fn order(name: &CallName) -> (Fence, i64, u32) {
    (name.fence, name.turn, name.attempt)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(run: &str, fence: i64, turn: i64, attempt: u32) -> CallName {
        CallName { run: RunId(run.into()), fence: Fence(fence), turn, attempt }
    }

    fn admit(order: &mut Order, session: &str, name: &CallName) -> bool {
        let session = SessionId(session.into());
        order.admit(&session, name).map(|admitted| order.ended(&session, admitted.serial)).is_ok()
    }

    #[test]
    fn an_older_or_equal_call_of_the_session_is_stale() {
        let mut order = Order::new(10);
        assert!(admit(&mut order, "s", &name("a", 2, 1, 1)));
        for older in [name("a", 2, 1, 1), name("a", 1, 9, 9), name("a", 2, 0, 5)] {
            assert!(!admit(&mut order, "s", &older), "{older}");
        }
        assert!(admit(&mut order, "other", &name("a", 1, 1, 1)));
        assert!(admit(&mut order, "s", &name("a", 2, 1, 2)));
        assert!(admit(&mut order, "s", &name("a", 3, 1, 1)));
        // The next run begins with its own first fence; the one before it is over.
        assert!(admit(&mut order, "s", &name("b", 1, 1, 1)));
        assert!(!admit(&mut order, "s", &name("a", 9, 9, 9)));
    }

    #[test]
    fn the_longest_silent_session_is_forgotten_and_none_that_is_going() {
        let mut order = Order::new(2);
        let going = order.admit(&SessionId("going".into()), &name("a", 5, 1, 1)).unwrap();
        for session in ["x", "y", "z"] {
            assert!(admit(&mut order, session, &name("a", 5, 1, 1)));
            assert!(order.len() <= 2, "{session}");
        }
        assert!(!going.stop.is_cancelled());
        assert!(order.admit(&SessionId("going".into()), &name("a", 5, 1, 1)).is_err());
        assert!(admit(&mut order, "x", &name("a", 1, 1, 1)), "forgotten");
        assert_eq!(order.silent.len(), order.len());
    }

    #[test]
    fn a_newer_call_ends_the_one_that_is_going() {
        let mut order = Order::new(2);
        let session = SessionId("s".into());
        let first = order.admit(&session, &name("a", 1, 1, 1)).unwrap();
        let second = order.admit(&session, &name("a", 1, 1, 2)).unwrap();
        assert!(first.stop.is_cancelled() && second.before.is_some());
        order.ended(&session, first.serial);
        order.cut(&session);
        assert!(second.stop.is_cancelled(), "the end of the first does not hide the second");
    }
}
