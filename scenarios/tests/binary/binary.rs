//! The binary on the production runtime: processes of it, stand-ins on loopback, real HTTP, real signals. Each module
//! that is no noun of these stories is one of them.
#![cfg(not(madsim))]

mod drain;
mod process;
mod sigkill;
mod stage;
mod switch;
mod user;
mod words;

use std::time::Duration;

/// The longest story takes about 15 s: turns of two or three seconds, and the waits of agents and orderly exits.
const PATIENCE: Duration = Duration::from_secs(30);
/// One answer, or an exit with nothing left to do.
const SOON: Duration = Duration::from_secs(15);
const PAUSE: Duration = Duration::from_millis(50);
