//! Random commands on a few keys, to the stand-in and to the real Redis: the answers are equal. `PROPTEST_CASES` raises
//! the number of cases, and then each time they are others. Clocks differ by as much as the servers take: what lives for
//! moments is waited for, and what lives for long is told to the nearest ten seconds.

use std::cell::RefCell;
use std::fmt::Write;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, RngSeed, TestRunner};

use crate::redis::{Real, Server, StandIn, words_of};
use lychgate_sim::real::servers;

/// So many take some seconds.
const CASES: u32 = 80;
/// What lives for moments is over after this.
const MOMENT: Duration = Duration::from_millis(30);

/// A command as it is typed; after one that ends in `&` a moment passes.
fn command() -> impl Strategy<Value = String> {
    let key = || select(vec!["a", "b", "c"]);
    let value = || select(vec!["1", "-7", "x", "\"\"", "9223372036854775807"]);
    let number = || select(vec!["0", "1", "2", "-1", "100", "5000", "x"]);
    let id = || select(vec!["0-0", "0-1", "1-1", "1-2", "1-3", "2", "2-1", "3-1", "3-*", "9-9", "x", "4294967295-0"]);
    let end = || prop_oneof![select(vec!["-", "+", "(1-1", "(2-1"]), id()];
    let field = || select(vec!["f", "g"]);
    let strings = prop_oneof![
        (
            key(),
            value(),
            select(vec!["", "NX", "XX", "EX 100", "PX 5000000", "KEEPTTL", "GET", "NX EX 100", "EX 0", "EX x"])
        )
            .prop_map(|(key, value, option)| format!("SET {key} {value} {option}")),
        (key(), value()).prop_map(|(key, value)| format!("SET {key} {value} PX 5 &")),
        (select(vec!["GET", "INCR", "TYPE", "TTL", "PERSIST", "DEL", "EXISTS"]), key())
            .prop_map(|(name, key)| format!("{name} {key}")),
        (key(), key()).prop_map(|(one, other)| format!("DEL {one} {other}")),
        (key(), key()).prop_map(|(one, other)| format!("EXISTS {one} {other}")),
        (key(), number()).prop_map(|(key, by)| format!("INCRBY {key} {by}")),
        (key(), select(vec!["0", "-1", "100", "5000", "x"]), select(vec!["", "NX", "XX", "GT", "LT"]))
            .prop_map(|(key, seconds, option)| format!("EXPIRE {key} {seconds} {option}")),
        key().prop_map(|key| format!("PEXPIRE {key} 5 &")),
    ];
    let hashes = prop_oneof![
        (key(), field(), value()).prop_map(|(key, field, value)| format!("HSET {key} {field} {value}")),
        (key(), field(), value()).prop_map(|(key, field, value)| format!("HSET {key} f 1 {field} {value}")),
        (select(vec!["HGET", "HDEL", "HEXISTS"]), key(), field())
            .prop_map(|(name, key, field)| format!("{name} {key} {field}")),
        (select(vec!["HGETALL", "HLEN"]), key()).prop_map(|(name, key)| format!("{name} {key}")),
    ];
    let trim =
        || select(vec!["MAXLEN 2", "MAXLEN = 1", "MAXLEN ~ 1", "MAXLEN 0", "MINID 1-2", "MINID ~ 2", "MAXLEN x"]);
    let streams = prop_oneof![
        4 => (key(), id(), field()).prop_map(|(key, id, field)| format!("XADD {key} {id} {field} 1")),
        1 => (key(), id()).prop_map(|(key, id)| format!("XADD {key} NOMKSTREAM {id} f 1 g 2")),
        2 => (key(), trim(), id()).prop_map(|(key, trim, id)| format!("XADD {key} {trim} {id} f 1")),
        1 => (key(), trim()).prop_map(|(key, trim)| format!("XTRIM {key} {trim}")),
        1 => (key(), id()).prop_map(|(key, id)| format!("XDEL {key} {id}")),
        1 => key().prop_map(|key| format!("XLEN {key}")),
        2 => (key(), end(), end(), select(vec!["", "COUNT 1", "COUNT 0"]))
            .prop_map(|(key, from, to, count)| format!("XRANGE {key} {from} {to} {count}")),
        1 => (key(), end(), end()).prop_map(|(key, from, to)| format!("XREVRANGE {key} {from} {to}")),
        2 => (key(), id(), select(vec!["", "COUNT 1", "COUNT 2"]))
            .prop_map(|(key, id, count)| format!("XREAD {count} STREAMS {key} {id}")),
        1 => (key(), key(), id()).prop_map(|(one, other, id)| format!("XREAD STREAMS {one} {other} {id} 0-0")),
    ];
    prop_oneof![4 => strings, 2 => hashes, 5 => streams]
}

/// What a server answers to each.
fn answers(server: &mut impl Server, commands: &[String]) -> String {
    let mut text = String::new();
    for command in commands {
        let (line, moment) = command.strip_suffix('&').map_or((command.as_str(), false), |line| (line, true));
        let words: Vec<_> = words_of(line.trim()).into_iter().filter(|word| word != " ").collect();
        let got = server.tell(1, &words).remove(&1).unwrap_or_default();
        if moment {
            server.wait(MOMENT);
        }
        let rounded = command.starts_with("TTL").then(|| long(&got)).flatten();
        let answer = rounded.unwrap_or_else(|| got.escape_ascii().to_string());
        writeln!(text, "{command} -> {answer}").expect("a string takes everything");
    }
    text
}

/// A number of seconds that is far from its end.
fn long(reply: &[u8]) -> Option<String> {
    let seconds: i64 = std::str::from_utf8(reply).ok()?.trim().strip_prefix(':')?.parse().ok()?;
    (seconds > 10).then(|| format!("about {}", (seconds + 5) / 10 * 10))
}

#[test]
#[ignore = "needs redis-server; `cargo sim conformance` runs it"]
fn any_commands_are_answered_alike() {
    let real = RefCell::new(Real::new(servers::redis::start()));
    let asked = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
    let rng_seed = if asked.is_some() { RngSeed::Random } else { RngSeed::Fixed(7) };
    let config = Config { cases: asked.unwrap_or(CASES), rng_seed, failure_persistence: None, ..Config::default() };
    let tried = TestRunner::new(config).run(&vec(command(), 1..40), |commands| {
        real.borrow_mut().tell(1, &words_of("FLUSHALL"));
        let real = answers(&mut *real.borrow_mut(), &commands);
        let fake = answers(&mut StandIn::new(), &commands);
        prop_assert!(real == fake, "Redis (-) and the stand-in (+) differ:\n{}", diffy::create_patch(&real, &fake));
        Ok(())
    });
    tried.unwrap_or_else(|failure| panic!("{failure}"));
}
