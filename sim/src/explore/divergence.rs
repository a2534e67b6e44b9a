//! Where two runs of one seed part, and what is likely to have parted them. Its one law: it guesses from what is shown,
//! and says of a guess that it is one.

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use crate::trace::step::Step;

/// How many items before the first difference are shown: enough to see what the process was doing.
pub(crate) const BEFORE: usize = 4;

/// How many items of each side are read on after the first difference: what comes a little later on the other side has
/// changed its place.
pub(crate) const AFTER: usize = 32;

/// What only changed its place has moved by less than this: bytes travel for some milliseconds, drawn in the order in
/// which they leave.
const NEAR: Duration = Duration::from_millis(50);

/// A word that is shorter than this is a name or a small number, and no id.
const ID_MIN: usize = 6;

/// What a process must not depend on, as it was for one of the two.
#[derive(Clone, Debug)]
pub(crate) struct Surroundings {
    pub(crate) pid: u32,
    pub(crate) dir: PathBuf,
}

/// The first difference.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Divergence {
    /// The place of the first item that differs, from 1.
    pub(crate) item: u64,
    /// The last items that are the same.
    pub(crate) before: Vec<Step>,
    /// Of each side what came then, the differing item first; nothing if it had ended.
    pub(crate) sides: [Vec<Step>; 2],
}

/// What is likely to have parted two runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Cause {
    /// The same happened in another order.
    Order,
    /// The same happened at another time, or a time of day was told.
    Clock,
    /// Bytes differ that look minted.
    Entropy,
    /// Bytes differ that look like pointers.
    Address,
    /// The process id, or the working directory.
    Surroundings,
    /// One side ended.
    End,
    /// None of these.
    Unknown,
}

impl Cause {
    /// Where to look.
    pub(crate) fn says(self) -> &'static str {
        match self {
            Cause::Order => {
                "the same happened in another order: something walks a hash map or sorts by address, or a `select!` took its \
                 order from outside the seed (use a BTreeMap; give hashers a fixed key; write `biased;`)"
            }
            Cause::Clock => {
                "times differ: something reads the wall clock, or waits for as long as it says, past the runtime (a raw \
                 clock_gettime, a thread, a cached date), or draws a delay from the OS"
            }
            Cause::Entropy => {
                "bytes differ that look like ids: something draws from the OS's entropy and not from what the seed gave \
                 (`Boot::entropy`); getrandom 0.2 does, and with it rand 0.8's thread_rng, OsRng and older uuids"
            }
            Cause::Address => "addresses differ: a pointer was printed, hashed or sent",
            Cause::Surroundings => "the process id or the working directory shows: neither follows from the seed",
            Cause::End => {
                "one run ended where the other went on: whatever ended it does not follow from the seed; `replay` \
                 tells how it ends"
            }
            Cause::Unknown => {
                "not one that is known here: look at what comes before it in the process that it happened at"
            }
        }
    }
}

impl Divergence {
    /// The likely cause.
    pub(crate) fn cause(&self, around: &[Surroundings; 2]) -> Cause {
        let [first, second] = &self.sides;
        let (Some(one), Some(other)) = (first.first(), second.first()) else { return Cause::End };
        if same(one, other) {
            return if one.at == other.at { Cause::Unknown } else { Cause::Clock };
        }
        // Where the other side has each of the two, as far as was read on.
        let there = [(one, second), (other, first)].map(|(item, side)| side.iter().find(|seen| same(seen, item)));
        if let [Some(later), Some(too)] = there {
            let near = |item: &Step, seen: &Step| item.at.abs_diff(seen.at) < NEAR;
            return if near(one, later) && near(other, too) { Cause::Order } else { Cause::Clock };
        }
        if one.place == other.place && shuffled(&one.what, &other.what) {
            return Cause::Order;
        }
        if one.place != other.place {
            return Cause::Unknown;
        }
        let words = differing(&one.what, &other.what);
        if surrounded(&words, &[&one.what, &other.what], around) {
            Cause::Surroundings
        } else if words.iter().all(|word| is_address(word)) {
            Cause::Address
        } else if words.iter().all(|word| is_time(word)) {
            Cause::Clock
        } else if words.iter().all(|word| word.len() >= ID_MIN) {
            Cause::Entropy
        } else {
            Cause::Unknown
        }
    }

    /// For how many characters the two differing items say the same.
    pub(crate) fn equal_chars(&self) -> usize {
        let [Some(one), Some(other)] = [&self.sides[0], &self.sides[1]].map(|side| side.first()) else { return 0 };
        one.what.chars().zip(other.what.chars()).take_while(|(a, b)| a == b).count()
    }
}

/// Whether it is the same thing, whenever it happened.
fn same(one: &Step, other: &Step) -> bool {
    one.place == other.place && one.what == other.what
}

