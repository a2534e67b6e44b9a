//! The nemesis walks the plan's faults: it knows when each must begin and end, and how it was felt.
//! Its one law: it draws nothing. Given the same plan and the same events it does the same.

pub(crate) mod books;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use self::books::Books;
use crate::link::ends_in_new;
use crate::plan::{Cast, Fault, Lifetime, ORIGIN, Trigger};
use crate::trace::fault::FaultId;
use crate::trace::verdict::FaultReport;

/// A rolling restart takes no longer: four processes that each need the longest legal run to stop.
pub const ROLLING_MAX: Duration = Duration::from_secs(24 * 3600);

/// What to do with a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    /// The fault begins.
    Strike,
    /// The fault ends.
    Heal,
}

/// A move of a fault, at once or later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScheduledMove {
    /// The fault.
    pub fault: FaultId,
    /// What to do.
    pub go: Move,
    /// How long from now; zero means before anything else happens.
    pub after: Duration,
    /// The number of the fault's strike that this is about, from 1. What was ordered for a strike that is over is void.
    pub round: u32,
}

/// How far a fault has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The trigger has not come.
    Waiting,
    /// The trigger has come; a timer runs.
    Coming,
    /// The fault strikes; no timer runs towards its end.
    Striking,
    /// The fault strikes; a timer runs towards its end, or it comes to its end by itself.
    Ending,
    /// The fault is over, or can come no more.
    Over,
}

struct Standing {
    fault: Fault,
    stage: Stage,
    /// How many of the events that it waits for have come.
    seen: u32,
    /// When it struck first and last, and how often.
    struck: Option<(Duration, Duration)>,
    strikes: u64,
    felt: Option<Duration>,
    times: u64,
    /// How many of those in each of the product's moments.
    moments: BTreeMap<String, u64>,
    labels: BTreeSet<(String, String)>,
    /// On how many targets a fault that strikes once has done so.
    spent: usize,
    /// How often it has struck, with the strike that is to come.
    round: u32,
}

impl Standing {
    /// As `wedge executor-1->redis`.
    fn named(&self) -> String {
        format!("{} {}", self.fault.kind.word(), self.fault.targets.join(" and "))
    }
}

/// Walks the plan's faults.
pub struct Nemesis {
    all: Vec<Standing>,
    /// Every link of the world: who has none of that name cannot be struck there.
    links: BTreeSet<String>,
    /// Everything has healed: nothing strikes again.
    closed: bool,
    /// The faults that go on.
    pub(crate) books: Books,
}

impl Nemesis {
    /// For the faults of a plan, in a world with these links.
    pub fn new(faults: &[Fault], links: Vec<String>) -> Nemesis {
        let standing = |fault: &Fault| Standing {
            fault: fault.clone(),
            stage: Stage::Waiting,
            seen: 0,
            struck: None,
            strikes: 0,
            felt: None,
            times: 0,
            moments: BTreeMap::new(),
            labels: BTreeSet::new(),
            spent: 0,
            round: 1,
        };
        Nemesis {
            all: faults.iter().map(standing).collect(),
            links: links.into_iter().collect(),
            closed: false,
            books: Books::default(),
        }
    }

    /// The fault itself.
    pub fn fault(&self, fault: FaultId) -> &Fault {
        &self.all[fault.place()].fault
    }

    /// The moves that stand from the beginning.
    pub fn open(&mut self) -> Vec<ScheduledMove> {
        let mut moves = Vec::new();
        for (place, standing) in self.all.iter_mut().enumerate() {
            let fault = FaultId::at(place);
            if let Trigger::At(at) = standing.fault.trigger {
                standing.stage = Stage::Coming;
                moves.push(ScheduledMove { fault, go: Move::Strike, after: at, round: 1 });
            }
        }
        moves
    }

    /// Learns of an event, at a process of the world if `origin` names one; says what follows from it.
    pub fn learn(&mut self, name: &str, session: Option<&str>, origin: Option<&str>) -> Vec<ScheduledMove> {
        let mut moves = Vec::new();
        for (place, standing) in self.all.iter_mut().enumerate() {
            let fault = FaultId::at(place);
            let (event_match, go) = match (standing.stage, &standing.fault.trigger, &standing.fault.length) {
                (Stage::Waiting, Trigger::On(event_match), _) => (event_match, Move::Strike),
                (Stage::Striking, _, Lifetime::Until(event_match)) => (event_match, Move::Heal),
                _ => continue,
            };
            if !event_match.hears(name, session) {
                continue;
            }
            let aimless = standing.fault.strikes_origin()
                && !origin.is_some_and(|origin| can_be_aimed(&standing.fault.targets, origin, &self.links));
            if go == Move::Strike && aimless {
                continue;
            }
            standing.seen += 1;
            if standing.seen == event_match.nth.max(1) {
                let after = event_match.after;
                if let (Move::Strike, Some(origin)) = (go, origin) {
                    aim(&mut standing.fault.targets, origin);
                }
                standing.stage = if go == Move::Strike { Stage::Coming } else { Stage::Ending };
                moves.push(ScheduledMove { fault, go, after, round: standing.round });
            }
        }
        moves
    }

