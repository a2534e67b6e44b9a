//! Lua scripts as Redis 7 runs them: one at a time, on a clock that stands still, with Redis's conversions both ways.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use mlua::chunk::ChunkMode;
use mlua::{Function, Lua, LuaOptions, LuaString, MultiValue, StdLib, Table, Value};

use super::commands::{self, NOT_IN_SCRIPTS, Store};
use super::keyspace::Refusal;
use super::resp::Reply;
use super::strings::Answer;
use super::words::{integer, is};

/// The name that scripts carry in Redis's error texts.
const CHUNK: &str = "@user_script";

const PRELUDE: &str = include_str!("prelude.lua");

/// The interpreter and what it was given. Like Redis, it forgets its scripts when it restarts.
#[derive(Default)]
pub struct Scripts {
    machine: Option<Machine>,
    loaded: BTreeMap<String, Loaded>,
}

struct Loaded {
    body: Bytes,
    function: Function,
}

struct Machine {
    lua: Lua,
    environment: Table,
    run: Function,
}

/// An error that `redis.call` raises; its text begins with its code.
#[derive(Debug)]
struct Raised(Vec<u8>);

impl fmt::Display for Raised {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl std::error::Error for Raised {}

impl Scripts {
    /// EVAL body numkeys [key …] [arg …]
    ///
    /// # Errors
    /// Redis's refusal, before the script runs.
    pub fn eval(&mut self, store: &mut Store, words: &[Bytes]) -> Answer {
        let keys = key_count(words)?;
        let hash = self.load(&words[1])?;
        Ok(self.call(store, &hash, &words[3..], keys))
    }

    /// EVALSHA hash numkeys [key …] [arg …]
    ///
    /// # Errors
    /// NOSCRIPT, among others.
    pub fn evalsha(&mut self, store: &mut Store, words: &[Bytes]) -> Answer {
        let keys = key_count(words)?;
        let hash = String::from_utf8_lossy(&words[1]).to_ascii_lowercase();
        if !self.loaded.contains_key(&hash) {
            return Err(Refusal("NOSCRIPT No matching script. Please use EVAL.".into()));
        }
        Ok(self.call(store, &hash, &words[3..], keys))
    }

    /// SCRIPT LOAD body, SCRIPT EXISTS hash [hash …]
    ///
    /// # Errors
    /// A body that does not compile.
    ///
    /// # Panics
    /// Another subcommand.
    pub fn script(&mut self, words: &[Bytes]) -> Answer {
        match &words[1..] {
            [name, body] if is(name, "LOAD") => Ok(Reply::bulk(self.load(body)?)),
            [name, hashes @ ..] if is(name, "EXISTS") && !hashes.is_empty() => {
                let known = |hash: &Bytes| self.body(hash).is_some();
                Ok(Reply::Array(hashes.iter().map(|hash| Reply::Int(known(hash).into())).collect()))
            }
            [name, ..] if is(name, "LOAD") => Err(Refusal::arity("script|load")),
            [name, ..] if is(name, "EXISTS") => Err(Refusal::arity("script|exists")),
            other => panic!("the Redis stand-in does not know SCRIPT {other:?}"),
        }
    }

    /// The script with this hash.
    pub fn body(&self, hash: &[u8]) -> Option<&Bytes> {
        let hash = String::from_utf8_lossy(hash).to_ascii_lowercase();
        self.loaded.get(&hash).map(|loaded| &loaded.body)
    }

