//! What Postgres would have said where SQLite fails. An error that is not known here stops the run.

use rusqlite::{Error, ffi};

use crate::standins::postgres::refusal::Refusal;

/// What the names in an error are looked up in.
pub(super) trait Names {
    /// The first word of the statement that need not mean the same to both: neither a keyword or an operator of both, nor a
    /// name of the schema.
    fn outside(&self) -> Option<String>;
    /// Whether the statement is a `DROP`.
    fn drops(&self) -> bool;
    /// The table that the statement changes.
    fn target(&self) -> String;
    /// The name of the unique constraint or index over exactly these columns; the primary key's if `primary`.
    fn unique(&self, table: &str, columns: &[&str], primary: bool) -> String;
    /// The foreign key that the statement broke, if there is only one that it can be: its name and table, and whether it is
    /// the statement's table that refers.
    fn foreign_key(&self) -> Option<(String, String, bool)>;
    /// The name that Postgres gives to the unnamed check `expression` of that table.
    fn check(&self, table: &str, expression: &str) -> String;
}

/// What Postgres would have said where SQLite says `error` of `sql`.
pub(super) fn translate(error: &Error, sql: &str, names: &dyn Names) -> Refusal {
    let (code, message) = match error {
        Error::SqliteFailure(error, Some(message)) => (error.extended_code, message.as_str()),
        Error::SqlInputError { error, msg, .. } => (error.extended_code, msg.as_str()),
        _ => panic!(
            "the Postgres stand-in does not know what Postgres would say in place of {error:?} of the statement: {sql}"
        ),
    };
    let refusal = match code {
        ffi::SQLITE_CONSTRAINT_UNIQUE | ffi::SQLITE_CONSTRAINT_PRIMARYKEY => {
            unique(message, code == ffi::SQLITE_CONSTRAINT_PRIMARYKEY, names)
        }
        ffi::SQLITE_CONSTRAINT_NOTNULL => not_null(message),
        ffi::SQLITE_CONSTRAINT_CHECK => check(message, names),
        ffi::SQLITE_CONSTRAINT_FOREIGNKEY => Some(foreign_key(names)),
        ffi::SQLITE_ERROR => general(message, names),
        _ => None,
    };
    let unknown = |what: String| -> ! { panic!("the Postgres stand-in does not know {what} of the statement: {sql}") };
    match refusal {
        // Where every word means the same to both, neither can read it. Else Postgres may know more SQL than SQLite.
        Some(refusal) if unread(message).is_some() => match names.outside() {
            None => refusal,
            Some(word) => unknown(format!("`{word}`")),
        },
        Some(refusal) => refusal,
        None => unknown(format!("what Postgres would say in place of {message:?} ({code})")),
    }
}

fn unique(message: &str, primary: bool, names: &dyn Names) -> Option<Refusal> {
    let failed = message.strip_prefix("UNIQUE constraint failed: ")?;
    let (table, constraint) = match failed.strip_prefix("index ") {
        Some(index) => (names.target(), index.trim_matches('\'').to_owned()),
        None => {
            let pairs: Option<Vec<_>> = failed.split(", ").map(|pair| pair.split_once('.')).collect();
            let pairs = pairs?;
            let columns: Vec<_> = pairs.iter().map(|(_, column)| *column).collect();
            (pairs[0].0.to_owned(), names.unique(pairs[0].0, &columns, primary))
        }
    };
    let message = format!("duplicate key value violates unique constraint \"{constraint}\"");
    Some(Refusal { table: Some(table), constraint: Some(constraint), ..Refusal::new("23505", message) })
}

fn not_null(message: &str) -> Option<Refusal> {
    let (table, column) = message.strip_prefix("NOT NULL constraint failed: ")?.split_once('.')?;
    let message = format!("null value in column \"{column}\" of relation \"{table}\" violates not-null constraint");
    Some(Refusal { table: Some(table.into()), column: Some(column.into()), ..Refusal::new("23502", message) })
}

