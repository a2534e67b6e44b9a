//! The commands of streams.

use bytes::Bytes;

use super::keyspace::{Keyspace, Refusal, Value};
use super::resp::Reply;
use super::stream::{Fields, Id, Limit, Stream, Trim, Wanted};
use super::strings::Answer;
use super::words::{integer, is, name_of, value_after};

/// How many entries an approximate trim drops at most, unless LIMIT says otherwise: a hundred nodes.
const TRIM_AT_ONCE: usize = 100 * 100;

/// `XADD key [NOMKSTREAM] [MAXLEN|MINID [=|~] n [LIMIT n]] id field value [field value …]`
pub fn xadd(keys: &mut Keyspace, words: &[Bytes]) -> Answer {
    let mut at = 2;
    let mut create = true;
    let mut trim = None;
    while let Some(word) = words.get(at) {
        if is(word, "NOMKSTREAM") {
            create = false;
            at += 1;
        } else if is(word, "MAXLEN") || is(word, "MINID") {
            let (parsed, next) = parse_trim(words, at)?;
            (trim, at) = (Some(parsed), next);
        } else {
            break;
        }
    }
    let id = words.get(at).map(|word| wanted(word)).transpose()?;
    let fields = words.get(at + 1..).unwrap_or_default();
    let Some(id) = id.filter(|_| fields.len() >= 2 && fields.len().is_multiple_of(2)) else {
        return Err(Refusal::arity("xadd"));
    };
    if id == Wanted::Exactly(Id::MIN) {
        return Err(Refusal("ERR The ID specified in XADD must be greater than 0-0".into()));
    }
    if keys.stream(&words[1])?.is_none() {
        if !create {
            return Ok(Reply::Nil);
        }
        keys.put(words[1].clone(), Value::Stream(Stream::default()), None);
    }
    let now = keys.now().unsigned_abs();
    let Some(stream) = keys.stream(&words[1])? else { unreachable!("it was just put there") };
    let id = stream.add(id, now, fields.to_vec())?;
    if let Some(trim) = trim {
        stream.trim(trim);
    }
    if !keys.grown.contains(&words[1]) {
        keys.grown.push(words[1].clone());
    }
    Ok(Reply::bulk(id.to_string()))
}

fn wanted(word: &[u8]) -> Result<Wanted, Refusal> {
    match word {
        b"*" => Ok(Wanted::Any),
        [ms @ .., b'-', b'*'] => Ok(Wanted::Ms(Id::parse(ms, 0)?.ms)),
        _ => Ok(Wanted::Exactly(Id::parse(word, 0)?)),
    }
}

/// Reads from MAXLEN or MINID on; gives the place behind it as well.
fn parse_trim(words: &[Bytes], at: usize) -> Result<(Trim, usize), Refusal> {
    let by_length = is(&words[at], "MAXLEN");
    let mut at = at + 1;
    let mut approximate = false;
    if let Some(word) = words.get(at)
        && matches!(&word[..], b"~" | b"=")
    {
        approximate = &word[..] == b"~";
        at += 1;
    }
    let word = words.get(at).ok_or_else(Refusal::syntax)?;
    let limit = if by_length {
        let negative = || Refusal("ERR The MAXLEN argument must be >= 0.".into());
        Limit::Lifetime(usize::try_from(integer(word)?).map_err(|_| negative())?)
    } else {
        Limit::From(Id::parse(word, 0)?)
    };
    at += 1;
    let mut at_once = TRIM_AT_ONCE;
    if words.get(at).is_some_and(|word| is(word, "LIMIT")) {
        let negative = || Refusal("ERR The LIMIT argument must be >= 0.".into());
        at_once = usize::try_from(integer(value_after(words, at)?)?).map_err(|_| negative())?;
        if !approximate {
            return Err(Refusal("ERR syntax error, LIMIT cannot be used without the special ~ option".into()));
        }
        // Zero lifts the limit.
        at_once = if at_once == 0 { usize::MAX } else { at_once };
        at += 2;
    }
    Ok((Trim { limit, approximate: approximate.then_some(at_once) }, at))
}