    /// Learns of a chunk of a request on `link`, whose first `old` bytes it has seen before. A chunk counts once.
    pub fn request(&mut self, link: &str, bytes: &[u8], old: usize) -> Vec<ScheduledMove> {
        let mut moves = Vec::new();
        for (place, standing) in self.all.iter_mut().enumerate() {
            let fault = FaultId::at(place);
            let Trigger::OnRequest { link: on, matches, nth, after } = &standing.fault.trigger else { continue };
            if standing.stage != Stage::Waiting || on != link {
                continue;
            }
            if !ends_in_new(bytes, old, matches.as_bytes()) {
                continue;
            }
            standing.seen += 1;
            if standing.seen == (*nth).max(1) {
                let after = *after;
                standing.stage = Stage::Coming;
                moves.push(ScheduledMove { fault, go: Move::Strike, after, round: 1 });
            }
        }
        moves
    }

    /// The fault begins now. Says when it must end, if that is known; `None` if it may not begin any more.
    pub fn strike(&mut self, fault: FaultId, now: Duration) -> Option<Option<ScheduledMove>> {
        let standing = &mut self.all[fault.place()];
        if standing.stage != Stage::Coming {
            return None;
        }
        let first = standing.struck.map_or(now, |(first, _)| first);
        standing.struck = Some((first, now));
        standing.strikes += 1;
        standing.seen = 0;
        standing.spent = 0;
        let round = standing.round;
        let (stage, after) = match (&standing.fault.kind, &standing.fault.length) {
            // It ends when its last target was told; who never boots again does not keep the world waiting for ever.
            (kind, _) if matches!(kind.cast, Cast::InTurn | Cast::Replaces) => (Stage::Ending, Some(ROLLING_MAX)),
            (kind, _) if kind.instant() => (Stage::Ending, Some(Duration::ZERO)),
            (_, Lifetime::Lasts(length)) => (Stage::Ending, Some(*length)),
            (kind, Lifetime::Instant) if kind.awaits_answer() => (Stage::Striking, None),
            (_, Lifetime::Instant) => (Stage::Ending, Some(Duration::ZERO)),
            (_, Lifetime::Until(_) | Lifetime::UntilHeal) => (Stage::Striking, None),
        };
        standing.stage = stage;
        Some(after.map(|after| ScheduledMove { fault, go: Move::Heal, after, round }))
    }

    /// The fault ends now. Says whether it stood.
    pub fn heal(&mut self, fault: FaultId) -> bool {
        let stood = matches!(self.all[fault.place()].stage, Stage::Striking | Stage::Ending);
        self.all[fault.place()].stage = Stage::Over;
        stood
    }

    /// After the fault's end: when it strikes again, if it does.
    pub fn again(&mut self, fault: FaultId) -> Option<ScheduledMove> {
        let (standing, closed) = (&mut self.all[fault.place()], self.closed);
        let after = standing.fault.every.filter(|_| !closed && standing.stage == Stage::Over)?;
        standing.stage = Stage::Coming;
        standing.round += 1;
        Some(ScheduledMove { fault, go: Move::Strike, after, round: standing.round })
    }

    /// Whether an order is about the strike that goes on or comes next.
    pub fn stands(&self, order: &ScheduledMove) -> bool {
        self.all[order.fault.place()].round == order.round
    }

    /// A fault that strikes once has done so on one of its targets. Says whether that was its last.
    pub fn spent(&mut self, fault: FaultId) -> bool {
        let standing = &mut self.all[fault.place()];
        standing.spent += 1;
        standing.spent >= standing.fault.targets.len()
    }

    /// Everything heals: the faults that stand, to be healed; those that have not come never will.
    pub fn close(&mut self) -> Vec<FaultId> {
        self.closed = true;
        let mut standing = Vec::new();
        for (place, one) in self.all.iter_mut().enumerate() {
            match one.stage {
                Stage::Striking | Stage::Ending => standing.push(FaultId::at(place)),
                _ => one.stage = Stage::Over,
            }
        }
        standing
    }

    /// Work with this label felt the fault on `target`, in those moments. Says whether that is news.
    pub fn felt(&mut self, fault: FaultId, target: &str, label: &str, moments: &[&str], now: Duration) -> bool {
        let standing = &mut self.all[fault.place()];
        standing.times += 1;
        moments.iter().for_each(|moment| *standing.moments.entry((*moment).to_owned()).or_default() += 1);
        standing.felt.get_or_insert(now);
        standing.labels.insert((target.to_owned(), label.to_owned()))
    }