fn foreign_key(names: &dyn Names) -> Refusal {
    let target = names.target();
    match names.foreign_key() {
        Some((name, table, refers)) => {
            let message = if refers {
                format!("insert or update on table \"{target}\" violates foreign key constraint \"{name}\"")
            } else {
                format!(
                    "update or delete on table \"{target}\" violates foreign key constraint \"{name}\" on table \"{table}\""
                )
            };
            Refusal { table: Some(table), constraint: Some(name), ..Refusal::new("23503", message) }
        }
        None => Refusal::new("23503", format!("a change of table \"{target}\" violates a foreign key constraint")),
    }
}

fn check(message: &str, names: &dyn Names) -> Option<Refusal> {
    let table = names.target();
    let constraint = names.check(&table, message.strip_prefix("CHECK constraint failed: ")?);
    let message = format!("new row for relation \"{table}\" violates check constraint \"{constraint}\"");
    Some(Refusal { table: Some(table), constraint: Some(constraint), ..Refusal::new("23514", message) })
}

fn general(message: &str, names: &dyn Names) -> Option<Refusal> {
    let after = |prefix: &str| message.strip_prefix(prefix);
    if let Some(at) = unread(message) {
        Some(Refusal::new("42601", format!("syntax error at or near {at}")))
    } else if message == "incomplete input" {
        Some(Refusal::new("42601", "syntax error at end of input"))
    } else if let Some((values, columns)) = widths(message) {
        let (more, fewer) =
            if values > columns { ("expressions", "target columns") } else { ("target columns", "expressions") };
        Some(Refusal::new("42601", format!("INSERT has more {more} than {fewer}")))
    } else if let Some(table) = after("no such table: ") {
        let kind = if names.drops() { "table" } else { "relation" };
        Some(Refusal::new("42P01", format!("{kind} \"{}\" does not exist", table.trim_start_matches("main."))))
    } else if let Some(index) = after("no such index: ") {
        Some(Refusal::new("42704", format!("index \"{index}\" does not exist")))
    } else if let Some(column) = after("no such column: ") {
        let column = if column.contains('.') { column.to_owned() } else { format!("\"{column}\"") };
        Some(Refusal::new("42703", format!("column {column} does not exist")))
    } else if let Some(column) = after("ambiguous column name: ") {
        Some(Refusal::new("42702", format!("column reference \"{column}\" is ambiguous")))
    } else if let Some(column) = after("duplicate column name: ") {
        Some(Refusal::new("42701", format!("column \"{column}\" specified more than once")))
    } else if let Some((table, column)) = after("table ").and_then(|rest| rest.split_once(" has no column named ")) {
        Some(Refusal::new("42703", format!("column \"{column}\" of relation \"{table}\" does not exist")))
    } else if let Some(name) = message.strip_suffix(" already exists") {
        let name = name.trim_start_matches("table ").trim_start_matches("index ").trim_matches('"');
        Some(Refusal::new("42P07", format!("relation \"{name}\" already exists")))
    } else if message.starts_with("ON CONFLICT clause does not match") {
        let message = "there is no unique or exclusion constraint matching the ON CONFLICT specification";
        Some(Refusal::new("42P10", message))
    } else {
        None
    }
}

/// The word or character at which SQLite could not read a statement.
fn unread(message: &str) -> Option<&str> {
    let near = message.strip_prefix("near ").and_then(|rest| rest.strip_suffix(": syntax error"));
    near.or_else(|| message.strip_prefix("unrecognized token: "))
}

/// How many values an INSERT gave for how many columns.
fn widths(message: &str) -> Option<(u32, u32)> {
    let numbers: Vec<u32> = message.split(' ').filter_map(|word| word.parse().ok()).collect();
    match numbers[..] {
        [values, columns] if message.contains(" values for ") => Some((values, columns)),
        [columns, values] if message.ends_with("values were supplied") => Some((values, columns)),
        _ => None,
    }
}
