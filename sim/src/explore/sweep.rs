//! Many seeds, several at once, told in order. The parent stays single-threaded and waits with `poll`: a forked child of
//! a parent with threads would not be the same child every time.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::RawFd;
use std::time::Instant;

use crate::explore::run::Child;
use crate::plan::{Expect, FaultRow, Vocabulary};
use crate::trace::invariant::Floor;
use crate::trace::verdict::{Report, Verdict};

/// A run that is going in another process.
pub trait Running {
    /// Readable once there is a report, or none will come.
    fn fd(&self) -> RawFd;
    /// When [`Running::finish`] waits no longer.
    fn deadline(&self) -> Instant;
    /// Waits for the report.
    fn finish(self) -> Report;
    /// Ends it; nobody wants to know.
    fn abandon(self);
}

impl Running for Child {
    fn fd(&self) -> RawFd {
        Child::fd(self)
    }

    fn deadline(&self) -> Instant {
        Child::deadline(self)
    }

    fn finish(self) -> Report {
        Child::finish(self)
    }

    fn abandon(self) {
        // SAFETY: the pid is of a child of ours that has not been waited for; `finish` waits for it, and returns at once.
        unsafe { libc::kill(self.pid, libc::SIGKILL) };
        Child::finish(self);
    }
}

/// Whether to go on after a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// With the next seed.
    GoOn,
    /// Abandon what is going and begin nothing more.
    Stop,
}

/// One run in so many is run once more in a process that is started anew. What does not follow from the seed alone shows
/// in some run of every sweep long before it spoils a replay, and costs the sweep a hundredth of its time.
pub const CHECK_EVERY: usize = 100;

/// One thing that a sweep does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Runs a seed in a child.
    Run(u64),
    /// Runs it in a process that is started anew. The run of the same seed comes next.
    Check(u64),
}

/// What a sweep over `seeds` does: every seed is run, and every hundredth, the smallest first, is checked before. Which
/// ones does not depend on the order of `seeds`. Where sweeps follow one another, `before` is how many seeds the earlier ones
/// had.
pub fn tasks(seeds: &[u64], before: usize) -> Vec<Task> {
    let mut sorted = seeds.to_vec();
    sorted.sort_unstable();
    let to_next = before.next_multiple_of(CHECK_EVERY) - before;
    let checked: BTreeSet<u64> = sorted.into_iter().skip(to_next).step_by(CHECK_EVERY).collect();
    let each = |seed| checked.contains(&seed).then_some(Task::Check(seed)).into_iter().chain([Task::Run(seed)]);
    seeds.iter().copied().flat_map(each).collect()
}

/// Runs `seeds` (or whatever `begin` takes) with up to `jobs` of them at once. `begin` starts one; `each` is told of
/// every report in the order of `seeds`, whatever the order in which they came.
pub fn sweep<T: Copy, R: Running>(
    seeds: &[T],
    jobs: usize,
    mut begin: impl FnMut(T) -> R,
    mut each: impl FnMut(T, Report) -> Next,
) {
    let mut waiting = seeds.iter().copied().enumerate();
    let mut going: Vec<(usize, R)> = Vec::new();
    let mut early: BTreeMap<usize, Report> = BTreeMap::new();
    let mut told = 0;
    while told < seeds.len() {
        // No more than this far ahead of the one that is being waited for, so that reports do not pile up.
        while going.len() < jobs.max(1) && early.len() < 64 * jobs.max(1) {
            let Some((place, seed)) = waiting.next() else { break };
            going.push((place, begin(seed)));
        }
        let watched: Vec<_> = going.iter().map(|(_, running)| (running.fd(), running.deadline())).collect();
        // From the last, so that `swap_remove` moves none that is still to come.
        for at in ready(&watched).into_iter().rev() {
            let (place, running) = going.swap_remove(at);
            early.insert(place, running.finish());
        }
        while let Some(report) = early.remove(&told) {
            told += 1;
            if each(seeds[told - 1], report) == Next::Stop {
                going.into_iter().for_each(|(_, running)| running.abandon());
                return;
            }
        }
    }
}

/// Waits until at least one of `runs` has something to read, is closed or is past its deadline; their places, in order.
fn ready(runs: &[(RawFd, Instant)]) -> Vec<usize> {
    let mut polled: Vec<libc::pollfd> =
        runs.iter().map(|(fd, _)| libc::pollfd { fd: *fd, events: libc::POLLIN, revents: 0 }).collect();
    let deadline = runs.iter().map(|(_, deadline)| *deadline).min();
    loop {
        let now = Instant::now();
        let left = deadline.map_or(0, |deadline| deadline.saturating_duration_since(now).as_millis().saturating_add(1));
        let millis = libc::c_int::try_from(left).unwrap_or(libc::c_int::MAX);
        // SAFETY: the pointer and the length are of one live vector.
        let count = unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, millis) };
        if count < 0 {
            let error = std::io::Error::last_os_error();
            assert!(error.kind() == std::io::ErrorKind::Interrupted, "poll on the pipes of children: {error}");
            continue;
        }
        let now = Instant::now();
        let places = 0..polled.len();
        let ready: Vec<usize> = places.filter(|at| polled[*at].revents != 0 || runs[*at].1 <= now).collect();
        if !ready.is_empty() {
            return ready;
        }
    }
}

