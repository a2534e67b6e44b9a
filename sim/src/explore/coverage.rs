//! The shapes of what processes and services say to each other: which command with which options, which script, which
//! statement, which frame; never with what values. What occurs in a run and in no conformance body is a promise of a
//! stand-in that nobody has compared with the real server. Its one law: looking at bytes changes nothing about them.

use std::collections::{BTreeMap, BTreeSet};
use std::str::from_utf8;

use bytes::{Buf, Bytes, BytesMut};

use crate::standins::redis::resp::take_command;

/// What was seen so far.
#[derive(Debug, Default)]
pub struct Coverage {
    seen: BTreeSet<String>,
    /// By connection and direction: the bytes of what has not arrived whole.
    lanes: BTreeMap<(String, u32, bool), Lane>,
    /// Scripts by their hash, named by their first line.
    scripts: BTreeMap<String, String>,
    /// Hashes that were called. One that is never loaded never runs either.
    called: BTreeSet<String>,
}

#[derive(Debug, Default)]
struct Lane {
    bytes: BytesMut,
    /// Past what opens a connection: AMQP's header, Postgres's start-up.
    open: bool,
    /// Nothing that follows can be read.
    lost: bool,
}

impl Coverage {
    /// Bytes on a connection with `service`: `up` from the client. Those of services without conformance count for nothing.
    pub fn carried(&mut self, service: &str, place: &str, conn: u32, up: bool, bytes: &[u8]) {
        let take = match (service, up) {
            ("redis", true) => Coverage::redis,
            ("rabbitmq", _) => Coverage::amqp,
            ("postgres", true) => Coverage::postgres,
            _ => return,
        };
        let key = (place.to_owned(), conn, up);
        let mut lane = self.lanes.remove(&key).unwrap_or_default();
        lane.bytes.extend_from_slice(bytes);
        while !lane.lost && take(self, &mut lane, up).is_some() {}
        self.lanes.insert(key, lane);
    }

    /// Every shape that was seen, as `redis XADD MAXLEN ~`, `postgres run.claim`, `amqp < basic.deliver`.
    pub fn all(&self) -> BTreeSet<String> {
        let called = self.called.iter().map(|hash| match self.scripts.get(hash) {
            Some(name) => format!("redis script {name}"),
            None => "redis EVALSHA of what is not loaded".to_owned(),
        });
        self.seen.iter().cloned().chain(called).collect()
    }

    fn redis(&mut self, lane: &mut Lane, _: bool) -> Option<()> {
        let Ok(words) = take_command(&mut lane.bytes) else {
            lane.lost = true;
            self.seen.insert("redis bytes that are no command".to_owned());
            return None;
        };
        let words = words?;
        let name = String::from_utf8_lossy(words.first()?).to_ascii_uppercase();
        let shape = match name.as_str() {
            "EVAL" => self.script(words.get(1)?),
            "SCRIPT" if words.len() == 3 => self.script(&words[2]),
            "EVALSHA" => {
                self.called.insert(String::from_utf8_lossy(words.get(1)?).to_ascii_lowercase());
                return Some(());
            }
            _ => options(&name, &words),
        };
        self.seen.insert(format!("redis {name}{shape}"));
        Some(())
    }

    fn script(&mut self, body: &Bytes) -> String {
        let hash = sha1_smol::Sha1::from(body).digest().to_string();
        let text = String::from_utf8_lossy(body);
        let first = text.lines().next().and_then(|line| line.strip_prefix("-- "));
        let name = first.map_or_else(|| hash.clone(), str::to_owned);
        self.scripts.insert(hash, name.clone());
        format!(" {name}")
    }

    fn amqp(&mut self, lane: &mut Lane, up: bool) -> Option<()> {
        const HEADER: usize = 8;
        let way = if up { '>' } else { '<' };
        if up && !lane.open {
            lane.open = lane.bytes.len() >= HEADER;
            lane.open.then(|| lane.bytes.advance(HEADER))?;
            self.seen.insert("amqp > protocol header".to_owned());
        }
        let length = u32::from_be_bytes(lane.bytes.get(3..7)?.try_into().ok()?) as usize;
        let whole = lane.bytes.len() > 7 + length;
        let frame = whole.then(|| lane.bytes.split_to(7 + length + 1))?;
        let shape = match frame[0] {
            1 => method(u16::from_be_bytes([frame[7], frame[8]]), u16::from_be_bytes([frame[9], frame[10]])),
            2 => "content header".to_owned(),
            3 => "content body".to_owned(),
            8 => "heartbeat".to_owned(),
            other => format!("frame of type {other}"),
        };
        self.seen.insert(format!("amqp {way} {shape}"));
        Some(())
    }

