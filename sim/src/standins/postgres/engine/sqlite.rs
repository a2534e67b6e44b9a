//! The tables, in SQLite. It holds one transaction at a time and knows nothing of connections; who may use it when is
//! the session's business.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, Once, OnceLock, PoisonError};
use std::time::Duration;

use rusqlite::backup::{Backup, StepResult};
use rusqlite::config::DbConfig;
use rusqlite::functions::FunctionFlags;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, Statement as Prepared, ffi};

use super::column::{FUNCTIONS, Schema, types};
use super::order::nulls_as_in_postgres;
use super::translate::{Names, translate};
use crate::standins::postgres::data_type::Type;
use crate::standins::postgres::observation::Value;
use crate::standins::postgres::refusal::Refusal;
use crate::standins::postgres::statement::{Statement, Verb, outer};
use crate::standins::postgres::token::{Kind, Token, tokens};

/// Plans that are kept until the schema changes. A product has some dozens of statements.
const PLANS_MAX: usize = 1024;

/// A statement that Postgres would have accepted: what it takes and gives.
#[derive(Debug)]
pub(in crate::standins::postgres) struct Plan {
    pub statement: Statement,
    /// The text as SQLite gets it.
    sqlite: String,
    pub params: Vec<Type>,
    /// Where SQLite has `$1`, `$2`, …, of those that the text names; learned when it is first executed.
    places: OnceLock<Vec<Option<usize>>>,
    /// None if it returns no rows.
    pub columns: Option<Vec<(String, Type)>>,
}

/// What a statement did.
#[derive(Debug)]
pub(in crate::standins::postgres) struct Outcome {
    pub rows: Vec<Vec<Value>>,
    /// As in Postgres's command tag.
    pub affected: u64,
}

pub(in crate::standins::postgres) struct Database {
    sqlite: Connection,
    /// What `now_us()` says: set at the start of each statement.
    now: Arc<AtomicI64>,
    /// A function outside of the dialect that the statement being prepared calls.
    foreign: Arc<Mutex<Option<String>>>,
    /// Read when it is first asked for, forgotten when a table is made or changed.
    schema: OnceLock<Schema>,
    /// The open transaction has changed the schema.
    altered: bool,
    /// By text and parameter types.
    plans: BTreeMap<String, BTreeMap<Vec<u32>, Arc<Plan>>>,
}

const READY: &str = "SQLite opens in memory";

/// SQLite takes twenty pages whenever it opens a table of its own, as for each RETURNING: a seventh of a whole run went
/// into those that it never used. Here it takes one at a time, and counts none of its memory.
fn take_what_is_used() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let nowhere = std::ptr::null_mut::<std::ffi::c_void>();
        // SAFETY: every caller that opens a database here has waited for this, so SQLite is not in use; the arguments are of the
        // types that these two settings take.
        let taken = unsafe {
            [
                ffi::sqlite3_config(ffi::SQLITE_CONFIG_PAGECACHE, nowhere, 0, 0),
                ffi::sqlite3_config(ffi::SQLITE_CONFIG_MEMSTATUS, 0),
            ]
        };
        assert_eq!(taken, [ffi::SQLITE_OK; 2], "{READY}");
    });
}

