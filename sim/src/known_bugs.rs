//! Known bugs.
use crate::cli::Outcome;
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}
pub(crate) fn known_bugs(_: &Args, _: &std::path::Path) -> Outcome {
    Ok(0)
}
