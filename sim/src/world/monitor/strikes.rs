//! What becomes of the world when a fault begins, ends or is felt. Its one law: which fault does what to whom stands in the
//! nemesis's books; here it is only done.

use super::{Action, Monitor};
use crate::plan::{Cast, Connections, Kind, Lifetime, TargetKind};
use crate::standins::Control;
use crate::standins::container::NOT_READY;
use crate::trace::event::{ProductEvent, WorldEvent};
use crate::trace::fault::FaultId;
use crate::world::nemesis::books::Ended;
use crate::world::nemesis::{Move, ScheduledMove};
use crate::world::process_faults::{
    HOST_LOSS, LOST_SIGNAL, PANIC, PAUSE, RECONFIGURE, ROLLING_RESTART, SCALE_DOWN, SCALE_UP, SIGKILL, SIGTERM,
};

impl<O: ProductEvent> Monitor<O> {
    /// The plan's clock starts.
    pub(crate) fn open(&mut self) {
        let moves = self.nemesis.open();
        self.give(moves);
    }

    /// A chunk of a request arrived at a relay.
    pub(crate) fn requested(&mut self, link: &str, bytes: &[u8], old: usize) {
        if !self.over {
            let moves = self.nemesis.request(link, bytes, old);
            self.give(moves);
        }
    }

    pub(super) fn give(&mut self, moves: Vec<ScheduledMove>) {
        for order in moves {
            if order.after.is_zero() {
                self.go(order);
            } else {
                self.actions.push(Action::Later(order));
            }
        }
    }

    /// A fault begins or ends now.
    pub(crate) fn go(&mut self, order: ScheduledMove) {
        if self.over || !self.nemesis.stands(&order) {
            return;
        }
        match order.go {
            Move::Strike => self.strike(order.fault),
            Move::Heal => self.heal(order.fault),
        }
    }

    fn strike(&mut self, id: FaultId) {
        let Some(end) = self.nemesis.strike(id, self.now) else { return };
        let fault = self.nemesis.fault(id).clone();
        if fault.kind.on_process()
            && let Some(target) = fault.targets.iter().find(|target| !self.lives.contains_key(*target))
        {
            return self.fail(format!("{id}: there is no process {target}"));
        }
        if fault.kind.cast == Cast::InTurn {
            self.give(end.into_iter().collect());
            self.nemesis.books.roll(id, fault.targets);
            return self.roll(id);
        }
        if let (Cast::Replaces, [old, new]) = (fault.kind.cast, &fault.targets[..]) {
            self.give(end.into_iter().collect());
            self.nemesis.books.replace(id, old, new);
            self.strike_one(id, &fault.kind, new.clone());
            if self.life(new).incarnation > 0 || self.is_retired(new) {
                self.replace(id);
            }
            return;
        }
        for target in fault.targets {
            self.strike_one(id, &fault.kind, target);
        }
        self.give(end.into_iter().collect());
    }

    pub(super) fn strike_one(&mut self, fault: FaultId, kind: &Kind, target: String) {
        let struck = WorldEvent::FaultStruck { fault, kind: &kind.row().kind, target: target.clone() };
        self.happened("", 0, struck);
        if kind.on_process()
            && self.life(&target).alive
            && let Some(label) = self.reader.served_by(&target)
        {
            self.felt(fault, &target, &label);
        }
        match kind.target {
            TargetKind::Link | TargetKind::HttpLink => {
                let part = self.nemesis.fault(fault).part.clone();
                self.actions.push(Action::Strike { fault, kind: kind.clone(), part, link: target });
            }
            TargetKind::Process | TargetKind::ManagedProcess => self.strike_process(fault, kind, &target),
            TargetKind::Caller => self.strike_caller(fault, kind, target),
            TargetKind::Service => self.strike_service(fault, kind, target),
        }
    }

    fn strike_process(&mut self, fault: FaultId, kind: &Kind, target: &str) {
        match kind.row() {
            row if *row == SIGTERM || *row == ROLLING_RESTART => self.tell_to_stop(target, true),
            row if *row == LOST_SIGNAL => self.tell_to_stop(target, false),
            row if *row == PANIC => self.panic(target),
            row if *row == SIGKILL => self.kill(target),
            row if *row == HOST_LOSS => self.lose(target),
            row if *row == PAUSE => self.pause(target, fault),
            row if *row == SCALE_UP => self.come(fault, target),
            row if *row == SCALE_DOWN => self.retire(target),
            row if *row == RECONFIGURE => {
                let comes = self.nemesis.fault(fault).targets.last().is_some_and(|last| last == target);
                if comes { self.come(fault, target) } else { self.retire(target) }
            }
            row => self.fail(format!("{fault}: `{}` does nothing to a process", row.word())),
        }
    }

    fn strike_caller(&mut self, fault: FaultId, kind: &Kind, target: String) {
        let Some((service, caller)) = target.split_once('/') else {
            return self.fail(format!("{fault}: {target} is no SERVICE/NAME"));
        };
        self.nemesis.books.begin_for(fault, &target, kind);
        let control = Control::BeginFor { caller: caller.to_owned(), fault: kind.clone() };
        self.actions.push(Action::Control { service: service.to_owned(), control });
    }

