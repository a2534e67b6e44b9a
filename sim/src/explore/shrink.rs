//! Makes a failing plan smaller: fewer faults, then fewer users and messages. A trial counts only if it breaks the same
//! invariant; whatever is left is needed.

use crate::plan::Plan;
use crate::world::product::Workload;

/// What came of a trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trial {
    /// The smaller plan breaks the same invariant.
    Breaks,
    /// The smaller plan does not.
    Holds,
    /// There is no time for more.
    OutOfTime,
}

/// A smaller plan.
#[derive(Clone, Debug, PartialEq)]
pub struct Shrunk<W> {
    /// The smallest that still breaks.
    pub plan: Plan<W>,
    /// How many were tried.
    pub trials: usize,
    /// Whether nothing smaller is left to try; else time ran out.
    pub minimal: bool,
}

/// Shrinks `plan`, which is known to break, asking `attempt` about each candidate.
pub fn shrink<W: Workload>(plan: &Plan<W>, attempt: impl FnMut(&Plan<W>) -> Trial) -> Shrunk<W> {
    let mut search = Search { best: plan.clone(), trials: 0, attempt };
    let minimal = search.exhaust().is_some();
    Shrunk { plan: search.best, trials: search.trials, minimal }
}

struct Search<W, A> {
    best: Plan<W>,
    trials: usize,
    attempt: A,
}

impl<W: Workload, A: FnMut(&Plan<W>) -> Trial> Search<W, A> {
    /// Until nothing smaller breaks; `None` when time runs out.
    fn exhaust(&mut self) -> Option<()> {
        loop {
            let before = self.best.clone();
            self.fewer_faults()?;
            self.fewer_targets()?;
            self.smaller_workload()?;
            if self.best == before {
                return Some(());
            }
        }
    }

    /// Drops faults in runs of half of them, then of a quarter, down to one.
    fn fewer_faults(&mut self) -> Option<()> {
        let mut width = self.best.faults.len();
        while width > 0 {
            let mut from = 0;
            while from < self.best.faults.len() {
                let mut candidate = self.best.clone();
                candidate.faults.drain(from..(from + width).min(candidate.faults.len()));
                if !self.keep_if_broken(candidate)? {
                    from += width;
                }
            }
            width /= 2;
        }
        Some(())
    }

    /// Drops single targets of faults that have several.
    fn fewer_targets(&mut self) -> Option<()> {
        for fault in 0..self.best.faults.len() {
            let mut target = 0;
            while self.best.faults[fault].targets.len() > 1 && target < self.best.faults[fault].targets.len() {
                let mut candidate = self.best.clone();
                candidate.faults[fault].targets.remove(target);
                if !self.keep_if_broken(candidate)? {
                    target += 1;
                }
            }
        }
        Some(())
    }

    fn smaller_workload(&mut self) -> Option<()> {
        'smaller: loop {
            for users in self.best.users.smaller() {
                let candidate = Plan { users, ..self.best.clone() };
                // A workload that counts itself among the smaller ones would never come to an end.
                if candidate.users != self.best.users && self.keep_if_broken(candidate)? {
                    continue 'smaller;
                }
            }
            return Some(());
        }
    }

    fn keep_if_broken(&mut self, candidate: Plan<W>) -> Option<bool> {
        match (self.attempt)(&candidate) {
            Trial::OutOfTime => return None,
            Trial::Holds => self.trials += 1,
            Trial::Breaks => {
                self.trials += 1;
                self.best = candidate;
                return Some(true);
            }
        }
        Some(false)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::link::faults::{CLOSE, WEDGE};
    use crate::plan::{Fault, Kind, Lifetime, Trigger};
    use crate::world::process_faults::{SIGKILL, SIGTERM};
    use crate::world::test_product::{Say, TestProduct, Visitor, Visitors};
    use crate::world::words;

    fn big() -> Plan<Visitors> {
        let mut plan = words::bare::<TestProduct>();
        for (nth, kind) in
            [Kind::of(&CLOSE), Kind::of(&WEDGE), Kind::of(&SIGTERM), Kind::of(&SIGKILL), Kind::of(&WEDGE)]
                .into_iter()
                .enumerate()
        {
            let targets = vec!["executor-1->redis".into(), "executor-2->redis".into()];
            let trigger = Trigger::At(Duration::from_secs(nth as u64));
            plan.faults.push(Fault::new(kind, targets, trigger, Lifetime::UntilHeal));
        }
        let say = |text: &str| Say { text: text.into(), at: Duration::ZERO };
        for name in ["ann", "bob", "cid"] {
            plan.users.0.push(Visitor { name: name.into(), says: vec![say("one"), say("two"), say("three")] });
        }
        plan
    }

    /// Broken by a kill and a later wedge of executor-2, if bob says anything.
    fn breaks(plan: &Plan<Visitors>) -> bool {
        let killed = plan.faults.iter().position(|fault| fault.kind.is(&SIGKILL));
        let wedged = |fault: &Fault| fault.kind.is(&WEDGE) && fault.targets.iter().any(|t| t == "executor-2->redis");
        let later = killed.is_some_and(|at| plan.faults[at..].iter().any(wedged));
        later && plan.users.0.iter().any(|user| user.name == "bob" && !user.says.is_empty())
    }

    fn attempt(plan: &Plan<Visitors>) -> Trial {
        if breaks(plan) { Trial::Breaks } else { Trial::Holds }
    }

    #[test]
    fn finds_what_is_needed() {
        let shrunk = shrink(&big(), attempt);
        assert!(shrunk.minimal && breaks(&shrunk.plan));
        let kinds: Vec<_> = shrunk.plan.faults.iter().map(|fault| fault.kind.word()).collect();
        assert_eq!(kinds, ["sigkill", "wedge"]);
        assert_eq!(shrunk.plan.faults[1].targets, ["executor-2->redis"]);
        assert_eq!(shrunk.plan.users.0.len(), 1);
        assert_eq!(shrunk.plan.users.0[0].says.len(), 1);
        assert!(shrunk.trials < 60, "{} trials", shrunk.trials);
    }

    #[test]
    fn stops_when_time_is_up_and_keeps_what_it_has() {
        let mut left = 6;
        let shrunk = shrink(&big(), |plan| {
            left -= 1;
            if left == 0 { Trial::OutOfTime } else { attempt(plan) }
        });
        assert!(!shrunk.minimal && breaks(&shrunk.plan));
        assert_eq!(shrunk.trials, 5);
    }

    #[test]
    fn nothing_to_drop_is_minimal() {
        let plan = words::bare::<TestProduct>();
        assert_eq!(shrink(&plan, |_| Trial::Holds), Shrunk { plan, trials: 0, minimal: true });
    }
}
