//! Where a process can be struck: directly after each event of a run, by a fault that hangs on that very event. Its one law:
//! a fault that waits changes nothing. Up to its point a run is the run without it, so the events of one run name the points
//! of all.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use clap::ValueEnum;

use crate::link::faults::WEDGE;
use crate::plan::{EventMatch, Fault, Lifetime, Plan, Trigger, told, told_cue};
use crate::trace::anchor::{Anchor, Life};
use crate::world::process_faults::{SIGKILL, SIGTERM};

/// What befalls a process at a point.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Harm {
    /// SIGKILL; its service manager, or its container engine, starts it again.
    #[default]
    Kill,
    /// The process reaches nobody, and nobody reaches it, for a while: bytes on its links wait.
    Cut,
    /// SIGTERM at one event, and SIGKILL at a later one of the same life.
    Pair,
}

/// An event of a run, and who lives when it has happened.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Cue {
    /// The place in the trace, from 0.
    pub(crate) seq: u64,
    /// Virtual time since the world began.
    pub(crate) at: Duration,
    /// As a fault waits for it.
    pub(crate) event: EventMatch,
    /// The processes that live, each with the number of its life, from 1.
    pub(crate) alive: BTreeMap<String, u32>,
}

/// The events of a run, each as a fault of a plan with these `sessions` can wait for it and for no other, and which of
/// `processes` live then.
pub(crate) fn cues(anchors: &[Anchor], sessions: &[String], processes: &[String]) -> Vec<Cue> {
    let mut counts = BTreeMap::new();
    let mut lives: BTreeMap<&str, u32> = BTreeMap::new();
    let mut alive = BTreeMap::new();
    let mut all = Vec::new();
    for anchor in anchors {
        // A plan can name no session but its own.
        let session = anchor.session.as_ref().filter(|session| sessions.contains(session));
        let of_name = counted(&mut counts, (&anchor.event, None));
        let of_session = session.map(|_| counted(&mut counts, (&anchor.event, session)));
        if let Some(process) = processes.iter().find(|process| **process == anchor.process) {
            match anchor.life {
                Life::Begins => _ = alive.insert(process.clone(), counted(&mut lives, process)),
                Life::Ends => _ = alive.remove(process),
                Life::GoesOn => {}
            }
        }
        let (event, nth) = (anchor.event.clone(), of_session.unwrap_or(of_name));
        let event = EventMatch { event, session: session.cloned(), nth, after: Duration::ZERO };
        all.push(Cue { seq: anchor.seq, at: anchor.at, event, alive: alive.clone() });
    }
    all
}

/// How often this came, with this time.
fn counted<K: Ord>(counts: &mut BTreeMap<K, u32>, what: K) -> u32 {
    let count = counts.entry(what).or_default();
    *count += 1;
    *count
}

/// A part of a run, from one event to another, both with it; without one of them from the beginning, or to the end.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Window {
    pub(crate) from: Option<EventMatch>,
    /// Counted from the first.
    pub(crate) to: Option<EventMatch>,
}

impl Window {
    /// Reads `FROM..TO`, each of them an event, after a colon its session, after another which one, as `claimed:ann/1:2`.
    ///
    /// # Errors
    /// What would have been right.
    pub(crate) fn parse(text: &str) -> Result<Window, String> {
        let wrong = || {
            format!(
                "`{text}` is no window: write its first event and its last one, as in `--window signalled..exited`; \
                 each may say of which session and which one, as `claimed:ann/1:2`, and either may be left out"
            )
        };
        let (from, to) = text.split_once("..").ok_or_else(wrong)?;
        let ends = [from, to].map(|end| if end.is_empty() { Some(None) } else { named(end).map(Some) });
        match ends {
            [Some(from), Some(to)] => Ok(Window { from, to }),
            _ => Err(wrong()),
        }
    }

