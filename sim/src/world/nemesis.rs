//! The nemesis walks the plan's faults: it knows when each must begin and end, and how it was felt.
//! Its one law: it draws nothing. Given the same plan and the same events it does the same.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::link::ends_in_new;
use crate::plan::{EventMatch, Fault, Kind, Lifetime, ORIGIN, Trigger};
use crate::trace::verdict::FaultReport;

/// A rolling restart takes no longer: four processes that each need the longest legal run to stop.
pub const ROLLING_MAX: Duration = Duration::from_secs(24 * 3600);

/// What to do with a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    /// It begins.
    Strike,
    /// It ends.
    Heal,
}

/// A move of a fault (counted from 0), at once or later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScheduledMove {
    /// The fault's place in the plan, from 0.
    pub fault: usize,
    /// What to do.
    pub go: Move,
    /// How long from now; zero means before anything else happens.
    pub after: Duration,
    /// Which of its strikes this is about, from 1. What was ordered for one that is over is no order any more.
    pub round: u32,
}

/// How far a fault has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Its trigger has not come.
    Waiting,
    /// Its trigger has come; a timer runs.
    Coming,
    /// It strikes; no timer runs towards its end.
    Striking,
    /// It strikes; a timer runs towards its end, or it comes to its end by itself.
    Ending,
    /// It is over, or can come no more.
    Over,
}

struct Standing {
    fault: Fault,
    stage: Stage,
    /// How many of the events that it waits for have come.
    seen: u32,
    struck: Option<Duration>,
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

/// Walks the plan's faults.
pub struct Nemesis {
    all: Vec<Standing>,
    /// Every link of the world: who has none of that name cannot be struck there.
    links: BTreeSet<String>,
    /// Everything has healed: nothing strikes again.
    closed: bool,
}

impl Nemesis {
    /// For the faults of a plan, in a world with these links.
    pub fn new(faults: &[Fault], links: Vec<String>) -> Nemesis {
        let standing = |fault: &Fault| Standing {
            fault: fault.clone(),
            stage: Stage::Waiting,
            seen: 0,
            struck: None,
            felt: None,
            times: 0,
            moments: BTreeMap::new(),
            labels: BTreeSet::new(),
            spent: 0,
            round: 1,
        };
        Nemesis { all: faults.iter().map(standing).collect(), links: links.into_iter().collect(), closed: false }
    }

    /// The fault at this place.
    pub fn fault(&self, index: usize) -> &Fault {
        &self.all[index].fault
    }

    /// The orders that stand from the beginning.
    pub fn open(&mut self) -> Vec<ScheduledMove> {
        let mut orders = Vec::new();
        for (fault, standing) in self.all.iter_mut().enumerate() {
            if let Trigger::At(at) = standing.fault.trigger {
                standing.stage = Stage::Coming;
                orders.push(ScheduledMove { fault, go: Move::Strike, after: at, round: 1 });
            }
        }
        orders
    }

    /// Learns of an event, at a process of the world if `origin` names one; says what follows from it.
    pub fn learn(&mut self, name: &str, session: Option<&str>, origin: Option<&str>) -> Vec<ScheduledMove> {
        let mut orders = Vec::new();
        for (fault, standing) in self.all.iter_mut().enumerate() {
            let (cue, go) = match (standing.stage, &standing.fault.trigger, &standing.fault.length) {
                (Stage::Waiting, Trigger::On(cue), _) => (cue, Move::Strike),
                (Stage::Striking, _, Lifetime::Until(cue)) => (cue, Move::Heal),
                _ => continue,
            };
            if !heard(cue, name, session) {
                continue;
            }
            let aimless = standing.fault.strikes_origin()
                && !origin.is_some_and(|origin| can_be_aimed(&standing.fault.targets, origin, &self.links));
            if go == Move::Strike && aimless {
                continue;
            }
            standing.seen += 1;
            if standing.seen == cue.nth.max(1) {
                let after = cue.after;
                if let (Move::Strike, Some(origin)) = (go, origin) {
                    aim(&mut standing.fault.targets, origin);
                }
                standing.stage = if go == Move::Strike { Stage::Coming } else { Stage::Ending };
                orders.push(ScheduledMove { fault, go, after, round: standing.round });
            }
        }
        orders
    }

    /// Learns of a chunk of a request on `link`, whose first `old` bytes it has seen before. A chunk counts once.
    pub fn request(&mut self, link: &str, bytes: &[u8], old: usize) -> Vec<ScheduledMove> {
        let mut orders = Vec::new();
        for (fault, standing) in self.all.iter_mut().enumerate() {
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
                orders.push(ScheduledMove { fault, go: Move::Strike, after, round: 1 });
            }
        }
        orders
    }

