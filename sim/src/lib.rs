//! A deterministic world for services on tokio: processes, links that faults act on, stand-ins for Redis, RabbitMQ,
//! Postgres and a model provider, and a judge that looks from outside.
#![allow(missing_docs)] // removed when every module is in

#[cfg(not(any(madsim, real)))]
compile_error!(
    "RUSTFLAGS in the environment switches the simulation off, because it replaces the flags of .cargo/config.toml: add \
     `--cfg madsim` to it, or unset it"
);

#[cfg(madsim)]
pub mod cli;
pub mod duration;
pub mod event;
pub mod judge;
#[cfg(madsim)]
mod known_bugs;
pub mod link {
    pub const QUIET: std::time::Duration = std::time::Duration::from_secs(1);
}
pub mod observation;
pub mod plan;
pub mod product;
#[cfg(madsim)]
mod report;
#[cfg(madsim)]
pub mod run;
pub mod seed;
#[cfg(madsim)]
mod shrink;
#[cfg(madsim)]
mod sweep;
#[cfg(madsim)]
mod table;
#[cfg(test)]
mod toy;
pub mod verdict;
