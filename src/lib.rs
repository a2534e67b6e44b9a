//! *A user's message becomes a run; a run is a row of turns; a turn commits at most once.*
//!
//! A gateway and executor for LLM agents. Postgres is the only truth; RabbitMQ carries hints that a run is waiting;
//! Redis holds what is live and nothing whose loss loses work. In reading order:
//!
//! - [`gateway`]: where a message enters, and where users see what became of it. Start here.
//! - [`run`]: the state machine of a run; decisions without I/O.
//! - [`store`]: Postgres, the truth; [`store::sql`] has every statement.
//! - [`executor`]: claims runs, works on them turn by turn, and makes the two terminal writes of each.
//! - [`engine`]: the client of the container engine. Agents live in containers; an executor keeps them up and moves an
//!   agent to another subscription.
//! - [`agent`]: the process in such a container; it answers one turn at a time per session.
//! - [`provider`]: the client of the model provider; one call is one turn.
//! - [`live`]: Redis: the view that users look at, leases and streams.
//! - [`broker`]: hints, over [`amqp`], a small client that depends on nothing else here.
//! - [`facts`]: what is logged for operators to rely on.
//! - [`config`], [`limits`]: every setting and every bound, with its reason.
//! - [`ids`], [`signal`]: the names of things and where they come from; how a process is told to stop, and its exit.
//! - `http`: client and server. [`socket`]: the TCP connection under every protocol.
//! - `retry`, [`backoff`], `owned_task`, [`task_tracker`]: repeating a call while Postgres is unavailable, the
//!   pauses, a task that ends with its owner, a count of tasks.
//!
//! Absent: nothing here knows that a simulator exists. There is no clock to inject, no hook and no `cfg` of it.

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
mod owned_task;
pub mod provider;
mod retry;
pub mod run;
pub mod signal;
pub mod socket;
pub mod store;
pub mod task_tracker;
