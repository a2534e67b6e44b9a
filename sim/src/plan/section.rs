//! A table of a plan, whose keys are taken one by one. What nobody took is an error: no key is ever ignored.

use std::ops::Range;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::errors::{PlanError, nearest};
use crate::plan::duration;

/// Collects everything that is wrong with one text.
pub(super) struct Diagnostics<'a> {
    pub(super) path: &'a str,
    pub(super) text: &'a str,
    pub(super) errors: Vec<PlanError>,
}

impl Diagnostics<'_> {
    /// Says that what stands at `span` is wrong.
    pub(super) fn wrong(&mut self, span: &Range<usize>, says: impl Into<String>) {
        self.errors.push(PlanError::at(self.path, self.text, span.start, says.into(), None));
    }

    /// Says that `typed`, at `span`, is none of `words`, and which of them was meant.
    pub(super) fn unknown<'w>(
        &mut self,
        span: &Range<usize>,
        what: &str,
        typed: &str,
        words: impl IntoIterator<Item = &'w str>,
    ) {
        let words: Vec<&str> = words.into_iter().collect();
        let nearest = nearest(typed, words.iter().copied());
        let says = match words.len() {
            0 => format!("unknown {what} `{typed}`: there are none here"),
            1..=12 => format!("unknown {what} `{typed}`: there are `{}`", words.join("`, `")),
            _ => format!("unknown {what} `{typed}`"),
        };
        self.errors.push(PlanError::at(self.path, self.text, span.start, says, nearest));
    }
}

/// One table and the keys that it may have.
pub(super) struct Section<'t> {
    /// As in "unknown key in `[expect]`".
    name: &'static str,
    keys: Vec<&'static str>,
    table: DeTable<'t>,
    /// Where it stands.
    pub(super) span: Range<usize>,
}

impl<'t> Section<'t> {
    /// The table in `value`, if it is one.
    pub(super) fn of(
        value: Spanned<DeValue<'t>>,
        name: &'static str,
        keys: &[&'static str],
        complaints: &mut Diagnostics<'_>,
    ) -> Option<Self> {
        let span = value.span();
        match value.into_inner() {
            DeValue::Table(table) => Some(Section::new(table, span, name, keys)),
            other => {
                complaints.wrong(&span, format!("{name} must be a table, not {}", described(&other)));
                None
            }
        }
    }

    pub(super) fn new(table: DeTable<'t>, span: Range<usize>, name: &'static str, keys: &[&'static str]) -> Self {
        Section { name, keys: keys.to_vec(), table, span }
    }

    /// Where the value of `key` stands, if it was not taken.
    pub(super) fn span_of(&self, key: &'static str) -> Option<Range<usize>> {
        self.table.get(key).map(Spanned::span)
    }

    /// Takes the value of `key`.
    pub(super) fn take(&mut self, key: &'static str) -> Option<Spanned<DeValue<'t>>> {
        assert!(self.keys.contains(&key), "{key} is not among the keys of {}", self.name);
        self.table.remove(key)
    }

    /// Takes `key` and complains where it is missing.
    pub(super) fn need(&mut self, key: &'static str, complaints: &mut Diagnostics<'_>) -> Option<Spanned<DeValue<'t>>> {
        let value = self.take(key);
        if value.is_none() {
            complaints.wrong(&self.span, format!("{} needs `{key}`", self.name));
        }
        value
    }

    /// Takes a text.
    pub(super) fn text(&mut self, key: &'static str, complaints: &mut Diagnostics<'_>) -> Option<Spanned<String>> {
        let value = self.take(key)?;
        text(value, key, complaints)
    }

    /// Takes a length of time.
    pub(super) fn duration(&mut self, key: &'static str, complaints: &mut Diagnostics<'_>) -> Option<Duration> {
        let value = self.take(key)?;
        time(value, key, complaints)
    }

    /// Takes a whole number that is not negative.
    pub(super) fn number(&mut self, key: &'static str, complaints: &mut Diagnostics<'_>) -> Option<Spanned<u64>> {
        let value = self.take(key)?;
        number(value, key, complaints)
    }

    /// Takes a list of words.
    pub(super) fn words(&mut self, key: &'static str, complaints: &mut Diagnostics<'_>) -> Vec<Spanned<String>> {
        match self.take(key) {
            None => Vec::new(),
            Some(value) => words(value, key, complaints),
        }
    }

    /// Complains of every key that was not taken.
    pub(super) fn end(self, complaints: &mut Diagnostics<'_>) {
        for (key, _) in self.table {
            let what = format!("key in {}", self.name);
            complaints.unknown(&key.span(), &what, key.get_ref(), self.keys.iter().copied());
        }
    }
}

/// `value` as a text.
pub(super) fn text(
    value: Spanned<DeValue<'_>>,
    key: &str,
    complaints: &mut Diagnostics<'_>,
) -> Option<Spanned<String>> {
    let span = value.span();
    match value.into_inner() {
        DeValue::String(text) => Some(Spanned::new(span, text.into_owned())),
        other => {
            complaints.wrong(&span, format!("`{key}` must be a text in quotes, not {}", described(&other)));
            None
        }
    }
}

/// `value` as a length of time.
pub(super) fn time(value: Spanned<DeValue<'_>>, key: &str, complaints: &mut Diagnostics<'_>) -> Option<Duration> {
    let span = value.span();
    let typed = match value.into_inner() {
        DeValue::String(typed) => typed.into_owned(),
        // A bare number gets the same lesson about units as `"10"`.
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        other => {
            complaints.wrong(&span, format!("`{key}` must be a length of time as \"5s\", not {}", described(&other)));
            return None;
        }
    };
    duration::parse(&typed).map_err(|says| complaints.wrong(&span, format!("`{key}`: {says}"))).ok()
}

/// `value` as a whole number that is not negative.
pub(super) fn number(value: Spanned<DeValue<'_>>, key: &str, complaints: &mut Diagnostics<'_>) -> Option<Spanned<u64>> {
    let span = value.span();
    let parsed = match value.get_ref() {
        DeValue::Integer(integer) => u64::from_str_radix(integer.as_str(), integer.radix()).ok(),
        _ => None,
    };
    match parsed {
        Some(number) => Some(Spanned::new(span, number)),
        None => {
            complaints
                .wrong(&span, format!("`{key}` must be a whole number from 0, not {}", described(value.get_ref())));
            None
        }
    }
}

/// `value` as a list of words; a single word is a list of one.
pub(super) fn words(value: Spanned<DeValue<'_>>, key: &str, complaints: &mut Diagnostics<'_>) -> Vec<Spanned<String>> {
    match value.get_ref() {
        DeValue::Array(_) => {}
        _ => return text(value, key, complaints).into_iter().collect(),
    }
    let DeValue::Array(array) = value.into_inner() else { return Vec::new() };
    array.into_iter().filter_map(|item| text(item, key, complaints)).collect()
}

/// What a value is, for messages.
pub(super) fn described(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("the text \"{text}\""),
        DeValue::Integer(number) => format!("the number {number}"),
        DeValue::Float(number) => format!("the number {number}"),
        DeValue::Boolean(truth) => format!("`{truth}`"),
        DeValue::Datetime(_) => "a date".to_owned(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}