/// `report` as judged by what its plan expects: a violation that was expected is a pass, and its absence proves that the
/// plan no longer shows anything.
pub fn judged(mut report: Report, expect: &Expect) -> Report {
    if expect.verdict != "violated" {
        return report;
    }
    let wanted = expect.invariant.as_deref().unwrap_or("an invariant");
    match report.verdict {
        Verdict::Violated if report.invariant == expect.invariant => report.verdict = Verdict::Passed,
        Verdict::Passed | Verdict::Vacuous => {
            report.verdict = Verdict::Vacuous;
            report.because.insert(0, format!("the plan expects a violation of `{wanted}`, and nothing was violated"));
        }
        _ => report.because.insert(0, format!("the plan expects a violation of `{wanted}`")),
    }
    report
}

/// Of the work that nothing disturbed so many in a hundred must be done, or a sweep shows nothing. What is left over is what
/// leaves no trace, as work that was taken back before anybody had begun it: a few in a hundred.
const KEPT_LEAST: u64 = 90;

/// So many pieces of work that are not done may be chance, however few there were in all.
const UNKEPT_MOST: u64 = 2;

/// So many drawn plans that all lack work which nothing disturbs are no chance: of one plan in eight that has some, a hundred
/// would lack it once in half a million sweeps.
const SEEDS_LEAST: usize = 100;

/// What a sweep over drawn plans put to the test.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reach {
    /// How many runs there were.
    pub runs: usize,
    /// By kind of fault: in how many runs one was drawn, and in how many one was felt.
    pub faults: BTreeMap<String, (usize, usize)>,
    /// By kind of fault: how many operations felt one in each of the product's moments.
    pub moments: BTreeMap<String, BTreeMap<String, u64>>,
    /// By invariant: in how many runs it was armed.
    pub armed: BTreeMap<String, usize>,
    /// By invariant and kind of fault: in how many runs it had to wait without a deadline while such a fault stood, and for how
    /// many seconds of virtual time in all. Where several stood, it counts for each.
    pub excuses: BTreeMap<(String, String), (usize, f64)>,
    /// By invariant that knows it: what came of the work that nothing disturbed.
    pub floors: BTreeMap<String, Ground>,
}

/// What came of the work that nothing disturbed, in all runs together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ground {
    /// In numbers.
    pub floor: Floor,
    /// The smallest seed on which some of it was not done.
    pub unkept: Option<u64>,
}

impl Reach {
    /// Nothing yet, with a place for every kind of fault in every moment, and for every invariant of a product.
    pub fn over(vocabulary: &Vocabulary, moments: &[&str]) -> Self {
        let kinds: Vec<&str> = vocabulary.kinds().into_iter().map(FaultRow::word).collect();
        let moments: BTreeMap<String, u64> = moments.iter().map(|moment| ((*moment).to_owned(), 0)).collect();
        Reach {
            runs: 0,
            faults: kinds.iter().map(|kind| ((*kind).to_owned(), (0, 0))).collect(),
            moments: kinds.iter().map(|kind| ((*kind).to_owned(), moments.clone())).collect(),
            armed: vocabulary.invariants.iter().map(|(name, _)| ((*name).to_owned(), 0)).collect(),
            excuses: BTreeMap::new(),
            floors: BTreeMap::new(),
        }
    }

    /// Counts one run.
    pub fn add(&mut self, report: &Report) {
        self.runs += 1;
        let mut kinds: BTreeMap<&str, bool> = BTreeMap::new();
        for fault in &report.faults {
            *kinds.entry(&fault.kind).or_default() |= fault.felt.is_some();
            let counts = self.moments.entry(fault.kind.clone()).or_default();
            fault.moments.iter().for_each(|(moment, times)| *counts.entry(moment.clone()).or_default() += times);
        }
        for (kind, felt) in kinds {
            let counts = self.faults.entry(kind.to_owned()).or_default();
            counts.0 += 1;
            counts.1 += usize::from(felt);
        }
        for name in &report.armed {
            *self.armed.entry(name.clone()).or_default() += 1;
        }
        let mut excused: BTreeMap<(String, String), f64> = BTreeMap::new();
        for excuse in &report.excuses {
            let word = |by: &String| by.split(' ').next().unwrap_or_default().to_owned();
            let words: BTreeSet<String> = excuse.by.iter().map(word).collect();
            for word in if words.is_empty() { BTreeSet::from(["no fault".to_owned()]) } else { words } {
                *excused.entry((excuse.invariant.clone(), word)).or_default() += excuse.seconds;
            }
        }
        for (key, seconds) in excused {
            let sum = self.excuses.entry(key).or_default();
            *sum = (sum.0 + 1, sum.1 + seconds);
        }
        for (name, floor) in &report.floors {
            let ground = self.floors.entry(name.clone()).or_default();
            ground.floor.promised += floor.promised;
            ground.floor.kept += floor.kept;
            if floor.kept < floor.promised {
                ground.unkept = Some(ground.unkept.map_or(report.seed, |seed| seed.min(report.seed)));
            }
        }
    }

