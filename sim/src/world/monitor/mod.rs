//! The watch sees everything first: each observation and each fact of a link becomes an event here, and each event goes,
//! in one order, to the trace, the digest, the invariants and the nemesis. Its one law: nothing in it waits.

mod incarnations;
#[cfg(all(test, madsim))]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use crate::plan::{Kind, Lifetime, Scope, ServiceFault, StreamFault, TargetKind};
use crate::standins::Control;
use crate::standins::observation::{Observation, Suffering};
use crate::trace::event::{Event, ProductEvent, What, WorldEvent};
use crate::trace::invariant::{Breach, Invariant, Obligation};
use crate::trace::recorder::Recorder;
use crate::world::nemesis::{Move, Nemesis, ScheduledMove};
use crate::world::product::{Moments, Origin, Reader};

/// How often obligations are asked for while events come: far below any deadline that a product has.
const ASK_EVERY: Duration = Duration::from_millis(500);

/// Why a run was stopped before it settled.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Stop {
    /// An invariant was broken.
    Breach { invariant: String, breach: Breach },
    /// The harness cannot go on.
    Error(String),
}

/// What the world must do because of an event, once the watch is free again.
#[derive(Clone, Debug)]
pub(crate) enum Action {
    /// Give this order when its time has come.
    Later(ScheduledMove),
    /// Fault `number` (from 1) begins on a link.
    Strike { number: usize, kind: Kind, part: Scope, link: String },
    /// It ends there.
    Heal { number: usize, link: String },
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
    /// It is closed now.
    Expire { process: String, losses: u32 },
    /// SIGSTOP for a process that lives.
    Pause { process: String },
    /// SIGCONT for one that still lives.
    Resume { process: String },
    /// A service refuses a caller, or accepts it again; something ails it, or no longer.
    Control { service: String, control: Control },
    /// Fault `number` takes a service down, with every connection to it; or it comes up again.
    Down { number: usize, service: String, down: bool },
}

/// Where a process stands.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Life {
    pub(crate) incarnation: u32,
    pub(crate) alive: bool,
    signals: u32,
}

