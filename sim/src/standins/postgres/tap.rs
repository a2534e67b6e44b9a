//! Postgres's wire: statements with their names, parameters and rows, shown when they are committed.
//!
//! A statement counts when the server has said that it is done and stands outside of a transaction; those of a
//! transaction are shown together, in order, when the server has said that it is committed.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

use super::observation::{Statement, Value};
use crate::standins::observation::Observation;
use crate::standins::wire::{Heard, Wire};

/// Type and length.
const HEAD: usize = 5;
/// The version in a start-up message that has parameters.
const VERSION_3: i32 = 196_608;
/// BYTEA, INT8, INT4 and BOOL. What is none of them is read as text.
const BOOL: i32 = 16;
const BYTEA: i32 = 17;
const INT8: i32 = 20;
const INT2: i32 = 21;
const INT4: i32 = 23;

/// A connection.
pub(crate) struct Postgres {
    peer: SocketAddr,
    application: String,
    started: bool,
    up: Vec<u8>,
    down: Vec<u8>,
    /// By name.
    prepared: BTreeMap<String, Prepared>,
    /// By name.
    portals: BTreeMap<String, Portal>,
    /// What the server is still to answer, in order.
    asked: VecDeque<Asked>,
    /// What has been done in the transaction that is open.
    done: Vec<Statement>,
    /// The last command tag began so: the end of a transaction says which it was.
    rolled_back: bool,
}

#[derive(Clone, Default)]
struct Prepared {
    name: String,
    kinds: Vec<i32>,
    columns: Vec<(String, i32)>,
}

#[derive(Clone)]
struct Portal {
    statement: String,
    params: Vec<Option<Vec<u8>>>,
    formats: Vec<i16>,
    results: Vec<i16>,
}

enum Asked {
    /// Describe a statement, or a portal of it.
    Describe(String),
    Execute(Portal, Vec<BTreeMap<String, Value>>),
    /// A simple query: its name, and the columns of what it returns now.
    Query(String, Vec<(String, i32)>, Vec<BTreeMap<String, Value>>),
    Sync,
}

impl Postgres {
    pub(crate) fn new(peer: SocketAddr) -> Postgres {
        Postgres {
            peer,
            application: String::new(),
            started: false,
            up: Vec::new(),
            down: Vec::new(),
            prepared: BTreeMap::new(),
            portals: BTreeMap::new(),
            asked: VecDeque::new(),
            done: Vec::new(),
            rolled_back: false,
        }
    }

    fn start(&mut self, body: &[u8]) -> Result<(), String> {
        let mut body = Body(body);
        if body.int()? != VERSION_3 {
            return Err("only plain start-up messages of version 3 are understood: no TLS".into());
        }
        while body.0.first().is_some_and(|byte| *byte != 0) {
            let (name, value) = (body.text()?, body.text()?);
            if name == "application_name" {
                self.application = value;
            }
        }
        self.started = true;
        Ok(())
    }

    fn request(&mut self, kind: u8, body: &[u8]) -> Result<(), String> {
        let mut body = Body(body);
        match kind {
            b'P' => {
                let (statement, sql) = (body.text()?, body.text()?);
                let count = body.short()?;
                let kinds = (0..count).map(|_| body.int()).collect::<Result<_, _>>()?;
                self.prepared.insert(statement, Prepared { name: name(&sql), kinds, columns: Vec::new() });
            }
            b'B' => {
                let (portal, statement) = (body.text()?, body.text()?);
                let formats = body.shorts()?;
                let count = body.short()?;
                let params = (0..count).map(|_| body.value()).collect::<Result<_, _>>()?;
                let results = body.shorts()?;
                self.portals.insert(portal, Portal { statement, params, formats, results });
            }
            b'D' => {
                let what = body.byte()?;
                let name = body.text()?;
                let statement = match what {
                    b'S' => name,
                    _ => self.portals.get(&name).map(|portal| portal.statement.clone()).unwrap_or_default(),
                };
                self.asked.push_back(Asked::Describe(statement));
            }
            b'E' => {
                let portal = body.text()?;
                let portal = self.portals.get(&portal).ok_or("a portal is executed that was never bound")?;
                self.asked.push_back(Asked::Execute(portal.clone(), Vec::new()));
            }
            b'Q' => self.asked.push_back(Asked::Query(name(&body.text()?), Vec::new(), Vec::new())),
            b'S' => self.asked.push_back(Asked::Sync),
            // Close, Flush, Terminate, a password.
            b'C' | b'H' | b'X' | b'p' => {}
            other => return Err(format!("a client sent a message of type {:?}", char::from(other))),
        }
        Ok(())
    }

