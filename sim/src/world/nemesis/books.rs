//! What the nemesis remembers of faults that go on: who still has which, and who is waited for. Its one law: what one fault does
//! to somebody ends only when no other does the same.

use std::collections::{BTreeMap, VecDeque};

use crate::plan::{FaultRow, Kind};
use crate::trace::fault::FaultId;

/// The faults that go on.
#[derive(Default)]
pub(crate) struct Books {
    /// Rolling restarts: whose boot is waited for, and who is still to come.
    rolling: BTreeMap<FaultId, (String, VecDeque<String>)>,
    /// Replacements: whose boot is waited for, and who goes then.
    replacing: BTreeMap<FaultId, (String, String)>,
    /// Faults of callers, by target and word.
    callers: BTreeMap<(String, &'static str), BTreeMap<FaultId, Kind>>,
    /// Faults of services, by service.
    services: BTreeMap<(String, FaultId), Kind>,
}

/// What is to be done about the end of a fault.
pub(crate) enum Ended {
    /// Nothing: it had ended, or another does the same.
    Nothing,
    /// Another of its kind goes on, with arguments of its own.
    GivesWay(Kind),
    /// Nobody else does the same.
    Last(Kind),
}

impl Books {
    /// A rolling restart of these begins.
    pub(crate) fn roll(&mut self, fault: FaultId, targets: Vec<String>) {
        self.rolling.insert(fault, (String::new(), targets.into()));
    }

    /// The process that comes next in a rolling restart, and whether it is the last.
    pub(crate) fn next_to_roll(&mut self, fault: FaultId) -> Option<(String, bool)> {
        let (waited, left) = self.rolling.get_mut(&fault)?;
        let next = left.pop_front()?;
        waited.clone_from(&next);
        Some((next, left.is_empty()))
    }

    /// The rolling restarts that wait for this process.
    pub(crate) fn rolling_past(&self, process: &str) -> Vec<FaultId> {
        self.rolling.iter().filter(|(_, (waited, _))| waited == process).map(|(fault, _)| *fault).collect()
    }

    /// `new` takes the place of `old`.
    pub(crate) fn replace(&mut self, fault: FaultId, old: &str, new: &str) {
        self.replacing.insert(fault, (new.to_owned(), old.to_owned()));
    }

    /// The process that goes in a replacement, now that the new one is there.
    pub(crate) fn replaced(&mut self, fault: FaultId) -> Option<String> {
        self.replacing.remove(&fault).map(|(_, old)| old)
    }

    /// The replacements that wait for this process.
    pub(crate) fn replacing_by(&self, process: &str) -> Vec<FaultId> {
        self.replacing.iter().filter(|(_, (new, _))| new == process).map(|(fault, _)| *fault).collect()
    }

    /// Nobody is waited for any more.
    pub(crate) fn forget(&mut self, fault: FaultId) {
        self.rolling.remove(&fault);
        self.replacing.remove(&fault);
    }

    /// A caller of a service has a fault.
    pub(crate) fn begin_for(&mut self, fault: FaultId, target: &str, kind: &Kind) {
        self.callers.entry((target.to_owned(), kind.word())).or_default().insert(fault, kind.clone());
    }

    /// And no longer.
    pub(crate) fn end_for(&mut self, fault: FaultId, target: &str, row: &FaultRow) -> Ended {
        let Some(faults) = self.callers.get_mut(&(target.to_owned(), row.word())) else { return Ended::Nothing };
        let Some(kind) = faults.remove(&fault) else { return Ended::Nothing };
        match faults.values().next_back() {
            None => Ended::Last(kind),
            Some(other) if other.has_args() => Ended::GivesWay(other.clone()),
            Some(_) => Ended::Nothing,
        }
    }

    /// The faults of that word that a caller has.
    pub(crate) fn of_caller(&self, target: &str, word: &str) -> Vec<FaultId> {
        let faults = self.callers.iter().filter(|((of, known), _)| of == target && *known == word);
        faults.flat_map(|(_, faults)| faults.keys().copied()).collect()
    }

    /// A service has a fault.
    pub(crate) fn begin(&mut self, fault: FaultId, service: &str, kind: &Kind) {
        self.services.insert((service.to_owned(), fault), kind.clone());
    }

    /// And no longer; the second says whether another does the same. From what took no time nobody recovers: it may still be
    /// felt.
    pub(crate) fn end(&mut self, fault: FaultId, service: &str) -> Option<(Kind, bool)> {
        let key = (service.to_owned(), fault);
        if self.services.get(&key).is_some_and(|kind| kind.instant()) {
            return None;
        }
        let kind = self.services.remove(&key)?;
        let still = self.services.iter().any(|((of, _), other)| of == service && other.is(&kind));
        Some((kind, still))
    }

    /// The faults of that word that a service has.
    pub(crate) fn of_service(&self, service: &str, word: &str) -> Vec<FaultId> {
        let faults = self.services.iter().filter(|((of, _), kind)| of == service && kind.word() == word);
        faults.map(|((_, fault), _)| *fault).collect()
    }

    /// The faults of that kind that any service has.
    pub(crate) fn of_kind(&self, row: &FaultRow) -> Vec<FaultId> {
        self.services.iter().filter(|(_, kind)| kind.is(row)).map(|((_, fault), _)| *fault).collect()
    }
}
