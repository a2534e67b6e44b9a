//! What Postgres shows of itself: committed statements, and which of them a failover has undone.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::standins::observation::Observed;

/// A committed statement. Those of one transaction are shown together, in order, at its commit.
#[derive(Clone, Debug, PartialEq)]
pub struct Statement {
    /// The connection, as the stand-in sees its other end.
    pub peer: SocketAddr,
    /// The connection's `application_name`, as its start-up message gave it; empty without one.
    pub application: String,
    /// The name in the leading comment, as `run.claim` in `/* run.claim */ UPDATE …`. Empty for BEGIN and the like.
    pub name: String,
    /// The parameters, `$1` first.
    pub params: Vec<Value>,
    /// The rows that were returned, each by column name.
    pub rows: Vec<BTreeMap<String, Value>>,
    /// How many rows it changed or returned, as in Postgres's command tag.
    pub affected: u64,
}

/// What a failover does to what was committed.
#[derive(Clone, Debug, PartialEq)]
pub enum Failover {
    /// A standby has stopped hearing of commits: it knows those that were shown before this, and no other.
    LeftBehind,
    /// That standby is the primary now. Of what was committed since, these statements changed rows: all of that is undone.
    Promoted(Vec<Statement>),
}

/// A value in the intersection of Postgres and SQLite.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// SQL NULL.
    Null,
    /// `bigint`; times are microseconds.
    Int(i64),
    /// `text`.
    Text(String),
    /// `bytea`.
    Bytes(Vec<u8>),
    /// `boolean`.
    Bool(bool),
}

impl Value {
    /// The text in it, if it is text.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The number in it, if it is a number.
    pub fn as_int(&self) -> Option<i64> {
        match self {
            Value::Int(number) => Some(*number),
            _ => None,
        }
    }
}

impl Observed for Failover {
    fn peer(&self) -> Option<SocketAddr> {
        None
    }
}

impl Observed for Statement {
    fn peer(&self) -> Option<SocketAddr> {
        Some(self.peer)
    }
}
