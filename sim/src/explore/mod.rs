//! Many runs: one run in a fork of its own, the same run again in a fresh process, sweeps over seeds, where two runs
//! part, a kill after each event of a run, smaller plans that fail the same way, coverage of what was said to services, and known bugs put back.

pub mod coverage;
#[cfg(all(madsim, feature = "cli"))]
pub(crate) mod crash_points;
#[cfg(all(madsim, feature = "cli"))]
pub(crate) mod divergence;
#[cfg(feature = "cli")]
pub mod known_bugs;
#[cfg(all(madsim, feature = "cli"))]
pub(crate) mod rerun;
#[cfg(madsim)]
pub mod run;
#[cfg(all(madsim, feature = "cli"))]
pub(crate) mod shrink;
#[cfg(madsim)]
pub mod sim;
#[cfg(all(madsim, feature = "cli"))]
pub(crate) mod simulated;
#[cfg(feature = "cli")]
pub(crate) mod spinner;
#[cfg(all(madsim, feature = "cli"))]
pub(crate) mod sweep;
