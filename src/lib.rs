//! A user's message becomes a run; a run is a row of turns; a turn commits at most once.
pub mod amqp;
pub mod backoff;
pub mod broker;
pub mod config;
pub mod executor;
pub mod gateway;
pub mod ids;
pub mod limits;
pub mod live;
pub mod mint;
pub mod provider;
pub mod run;
pub mod signal;
pub mod sql;
pub mod store;