    fn load(&mut self, body: &Bytes) -> Result<String, Refusal> {
        assert!(!body.starts_with(b"#!"), "the Redis stand-in does not know scripts with a #! line");
        let hash = sha1_smol::Sha1::from(body).digest().to_string();
        if !self.loaded.contains_key(&hash) {
            let machine = self.machine.get_or_insert_with(Machine::new);
            let chunk = machine.lua.load(&body[..]).set_name(CHUNK).set_mode(ChunkMode::Text);
            let function = chunk.set_environment(machine.environment.clone()).into_function().map_err(|error| {
                let message = match error {
                    mlua::Error::SyntaxError { message, .. } => message,
                    other => other.to_string(),
                };
                Refusal(format!("ERR Error compiling script (new function): {message}"))
            })?;
            self.loaded.insert(hash.clone(), Loaded { body: body.clone(), function });
        }
        Ok(hash)
    }

    fn call(&mut self, store: &mut Store, hash: &str, words: &[Bytes], keys: usize) -> Reply {
        let machine = self.machine.as_ref().expect("a loaded script has a machine");
        let function = &self.loaded[hash].function;
        machine.lua.set_app_data(std::mem::take(store));
        let outcome = machine.call(function, &words[..keys], &words[keys..]);
        *store = machine.lua.remove_app_data().expect("scripts leave the store where it is");
        match outcome.unwrap_or_else(|error| panic!("the Redis stand-in's Lua failed: {error}")) {
            Outcome::Returned(reply) => reply,
            Outcome::Failed { error, line } => {
                let place = line.map(|line| format!(" script: {hash}, on {CHUNK}:{line}.")).unwrap_or_default();
                Reply::Error([&error[..], place.as_bytes()].concat().into())
            }
        }
    }
}

fn key_count(words: &[Bytes]) -> Result<usize, Refusal> {
    let count = integer(&words[2])?;
    let count = usize::try_from(count).map_err(|_| Refusal("ERR Number of keys can't be negative".into()))?;
    if count > words.len() - 3 {
        return Err(Refusal("ERR Number of keys can't be greater than number of args".into()));
    }
    Ok(count)
}

enum Outcome {
    Returned(Reply),
    Failed { error: Vec<u8>, line: Option<usize> },
}

impl Machine {
    fn new() -> Self {
        Machine::build().unwrap_or_else(|error| panic!("the Redis stand-in's Lua did not start: {error}"))
    }

    fn build() -> mlua::Result<Self> {
        // A panic in a callback is a cry that something is unsupported: no script may catch it.
        let options = LuaOptions::new().catch_rust_panics(false);
        let lua = Lua::new_with(StdLib::STRING | StdLib::TABLE | StdLib::MATH, options)?;
        let format = lua.load("local n = ... return string.format('%.17g', n)").into_function()?;
        let native = lua.create_table()?;
        let raising = format.clone();
        native.set("call", lua.create_function(move |lua, words| call(lua, &raising, words, true))?)?;
        native.set("pcall", lua.create_function(move |lua, words| call(lua, &format, words, false))?)?;
        native.set("error_reply", lua.create_function(|lua, words| single_field(lua, "err", words))?)?;
        native.set("status_reply", lua.create_function(|lua, words| single_field(lua, "ok", words))?)?;
        native.set(
            "sha1hex",
            lua.create_function(|_, text: LuaString| Ok(sha1_smol::Sha1::from(text.as_bytes()).digest().to_string()))?,
        )?;
        let absent = lua.create_function(|_, what: String| -> mlua::Result<()> {
            panic!("the Redis stand-in's scripts do not have {what}")
        })?;
        let plain = lua.create_function(plain)?;
        let handle = lua.create_function(handle)?;
        let prelude = lua.load(PRELUDE).set_name("=prelude");
        let (environment, run) = prelude.call((native, absent, plain, handle))?;
        Ok(Machine { lua, environment, run })
    }

