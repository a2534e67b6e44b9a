//! The monitor sees everything first: each observation and each fact of a link becomes an event here, and each event goes,
//! in one order, to the trace, the digest, the invariants and the nemesis. Its one law: nothing in it waits.

mod excuses;
mod incarnations;
mod strikes;
#[cfg(all(test, madsim))]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use self::excuses::Excuses;
use crate::plan::{Kind, Scope};
use crate::standins::Control;
use crate::standins::observation::{FaultFelt, Log, Observation};
use crate::trace::event::{Event, ProductEvent, What, WorldEvent};
use crate::trace::fault::FaultId;
use crate::trace::invariant::{Breach, Invariant, Obligation};
use crate::trace::recorder::Recorder;
use crate::world::nemesis::{Nemesis, ScheduledMove};
use crate::world::nodes::NodeId;
use crate::world::product::{Moments, Origin, Reader};

/// How often obligations are asked for while events come: far below any deadline that a product has.
const CHECK_EVERY: Duration = Duration::from_millis(500);

/// Why a run was stopped before it settled.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Stop {
    /// An invariant was broken.
    Breach { invariant: String, breach: Breach },
    /// The harness cannot go on.
    Error(String),
}

/// What the world must do because of an event, once the monitor is free again.
#[derive(Clone, Debug)]
pub(crate) enum Action {
    /// Give this order when its time has come.
    Later(ScheduledMove),
    /// A fault begins on a link.
    Strike { fault: FaultId, kind: Kind, part: Scope, link: String },
    /// The fault ends there.
    Heal { fault: FaultId, link: String },
    /// SIGTERM for this incarnation.
    Terminate { process: String, incarnation: u32 },
    /// SIGKILL for this incarnation: not one more step of it.
    Kill { process: String, incarnation: u32 },
    /// The host of this incarnation is lost: not one more step of it, and nothing closes.
    Lose { process: String, incarnation: u32 },
    /// The main of this incarnation panics: not one more step of it, and everything closes.
    Crash { process: String, incarnation: u32 },
    /// The service manager stops this incarnation, whether or not that is `heard`.
    Stop { process: String, incarnation: u32, heard: bool },
    /// A process that waits for its first boot waits no longer.
    Raise { process: String },
    /// What this many lost hosts of a process left half-open is closed, when its time has come.
    ExpireLater { process: String, losses: u32 },
    /// What a lost host left half-open is closed now.
    Expire { process: String, losses: u32 },
    /// SIGSTOP for a process that lives.
    Pause { process: String },
    /// SIGCONT for one that still lives.
    Resume { process: String },
    /// A service has a fault, for all or for a caller; or no longer.
    Control { service: String, control: Control },
    /// A fault takes a service down, with every connection to it; or it comes up again.
    Down { fault: FaultId, service: String, down: bool },
}

/// Where a process stands.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Life {
    pub(crate) incarnation: u32,
    pub(crate) alive: bool,
    signals: u32,
}

/// So many warnings of processes are kept: enough to see a pattern, few enough for one screen.
const WARNINGS: usize = 6;

/// Everything that is known of a run while it goes on.
pub(crate) struct Monitor<O> {
    pub(crate) recorder: Recorder,
    pub(crate) nemesis: Nemesis,
    pub(crate) invariants: Vec<Box<dyn Invariant<O>>>,
    /// What had no deadline.
    pub(crate) excuses: Excuses,
    reader: Box<dyn Reader<O>>,
    moments: Box<dyn Moments<O>>,
    /// The dialling process of each address. Ports are used again: the last one to dial counts.
    origins: BTreeMap<SocketAddr, Origin>,
    lives: BTreeMap<String, Life>,
    /// The faults that keep a living process still.
    pauses: BTreeMap<String, BTreeSet<FaultId>>,
    /// How often a process has lost its host.
    losses: BTreeMap<String, u32>,
    /// Processes that a fault has brought, and which, with the work that they have taken from others in their first life.
    newcomers: BTreeMap<String, (FaultId, BTreeSet<String>)>,
    /// Processes that do not come back.
    retired: BTreeSet<String>,
    /// Processes that go on serving for a while once they are to stop.
    lingering: BTreeSet<String>,
    /// When each process died last.
    deaths: BTreeMap<String, Duration>,
    /// Processes that live only while a container runs: when none does they are rightly down.
    slots: BTreeSet<String>,
    /// Connections whose last request waits for an answer for longer than it should, and since when.
    silent: BTreeMap<(String, u32), Duration>,
    queue: VecDeque<(String, u32, What<O>)>,
    busy: bool,
    actions: Vec<Action>,
    now: Duration,
    next_due: Duration,
    asked: Duration,
    /// Something happened since then: what invariants wait for follows from events alone.
    stale: bool,
    last_product: Duration,
    stop: Option<Stop>,
    over: bool,
    /// The nodes on which the product's processes run.
    product: BTreeSet<NodeId>,
    /// The newest lines of processes at WARN and above, at most [`WARNINGS`].
    warnings: VecDeque<String>,
}