    /// The events that it names.
    pub(crate) fn named(&self) -> impl Iterator<Item = &EventMatch> {
        [&self.from, &self.to].into_iter().flatten()
    }

    /// The places of its first and its last event among those of a run, of which there is at least one.
    ///
    /// # Errors
    /// The event that never comes.
    pub(crate) fn among(&self, anchors: &[Anchor]) -> Result<RangeInclusive<usize>, EventMatch> {
        let find = |event: &EventMatch, after: usize| {
            let heard = |anchor: &Anchor| event.hears(&anchor.event, anchor.session.as_deref());
            let mut places = anchors.iter().enumerate().skip(after).filter(|(_, anchor)| heard(anchor));
            places.nth(event.nth.max(1) as usize - 1).map(|(place, _)| place).ok_or_else(|| event.clone())
        };
        let from = self.from.as_ref().map(|event| find(event, 0)).transpose()?;
        let to = self.to.as_ref().map(|event| find(event, from.map_or(0, |from| from + 1))).transpose()?;
        Ok(from.unwrap_or(0)..=to.unwrap_or(anchors.len().saturating_sub(1)))
    }
}

/// An event as a window names it.
fn named(text: &str) -> Option<EventMatch> {
    let mut parts = text.split(':');
    let event = parts.next().filter(|event| !event.is_empty())?.to_owned();
    let (mut session, mut nth) = (None, None);
    for part in parts {
        match part.parse::<u32>() {
            Ok(number) if number > 0 && nth.is_none() => nth = Some(number),
            Err(_) if !part.is_empty() && session.is_none() => session = Some(part.to_owned()),
            _ => return None,
        }
    }
    Some(EventMatch { event, session, nth: nth.unwrap_or(1), after: Duration::ZERO })
}

/// One strike of a point.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Strike {
    /// The event after which it comes.
    pub(crate) event: EventMatch,
    /// The place of that in the trace, from 0.
    pub(crate) seq: u64,
    /// When that happened.
    pub(crate) at: Duration,
    pub(crate) fault: Fault,
}

/// What befalls one process in one run.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Point {
    pub(crate) process: String,
    /// In their order; at least one.
    pub(crate) strikes: Vec<Strike>,
}

impl Point {
    /// SIGKILL after an event.
    pub(crate) fn kill(cue: &Cue, process: &str) -> Point {
        Point::struck(cue, process, Fault::new(&SIGKILL, vec![process.to_owned()], on(cue), Lifetime::Instant))
    }

    /// SIGTERM after an event.
    pub(crate) fn signal(cue: &Cue, process: &str) -> Point {
        Point::struck(cue, process, Fault::new(&SIGTERM, vec![process.to_owned()], on(cue), Lifetime::Instant))
    }

    /// All of a process's `links` are cut after an event, for this long.
    pub(crate) fn cut(cue: &Cue, process: &str, links: &[String], lasts: Duration) -> Point {
        let of_process = |link: &&String| link.split("->").any(|end| end == process);
        let links = links.iter().filter(of_process).cloned().collect();
        Point::struck(cue, process, Fault::new(&WEDGE, links, on(cue), Lifetime::Lasts(lasts)))
    }

    fn struck(cue: &Cue, process: &str, fault: Fault) -> Point {
        let strike = Strike { event: cue.event.clone(), seq: cue.seq, at: cue.at, fault };
        Point { process: process.to_owned(), strikes: vec![strike] }
    }

    /// This, a signal, and after that SIGKILL at any of these events before that life is over, which are those of a run in
    /// which it was signalled.
    pub(crate) fn then_killed(&self, cues: &[Cue]) -> Vec<Point> {
        let signal = self.strikes[self.strikes.len() - 1].seq;
        let life = |cue: &Cue| cue.alive.get(&self.process).copied();
        let signalled = cues.iter().find(|cue| cue.seq == signal).and_then(life);
        let later = cues.iter().filter(|cue| cue.seq > signal && signalled.is_some() && life(cue) == signalled);
        let pair = |cue: &Cue| {
            let killed = Point::kill(cue, &self.process).strikes;
            Point { process: self.process.clone(), strikes: self.strikes.iter().cloned().chain(killed).collect() }
        };
        later.map(pair).collect()
    }

