//! One connection through a relay. One task owns both sockets. Before each step it reads which faults stand on the link, so a
//! standing fault begins and ends between two steps; `cut`, `corrupt` and `trickle` change the chunk of the step itself.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use hyper::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Sleep;

use super::lane::{Held, Lane};
use super::repeat::Repeat;
use super::{Epochs, Link, LinkObserver, Lost, QUIET, REQUESTS_TOLD, ReplyFault, Target};
use crate::plan::Direction;
use crate::standins::listener::Stream;
use crate::trace::event::{Side, WorldEvent};
use crate::trace::fault::FaultId;

/// One read. A chunk of the simulation that is longer is carried in several.
const READ: usize = 16 * 1024;
/// What the relay takes from one side while it cannot pass it on; beyond it the transport pushes back.
const HELD_MAX: usize = 1 << 20;
/// How much of the last request is kept to find out what an answer is about.
const REQUEST_MAX: usize = 8 * 1024;
/// How much of the preceding bytes a pattern may straddle.
const TAIL: usize = 128;
/// For real networks, where connecting may take for ever.
const DIAL_MAX: Duration = Duration::from_secs(10);
/// Longer than any statement may take.
#[cfg(not(madsim))]
const DRAIN_REPLIES_MAX: Duration = Duration::from_secs(6);

/// A connection through the relay.
pub(super) struct Conversation {
    link: Arc<Link>,
    observer: Arc<dyn LinkObserver>,
    conn: u32,
    incarnation: u32,
    epochs: Epochs,
    /// One end's host is lost, or it is half-open: nothing is carried.
    mute: bool,
    /// The strikes that made it half-open, each with its fault.
    half_open: Vec<(FaultId, u32)>,
    /// The strikes that its requests have drawn on it.
    drawn: Vec<u32>,
    /// The process's side; `None` once it has ended.
    near: Option<Stream>,
    /// The service's side; `None` before it is dialled and once it has ended.
    far: Option<Stream>,
    far_ended: bool,
    up: Lane,
    down: Lane,
    dial: Held,
    /// Bytes sent by the process since the last answer, the newest [`REQUEST_MAX`].
    request: Vec<u8>,
    answered: bool,
    /// Since when the oldest unanswered bytes wait.
    waiting: Option<Duration>,
    quiet_told: bool,
    /// The fault that will spoil the next bytes of answer.
    reply_fault: Option<(FaultId, ReplyFault)>,
    /// The request that will be delivered once more, when its answer begins.
    repeat: Option<Repeat>,
    /// A fault has ended it; what was read before may still be carried.
    severed: bool,
    closed_told: bool,
}

/// Whether there is more to do.
#[derive(PartialEq)]
enum Step {
    Wait(Duration),
    Over,
}

impl Conversation {
    pub(super) fn new(
        link: Arc<Link>,
        observer: Arc<dyn LinkObserver>,
        near: TcpStream,
        conn: u32,
        incarnation: u32,
        epochs: Epochs,
    ) -> Self {
        let now = observer.now();
        Conversation {
            link,
            observer,
            conn,
            incarnation,
            epochs,
            mute: false,
            half_open: Vec::new(),
            drawn: Vec::new(),
            near: Some(Stream::Tcp(near)),
            far: None,
            far_ended: false,
            up: Lane::default(),
            down: Lane::default(),
            dial: Held::since(now),
            request: Vec::new(),
            answered: false,
            waiting: None,
            quiet_told: false,
            reply_fault: None,
            repeat: None,
            severed: false,
            closed_told: false,
        }
    }

    /// Ends it before it began: a fault closes new connections.
    pub(super) fn refuse(mut self, fault: FaultId) {
        self.closed_by_fault(fault);
    }

    /// Carries bytes until either side, a fault or a death ends it.
    pub(super) async fn run(mut self, target: Target) {
        self.carry(target).await;
        #[cfg(not(madsim))]
        self.drain_replies().await;
    }

