//! What must happen and has no deadline for the time being, and what is amiss meanwhile. Its one law: nothing is excused here;
//! the invariants do that, and this only keeps for how long.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::trace::fault::FaultId;
use crate::trace::verdict::Excuse;
use crate::world::nemesis::Nemesis;

/// So many are reported, the longest first: a run has hundreds that last for a moment.
const REPORTED: usize = 20;

/// An invariant, and what it waits for.
type Key = (&'static str, String);

/// For how long something had no deadline, and what was amiss meanwhile.
#[derive(Clone, Debug, Default)]
struct Span {
    sum: Duration,
    /// The faults that stood, by their places.
    by: BTreeMap<FaultId, String>,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Excuses {
    /// What has none now, and since when that is counted.
    open: BTreeMap<Key, (Duration, Span)>,
    /// What has one again, or is done: the longest.
    over: BTreeMap<Key, Span>,
}

impl Excuses {
    /// Learns what has no deadline now. What is not among `undated` has one again, or is done.
    pub(super) fn look(&mut self, undated: Vec<Key>, nemesis: &Nemesis, now: Duration) {
        let mut before = std::mem::take(&mut self.open);
        for key in undated {
            let (since, mut span) = before.remove(&key).unwrap_or((now, Span::default()));
            span.by.extend(nemesis.standing());
            // Of what strikes in a moment only the aftermath is seen.
            if span.by.is_empty() {
                span.by.extend(nemesis.newest());
            }
            self.open.insert(key, (since, span));
        }
        for (key, (since, span)) in before {
            self.close(key, since, span, now);
        }
    }

    fn close(&mut self, key: Key, since: Duration, span: Span, now: Duration) {
        let over = self.over.entry(key).or_default();
        over.sum += now.saturating_sub(since);
        over.by.extend(span.by);
        if self.over.len() > 4 * REPORTED {
            let longest: Vec<Key> = longest(&self.over).into_iter().map(|(key, _)| key.clone()).collect();
            self.over.retain(|key, _| longest.contains(key));
        }
    }

    /// The longest of them, at the end of the run.
    pub(crate) fn report(&mut self, now: Duration) -> Vec<Excuse> {
        for (key, (since, span)) in std::mem::take(&mut self.open) {
            self.close(key, since, span, now);
        }
        let excuse = |((invariant, says), span): (&Key, &Span)| Excuse {
            invariant: (*invariant).to_owned(),
            says: says.clone(),
            seconds: span.sum.as_secs_f64(),
            by: span.by.values().cloned().collect(),
        };
        longest(&self.over).into_iter().filter(|(_, span)| !span.sum.is_zero()).map(excuse).collect()
    }
}

/// The longest spans, in the order of their length.
fn longest(spans: &BTreeMap<Key, Span>) -> Vec<(&Key, &Span)> {
    let mut all: Vec<_> = spans.iter().collect();
    all.sort_by_key(|(_, span)| std::cmp::Reverse(span.sum));
    all.truncate(REPORTED);
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::faults::WEDGE;
    use crate::plan::{Fault, Kind, Lifetime, Trigger};

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn key(says: &str) -> Key {
        ("promptness", says.to_owned())
    }

    #[test]
    fn what_waits_without_a_deadline_is_kept_with_the_faults_that_stood() {
        let wedge = |target: &str| {
            let kind = Kind::of(&WEDGE);
            Fault::new(kind, vec![target.into()], Trigger::At(Duration::ZERO), Lifetime::UntilHeal)
        };
        let mut nemesis = Nemesis::new(&[wedge("a->b"), wedge("c->d")], Vec::new());
        nemesis.open();
        let mut excuses = Excuses::default();
        excuses.look(vec![key("early")], &nemesis, at(1));
        excuses.look(Vec::new(), &nemesis, at(2));
        nemesis.strike(FaultId::at(0), at(3));
        excuses.look(vec![key("one"), key("a moment")], &nemesis, at(3));
        excuses.look(vec![key("one")], &nemesis, at(3));
        nemesis.strike(FaultId::at(1), at(5));
        excuses.look(vec![key("one")], &nemesis, at(6));
        excuses.look(Vec::new(), &nemesis, at(10));
        nemesis.heal(FaultId::at(0));
        nemesis.heal(FaultId::at(1));
        // What comes again adds up, and of faults that are over the last is meant.
        excuses.look(vec![key("one"), key("late")], &nemesis, at(20));
        let told = excuses.report(at(25));
        let told: Vec<_> = told.iter().map(|one| (one.says.as_str(), one.seconds, one.by.join(", "))).collect();
        let both = "wedge a->b, wedge c->d".to_owned();
        let newest = "wedge c->d".to_owned();
        assert_eq!(told, [("one", 12.0, both), ("late", 5.0, newest), ("early", 1.0, String::new())]);
    }

    #[test]
    fn only_the_longest_are_kept() {
        let nemesis = Nemesis::new(&[], Vec::new());
        let mut excuses = Excuses::default();
        for number in 1..=1000 {
            let begin = at(10_000 * number);
            excuses.look(vec![key(&number.to_string())], &nemesis, begin);
            excuses.look(Vec::new(), &nemesis, begin + at(number));
            assert!(excuses.over.len() <= 4 * REPORTED);
        }
        let told = excuses.report(at(20_000_000));
        assert_eq!((told.len(), told[0].says.as_str()), (REPORTED, "1000"));
    }
}