/// XTRIM key MAXLEN|MINID [=|~] n [LIMIT n]
pub fn xtrim(keys: &mut Keyspace, words: &[Bytes]) -> Answer {
    if !is(&words[2], "MAXLEN") && !is(&words[2], "MINID") {
        return Err(Refusal::syntax());
    }
    let (trim, end) = parse_trim(words, 2)?;
    if end != words.len() {
        return Err(Refusal::syntax());
    }
    Ok(Reply::count(keys.stream(&words[1])?.map_or(0, |stream| stream.trim(trim))))
}

/// XLEN key
pub fn xlen(keys: &mut Keyspace, words: &[Bytes]) -> Answer {
    Ok(Reply::count(keys.stream(&words[1])?.map_or(0, |stream| stream.count())))
}

/// XDEL key id [id …]
pub fn xdel(keys: &mut Keyspace, words: &[Bytes]) -> Answer {
    if keys.stream(&words[1])?.is_none() {
        return Ok(Reply::Int(0));
    }
    let ids = words[2..].iter().map(|word| Id::parse(word, 0)).collect::<Result<Vec<_>, _>>()?;
    let Some(stream) = keys.stream(&words[1])? else { unreachable!("it was just there") };
    Ok(Reply::count(ids.into_iter().filter(|id| stream.delete(*id)).count()))
}

/// XRANGE key start end [COUNT n], XREVRANGE key end start [COUNT n]
pub fn xrange(keys: &mut Keyspace, words: &[Bytes]) -> Answer {
    let reverse = is(&words[0], "XREVRANGE");
    let (start, end) = if reverse { (&words[3], &words[2]) } else { (&words[2], &words[3]) };
    let (start, end) = (bound(start, Side::Start)?, bound(end, Side::End)?);
    let mut count = None;
    for at in (4..words.len()).step_by(2) {
        if !is(&words[at], "COUNT") {
            return Err(Refusal::syntax());
        }
        count = Some(usize::try_from(integer(value_after(words, at)?)?).unwrap_or(0));
    }
    let Some(stream) = keys.stream(&words[1])? else { return Ok(Reply::Array(Vec::new())) };
    if count == Some(0) {
        return Ok(Reply::NilArray);
    }
    let count = count.unwrap_or(usize::MAX);
    let range = stream.range(start, end);
    Ok(if reverse { entries(range.rev().take(count)) } else { entries(range.take(count)) })
}

#[derive(Clone, Copy)]
enum Side {
    Start,
    End,
}

/// `-`, `+`, an id, or `(` and an id that is itself left out.
fn bound(word: &[u8], side: Side) -> Result<Id, Refusal> {
    let missing = match side {
        Side::Start => 0,
        Side::End => u64::MAX,
    };
    match (word, side) {
        (b"-", _) => Ok(Id::MIN),
        (b"+", _) => Ok(Id::MAX),
        ([b'(', id @ ..], Side::Start) => {
            Id::parse(id, missing)?.next().ok_or_else(|| Refusal("ERR invalid start ID for the interval".into()))
        }
        ([b'(', id @ ..], Side::End) => {
            Id::parse(id, missing)?.previous().ok_or_else(|| Refusal("ERR invalid end ID for the interval".into()))
        }
        _ => Id::parse(word, missing),
    }
}

fn entries<'a>(entries: impl Iterator<Item = (Id, &'a Fields)>) -> Reply {
    let entry = |(id, fields): (Id, &Fields)| {
        let fields = fields.iter().cloned().map(Reply::Bulk).collect();
        Reply::Array(vec![Reply::bulk(id.to_string()), Reply::Array(fields)])
    };
    Reply::Array(entries.map(entry).collect())
}

/// A parsed XREAD.
#[derive(Clone, Debug)]
pub struct Read {
    /// Each stream with the id after which to read.
    pub after: Vec<(Bytes, Id)>,
    /// At most so many entries of each; `None` is all.
    pub count: Option<usize>,
    /// BLOCK, in milliseconds; 0 is for ever.
    pub block: Option<u64>,
}