    /// Reads what the service still answers after the process's side has ended, for an observer that wants to know what came
    /// of the last requests.
    #[cfg(not(madsim))]
    async fn drain_replies(&mut self) {
        if !self.observer.over(&self.link, self.conn) {
            return;
        }
        let Some(mut far) = self.far.take() else { return };
        let (link, observer, conn) = (&self.link, &self.observer, self.conn);
        let answers = async {
            let _ = far.shutdown().await; // one that is gone answers no more
            let mut bytes = vec![0; READ];
            while let Ok(read @ 1..) = far.read(&mut bytes).await {
                observer.returned(link, conn, &bytes[..read]);
            }
        };
        let _ = tokio::time::timeout(DRAIN_REPLIES_MAX, answers).await; // then it is no answer but a stream
    }

    async fn carry(&mut self, target: Target) {
        let link = self.link.clone();
        let mut from_near = Vec::with_capacity(READ);
        let mut from_far = Vec::with_capacity(READ);
        let mut alarm = Alarm::default();
        loop {
            let changed = link.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let wake = match self.step(&target).await {
                Step::Over => return,
                Step::Wait(wake) => wake,
            };
            if self.answered
                && let Some(repeat) = self.repeat.take()
            {
                let (link, observer) = (self.link.clone(), self.observer.clone());
                tokio::spawn(repeat.deliver(link, observer, self.incarnation, target.clone()));
            }
            alarm.set(wake, &*self.observer);
            let near_open = self.near.is_some() && self.up.bytes < HELD_MAX;
            let far_open = self.far.is_some() && self.down.bytes < HELD_MAX;
            tokio::select! {
                biased;
                () = changed => {}
                () = read(&mut self.near, &mut from_near), if near_open => self.near_read(&from_near),
                () = read(&mut self.far, &mut from_far), if far_open => self.far_read(&from_far),
                () = alarm.rings(&*self.observer), if alarm.is_set() => {}
            }
        }
    }

    /// Does everything that can be done now.
    async fn step(&mut self, target: &Target) -> Step {
        loop {
            let (epochs, closed_by, expired, away) = {
                let state = self.link.state();
                (state.epochs, state.closed_by, state.expired, state.far_away)
            };
            if epochs.closed != self.epochs.closed {
                if let Some(fault) = closed_by {
                    self.closed_by_fault(fault);
                }
                return Step::Over;
            }
            if epochs.lost != self.epochs.lost {
                self.lose(epochs.lost);
            }
            if epochs.near_cut != self.epochs.near_cut {
                self.epochs.near_cut = epochs.near_cut;
                self.near_end();
            }
            if epochs.far_cut != self.epochs.far_cut {
                self.epochs.far_cut = epochs.far_cut;
                // One that has not reached the dead waits for the next life.
                if !away || self.far.is_some() {
                    self.far_end();
                }
            }
            let now = self.observer.now();
            let half_open = self.link.half_open(self.conn);
            self.silence(&half_open);
            if self.mute {
                let Lost { near, far } = self.epochs.lost;
                let expired =
                    half_open.is_empty() && (near == 0 || near <= expired.near) && (far == 0 || far <= expired.far);
                if expired || (self.near.is_none() && self.far.is_none()) {
                    self.tell_closed(if self.near.is_none() { Side::Process } else { Side::Fault });
                    return Step::Over;
                }
                return Step::Wait(self.tell_quiet(now));
            }
            if self.severed && self.near.is_none() {
                return Step::Over;
            }
            let up = self.link.wedged_by(Direction::Up, &self.drawn);
            let down = self.link.wedged_by(Direction::Down, &self.drawn);
            // No request has been made before the service is dialled: only what holds whatever goes up holds that.
            let dial = self.link.wedged_by(Direction::Up, &[]);
            let mut wake = self.tell_quiet(now).min(self.hold(&up, &down, &dial, now));
            if !up.is_empty() && !down.is_empty() {
                return Step::Wait(wake);
            }
            if self.far.is_none() && !self.far_ended && (away || !dial.is_empty()) {
                return Step::Wait(wake);
            }
            if self.far.is_none() && !self.far_ended {
                if !self.dial(target).await {
                    return Step::Over;
                }
                continue; // time has passed, and the link may have changed
            }
            if up.is_empty() {
                wake = wake.min(self.carry_up(now).await);
            }
            if down.is_empty() {
                wake = wake.min(self.carry_down(now).await);
            }
            // An end is held as bytes are.
            let up_done = up.is_empty() && self.near.is_none() && self.up.chunks.is_empty();
            let down_done = down.is_empty() && self.far_ended && self.down.chunks.is_empty();
            if up_done || down_done || (self.near.is_none() && self.far_ended) {
                self.tell_closed(match (&self.near, self.severed) {
                    (None, _) => Side::Process,
                    (_, true) => Side::Fault,
                    (_, false) => Side::Service,
                });
                return Step::Over;
            }
            return Step::Wait(wake);
        }
    }