    fn answer(&mut self, kind: u8, body: &[u8]) -> Heard {
        let mut body = Body(body);
        match (kind, self.asked.front_mut()) {
            (b't', Some(Asked::Describe(statement))) => {
                let count = body.short()?;
                let kinds = (0..count).map(|_| body.int()).collect::<Result<_, _>>()?;
                self.prepared.entry(statement.clone()).or_default().kinds = kinds;
            }
            (b'T', Some(Asked::Describe(statement))) => {
                self.prepared.entry(statement.clone()).or_default().columns = columns(&mut body)?;
                self.asked.pop_front();
            }
            (b'n', Some(Asked::Describe(_))) => drop(self.asked.pop_front()),
            (b'T', Some(Asked::Query(_, now, _))) => *now = columns(&mut body)?,
            (b'D', Some(Asked::Execute(portal, rows))) => {
                let columns = self.prepared.get(&portal.statement).map(|statement| &statement.columns);
                rows.push(row(&mut body, columns.ok_or("rows come before their columns")?, &portal.results)?);
            }
            (b'D', Some(Asked::Query(_, columns, rows))) => rows.push(row(&mut body, columns, &[])?),
            // Done; nothing to do; not all of it.
            (b'C' | b'I' | b's', Some(Asked::Execute(..))) => {
                let tag = if kind == b'C' { body.text()? } else { String::new() };
                let Some(Asked::Execute(portal, rows)) = self.asked.pop_front() else { return Ok(Vec::new()) };
                let prepared = self.prepared.get(&portal.statement).cloned().unwrap_or_default();
                let params = params(&portal, &prepared)?;
                self.did(prepared.name, params, rows, &tag);
            }
            (b'C' | b'I', Some(Asked::Query(name, _, rows))) => {
                let tag = if kind == b'C' { body.text()? } else { String::new() };
                let (name, rows) = (name.clone(), std::mem::take(rows));
                self.did(name, Vec::new(), rows, &tag);
            }
            // An error: the rest up to the next synchronisation is not answered.
            (b'E', _) => {
                while matches!(self.asked.front(), Some(Asked::Describe(_) | Asked::Execute(..))) {
                    self.asked.pop_front();
                }
            }
            (b'Z', front) => {
                if matches!(front, Some(Asked::Sync | Asked::Query(..))) {
                    self.asked.pop_front();
                }
                return Ok(self.ready(body.byte()?));
            }
            // Authentication, its key, parameters, notices, and what says that it was parsed, bound or closed.
            (b'R' | b'K' | b'S' | b'N' | b'A' | b'1' | b'2' | b'3', _) => {}
            (other, _) => return Err(format!("the server sent {:?}, which nobody asked for", char::from(other))),
        }
        Ok(Vec::new())
    }

    fn did(&mut self, name: String, params: Vec<Value>, rows: Vec<BTreeMap<String, Value>>, tag: &str) {
        self.rolled_back = tag.starts_with("ROLLBACK");
        let affected = tag.rsplit(' ').next().and_then(|count| count.parse().ok()).unwrap_or_default();
        let (peer, application) = (self.peer, self.application.clone());
        self.done.push(Statement { peer, application, name, params, rows, affected });
    }

    fn ready(&mut self, status: u8) -> Vec<Observation> {
        match status {
            b'I' if std::mem::take(&mut self.rolled_back) => {
                self.done.clear();
                Vec::new()
            }
            b'I' => std::mem::take(&mut self.done).into_iter().map(Observation::from).collect(),
            _ => Vec::new(),
        }
    }
}