impl<O: ProductEvent> Monitor<O> {
    pub(crate) fn new(
        recorder: Recorder,
        nemesis: Nemesis,
        invariants: Vec<Box<dyn Invariant<O>>>,
        reader: Box<dyn Reader<O>>,
        moments: Box<dyn Moments<O>>,
    ) -> Self {
        Monitor {
            recorder,
            nemesis,
            invariants,
            excuses: Excuses::default(),
            reader,
            moments,
            origins: BTreeMap::new(),
            lives: BTreeMap::new(),
            pauses: BTreeMap::new(),
            losses: BTreeMap::new(),
            newcomers: BTreeMap::new(),
            retired: BTreeSet::new(),
            lingering: BTreeSet::new(),
            deaths: BTreeMap::new(),
            slots: BTreeSet::new(),
            silent: BTreeMap::new(),
            queue: VecDeque::new(),
            busy: false,
            actions: Vec::new(),
            now: Duration::ZERO,
            next_due: Duration::MAX,
            asked: Duration::ZERO,
            stale: true,
            last_product: Duration::ZERO,
            stop: None,
            over: false,
            product: BTreeSet::new(),
            warnings: VecDeque::new(),
        }
    }

    /// What is done from here on happens at this time.
    pub(crate) fn set_now(&mut self, now: Duration) {
        if !self.over {
            self.now = now;
        }
    }

    pub(crate) fn now(&self) -> Duration {
        self.now
    }

    pub(crate) fn last_product(&self) -> Duration {
        self.last_product
    }

    pub(crate) fn next_due(&self) -> Duration {
        self.next_due
    }

    pub(crate) fn stop(&self) -> Option<&Stop> {
        self.stop.as_ref()
    }

    pub(crate) fn life(&self, process: &str) -> Life {
        self.lives.get(process).copied().unwrap_or_default()
    }

    /// The processes that are down and should be up.
    pub(crate) fn down(&self) -> Vec<&str> {
        let rightly = |process: &String| self.slots.contains(process) || self.retired.contains(process);
        let down = self.lives.iter().filter(|(process, life)| !life.alive && !rightly(process));
        down.map(|(process, _)| process.as_str()).collect()
    }

    /// The connections that wait for an answer, and since when.
    pub(crate) fn silent(&self) -> &BTreeMap<(String, u32), Duration> {
        &self.silent
    }

    pub(crate) fn take_actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    /// From here on nothing counts any more: what still happens is the world being taken down.
    pub(crate) fn close(&mut self) {
        self.over = true;
    }

    pub(crate) fn fail(&mut self, why: String) {
        self.halt(Stop::Error(why));
    }

    pub(crate) fn halt(&mut self, stop: Stop) {
        if !self.over {
            self.stop = Some(stop);
            self.over = true;
        }
    }

    // What happens.

    pub(crate) fn dialled(&mut self, local: SocketAddr, process: &str, incarnation: u32) {
        self.origins.insert(local, Origin { process: process.to_owned(), incarnation });
    }

    /// A stand-in did something.
    pub(crate) fn observed(&mut self, observation: &Observation) {
        let nobody = Origin { process: String::new(), incarnation: 0 };
        let origin = observation.peer().and_then(|peer| self.origins.get(&peer)).cloned().unwrap_or(nobody);
        self.read(observation, &origin);
        match observation.fault_felt() {
            Some(FaultFelt { fault, caller: Some(caller), request }) => {
                self.felt_by_caller(fault, &format!("{}/{caller}", observation.service), &request);
            }
            Some(FaultFelt { fault, caller: None, request }) => {
                self.suffered(observation.service, fault, &request, &origin.process);
            }
            None => {}
        }
    }

    /// A service has done to a call of the caller `target` what the faults of this kind that stand want.
    fn felt_by_caller(&mut self, kind: &str, target: &str, request: &[u8]) {
        let faults = self.nemesis.books.of_caller(target, kind);
        if let Some(label) = self.reader.mentioned(request) {
            faults.into_iter().for_each(|fault| self.felt(fault, target, &label));
        }
    }

    /// A process logged. The dead log nothing: what their destructors say is dropped.
    pub(crate) fn logged(&mut self, process: &str, log: impl FnOnce(u32) -> Observation) {
        let life = self.life(process);
        if life.alive {
            let origin = Origin { process: process.to_owned(), incarnation: life.incarnation };
            let observation = log(life.incarnation);
            self.warned(process, &observation);
            self.read(&observation, &origin);
        }
    }

    /// Keeps what a process warned of: a run that comes to no end is explained by that more often than by anything else.
    fn warned(&mut self, process: &str, observation: &Observation) {
        let Some(log) = observation.of::<Log>() else { return };
        if !matches!(log.level, "WARN" | "ERROR") {
            return;
        }
        let fields: String = log.fields.iter().map(|(name, value)| format!(" {name}={value}")).collect();
        let at = self.now.as_secs_f64();
        self.warnings.push_back(format!("{process} logged at {at:.1} s: {} {}{fields}", log.level, log.message));
        if self.warnings.len() > WARNINGS {
            self.warnings.pop_front();
        }
    }