    /// What these faults make late of each direction and of dialling. Returns when that must be told.
    fn hold(&mut self, up: &[FaultId], down: &[FaultId], dial: &[FaultId], now: Duration) -> Duration {
        let (link, observer) = (&*self.link, &*self.observer);
        let mut wake = Duration::MAX;
        let mut each = |held: &mut Held, faults: &[FaultId], label: &dyn Fn() -> Option<String>| {
            if faults.is_empty() {
                return;
            }
            held.by(faults, label);
            wake = wake.min(held.tell(link, observer, now).unwrap_or(Duration::MAX));
        };
        if self.far.is_none() && !self.far_ended && self.near.is_some() {
            each(&mut self.dial, dial, &|| observer.serves(link));
        }
        for chunk in &mut self.up.chunks {
            let bytes = &chunk.bytes;
            let label = || observer.mentions(link, bytes).or_else(|| observer.mentions(link, &self.request));
            each(&mut chunk.held, up, &label);
        }
        for chunk in &mut self.down.chunks {
            each(&mut chunk.held, down, &|| observer.mentions(link, &self.request));
        }
        wake
    }

    /// From here on nothing is carried on what has just become half-open. Who waits for an answer waits in vain.
    fn silence(&mut self, half_open: &[(FaultId, u32)]) {
        for one in half_open {
            if self.half_open.contains(one) {
                continue;
            }
            self.half_open.push(*one);
            self.mute = true;
            let waits = self.waiting.is_some() || !self.up.chunks.is_empty() || !self.down.chunks.is_empty();
            if waits && let Some(label) = self.label() {
                self.observer.felt(&self.link, one.0, &label);
            }
            (self.up, self.down) = (Lane::default(), Lane::default());
        }
    }

    /// Bytes came on a half-open connection and are gone.
    fn swallowed(&self, label: Option<String>) {
        if let Some(label) = label {
            self.half_open.iter().for_each(|(fault, _)| self.observer.felt(&self.link, *fault, &label));
        }
    }

    async fn dial(&mut self, target: &Target) -> bool {
        self.dial.tell(&self.link, &*self.observer, self.observer.now());
        let Some((far, local)) = dial_to(target, self.conn).await else {
            self.far_ended = true;
            self.tell_closed(Side::Service);
            return false;
        };
        if let Some(local) = local {
            self.observer.dialled(&self.link, self.incarnation, local);
        }
        self.far = Some(far);
        true
    }

    async fn carry_up(&mut self, now: Duration) -> Duration {
        let pace = self.link.pace(Direction::Up, &self.drawn);
        loop {
            let (link, observer, request) = (&*self.link, &*self.observer, &self.request);
            // What is about nothing by itself, as BEGIN, keeps waiting whatever the process works on.
            let about = || observer.mentions(link, request).or_else(|| observer.serves(link));
            let label = |bytes: &[u8]| observer.mentions(link, bytes).or_else(about);
            let mut chunk = match self.up.next(now, &pace, label) {
                Ok(chunk) => chunk,
                Err(wake) => return wake,
            };
            chunk.held.tell(&self.link, &*self.observer, now);
            let Some(far) = &mut self.far else { continue };
            self.observer.carried(&self.link, self.conn, true, &chunk.bytes);
            if write(far, &chunk.bytes).await.is_err() {
                self.far_end();
            }
        }
    }

