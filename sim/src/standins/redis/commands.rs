//! Which commands there are. One that is not listed here stops the run: a stand-in never guesses.

use bytes::Bytes;

use super::channels::Channels;
use super::faults::Faults;
use super::keyspace::{Keyspace, Refusal};
use super::resp::Reply;
use super::streams::Read;
use super::strings::Answer;
use super::words::{is, name_of};
use super::{keys, streams, strings};

/// What commands act on.
#[derive(Debug, Default)]
pub struct Store {
    /// The data.
    pub keys: Keyspace,
    /// The subscribers of each channel.
    pub channels: Channels,
    /// What is wrong with it.
    pub faults: Faults,
}

/// How many words each command takes, itself included; `-n` is at least n. As in Redis's own table.
const ARITIES: &[(&str, isize)] = &[
    ("auth", -2),
    ("client", -2),
    ("dbsize", 1),
    ("del", -2),
    ("eval", -3),
    ("evalsha", -3),
    ("exists", -2),
    ("expire", -3),
    ("flushall", -1),
    ("get", 2),
    ("hdel", -3),
    ("hexists", 3),
    ("hget", 3),
    ("hgetall", 2),
    ("hlen", 2),
    ("hmset", -4),
    ("hset", -4),
    ("incr", 2),
    ("incrby", 3),
    ("keys", 2),
    ("persist", 2),
    ("pexpire", -3),
    ("ping", -1),
    ("pttl", 2),
    ("publish", 3),
    ("scan", -2),
    ("script", -2),
    ("set", -3),
    ("subscribe", -2),
    ("time", 1),
    ("ttl", 2),
    ("type", 2),
    ("unsubscribe", -1),
    ("xadd", -5),
    ("xdel", -3),
    ("xlen", 2),
    ("xrange", -4),
    ("xread", -4),
    ("xrevrange", -4),
    ("xtrim", -4),
];

/// Commands that a script may not run.
pub const NOT_IN_SCRIPTS: &[&str] = &["auth", "client", "eval", "evalsha", "script", "subscribe", "unsubscribe"];

/// The command's name in lower case, if `words` has a number of arguments that it takes.
///
/// # Errors
/// A wrong number of arguments.
///
/// # Panics
/// A command that this stand-in does not know.
pub fn recognise(words: &[Bytes]) -> Result<String, Refusal> {
    let name = name_of(&words[0]);
    let Some((_, arity)) = ARITIES.iter().find(|(known, _)| *known == name) else {
        let words: Vec<_> = words.iter().map(|word| String::from_utf8_lossy(word)).collect();
        panic!("the Redis stand-in does not know the command {} ({words:?})", name.to_ascii_uppercase());
    };
    let fits = if *arity < 0 { words.len() >= arity.unsigned_abs() } else { words.len() == arity.unsigned_abs() };
    if fits { Ok(name) } else { Err(Refusal::arity(&name)) }
}

/// The keys that a command may write: a script's are those that it declares. FLUSHALL's are not named.
pub fn may_write(words: &[Bytes]) -> &[Bytes] {
    match name_of(&words[0]).as_str() {
        "set" | "incr" | "incrby" | "hset" | "hmset" | "hdel" | "expire" | "pexpire" | "persist" | "xadd" | "xtrim"
        | "xdel" => words.get(1..2).unwrap_or_default(),
        "del" => words.get(1..).unwrap_or_default(),
        "eval" | "evalsha" => {
            let count = words.get(2).and_then(|count| std::str::from_utf8(count).ok()?.parse::<usize>().ok());
            words.get(3..count.unwrap_or(0).saturating_add(3)).unwrap_or_default()
        }
        _ => &[],
    }
}

/// Runs a recognised command that neither blocks nor concerns its connection or scripts.
///
/// # Errors
/// Redis's refusal.
pub fn run(store: &mut Store, name: &str, words: &[Bytes]) -> Answer {
    store.faults.allow(name)?;
    let data = &mut store.keys;
    match name {
        "ping" => ping(words),
        "time" => Ok(time(data)),
        "get" => strings::get(data, words),
        "set" => strings::set(data, words),
        "incr" | "incrby" => strings::incr(data, words),
        "hset" | "hmset" => strings::hset(data, words),
        "hget" => strings::hget(data, words),
        "hdel" => strings::hdel(data, words),
        "hgetall" => strings::hgetall(data, words),
        "hlen" => strings::hlen(data, words),
        "hexists" => strings::hexists(data, words),
        "del" => keys::del(data, words),
        "exists" => keys::exists(data, words),
        "type" => keys::type_of(data, words),
        "expire" | "pexpire" => keys::expire(data, words),
        "persist" => keys::persist(data, words),
        "ttl" => keys::ttl(data, words),
        "pttl" => keys::pttl(data, words),
        "dbsize" => keys::dbsize(data),
        "flushall" => keys::flushall(data, words),
        "keys" => keys::matching(data, words),
        "scan" => keys::scan(data, words),
        "xadd" => streams::xadd(data, words),
        "xtrim" => streams::xtrim(data, words),
        "xlen" => streams::xlen(data, words),
        "xdel" => streams::xdel(data, words),
        "xrange" | "xrevrange" => streams::xrange(data, words),
        "xread" => Ok(Read::parse(data, words, false)?.now(data).unwrap_or(Reply::NilArray)),
        "publish" => Ok(Reply::count(store.channels.publish(&words[1], &words[2]))),
        _ => unreachable!("{name} is run elsewhere"),
    }
}

fn ping(words: &[Bytes]) -> Answer {
    match &words[1..] {
        [] => Ok(Reply::Status(Bytes::from_static(b"PONG"))),
        [text] => Ok(Reply::Bulk(text.clone())),
        _ => Err(Refusal::arity("ping")),
    }
}

fn time(keys: &Keyspace) -> Reply {
    let clock = keys.clock;
    Reply::Array(vec![Reply::bulk(clock.as_secs().to_string()), Reply::bulk(clock.subsec_micros().to_string())])
}

/// AUTH of somebody whose password is none that it knows: it has none, unless it is locked.
///
/// # Errors
/// Most of them.
pub fn auth(words: &[Bytes], locked: Option<&str>) -> Answer {
    let wrong = "WRONGPASS invalid username-password pair or user is disabled.";
    match (&words[1..], locked) {
        ([_] | [_, _], Some(says)) => Err(Refusal(says.into())),
        ([_], None) => Err(Refusal(
            "ERR AUTH <password> called without any password configured for the default user. Are you sure your \
             configuration is correct?"
                .into(),
        )),
        ([user, _], None) if &user[..] == b"default" => Ok(Reply::Status(Bytes::from_static(b"OK"))),
        ([_, _], None) => Err(Refusal(wrong.into())),
        _ => Err(Refusal::syntax()),
    }
}

/// CLIENT SETINFO came with Redis 7.2. This is 7.0, whose refusal clients ignore.
///
/// # Errors
/// That refusal.
///
/// # Panics
/// Any other of its subcommands.
pub fn client(words: &[Bytes]) -> Answer {
    let subcommand = String::from_utf8_lossy(&words[1]);
    assert!(is(&words[1], "SETINFO"), "the Redis stand-in does not know CLIENT {subcommand}");
    Err(Refusal(format!("ERR unknown subcommand '{subcommand}'. Try CLIENT HELP.")))
}