impl Read {
    /// XREAD [COUNT n] [BLOCK ms] STREAMS key [key …] id [id …]; `$` is the newest id now. Scripts may not block.
    ///
    /// # Errors
    /// As Redis refuses it.
    pub fn parse(keys: &mut Keyspace, words: &[Bytes], may_block: bool) -> Result<Read, Refusal> {
        let mut read = Read { after: Vec::new(), count: None, block: None };
        let mut at = 1;
        let rest = loop {
            let Some(word) = words.get(at) else { return Err(Refusal::syntax()) };
            let more = at + 1 < words.len();
            if is(word, "COUNT") && more {
                // Zero and less mean all.
                read.count = usize::try_from(integer(&words[at + 1])?).ok().filter(|count| *count > 0);
                at += 2;
            } else if is(word, "BLOCK") && more {
                if !may_block {
                    let name = String::from_utf8_lossy(&words[0]);
                    return Err(Refusal(format!("ERR {name} command is not allowed with BLOCK option from scripts")));
                }
                read.block = Some(block(&words[at + 1])?);
                at += 2;
            } else if is(word, "STREAMS") && more {
                break &words[at + 1..];
            } else if (is(word, "GROUP") && at + 2 < words.len()) || is(word, "NOACK") {
                return Err(Refusal(format!(
                    "ERR The {} option is only supported by XREADGROUP. You called XREAD instead.",
                    name_of(word).to_ascii_uppercase()
                )));
            } else {
                return Err(Refusal::syntax());
            }
        };
        if !rest.len().is_multiple_of(2) {
            return Err(Refusal(
                "ERR Unbalanced XREAD list of streams: for each stream key an ID or '$' must be specified.".into(),
            ));
        }
        let (names, ids) = rest.split_at(rest.len() / 2);
        for (key, id) in names.iter().zip(ids) {
            let last = keys.stream(key)?.map_or(Id::MIN, |stream| stream.last);
            let after = match &id[..] {
                b"$" => last,
                b">" => {
                    return Err(Refusal(
                        "ERR The > ID can be specified only when calling XREADGROUP using the GROUP <group> \
                         <consumer> option."
                            .into(),
                    ));
                }
                id => Id::parse(id, 0)?,
            };
            read.after.push((key.clone(), after));
        }
        Ok(read)
    }

    /// What there is to read now in all its streams.
    pub fn now(&self, keys: &mut Keyspace) -> Option<Reply> {
        let mut found = Vec::new();
        for (key, after) in &self.after {
            if let Ok(Some(stream)) = keys.stream(key)
                && stream.has_after(*after)
            {
                found.push(self.in_stream(stream, key, *after));
            }
        }
        (!found.is_empty()).then_some(Reply::Array(found))
    }

    /// The answer that the growth of the stream `key` gives to one who waits. As in Redis 7.0 it holds that stream alone,
    /// and an entry that was trimmed at once still counts.
    pub fn on_growth(&self, keys: &mut Keyspace, key: &[u8]) -> Option<Reply> {
        let (key, after) = self.after.iter().find(|(name, _)| name == key)?;
        let stream = keys.stream(key).ok().flatten().filter(|stream| stream.last > *after)?;
        Some(Reply::Array(vec![self.in_stream(stream, key, *after)]))
    }

    fn in_stream(&self, stream: &Stream, key: &Bytes, after: Id) -> Reply {
        let start = after.next().unwrap_or(Id::MAX);
        let range = stream.range(start, Id::MAX).take(self.count.unwrap_or(usize::MAX));
        Reply::Array(vec![Reply::Bulk(key.clone()), entries(range)])
    }
}

fn block(word: &[u8]) -> Result<u64, Refusal> {
    let number = integer(word).map_err(|_| Refusal("ERR timeout is not an integer or out of range".into()))?;
    u64::try_from(number).map_err(|_| Refusal("ERR timeout is negative".into()))
}