    async fn carry_down(&mut self, now: Duration) -> Duration {
        let pace = self.link.pace(Direction::Down, &self.drawn);
        loop {
            let (link, observer, request) = (&*self.link, &*self.observer, &self.request);
            let about = || observer.mentions(link, request).or_else(|| observer.serves(link));
            let mut chunk = match self.down.next(now, &pace, |_| about()) {
                Ok(chunk) => chunk,
                Err(wake) => return wake,
            };
            let Some(near) = &mut self.near else { continue };
            chunk.held.tell(&self.link, &*self.observer, now);
            self.observer.carried(&self.link, self.conn, false, &chunk.bytes);
            let written = write(near, &chunk.bytes).await;
            self.tell_answered();
            if written.is_err() {
                self.near_end();
            }
        }
    }

    fn near_read(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return self.near_end();
        }
        self.observer.spoke(&self.link, self.incarnation, true);
        if self.mute {
            self.ask();
            return self.swallowed(self.observer.mentions(&self.link, bytes).or_else(|| self.label()));
        }
        if self.severed {
            return; // its answer is on its way, and the connection's end behind it
        }
        if std::mem::take(&mut self.answered) {
            self.request.clear();
        }
        let old = self.request.len().min(TAIL);
        self.request.extend_from_slice(bytes);
        let from = self.request.len() - bytes.len() - old;
        self.observer.arrived(&self.link, &self.request[from..], old);
        let now = self.ask();
        if self.reply_fault.is_none() {
            self.reply_fault = self.link.take_reply_fault(&self.request[from..], old);
        }
        if self.reply_fault.is_none()
            && let Some((fault, status)) = self.link.take_answer(&self.request[from..], old)
        {
            return self.answer(fault, status);
        }
        match &mut self.repeat {
            Some(repeat) => repeat.request.extend_from_slice(bytes),
            None => self.repeat(from, old),
        }
        if let Some(fault) = self.draw(from, old) {
            self.closed_by_fault(fault);
            return self.sever();
        }
        let excess = self.request.len().saturating_sub(REQUEST_MAX.max(bytes.len() + old));
        self.request.drain(..excess);
        let delays = self.link.delayed_by(Direction::Up, &self.drawn);
        let (link, observer, request) = (&self.link, &self.observer, &self.request);
        self.up
            .push(bytes, now, &delays, || observer.mentions(link, bytes).or_else(|| observer.mentions(link, request)));
    }

    /// The process waits for an answer from now on, unless it has waited before; returns now.
    fn ask(&mut self) -> Duration {
        let now = self.observer.now();
        if self.waiting.is_none() && self.link.asked() {
            self.tell(WorldEvent::Asked { link: self.link.name.clone(), requests: REQUESTS_TOLD });
        }
        self.waiting.get_or_insert(now);
        now
    }

    fn far_read(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return self.far_end();
        }
        self.observer.spoke(&self.link, self.incarnation, false);
        #[cfg(not(madsim))]
        self.observer.returned(&self.link, self.conn, bytes);
        if self.mute {
            return self.swallowed(self.observer.mentions(&self.link, &self.request));
        }
        self.answered = true;
        match self.reply_fault.take().or_else(|| self.link.take_unmatched_reply_fault()) {
            None => self.take_down(bytes),
            Some((fault, reply_fault)) => {
                if let Some(label) = self.label() {
                    self.observer.felt(&self.link, fault, &label);
                }
                match reply_fault {
                    ReplyFault::Lost => {
                        self.tell_closed(Side::Fault);
                        self.sever();
                    }
                    ReplyFault::Cut => {
                        self.take_down(&bytes[..bytes.len() / 2]);
                        self.severed = true;
                        self.far_end();
                    }
                    ReplyFault::Corrupted => {
                        self.observer.damaged(&self.link, self.conn);
                        let mut changed = bytes.to_vec();
                        changed[0] ^= 0x80;
                        self.take_down(&changed);
                    }
                }
                self.observer.spent(&self.link, fault);
            }
        }
    }

    /// Remembers the request if a fault delivers it once more.
    fn repeat(&mut self, from: usize, old: usize) {
        let Some(fault) = self.link.take_duplicate(&self.request[from..], old) else { return };
        if let Some(label) = self.label() {
            self.observer.felt(&self.link, fault, &label);
        }
        self.repeat = Some(Repeat { fault, request: self.request.clone() });
    }

    /// Something in between answers, as proxies do, and hangs up.
    fn answer(&mut self, fault: FaultId, status: u16) {
        if let Some(label) = self.label() {
            self.observer.felt(&self.link, fault, &label);
        }
        let reason = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or_default();
        let head = format!("HTTP/1.1 {status} {reason}\r\ncontent-type: text/plain\r\nconnection: close\r\n");
        self.take_down(format!("{head}content-length: {}\r\n\r\n{reason}", reason.len()).as_bytes());
        self.severed = true;
        self.far_end();
        self.observer.spent(&self.link, fault);
    }

    /// Keeps what the service said, to be carried.
    fn take_down(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let now = self.observer.now();
        let delays = self.link.delayed_by(Direction::Down, &self.drawn);
        let (link, observer, request) = (&self.link, &self.observer, &self.request);
        self.down.push(bytes, now, &delays, || observer.mentions(link, request));
    }

    /// What the newest part of the request draws upon its connection. Returns the fault that closes it, if one does.
    fn draw(&mut self, from: usize, old: usize) -> Option<FaultId> {
        let mut closed_by = None;
        for (fault, strike, closes) in self.link.drawn(&self.request[from..], old) {
            if closes {
                closed_by = Some(fault);
            }
            if !self.drawn.contains(&strike) {
                self.drawn.push(strike);
            }
        }
        closed_by
    }

    /// A fault has ended it: both sides see the end, and nothing more.
    fn sever(&mut self) {
        self.severed = true;
        (self.near, self.far) = (None, None);
        (self.up, self.down) = (Lane::default(), Lane::default());
        self.far_ended = true;
    }

    /// What this connection is about: its last request, else what the process works on.
    fn label(&self) -> Option<String> {
        self.observer.mentions(&self.link, &self.request).or_else(|| self.observer.serves(&self.link))
    }

    /// The host of an end is lost, and with it whatever was under way.
    fn lose(&mut self, lost: Lost) {
        self.mute = true;
        if lost.near != self.epochs.lost.near {
            self.near = None;
            self.tell_closed(Side::Process);
        }
        if lost.far != self.epochs.lost.far {
            self.far = None;
            self.far_ended = true;
        }
        (self.up, self.down) = (Lane::default(), Lane::default());
        self.epochs.lost = lost;
    }

    fn near_end(&mut self) {
        self.near = None;
        self.tell_held();
        self.tell_closed(Side::Process);
    }

    fn far_end(&mut self) {
        self.far = None;
        self.far_ended = true;
        self.up = Lane::default();
    }

    fn closed_by_fault(&mut self, fault: FaultId) {
        if self.near.is_some()
            && !self.closed_told
            && let Some(label) = self.label()
        {
            self.observer.felt(&self.link, fault, &label);
        }
        self.tell_held();
        self.tell_closed(Side::Fault);
    }

    /// The process will never get what is held now: if that is late already, it has felt it.
    fn tell_held(&mut self) {
        let (link, observer, now) = (&*self.link, &*self.observer, self.observer.now());
        let chunks = self.up.chunks.iter_mut().chain(&mut self.down.chunks);
        for held in chunks.map(|chunk| &mut chunk.held).chain([&mut self.dial]) {
            held.tell(link, observer, now);
        }
    }

    fn tell_closed(&mut self, by: Side) {
        if std::mem::replace(&mut self.closed_told, true) {
            return;
        }
        let unanswered = self.waiting.take().map(|since| self.observer.now() - since);
        let (link, conn) = (self.link.name.clone(), self.conn);
        self.tell(WorldEvent::LinkClosed { link, conn, by, unanswered });
    }

    fn tell_quiet(&mut self, now: Duration) -> Duration {
        let Some(since) = self.waiting.filter(|_| !self.quiet_told && self.near.is_some()) else {
            return Duration::MAX;
        };
        if now < since + QUIET {
            return since + QUIET;
        }
        self.quiet_told = true;
        self.tell(WorldEvent::Unanswered { link: self.link.name.clone(), conn: self.conn, since });
        Duration::MAX
    }

    fn tell_answered(&mut self) {
        let Some(since) = self.waiting.take() else { return };
        if std::mem::take(&mut self.quiet_told) {
            let waited = self.observer.now() - since;
            self.tell(WorldEvent::AnsweredLate { link: self.link.name.clone(), conn: self.conn, waited });
        }
    }

    fn tell(&self, event: WorldEvent) {
        self.observer.fact(&self.link, self.incarnation, event);
    }
}

