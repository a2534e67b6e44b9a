//! Who lives: boots, deaths, pauses, signals, who comes and who goes for good. Its one law: what befalls a process is for
//! the life that it befell, and void for the next.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{Action, Life, Monitor};
use crate::standins::container::NOT_READY;
use crate::trace::event::{ProductEvent, WorldEvent};
use crate::trace::fault::FaultId;

/// What a process had said before its death has been read after this long; what is read later its corpse has said. A
/// moment longer than a burial waits for last words. Outside of the simulation the system may keep them for longer.
const LAST_WORDS: Duration = Duration::from_millis(12);

impl<O: ProductEvent> Monitor<O> {
    /// There will be such a process; until it boots it is down.
    pub(crate) fn expected(&mut self, process: &str) {
        self.lives.insert(process.to_owned(), Life::default());
    }

    /// There may be such a process, whenever a container engine starts one.
    pub(crate) fn slot(&mut self, process: &str) {
        self.expected(process);
        self.slots.insert(process.to_owned());
    }

    /// The process goes on serving for a while once it is to stop.
    pub(crate) fn lingers(&mut self, process: &str) {
        self.lingering.insert(process.to_owned());
    }

    /// Whether it is not to boot any more.
    pub(crate) fn is_retired(&self, process: &str) -> bool {
        self.retired.contains(process)
    }

    /// A life has begun and made no step yet: in a slot it may hang.
    pub(crate) fn born(&mut self, process: &str) {
        if self.slots.contains(process) {
            let faults = self.nemesis.books.of_kind(&NOT_READY);
            faults.into_iter().for_each(|fault| self.pause(process, fault));
        }
    }

    pub(crate) fn booted(&mut self, process: &str, incarnation: u32) {
        self.lives.insert(process.to_owned(), Life { incarnation, alive: true, signals: 0 });
        self.happened(process, incarnation, WorldEvent::Booted);
        if let Some(losses) = self.losses.get(process) {
            self.actions.push(Action::ExpireLater { process: process.to_owned(), losses: *losses });
        }
        self.nemesis.books.rolling_past(process).into_iter().for_each(|fault| self.roll(fault));
        self.nemesis.books.replacing_by(process).into_iter().for_each(|fault| self.replace(fault));
    }

    pub(crate) fn exited(&mut self, process: &str, code: i32) {
        if let Some(incarnation) = self.end_life(process) {
            self.happened(process, incarnation, WorldEvent::Exited { code });
        }
    }

    pub(crate) fn kill(&mut self, process: &str) {
        if let Some(incarnation) = self.end_life(process) {
            self.actions.push(Action::Kill { process: process.to_owned(), incarnation });
            self.happened(process, incarnation, WorldEvent::Killed);
        }
    }

    pub(super) fn panic(&mut self, process: &str) {
        if let Some(incarnation) = self.end_life(process) {
            self.actions.push(Action::Crash { process: process.to_owned(), incarnation });
            self.happened(process, incarnation, WorldEvent::Panicked);
        }
    }

    /// The service manager stops it.
    pub(super) fn tell_to_stop(&mut self, process: &str, heard: bool) {
        let life = self.life(process);
        if heard && !self.lingering.contains(process) {
            self.terminate(process);
        } else if life.alive {
            self.actions.push(Action::Stop { process: process.to_owned(), incarnation: life.incarnation, heard });
        }
    }

    /// The process stops, and does not come back.
    pub(super) fn retire(&mut self, process: &str) {
        self.retired.insert(process.to_owned());
        self.tell_to_stop(process, true);
        self.nemesis.books.rolling_past(process).into_iter().for_each(|fault| self.roll(fault));
    }

    /// A process that waits for its first boot boots now.
    pub(super) fn raise(&mut self, process: &str) {
        if self.life(process).incarnation == 0 && !self.retired.contains(process) {
            self.actions.push(Action::Raise { process: process.to_owned() });
        }
    }

