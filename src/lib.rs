//! *A user's message becomes a run; a run is a row of turns; a turn commits at most once.*
//!
//! A gateway and executor for LLM agents. Postgres is the only truth; RabbitMQ carries hints that a run is waiting; Redis
//! holds what is live and nothing whose loss loses work. In reading order:
//!
//! - [`gateway`]: where a message enters, and where users see what became of it. Start here.
//! - [`run`]: what a run is and what may become of it; decisions without I/O.
//! - [`store`]: the truth, in Postgres; [`store::sql`] has every statement.
//! - [`executor`]: claims runs, works on them turn by turn, and sees each to its two terminal writes.
//! - [`engine`]: containers, in which agents live; the executor keeps them up and moves an agent to another subscription.
//! - [`agent`]: the process in such a container; it answers one turn at a time per session.
//! - [`provider`]: the model; one call is one turn.
//! - [`live`]: the view that users look at, leases and streams, in Redis.
//! - [`broker`]: hints, over [`amqp`], a small client that depends on nothing else here.
//! - [`facts`]: what is logged for operators to rely on.
//! - [`config`], [`limits`]: every setting and every bound, with its reason.
//! - `http`: HTTP, served and asked, over a [`socket`] as all else.
//! - [`ids`], [`backoff`], [`signal`], [`task_tracker`]: names and their randomness, waiting, how a process is told to
//!   stop, and which tasks still run when it does.
//!
//! What is absent: nothing here knows that a simulator exists. There is no clock to inject, no hook and no `cfg` of it.

pub mod agent;
pub mod amqp;
pub mod backoff;
pub mod broker;
pub mod config;
pub mod engine;
pub mod executor;
pub mod facts;
pub mod gateway;
mod http;
pub mod ids;
pub mod limits;
pub mod live;
pub mod provider;
pub mod run;
pub mod signal;
pub mod socket;
pub mod store;
pub mod task_tracker;
