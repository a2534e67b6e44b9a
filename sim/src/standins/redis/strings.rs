//! Strings, counters and hashes.

use bytes::Bytes;

use super::keyspace::{Keyspace, Refusal, Value};
use super::resp::Reply;
use super::words::{integer, is, name_of, value_after};

/// What a command ends in.
pub type Answer = Result<Reply, Refusal>;

/// GET key
pub fn get(keys: &mut Keyspace, words: &[Bytes]) -> Answer {
    Ok(keys.text(&words[1])?.map_or(Reply::Nil, |text| Reply::Bulk(text.clone())))
}

#[derive(Default)]
struct SetOptions {
    only_if_absent: bool,
    only_if_present: bool,
    give_old: bool,
    keep_ttl: bool,
    expires_at: Option<i64>,
}

impl SetOptions {
    fn parse(now: i64, words: &[Bytes]) -> Result<Self, Refusal> {
        let mut options = SetOptions::default();
        let mut expiry = None;
        let mut at = 3;
        while let Some(word) = words.get(at) {
            let unset = expiry.is_none() && !options.keep_ttl;
            if is(word, "NX") && !options.only_if_present {
                options.only_if_absent = true;
            } else if is(word, "XX") && !options.only_if_absent {
                options.only_if_present = true;
            } else if is(word, "GET") {
                options.give_old = true;
            } else if is(word, "KEEPTTL") && expiry.is_none() {
                options.keep_ttl = true;
            } else if unset && ["EX", "PX", "EXAT", "PXAT"].iter().any(|name| is(word, name)) {
                expiry = Some((word, value_after(words, at)?));
                at += 1;
            } else {
                return Err(Refusal::syntax());
            }
            at += 1;
        }
        if let Some((unit, word)) = expiry {
            options.expires_at = Some(SetOptions::expiry(now, unit, integer(word)?)?);
        }
        Ok(options)
    }

    fn expiry(now: i64, unit: &[u8], number: i64) -> Result<i64, Refusal> {
        let invalid = || Refusal("ERR invalid expire time in 'set' command".into());
        let scale = if is(unit, "EX") || is(unit, "EXAT") { 1000 } else { 1 };
        let base = if is(unit, "EX") || is(unit, "PX") { now } else { 0 };
        if number <= 0 {
            return Err(invalid());
        }
        number.checked_mul(scale).and_then(|ms| ms.checked_add(base)).ok_or_else(invalid)
    }
}

/// `SET key value [NX|XX] [GET] [EX s|PX ms|EXAT s|PXAT ms|KEEPTTL]`
pub fn set(keys: &mut Keyspace, words: &[Bytes]) -> Answer {
    let options = SetOptions::parse(keys.now(), words)?;
    let key = &words[1];
    let old = if options.give_old { Some(get(keys, words)?) } else { None };
    let present = keys.get(key).is_some();
    if (options.only_if_absent && present) || (options.only_if_present && !present) {
        return Ok(old.unwrap_or(Reply::Nil));
    }
    let expires_at = if options.keep_ttl { keys.expiry(key).flatten() } else { options.expires_at };
    keys.put(key.clone(), Value::Text(words[2].clone()), expires_at);
    Ok(old.unwrap_or_else(Reply::ok))
}

/// INCR key, INCRBY key number
pub fn incr(keys: &mut Keyspace, words: &[Bytes]) -> Answer {
    let by = words.get(2).map_or(Ok(1), |word| integer(word))?;
    let number = match keys.text(&words[1])? {
        Some(text) => integer(text)?,
        None => 0,
    };
    let next = number.checked_add(by).ok_or_else(|| Refusal("ERR increment or decrement would overflow".into()))?;
    let expires_at = keys.expiry(&words[1]).flatten();
    keys.put(words[1].clone(), Value::Text(next.to_string().into()), expires_at);
    Ok(Reply::Int(next))
}

/// HSET and HMSET key field value [field value …]; the latter only says OK.
pub fn hset(keys: &mut Keyspace, words: &[Bytes]) -> Answer {
    if !words.len().is_multiple_of(2) {
        return Err(Refusal::arity(&name_of(&words[0])));
    }
    if keys.hash(&words[1])?.is_none() {
        keys.put(words[1].clone(), Value::Hash(Default::default()), None);
    }
    let Some(hash) = keys.hash(&words[1])? else { unreachable!("it was just put there") };
    let new = words[2..].chunks_exact(2).filter(|pair| hash.set(pair[0].clone(), pair[1].clone()));
    let new = new.count();
    Ok(if is(&words[0], "HMSET") { Reply::ok() } else { Reply::count(new) })
}

/// HGET key field
pub fn hget(keys: &mut Keyspace, words: &[Bytes]) -> Answer {
    let value = keys.hash(&words[1])?.and_then(|hash| hash.get(&words[2]).cloned());
    Ok(value.map_or(Reply::Nil, Reply::Bulk))
}

/// HDEL key field [field …]
pub fn hdel(keys: &mut Keyspace, words: &[Bytes]) -> Answer {
    let Some(hash) = keys.hash(&words[1])? else { return Ok(Reply::Int(0)) };
    let gone = words[2..].iter().filter(|field| hash.remove(field)).count();
    if hash.count() == 0 {
        keys.remove(&words[1]);
    }
    Ok(Reply::count(gone))
}

/// HGETALL key
pub fn hgetall(keys: &mut Keyspace, words: &[Bytes]) -> Answer {
    let pairs = keys.hash(&words[1])?;
    let pairs = pairs.iter().flat_map(|hash| hash.pairs());
    Ok(Reply::Array(pairs.flat_map(|(field, value)| [field.clone(), value.clone()]).map(Reply::Bulk).collect()))
}

/// HLEN key
pub fn hlen(keys: &mut Keyspace, words: &[Bytes]) -> Answer {
    Ok(Reply::count(keys.hash(&words[1])?.map_or(0, |hash| hash.count())))
}

/// HEXISTS key field
pub fn hexists(keys: &mut Keyspace, words: &[Bytes]) -> Answer {
    Ok(Reply::Int(keys.hash(&words[1])?.is_some_and(|hash| hash.get(&words[2]).is_some()).into()))
}
