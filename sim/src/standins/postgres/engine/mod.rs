//! The engine behind the connections: it keeps tables and executes statements. Its one law: nothing outside of this folder
//! knows which engine it is.
//!
//! The rest of the stand-in cuts a text into statements, holds transactions apart, speaks the protocol and shows what was
//! committed. Of the engine it asks:
//!
//! - [`Database::plan`] and [`Database::known`]: the types of a statement's parameters and columns, or Postgres's refusal;
//! - [`Database::begin`], [`Database::run`], [`Database::commit`], [`Database::rollback`]: the one transaction that is open,
//!   in which constraints are checked as Postgres checks them;
//! - [`Database::copy`]: what is committed, for a standby;
//! - [`Database::query`] and [`Database::in_transaction`]: what tests and judges look at.
//!
//! Another engine takes this one's place with a `Database` and a `Plan` that do the same. Today it is SQLite, in memory:
//! `sqlite` executes, `order` and `column` say of a text what SQLite does not, `translate` makes its errors Postgres's.

mod column;
mod order;
mod sqlite;
mod translate;

pub(super) use self::sqlite::{Database, Outcome, Plan, named};