    /// Whether no timer of a fault runs: nothing more will begin or end by the clock, but what has been there before.
    pub fn calm(&self) -> bool {
        self.all.iter().all(|standing| standing.round > 1 || !matches!(standing.stage, Stage::Coming | Stage::Ending))
    }

    /// Whether no fault is still to come, nor stands without a timer towards its end.
    pub fn done(&self) -> bool {
        self.all.iter().all(|standing| !matches!(standing.stage, Stage::Waiting | Stage::Striking))
    }

    /// When a fault began last.
    pub fn last_struck(&self) -> Duration {
        self.all.iter().filter_map(|standing| standing.struck).map(|(_, last)| last).max().unwrap_or_default()
    }

    /// The faults that stand, as `wedge executor-1->redis`.
    pub(crate) fn standing(&self) -> impl Iterator<Item = (FaultId, String)> {
        let stands = |(_, one): &(usize, &Standing)| matches!(one.stage, Stage::Striking | Stage::Ending);
        self.all.iter().enumerate().filter(stands).map(|(place, one)| (FaultId::at(place), one.named()))
    }

    /// The fault that struck last.
    pub(crate) fn newest(&self) -> Option<(FaultId, String)> {
        let struck = self.all.iter().enumerate().filter_map(|(place, one)| Some((one.struck?.1, place, one)));
        struck.max_by_key(|(last, place, _)| (*last, *place)).map(|(_, place, one)| (FaultId::at(place), one.named()))
    }

    /// What came of each fault.
    pub fn report(&self) -> Vec<FaultReport> {
        let report = |standing: &Standing| FaultReport {
            kind: standing.fault.kind.word().to_owned(),
            targets: standing.fault.targets.clone(),
            struck: standing.struck.map(|(first, _)| first.as_secs_f64()),
            last_struck: standing.struck.map(|(_, last)| last.as_secs_f64()),
            strikes: standing.strikes,
            felt: standing.felt.map(|at| at.as_secs_f64()),
            times_felt: standing.times,
            moments: standing.moments.clone(),
        };
        self.all.iter().map(report).collect()
    }
}

/// Puts a name in the place of [`ORIGIN`].
fn aim(targets: &mut [String], origin: &str) {
    for target in targets {
        if let Some(aimed) = aimed(target, origin) {
            *target = aimed;
        }
    }
}

/// A target with a name in the place of [`ORIGIN`], if that stands there.
fn aimed(target: &str, origin: &str) -> Option<String> {
    let (near, far) = target.split_once("->").map_or((target, None), |(near, far)| (near, Some(far)));
    (near == ORIGIN).then(|| far.map_or_else(|| origin.to_owned(), |far| format!("{origin}->{far}")))
}