    /// Bytes of a process were read on a link. Those of a dead one are the harness's own doing.
    pub(crate) fn spoke(&mut self, process: &str, incarnation: Option<u32>, link: &str) {
        let Some(life) = self.lives.get(process) else { return };
        let former = incarnation.is_some_and(|incarnation| incarnation < life.incarnation);
        let buried = || self.deaths.get(process).is_some_and(|died| self.now > *died + LAST_WORDS);
        if cfg!(madsim) && (former || !life.alive && buried()) {
            let which = incarnation.unwrap_or(life.incarnation);
            self.fail(format!(
                "the dead speak: life {which} of {process} is over, and bytes of it were read on {link}"
            ));
        }
    }

    pub(super) fn lose(&mut self, process: &str) {
        if let Some(incarnation) = self.end_life(process) {
            *self.losses.entry(process.to_owned()).or_default() += 1;
            self.actions.push(Action::Lose { process: process.to_owned(), incarnation });
            self.happened(process, incarnation, WorldEvent::Killed);
        }
    }

    pub(super) fn end_life(&mut self, process: &str) -> Option<u32> {
        let life = self.lives.get_mut(process).filter(|life| life.alive)?;
        life.alive = false;
        // Its next life is not stopped by what stopped this one.
        self.pauses.remove(process);
        self.newcomers.remove(process);
        let incarnation = life.incarnation;
        self.deaths.insert(process.to_owned(), self.now);
        Some(incarnation)
    }

    pub(super) fn pause(&mut self, process: &str, fault: FaultId) {
        let life = self.life(process);
        if !life.alive {
            return;
        }
        let faults = self.pauses.entry(process.to_owned()).or_default();
        let first = faults.is_empty();
        faults.insert(fault);
        if first {
            self.actions.push(Action::Pause { process: process.to_owned() });
            self.happened(process, life.incarnation, WorldEvent::Paused);
        }
    }

    /// One fault keeps it still no longer; it goes on if no other does.
    pub(super) fn resume(&mut self, process: &str, fault: FaultId) {
        let Some(faults) = self.pauses.get_mut(process) else { return };
        if faults.remove(&fault) && faults.is_empty() {
            self.pauses.remove(process);
            let incarnation = self.life(process).incarnation;
            self.actions.push(Action::Resume { process: process.to_owned() });
            self.happened(process, incarnation, WorldEvent::Resumed);
        }
    }

    pub(crate) fn terminate(&mut self, process: &str) {
        let Some(life) = self.lives.get_mut(process).filter(|life| life.alive) else { return };
        life.signals += 1;
        let (incarnation, nth) = (life.incarnation, life.signals);
        self.actions.push(Action::Terminate { process: process.to_owned(), incarnation });
        self.happened(process, incarnation, WorldEvent::Signalled { nth });
    }

    /// Work feels that there is one process more when that one takes it up.
    pub(super) fn welcome(&mut self) {
        let reader = &self.reader;
        let takes = |(process, (index, served)): (&String, &mut (FaultId, BTreeSet<String>))| {
            let label = reader.served_by(process).filter(|label| served.insert(label.clone()))?;
            Some((process.clone(), *index, label))
        };
        let taken: Vec<_> = self.newcomers.iter_mut().filter_map(takes).collect();
        taken.into_iter().for_each(|(process, index, label)| self.felt(index, &process, &label));
    }

    /// A process comes in addition.
    pub(super) fn come(&mut self, fault: FaultId, process: &str) {
        self.newcomers.insert(process.to_owned(), (fault, BTreeSet::new()));
        self.raise(process);
    }

    /// The new one is there: the old one goes, and with that the fault ends.
    pub(super) fn replace(&mut self, fault: FaultId) {
        if let Some(old) = self.nemesis.books.replaced(fault) {
            let kind = self.nemesis.fault(fault).kind.clone();
            self.strike_one(fault, &kind, old);
            self.heal(fault);
        }
    }

    /// The next process of a rolling restart is told to stop; one that is down already boots anew by itself. The fault
    /// ends with the last.
    pub(super) fn roll(&mut self, fault: FaultId) {
        let Some((target, last)) = self.nemesis.books.next_to_roll(fault) else { return };
        // Who has not booted yet boots anew by itself; who does not come back is not waited for.
        let next_at_once = self.life(&target).incarnation == 0 || self.is_retired(&target);
        let kind = self.nemesis.fault(fault).kind.clone();
        self.strike_one(fault, &kind, target);
        if last {
            self.heal(fault);
        } else if next_at_once {
            self.roll(fault);
        }
    }
}
