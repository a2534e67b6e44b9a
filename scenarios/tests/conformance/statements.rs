//! Every statement of `src` by its name, on a database that the body fills on the way. `statements.txt` is the body: a
//! line is `CONNECTION NAME PARAMETERS…`, where a word in quotes is text, and `begin`, `commit`, `rollback` are themselves.
//! Times are written down as `T`: no two databases have the same.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::pin::pin;

use futures_util::StreamExt;
use lychgate::store::sql;
use tokio::net::TcpStream;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, NoTls, Row, SimpleQueryMessage};

use lychgate_sim::plan::Kind;
use lychgate_sim::standins::Control;
use lychgate_sim::standins::postgres::faults::{LOGIN_ERRORS, LOGIN_REFUSED, TABLE_LOCK, TOO_MANY_CONNECTIONS};

use crate::arms::Place;

const BODY: &str = include_str!("statements.txt");

/// A statement by its name.
fn named(name: &str) -> &'static str {
    let found = sql::ALL.iter().find(|statement| statement.name == name);
    found.unwrap_or_else(|| panic!("`src` has no statement {name}")).text
}

enum Param {
    Int(i64),
    Text(String),
    Bool(bool),
}

/// What stands in a line after its connection.
pub struct Say {
    name: String,
    params: Vec<Param>,
}

impl Say {
    pub fn parse(line: &str) -> Say {
        let mut rest = line.trim();
        let mut words = Vec::new();
        while !rest.is_empty() {
            let (word, after) = match rest.strip_prefix('\'') {
                Some(quoted) => {
                    let (text, after) = quoted.split_once('\'').unwrap_or_else(|| panic!("an open quote: {line}"));
                    (Param::Text(text.to_owned()), after)
                }
                None => {
                    let (word, after) = rest.split_once(' ').unwrap_or((rest, ""));
                    let bare = match word {
                        "true" | "false" => Param::Bool(word == "true"),
                        number if number.parse::<i64>().is_ok() => Param::Int(number.parse().expect("a number")),
                        name => Param::Text(name.to_owned()),
                    };
                    (bare, after)
                }
            };
            words.push(word);
            rest = after.trim_start();
        }
        let mut words = words.into_iter();
        let Some(Param::Text(name)) = words.next() else { panic!("a line without a statement: {line}") };
        Say { name, params: words.collect() }
    }

    /// What comes of it: the tag and the rows, or the SQLSTATE and the message.
    pub async fn to(&self, client: &Client) -> String {
        let plain = match self.name.as_str() {
            "begin" | "commit" | "rollback" => Some(self.name.to_uppercase()),
            "settings" => Some(sql::session_settings(5000, 4000)),
            "migrate" => Some(sql::MIGRATION.to_owned()),
            // Nothing at all: a sign of life is all that is asked for.
            "probe" => Some(String::new()),
            _ => None,
        };
        let answered = match plain {
            Some(text) => client.simple_query(&text).await.map(|messages| completed(&messages)),
            None => self.typed(client).await,
        };
        answered.unwrap_or_else(|error| match error.as_db_error() {
            Some(refusal) => format!(" {} {}", refusal.code().code(), refusal.message()),
            None => format!(" {error}"),
        })
    }

    /// How many rows it touched or returned, and those that it returned.
    async fn typed(&self, client: &Client) -> Result<String, tokio_postgres::Error> {
        let each = |param: &'_ Param| match param {
            Param::Int(_) => Type::INT8,
            Param::Text(_) => Type::TEXT,
            Param::Bool(_) => Type::BOOL,
        };
        let values = self.params.iter().map(|param| match param {
            Param::Int(number) => number as &(dyn ToSql + Sync),
            Param::Text(text) => text,
            Param::Bool(flag) => flag,
        });
        let params: Vec<_> = values.zip(self.params.iter().map(each)).collect();
        let mut rows = pin!(client.query_typed_raw(named(&self.name), params).await?);
        let mut text = String::new();
        while let Some(found) = rows.as_mut().next().await {
            text.push_str(&row(&found?));
        }
        Ok(format!(" {} of them{text}", rows.rows_affected().unwrap_or_default()))
    }
}

fn completed(messages: &[SimpleQueryMessage]) -> String {
    let count = messages.iter().filter(|message| matches!(message, SimpleQueryMessage::CommandComplete(_))).count();
    format!(" done {count}")
}

