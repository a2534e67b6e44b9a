//! What goes wrong: a row, and a value for each argument of it that is given.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::time::Duration;

use super::fault_row::FaultRow;
use crate::plan::duration;

/// A kind of fault with its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kind {
    row: &'static FaultRow,
    args: BTreeMap<&'static str, Value>,
}

/// The value of an argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A length of time.
    Time(Duration),
    /// A number.
    Count(u64),
    /// A text.
    Text(String),
}

impl Kind {
    /// The kind of this row, without arguments.
    pub fn of(row: &'static FaultRow) -> Kind {
        Kind { row, args: BTreeMap::new() }
    }

    /// The same, with this argument.
    ///
    /// # Panics
    /// If the row takes none of that name.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Kind {
        let arg = self.row.arg(name).unwrap_or_else(|| panic!("`{}` takes no `{name}`", self.row.word()));
        self.args.insert(arg.name, value.into());
        self
    }

    /// The same, with this argument if there is one.
    #[must_use]
    pub fn with_any(self, name: &str, value: Option<impl Into<Value>>) -> Kind {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }

    /// The row.
    pub fn row(&self) -> &'static FaultRow {
        self.row
    }

    /// Whether it is of that kind.
    pub fn is(&self, row: &FaultRow) -> bool {
        self.row == row
    }

    /// The argument of that name.
    pub fn arg(&self, name: &str) -> Option<&Value> {
        self.args.get(name)
    }

    /// An argument that is a length of time; nothing without one.
    pub fn time(&self, name: &str) -> Duration {
        self.time_said(name).unwrap_or_default()
    }

    /// An argument that is a length of time, if it was said.
    pub fn time_said(&self, name: &str) -> Option<Duration> {
        match self.args.get(name) {
            Some(Value::Time(time)) => Some(*time),
            _ => None,
        }
    }

    /// An argument that is a number; 0 without one.
    pub fn count(&self, name: &str) -> u64 {
        match self.args.get(name) {
            Some(Value::Count(count)) => *count,
            _ => 0,
        }
    }

    /// An argument that is a status of HTTP; 0 without one.
    pub fn status(&self) -> u16 {
        u16::try_from(self.count("status")).unwrap_or_default()
    }

    /// An argument that is a text, if it was said.
    pub fn text(&self, name: &str) -> Option<&str> {
        match self.args.get(name) {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// Whether anything was said of it beside its word.
    pub fn has_args(&self) -> bool {
        !self.args.is_empty()
    }

    /// The arguments that were given, in the order of its row.
    pub fn args(&self) -> impl Iterator<Item = (&'static super::fault_row::Arg, &Value)> {
        self.row.args.iter().filter_map(|arg| Some((arg, self.args.get(arg.name)?)))
    }

    /// The word and its arguments, for a line about it.
    pub fn told(&self) -> String {
        let said = self.args().filter(|(arg, _)| !arg.told.is_empty());
        let said = said.map(|(arg, value)| arg.told.replacen("{}", &value.told(), 1));
        std::iter::once(self.row.word().to_owned()).chain(said).collect()
    }
}

/// A kind reads like its row.
impl Deref for Kind {
    type Target = FaultRow;

    fn deref(&self) -> &FaultRow {
        self.row
    }
}

impl From<&'static FaultRow> for Kind {
    fn from(row: &'static FaultRow) -> Kind {
        Kind::of(row)
    }
}

impl Value {
    fn told(&self) -> String {
        match self {
            Value::Time(time) => duration::print(*time),
            Value::Count(count) => count.to_string(),
            Value::Text(text) => text.clone(),
        }
    }
}

impl From<Duration> for Value {
    fn from(time: Duration) -> Value {
        Value::Time(time)
    }
}

impl From<u16> for Value {
    fn from(count: u16) -> Value {
        Value::Count(count.into())
    }
}

impl From<u32> for Value {
    fn from(count: u32) -> Value {
        Value::Count(count.into())
    }
}

impl From<u64> for Value {
    fn from(count: u64) -> Value {
        Value::Count(count)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Value {
        Value::Text(text)
    }
}