impl Database {
    pub fn new() -> Database {
        take_what_is_used();
        let mut sqlite = Connection::open_in_memory().expect(READY);
        for strict in [DbConfig::SQLITE_DBCONFIG_DQS_DML, DbConfig::SQLITE_DBCONFIG_DQS_DDL] {
            sqlite.set_db_config(strict, false).expect(READY);
        }
        // Else a statement is planned anew whenever its parameters change, which is a tenth of a whole run.
        sqlite.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).expect(READY);
        sqlite.execute_batch("PRAGMA foreign_keys = ON; PRAGMA case_sensitive_like = ON;").expect(READY);
        sqlite.set_prepared_statement_cache_capacity(256);
        let now = Arc::new(AtomicI64::new(0));
        let clock = now.clone();
        sqlite
            .create_scalar_function(
                "now_us",
                0,
                FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_INNOCUOUS,
                move |_| Ok(clock.load(Ordering::Relaxed)),
            )
            .expect(READY);
        let foreign = Arc::new(Mutex::new(None));
        let seen = foreign.clone();
        let authorizer = move |context: AuthContext<'_>| {
            if let AuthAction::Function { function_name } = context.action
                && !FUNCTIONS.contains(&function_name.to_ascii_lowercase().as_str())
            {
                *seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(function_name.to_owned());
            }
            Authorization::Allow
        };
        sqlite.authorizer(Some(authorizer)).expect(READY);
        Database { sqlite, now, foreign, schema: OnceLock::new(), altered: false, plans: BTreeMap::new() }
    }

    /// Another database with the same tables and rows. No transaction may be open.
    pub fn copy(&self) -> Database {
        assert!(!self.in_transaction(), "what is not committed is not copied");
        let mut copy = Database::new();
        let copied = Backup::new(&self.sqlite, &mut copy.sqlite).and_then(|backup| backup.step(-1));
        assert!(matches!(copied, Ok(StepResult::Done)), "SQLite copies what is in memory: {copied:?}");
        copy
    }

    /// The plan that was made of this statement before, if the schema is still the same.
    pub fn known(&self, text: &str, oids: &[u32]) -> Option<Arc<Plan>> {
        self.plans.get(text)?.get(oids).cloned()
    }

    /// What Postgres makes of a `Parse`. Parameters without a type stop the run: Postgres would infer them.
    pub fn plan(&mut self, statement: &Statement, oids: &[u32]) -> Result<Arc<Plan>, Refusal> {
        let text = &statement.text;
        if let Some(plan) = self.known(text, oids) {
            return Ok(plan);
        }
        let words = tokens(text)?;
        let params = params(text, &words, oids);
        let columns = match &statement.verb {
            Verb::Select | Verb::Insert | Verb::Update | Verb::Delete => self.columns(text, &words, &params)?,
            _ => None,
        };
        let sqlite = nulls_as_in_postgres(text, &words);
        let plan = Arc::new(Plan { statement: statement.clone(), sqlite, params, places: OnceLock::new(), columns });
        if self.plans.len() >= PLANS_MAX {
            self.plans.clear();
        }
        self.plans.entry(text.clone()).or_default().insert(oids.to_vec(), plan.clone());
        Ok(plan)
    }

    fn columns(
        &self,
        text: &str,
        words: &[Token<'_>],
        params: &[Type],
    ) -> Result<Option<Vec<(String, Type)>>, Refusal> {
        let prepared = self.prepare(text, words)?;
        let columns = |prepared: &Prepared<'_>| -> Vec<_> {
            let declared = |kind: &str| {
                let known = Type::declared(kind);
                Some(known.unwrap_or_else(|| panic!("the Postgres stand-in does not know the type {kind}: {text}")))
            };
            let column = |each: rusqlite::Column<'_>| (each.name().to_owned(), each.decl_type().and_then(declared));
            prepared.columns().map(column).collect()
        };
        let columns = columns(&prepared);
        if columns.is_empty() {
            return Ok(None);
        }
        let types = types(self.schema(), words, params, &columns);
        Ok(Some(columns.into_iter().zip(types).map(|((name, _), kind)| (name, kind)).collect()))
    }

    fn prepare(&self, text: &str, words: &[Token<'_>]) -> Result<Prepared<'_>, Refusal> {
        self.foreign.lock().unwrap_or_else(PoisonError::into_inner).take();
        let prepared = self.sqlite.prepare(text);
        let unknown = |name: &str| panic!("the Postgres stand-in does not know the function {name}(): {text}");
        // ALTER TABLE calls functions of SQLite's own.
        let altering = words.first().is_some_and(|word| word.is("ALTER"));
        if let Some(name) = self.foreign.lock().unwrap_or_else(PoisonError::into_inner).take().filter(|_| !altering) {
            unknown(&name);
        }
        prepared.map_err(|error| {
            let message = error.to_string();
            if let Some((_, name)) = message.split_once("no such function: ") {
                unknown(name.split(' ').next().unwrap_or(name));
            }
            translate(&error, text, &Words { database: self, words })
        })
    }

    /// One of the three words that frame each statement: parsed once, not each time.
    fn transact(&self, word: &str) -> rusqlite::Result<()> {
        self.sqlite.prepare_cached(word)?.raw_execute().map(drop)
    }

    /// Opens the one transaction.
    pub fn begin(&mut self) {
        self.altered = false;
        self.transact("BEGIN").expect("one transaction at a time");
    }

    /// Ends it; on an error it is rolled back.
    pub fn commit(&mut self) -> Result<(), Refusal> {
        self.transact("COMMIT").map_err(|error| {
            self.rollback();
            translate(&error, "COMMIT", &Words { database: self, words: &[] })
        })
    }

    /// Undoes it, if there is one.
    pub fn rollback(&mut self) {
        if !self.sqlite.is_autocommit() {
            self.transact("ROLLBACK").expect("an open transaction can be rolled back");
        }
        if std::mem::take(&mut self.altered) {
            self.forget_schema();
        }
    }

    pub fn in_transaction(&self) -> bool {
        !self.sqlite.is_autocommit()
    }

    /// Executes a statement on tables, inside the transaction. `clock` is what the server's clock shows since 1970.
    pub fn run(&mut self, plan: &Plan, params: &[Value], clock: Duration) -> Result<Outcome, Refusal> {
        self.now
            .store(i64::try_from(clock.as_micros()).expect("the clock is before the year 290000"), Ordering::Relaxed);
        let text = &plan.statement.text;
        if let Verb::Schema(_) = plan.statement.verb {
            let words = tokens(text)?;
            declared_types_are_known(text, &words);
            self.prepare(text, &words)?;
        }
        let refused = |error: &rusqlite::Error| match tokens(text) {
            Ok(words) => translate(error, text, &Words { database: self, words: &words }),
            Err(refusal) => refusal,
        };
        let mut prepared = self.sqlite.prepare_cached(&plan.sqlite).map_err(|error| refused(&error))?;
        let places = plan.places.get_or_init(|| {
            let place = |number| prepared.parameter_index(&format!("${number}")).ok().flatten();
            (1..=params.len()).map(place).collect()
        });
        for (value, index) in params.iter().zip(places) {
            if let Some(index) = index {
                prepared.raw_bind_parameter(*index, sqlite_value(value)).map_err(|error| refused(&error))?;
            }
        }
        let mut found = Vec::new();
        let mut rows = prepared.raw_query();
        while let Some(row) = rows.next().map_err(|error| refused(&error))? {
            let columns = plan.columns.as_deref().unwrap_or_default().iter().enumerate();
            let value = |(place, (name, kind)): (usize, &(String, Type))| {
                value(row.get_ref(place).expect("a row has its columns"), *kind)
                    .unwrap_or_else(|wrong| panic!("the column {name:?} holds {wrong}, not {kind:?}: {text}"))
            };
            found.push(columns.map(value).collect());
        }
        drop(rows);
        drop(prepared);
        let affected = match plan.statement.verb {
            Verb::Select => found.len() as u64,
            Verb::Insert | Verb::Update | Verb::Delete => self.sqlite.changes(),
            _ => 0,
        };
        if let Verb::Schema(_) = plan.statement.verb {
            self.altered = true;
            self.forget_schema();
        }
        Ok(Outcome { rows: found, affected })
    }

    /// What was known of the tables is not so any more, nor the plans that were made for them.
    fn forget_schema(&mut self) {
        self.schema.take();
        self.plans.clear();
    }

    /// The columns of all tables, read when they are first asked for: a script of twenty `CREATE`s asks once.
    fn schema(&self) -> &Schema {
        self.schema.get_or_init(|| self.read_schema())
    }

    fn read_schema(&self) -> Schema {
        let mut columns = self
            .sqlite
            .prepare_cached(
                "SELECT lower(c.name), lower(t.name), c.type FROM sqlite_schema t, pragma_table_info(t.name) c WHERE t.type = 'table'",
            )
            .expect("SQLite knows its schema");
        let mut schema = Schema::default();
        let mut rows = columns.query([]).expect("SQLite knows its schema");
        while let Some(row) = rows.next().expect("SQLite knows its schema") {
            let text = |place| row.get::<_, String>(place).expect("a name is text");
            let kind = Type::declared(&text(2)).expect("the types of a table were checked when it was made");
            schema.0.entry(text(0)).or_default().insert(text(1), kind);
        }
        schema
    }

    /// The rows of a query, for judges.
    pub fn query(&mut self, statement: &Statement, clock: Duration) -> Result<Vec<BTreeMap<String, Value>>, Refusal> {
        let plan = self.plan(statement, &[])?;
        let outcome = self.run(&plan, &[], clock)?;
        Ok(named(&plan, outcome.rows))
    }
}

/// Rows by column name.
pub(in crate::standins::postgres) fn named(plan: &Plan, rows: Vec<Vec<Value>>) -> Vec<BTreeMap<String, Value>> {
    let names = || plan.columns.iter().flatten().map(|(name, _)| name.clone());
    rows.into_iter().map(|row| names().zip(row).collect()).collect()
}

/// The types of `$1`, `$2`, … as the client declared them.
fn params(text: &str, words: &[Token<'_>], oids: &[u32]) -> Vec<Type> {
    let used =
        words.iter().filter(|word| word.kind == Kind::Param).filter_map(|word| word.text[1..].parse::<usize>().ok());
    let count = used.max().unwrap_or(0);
    assert!(
        count <= oids.len(),
        "the Postgres stand-in infers no types: give one to each parameter (query_typed): {text}"
    );
    let known = |oid: &u32| match oid {
        1043 => Type::Text,
        _ => Type::from_oid(*oid).unwrap_or_else(|| {
            panic!("the Postgres stand-in does not know the parameter type with oid {oid} (0: give it a type): {text}")
        }),
    };
    oids.iter().map(known).collect()
}

/// Stops the run at a column of another type than the dialect's.
fn declared_types_are_known(text: &str, words: &[Token<'_>]) {
    const FOREIGN: &[&str] = &[
        "INT",
        "INTEGER",
        "SMALLINT",
        "SERIAL",
        "BIGSERIAL",
        "VARCHAR",
        "CHAR",
        "BLOB",
        "REAL",
        "DOUBLE",
        "NUMERIC",
        "DECIMAL",
        "TIMESTAMP",
        "TIMESTAMPTZ",
        "DATE",
        "JSON",
        "JSONB",
        "UUID",
        "BOOL",
        "INT8",
        "INT4",
        "AUTOINCREMENT",
        "IDENTITY",
    ];
    let foreign = words.iter().find(|word| word.is_any(FOREIGN));
    assert!(foreign.is_none(), "the Postgres stand-in knows bigint, text, bytea and boolean, not {foreign:?}: {text}");
}

fn sqlite_value(value: &Value) -> ToSqlOutput<'_> {
    ToSqlOutput::Borrowed(match value {
        Value::Null => ValueRef::Null,
        Value::Int(number) => ValueRef::Integer(*number),
        Value::Text(text) => ValueRef::Text(text.as_bytes()),
        Value::Bytes(bytes) => ValueRef::Blob(bytes),
        Value::Bool(flag) => ValueRef::Integer((*flag).into()),
    })
}

/// A value as its type says, or what it is instead.
fn value(found: ValueRef<'_>, kind: Type) -> Result<Value, String> {
    match (found, kind) {
        (ValueRef::Null, _) => Ok(Value::Null),
        (ValueRef::Integer(number), Type::Int8 | Type::Int4) => Ok(Value::Int(number)),
        (ValueRef::Integer(flag @ (0 | 1)), Type::Bool) => Ok(Value::Bool(flag == 1)),
        (ValueRef::Text(text), Type::Text) => Ok(Value::Text(String::from_utf8_lossy(text).into_owned())),
        (ValueRef::Blob(bytes), Type::Bytea) => Ok(Value::Bytes(bytes.to_vec())),
        (other, _) => Err(format!("{other:?}")),
    }
}

/// A statement's words beside the schema: where the names in errors come from.
struct Words<'s> {
    database: &'s Database,
    words: &'s [Token<'s>],
}

