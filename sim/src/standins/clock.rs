//! The clock of a server's machine: right, unless a fault has set it ahead or back.

use std::time::Duration;

use crate::plan::{Arg, FaultRow, Kind, Takes};
use crate::trace::fault::FaultKind;

/// A clock is off by at most this: what keeps time over the network corrects more at once, or raises an alarm.
pub const OFF_MAX: Duration = Duration::from_secs(60);

/// By how much it is off.
const BY: &[Arg] = &[Arg {
    name: "by",
    takes: Takes::TimeUpTo(OFF_MAX, "a clock is off by 1m at most: what keeps it corrects more at once"),
    required: Some("by = \"200ms\""),
    told: "",
}];

/// The clock of a service's machine goes ahead, until it steps back.
pub static AHEAD: FaultRow = FaultRow {
    kind: FaultKind { word: "clock_ahead", struck: Some("the clock of {} jumps ahead"), ..FaultRow::SERVICE.kind },
    args: BY,
    help: "its clock goes ahead, `by` this much (60s at most)",
    ..FaultRow::SERVICE
};

/// The clock of a service's machine was set back, until it steps ahead again.
pub static BEHIND: FaultRow = FaultRow {
    kind: FaultKind { word: "clock_behind", struck: Some("the clock of {} is set back"), ..FaultRow::SERVICE.kind },
    args: BY,
    help: "its clock is set back, `by` this much (60s at most)",
    ..FaultRow::SERVICE
};

/// By how much it is off.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock {
    ahead: Duration,
    behind: Duration,
}

impl Clock {
    /// Begins or ends a fault; says whether it is one of a clock.
    pub fn set(&mut self, fault: &Kind, on: bool) -> bool {
        let off = if on { fault.time("by") } else { Duration::ZERO };
        match fault.row() {
            row if *row == AHEAD => self.ahead = off,
            row if *row == BEHIND => self.behind = off,
            _ => return false,
        }
        true
    }

    /// What it shows at this time since 1970.
    pub fn shows(&self, now: Duration) -> Duration {
        (now + self.ahead).saturating_sub(self.behind)
    }

    /// The fault that has changed what the clock shows.
    pub fn misleads(&self) -> Option<&'static FaultRow> {
        if self.ahead > self.behind {
            return Some(&AHEAD);
        }
        (self.ahead < self.behind).then_some(&BEHIND)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_steps_and_steps_back() {
        let minute = Duration::from_secs(60);
        let ahead = Kind::of(&AHEAD).with("by", minute);
        let behind = Kind::of(&BEHIND).with("by", minute / 2);
        let mut clock = Clock::default();
        let now = Duration::from_secs(1000);
        assert!(!clock.set(&Kind::of(&crate::standins::redis::faults::FULL), true));
        assert_eq!((clock.shows(now), clock.misleads()), (now, None));
        assert!(clock.set(&ahead, true));
        assert_eq!((clock.shows(now), clock.misleads()), (now + minute, Some(&AHEAD)));
        clock.set(&behind, true);
        assert_eq!(clock.shows(now), now + minute / 2);
        clock.set(&ahead, false);
        assert_eq!((clock.shows(now), clock.misleads()), (now - minute / 2, Some(&BEHIND)));
        clock.set(&behind, false);
        assert_eq!((clock.shows(now), clock.misleads()), (now, None));
    }
}
