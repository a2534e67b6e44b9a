//! The clock of a server's machine: right, unless a fault has set it ahead or back.

use std::time::Duration;

use crate::plan::ServiceFault;

/// By how much it is off.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Clock {
    ahead: Duration,
    behind: Duration,
}

impl Clock {
    /// Begins or ends an ailment; says whether it is one of a clock.
    pub fn set(&mut self, ailment: ServiceFault, on: bool) -> bool {
        let off = |by| if on { by } else { Duration::ZERO };
        match ailment {
            ServiceFault::ClockAhead { by } => self.ahead = off(by),
            ServiceFault::ClockBehind { by } => self.behind = off(by),
            _ => return false,
        }
        true
    }

    /// What it shows at this time since 1970.
    pub fn shows(&self, now: Duration) -> Duration {
        (now + self.ahead).saturating_sub(self.behind)
    }

    /// What whoever looks at it suffers from.
    pub fn misleads(&self) -> Option<ServiceFault> {
        if self.ahead > self.behind {
            return Some(ServiceFault::ClockAhead { by: self.ahead });
        }
        (self.ahead < self.behind).then_some(ServiceFault::ClockBehind { by: self.behind })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_steps_and_steps_back() {
        let minute = Duration::from_secs(60);
        let (ahead, behind) = (ServiceFault::ClockAhead { by: minute }, ServiceFault::ClockBehind { by: minute / 2 });
        let mut clock = Clock::default();
        let now = Duration::from_secs(1000);
        assert!(!clock.set(ServiceFault::Full, true));
        assert_eq!((clock.shows(now), clock.misleads()), (now, None));
        assert!(clock.set(ahead, true));
        assert_eq!((clock.shows(now), clock.misleads()), (now + minute, Some(ahead)));
        clock.set(behind, true);
        assert_eq!(clock.shows(now), now + minute / 2);
        clock.set(ahead, false);
        assert_eq!((clock.shows(now), clock.misleads()), (now - minute / 2, Some(behind)));
        clock.set(behind, false);
        assert_eq!((clock.shows(now), clock.misleads()), (now, None));
    }
}