    /// One fault does it to a caller no longer.
    fn heal_caller(&mut self, fault: FaultId, kind: &Kind, target: &str) {
        let Some((service, caller)) = target.split_once('/') else { return };
        let caller = caller.to_owned();
        let control = match self.nemesis.books.end_for(fault, target, kind) {
            Ended::Nothing => return,
            Ended::GivesWay(other) => Control::BeginFor { caller, fault: other },
            Ended::Last(kind) => Control::EndFor { caller, fault: kind },
        };
        self.actions.push(Action::Control { service: service.to_owned(), control });
    }

    fn strike_service(&mut self, fault: FaultId, kind: &Kind, service: String) {
        self.nemesis.books.begin(fault, &service, kind);
        let turns = |down| Action::Down { fault, service: service.clone(), down };
        match kind.connections {
            Connections::Kept | Connections::LostAtEnd => {}
            Connections::Down => self.actions.push(turns(true)),
            Connections::LostAtStart => self.actions.extend([turns(true), turns(false)]),
        }
        self.actions.push(Action::Control { service, control: Control::Begin(kind.clone()) });
    }

    /// One fault does it to a service no longer.
    fn heal_service(&mut self, fault: FaultId, service: &str) {
        let Some((kind, still)) = self.nemesis.books.end(fault, service) else { return };
        if kind.is(&NOT_READY) {
            let hang = self.pauses.iter().filter(|(_, faults)| faults.contains(&fault));
            let hang: Vec<String> = hang.map(|(process, _)| process.clone()).collect();
            hang.iter().for_each(|process| self.resume(process, fault));
        }
        let turns = |down| Action::Down { fault, service: service.to_owned(), down };
        match kind.connections {
            Connections::Kept | Connections::LostAtStart => {}
            Connections::Down => self.actions.push(turns(false)),
            Connections::LostAtEnd => self.actions.extend([turns(true), turns(false)]),
        }
        if !still {
            self.actions.push(Action::Control { service: service.to_owned(), control: Control::End(kind) });
        }
    }

    /// A service has shown this request that it has a fault of that word.
    pub(super) fn suffered(&mut self, service: &str, word: &str, request: &[u8], process: &str) {
        let faults = self.nemesis.books.of_service(service, word);
        if let Some(label) = self.reader.mentioned(request).or_else(|| self.reader.served_by(process)) {
            faults.into_iter().for_each(|fault| self.felt(fault, service, &label));
        }
    }

    pub(super) fn heal(&mut self, id: FaultId) {
        if !self.nemesis.heal(id) {
            return;
        }
        let fault = self.nemesis.fault(id).clone();
        let lasted = fault.length != Lifetime::Instant;
        self.nemesis.books.forget(id);
        for target in fault.targets {
            match fault.kind.target {
                TargetKind::Link | TargetKind::HttpLink => {
                    self.actions.push(Action::Heal { fault: id, link: target.clone() })
                }
                TargetKind::Caller => self.heal_caller(id, &fault.kind, &target),
                TargetKind::Service => self.heal_service(id, &target),
                _ if fault.kind.is(&PAUSE) => self.resume(&target, id),
                TargetKind::Process | TargetKind::ManagedProcess => {}
            }
            let kind = &fault.kind.row().kind;
            self.happened("", 0, WorldEvent::FaultHealed { fault: id, kind, target, lasted });
        }
        let again = self.nemesis.again(id);
        self.give(again.into_iter().collect());
    }

    /// Everything heals, and nothing new begins.
    pub(crate) fn heal_all(&mut self) {
        for fault in self.nemesis.close() {
            self.heal(fault);
        }
        let waiting: Vec<String> = self.down().into_iter().map(str::to_owned).collect();
        waiting.iter().for_each(|process| self.raise(process));
        let lost = self.losses.iter().map(|(process, losses)| (process.clone(), *losses));
        self.actions.extend(lost.map(|(process, losses)| Action::Expire { process, losses }));
    }

    /// A fault that strikes once has done so on a link.
    pub(crate) fn spent(&mut self, fault: FaultId) {
        if self.nemesis.spent(fault) {
            self.heal(fault);
        }
    }

    /// Work with this label felt a fault.
    pub(crate) fn felt(&mut self, id: FaultId, target: &str, label: &str) {
        // What changes how many there are befalls all of them.
        let kind = self.nemesis.fault(id).kind.row();
        let whole = kind.scales().then(|| target.rsplit_once('-')).flatten();
        let moments = self.moments.during(whole.map_or(target, |(service, _)| service), label);
        if self.over || !self.nemesis.felt(id, target, label, &moments, self.now) {
            return;
        }
        let (target, label) = (target.to_owned(), label.to_owned());
        self.happened("", 0, WorldEvent::FaultFelt { fault: id, kind: &kind.kind, target, label });
    }
}