impl Words<'_> {
    /// The words that made the table.
    fn with_table<T>(&self, table: &str, read: impl FnOnce(&[Token<'_>]) -> T) -> Option<T> {
        let sql = "SELECT sql FROM sqlite_schema WHERE type = 'table' AND lower(name) = lower(?1)";
        let sql: String = self.database.sqlite.query_row(sql, [table], |row| row.get(0)).ok()?;
        Some(read(&tokens(&sql).ok()?))
    }
}

/// Keywords that mean the same to SQLite and to Postgres wherever they may stand.
const SHARED: &[&str] = &[
    "AND",
    "AS",
    "ASC",
    "BETWEEN",
    "BY",
    "CASE",
    "CONFLICT",
    "DELETE",
    "DESC",
    "DISTINCT",
    "DO",
    "ELSE",
    "END",
    "EXISTS",
    "GROUP",
    "HAVING",
    "IN",
    "INSERT",
    "INTO",
    "IS",
    "JOIN",
    "LEFT",
    "LIKE",
    "LIMIT",
    "NOT",
    "NOTHING",
    "NULL",
    "OFFSET",
    "ON",
    "OR",
    "ORDER",
    "RETURNING",
    "SELECT",
    "SET",
    "THEN",
    "UNION",
    "UPDATE",
    "VALUES",
    "WHEN",
    "WHERE",
    "WITH",
    "FROM",
];
/// Operators and brackets of both.
const SHARED_MARKS: &[&str] = &["(", ")", ",", ".", "=", "<", ">", "<=", ">=", "<>", "+", "-", "*", "/", "%", "||"];

impl Names for Words<'_> {
    fn outside(&self) -> Option<String> {
        let schema = &self.database.schema().0;
        let named = |name: &str| schema.contains_key(name) || schema.values().any(|tables| tables.contains_key(name));
        let known = |word: &Token<'_>| match word.kind {
            Kind::Word => word.is_any(SHARED) || word.identifier().is_some_and(|name| named(&name)),
            Kind::Mark => SHARED_MARKS.contains(&word.text),
            Kind::Quoted | Kind::Text | Kind::Param | Kind::Number => true,
            Kind::Body => false,
        };
        self.words.iter().find(|word| !known(word)).map(|word| word.text.to_owned())
    }

    fn drops(&self) -> bool {
        self.words.first().is_some_and(|word| word.is("DROP"))
    }

    fn target(&self) -> String {
        let after = outer(self.words).find(|(_, word)| word.is_any(&["INTO", "UPDATE", "FROM"]));
        after.and_then(|(place, _)| self.words.get(place + 1)?.identifier()).unwrap_or_default()
    }

    fn unique(&self, table: &str, columns: &[&str], primary: bool) -> String {
        let columns: Vec<_> = columns.iter().map(|column| column.to_ascii_lowercase()).collect();
        let kind: &[&str] = if primary { &["PRIMARY"] } else { &["UNIQUE"] };
        let written = self.with_table(table, |words| {
            let declared =
                words.windows(3).enumerate().filter(|(_, three)| three[0].is("CONSTRAINT") && three[2].is_any(kind));
            let over = |place: usize| -> Vec<String> {
                let list = words[place..].iter().skip_while(|word| !word.mark("(")).take_while(|word| !word.mark(")"));
                list.filter_map(Token::identifier).collect()
            };
            declared.into_iter().find(|(place, _)| over(*place) == columns).and_then(|(_, three)| three[1].identifier())
        });
        let indexes = "SELECT i.name FROM pragma_index_list(?1) i WHERE i.origin = 'c' AND i.\"unique\" AND ?2 = \
                       (SELECT group_concat(lower(c.name), ',' ORDER BY c.seqno) FROM pragma_index_info(i.name) c)";
        let index = || self.database.sqlite.query_row(indexes, [table, &columns.join(",")], |row| row.get(0)).ok();
        let made = if primary { None } else { index() };
        let default = || if primary { format!("{table}_pkey") } else { format!("{table}_{}_key", columns.join("_")) };
        written.flatten().or(made).unwrap_or_else(default)
    }

    fn foreign_key(&self) -> Option<(String, String, bool)> {
        let target = self.target();
        let delete = self.words.iter().any(|word| word.is("DELETE"));
        let insert = self.words.iter().any(|word| word.is("INSERT"));
        let keys = "SELECT t.name, group_concat(k.\"from\", '_' ORDER BY k.seq), lower(t.name) = ?1 FROM sqlite_schema t, \
                    pragma_foreign_key_list(t.name) k WHERE t.type = 'table' AND \
                    ((NOT ?2 AND lower(t.name) = ?1) OR (NOT ?3 AND lower(k.\"table\") = ?1)) GROUP BY t.name, k.id";
        let mut keys = self.database.sqlite.prepare(keys).ok()?;
        let key = |row: &rusqlite::Row<'_>| {
            let (table, columns): (String, String) = (row.get(0)?, row.get(1)?);
            Ok((format!("{table}_{columns}_fkey"), table, row.get(2)?))
        };
        let mut keys = keys.query_map((&target, delete, insert), key).ok()?;
        let only = keys.next()?.ok()?;
        keys.next().is_none().then_some(only)
    }

    fn check(&self, table: &str, expression: &str) -> String {
        let named = self.with_table(table, |words| {
            words.windows(2).any(|two| two[0].is("CONSTRAINT") && two[1].identifier().as_deref() == Some(expression))
        });
        if named == Some(true) {
            return expression.to_owned();
        }
        let columns = tokens(expression).unwrap_or_default().iter().filter_map(Token::identifier).collect::<Vec<_>>();
        let known =
            |name: &&String| self.database.schema().0.get(*name).is_some_and(|tables| tables.contains_key(table));
        let mut columns: Vec<_> = columns.iter().filter(known).collect();
        columns.sort();
        columns.dedup();
        match columns[..] {
            [column] => format!("{table}_{column}_check"),
            _ => format!("{table}_check"),
        }
    }
}