    /// The fault begins now. Says when it must end, if that is known; `None` if it may not begin any more.
    pub fn strike(&mut self, index: usize, now: Duration) -> Option<Option<ScheduledMove>> {
        let standing = &mut self.all[index];
        if standing.stage != Stage::Coming {
            return None;
        }
        standing.struck = Some(now);
        standing.seen = 0;
        standing.spent = 0;
        let round = standing.round;
        let (stage, after) = match (&standing.fault.kind, &standing.fault.length) {
            // It ends when its last target was told; who never boots again does not keep the world waiting for ever.
            (Kind::RollingRestart | Kind::Reconfigure, _) => (Stage::Ending, Some(ROLLING_MAX)),
            (kind, _) if kind.instant() => (Stage::Ending, Some(Duration::ZERO)),
            (_, Lifetime::Lasts(length)) => (Stage::Ending, Some(*length)),
            (kind, Lifetime::Instant) if kind.awaits_answer() => (Stage::Striking, None),
            (_, Lifetime::Instant) => (Stage::Ending, Some(Duration::ZERO)),
            (_, Lifetime::Until(_) | Lifetime::UntilHeal) => (Stage::Striking, None),
        };
        standing.stage = stage;
        Some(after.map(|after| ScheduledMove { fault: index, go: Move::Heal, after, round }))
    }

    /// The fault ends now. Says whether it stood.
    pub fn heal(&mut self, index: usize) -> bool {
        let stood = matches!(self.all[index].stage, Stage::Striking | Stage::Ending);
        self.all[index].stage = Stage::Over;
        stood
    }

    /// After the fault's end: when it strikes again, if it does.
    pub fn again(&mut self, index: usize) -> Option<ScheduledMove> {
        let (standing, closed) = (&mut self.all[index], self.closed);
        let after = standing.fault.every.filter(|_| !closed && standing.stage == Stage::Over)?;
        standing.stage = Stage::Coming;
        standing.round += 1;
        Some(ScheduledMove { fault: index, go: Move::Strike, after, round: standing.round })
    }

    /// Whether an order is about the strike that goes on or comes next.
    pub fn stands(&self, order: &ScheduledMove) -> bool {
        self.all[order.fault].round == order.round
    }

    /// A fault that strikes once has done so on one of its targets. Says whether that was its last.
    pub fn spent(&mut self, index: usize) -> bool {
        let standing = &mut self.all[index];
        standing.spent += 1;
        standing.spent >= standing.fault.targets.len()
    }

    /// Everything heals: the faults that stand, to be healed; those that have not come never will.
    pub fn close(&mut self) -> Vec<usize> {
        self.closed = true;
        let mut standing = Vec::new();
        for (index, one) in self.all.iter_mut().enumerate() {
            match one.stage {
                Stage::Striking | Stage::Ending => standing.push(index),
                _ => one.stage = Stage::Over,
            }
        }
        standing
    }

    /// Work with this label felt the fault on `target`, in those moments. Says whether that is news.
    pub fn felt(&mut self, index: usize, target: &str, label: &str, moments: &[&str], now: Duration) -> bool {
        let standing = &mut self.all[index];
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
        self.all.iter().filter_map(|standing| standing.struck).max().unwrap_or_default()
    }

