//! A link is one path between a process (or a user) and a service: a relay of its own, on which faults act.
//! Its one law: what a link does to bytes depends on its [`Effect`]s alone, never on what the bytes mean.
//!
//! The relay carries whole chunks, in order, as they arrive. It compiles for the real runtime too.
//!
//! What a wedge does: connecting to the relay succeeds, and what either side sends is taken and held. When it heals, what
//! was held is carried in order. If the process closed meanwhile, the service still gets what the process had sent, and
//! then the end, as after a long stall of a real network; what was held for the process is dropped.
//!
//! A wedge of one direction holds bytes of that direction alone; connecting counts as going up. What a fault with `only`
//! does begins with the first request on a connection that contains those bytes, and ends with the fault.
//!
//! What a refused connection is: the dial itself fails, as at a port on which nobody listens, and the relay takes nothing.
//! A connection that is dialled while the process does some work is dialled for that work.
//!
//! What half-open means: connections that stood when it began carry nothing any more, and close when it ends. What either
//! side sends meanwhile is gone, its own end too.
//!
//! What the loss of a host does: no connection that stood says anything more to either side, until it expires. Then the
//! side that is left sees the end.
//!
//! What the death of a process does: the relay reads nothing more from it, carries what it had already read, and closes.
//! So whatever destructors of a dead incarnation write is dropped here, unseen.

mod conversation;
pub mod faults;
mod lane;
mod port;
mod repeat;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::Notify;

pub use self::faults::Effect;
use self::port::Port;
use crate::plan::{Direction, Scope};
use crate::standins::listener::MemoryListener;
use crate::trace::event::WorldEvent;
use crate::trace::fault::FaultId;

/// A request that has waited this long without a byte of answer is a fact worth telling: longer than any healthy
/// service takes, much shorter than any client's timeout.
pub const QUIET: Duration = Duration::from_secs(1);

/// Bytes that came later than this because of a fault have felt it: the shortest time that a timer can tell.
pub const LATE: Duration = Duration::from_millis(1);

/// Connections of a lost host are known to be dead this long after its next boot: a peer's keepalive, or the reset that
/// the next probe of it meets. Longer than a boot and a claim, so that the next life meets the traces of the last.
pub const HALF_OPEN: Duration = Duration::from_secs(30);

/// So many requests of a link are told at once: enough that a moment's burst is none of a rate.
pub const REQUESTS_TOLD: u32 = 200;

/// Where a relay carries bytes to.
#[derive(Clone)]
pub enum Target {
    /// A process or a server, over TCP.
    Address(SocketAddr),
    /// A stand-in, over pipes that come from this address; each connection has a port of its own.
    MemoryListener(MemoryListener, IpAddr),
}

impl From<SocketAddr> for Target {
    fn from(address: SocketAddr) -> Target {
        Target::Address(address)
    }
}

/// Whatever is told what passes on links: the monitor in a simulation, a logger before a real server. Called synchronously, in
/// order.
pub trait LinkObserver: Send + Sync {
    /// Time since the world began.
    fn now(&self) -> Duration;
    /// The relay dials the service from `local`, for this incarnation of the link's process.
    fn dialled(&self, link: &Link, incarnation: u32, local: SocketAddr);
    /// Something happened on the link.
    fn fact(&self, link: &Link, incarnation: u32, event: WorldEvent);
    /// Bytes were read from the near end, in this incarnation of it; or, unless `up`, from the far end.
    fn spoke(&self, _: &Link, _incarnation: u32, _up: bool) {}
    /// A chunk of a request arrived at the relay; effects that this call begins act on it. The first `old` bytes were
    /// part of an earlier call and stand here so that a pattern may straddle two chunks.
    fn arrived(&self, link: &Link, bytes: &[u8], old: usize);
    /// What the service answers on this connection from now on is not what it said: a fault changes it.
    fn damaged(&self, _: &Link, _conn: u32) {}
    /// A chunk is carried now: towards the service if `up`.
    fn carried(&self, link: &Link, conn: u32, up: bool, bytes: &[u8]);
    /// A chunk of an answer was read from the service, and may yet be held, delayed or lost.
    #[cfg(not(madsim))]
    fn returned(&self, _: &Link, _conn: u32, _bytes: &[u8]) {}
    /// Nothing more is carried to the service. Says whether what it still answers is of interest.
    #[cfg(not(madsim))]
    fn over(&self, _: &Link, _conn: u32) -> bool {
        false
    }
    /// The label of live work that these bytes of a request mention.
    fn mentions(&self, link: &Link, request: &[u8]) -> Option<String>;
    /// The label of live work that the link's process does.
    fn serves(&self, link: &Link) -> Option<String>;
    /// Work with this label felt that fault.
    fn felt(&self, link: &Link, fault: FaultId, label: &str);
    /// A fault that strikes once has done so.
    fn spent(&self, link: &Link, fault: FaultId);
}