/// Dials for the connection with that number; says from where.
pub(super) async fn dial_to(target: &Target, conn: u32) -> Option<(Stream, Option<SocketAddr>)> {
    match target {
        Target::Address(address) => dial(*address).await,
        Target::MemoryListener(listener, ip) => {
            // Used again after so many connections, as ports are.
            let port = u16::try_from(conn % u32::from(u16::MAX)).expect("smaller than the divisor") + 1;
            let from = SocketAddr::new(*ip, port);
            listener.connect(from).ok().map(|pipe| (Stream::Pipe(pipe), Some(from)))
        }
    }
}

/// Dials over TCP; says from where.
async fn dial(address: SocketAddr) -> Option<(Stream, Option<SocketAddr>)> {
    let far = tokio::time::timeout(DIAL_MAX, TcpStream::connect(address)).await.ok()?.ok()?;
    let local = far.local_addr().ok();
    let _ = far.set_nodelay(true);
    Some((Stream::Tcp(far), local))
}

/// Reads once, into an emptied buffer, as much as it has room for; an error is an end like any other, and at the end
/// nothing is read. Cancelling it loses nothing.
async fn read(stream: &mut Option<Stream>, buffer: &mut Vec<u8>) {
    buffer.clear();
    match stream {
        // What came with an error does not count.
        Some(stream) => drop(stream.read_buf(buffer).await),
        None => std::future::pending().await,
    }
}