    /// The story with this in addition. What the story must reach is not asked of it.
    pub(crate) fn within<W: Clone>(&self, story: &Plan<W>) -> Plan<W> {
        let mut plan = story.clone();
        plan.faults.extend(self.strikes.iter().map(|strike| strike.fault.clone()));
        (plan.arms, plan.must_reach) = (Vec::new(), Vec::new());
        plan
    }

    /// The events after which it strikes, as `claimed of ann/1, then draining`.
    pub(crate) fn told(&self) -> String {
        self.strikes.iter().map(|strike| told_cue(&strike.event)).collect::<Vec<_>>().join(", then ")
    }

    /// The faults, as `sigkill executor-1, on claimed of ann/1`.
    pub(crate) fn faults(&self) -> String {
        self.strikes.iter().map(|strike| told(&strike.fault)).collect::<Vec<_>>().join("; ")
    }

    /// A name of it among the points of one story and seed, fit for a file.
    pub(crate) fn name(&self) -> String {
        let places = self.strikes.iter().map(|strike| format!("{}-{}", strike.fault.kind.word(), strike.seq));
        places.chain([self.process.clone()]).collect::<Vec<_>>().join("-")
    }
}

/// `plan`, whose world goes on as that of a point does, waiting for a fault; this one never comes.
pub(crate) fn expectant<W: Clone>(plan: &Plan<W>, process: &str) -> Plan<W> {
    let never = EventMatch { event: "phase".to_owned(), session: None, nth: u32::MAX, after: Duration::ZERO };
    let fault = Fault::new(&SIGKILL, vec![process.to_owned()], Trigger::On(never), Lifetime::Instant);
    let mut plan = plan.clone();
    plan.faults.push(fault);
    plan
}

/// At most `most` of `count` places, spread evenly, the first and the last with them if there is room for both.
pub(crate) fn spread(count: usize, most: usize) -> Vec<usize> {
    match most {
        _ if count <= most => (0..count).collect(),
        0 => Vec::new(),
        1 => vec![0],
        _ => (0..most).map(|nth| nth * (count - 1) / (most - 1)).collect(),
    }
}