impl Wire for Postgres {
    fn up(&mut self, bytes: &[u8]) -> Heard {
        self.up.extend_from_slice(bytes);
        while let Some((kind, body)) = take(&mut self.up, self.started) {
            match self.started {
                false => self.start(&body)?,
                true => self.request(kind, &body)?,
            }
        }
        Ok(Vec::new())
    }

    fn down(&mut self, bytes: &[u8]) -> Heard {
        self.down.extend_from_slice(bytes);
        let mut heard = Vec::new();
        while let Some((kind, body)) = take(&mut self.down, true) {
            heard.extend(self.answer(kind, &body)?);
        }
        Ok(heard)
    }

    /// What it had not committed is rolled back.
    fn over(&mut self) -> Heard {
        Ok(Vec::new())
    }
}

/// Takes the first message out of `bytes`, if it is there whole: its type, 0 if it has none, and its body.
fn take(bytes: &mut Vec<u8>, typed: bool) -> Option<(u8, Vec<u8>)> {
    let at = usize::from(typed);
    let length: [u8; 4] = bytes.get(at..HEAD - 1 + at)?.try_into().ok()?;
    let whole = at + usize::try_from(u32::from_be_bytes(length)).ok()?;
    if bytes.len() < whole.max(at + 4) {
        return None;
    }
    let kind = if typed { bytes[0] } else { 0 };
    let body = bytes[at + 4..whole.max(at + 4)].to_vec();
    bytes.drain(..whole.max(at + 4));
    Some((kind, body))
}

/// The name in a statement's leading comment.
fn name(sql: &str) -> String {
    let named = sql.trim_start().strip_prefix("/*").and_then(|rest| rest.split_once("*/"));
    named.map(|(name, _)| name.trim().to_owned()).unwrap_or_default()
}

fn columns(body: &mut Body<'_>) -> Result<Vec<(String, i32)>, String> {
    let count = body.short()?;
    let column = |_| {
        let name = body.text()?;
        body.skip(6)?; // the table, the column in it
        let kind = body.int()?;
        body.skip(8)?; // its size, its modifier, its format
        Ok((name, kind))
    };
    (0..count).map(column).collect()
}

fn row(body: &mut Body<'_>, columns: &[(String, i32)], formats: &[i16]) -> Result<BTreeMap<String, Value>, String> {
    let count = usize::try_from(body.short()?).map_err(|_| "a row with a negative count of columns")?;
    if count != columns.len() {
        return Err(format!("a row has {count} values, its description {} columns", columns.len()));
    }
    let one = |(place, (name, kind)): (usize, &(String, i32))| {
        Ok((name.clone(), value(body.value()?, *kind, binary(formats, place))?))
    };
    columns.iter().enumerate().map(one).collect()
}

fn params(portal: &Portal, prepared: &Prepared) -> Result<Vec<Value>, String> {
    let one = |(place, bytes): (usize, &Option<Vec<u8>>)| {
        let kind = prepared.kinds.get(place).copied().unwrap_or_default();
        value(bytes.clone(), kind, binary(&portal.formats, place))
    };
    portal.params.iter().enumerate().map(one).collect()
}

fn binary(formats: &[i16], place: usize) -> bool {
    match formats {
        [] => false,
        [all] => *all == 1,
        each => each.get(place) == Some(&1),
    }
}

fn value(bytes: Option<Vec<u8>>, kind: i32, binary: bool) -> Result<Value, String> {
    let Some(bytes) = bytes else { return Ok(Value::Null) };
    if binary {
        let odd = || format!("a value of type {kind} has {} bytes", bytes.len());
        return match kind {
            BOOL => Ok(Value::Bool(*bytes.first().ok_or_else(odd)? != 0)),
            INT8 => Ok(Value::Int(i64::from_be_bytes(bytes.as_slice().try_into().map_err(|_| odd())?))),
            INT4 => Ok(Value::Int(i32::from_be_bytes(bytes.as_slice().try_into().map_err(|_| odd())?).into())),
            INT2 => Ok(Value::Int(i16::from_be_bytes(bytes.as_slice().try_into().map_err(|_| odd())?).into())),
            BYTEA => Ok(Value::Bytes(bytes)),
            _ => Ok(String::from_utf8(bytes).map_or_else(|error| Value::Bytes(error.into_bytes()), Value::Text)),
        };
    }
    let text = String::from_utf8(bytes).map_err(|_| "a value in text format is not UTF-8")?;
    Ok(match kind {
        BOOL => Value::Bool(text == "t"),
        INT8 | INT4 | INT2 => Value::Int(text.parse().map_err(|_| format!("`{text}` is no number"))?),
        _ => Value::Text(text),
    })
}

