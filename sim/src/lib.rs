//! A deterministic world for services on tokio: processes, links that faults act on, stand-ins for Redis, RabbitMQ,
//! Postgres and a model provider, and a judge that looks from outside.
#![allow(missing_docs)] // removed when every module is in
pub mod event;
#[cfg(madsim)]
mod hub;
#[cfg(madsim)]
mod journal;
pub mod judge;
pub mod link;
pub mod nemesis;
pub mod observation;
pub mod plan;
#[cfg(madsim)]
mod process;
pub mod product;
#[cfg(madsim)]
pub mod run;
pub mod seed;
pub mod trace;
pub mod verdict;
#[cfg(madsim)]
mod watch;
#[cfg(madsim)]
pub mod world;