    /// Why the sweep is void, if it is, and what to do: whatever was promised of how work is done, work was not done, or there
    /// was none that should have been. `replay` makes the line that replays a seed.
    pub fn void(&self, replay: impl Fn(u64) -> String) -> Vec<String> {
        let why = |(name, Ground { floor, unkept }): (&String, &Ground)| {
            let Floor { promised, kept } = *floor;
            if promised == 0 && self.runs >= SEEDS_LEAST {
                return Some(format!(
                    "in {} runs there was no work that nothing disturbed, as `{name}` sees it: draw some calmer plans, or \
                     see why it takes all of them for disturbed",
                    self.runs
                ));
            }
            let few = promised.saturating_sub(kept) > UNKEPT_MOST && kept * 100 < promised * KEPT_LEAST;
            few.then(|| {
                let see = unkept.map(|seed| format!(": see why, {}", replay(seed))).unwrap_or_default();
                format!(
                    "of {promised} pieces of work that nothing disturbed, as `{name}` sees them, {kept} were done, and \
                     {KEPT_LEAST} in a hundred must be{see}"
                )
            })
        };
        self.floors.iter().filter_map(why).collect()
    }

    /// What no run put to the test; a sweep with any proves less than it seems to. A kind of fault that no plan drew is
    /// not asked for: a service without tokens cannot refuse one.
    pub fn missing(&self) -> Vec<String> {
        let faults = self.faults.iter().filter(|(_, (drawn, felt))| *drawn > 0 && *felt == 0);
        let armed = self.armed.iter().filter(|(_, armed)| **armed == 0);
        faults
            .map(|(kind, _)| format!("no run felt a `{kind}`"))
            .chain(armed.map(|(name, _)| format!("no run armed `{name}`")))
            .collect()
    }