    /// The newest warnings of processes, oldest first.
    pub(crate) fn warnings(&self) -> impl Iterator<Item = String> {
        self.warnings.iter().cloned()
    }

    /// Learns on which nodes the product's processes run.
    pub(crate) fn runs_on(&mut self, nodes: impl IntoIterator<Item = NodeId>) {
        self.product.extend(nodes);
    }

    /// Whether a process of the product runs on this node.
    pub(crate) fn is_of_product(&self, node: NodeId) -> bool {
        self.product.contains(&node)
    }

    fn read(&mut self, observation: &Observation, origin: &Origin) {
        if self.over {
            return;
        }
        for product_event in self.reader.read(observation, origin) {
            self.emit(&origin.process, origin.incarnation, What::Product(product_event));
        }
        if let Some(why) = self.reader.misread() {
            self.fail(why);
        }
    }

    pub(crate) fn happened(&mut self, process: &str, incarnation: u32, event: WorldEvent) {
        match &event {
            WorldEvent::Unanswered { link, conn, since } => {
                self.silent.insert((link.clone(), *conn), *since);
            }
            WorldEvent::AnsweredLate { link, conn, .. } | WorldEvent::LinkClosed { link, conn, .. } => {
                self.silent.remove(&(link.clone(), *conn));
            }
            _ => {}
        }
        self.emit(process, incarnation, What::World(event));
    }

    /// Puts an event on the record, with everything that follows from it, in order.
    pub(crate) fn emit(&mut self, process: &str, incarnation: u32, what: What<O>) {
        self.queue.push_back((process.to_owned(), incarnation, what));
        if std::mem::replace(&mut self.busy, true) {
            return;
        }
        while let Some((process, incarnation, what)) = self.queue.pop_front() {
            self.process_event(process, incarnation, what);
        }
        self.busy = false;
    }

    fn process_event(&mut self, process: String, incarnation: u32, what: What<O>) {
        if self.over {
            return;
        }
        if self.now > self.next_due {
            self.check_deadlines();
            if self.over {
                return;
            }
        }
        let event = Event { seq: self.recorder.events(), at: self.now, process, incarnation, what };
        self.recorder.event(&event);
        self.stale = true;
        self.moments.observe(&event);
        for invariant in &mut self.invariants {
            if let Err(breach) = invariant.observe(&event) {
                let invariant = invariant.name().to_owned();
                return self.halt(Stop::Breach { invariant, breach });
            }
        }
        if let What::Product(product_event) = &event.what {
            if !product_event.routine() {
                self.last_product = self.now;
            }
            if self.now >= self.asked + CHECK_EVERY {
                self.check_deadlines();
            }
        }
        if !self.newcomers.is_empty() {
            self.welcome();
        }
        let origin = self.lives.contains_key(&event.process).then_some(event.process.as_str());
        let moves = self.nemesis.learn(event.what.name(), event.what.session(), origin);
        self.give(moves);
    }

    // What must happen.

    /// Asks, unless nothing has happened since the last time and no deadline has passed.
    pub(crate) fn check_deadlines_again(&mut self) {
        if self.stale || self.now > self.next_due {
            self.check_deadlines();
        }
    }

    /// Asks what settling must wait for, and stops the run if it is too late for some of it.
    pub(crate) fn check_deadlines(&mut self) -> Vec<Obligation> {
        let mut all = Vec::new();
        let (mut missed, mut undated) = (None, Vec::new());
        self.asked = self.now;
        self.stale = false;
        self.next_due = Duration::MAX;
        for invariant in &self.invariants {
            for obligation in invariant.pending() {
                self.next_due = self.next_due.min(obligation.due);
                if obligation.due < self.now && missed.is_none() {
                    let invariant = invariant.name().to_owned();
                    missed = Some(Stop::Breach { invariant, breach: Breach::missed(obligation.clone()) });
                }
                if obligation.due == Duration::MAX {
                    undated.push((invariant.name(), obligation.says.clone()));
                }
                if !obligation.standing {
                    all.push(obligation);
                }
            }
        }
        self.excuses.look(undated, &self.nemesis, self.now);
        if let Some(stop) = missed {
            self.halt(stop);
        }
        all
    }

    /// After settling: each invariant's last word.
    pub(crate) fn conclude(&mut self) {
        let breach = self.invariants.iter_mut().find_map(|invariant| {
            let breach = invariant.conclude().err()?;
            Some(Stop::Breach { invariant: invariant.name().to_owned(), breach })
        });
        if let Some(stop) = breach {
            self.halt(stop);
        }
    }

    // What is asked of it.

    pub(crate) fn mentioned(&self, request: &[u8]) -> Option<String> {
        self.reader.mentioned(request)
    }

    pub(crate) fn served_by(&self, process: &str) -> Option<String> {
        self.reader.served_by(process)
    }

    pub(crate) fn carried(&mut self, link: &str, conn: u32, up: bool, bytes: &[u8]) {
        if !self.over {
            self.recorder.chunk(link, conn, up, bytes, self.now);
        }
    }
}
