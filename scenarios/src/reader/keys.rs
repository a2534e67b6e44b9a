//! What Redis keeps: leases, the live view, notes of ended runs, streams. A key that none of these explains is `unknown`.

use std::collections::BTreeMap;

use lychgate::live::keys;
use lychgate_sim::standins::redis::observation::{Command, Key};

use super::Misread;
use super::commands::Script;
use crate::events::{Did, KeyEvent, KeyKind, LiveEvent};
use crate::names::session_of;

/// Entries of a stream after which it is told again.
const STREAM_STEP: usize = 1000;

/// What was told of Redis's keys.
#[derive(Default)]
pub(super) struct Keys {
    /// The holder of each lease: run and fence, by the key.
    leases: BTreeMap<String, (String, i64)>,
    /// What was told of a stream last: whether it lapses, and how many thousands of entries it has.
    streams: BTreeMap<String, (bool, usize)>,
}

impl Keys {
    /// `label` knows the label of a run by its id.
    pub(super) fn read(
        &mut self,
        command: &Command,
        label: impl Fn(&str) -> Option<String>,
    ) -> Result<Vec<Did>, Misread> {
        let mut all = Vec::new();
        for key in &command.keys {
            let name = String::from_utf8_lossy(&key.name).into_owned();
            let did = if name.starts_with(keys::LEASE_OF) {
                self.lease(command, name, key, &label)?
            } else if let Some(rest) = name.strip_prefix(keys::STREAM) {
                self.stream(&name, rest, key, &label)
            } else if let Some(run) = name.strip_prefix(keys::ENDED) {
                label(run).map(|run| kept(KeyKind::Ended, Some(run), key))
            } else if name == keys::LIVE {
                Some(kept(KeyKind::Live, None, key))
            } else {
                Some(kept(KeyKind::Unknown, None, key))
            };
            all.extend(did);
        }
        Ok(all)
    }

    fn lease(
        &mut self,
        command: &Command,
        name: String,
        key: &Key,
        label: &impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Did>, Misread> {
        if key.entries == 0 {
            let released =
                |(run, fence): (String, i64)| Did::Live(LiveEvent::Released { session: session_of(&run), run, fence });
            return Ok(self.leases.remove(&name).map(released));
        }
        let taken = command.reply.as_ref() == b":1\r\n";
        let script = Script::of(command)?.filter(|script| *script.source == keys::LEASE_SOURCE && taken);
        let Some(script) = script else { return Ok(None) };
        let Some(run) = label(script.text("run")?) else { return Ok(None) };
        let fence = script.int("fence")?;
        self.leases.insert(name, (run.clone(), fence));
        Ok(Some(Did::Live(LiveEvent::Leased { session: session_of(&run), run, fence, lasts: lasts(key) })))
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
        let mut kept = kept(KeyKind::Stream, Some(run), key);
        if let Did::Key(KeyEvent::Kept { key, .. }) = &mut kept {
            *key = format!("{key} under {fence}");
        }
        Some(kept)
    }
}

fn lasts(key: &Key) -> Option<u64> {
    key.ttl.map(|ttl| ttl.as_millis().div_ceil(1000) as u64)
}

fn kept(kind: KeyKind, run: Option<String>, key: &Key) -> Did {
    let session = run.as_deref().map(session_of);
    let label = run.map_or_else(|| kind.word().to_string(), |run| format!("{} {run}", kind.word()));
    Did::Key(KeyEvent::Kept { session, key: label, kind, entries: key.entries, lasts: lasts(key) })
}