    fn postgres(&mut self, lane: &mut Lane, _: bool) -> Option<()> {
        let head = usize::from(lane.open);
        let length = u32::from_be_bytes(lane.bytes.get(head..head + 4)?.try_into().ok()?) as usize;
        let whole = lane.bytes.len() >= head + length;
        let message = whole.then(|| lane.bytes.split_to(head + length))?;
        if !lane.open {
            // Only a start-up is followed by messages with a type; what asks for TLS is followed by another of its kind.
            lane.open = message.get(4..8) == Some(&[0, 3, 0, 0]);
            let what = if lane.open { "start-up" } else { "request before start-up" };
            self.seen.insert(format!("postgres {what}"));
            return Some(());
        }
        let text = |from: usize| from_utf8(message.get(from..)?.split(|byte| *byte == 0).next()?).ok();
        match message[0] {
            b'Q' => self.statement(text(5)?),
            b'P' => self.statement(text(5 + text(5)?.len() + 1)?),
            _ => {}
        }
        self.seen.insert(format!("postgres message {}", char::from(message[0])));
        Some(())
    }

    /// By its name in the leading comment, or else by its first word.
    fn statement(&mut self, text: &str) {
        let text = text.trim_start();
        let named = text.strip_prefix("/* ").and_then(|rest| rest.split_once(" */"));
        let name = named.map_or_else(
            || text.split(|letter: char| !letter.is_alphanumeric()).next().unwrap_or_default().to_ascii_uppercase(),
            |(name, _)| name.to_owned(),
        );
        self.seen.insert(format!("postgres {name}"));
    }
}

/// The options of a command, in their order, where its grammar has them: values cannot be mistaken for one.
fn options(name: &str, words: &[Bytes]) -> String {
    const OPTIONS: &[&str] = &[
        "EX",
        "PX",
        "NX",
        "XX",
        "GT",
        "LT",
        "GET",
        "KEEPTTL",
        "NOMKSTREAM",
        "MAXLEN",
        "MINID",
        "~",
        "=",
        "LIMIT",
        "COUNT",
        "BLOCK",
        "STREAMS",
    ];
    let first = match name {
        "SET" | "EXPIRE" | "PEXPIRE" => 3,
        "XADD" | "XTRIM" => 2,
        "XREAD" => 1,
        "XRANGE" | "XREVRANGE" => 4,
        "CLIENT" | "SCRIPT" => return format!(" {}", String::from_utf8_lossy(&words[1]).to_ascii_uppercase()),
        _ => return String::new(),
    };
    let mut shape = String::new();
    for word in words.iter().skip(first) {
        let word = String::from_utf8_lossy(word).to_ascii_uppercase();
        if OPTIONS.contains(&word.as_str()) {
            shape.push(' ');
            shape.push_str(&word);
        } else if word.parse::<u64>().is_err() {
            break;
        }
        if word == "STREAMS" {
            break;
        }
    }
    shape
}

