//! What came of a run. A verdict is an exit code; a report is everything that a reader of the run may ask.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::trace::anchor::Anchor;
use crate::trace::invariant::{Breach, Floor};

/// What came of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Every invariant held, and the plan's faults were felt.
    Passed,
    /// An invariant was broken.
    Violated,
    /// The run did not come to an end.
    NoProgress,
    /// The product panicked. A panic of the harness is an [`Error`](Verdict::Error).
    Panicked,
    /// Two runs of the same seed differ.
    Nondeterministic,
    /// The run passed, but proves nothing: a fault was not felt, an event not reached, an invariant not armed.
    Vacuous,
    /// The harness itself failed.
    Error,
}

impl Verdict {
    /// Stable exit codes; 2 is a usage error.
    pub fn exit_code(self) -> i32 {
        match self {
            Verdict::Passed => 0,
            Verdict::Violated => 1,
            Verdict::NoProgress => 3,
            Verdict::Panicked => 4,
            Verdict::Nondeterministic => 5,
            Verdict::Vacuous => 6,
            Verdict::Error => 7,
        }
    }

    /// As machines know it: `no_progress`.
    pub fn key(self) -> String {
        serde_json::to_value(self).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
    }

    /// The worse of two, in the order in which a sweep exits.
    pub fn worse(self, other: Verdict) -> Verdict {
        let rank = |verdict| match verdict {
            Verdict::Error => 6,
            Verdict::Nondeterministic => 5,
            Verdict::Panicked => 4,
            Verdict::Violated => 3,
            Verdict::NoProgress => 2,
            Verdict::Vacuous => 1,
            Verdict::Passed => 0,
        };
        if rank(other) > rank(self) { other } else { self }
    }
}

/// Everything that is known of one run, as the child process sends it to its parent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The scenario's name.
    pub scenario: String,
    /// The seed.
    pub seed: u64,
    /// What came of it.
    pub verdict: Verdict,
    /// The invariant that was broken.
    pub invariant: Option<String>,
    /// How.
    pub breach: Option<Breach>,
    /// SHA-256 over the trace and every byte on every link with its time, in hexadecimal.
    pub digest: String,
    /// How many events the trace has.
    pub events: u64,
    /// How long the run took in the world.
    pub virtual_seconds: f64,
    /// How long it took here.
    pub wall_seconds: f64,
    /// The invariants that were put to the test.
    pub armed: Vec<String>,
    /// By invariant: what came of the work that nothing disturbed, of those that know which that is.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub floors: BTreeMap<String, Floor>,
    /// What must happen and had no deadline for a while, the longest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub excuses: Vec<Excuse>,
    /// How often each event happened.
    pub reached: BTreeMap<String, u64>,
    /// The plan's faults, in its order.
    pub faults: Vec<FaultReport>,
    /// The story, a line an event that a person would tell.
    pub story: Vec<String>,
    /// What makes it vacuous, why it made no progress, what panicked.
    pub because: Vec<String>,
    /// The file of a smaller plan that fails in the same way, if one was found and kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repro: Option<String>,
    /// The shapes of what was said to services, if they were asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shapes: Vec<String>,
    /// The events on which a fault could have been hung, if they were asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub anchors: Vec<Anchor>,
}

impl Report {
    /// The invariant that was broken, or the verdict that is none's.
    pub fn fired(&self) -> String {
        self.invariant.clone().unwrap_or_else(|| self.verdict.key())
    }
}

/// What an invariant had to wait for without a deadline, because something was amiss. A judge with many of them hardly judges.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Excuse {
    /// As `no_zombies`.
    pub invariant: String,
    /// What must happen, as the invariant says it.
    pub says: String,
    /// For so long, in virtual time, all told.
    pub seconds: f64,
    /// The faults that stood meanwhile, or the one that had struck last before, as `wedge executor-1->redis`.
    pub by: Vec<String>,
}

/// What came of one fault of the plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FaultReport {
    /// As `wedge`.
    pub kind: String,
    /// As `executor-1->redis`.
    pub targets: Vec<String>,
    /// Virtual seconds at which it struck first; `None` if its trigger never came.
    pub struck: Option<f64>,
    /// Virtual seconds at which it struck last.
    pub last_struck: Option<f64>,
    /// How often it struck: more than once only `every` so often.
    pub strikes: u64,
    /// Virtual seconds at which an operation of a run that was still going first felt it.
    pub felt: Option<f64>,
    /// How many operations felt it.
    pub times_felt: u64,
    /// How many of them did so in each of the product's [moments](crate::world::product::Moments).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub moments: BTreeMap<String, u64>,
}

#[cfg(all(test, madsim, feature = "cli"))]
pub(crate) mod tests {
    use std::time::Duration;

    use super::*;

    /// A made-up report.
    pub(crate) fn report(scenario: &str, seed: u64, verdict: Verdict) -> Report {
        let broken = verdict == Verdict::Violated;
        let breach = Breach {
            says: "ann/1 is shown as running".into(),
            since: Some(Duration::from_millis(12_345)),
            due: Some(Duration::from_secs(72)),
        };
        let fault = |kind: &str, felt| FaultReport {
            kind: kind.into(),
            targets: vec!["executor-1->redis".into()],
            struck: Some(2.0),
            last_struck: Some(2.0),
            strikes: 1,
            felt,
            times_felt: 3,
            moments: [("drain".to_owned(), 2)].into(),
        };
        Report {
            scenario: scenario.into(),
            seed,
            verdict,
            invariant: broken.then(|| "no_zombies".into()),
            breach: broken.then_some(breach),
            digest: format!("d{seed}"),
            events: 9,
            virtual_seconds: 61.5,
            wall_seconds: 0.02,
            armed: vec!["no_zombies".into()],
            floors: BTreeMap::new(),
            excuses: Vec::new(),
            reached: BTreeMap::new(),
            faults: vec![fault("wedge", Some(2.5)), fault("delay", None)],
            story: vec!["ann says hello".into(), "the run is claimed".into()],
            because: Vec::new(),
            repro: None,
            shapes: Vec::new(),
            anchors: Vec::new(),
        }
    }
}
