//! The command line of a product's simulation: commands, tables and reports for a person. Its one law: it decides nothing
//! about a run. [`explore`](crate::explore) runs and compares, [`trace`](crate::trace) holds the verdict.

#[cfg(madsim)]
mod choose;
#[cfg(madsim)]
mod conformance;
#[cfg(madsim)]
mod crash_points;
#[cfg(madsim)]
mod determinism;
#[cfg(madsim)]
mod failing;
#[cfg(madsim)]
mod known_bugs;
#[cfg(madsim)]
mod list;
#[cfg(madsim)]
mod main;
#[cfg(madsim)]
mod replay;
#[cfg(madsim)]
pub(crate) mod report;
#[cfg(madsim)]
mod run;
#[cfg(madsim)]
mod seeds;
pub mod table;
#[cfg(madsim)]
mod workspace;

#[cfg(madsim)]
pub use self::main::main;
#[cfg(madsim)]
use self::main::{Outcome, RunArgs, Usage, WALL_MAX, options, read, write};
#[cfg(madsim)]
pub use self::workspace::Built;
