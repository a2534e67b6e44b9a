//! One statement of the dialect: its name, its verb. What the stand-in does not know stops the run.

use std::time::Duration;

use super::refusal::Refusal;
use super::token::{Kind, Token, tokens};

/// What a statement wants.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Verb {
    /// Nothing but comments.
    Empty,
    /// With the command tag that it is answered with.
    Begin(&'static str),
    Commit,
    Rollback,
    Set(Setting),
    /// `CREATE OR REPLACE FUNCTION now_us() …`: the stand-in has its own.
    Clock,
    Select,
    Insert,
    Update,
    Delete,
    /// Changes the schema; with Postgres's command tag.
    Schema(&'static str),
}

/// What `SET` can change.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Setting {
    IdleInTransaction(Option<Duration>),
    Statement(Option<Duration>),
    Lock(Option<Duration>),
    /// Accepted without effect.
    Label,
}

/// A statement of an SQL text.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Statement {
    /// `run.claim` of the leading `/* run.claim */`; empty without one.
    pub name: String,
    /// The text with its comments, without its semicolon.
    pub text: String,
    pub verb: Verb,
}

/// The statements of `sql`, in order. Empty ones are left out, as Postgres does.
pub(super) fn statements(sql: &str) -> Result<Vec<Statement>, Refusal> {
    let words = tokens(sql)?;
    let mut from = 0;
    let mut found = Vec::new();
    for words in words.split_inclusive(|token| token.mark(";")) {
        let (words, end) = match words.split_last() {
            Some((last, before)) if last.mark(";") => (before, last.start),
            _ => (words, sql.len()),
        };
        let text = sql[from..end].trim();
        from = (end + 1).min(sql.len());
        if !words.is_empty() {
            found.push(Statement { name: name(text), text: text.to_owned(), verb: verb(text, words)? });
        }
    }
    Ok(found)
}

/// The words that a command of Postgres can begin with; any other is a syntax error there.
const COMMANDS: &[&str] = &[
    "ABORT",
    "ALTER",
    "ANALYZE",
    "BEGIN",
    "CALL",
    "CHECKPOINT",
    "CLOSE",
    "CLUSTER",
    "COMMENT",
    "COMMIT",
    "COPY",
    "CREATE",
    "DEALLOCATE",
    "DECLARE",
    "DELETE",
    "DISCARD",
    "DO",
    "DROP",
    "END",
    "EXECUTE",
    "EXPLAIN",
    "FETCH",
    "GRANT",
    "IMPORT",
    "INSERT",
    "LISTEN",
    "LOAD",
    "LOCK",
    "MERGE",
    "MOVE",
    "NOTIFY",
    "PREPARE",
    "REASSIGN",
    "REFRESH",
    "REINDEX",
    "RELEASE",
    "RESET",
    "REVOKE",
    "ROLLBACK",
    "SAVEPOINT",
    "SECURITY",
    "SELECT",
    "SET",
    "SHOW",
    "START",
    "TABLE",
    "TRUNCATE",
    "UNLISTEN",
    "UPDATE",
    "VACUUM",
    "VALUES",
    "WITH",
];

/// The name in the leading comment.
fn name(text: &str) -> String {
    let comment = text.strip_prefix("/*").and_then(|rest| rest.split_once("*/"));
    comment.map_or("", |(name, _)| name.trim()).to_owned()
}