/// A link's standing. Connections look it up; faults and the service manager change it.
pub struct Link {
    /// `executor-1->redis`.
    pub name: String,
    /// The near end: `executor-1`, or a user's name.
    pub near: String,
    /// The far end: `redis`, or a process that serves users.
    pub far: String,
    state: Mutex<State>,
    changed: Notify,
    /// Rung when who dials is refused from now on, or let in again: a relay sleeps through whatever else changes.
    gate: Notify,
}

/// A fault that stands.
struct Standing {
    effect: Effect,
    part: Scope,
    /// The number of the strike on this link, from 1: a fault may strike again.
    strike: u32,
    /// How many connections there had been when it struck.
    conns: u32,
}

/// What becomes of a connection's next answer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ReplyFault {
    /// Nothing of it is carried.
    Lost,
    /// Half of its first chunk is.
    Cut,
    /// All of it is, its first byte changed.
    Corrupted,
}

/// At which pace one direction is carried; without faults, at once.
#[derive(Default)]
struct Pace {
    faults: Vec<FaultId>,
    bytes: usize,
    by: Duration,
}

#[derive(Default)]
struct State {
    effects: BTreeMap<FaultId, Standing>,
    strikes: u32,
    conns: u32,
    /// Requests since the last time that they were told.
    requests: u32,
    incarnation: u32,
    near_down: bool,
    /// The port at which the far end is reached in its present life; `None`: at any.
    open_at: Option<u16>,
    /// The far end's host is lost: who connects hears nothing until it is up again.
    far_away: bool,
    /// Connections that were lost up to here, counted as in `epochs`, are known to be dead.
    expired: Lost,
    /// Each counts how often all connections were ended that way; a connection remembers what it was born under.
    epochs: Epochs,
    /// The fault that ended connections last.
    closed_by: Option<FaultId>,
}

/// How often all connections were ended, by reason.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Epochs {
    closed: u32,
    near_cut: u32,
    far_cut: u32,
    lost: Lost,
}

/// How often each end has lost its host.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Lost {
    near: u32,
    far: u32,
}

impl Link {
    /// A healthy link between two names.
    pub fn new(near: &str, far: &str) -> Arc<Link> {
        Arc::new(Link {
            name: format!("{near}->{far}"),
            near: near.into(),
            far: far.into(),
            state: Mutex::default(),
            changed: Notify::new(),
            gate: Notify::new(),
        })
    }

    /// Fault `fault` begins, and strikes all of the link.
    pub fn strike(&self, fault: FaultId, effect: Effect) {
        self.strike_part(fault, effect, Scope::default());
    }

    /// Fault `fault` begins, and strikes a part of the link.
    pub fn strike_part(&self, fault: FaultId, effect: Effect, part: Scope) {
        self.change(|state| {
            if effect == Effect::Close && part.only.is_none() {
                state.epochs.closed += 1;
                state.closed_by = Some(fault);
            }
            state.strikes += 1;
            let standing = Standing { effect, part, strike: state.strikes, conns: state.conns };
            state.effects.insert(fault, standing);
        });
    }

    /// Fault `fault` ends; what it held is carried.
    pub fn heal(&self, fault: FaultId) {
        self.change(|state| {
            state.effects.remove(&fault);
        });
    }

    /// A new life of the near end: connections are its own from now on.
    pub fn near_up(&self, incarnation: u32) {
        self.change(|state| {
            state.incarnation = incarnation;
            state.near_down = false;
        });
    }

    /// The near end stands still and will be cut: connections that it opened last are not taken any more.
    pub fn near_down(&self) {
        self.change(|state| state.near_down = true);
    }

    /// The near end says something that it waits to have answered. Says whether it is time to tell.
    fn asked(&self) -> bool {
        let mut state = self.state();
        state.requests += 1;
        state.requests.is_multiple_of(REQUESTS_TOLD)
    }

    /// The near end is dead: nothing more is read from it, what was read is carried, then the service sees the end.
    pub fn cut_near(&self) {
        self.change(|state| state.epochs.near_cut += 1);
    }

    /// The far end is dead, likewise.
    pub fn cut_far(&self) {
        self.change(|state| state.epochs.far_cut += 1);
    }

    /// The near end's host is lost: nothing is carried any more on what it opened, and nothing closes.
    pub fn lose_near(&self) {
        self.change(|state| state.epochs.lost.near += 1);
    }

    /// The far end's host is lost, likewise; new connections hear nothing until [`Link::far_up`].
    pub fn lose_far(&self) {
        self.change(|state| {
            state.epochs.lost.far += 1;
            state.far_away = true;
        });
    }

