//! What a node of a cluster says that does not serve the keys which it is asked for. As Redis 7.0.15: a command without keys it
//! answers like any other node.

use bytes::Bytes;

use super::words::{is, name_of};

/// The node that has the slots of one that has given them away.
const ELSEWHERE: &str = "127.0.0.9:6379";
/// A cluster's number of slots.
const SLOTS: u16 = 16384;

/// What such a node answers: that another one has the slot, if it `knows` one.
pub fn redirects(name: &str, words: &[Bytes], knows: bool) -> Option<String> {
    let keys = keys(name, words);
    let slot = slot(keys.first()?);
    if !knows {
        return Some("CLUSTERDOWN Hash slot not served".into());
    }
    if keys.iter().any(|key| self::slot(key) != slot) {
        return Some("CROSSSLOT Keys in request don't hash to the same slot".into());
    }
    Some(format!("MOVED {slot} {ELSEWHERE}"))
}

/// The keys that a command names.
fn keys<'a>(name: &str, words: &'a [Bytes]) -> &'a [Bytes] {
    debug_assert_eq!(name, name_of(&words[0]), "the name is the first word");
    match name {
        "auth" | "client" | "dbsize" | "flushall" | "keys" | "ping" | "publish" | "scan" | "script" | "subscribe"
        | "time" | "unsubscribe" => &[],
        "del" | "exists" => &words[1..],
        "eval" | "evalsha" => {
            let count = std::str::from_utf8(&words[2]).ok().and_then(|count| count.parse::<usize>().ok());
            words.get(3..count.unwrap_or(0).saturating_add(3)).unwrap_or_default()
        }
        "xread" => {
            let streams = words.iter().position(|word| is(word, "STREAMS")).map_or(words.len(), |at| at + 1);
            &words[streams..streams + (words.len() - streams) / 2]
        }
        _ => &words[1..2],
    }
}

/// The slot of a key: a CRC16 (XMODEM) of what stands in its first braces, or else of all of it.
fn slot(key: &[u8]) -> u16 {
    let tag = key.iter().position(|byte| *byte == b'{').and_then(|open| {
        let rest = &key[open + 1..];
        rest.iter().position(|byte| *byte == b'}').filter(|close| *close > 0).map(|close| &rest[..close])
    });
    let step = |crc: u16| if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
    let crc =
        tag.unwrap_or(key).iter().fold(0, |crc, byte| (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _| step(crc)));
    crc % SLOTS
}