/// What is left of a message.
struct Body<'a>(&'a [u8]);

impl Body<'_> {
    fn skip(&mut self, count: usize) -> Result<&[u8], String> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or("a message ends too early")?;
        self.0 = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, String> {
        self.skip(1).map(|bytes| bytes[0])
    }

    fn short(&mut self) -> Result<i16, String> {
        self.skip(2).map(|bytes| i16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn shorts(&mut self) -> Result<Vec<i16>, String> {
        let count = self.short()?;
        (0..count).map(|_| self.short()).collect()
    }

    fn int(&mut self) -> Result<i32, String> {
        self.skip(4).map(|bytes| i32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    fn text(&mut self) -> Result<String, String> {
        let end = self.0.iter().position(|byte| *byte == 0).ok_or("a text without an end")?;
        let text = String::from_utf8_lossy(&self.0[..end]).into_owned();
        self.0 = &self.0[end + 1..];
        Ok(text)
    }

    fn value(&mut self) -> Result<Option<Vec<u8>>, String> {
        match usize::try_from(self.int()?) {
            Err(_) => Ok(None),
            Ok(length) => self.skip(length).map(|bytes| Some(bytes.to_vec())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
        [&[kind], length.as_slice(), body].concat()
    }

    /// A connection whose client has sent these simple queries.
    fn asked(queries: &[&str]) -> Postgres {
        let mut postgres = Postgres::new(SocketAddr::from(([0, 0, 0, 1], 1)));
        let start = message(0, &[&VERSION_3.to_be_bytes(), b"application_name\0me\0\0".as_slice()].concat());
        let queries = queries.iter().flat_map(|query| message(b'Q', &[query.as_bytes(), b"\0"].concat()));
        for byte in start[1..].iter().copied().chain(queries) {
            postgres.up(&[byte]).unwrap();
        }
        postgres
    }

    fn told(postgres: &mut Postgres, answers: &[(u8, &[u8])]) -> Vec<String> {
        let bytes = answers.iter().flat_map(|(kind, body)| message(*kind, body));
        let heard = bytes.flat_map(|byte| postgres.down(&[byte]).unwrap());
        let name = |observation: Observation| {
            let Statement { name, affected, application, .. } = observation.take().expect("a statement");
            format!("{application}: {name} {affected}")
        };
        heard.map(name).collect()
    }

    #[test]
    fn a_statement_counts_once_it_is_committed() {
        let queries = ["BEGIN", "/* run.end */ UPDATE runs", "COMMIT"];
        let open: &[(u8, &[u8])] = &[(b'C', b"BEGIN\0"), (b'Z', b"T"), (b'C', b"UPDATE 2\0"), (b'Z', b"T")];
        let mut postgres = asked(&queries);
        assert!(told(&mut postgres, open).is_empty());
        assert_eq!(told(&mut postgres, &[(b'C', b"COMMIT\0"), (b'Z', b"I")]), ["me:  0", "me: run.end 2", "me:  0"]);
        let mut postgres = asked(&queries);
        assert!(told(&mut postgres, open).is_empty());
        // What the server answers to COMMIT if the transaction had failed.
        assert!(told(&mut postgres, &[(b'C', b"ROLLBACK\0"), (b'Z', b"I")]).is_empty());
        assert!(postgres.done.is_empty());
    }

    #[test]
    fn an_error_leaves_nothing_behind() {
        let mut postgres = asked(&["/* run.claim */ UPDATE runs"]);
        assert!(told(&mut postgres, &[(b'E', b"\0"), (b'Z', b"I")]).is_empty());
        assert!(postgres.asked.is_empty());
        assert!(postgres.down(&message(b'D', &[0, 0])).is_err(), "nobody asked");
    }
}
