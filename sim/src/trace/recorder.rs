//! What is kept of a run: its digest, its trace on disk, its story and how often each event happened.
//! Its one law: the recorder draws nothing and hashes nothing at random, so that watching a run does not change it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::trace::anchor::Anchor;
use crate::trace::event::{Event, ProductEvent, What, WorldEvent};
use crate::trace::step::{Line, Step, Steps};

/// The version of the trace's format, in its first line.
pub const VERSION: u32 = 1;

/// The first line of a trace.
#[derive(Serialize)]
struct Header<'a> {
    version: u32,
    scenario: &'a str,
    seed: u64,
}

/// Hears chunks on links: the link, the connection, whether it goes up, the bytes.
pub type ChunkEar = Box<dyn FnMut(&str, u32, bool, &[u8]) + Send>;

/// Keeps what happened.
pub struct Recorder {
    digest: Sha256,
    file: Option<BufWriter<File>>,
    items: Option<Steps>,
    /// The first failure to write the trace, if there was one.
    broken: Option<String>,
    line: Vec<u8>,
    events: u64,
    reached: BTreeMap<&'static str, u64>,
    story: Vec<String>,
    /// The events on which a fault can be hung, if they are listed.
    anchors: Option<Vec<Anchor>>,
    /// Everything heals: from here on no fault begins.
    healed: bool,
    /// Hears every chunk as well.
    ear: Option<ChunkEar>,
    /// The connections of whose chunks the ear hears no more.
    unheard: BTreeSet<(String, u32)>,
}

impl Recorder {
    /// A recorder that writes JSON lines to `path`, if there is one.
    ///
    /// # Errors
    /// When the file cannot be created or written.
    pub fn new(path: Option<&Path>, scenario: &str, seed: u64) -> io::Result<Recorder> {
        let file = match path {
            Some(path) => {
                let mut file = BufWriter::new(File::create(path)?);
                serde_json::to_writer(&mut file, &Header { version: VERSION, scenario, seed })?;
                file.write_all(b"\n")?;
                Some(file)
            }
            None => None,
        };
        Ok(Recorder {
            digest: Sha256::new(),
            file,
            items: None,
            broken: None,
            line: Vec::new(),
            events: 0,
            reached: BTreeMap::new(),
            story: Vec::new(),
            anchors: None,
            healed: false,
            ear: None,
            unheard: BTreeSet::new(),
        })
    }

    /// Streams every item to `out` as well, in batches.
    pub fn streaming(mut self, out: Option<Arc<File>>) -> Recorder {
        self.items = out.map(Steps::new);
        self
    }

    /// Lists the events on which a fault can be hung, if `listed`.
    pub fn anchoring(mut self, listed: bool) -> Recorder {
        self.anchors = listed.then(Vec::new);
        self
    }

    /// Lets `ear` hear every chunk as well: the link, the connection, whether it goes up, the bytes.
    pub fn heard_by(mut self, ear: Option<ChunkEar>) -> Recorder {
        self.ear = ear;
        self
    }

    /// Takes the next event: its place in the trace is [`Recorder::events`] at the time of the call.
    pub fn event<O: ProductEvent>(&mut self, event: &Event<O>) {
        self.events += 1;
        *self.reached.entry(event.what.name()).or_default() += 1;
        self.story.extend(tell(event));
        self.healed |= matches!(&event.what, What::World(WorldEvent::Phase { name: "heal" }));
        if let Some(anchors) = self.anchors.as_mut().filter(|_| !self.healed) {
            anchors.push(Anchor::of(event));
        }
        self.line.clear();
        if let Err(error) = serde_json::to_writer(&mut self.line, event) {
            self.broken.get_or_insert_with(|| format!("event {} does not serialise: {error}", event.seq));
        }
        self.line.push(b'\n');
        self.digest.update(b"E");
        self.digest.update(&self.line);
        if let Some(file) = &mut self.file
            && let Err(error) = file.write_all(&self.line)
        {
            self.broken.get_or_insert_with(|| format!("the trace cannot be written: {error}"));
        }
        self.stream(|digest| Step::event(event, digest));
    }

    /// Folds a chunk into the digest, with where, which way and when it went.
    pub fn chunk(&mut self, link: &str, conn: u32, up: bool, bytes: &[u8], at: Duration) {
        let digest = &mut self.digest;
        digest.update([b'C', u8::from(up)]);
        digest.update((link.len() as u64).to_le_bytes());
        digest.update(link.as_bytes());
        digest.update(conn.to_le_bytes());
        digest.update(at.as_nanos().to_le_bytes());
        digest.update((bytes.len() as u64).to_le_bytes());
        digest.update(bytes);
        if let Some(ear) = &mut self.ear
            && !self.unheard.contains(&(link.to_owned(), conn))
        {
            ear(link, conn, up, bytes);
        }
        self.stream(|digest| Step::chunk(link, conn, up, bytes, at, digest));
    }

    /// Keeps the chunks of a connection from the ear: what a fault has changed was said by nobody.
    pub fn unheard(&mut self, link: &str, conn: u32) {
        self.unheard.insert((link.to_owned(), conn));
    }

    fn stream(&mut self, item: impl FnOnce(String) -> Step) {
        if self.items.is_none() {
            return;
        }
        let line = Line::Step(item(self.digest()));
        if let Some(Err(error)) = self.items.as_mut().map(|items| items.write(&line)) {
            self.broken.get_or_insert_with(|| format!("the items cannot be streamed: {error}"));
        }
    }

    /// How many events there are so far.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// How often each event happened.
    pub fn reached(&self) -> BTreeMap<String, u64> {
        self.reached.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
    }

    /// The story so far.
    pub fn story(&self) -> &[String] {
        &self.story
    }

    /// The events so far on which a fault can be hung, if they are listed.
    pub fn anchors(&self) -> &[Anchor] {
        self.anchors.as_deref().unwrap_or_default()
    }

    /// The digest so far, in hexadecimal.
    pub fn digest(&self) -> String {
        self.digest.clone().finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Writes out what is buffered; says what went wrong with the trace, if anything did.
    pub fn flush(&mut self) -> Option<String> {
        if let Some(Err(error)) = self.file.as_mut().map(BufWriter::flush) {
            self.broken.get_or_insert_with(|| format!("the trace cannot be written: {error}"));
        }
        if let Some(Err(error)) = self.items.as_mut().map(Steps::flush) {
            self.broken.get_or_insert_with(|| format!("the items cannot be streamed: {error}"));
        }
        self.broken.clone()
    }
}

/// The line that a person would tell: the product's own, and what befell its world. A first boot is no news.
fn tell<O: ProductEvent>(event: &Event<O>) -> Option<String> {
    let process = &event.process;
    match &event.what {
        What::Product(occurrence) => occurrence.story(),
        What::World(happening) => match happening {
            WorldEvent::Booted if event.incarnation > 1 => Some(format!("{process} boots again")),
            WorldEvent::Signalled { .. } => Some(format!("{process} gets SIGTERM")),
            WorldEvent::Exited { code } => Some(format!("{process} exits with code {code}")),
            WorldEvent::Killed => Some(format!("{process} is killed")),
            WorldEvent::Panicked => Some(format!("{process} panics and is gone")),
            WorldEvent::Paused => Some(format!("{process} is paused")),
            WorldEvent::Resumed => Some(format!("{process} goes on")),
            WorldEvent::FaultStruck { kind, target, .. } => kind.struck(target),
            // A moment leaves nothing to heal.
            WorldEvent::FaultHealed { kind, target, lasted: true, .. } => kind.healed(target),
            _ => None,
        },
    }
}
