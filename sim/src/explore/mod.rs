//! Many runs: one run in a fork of its own, the same run again in a fresh process, sweeps over seeds, where two runs
//! part, smaller plans that fail the same way, coverage of what was said to services, and known bugs put back.

pub mod coverage;
#[cfg(madsim)]
pub(crate) mod divergence;
#[cfg(feature = "cli")]
pub mod known_bugs;
#[cfg(madsim)]
pub(crate) mod rerun;
#[cfg(madsim)]
pub mod run;
#[cfg(madsim)]
pub(crate) mod shrink;
#[cfg(madsim)]
pub mod sim;
#[cfg(feature = "cli")]
pub(crate) mod spinner;
#[cfg(madsim)]
pub(crate) mod sweep;
