//! A gateway and executor for LLM agents.
pub mod amqp;