/// The columns in their order. A number that can only be a time, or the rest of one, is not told.
fn row(row: &Row) -> String {
    let mut text = String::from("\n   ");
    for (at, column) in row.columns().iter().enumerate() {
        let value = match *column.type_() {
            Type::INT8 => row.get::<_, Option<i64>>(at).map(|number| {
                let timed = number > 1_000_000_000_000 || ["counts_for", "silent"].contains(&column.name());
                if timed { "T".to_owned() } else { number.to_string() }
            }),
            Type::BOOL => row.get::<_, Option<bool>>(at).map(|flag| flag.to_string()),
            Type::TEXT => row.get::<_, Option<String>>(at).map(|text| format!("'{text}'")),
            ref other => panic!("`src` reads no column of type {other}"),
        };
        write!(text, " {}={}", column.name(), value.unwrap_or_else(|| "null".into())).expect("a string");
    }
    text
}

/// A connection, with the task that drives it.
pub async fn connect(place: std::net::SocketAddr) -> Client {
    dial(place).await.expect("it lets us in")
}

async fn dial(place: std::net::SocketAddr) -> Result<Client, tokio_postgres::Error> {
    let stream = TcpStream::connect(place).await.expect("it listens");
    let mut config = tokio_postgres::Config::new();
    // Nobody asks for it, but to refuse it.
    config.user("postgres").dbname("postgres").application_name("conformance").password("wrong");
    let (client, connection) = config.connect_raw(stream, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// All of it.
pub async fn body(place: Place) -> String {
    let mut clients: BTreeMap<&str, Client> = BTreeMap::new();
    let mut transcript = String::new();
    for line in BODY.lines().filter(|line| !line.is_empty()) {
        writeln!(transcript, "{line}").expect("a string takes everything");
        if line.starts_with('#') {
            continue;
        }
        let (who, say) = line.split_once(' ').unwrap_or_else(|| panic!("not a line: {line}"));
        if !clients.contains_key(who) {
            clients.insert(who, connect(place.tapped).await);
        }
        let said = Say::parse(say).to(&clients[who]).await;
        writeln!(transcript, "  ={said}").expect("a string takes everything");
    }
    place.make(Control::Begin(Kind::of(&TOO_MANY_CONNECTIONS))).await;
    let refused = dial(place.tapped).await.map(drop).expect_err("nobody new may connect");
    let refused = refused.as_db_error().expect("in its own words");
    let words = (refused.severity(), refused.code().code(), refused.message());
    writeln!(transcript, "when nobody new may connect\n  ={words:?}").expect("a string takes everything");
    place.make(Control::End(Kind::of(&TOO_MANY_CONNECTIONS))).await;
    for code in LOGIN_ERRORS {
        let fault = || Kind::of(&LOGIN_REFUSED).with("code", *code);
        place.make(Control::Begin(fault())).await;
        let refused = dial(place.tapped).await.map(drop).expect_err("nobody is let in");
        let refused = refused.as_db_error().expect("in its own words");
        // Where we come from differs between the runtimes.
        let message = refused.message().replace(&place.tapped.ip().to_string(), "HERE");
        let words = (refused.severity(), refused.code().code(), message);
        writeln!(transcript, "when logins are refused with {code}\n  ={words:?}").expect("a string takes everything");
        place.make(Control::End(fault())).await;
    }
    let client = connect(place.tapped).await;
    client.batch_execute("SET lock_timeout = '300ms'").await.expect("it may be set");
    let seen = async || {
        client
            .execute_typed(sql::SWEEP_SEEN.text, &[(&3_600_000_000_i64, Type::INT8), (&330_000_000_i64, Type::INT8)])
            .await
    };
    place.make(Control::Begin(Kind::of(&TABLE_LOCK))).await;
    let refused = seen().await.expect_err("somebody has the table to himself");
    let refused = refused.as_db_error().expect("in its own words");
    let words = (refused.severity(), refused.code().code(), refused.message());
    writeln!(transcript, "when somebody has the table to himself\n  ={words:?}").expect("a string takes everything");
    place.make(Control::End(Kind::of(&TABLE_LOCK))).await;
    // A real server lets go when it hears that the holder has hung up.
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    let seen = seen().await.is_ok();
    writeln!(transcript, "and when he has let go\n  ={seen}").expect("a string takes everything");
    drop((client, clients));
    // Until they have taken their leave.
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    transcript
}

#[test]
fn the_stand_in_says_what_postgres_said() {
    crate::kept("statements", &crate::arms::stand_in(crate::arms::Service::Postgres, body).0);
}

#[cfg(not(madsim))]
#[test]
#[ignore = "needs postgres; `cargo sim conformance` runs it"]
fn postgres_still_says_it() {
    let server = lychgate_sim::real::servers::postgres::start();
    crate::kept(
        "statements",
        &crate::arms::real(crate::arms::Service::Postgres, server.addr, crate::levers::postgres(&server), body).0,
    );
}
