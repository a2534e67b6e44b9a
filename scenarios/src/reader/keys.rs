//! What Redis keeps: leases, the live view, notes of ended runs, streams. A key that none of these explains is `unknown`.

use std::collections::BTreeMap;

use lychgate_sim::standins::redis::observation::{Command, Key};

use super::session_of;
use crate::events::Did;

/// Entries of a stream after which it is told again.
const STREAM_STEP: usize = 1000;

/// What was told of Redis's keys.
#[derive(Default)]
pub(super) struct Keys {
    /// Who holds a lease: run and fence, by the key.
    leases: BTreeMap<String, (String, i64)>,
    /// What was told of a stream last: whether it lapses, and how many thousands of entries it has.
    streams: BTreeMap<String, (bool, usize)>,
}

impl Keys {
    /// `label` knows the label of a run by its id.
    pub(super) fn read(&mut self, command: &Command, label: impl Fn(&str) -> Option<String>) -> Vec<Did> {
        let mut all = Vec::new();
        for key in &command.keys {
            let name = String::from_utf8_lossy(&key.name).into_owned();
            let did = match name.strip_prefix("lychgate:").unwrap_or_default().split_once(':') {
                Some(("lease", _)) => self.lease(command, name, key, &label),
                Some(("stream", rest)) => self.stream(&name, rest, key, &label),
                Some(("ended", run)) => label(run).map(|run| kept("ended", Some(run), key)),
                None if name == "lychgate:live" => Some(kept("live", None, key)),
                _ => Some(kept("unknown", None, key)),
            };
            all.extend(did);
        }
        all
    }

    fn lease(
        &mut self,
        command: &Command,
        name: String,
        key: &Key,
        label: &impl Fn(&str) -> Option<String>,
    ) -> Option<Did> {
        if key.entries == 0 {
            let (run, fence) = self.leases.remove(&name)?;
            return Some(Did::Released { session: session_of(&run), run, fence });
        }
        let word = |n: usize| command.words.get(n).map(|word| String::from_utf8_lossy(word)).unwrap_or_default();
        if !word(1).starts_with("-- lease.take") || command.reply.as_ref() != b":1\r\n" {
            return None;
        }
        let (run, fence) = (label(&word(4))?, word(5).parse().ok()?);
        self.leases.insert(name, (run.clone(), fence));
        Some(Did::Leased { session: session_of(&run), run, fence, lasts: lasts(key) })
    }

    fn stream(&mut self, name: &str, rest: &str, key: &Key, label: &impl Fn(&str) -> Option<String>) -> Option<Did> {
        let (run, fence) = rest.split_once(':')?;
        let run = label(run)?;
        let now = (key.ttl.is_some(), key.entries / STREAM_STEP);
        if key.entries == 0 {
            self.streams.remove(name)?;
        } else if self.streams.insert(name.to_string(), now) == Some(now) {
            return None;
        }
        let mut kept = kept("stream", Some(run), key);
        if let Did::Kept { key, .. } = &mut kept {
            *key = format!("{key} under {fence}");
        }
        Some(kept)
    }
}

fn lasts(key: &Key) -> Option<u64> {
    key.ttl.map(|ttl| ttl.as_millis().div_ceil(1000) as u64)
}

fn kept(kind: &'static str, run: Option<String>, key: &Key) -> Did {
    let session = run.as_deref().map(session_of);
    let label = run.map_or_else(|| kind.to_string(), |run| format!("{kind} {run}"));
    Did::Kept { session, key: label, kind, entries: key.entries, lasts: lasts(key) }
}