    /// The kinds of fault that were drawn and felt fewer than `least` times in some moment.
    pub fn seldom(&self, least: u64) -> Vec<String> {
        let drawn = self.moments.iter().filter(|(kind, _)| self.faults.get(*kind).is_some_and(|counts| counts.0 > 0));
        let seldom = drawn.flat_map(|(kind, counts)| {
            let few = counts.iter().filter(|(_, times)| **times < least);
            few.map(move |(moment, times)| format!("a `{kind}` was felt {times} times in a {moment}"))
        });
        seldom.collect()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsRawFd;
    use std::time::Duration;

    use super::*;
    use crate::trace::verdict::tests::report;
    use crate::world::test_product::TestProduct;
    use crate::world::words;

    /// A run whose report is there at once.
    struct Done(std::io::PipeReader, u64, Instant);

    impl Running for Done {
        fn fd(&self) -> RawFd {
            self.0.as_raw_fd()
        }
        fn deadline(&self) -> Instant {
            self.2
        }
        fn finish(self) -> Report {
            report("swarm", self.1, Verdict::Passed)
        }
        fn abandon(self) {}
    }

    fn done(seed: u64) -> Done {
        let (near, mut far) = std::io::pipe().unwrap();
        far.write_all(b"x").unwrap();
        Done(near, seed, Instant::now() + Duration::from_secs(60))
    }

    #[test]
    fn reports_come_in_the_order_of_the_seeds() {
        for jobs in [0, 1, 2, 7] {
            let seeds: Vec<u64> = (1..40).rev().collect();
            let mut told = Vec::new();
            sweep(&seeds, jobs, done, |seed, report| {
                assert_eq!(seed, report.seed);
                told.push(report.seed);
                Next::GoOn
            });
            assert_eq!(told, seeds);
        }
    }

    #[test]
    fn a_run_that_says_nothing_holds_nobody_up_for_ever() {
        let mut ends = Vec::new();
        let silent = |seed| {
            let (near, far) = std::io::pipe().unwrap();
            ends.push(far);
            Done(near, seed, Instant::now() + Duration::from_millis(20))
        };
        let mut told = 0;
        sweep(&[1, 2, 3], 2, silent, |_, _| {
            told += 1;
            Next::GoOn
        });
        assert_eq!(told, 3);
    }

    #[test]
    fn a_stop_begins_nothing_more() {
        let (mut begun, mut told) = (0, 0);
        let begin = |seed| {
            begun += 1;
            done(seed)
        };
        sweep(&[5, 6, 7, 8, 9, 10], 2, begin, |_, _| {
            told += 1;
            if told == 2 { Next::Stop } else { Next::GoOn }
        });
        assert_eq!(told, 2);
        assert!(begun <= 4, "{begun}");
    }

    #[test]
    fn every_hundredth_seed_is_checked_before_it_is_run() {
        assert_eq!(tasks(&[7, 8], 0), [Task::Check(7), Task::Run(7), Task::Run(8)]);
        assert_eq!(tasks(&[7, 8], 99), [Task::Run(7), Task::Check(8), Task::Run(8)]);
        let checked = |seeds: &[u64]| {
            let of = |task| if let Task::Check(seed) = task { Some(seed) } else { None };
            tasks(seeds, 0).into_iter().filter_map(of).collect::<Vec<_>>()
        };
        let forwards: Vec<u64> = (1..=301).collect();
        let backwards: Vec<u64> = (1..=301).rev().collect();
        assert_eq!(checked(&forwards), [1, 101, 201, 301]);
        assert_eq!(checked(&backwards), [301, 201, 101, 1]);
        assert_eq!(tasks(&forwards, 0).len(), 305);
    }

    #[test]
    fn expectations_turn_verdicts() {
        let expect = Expect { verdict: "violated".into(), invariant: Some("no_zombies".into()) };
        let mut broken = report("swarm", 1, Verdict::Violated);
        assert_eq!(judged(broken.clone(), &expect).verdict, Verdict::Passed);
        broken.invariant = Some("terminal_once".into());
        assert_eq!(judged(broken, &expect).verdict, Verdict::Violated);
        assert_eq!(judged(report("swarm", 1, Verdict::Passed), &expect).verdict, Verdict::Vacuous);
        assert_eq!(judged(report("swarm", 1, Verdict::Panicked), &expect).verdict, Verdict::Panicked);
    }

    #[test]
    fn a_sweep_in_which_nothing_is_done_is_void() {
        let void = |runs: u64, promised, kept| {
            let mut reach = Reach::over(&words::vocabulary::<TestProduct>(), &[]);
            for seed in (1..=runs).rev() {
                let floors = [("done".to_owned(), Floor { promised, kept })].into();
                reach.add(&Report { floors, ..report("swarm", seed, Verdict::Passed) });
            }
            reach.void(|seed| format!("replay {seed}"))
        };
        assert_eq!(void(500, 3, 3), [""; 0]);
        // Nine in ten are enough, and one or two may always be chance.
        assert_eq!(void(500, 10, 9), [""; 0]);
        assert_eq!(void(2, 1, 0), [""; 0]);
        let says = void(3, 2, 1);
        assert!(says.len() == 1 && says[0].contains("of 6 pieces") && says[0].contains("3 were done"), "{says:?}");
        assert!(says[0].ends_with("see why, replay 1"), "{says:?}");
        // Of a few seeds none may have work that is left alone, of many not.
        assert_eq!(void(99, 0, 0), [""; 0]);
        assert!(void(100, 0, 0)[0].starts_with("in 100 runs there was no work"));
        let mut mute = Reach::over(&words::vocabulary::<TestProduct>(), &[]);
        (1..=500).for_each(|seed| mute.add(&report("swarm", seed, Verdict::Passed)));
        assert_eq!(mute.void(|_| String::new()), [""; 0], "a product need not say what must be done");
    }

    #[test]
    fn reach_counts_what_was_felt_and_armed() {
        let invariants = vec![("no_zombies", ""), ("nothing_lost", "")];
        let vocabulary = Vocabulary { invariants, ..words::vocabulary::<TestProduct>() };
        let mut reach = Reach::over(&vocabulary, &["drain"]);
        reach.add(&report("swarm", 1, Verdict::Passed));
        assert_eq!(reach.faults["wedge"], (1, 1));
        assert_eq!(reach.faults["delay"], (1, 0));
        assert_eq!(reach.armed["no_zombies"], 1);
        assert!(reach.missing().contains(&"no run felt a `delay`".to_owned()));
        assert!(reach.missing().contains(&"no run armed `nothing_lost`".to_owned()));
        assert!(!reach.missing().iter().any(|line| line.contains("wedge")));
        // Kinds that were never drawn are not asked for.
        assert!(!reach.seldom(1).iter().any(|line| line.contains("sigkill")));
        assert_eq!(reach.moments["wedge"]["drain"], 2);
        assert!(!reach.seldom(2).iter().any(|line| line.contains("wedge")));
        assert!(reach.seldom(3).contains(&"a `wedge` was felt 2 times in a drain".to_owned()));
    }
}