pub(super) async fn write(stream: &mut Stream, bytes: &[u8]) -> std::io::Result<()> {
    stream.write_all(bytes).await?;
    stream.flush().await
}

/// Wakes a connection's task when something is due. A timer that was polled wakes the task at its time, whatever else
/// has woken it before; so it is polled once, and kept if a later time is asked for: the task looks at the clock anyway.
#[derive(Default)]
struct Alarm(Option<Timer>);

struct Timer {
    at: Duration,
    sleep: Pin<Box<Sleep>>,
    polled: bool,
}

impl Alarm {
    /// The alarm rings at `wake` at the latest.
    fn set(&mut self, wake: Duration, observer: &dyn LinkObserver) {
        if wake < self.0.as_ref().map_or(Duration::MAX, |timer| timer.at) {
            let sleep = tokio::time::sleep(wake.saturating_sub(observer.now()));
            self.0 = Some(Timer { at: wake, sleep: Box::pin(sleep), polled: false });
        }
    }

    fn is_set(&self) -> bool {
        self.0.is_some()
    }

    /// Waits for its time; it is not set any more then.
    async fn rings(&mut self, observer: &dyn LinkObserver) {
        std::future::poll_fn(|context| {
            let Some(timer) = &mut self.0 else { return Poll::Pending };
            let rung = match std::mem::replace(&mut timer.polled, true) {
                true => timer.at <= observer.now(),
                false => timer.sleep.as_mut().poll(context).is_ready(),
            };
            if !rung {
                return Poll::Pending;
            }
            self.0 = None;
            Poll::Ready(())
        })
        .await;
    }
}
