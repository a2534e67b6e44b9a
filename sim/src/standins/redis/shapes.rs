//! The shapes of commands: their names, their options and the names of scripts.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::resp::take_command;
use crate::standins::shapes::{Lane, Shapes};

/// The commands that were seen.
#[derive(Debug, Default)]
pub(super) struct Commands {
    seen: BTreeSet<String>,
    /// Scripts by their hash, named by their first line.
    scripts: BTreeMap<String, String>,
    /// Hashes that were called. One that is never loaded never runs either.
    called: BTreeSet<String>,
}

impl Shapes for Commands {
    fn read(&mut self, lane: &mut Lane, up: bool) -> Option<()> {
        if !up {
            lane.bytes.clear();
            return None;
        }
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

    fn seen(&self) -> BTreeSet<String> {
        let called = self.called.iter().map(|hash| match self.scripts.get(hash) {
            Some(name) => format!("redis script {name}"),
            None => "redis EVALSHA of what is not loaded".to_owned(),
        });
        self.seen.iter().cloned().chain(called).collect()
    }
}

impl Commands {
    fn script(&mut self, body: &Bytes) -> String {
        let hash = sha1_smol::Sha1::from(body).digest().to_string();
        let text = String::from_utf8_lossy(body);
        let first = text.lines().next().and_then(|line| line.strip_prefix("-- "));
        let name = first.map_or_else(|| hash.clone(), str::to_owned);
        self.scripts.insert(hash, name.clone());
        format!(" {name}")
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