/// Whether the same words or letters stand in another order.
fn shuffled(one: &str, other: &str) -> bool {
    let words = |text: &str| {
        let mut words: Vec<String> = text.split(|c: char| !c.is_alphanumeric()).map(str::to_owned).collect();
        words.sort();
        words
    };
    let bytes = |text: &str| {
        let mut bytes = text.as_bytes().to_vec();
        bytes.sort_unstable();
        bytes
    };
    one != other && (words(one) == words(other) || bytes(one) == bytes(other))
}

/// The words in which two texts begin to differ.
fn differing<'a>(one: &'a str, other: &'a str) -> [&'a str; 2] {
    let equal = one.bytes().zip(other.bytes()).take_while(|(a, b)| a == b).count();
    [one, other].map(|text| {
        let in_word = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        let begin = equal - text.as_bytes()[..equal].iter().rev().take_while(|byte| in_word(byte)).count();
        let end = equal + text.as_bytes()[equal..].iter().take_while(|byte| in_word(byte)).count();
        text.get(begin..end).unwrap_or_default()
    })
}

fn surrounded(words: &[&str; 2], texts: &[&str; 2], around: &[Surroundings; 2]) -> bool {
    let pids = (0..2).all(|side| words[side] == around[side].pid.to_string());
    let dir = |side: usize| around[side].dir.display().to_string();
    let dirs = (0..2).all(|side| texts[side].contains(&dir(side)) && !texts[side].contains(&dir(1 - side)));
    pids || dirs && dir(0) != dir(1)
}

/// Whether it is where heaps, stacks and programs lie on 64 bits.
fn is_address(word: &str) -> bool {
    const LOW: u64 = 0x5500_0000_0000;
    const HIGH: u64 = 0x7fff_ffff_ffff;
    let hex = word.strip_prefix("0x").unwrap_or(word);
    let number = word.parse().or_else(|_| u64::from_str_radix(hex, 16));
    number.is_ok_and(|number: u64| (LOW..=HIGH).contains(&number))
}

/// Whether it counts seconds, or thousandths, millionths or billionths of one, since 1970, in our days.
fn is_time(word: &str) -> bool {
    // 2020 to 2100.
    let days = 1_577_836_800..=4_102_444_800_u64;
    word.parse::<u64>()
        .is_ok_and(|number| [1, 1_000, 1_000_000, 1_000_000_000].iter().any(|unit| days.contains(&(number / unit))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(millis: u64, place: &str, what: &str) -> Step {
        Step { digest: String::new(), at: Duration::from_millis(millis), place: place.into(), what: what.into() }
    }

    fn cause(first: Vec<Step>, second: Vec<Step>) -> Cause {
        let around = [(41, "/home/ann/shop"), (42, "/tmp")];
        let around = around.map(|(pid, dir)| Surroundings { pid, dir: dir.into() });
        Divergence { item: 1, before: Vec::new(), sides: [first, second] }.cause(&around)
    }

    fn bytes(one: &str, other: &str) -> Cause {
        cause(vec![item(5, "a->b", one)], vec![item(5, "a->b", other)])
    }

    #[test]
    fn order() {
        let (one, other) = (item(5, "a->b", "GET x"), item(5, "a->c", "GET y"));
        assert_eq!(cause(vec![one.clone(), other.clone()], vec![other, one]), Cause::Order);
        assert_eq!(bytes("DEL ann ben cid", "DEL cid ann ben"), Cause::Order);
        assert_eq!(bytes("CLAIM 0123456789", "CLAIM 4710625398"), Cause::Order);
    }

    #[test]
    fn clocks() {
        assert_eq!(cause(vec![item(5, "a", "x")], vec![item(6, "a", "x")]), Cause::Clock);
        let (one, other) = (item(5, "a->b", "GET x"), item(905, "a->b", "GET x"));
        let between = item(500, "c", "tick");
        assert_eq!(cause(vec![one, between.clone()], vec![between, other]), Cause::Clock);
        assert_eq!(bytes("at 1764000000123", "at 1764000000456"), Cause::Clock);
        assert_eq!(bytes("at 1764000000", "at 1764000001"), Cause::Clock);
    }

    #[test]
    fn entropy() {
        let ids = ["8c5f4a7e-96c1-4a6c-9f66-1f2d3c4b5a69", "17d0c9ba-1111-4c6c-8f66-2f2d3c4b5a60"];
        assert_eq!(bytes(&format!("SET run:{} 1", ids[0]), &format!("SET run:{} 1", ids[1])), Cause::Entropy);
    }

    #[test]
    fn addresses_and_surroundings() {
        assert_eq!(bytes("at 0x7f12a4b5c6d0", "at 0x7ffe00112233"), Cause::Address);
        assert_eq!(bytes("worker 41 is up", "worker 42 is up"), Cause::Surroundings);
        assert_eq!(bytes("in /home/ann/shop", "in /tmp"), Cause::Surroundings);
    }

    #[test]
    fn ends_and_riddles() {
        assert_eq!(cause(vec![item(5, "a", "x")], Vec::new()), Cause::End);
        assert_eq!(bytes("3 rows", "4 rows"), Cause::Unknown);
        assert_eq!(bytes("", "4 rows"), Cause::Unknown);
    }
}
