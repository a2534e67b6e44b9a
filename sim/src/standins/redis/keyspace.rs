//! What Redis remembers: keys, their values and when they expire. An expired key is gone for every client, to the
//! millisecond, whether or not its memory has been given back.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use super::hash::Hash;
use super::stream::Stream;

/// What a command ends in when it is refused: the text of Redis's error, its code first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal(pub String);

impl Refusal {
    /// The type of the value is not the command's.
    pub fn wrong_type() -> Self {
        Refusal("WRONGTYPE Operation against a key holding the wrong kind of value".into())
    }

    /// The options make no sense together.
    pub fn syntax() -> Self {
        Refusal("ERR syntax error".into())
    }

    /// A number was expected.
    pub fn not_an_integer() -> Self {
        Refusal("ERR value is not an integer or out of range".into())
    }

    /// `name` is the command's, in lower case.
    pub fn arity(name: &str) -> Self {
        Refusal(format!("ERR wrong number of arguments for '{name}' command"))
    }
}

/// What a key holds.
#[derive(Clone, Debug)]
pub enum Value {
    /// GET, SET, INCR.
    Text(Bytes),
    /// HSET and the like; never empty.
    Hash(Hash),
    /// XADD and the like; may be empty.
    Stream(Stream),
}

impl Value {
    /// As TYPE says it.
    pub fn type_name(&self) -> &'static str {
        match self {
            Value::Text(_) => "string",
            Value::Hash(_) => "hash",
            Value::Stream(_) => "stream",
        }
    }
}

#[derive(Clone, Debug)]
struct Entry {
    value: Value,
    /// Unix milliseconds; the key is gone after this one.
    expires_at: Option<i64>,
}

/// All keys, as they are at one instant.
#[derive(Clone, Debug, Default)]
pub struct Keyspace {
    entries: BTreeMap<Bytes, Entry>,
    /// The time of the command that runs, since 1970. It stands still while a script runs.
    pub clock: Duration,
    /// Streams that grew since somebody asked, in that order, for readers that wait.
    pub grown: Vec<Bytes>,
}

impl Keyspace {
    /// The time in Unix milliseconds.
    pub fn now(&self) -> i64 {
        i64::try_from(self.clock.as_millis()).unwrap_or(i64::MAX)
    }

    /// The value, unless there is none or it has expired.
    pub fn get(&mut self, key: &[u8]) -> Option<&mut Value> {
        self.expire(key);
        self.entries.get_mut(key).map(|entry| &mut entry.value)
    }

    /// The string in `key`.
    pub fn text(&mut self, key: &[u8]) -> Result<Option<&mut Bytes>, Refusal> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(_) => Err(Refusal::wrong_type()),
        }
    }

    /// The hash in `key`.
    pub fn hash(&mut self, key: &[u8]) -> Result<Option<&mut Hash>, Refusal> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Hash(hash)) => Ok(Some(hash)),
            Some(_) => Err(Refusal::wrong_type()),
        }
    }

    /// The stream in `key`.
    pub fn stream(&mut self, key: &[u8]) -> Result<Option<&mut Stream>, Refusal> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Stream(stream)) => Ok(Some(stream)),
            Some(_) => Err(Refusal::wrong_type()),
        }
    }

    /// Puts a value in place of what was there. `expires_at` is in Unix milliseconds.
    pub fn put(&mut self, key: Bytes, value: Value, expires_at: Option<i64>) {
        self.entries.insert(key, Entry { value, expires_at });
    }

    /// Takes a key away; says whether it was there.
    pub fn remove(&mut self, key: &[u8]) -> bool {
        self.expire(key);
        self.entries.remove(key).is_some()
    }

    /// When a key expires, in Unix milliseconds: `None` if there is no such key, `Some(None)` if it never does.
    pub fn expiry(&mut self, key: &[u8]) -> Option<Option<i64>> {
        self.expire(key);
        self.entries.get(key).map(|entry| entry.expires_at)
    }

    /// Sets when a key expires; does nothing without the key.
    pub fn set_expiry(&mut self, key: &[u8], expires_at: Option<i64>) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.expires_at = expires_at;
        }
    }

    /// All living keys and their types, in order.
    pub fn keys(&mut self) -> impl Iterator<Item = (&Bytes, &'static str)> {
        let now = self.now();
        self.entries.retain(|_, entry| entry.expires_at.is_none_or(|at| now <= at));
        self.entries.iter().map(|(key, entry)| (key, entry.value.type_name()))
    }

    /// Forgets what would expire some day; says what that was.
    pub fn evict(&mut self) -> Vec<Bytes> {
        let lapses = |(_, entry): &(&Bytes, &Entry)| entry.expires_at.is_some();
        let names: Vec<Bytes> = self.entries.iter().filter(lapses).map(|(name, _)| name.clone()).collect();
        names.iter().for_each(|name| _ = self.entries.remove(name));
        names
    }

    /// Forgets everything; says what that was.
    pub fn clear(&mut self) -> Vec<Bytes> {
        std::mem::take(&mut self.entries).into_keys().collect()
    }

    fn expire(&mut self, key: &[u8]) {
        let now = self.now();
        if self.entries.get(key).is_some_and(|entry| entry.expires_at.is_some_and(|at| now > at)) {
            self.entries.remove(key);
        }
    }
}
