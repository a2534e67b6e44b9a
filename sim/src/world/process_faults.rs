//! The faults of processes: a row for each kind, and what is done to a process that it strikes.

use crate::plan::{Cast, Course, FaultRow, TargetKind};
use crate::trace::fault::FaultKind;

/// Done by the service manager, to processes that it boots.
const MANAGED: FaultRow = FaultRow { target: TargetKind::ManagedProcess, ..FaultRow::PROCESS };

/// The process is told to stop.
pub static SIGTERM: FaultRow = FaultRow {
    kind: FaultKind { word: "sigterm", ..FaultRow::PROCESS.kind },
    help: "SIGTERM; killed after the role's grace, then booted again",
    ..FaultRow::PROCESS
};

/// The process is killed.
pub static SIGKILL: FaultRow = FaultRow {
    kind: FaultKind { word: "sigkill", ..FaultRow::PROCESS.kind },
    help: "SIGKILL, then booted again",
    ..FaultRow::PROCESS
};

/// The machine is gone. It makes no further step, and nothing closes: its peers hear nothing at all from then on, not even
/// an end. The service manager boots it again, elsewhere.
pub static HOST_LOSS: FaultRow = FaultRow {
    kind: FaultKind { word: "host_loss", struck: Some("the machine of {} is gone"), healed: None },
    help: "its machine is gone: no further step, nothing closes, peers hear nothing; booted again",
    ..FaultRow::PROCESS
};

/// SIGSTOP, and SIGCONT at the end. Connections stay open, bytes wait. When it goes on it sees the timeouts that have passed
/// before the bytes that have come: madsim hands bytes over a millisecond after they are asked for.
pub static PAUSE: FaultRow = FaultRow {
    kind: FaultKind { word: "pause", ..FaultRow::PROCESS.kind },
    course: Course::Said,
    help: "SIGSTOP, and SIGCONT at the end: connections stay open, bytes wait",
    ..FaultRow::PROCESS
};

/// SIGTERM to one after the other.
pub static ROLLING_RESTART: FaultRow = FaultRow {
    kind: FaultKind { word: "rolling_restart", ..FaultRow::PROCESS.kind },
    cast: Cast::InTurn,
    help: "SIGTERM to the first target; to the next once that one has booted again, and so on",
    ..MANAGED
};

/// The service manager stops it, and it does not hear of that: it is killed after its grace.
pub static LOST_SIGNAL: FaultRow = FaultRow {
    kind: FaultKind { word: "lost_signal", struck: Some("{} is told to stop and does not hear it"), healed: None },
    help: "it is to stop and does not hear of it: killed after the role's grace, then booted again",
    ..MANAGED
};

/// The main panics.
pub static PANIC: FaultRow = FaultRow {
    kind: FaultKind { word: "panic", ..FaultRow::PROCESS.kind },
    help: "its main panics: no further step, everything closes at once, exit code 101; booted again",
    ..FaultRow::PROCESS
};

/// The process is there in addition.
pub static SCALE_UP: FaultRow = FaultRow {
    kind: FaultKind { word: "scale_up", struck: Some("{} comes in addition"), healed: None },
    cast: Cast::Joins,
    help: "one that waits for its first boot (`[service.PROCESS]`, `first_boot`) boots now",
    ..MANAGED
};

/// The process goes for good.
pub static SCALE_DOWN: FaultRow = FaultRow {
    kind: FaultKind { word: "scale_down", struck: Some("{} is not to come back"), healed: None },
    cast: Cast::Leaves,
    help: "SIGTERM, and it does not come back",
    ..MANAGED
};

/// One makes way for another.
pub static RECONFIGURE: FaultRow = FaultRow {
    kind: FaultKind { word: "reconfigure", struck: Some("{} takes part in a replacement"), healed: None },
    cast: Cast::Replaces,
    help: "the second target, which waits for its first boot, boots; then the first goes for good",
    ..MANAGED
};

/// Every fault of processes.
pub static ROWS: &[&FaultRow] = &[
    &SIGTERM,
    &SIGKILL,
    &HOST_LOSS,
    &PAUSE,
    &ROLLING_RESTART,
    &LOST_SIGNAL,
    &PANIC,
    &SCALE_UP,
    &SCALE_DOWN,
    &RECONFIGURE,
];
