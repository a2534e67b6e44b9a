//! What Redis executed. A script is known by its source, a key by what it begins with; both are the product's.

use lychgate::live::Kind;
use lychgate::live::keys::{self, Source};
use lychgate::run::Status;
use lychgate_sim::standins::redis::observation::Command;

use super::{LychgateReader, Misread};
use crate::events::{Did, LiveEvent};

/// Every script of the product.
const SOURCES: [&Source; 4] = [&keys::SHOW_SOURCE, &keys::END_SOURCE, &keys::LEASE_SOURCE, &keys::RELEASE_SOURCE];

/// A script that Redis executed, with what it was given.
pub(super) struct Script {
    pub(super) source: &'static Source,
    args: Vec<String>,
}

impl Script {
    /// `None`: the command runs no script, or was refused.
    pub(super) fn of(command: &Command) -> Result<Option<Self>, Misread> {
        let is = |name: &str| command.words.first().is_some_and(|first| first.eq_ignore_ascii_case(name.as_bytes()));
        if !is("EVAL") && !is("EVALSHA") || command.reply.first() == Some(&b'-') {
            return Ok(None);
        }
        let mut words = command.words.iter().skip(1).map(|word| String::from_utf8_lossy(word).into_owned());
        let (text, keys) = (words.next().unwrap_or_default(), words.next().and_then(|keys| keys.parse::<usize>().ok()));
        let name = text.lines().next().unwrap_or_default();
        let source = SOURCES.into_iter().find(|source| source.text == text);
        let source = source.ok_or_else(|| Misread(format!("no script of the product is `{name}`")))?;
        let args: Vec<String> = words.skip(source.keys.len()).collect();
        if keys != Some(source.keys.len()) || args.len() != source.args.len() {
            return Err(Misread(format!("the script `{name}` was not given what it takes")));
        }
        Ok(Some(Script { source, args }))
    }

    /// The argument of this name.
    pub(super) fn text(&self, name: &str) -> Result<&str, Misread> {
        let place = self.source.args.iter().position(|arg| *arg == name);
        place.map(|place| self.args[place].as_str()).ok_or_else(|| self.is_no(name, "argument"))
    }

    /// The argument of this name, which is a number.
    pub(super) fn int(&self, name: &str) -> Result<i64, Misread> {
        self.text(name)?.parse().map_err(|_| self.is_no(name, "number"))
    }

    fn is_no(&self, name: &str, what: &str) -> Misread {
        let script = self.source.text.lines().next().unwrap_or_default();
        Misread(format!("`{name}` is no {what} of the script `{script}`"))
    }
}

impl LychgateReader {
    pub(super) fn command(&mut self, command: &Command, process: &str) -> Result<Vec<Did>, Misread> {
        self.read_along(command, process);
        let did = match Script::of(command)? {
            Some(script) => self.script(&script, command)?,
            None if command.words.first().is_some_and(|first| first.eq_ignore_ascii_case(b"XADD")) => {
                self.frame(command)?
            }
            None => None,
        };
        let label = |id: &str| self.runs.get(id).map(|run| run.label.clone());
        let kept = self.keys.read(command, label)?;
        Ok(did.into_iter().chain(kept).collect())
    }

    fn script(&mut self, script: &Script, command: &Command) -> Result<Option<Did>, Misread> {
        let did_it = command.reply.as_ref() == b":1\r\n";
        let Some(run) = self.runs.get_mut(script.text("run")?) else { return Ok(None) };
        let (session, label) = (run.session.clone(), run.label.clone());
        if *script.source == keys::END_SOURCE {
            run.unshown = true;
            return Ok(Some(Did::Live(LiveEvent::Unshown { session, run: label })));
        }
        if *script.source != keys::SHOW_SOURCE || !did_it {
            return Ok(None);
        }
        // The view has one entry a session: another run's is gone.
        let others = self.runs.values_mut().filter(|run| run.session == session && run.label != label);
        others.for_each(|run| run.unshown = true);
        let status = Status::parse(script.text("status")?).ok_or_else(|| script.is_no("status", "status"))?;
        Ok(Some(Did::Live(LiveEvent::Shown { session, run: label, fence: script.int("fence")?, status })))
    }

    /// A frame that was added to a stream, if it was.
    fn frame(&self, command: &Command) -> Result<Option<Did>, Misread> {
        let words: Vec<_> = command.words.iter().map(|word| String::from_utf8_lossy(word)).collect();
        let stream = words.get(1).and_then(|key| key.strip_prefix(keys::STREAM)?.split_once(':'));
        let (Some((run, fence)), Some(b'$')) = (stream, command.reply.first()) else { return Ok(None) };
        let Some((session, run)) = self.named(run) else { return Ok(None) };
        let kind_at = words.iter().position(|word| word == keys::FRAME_KIND);
        let read = || {
            let (turn, seq) = words.get(kind_at? - 1)?.split_once('-')?;
            let kind = Kind::parse(words.get(kind_at? + 1)?)?;
            Some((fence.parse().ok()?, turn.parse().ok()?, seq.parse().ok()?, kind))
        };
        let (fence, turn, seq, kind) = read().ok_or_else(|| Misread(format!("a frame of {run} is none: {words:?}")))?;
        Ok(Some(Did::Live(LiveEvent::Framed { session, run, fence, turn, seq, kind })))
    }

    /// Whose frames a process waits for.
    fn read_along(&mut self, command: &Command, process: &str) {
        if !command.words.first().is_some_and(|first| first.eq_ignore_ascii_case(b"XREAD")) {
            return;
        }
        // Its last two words are the key and where to go on.
        let key = command.words.iter().rev().nth(1).map(|key| String::from_utf8_lossy(key));
        let run = key.as_deref().and_then(|key| key.strip_prefix(keys::STREAM)?.split(':').next());
        if let Some(run) = run {
            self.reading.insert(process.to_owned(), run.to_owned());
        }
    }
}