/// Whether the process that caused an event has the links that a fault strikes.
fn can_be_aimed(targets: &[String], origin: &str, links: &BTreeSet<String>) -> bool {
    let mut aimed = targets.iter().filter_map(|target| aimed(target, origin));
    aimed.all(|target| !target.contains("->") || links.contains(&target))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::faults::{CLOSE, REPLY_LOST, WEDGE};
    use crate::plan::{EventMatch, Kind};
    use crate::world::process_faults::{HOST_LOSS, PAUSE, ROLLING_RESTART, SIGKILL};

    const ONE: FaultId = FaultId::at(0);

    fn nemesis(kind: Kind, trigger: Trigger, length: Lifetime) -> Nemesis {
        Nemesis::new(&[Fault::new(kind, vec!["a->b".into()], trigger, length)], Vec::new())
    }

    fn event_match(event: &str, nth: u32, after: u64) -> EventMatch {
        EventMatch { event: event.into(), session: None, nth, after: Duration::from_secs(after) }
    }

    #[test]
    fn it_counts_the_events_of_a_trigger_and_of_an_end_apart() {
        let length = Lifetime::Until(event_match("said", 2, 1));
        let mut nemesis = nemesis(Kind::of(&WEDGE), Trigger::On(event_match("said", 2, 0)), length);
        assert_eq!(nemesis.learn("said", None, None), []);
        assert_eq!(nemesis.learn("other", None, None), []);
        assert_eq!(
            nemesis.learn("said", None, None),
            [ScheduledMove { fault: ONE, go: Move::Strike, after: Duration::ZERO, round: 1 }]
        );
        assert!(!nemesis.calm());
        assert_eq!(nemesis.strike(ONE, Duration::from_secs(9)), Some(None));
        assert!(nemesis.calm() && !nemesis.done());
        assert_eq!(nemesis.learn("said", None, None), []);
        let heal = ScheduledMove { fault: ONE, go: Move::Heal, after: Duration::from_secs(1), round: 1 };
        assert_eq!(nemesis.learn("said", None, None), [heal]);
        assert!(nemesis.heal(ONE) && !nemesis.heal(ONE));
        assert!(nemesis.done());
    }

    #[test]
    fn the_process_that_caused_the_event_is_struck() {
        let targets = vec!["origin".to_string(), "origin->redis".into(), "ann->b".into()];
        let trigger = Trigger::On(event_match("said", 1, 0));
        let fault = Fault::new(Kind::of(&SIGKILL), targets, trigger, Lifetime::Instant);
        let mut nemesis = Nemesis::new(&[fault], vec!["executor-2->redis".into()]);
        assert_eq!(nemesis.learn("said", None, None), [], "nobody's event");
        assert_eq!(nemesis.learn("said", None, Some("agent-1.1")), [], "that of one without such a link");
        assert_eq!(nemesis.learn("said", None, Some("executor-2")).len(), 1);
        assert_eq!(nemesis.fault(ONE).targets, ["executor-2", "executor-2->redis", "ann->b"]);
    }

    #[test]
    fn a_pattern_may_straddle_chunks_and_counts_once() {
        let trigger =
            Trigger::OnRequest { link: "a->b".into(), matches: "run.claim".into(), nth: 2, after: Duration::ZERO };
        let mut nemesis = nemesis(Kind::of(&WEDGE), trigger, Lifetime::UntilHeal);
        assert_eq!(nemesis.request("a->b", b"run.claim", 0), []);
        assert_eq!(nemesis.request("a->b", b"run.claim run.c", 9), []);
        assert_eq!(nemesis.request("a->c", b"run.claim", 0), []);
        assert_eq!(nemesis.request("a->b", b"run.claim run.claim", 15).len(), 1);
    }

    #[test]
    fn lengths_are_those_of_the_kind() {
        let struck = |kind, length| {
            let mut nemesis = nemesis(kind, Trigger::At(Duration::ZERO), length);
            nemesis.open();
            let order = nemesis.strike(ONE, Duration::ZERO).expect("its time has come");
            (order.map(|order| order.after), nemesis.calm())
        };
        let lasts = Lifetime::Lasts(Duration::from_secs(5));
        assert_eq!(struck(Kind::of(&PAUSE), lasts.clone()), (Some(Duration::from_secs(5)), false));
        assert_eq!(struck(Kind::of(&PAUSE), Lifetime::UntilHeal), (None, true));
        assert_eq!(struck(Kind::of(&HOST_LOSS), lasts), (Some(Duration::ZERO), false));
        assert_eq!(struck(Kind::of(&ROLLING_RESTART), Lifetime::Instant), (Some(ROLLING_MAX), false));
        assert_eq!(struck(Kind::of(&REPLY_LOST), Lifetime::Instant), (None, true));
        assert_eq!(struck(Kind::of(&CLOSE), Lifetime::Instant), (Some(Duration::ZERO), false));
    }

    #[test]
    fn a_fault_strikes_again_after_its_end_and_old_orders_are_none() {
        let mut fault = Fault::new(
            Kind::of(&REPLY_LOST),
            vec!["a->b".into()],
            Trigger::At(Duration::ZERO),
            Lifetime::Lasts(Duration::from_secs(60)),
        );
        fault.every = Some(Duration::from_secs(30));
        let mut nemesis = Nemesis::new(&[fault], Vec::new());
        nemesis.open();
        let heal = nemesis.strike(ONE, Duration::ZERO).expect("its time has come").expect("it has an end");
        assert!(nemesis.stands(&heal) && !nemesis.calm());
        assert!(nemesis.spent(ONE) && nemesis.heal(ONE));
        let again = nemesis.again(ONE).expect("it strikes again");
        assert_eq!((again.go, again.after), (Move::Strike, Duration::from_secs(30)));
        assert!(!nemesis.stands(&heal), "what ended the first strike does not end the second");
        assert!(nemesis.calm(), "a world does not wait for what never stops");
        assert!(nemesis.strike(ONE, Duration::from_secs(35)).is_some() && nemesis.spent(ONE));
        assert_eq!(nemesis.close(), [ONE]);
        assert!(nemesis.heal(ONE));
        assert_eq!(nemesis.again(ONE), None, "everything has healed");
    }

    #[test]
    fn nothing_begins_once_all_has_healed() {
        let mut nemesis = nemesis(Kind::of(&WEDGE), Trigger::On(event_match("said", 1, 0)), Lifetime::UntilHeal);
        assert!(nemesis.close().is_empty());
        assert_eq!(nemesis.learn("said", None, None), []);
        assert_eq!(nemesis.strike(ONE, Duration::ZERO), None);
    }
}