    fn call(&self, function: &Function, keys: &[Bytes], arguments: &[Bytes]) -> mlua::Result<Outcome> {
        let list = |words: &[Bytes]| -> mlua::Result<Table> {
            let strings = words.iter().map(|word| self.lua.create_string(word));
            self.lua.create_sequence_from(strings.collect::<mlua::Result<Vec<_>>>()?)
        };
        let (ok, value): (bool, Value) = self.run.call((function, list(keys)?, list(arguments)?))?;
        if ok {
            return Ok(Outcome::Returned(reply_of(&value)?));
        }
        let Value::Table(failure) = value else { panic!("scripts fail with what `handle` made of it") };
        let error: LuaString = failure.raw_get("err")?;
        Ok(Outcome::Failed { error: error.as_bytes().to_vec(), line: failure.raw_get("line")? })
    }
}

/// `redis.call` raises errors, `redis.pcall` returns them.
fn call(lua: &Lua, format: &Function, words: MultiValue, raise: bool) -> mlua::Result<Value> {
    let answer = words_of(format, &words)?.and_then(|words| run(lua, &words));
    match answer {
        Ok(Reply::Error(text)) if raise => Err(mlua::Error::external(Raised(text.to_vec()))),
        Err(Refusal(text)) if raise => Err(mlua::Error::external(Raised(text.into_bytes()))),
        Ok(reply) => value_of(lua, &reply),
        Err(Refusal(text)) => value_of(lua, &Reply::error(text)),
    }
}

fn words_of(format: &Function, values: &MultiValue) -> mlua::Result<Result<Vec<Bytes>, Refusal>> {
    if values.is_empty() {
        return Ok(Err(Refusal("ERR Please specify at least one argument for this redis lib call".into())));
    }
    let mut words = Vec::new();
    for value in values {
        words.push(match value {
            Value::String(text) => Bytes::copy_from_slice(&text.as_bytes()),
            Value::Integer(number) if number.unsigned_abs() < 1 << 53 => number.to_string().into(),
            Value::Integer(_) | Value::Number(_) => {
                let text: LuaString = format.call(value)?;
                Bytes::copy_from_slice(&text.as_bytes())
            }
            _ => {
                let text = "ERR Lua redis lib command arguments must be strings or integers";
                return Ok(Err(Refusal(text.into())));
            }
        });
    }
    Ok(Ok(words))
}

fn run(lua: &Lua, words: &[Bytes]) -> Answer {
    let wrong = |_| Refusal("ERR Wrong number of args calling Redis command from script".into());
    let name = commands::recognise(words).map_err(wrong)?;
    if NOT_IN_SCRIPTS.contains(&name.as_str()) {
        return Err(Refusal("ERR This Redis command is not allowed from script".into()));
    }
    let mut store = lua.app_data_mut::<Store>().expect("a script runs on a store");
    commands::run(&mut store, &name, words)
}

/// `redis.error_reply` and `redis.status_reply`.
fn single_field(lua: &Lua, field: &str, words: MultiValue) -> mlua::Result<Table> {
    let table = lua.create_table()?;
    match words.iter().collect::<Vec<_>>()[..] {
        [Value::String(text)] if field == "err" => {
            table.set("err", lua.create_string(error_text(&text.as_bytes()))?)?
        }
        [Value::String(text)] => table.set(field, text)?,
        _ => table.set("err", "ERR wrong number or type of arguments")?,
    }
    Ok(table)
}

/// A leading dash is dropped, and what is not `CODE text` becomes `ERR text`.
fn error_text(text: &[u8]) -> Vec<u8> {
    let text = text.strip_prefix(b"-").unwrap_or(text);
    if text.contains(&b' ') { text.to_vec() } else { [b"ERR ", text].concat() }
}

/// What a script's own `pcall` gives for an error: its text.
fn plain(lua: &Lua, error: Value) -> mlua::Result<Value> {
    match &error {
        Value::Error(_) => Ok(Value::String(lua.create_string(raised_text(&error)?)?)),
        Value::Table(table) => match table.raw_get("err")? {
            Value::String(text) => Ok(Value::String(text)),
            _ => Ok(error),
        },
        _ => Ok(error),
    }
}

/// Turns what a script died of into `{err=…, line=…}`.
fn handle(lua: &Lua, error: Value) -> mlua::Result<Table> {
    let failure = lua.create_table()?;
    failure.raw_set("err", lua.create_string(raised_text(&error)?)?)?;
    for level in 1.. {
        let line = lua.inspect_stack(level, |frame| {
            (frame.source().source.as_deref() == Some(CHUNK)).then(|| frame.current_line())
        });
        match line {
            None => break,
            Some(None) => {}
            Some(Some(line)) => {
                failure.raw_set("line", line)?;
                break;
            }
        }
    }
    Ok(failure)
}

fn raised_text(error: &Value) -> mlua::Result<Vec<u8>> {
    Ok(match error {
        Value::Error(error) => match error.downcast_ref::<Raised>() {
            Some(Raised(text)) => text.clone(),
            None => panic!("the Redis stand-in's Lua failed: {error}"),
        },
        Value::Table(table) => match table.raw_get("err")? {
            Value::String(text) => text.as_bytes().to_vec(),
            _ => panic!("a script raised a table without `err`; Redis 7.0 crashes of it"),
        },
        Value::String(text) => [b"ERR ", &text.as_bytes()[..]].concat(),
        Value::Nil => b"ERR nil".to_vec(),
        other => format!("ERR {}", other.to_string()?).into_bytes(),
    })
}

/// Redis to Lua.
fn value_of(lua: &Lua, reply: &Reply) -> mlua::Result<Value> {
    let field = |name: &str, text: &[u8]| -> mlua::Result<Value> {
        let table = lua.create_table()?;
        table.raw_set(name, lua.create_string(text)?)?;
        Ok(Value::Table(table))
    };
    match reply {
        Reply::Status(text) => field("ok", text),
        Reply::Error(text) => field("err", text),
        // All numbers of Lua 5.1 are floats.
        Reply::Int(number) => Ok(Value::Number(*number as f64)),
        Reply::Bulk(text) => Ok(Value::String(lua.create_string(text)?)),
        Reply::Nil | Reply::NilArray => Ok(Value::Boolean(false)),
        Reply::Array(items) => {
            let table = lua.create_table_with_capacity(items.len(), 0)?;
            for item in items {
                table.raw_push(value_of(lua, item)?)?;
            }
            Ok(Value::Table(table))
        }
        Reply::Several(_) => unreachable!("scripts do not subscribe"),
    }
}

/// Lua to Redis: a table is an error, a status, or an array up to its first nil.
fn reply_of(value: &Value) -> mlua::Result<Reply> {
    Ok(match value {
        Value::Boolean(true) => Reply::Int(1),
        Value::Integer(number) => Reply::Int(*number),
        Value::Number(number) => Reply::Int(truncated(*number)),
        Value::String(text) => Reply::Bulk(Bytes::copy_from_slice(&text.as_bytes())),
        Value::Table(table) => {
            for name in ["map", "set", "double", "big_number", "verbatim_string"] {
                let absent = table.raw_get::<Value>(name)?.is_nil();
                assert!(absent, "the Redis stand-in's scripts do not return RESP3's {name}");
            }
            if let Value::String(text) = table.raw_get("err")? {
                return Ok(Reply::Error(Bytes::copy_from_slice(&text.as_bytes())));
            }
            if let Value::String(text) = table.raw_get("ok")? {
                return Ok(Reply::Status(Bytes::copy_from_slice(&text.as_bytes())));
            }
            let mut items = Vec::new();
            for index in 1.. {
                match table.raw_get(index)? {
                    Value::Nil => break,
                    item => items.push(reply_of(&item)?),
                }
            }
            Reply::Array(items)
        }
        _ => Reply::Nil,
    })
}

/// As C casts a double to a long on x86-64: what does not fit is the smallest.
fn truncated(number: f64) -> i64 {
    if number.abs() < 9_223_372_036_854_775_808.0 { number as i64 } else { i64::MIN }
}
