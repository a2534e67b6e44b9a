//! A deterministic world for services on tokio: processes, links that faults act on, stand-ins for Redis, RabbitMQ,
//! Postgres, a container engine and a model provider, and a judge that looks from outside.
//!
//! The folders are a map of the code, and imports point downwards only:
//!
//! ```text
//! cli        commands, tables and reports for a person
//! explore    one run in a fork, the same run again, sweeps, shrinking, known bugs
//! real       the same plan with real processes and real servers
//! world      one run: nodes, processes, the monitor that sees everything, the nemesis that walks the plan's faults
//! link       the relay between a process and a service, on which faults act
//! standins   Redis, RabbitMQ, Postgres, a container engine, a model provider
//! plan       the data of one run: topology, users, faults, seed
//! trace      what happened, as events; invariants; the verdict
//! ```
//!
//! Start with [`world::product::Product`]: what a system under test must say of itself. This package knows no product. For a
//! small test of your own, inside a plain `#[test]`, there is `explore::sim::Sim`.
//!
//! Features, all of them on unless you say otherwise: `redis`, `postgres`, `rabbitmq`, `engine` and `provider` are the
//! stand-ins, each with what it is built from; `cli` is the command line and the known bugs, `real` the world of real
//! processes. Stand-ins of your own need none.
// On the production runtime nothing else runs a world.
#![cfg_attr(all(not(madsim), not(feature = "real")), allow(dead_code))]

#[cfg(feature = "cli")]
pub mod cli;
pub mod explore;
pub mod link;
pub mod plan;
#[cfg(feature = "real")]
pub mod real;
pub mod standins;
pub mod trace;
pub mod world;
