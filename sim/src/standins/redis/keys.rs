//! Commands about keys of any type. SCAN walks them in the order of a hash of their names, so that one that stays is
//! seen whatever comes and goes meanwhile, and nobody can rely on the order.

use bytes::Bytes;

use super::keyspace::{Keyspace, Refusal};
use super::resp::Reply;
use super::strings::Answer;
use super::words::{glob, integer, is, name_of, value_after};

/// DEL key [key …]
pub fn del(keys: &mut Keyspace, words: &[Bytes]) -> Answer {
    Ok(Reply::count(words[1..].iter().filter(|key| keys.remove(key)).count()))
}

/// EXISTS key [key …]; a key named twice counts twice.
pub fn exists(keys: &mut Keyspace, words: &[Bytes]) -> Answer {
    Ok(Reply::count(words[1..].iter().filter(|key| keys.get(key).is_some()).count()))
}

/// TYPE key
pub fn type_of(keys: &mut Keyspace, words: &[Bytes]) -> Answer {
    let name = keys.get(&words[1]).map_or("none", |value| value.type_name());
    Ok(Reply::Status(Bytes::from_static(name.as_bytes())))
}

/// EXPIRE and PEXPIRE key time [NX|XX|GT|LT]
pub fn expire(keys: &mut Keyspace, words: &[Bytes]) -> Answer {
    let name = name_of(&words[0]);
    let condition = ExpireIf::parse(&words[3..])?;
    let number = integer(&words[2])?;
    let invalid = || Refusal(format!("ERR invalid expire time in '{name}' command"));
    let scale = if name == "expire" { 1000 } else { 1 };
    let at = number.checked_mul(scale).and_then(|ms| ms.checked_add(keys.now())).ok_or_else(invalid)?;
    let Some(current) = keys.expiry(&words[1]) else { return Ok(Reply::Int(0)) };
    if !condition.allows(current, at) {
        return Ok(Reply::Int(0));
    }
    if at <= keys.now() {
        keys.remove(&words[1]);
    } else {
        keys.set_expiry(&words[1], Some(at));
    }
    Ok(Reply::Int(1))
}

#[derive(Default)]
struct ExpireIf {
    none: bool,
    some: bool,
    later: bool,
    earlier: bool,
}

impl ExpireIf {
    fn parse(words: &[Bytes]) -> Result<Self, Refusal> {
        let mut condition = ExpireIf::default();
        for word in words {
            match word.to_ascii_uppercase().as_slice() {
                b"NX" => condition.none = true,
                b"XX" => condition.some = true,
                b"GT" => condition.later = true,
                b"LT" => condition.earlier = true,
                _ => return Err(Refusal(format!("ERR Unsupported option {}", String::from_utf8_lossy(word)))),
            }
        }
        if condition.none && (condition.some || condition.later || condition.earlier) {
            return Err(Refusal("ERR NX and XX, GT or LT options at the same time are not compatible".into()));
        }
        if condition.later && condition.earlier {
            return Err(Refusal("ERR GT and LT options at the same time are not compatible".into()));
        }
        Ok(condition)
    }

    /// A key without expiry expires later than any.
    fn allows(&self, current: Option<i64>, at: i64) -> bool {
        !(self.none && current.is_some()
            || self.some && current.is_none()
            || self.later && current.is_none_or(|current| at <= current)
            || self.earlier && current.is_some_and(|current| at >= current))
    }
}

/// PERSIST key
pub fn persist(keys: &mut Keyspace, words: &[Bytes]) -> Answer {
    let timed = keys.expiry(&words[1]).flatten().is_some();
    keys.set_expiry(&words[1], None);
    Ok(Reply::Int(timed.into()))
}

/// TTL key: seconds, rounded.
pub fn ttl(keys: &mut Keyspace, words: &[Bytes]) -> Answer {
    Ok(Reply::Int(match remaining(keys, &words[1]) {
        ms if ms < 0 => ms,
        ms => (ms + 500) / 1000,
    }))
}

/// PTTL key: milliseconds.
pub fn pttl(keys: &mut Keyspace, words: &[Bytes]) -> Answer {
    Ok(Reply::Int(remaining(keys, &words[1])))
}

/// Milliseconds left; -2 without the key, -1 without expiry.
fn remaining(keys: &mut Keyspace, key: &[u8]) -> i64 {
    match keys.expiry(key) {
        None => -2,
        Some(None) => -1,
        Some(Some(at)) => (at - keys.now()).max(0),
    }
}

/// DBSIZE
pub fn dbsize(keys: &mut Keyspace) -> Answer {
    Ok(Reply::count(keys.keys().count()))
}

/// FLUSHALL [SYNC|ASYNC]
pub fn flushall(keys: &mut Keyspace, words: &[Bytes]) -> Answer {
    match &words[1..] {
        [] => {}
        [mode] if is(mode, "SYNC") || is(mode, "ASYNC") => {}
        _ => return Err(Refusal::syntax()),
    }
    keys.clear();
    Ok(Reply::ok())
}

/// KEYS pattern
pub fn matching(keys: &mut Keyspace, words: &[Bytes]) -> Answer {
    let found = keys.keys().filter(|(key, _)| glob(&words[1], key)).map(|(key, _)| Reply::Bulk(key.clone()));
    Ok(Reply::Array(found.collect()))
}

/// SCAN cursor [MATCH pattern] [COUNT n] [TYPE type]
pub fn scan(keys: &mut Keyspace, words: &[Bytes]) -> Answer {
    let cursor: u64 = std::str::from_utf8(&words[1])
        .ok()
        .and_then(|digits| digits.parse().ok())
        .ok_or_else(|| Refusal("ERR invalid cursor".into()))?;
    let (mut pattern, mut wanted_type, mut count) = (None, None, 10);
    for at in (2..words.len()).step_by(2) {
        let value = value_after(words, at)?;
        if is(&words[at], "MATCH") {
            pattern = Some(value);
        } else if is(&words[at], "TYPE") {
            wanted_type = Some(name_of(value));
        } else if is(&words[at], "COUNT") {
            count = usize::try_from(integer(value)?).ok().filter(|count| *count > 0).ok_or_else(Refusal::syntax)?;
        } else {
            return Err(Refusal::syntax());
        }
    }
    let mut ahead: Vec<_> = keys.keys().map(|(key, kind)| (place(key), key, kind)).collect();
    ahead.retain(|(place, ..)| *place >= cursor);
    ahead.sort();
    let mut end = count.min(ahead.len());
    while end > 0 && end < ahead.len() && ahead[end].0 == ahead[end - 1].0 {
        end += 1;
    }
    let next = ahead.get(end).map_or(0, |(place, ..)| *place);
    let shown = ahead[..end]
        .iter()
        .filter(|(_, key, _)| pattern.is_none_or(|pattern| glob(pattern, key)))
        .filter(|(_, _, kind)| wanted_type.as_ref().is_none_or(|wanted| wanted == kind))
        .map(|(_, key, _)| Reply::Bulk((*key).clone()));
    Ok(Reply::Array(vec![Reply::bulk(next.to_string()), Reply::Array(shown.collect())]))
}

/// Where SCAN meets a key: its FNV-1a hash, halved so that 0 stays free for the beginning and the end.
fn place(key: &[u8]) -> u64 {
    let hash = key
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3));
    (hash >> 1) + 1
}