/// Everything that is known of a run while it goes on.
pub(crate) struct Monitor<O> {
    pub(crate) recorder: Recorder,
    pub(crate) nemesis: Nemesis,
    pub(crate) invariants: Vec<Box<dyn Invariant<O>>>,
    reader: Box<dyn Reader<O>>,
    moments: Box<dyn Moments<O>>,
    /// Who dials from where. Ports are used again: the last one to dial counts.
    origins: BTreeMap<SocketAddr, Origin>,
    lives: BTreeMap<String, Life>,
    /// The faults that keep a living process still.
    pauses: BTreeMap<String, BTreeSet<usize>>,
    /// How often a process has lost its host.
    losses: BTreeMap<String, u32>,
    /// Rolling restarts that go on, by fault: whose boot is waited for, and who is still to come.
    rolling: BTreeMap<usize, (String, VecDeque<String>)>,
    /// Replacements that go on, by fault: whose boot is waited for, and who goes then.
    replacing: BTreeMap<usize, (String, String)>,
    /// Processes that a fault has brought, and which, with the work that they have taken from others in their first life.
    newcomers: BTreeMap<String, (usize, BTreeSet<String>)>,
    /// Processes that do not come back.
    retired: BTreeSet<String>,
    /// Processes that go on serving for a while once they are to stop.
    lingering: BTreeSet<String>,
    /// When each process died last.
    deaths: BTreeMap<String, Duration>,
    /// The faults for which a caller is refused, by target, each with what it is told.
    refusals: BTreeMap<String, BTreeMap<usize, Control>>,
    /// The faults that disturb what is streamed to a caller, by target and how.
    disturbed: BTreeMap<(String, StreamFault), BTreeSet<usize>>,
    /// What ails services, by service and fault.
    ailing: BTreeMap<(String, usize), ServiceFault>,
    /// Processes that live only while a container runs: when none does they are rightly down.
    berths: BTreeSet<String>,
    /// Connections whose last request waits for an answer for longer than it should, and since when.
    silent: BTreeMap<(String, u32), Duration>,
    queue: VecDeque<(String, u32, What<O>)>,
    busy: bool,
    deeds: Vec<Action>,
    now: Duration,
    next_due: Duration,
    asked: Duration,
    /// Something happened since then: what invariants wait for follows from events alone.
    stale: bool,
    last_product: Duration,
    stop: Option<Stop>,
    over: bool,
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
            reader,
            moments,
            origins: BTreeMap::new(),
            lives: BTreeMap::new(),
            pauses: BTreeMap::new(),
            losses: BTreeMap::new(),
            rolling: BTreeMap::new(),
            replacing: BTreeMap::new(),
            newcomers: BTreeMap::new(),
            retired: BTreeSet::new(),
            lingering: BTreeSet::new(),
            deaths: BTreeMap::new(),
            refusals: BTreeMap::new(),
            disturbed: BTreeMap::new(),
            ailing: BTreeMap::new(),
            berths: BTreeSet::new(),
            silent: BTreeMap::new(),
            queue: VecDeque::new(),
            busy: false,
            deeds: Vec::new(),
            now: Duration::ZERO,
            next_due: Duration::MAX,
            asked: Duration::ZERO,
            stale: true,
            last_product: Duration::ZERO,
            stop: None,
            over: false,
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
        let rightly = |process: &String| self.berths.contains(process) || self.retired.contains(process);
        let down = self.lives.iter().filter(|(process, life)| !life.alive && !rightly(process));
        down.map(|(process, _)| process.as_str()).collect()
    }

    /// The connections that wait for an answer, and since when.
    pub(crate) fn silent(&self) -> &BTreeMap<(String, u32), Duration> {
        &self.silent
    }

    pub(crate) fn take_deeds(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.deeds)
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
        match observation.suffering() {
            Some(Suffering { fault, caller: Some(caller), request }) => {
                self.felt_by_caller(fault, &format!("{}/{caller}", observation.service), &request);
            }
            Some(Suffering { fault, caller: None, request }) => {
                self.suffered(observation.service, fault, &request, &origin.process);
            }
            None => {}
        }
    }

    /// A service has done to a call of the caller `target` what the faults of this kind that stand want.
    fn felt_by_caller(&mut self, fault: &str, target: &str, request: &[u8]) {
        let refused = self.refusals.get(target).filter(|_| fault == "refuse").into_iter().flatten();
        let disturbed = self.disturbed.iter().filter(|((whom, how), _)| whom == target && how.name() == fault);
        let faults = refused.map(|(index, _)| *index).chain(disturbed.flat_map(|(_, faults)| faults.iter().copied()));
        let faults: Vec<usize> = faults.collect();
        if let Some(label) = self.reader.mentioned(request) {
            faults.into_iter().for_each(|index| self.felt(index, target, &label));
        }
    }

    /// A process logged. The dead log nothing: what their destructors say is dropped.
    pub(crate) fn logged(&mut self, process: &str, log: impl FnOnce(u32) -> Observation) {
        let life = self.life(process);
        if life.alive {
            let origin = Origin { process: process.to_owned(), incarnation: life.incarnation };
            self.read(&log(life.incarnation), &origin);
        }
    }

    fn read(&mut self, observation: &Observation, origin: &Origin) {
        if self.over {
            return;
        }
        for occurrence in self.reader.read(observation, origin) {
            self.emit(&origin.process, origin.incarnation, What::Product(occurrence));
        }
    }

    pub(crate) fn happened(&mut self, process: &str, incarnation: u32, happening: WorldEvent) {
        match &happening {
            WorldEvent::Unanswered { link, conn, since } => {
                self.silent.insert((link.clone(), *conn), *since);
            }
            WorldEvent::Answered { link, conn, .. } | WorldEvent::LinkClosed { link, conn, .. } => {
                self.silent.remove(&(link.clone(), *conn));
            }
            _ => {}
        }
        self.emit(process, incarnation, What::World(happening));
    }

    /// Puts an event on the record, with everything that follows from it, in order.
    pub(crate) fn emit(&mut self, process: &str, incarnation: u32, what: What<O>) {
        self.queue.push_back((process.to_owned(), incarnation, what));
        if std::mem::replace(&mut self.busy, true) {
            return;
        }
        while let Some((process, incarnation, what)) = self.queue.pop_front() {
            self.take(process, incarnation, what);
        }
        self.busy = false;
    }

    fn take(&mut self, process: String, incarnation: u32, what: What<O>) {
        if self.over {
            return;
        }
        if self.now > self.next_due {
            self.ask();
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
        if let What::Product(occurrence) = &event.what {
            if !occurrence.routine() {
                self.last_product = self.now;
            }
            if self.now >= self.asked + ASK_EVERY {
                self.ask();
            }
        }
        if !self.newcomers.is_empty() {
            self.welcome();
        }
        let origin = self.lives.contains_key(&event.process).then_some(event.process.as_str());
        let orders = self.nemesis.learn(event.what.name(), event.what.session(), origin);
        self.give(orders);
    }

    // What must happen.

    /// Asks, unless nothing has happened since the last time and no deadline has passed.
    pub(crate) fn ask_again(&mut self) {
        if self.stale || self.now > self.next_due {
            self.ask();
        }
    }

    /// Asks what settling must wait for, and stops the run if it is too late for some of it.
    pub(crate) fn ask(&mut self) -> Vec<Obligation> {
        let mut all = Vec::new();
        let mut missed = None;
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
                if !obligation.standing {
                    all.push(obligation);
                }
            }
        }
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

    // What goes wrong.

    /// The plan's clock starts.
    pub(crate) fn open(&mut self) {
        let orders = self.nemesis.open();
        self.give(orders);
    }

    /// A chunk of a request arrived at a relay.
    pub(crate) fn requested(&mut self, link: &str, bytes: &[u8], old: usize) {
        if !self.over {
            let orders = self.nemesis.request(link, bytes, old);
            self.give(orders);
        }
    }

    fn give(&mut self, orders: Vec<ScheduledMove>) {
        for order in orders {
            if order.after.is_zero() {
                self.go(order);
            } else {
                self.deeds.push(Action::Later(order));
            }
        }
    }

    /// A fault begins or ends now.
    pub(crate) fn go(&mut self, order: ScheduledMove) {
        if self.over {
            return;
        }
        if !self.nemesis.stands(&order) {
            return;
        }
        match order.go {
            Move::Strike => self.strike(order.fault),
            Move::Heal => self.heal(order.fault),
        }
    }

    fn strike(&mut self, index: usize) {
        let Some(end) = self.nemesis.strike(index, self.now) else { return };
        let fault = self.nemesis.fault(index).clone();
        if fault.kind.target_kind() == TargetKind::Process
            && let Some(target) = fault.targets.iter().find(|target| !self.lives.contains_key(*target))
        {
            return self.fail(format!("fault {}: there is no process {target}", index + 1));
        }
        if fault.kind == Kind::RollingRestart {
            self.give(end.into_iter().collect());
            self.rolling.insert(index, (String::new(), fault.targets.into()));
            return self.roll(index);
        }
        if let (Kind::Reconfigure, [old, new]) = (&fault.kind, &fault.targets[..]) {
            self.give(end.into_iter().collect());
            self.replacing.insert(index, (new.clone(), old.clone()));
            self.strike_one(index, &fault.kind, new.clone());
            if self.life(new).incarnation > 0 || self.is_retired(new) {
                self.replace(index);
            }
            return;
        }
        for target in fault.targets {
            self.strike_one(index, &fault.kind, target);
        }
        self.give(end.into_iter().collect());
    }

    fn strike_one(&mut self, index: usize, kind: &Kind, target: String) {
        let number = index + 1;
        let struck = WorldEvent::FaultStruck { fault: number, kind: kind.name(), target: target.clone() };
        self.happened("", 0, struck);
        if kind.target_kind() == TargetKind::Process
            && self.life(&target).alive
            && let Some(label) = self.reader.served_by(&target)
        {
            self.felt(index, &target, &label);
        }
        match kind {
            Kind::Sigterm | Kind::RollingRestart => self.tell_to_stop(&target, true),
            Kind::LostSignal => self.tell_to_stop(&target, false),
            Kind::Panic => self.panic(&target),
            Kind::ScaleUp => self.come(index, &target),
            Kind::ScaleDown => self.retire(&target),
            Kind::Reconfigure => {
                let comes = self.nemesis.fault(index).targets.last() == Some(&target);
                if comes { self.come(index, &target) } else { self.retire(&target) }
            }
            Kind::Sigkill => self.kill(&target),
            Kind::HostLoss => self.lose(&target),
            Kind::Pause => self.pause(&target, index),
            Kind::Refuse { status, retry_after } => self.refuse(index, target, *status, *retry_after),
            Kind::Disturb(disturbance) => self.disturb(index, target, *disturbance),
            Kind::Ail(ailment) => self.ail(index, target, *ailment),
            Kind::Wedge | Kind::Close | Kind::ConnectionRefused | Kind::ReplyLost { .. } | Kind::Delay { .. } => {
                self.strike_link(index, kind.clone(), target);
            }
            Kind::HalfOpen | Kind::Trickle { .. } | Kind::Cut { .. } | Kind::Answer { .. } => {
                self.strike_link(index, kind.clone(), target)
            }
        }
    }

    fn strike_link(&mut self, index: usize, kind: Kind, link: String) {
        let part = self.nemesis.fault(index).part.clone();
        self.deeds.push(Action::Strike { number: index + 1, kind, part, link });
    }

    fn disturb(&mut self, index: usize, target: String, disturbance: StreamFault) {
        let Some((service, name)) = target.split_once('/').map(|(service, name)| (service.to_owned(), name.to_owned()))
        else {
            return self.fail(format!("fault {}: {target} is no SERVICE/NAME", index + 1));
        };
        self.disturbed.entry((target, disturbance)).or_default().insert(index);
        self.deeds.push(Action::Control { service, control: Control::Disturb { name, disturbance } });
    }

    /// One fault disturbs it no longer; it is calm in this respect if no other does.
    fn calm(&mut self, index: usize, target: &str, disturbance: StreamFault) {
        let Some((service, name)) = target.split_once('/') else { return };
        let Some(faults) = self.disturbed.get_mut(&(target.to_owned(), disturbance)) else { return };
        faults.remove(&index);
        if faults.is_empty() {
            let control = Control::Calm { name: name.to_owned(), disturbance };
            self.deeds.push(Action::Control { service: service.to_owned(), control });
        }
    }

    fn refuse(&mut self, index: usize, target: String, status: u16, retry_after: Option<Duration>) {
        let Some((service, name)) = target.split_once('/').map(|(service, name)| (service.to_owned(), name.to_owned()))
        else {
            return self.fail(format!("fault {}: {target} is no SERVICE/NAME", index + 1));
        };
        let control = Control::Refuse { name, status, retry_after };
        self.refusals.entry(target).or_default().insert(index, control.clone());
        self.deeds.push(Action::Control { service, control });
    }

    fn ail(&mut self, index: usize, service: String, ailment: ServiceFault) {
        self.ailing.insert((service.clone(), index), ailment);
        if ailment.closes() {
            self.deeds.push(Action::Down { number: index + 1, service: service.clone(), down: true });
        }
        self.deeds.push(Action::Control { service, control: Control::Ail(ailment) });
    }

    /// It recovers from what no other fault does to it. From what took no time nobody recovers: it may still be felt.
    fn recover(&mut self, index: usize, service: &str) {
        let key = (service.to_owned(), index);
        if self.ailing.get(&key).is_some_and(|ailment| ailment.instant()) {
            return;
        }
        let Some(ailment) = self.ailing.remove(&key) else { return };
        if ailment == ServiceFault::NotReady {
            let hang = self.pauses.iter().filter(|(_, faults)| faults.contains(&index));
            let hang: Vec<String> = hang.map(|(process, _)| process.clone()).collect();
            hang.iter().for_each(|process| self.resume(process, index));
        }
        let (number, to) = (index + 1, service.to_owned());
        if ailment == ServiceFault::Failover {
            // Whoever was connected to the old one is not to the new one.
            self.deeds.push(Action::Down { number, service: to.clone(), down: true });
        }
        if ailment.closes() || ailment == ServiceFault::Failover {
            self.deeds.push(Action::Down { number, service: to, down: false });
        }
        let still = self.ailing.iter().any(|((of, _), other)| of == service && other.name() == ailment.name());
        if !still {
            let control = Control::Recover(ailment);
            self.deeds.push(Action::Control { service: service.to_owned(), control });
        }
    }

    /// A service has shown this request that something ails it.
    fn suffered(&mut self, service: &str, ailment: &str, request: &[u8], process: &str) {
        let all = self.ailing.iter().filter(|((of, _), other)| of == service && other.name() == ailment);
        let faults: Vec<usize> = all.map(|((_, index), _)| *index).collect();
        if let Some(label) = self.reader.mentioned(request).or_else(|| self.reader.served_by(process)) {
            faults.into_iter().for_each(|index| self.felt(index, service, &label));
        }
    }

    /// One fault refuses it no longer; it is served again if no other does.
    fn accept(&mut self, index: usize, target: &str) {
        let Some((service, name)) = target.split_once('/') else { return };
        let Some(faults) = self.refusals.get_mut(target) else { return };
        faults.remove(&index);
        let control = faults.values().next_back().cloned();
        let control = control.unwrap_or_else(|| Control::Accept { name: name.to_owned() });
        self.deeds.push(Action::Control { service: service.to_owned(), control });
    }

    fn heal(&mut self, index: usize) {
        if !self.nemesis.heal(index) {
            return;
        }
        let fault = self.nemesis.fault(index).clone();
        let number = index + 1;
        let lasted = fault.length != Lifetime::Instant;
        self.rolling.remove(&index);
        self.replacing.remove(&index);
        for target in fault.targets {
            match fault.kind.target_kind() {
                TargetKind::Link => self.deeds.push(Action::Heal { number, link: target.clone() }),
                TargetKind::Caller => match fault.kind {
                    Kind::Disturb(disturbance) => self.calm(index, &target, disturbance),
                    _ => self.accept(index, &target),
                },
                TargetKind::Service => self.recover(index, &target),
                TargetKind::Process if fault.kind == Kind::Pause => self.resume(&target, index),
                TargetKind::Process => {}
            }
            self.happened("", 0, WorldEvent::FaultHealed { fault: number, kind: fault.kind.name(), target, lasted });
        }
        let again = self.nemesis.again(index);
        self.give(again.into_iter().collect());
    }

    /// Everything heals, and nothing new begins.
    pub(crate) fn heal_all(&mut self) {
        for index in self.nemesis.close() {
            self.heal(index);
        }
        let waiting: Vec<String> = self.down().into_iter().map(str::to_owned).collect();
        waiting.iter().for_each(|process| self.raise(process));
        let lost = self.losses.iter().map(|(process, losses)| (process.clone(), *losses));
        self.deeds.extend(lost.map(|(process, losses)| Action::Expire { process, losses }));
    }

    /// A fault that strikes once has done so on a link.
    pub(crate) fn spent(&mut self, number: usize) {
        if let Some(index) = number.checked_sub(1)
            && self.nemesis.spent(index)
        {
            self.heal(index);
        }
    }

    pub(crate) fn felt(&mut self, index: usize, target: &str, label: &str) {
        // What changes how many there are befalls all of them.
        let whole = self.nemesis.fault(index).kind.scales().then(|| target.rsplit_once('-')).flatten();
        let moments = self.moments.during(whole.map_or(target, |(service, _)| service), label);
        if self.over || !self.nemesis.felt(index, target, label, &moments, self.now) {
            return;
        }
        let (kind, target, label) = (self.nemesis.fault(index).kind.name(), target.to_owned(), label.to_owned());
        self.happened("", 0, WorldEvent::FaultFelt { fault: index + 1, kind, target, label });
    }

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