    /// A new life of the far end: it can be reached.
    pub fn far_up(&self) {
        self.change(|state| state.far_away = false);
    }

    /// What the near end's first `losses` losses left half-open is closed towards the far end.
    pub fn expire_near(&self, losses: u32) {
        self.change(|state| state.expired.near = state.expired.near.max(losses));
    }

    /// Likewise for the far end's losses, towards the near end.
    pub fn expire_far(&self, losses: u32) {
        self.change(|state| state.expired.far = state.expired.far.max(losses));
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let (refused, refuses) = {
            let mut state = self.state();
            let refused = state.refuses_all();
            change(&mut state);
            (refused, state.refuses_all())
        };
        self.changed.notify_waiters();
        if refuses != refused {
            self.gate.notify_waiters();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The fault that spoils the answer to this request, if there is one: it is used up by that.
    fn take_reply_fault(&self, request: &[u8], old: usize) -> Option<(FaultId, ReplyFault)> {
        let asked = |matches: &Vec<u8>| ends_in_new(request, old, matches);
        self.take(|effect| match effect {
            Effect::ReplyLost { matches } => matches.as_ref().is_none_or(asked).then_some(ReplyFault::Lost),
            Effect::Cut { matches } => matches.as_ref().is_some_and(asked).then_some(ReplyFault::Cut),
            Effect::Corrupt { matches } => matches.as_ref().is_some_and(asked).then_some(ReplyFault::Corrupted),
            _ => None,
        })
    }

    /// The fault that answers this request in the service's place, and with which status: it is used up by that.
    fn take_answer(&self, request: &[u8], old: usize) -> Option<(FaultId, u16)> {
        let asked = |matches: &Vec<u8>| ends_in_new(request, old, matches);
        self.take(|effect| match effect {
            Effect::Answer { status, matches } => matches.as_ref().is_none_or(asked).then_some(*status),
            _ => None,
        })
    }

    /// The fault that delivers this request once more: it is used up by that.
    fn take_duplicate(&self, request: &[u8], old: usize) -> Option<FaultId> {
        let asked = |matches: &Vec<u8>| ends_in_new(request, old, matches);
        let found = self.take(|effect| match effect {
            Effect::Duplicate { matches } => matches.as_ref().is_none_or(asked).then_some(()),
            _ => None,
        });
        found.map(|(fault, ())| fault)
    }

    /// The fault that spoils whatever comes back next, if there is one: it is used up by that.
    fn take_unmatched_reply_fault(&self) -> Option<(FaultId, ReplyFault)> {
        self.take(|effect| match effect {
            Effect::Cut { matches: None } => Some(ReplyFault::Cut),
            Effect::Corrupt { matches: None } => Some(ReplyFault::Corrupted),
            _ => None,
        })
    }

    fn take<T>(&self, wanted: impl Fn(&Effect) -> Option<T>) -> Option<(FaultId, T)> {
        let mut state = self.state();
        let find = |(fault, standing): (&FaultId, &Standing)| Some((*fault, wanted(&standing.effect)?));
        let (fault, found) = state.effects.iter().find_map(find)?;
        state.effects.remove(&fault);
        Some((fault, found))
    }

    /// The strikes that this request draws on its connection, each with its fault, and whether that closes it.
    fn drawn(&self, request: &[u8], old: usize) -> Vec<(FaultId, u32, bool)> {
        let state = self.state();
        let drawn = |standing: &Standing| {
            standing.part.only.as_ref().is_some_and(|only| ends_in_new(request, old, only.as_bytes()))
        };
        let drawn = state.effects.iter().filter(|(_, standing)| drawn(standing));
        drawn.map(|(fault, standing)| (*fault, standing.strike, standing.effect == Effect::Close)).collect()
    }

    /// The faults that hold one direction of a connection which has drawn these strikes.
    fn wedged_by(&self, direction: Direction, drawn: &[u32]) -> Vec<FaultId> {
        let wedges = |standing: &Standing| standing.effect == Effect::Wedge && standing.reaches(direction, drawn);
        self.state().effects.iter().filter(|(_, standing)| wedges(standing)).map(|(fault, _)| *fault).collect()
    }

    /// The faults that delay it, each by how much.
    fn delayed_by(&self, direction: Direction, drawn: &[u32]) -> Vec<(FaultId, Duration)> {
        let by = |(fault, standing): (&FaultId, &Standing)| match standing.effect {
            Effect::Delay(by) if standing.reaches(direction, drawn) => Some((*fault, by)),
            _ => None,
        };
        self.state().effects.iter().filter_map(by).collect()
    }

    /// At which pace it is carried: of several, as few bytes and as seldom as any of them wants.
    fn pace(&self, direction: Direction, drawn: &[u32]) -> Pace {
        let mut pace = Pace { bytes: usize::MAX, ..Pace::default() };
        for (fault, standing) in &self.state().effects {
            if let Effect::Trickle { bytes, by } = standing.effect
                && standing.reaches(direction, drawn)
            {
                pace.faults.push(*fault);
                (pace.bytes, pace.by) = (pace.bytes.min(bytes.max(1)), pace.by.max(by));
            }
        }
        pace
    }

    /// The faults by which who dials is refused.
    fn refused_by(&self) -> Vec<FaultId> {
        let state = self.state();
        let refuse = |(_, standing): &(&FaultId, &Standing)| standing.effect == Effect::ConnectionRefused;
        state.effects.iter().filter(refuse).map(|(fault, _)| *fault).collect()
    }

    /// From now on the far end is reached at this port and no other one.
    pub fn reached_at(&self, port: u16) {
        self.state().open_at = Some(port);
        self.gate.notify_waiters();
    }

    /// Waits until who dials this port is refused, or let in.
    async fn refuses(&self, port: u16, wanted: bool) {
        loop {
            let changed = self.gate.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.state().refuses(port) == wanted {
                return;
            }
            changed.await;
        }
    }

    /// The strikes by which a connection is half-open, each with its fault.
    fn half_open(&self, conn: u32) -> Vec<(FaultId, u32)> {
        let stood = |standing: &Standing| standing.effect == Effect::HalfOpen && conn <= standing.conns;
        let state = self.state();
        let all = state.effects.iter().filter(|(_, standing)| stood(standing));
        all.map(|(fault, standing)| (*fault, standing.strike)).collect()
    }
}

impl State {
    /// Whether a fault wants that who dials is refused.
    fn refuses_all(&self) -> bool {
        self.effects.values().any(|standing| standing.effect == Effect::ConnectionRefused)
    }

    /// Whether who dials this port is refused.
    fn refuses(&self, port: u16) -> bool {
        self.open_at.is_some_and(|open| open != port) || self.refuses_all()
    }
}

impl Standing {
    fn reaches(&self, direction: Direction, drawn: &[u32]) -> bool {
        self.part.goes(direction) && (self.part.only.is_none() || drawn.contains(&self.strike))
    }
}

/// Whether `pattern` occurs in `bytes` and ends behind the first `old` of them: one that ends before was found when
/// those were new. An empty pattern occurs everywhere.
pub fn ends_in_new(bytes: &[u8], old: usize, pattern: &[u8]) -> bool {
    let from = (old + 1).saturating_sub(pattern.len().max(1));
    pattern.is_empty() || bytes[from..].windows(pattern.len()).any(|window| window == pattern)
}

/// Runs the relay of `link`: takes connections from `listener` and carries each to `target`, for ever. A link whose far end is
/// reached at several ports, one after the other, has a relay for each.
pub async fn relay(link: Arc<Link>, observer: Arc<dyn LinkObserver>, listener: TcpListener, target: impl Into<Target>) {
    let at = listener.local_addr().map_or(0, |addr| addr.port());
    let (target, mut port) = (target.into(), Port::new(listener));
    loop {
        let near = tokio::select! {
            biased;
            () = link.refuses(at, true) => {
                refuse(&link, &*observer, &mut port, at).await;
                continue;
            }
            near = port.accept() => near,
        };
        let Ok(near) = near else {
            // Out of file descriptors, say, on a real runtime: nothing to tell here, and no reason to spin.
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let (conn, incarnation, epochs, shut) = {
            let mut state = link.state();
            if state.near_down {
                continue;
            }
            state.conns += 1;
            let closes = |standing: &Standing| standing.effect == Effect::Close && standing.part.only.is_none();
            let shut = state.effects.iter().find(|(_, standing)| closes(standing)).map(|(fault, _)| *fault);
            (state.conns, state.incarnation, state.epochs, shut)
        };
        observer.fact(&link, incarnation, WorldEvent::LinkOpened { link: link.name.clone(), conn });
        let conversation =
            conversation::Conversation::new(link.clone(), observer.clone(), near, conn, incarnation, epochs);
        match shut {
            Some(fault) => conversation.refuse(fault),
            None => drop(tokio::spawn(conversation.run(target.clone()))),
        }
    }
}

/// New connections are refused, until no fault wants that any more and the port is the far end's.
async fn refuse(link: &Link, observer: &dyn LinkObserver, port: &mut Port, at: u16) {
    port.shut();
    // Who dials where the far end is no longer reached feels no fault, and to hear of it costs a look every moment.
    let told = !link.refused_by().is_empty();
    loop {
        tokio::select! {
            biased;
            () = link.refuses(at, false) => break,
            () = port.dialled(), if told => {}
        }
        let Some(label) = observer.serves(link) else { continue };
        link.refused_by().into_iter().for_each(|fault| observer.felt(link, fault, &label));
    }
    port.open().await;
}