/// A method by its numbers in the protocol.
fn method(class: u16, method: u16) -> String {
    type Methods = &'static [(u16, &'static str)];
    const CLASSES: &[(u16, &str, Methods)] = &[
        (
            10,
            "connection",
            &[
                (10, "start"),
                (11, "start-ok"),
                (20, "secure"),
                (21, "secure-ok"),
                (30, "tune"),
                (31, "tune-ok"),
                (40, "open"),
                (41, "open-ok"),
                (50, "close"),
                (51, "close-ok"),
                (60, "blocked"),
                (61, "unblocked"),
            ],
        ),
        (
            20,
            "channel",
            &[(10, "open"), (11, "open-ok"), (20, "flow"), (21, "flow-ok"), (40, "close"), (41, "close-ok")],
        ),
        (40, "exchange", &[(10, "declare"), (11, "declare-ok"), (20, "delete"), (21, "delete-ok")]),
        (
            50,
            "queue",
            &[
                (10, "declare"),
                (11, "declare-ok"),
                (20, "bind"),
                (21, "bind-ok"),
                (30, "purge"),
                (31, "purge-ok"),
                (40, "delete"),
                (41, "delete-ok"),
                (50, "unbind"),
                (51, "unbind-ok"),
            ],
        ),
        (
            60,
            "basic",
            &[
                (10, "qos"),
                (11, "qos-ok"),
                (20, "consume"),
                (21, "consume-ok"),
                (30, "cancel"),
                (31, "cancel-ok"),
                (40, "publish"),
                (50, "return"),
                (60, "deliver"),
                (70, "get"),
                (71, "get-ok"),
                (72, "get-empty"),
                (80, "ack"),
                (90, "reject"),
                (110, "recover"),
                (111, "recover-ok"),
                (120, "nack"),
            ],
        ),
        (85, "confirm", &[(10, "select"), (11, "select-ok")]),
    ];
    let class_of = CLASSES.iter().find(|(number, ..)| *number == class);
    let name = class_of.and_then(|(_, name, methods)| {
        let (_, method) = methods.iter().find(|(number, _)| *number == method)?;
        Some(format!("{name}.{method}"))
    });
    name.unwrap_or_else(|| format!("method {class}.{method}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::standins::redis::resp::encode_command;

    fn words(line: &str) -> Vec<u8> {
        encode_command(&line.split(' ').map(|word| Bytes::from(word.to_owned())).collect::<Vec<_>>()).to_vec()
    }

    fn seen(service: &str, up: bool, bytes: &[u8]) -> Vec<String> {
        let mut shapes = Coverage::default();
        // Byte by byte: nothing depends on how it was cut.
        bytes.iter().for_each(|byte| shapes.carried(service, "a->b", 1, up, &[*byte]));
        shapes.all().into_iter().collect()
    }

    #[test]
    fn commands_are_known_by_their_options_and_never_by_values() {
        let all = [words("xadd MAXLEN MAXLEN ~ 5 1-1 kind EX"), words("SET k EX EX 5"), words("GET k")].concat();
        assert_eq!(seen("redis", true, &all), ["redis GET", "redis SET EX", "redis XADD MAXLEN ~"]);
        assert_eq!(
            seen("redis", true, &words("XREAD COUNT 5 BLOCK 9 STREAMS COUNT 0-0")),
            ["redis XREAD COUNT BLOCK STREAMS"]
        );
    }

    #[test]
    fn scripts_are_known_by_name() {
        let body = Bytes::from_static(b"-- lease.take\nreturn 1");
        let hash = sha1_smol::Sha1::from(&body).digest().to_string();
        let load = encode_command(&["SCRIPT".into(), "LOAD".into(), body]).to_vec();
        let all = [words(&format!("EVALSHA {hash} 0")), load].concat();
        assert_eq!(seen("redis", true, &all), ["redis SCRIPT lease.take", "redis script lease.take"]);
        assert_eq!(seen("redis", true, &words("EVALSHA 00 0")), ["redis EVALSHA of what is not loaded"]);
    }

    #[test]
    fn frames_and_statements_are_known_by_name() {
        let ack = [1, 0, 1, 0, 0, 0, 4, 0, 60, 0, 80, 0xce, 8, 0, 0, 0, 0, 0, 0, 0xce];
        let up = [b"AMQP\0\0\x09\x01".as_slice(), &ack].concat();
        assert_eq!(seen("rabbitmq", true, &up), ["amqp > basic.ack", "amqp > heartbeat", "amqp > protocol header"]);
        assert_eq!(seen("rabbitmq", false, &ack[..12]), ["amqp < basic.ack"]);
        let start = [0, 0, 0, 9, 0, 3, 0, 0, 0];
        let parse = b"P\0\0\0\x1es0\0/* run.claim */ UPDATE\0\0\0";
        let all = [start.as_slice(), parse].concat();
        assert_eq!(seen("postgres", true, &all), ["postgres message P", "postgres run.claim", "postgres start-up"]);
    }
}