fn on(cue: &Cue) -> Trigger {
    Trigger::On(cue.event.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{self};
    use crate::world::test_product::{Say, TestProduct, Visitor, Visitors};
    use crate::world::words;

    fn anchor(seq: u64, event: &str, session: Option<&str>, process: &str) -> Anchor {
        let life = match event {
            "booted" => Life::Begins,
            "killed" => Life::Ends,
            _ => Life::GoesOn,
        };
        let session = session.map(str::to_owned);
        Anchor { seq, at: Duration::from_secs(seq), event: event.into(), session, process: process.into(), life }
    }

    /// Two lives of one executor, one of another.
    fn run() -> Vec<Anchor> {
        vec![
            anchor(0, "booted", None, "executor-1"),
            anchor(1, "turn_started", Some("ann/1"), "executor-1"),
            anchor(2, "turn_started", Some("zoe/9"), "executor-1"),
            anchor(3, "booted", None, "executor-2"),
            anchor(4, "turn_started", Some("ann/1"), "executor-1"),
            anchor(5, "killed", None, "executor-1"),
            anchor(6, "run_ended", Some("ann/1"), "executor-2"),
            anchor(7, "booted", None, "executor-1"),
        ]
    }

    fn all() -> Vec<Cue> {
        cues(&run(), &["ann/1".to_owned()], &["executor-1".to_owned(), "executor-2".to_owned()])
    }

    #[test]
    fn each_event_is_named_as_no_other_is() {
        let told: Vec<String> = all().iter().map(|cue| told_cue(&cue.event)).collect();
        let expected = [
            "booted",
            "turn_started of ann/1",
            "turn_started no. 2",
            "booted no. 2",
            "turn_started no. 2 of ann/1",
            "killed",
            "run_ended of ann/1",
            "booted no. 3",
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn only_who_lives_is_struck() {
        let lives = |seq: usize| all()[seq].alive.clone().into_iter().collect::<Vec<_>>();
        assert_eq!(lives(0), [("executor-1".to_owned(), 1)]);
        assert_eq!(lives(6), [("executor-2".to_owned(), 1)]);
        assert_eq!(lives(7), [("executor-1".to_owned(), 2), ("executor-2".to_owned(), 1)]);
    }

    #[test]
    fn a_pair_kills_the_life_that_was_signalled() {
        let signal = Point::signal(&all()[1], "executor-1");
        let pairs = signal.then_killed(&all());
        let seqs: Vec<u64> = pairs.iter().map(|pair| pair.strikes[1].seq).collect();
        assert_eq!(seqs, [2, 3, 4]);
        assert_eq!(pairs[2].told(), "turn_started of ann/1, then turn_started no. 2 of ann/1");
        assert_eq!(pairs[2].name(), "sigterm-1-sigkill-4-executor-1");
    }

    #[test]
    fn windows_count_their_end_from_their_beginning() {
        let places = |text: &str| Window::parse(text).unwrap().among(&run());
        assert_eq!(places("..").unwrap(), 0..=7);
        assert_eq!(places("turn_started:ann/1..booted").unwrap(), 1..=3);
        assert_eq!(places("turn_started:ann/1:2..booted").unwrap(), 4..=7);
        assert_eq!(places("..killed").unwrap(), 0..=5);
        let missing = places("run_ended..killed").unwrap_err();
        assert_eq!(told_cue(&missing), "killed");
        for wrong in ["", "booted", "booted:..", "booted:0..", "a:1:2..", "a:x:y..", ":ann/1..booted"] {
            assert!(Window::parse(wrong).unwrap_err().contains("as in `--window signalled..exited`"), "{wrong}");
        }
    }

    #[test]
    fn samples_are_spread_over_all() {
        assert_eq!(spread(3, 10), [0, 1, 2]);
        assert_eq!(spread(11, 3), [0, 5, 10]);
        assert_eq!(spread(5, 1), [0]);
        assert_eq!(spread(5, 0), [0_usize; 0]);
        assert_eq!(spread(1000, 300).len(), 300);
    }

    #[test]
    fn a_point_is_a_plan_that_can_be_printed_and_read() {
        let mut story = words::bare::<TestProduct>();
        let says = vec![Say { text: "hello".into(), at: Duration::ZERO }];
        story.users = Visitors(vec![Visitor { name: "ann".into(), says }]);
        story.must_reach = vec!["checkpointed".into()];
        let links = words::links::<TestProduct>(&story);
        let cue = &all()[4];
        let cut = Point::cut(cue, "executor-1", &links, Duration::from_secs(30));
        assert_eq!(cut.strikes[0].fault.targets, ["executor-1->redis", "executor-1->postgres", "executor-1->rabbit"]);
        let gateway = Point::cut(cue, "gateway-1", &links, Duration::from_secs(30));
        assert!(gateway.strikes[0].fault.targets.contains(&"ann->gateway-1".to_owned()));
        let pair = Point::signal(&all()[1], "executor-1").then_killed(&all()).remove(2);
        for point in [Point::kill(cue, "executor-1"), cut.clone(), pair] {
            for plan in [point.within(&story), expectant(&point.within(&story), "executor-1")] {
                let read = words::parse::<TestProduct>("printed", &plan::print(&plan)).unwrap();
                assert_eq!(read, plan);
                assert!(plan.must_reach.is_empty());
            }
        }
    }
}
