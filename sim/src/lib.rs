//! A deterministic world for services on tokio: processes, links that faults act on, stand-ins for Redis, RabbitMQ,
//! Postgres, a container engine and a model provider, and a judge that looks from outside.
//!
//! Start with [`product::Product`]: what a system under test must say of itself. [`plan::Plan`] is one run's data,
//! `run` forks and runs it, `world` builds its nodes, [`link`] is where faults act, [`nemesis`] walks the plan,
//! [`trace`] keeps what happened, [`judge`] says whether it was right, [`verdict`] what came of it. `cli` is all of
//! that for a person. This package knows no product.

#[cfg(not(any(madsim, real)))]
compile_error!(
    "RUSTFLAGS in the environment switches the simulation off, because it replaces the flags of .cargo/config.toml: add \
     `--cfg madsim` to it, or unset it"
);

mod berth;
#[cfg(madsim)]
mod body;
#[cfg(madsim)]
pub mod cli;
mod clock;
#[cfg(madsim)]
mod divergence;
pub mod dock;
pub mod duration;
pub mod engine;
pub mod event;
#[cfg(madsim)]
mod ground;
mod hub;
pub mod item;
#[cfg(madsim)]
mod journal;
pub mod judge;
pub mod known_bugs;
pub mod link;
pub mod nemesis;
pub mod observation;
mod outcome;
#[cfg(real)]
pub mod outside;
pub mod plan;
pub mod postgres;
mod probe;
mod process;
pub mod product;
pub mod programs;
pub mod provider;
pub mod rabbit;
pub mod redis;
#[cfg(madsim)]
mod report;
#[cfg(madsim)]
pub mod run;
#[cfg(madsim)]
mod second;
pub mod seed;
pub mod shapes;
#[cfg(madsim)]
mod shrink;
mod spinner;
#[cfg(madsim)]
mod sweep;
pub mod table;
#[cfg(test)]
mod toy;
pub mod trace;
pub mod verdict;
mod watch;
pub mod world;

// Where a world stands and what its processes consist of, outside of the simulation: under the same names.
#[cfg(real)]
use outside::{body, ground};
