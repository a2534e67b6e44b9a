//! The shapes of what processes and services say to each other, as the stand-ins tell them. What occurs in a run and in no
//! conformance body is a promise of a stand-in that nobody has compared with the real server.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use crate::standins::StandIn;
use crate::standins::shapes::{Lane, Shapes};

/// What was seen so far.
pub struct Coverage {
    /// By service; those without conformance have none.
    shapes: BTreeMap<&'static str, Box<dyn Shapes>>,
    /// By connection and direction: the bytes of what has not arrived whole.
    lanes: BTreeMap<(String, u32, bool), Lane>,
}

impl fmt::Debug for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Coverage").field("all", &self.all()).finish_non_exhaustive()
    }
}

impl Coverage {
    /// Nothing of what is said to these stand-ins.
    pub fn of(standins: &[Arc<dyn StandIn>]) -> Coverage {
        let shapes = standins.iter().filter_map(|standin| Some((standin.name(), standin.shapes()?)));
        Coverage { shapes: shapes.collect(), lanes: BTreeMap::new() }
    }

    /// Bytes on a connection with `service`: `up` from the client. Those of services without conformance count for nothing.
    pub fn carried(&mut self, service: &str, place: &str, conn: u32, up: bool, bytes: &[u8]) {
        let Some(shapes) = self.shapes.get_mut(service) else { return };
        let lane = self.lanes.entry((place.to_owned(), conn, up)).or_default();
        lane.bytes.extend_from_slice(bytes);
        while !lane.lost && shapes.read(lane, up).is_some() {}
    }

    /// Every shape that was seen, as `redis XADD MAXLEN ~`, `postgres run.claim`, `amqp < basic.deliver`.
    pub fn all(&self) -> BTreeSet<String> {
        self.shapes.values().flat_map(|shapes| shapes.seen()).collect()
    }
}

#[cfg(all(test, feature = "postgres", feature = "rabbitmq", feature = "redis"))]
mod tests {
    use super::*;
    use bytes::Bytes;

    use crate::standins::postgres::Postgres;
    use crate::standins::rabbit::{Rabbit, Settings};
    use crate::standins::redis::Redis;
    use crate::standins::redis::resp::encode_command;

    fn words(line: &str) -> Vec<u8> {
        encode_command(&line.split(' ').map(|word| Bytes::from(word.to_owned())).collect::<Vec<_>>()).to_vec()
    }

    fn seen(service: &str, up: bool, bytes: &[u8]) -> Vec<String> {
        let mut shapes = Coverage::of(&[
            Arc::new(Redis::new()),
            Arc::new(Rabbit::new(Settings::default())),
            Arc::new(Postgres::new()),
        ]);
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