    /// What came of each fault.
    pub fn report(&self) -> Vec<FaultReport> {
        let report = |standing: &Standing| FaultReport {
            kind: standing.fault.kind.name().to_owned(),
            targets: standing.fault.targets.clone(),
            struck: standing.struck.map(|at| at.as_secs_f64()),
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

/// Whether whoever caused an event has the links that a fault strikes.
fn can_be_aimed(targets: &[String], origin: &str, links: &BTreeSet<String>) -> bool {
    let mut aimed = targets.iter().filter_map(|target| aimed(target, origin));
    aimed.all(|target| !target.contains("->") || links.contains(&target))
}

fn heard(cue: &EventMatch, name: &str, session: Option<&str>) -> bool {
    cue.event == name && cue.session.as_deref().is_none_or(|wanted| session == Some(wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nemesis(kind: Kind, trigger: Trigger, length: Lifetime) -> Nemesis {
        Nemesis::new(&[Fault::new(kind, vec!["a->b".into()], trigger, length)], Vec::new())
    }

    fn cue(event: &str, nth: u32, after: u64) -> EventMatch {
        EventMatch { event: event.into(), session: None, nth, after: Duration::from_secs(after) }
    }

    #[test]
    fn it_counts_the_events_of_a_trigger_and_of_an_end_apart() {
        let length = Lifetime::Until(cue("said", 2, 1));
        let mut nemesis = nemesis(Kind::Wedge, Trigger::On(cue("said", 2, 0)), length);
        assert_eq!(nemesis.learn("said", None, None), []);
        assert_eq!(nemesis.learn("other", None, None), []);
        assert_eq!(
            nemesis.learn("said", None, None),
            [ScheduledMove { fault: 0, go: Move::Strike, after: Duration::ZERO, round: 1 }]
        );
        assert!(!nemesis.calm());
        assert_eq!(nemesis.strike(0, Duration::from_secs(9)), Some(None));
        assert!(nemesis.calm() && !nemesis.done());
        assert_eq!(nemesis.learn("said", None, None), []);
        let heal = ScheduledMove { fault: 0, go: Move::Heal, after: Duration::from_secs(1), round: 1 };
        assert_eq!(nemesis.learn("said", None, None), [heal]);
        assert!(nemesis.heal(0) && !nemesis.heal(0));
        assert!(nemesis.done());
    }

    #[test]
    fn whoever_caused_the_event_is_struck() {
        let targets = vec!["origin".to_string(), "origin->redis".into(), "ann->b".into()];
        let trigger = Trigger::On(cue("said", 1, 0));
        let fault = Fault::new(Kind::Sigkill, targets, trigger, Lifetime::Instant);
        let mut nemesis = Nemesis::new(&[fault], vec!["executor-2->redis".into()]);
        assert_eq!(nemesis.learn("said", None, None), [], "nobody's event");
        assert_eq!(nemesis.learn("said", None, Some("agent-1.1")), [], "that of one without such a link");
        assert_eq!(nemesis.learn("said", None, Some("executor-2")).len(), 1);
        assert_eq!(nemesis.fault(0).targets, ["executor-2", "executor-2->redis", "ann->b"]);
    }

    #[test]
    fn a_pattern_may_straddle_chunks_and_counts_once() {
        let trigger =
            Trigger::OnRequest { link: "a->b".into(), matches: "run.claim".into(), nth: 2, after: Duration::ZERO };
        let mut nemesis = nemesis(Kind::Wedge, trigger, Lifetime::UntilHeal);
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
            let order = nemesis.strike(0, Duration::ZERO).expect("its time has come");
            (order.map(|order| order.after), nemesis.calm())
        };
        let lasts = Lifetime::Lasts(Duration::from_secs(5));
        assert_eq!(struck(Kind::Pause, lasts.clone()), (Some(Duration::from_secs(5)), false));
        assert_eq!(struck(Kind::Pause, Lifetime::UntilHeal), (None, true));
        assert_eq!(struck(Kind::HostLoss, lasts), (Some(Duration::ZERO), false));
        assert_eq!(struck(Kind::RollingRestart, Lifetime::Instant), (Some(ROLLING_MAX), false));
        assert_eq!(struck(Kind::ReplyLost { matches: None }, Lifetime::Instant), (None, true));
        assert_eq!(struck(Kind::Close, Lifetime::Instant), (Some(Duration::ZERO), false));
    }

    #[test]
    fn a_fault_strikes_again_after_its_end_and_old_orders_are_none() {
        let mut fault = Fault::new(
            Kind::ReplyLost { matches: None },
            vec!["a->b".into()],
            Trigger::At(Duration::ZERO),
            Lifetime::Lasts(Duration::from_secs(60)),
        );
        fault.every = Some(Duration::from_secs(30));
        let mut nemesis = Nemesis::new(&[fault], Vec::new());
        nemesis.open();
        let heal = nemesis.strike(0, Duration::ZERO).expect("its time has come").expect("it has an end");
        assert!(nemesis.stands(&heal) && !nemesis.calm());
        assert!(nemesis.spent(0) && nemesis.heal(0));
        let again = nemesis.again(0).expect("it strikes again");
        assert_eq!((again.go, again.after), (Move::Strike, Duration::from_secs(30)));
        assert!(!nemesis.stands(&heal), "what ended the first strike does not end the second");
        assert!(nemesis.calm(), "a world does not wait for what never stops");
        assert!(nemesis.strike(0, Duration::from_secs(35)).is_some() && nemesis.spent(0));
        assert_eq!(nemesis.close(), [0]);
        assert!(nemesis.heal(0));
        assert_eq!(nemesis.again(0), None, "everything has healed");
    }

    #[test]
    fn nothing_begins_once_all_has_healed() {
        let mut nemesis = nemesis(Kind::Wedge, Trigger::On(cue("said", 1, 0)), Lifetime::UntilHeal);
        assert!(nemesis.close().is_empty());
        assert_eq!(nemesis.learn("said", None, None), []);
        assert_eq!(nemesis.strike(0, Duration::ZERO), None);
    }
}