fn verb(text: &str, words: &[Token<'_>]) -> Result<Verb, Refusal> {
    if !words[0].is_any(COMMANDS) {
        return Err(Refusal::new("42601", format!("syntax error at or near \"{}\"", words[0].text)));
    }
    refuse_foreign(text, words);
    let starts = |keywords: &[&str]| {
        words.len() >= keywords.len() && keywords.iter().zip(words).all(|(keyword, word)| word.is(keyword))
    };
    let whole = |keywords: &[&str]| words.len() == keywords.len() && starts(keywords);
    Ok(if whole(&["BEGIN"]) {
        Verb::Begin("BEGIN")
    } else if whole(&["START", "TRANSACTION"]) {
        Verb::Begin("START TRANSACTION")
    } else if whole(&["COMMIT"]) {
        Verb::Commit
    } else if whole(&["ROLLBACK"]) {
        Verb::Rollback
    } else if starts(&["SET"]) {
        Verb::Set(setting(text, &words[1..]))
    } else if starts(&["CREATE", "OR", "REPLACE", "FUNCTION", "NOW_US"]) {
        Verb::Clock
    } else if let Some(tag) = schema_tag(words) {
        Verb::Schema(tag)
    } else {
        match main_verb(words) {
            Some(word) if word.is("SELECT") => Verb::Select,
            Some(word) if word.is("INSERT") => Verb::Insert,
            Some(word) if word.is("UPDATE") => Verb::Update,
            Some(word) if word.is("DELETE") => Verb::Delete,
            _ => panic!("the Postgres stand-in does not know this statement: {text}"),
        }
    })
}

fn schema_tag(words: &[Token<'_>]) -> Option<&'static str> {
    let second = words.get(1)?;
    let index = second.is("INDEX") || (second.is("UNIQUE") && words.get(2)?.is("INDEX"));
    match () {
        () if words[0].is("CREATE") && second.is("TABLE") => Some("CREATE TABLE"),
        () if words[0].is("CREATE") && index => Some("CREATE INDEX"),
        () if words[0].is("DROP") && second.is("TABLE") => Some("DROP TABLE"),
        () if words[0].is("DROP") && second.is("INDEX") => Some("DROP INDEX"),
        () if words[0].is("ALTER") && second.is("TABLE") => Some("ALTER TABLE"),
        () => None,
    }
}

/// The keyword that the statement is about: the first, or the one after the `WITH` list.
fn main_verb<'s, 'a>(words: &'s [Token<'a>]) -> Option<&'s Token<'a>> {
    let verbs = ["SELECT", "INSERT", "UPDATE", "DELETE"];
    match words.first() {
        Some(first) if first.is("WITH") => outer(words).find(|(_, word)| word.is_any(&verbs)).map(|(_, word)| word),
        first => first.filter(|first| first.is_any(&verbs)),
    }
}

/// The words that stand in no brackets, with their places.
pub(super) fn outer<'s, 'a>(words: &'s [Token<'a>]) -> impl Iterator<Item = (usize, &'s Token<'a>)> {
    let mut depth = 0i32;
    words.iter().enumerate().filter(move |(_, word)| {
        let opens = word.mark("(");
        let closes = word.mark(")");
        depth -= i32::from(closes);
        let outside = depth == 0;
        depth += i32::from(opens);
        outside
    })
}

/// Stops the run at what Postgres knows and SQLite would misread or refuse.
fn refuse_foreign(text: &str, words: &[Token<'_>]) {
    let pair = |first: &str, second: &[&str]| words.windows(2).any(|two| two[0].is(first) && two[1].is_any(second));
    let foreign = if words.iter().any(|word| word.mark("::")) {
        "a :: cast (write CAST)"
    } else if pair("FOR", &["UPDATE", "SHARE", "NO", "KEY"]) {
        "a row lock (update the row first)"
    } else if words.windows(3).any(|three| three[0].is("AS") && three[1].is("BYTEA") && three[2].mark(")")) {
        "a cast to bytea (bind a typed parameter)"
    } else if words.iter().any(|word| word.is("INTERVAL")) {
        "an interval (times are bigint microseconds)"
    } else {
        return;
    };
    panic!("the Postgres stand-in does not know {foreign}: {text}");
}

fn setting(text: &str, words: &[Token<'_>]) -> Setting {
    let [name, equals, value] = words else { panic!("the Postgres stand-in does not know this setting: {text}") };
    assert!(equals.mark("=") || equals.is("TO"), "the Postgres stand-in does not know this setting: {text}");
    let value = if value.kind == Kind::Text { value.text.trim_matches('\'') } else { value.text };
    set(&name.text.to_ascii_lowercase(), value)
}

/// The setting `name = value`, as in `SET` and in the start-up options.
pub(super) fn set(name: &str, value: &str) -> Setting {
    match name {
        "idle_in_transaction_session_timeout" => Setting::IdleInTransaction(duration(name, value)),
        "statement_timeout" => Setting::Statement(duration(name, value)),
        "lock_timeout" => Setting::Lock(duration(name, value)),
        "application_name" | "client_min_messages" => Setting::Label,
        _ => panic!("the Postgres stand-in does not know the setting {name} = {value}"),
    }
}

/// A time in Postgres's notation: milliseconds, or with a unit. Zero means never.
fn duration(name: &str, value: &str) -> Option<Duration> {
    if value.eq_ignore_ascii_case("default") {
        return None;
    }
    let digits = value.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = (value[..digits].parse::<u64>(), value[digits..].trim());
    let unknown = || panic!("the Postgres stand-in does not know the time {value} for {name}");
    let number = number.unwrap_or_else(|_| unknown());
    let millis = match unit {
        "" | "ms" => number,
        "s" => number * 1_000,
        "min" => number * 60_000,
        _ => unknown(),
    };
    Some(Duration::from_millis(millis)).filter(|time| !time.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_migration_is_cut_into_its_statements() {
        let sql = "SET statement_timeout = '5s'; CREATE OR REPLACE FUNCTION now_us() RETURNS bigint AS $$ SELECT 1; $$ \
                   LANGUAGE sql; /* run.claim */ WITH a AS (SELECT 1) UPDATE t SET a = 1; CREATE UNIQUE INDEX i ON t (a);;";
        let found: Vec<_> = statements(sql).unwrap().into_iter().map(|found| (found.name, found.verb)).collect();
        let five = Some(Duration::from_secs(5));
        assert_eq!(
            found,
            [
                (String::new(), Verb::Set(Setting::Statement(five))),
                (String::new(), Verb::Clock),
                ("run.claim".into(), Verb::Update),
                (String::new(), Verb::Schema("CREATE INDEX")),
            ]
        );
    }

    #[test]
    #[should_panic(expected = "TRUNCATE runs")]
    fn an_unknown_statement_stops_the_run() {
        let _ = statements("TRUNCATE runs");
    }

    #[test]
    #[should_panic(expected = "row lock")]
    fn a_row_lock_stops_the_run() {
        let _ = statements("SELECT 1 FROM a FOR UPDATE");
    }
}
