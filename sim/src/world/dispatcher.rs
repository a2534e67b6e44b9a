//! Where everything meets: relays, stand-ins, users and processes call the hub, it calls the watch, and then does to the
//! world what follows. Its one law: nothing of the world is touched while the watch is locked.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};

use crate::link::{Effect, HALF_OPEN, Link, Witness};
use crate::plan::Kind;
use crate::standins::observation::{Observation, Tap};
use crate::trace::event::{Happening, Occurrence, What};
use crate::world::monitor::{Deed, Watch};
use crate::world::nemesis::Order;
use crate::world::nodes::{NodeHandle, TimeHandle};
use crate::world::process::Keeper;
use crate::world::product::Control;
#[cfg(not(madsim))]
use crate::world::taps::Around;

/// The world's hands: what deeds are done to.
pub(crate) struct Hands {
    pub(crate) links: BTreeMap<String, Arc<Link>>,
    pub(crate) keepers: BTreeMap<String, Keeper>,
    /// Of the services that have faults of their own.
    pub(crate) controls: BTreeMap<&'static str, mpsc::UnboundedSender<Control>>,
    /// Rung to end the life of a service; the next begins at once.
    pub(crate) restarts: BTreeMap<&'static str, Arc<Notify>>,
    /// The node on which timers of faults run.
    pub(crate) stage: NodeHandle,
}

/// The watch, and what it needs to act.
pub(crate) struct Hub<O> {
    watch: Mutex<Watch<O>>,
    time: TimeHandle,
    hands: OnceLock<Hands>,
    /// Rung when the run stops, and when a user ends.
    pub(crate) bell: Notify,
    /// What the world is built around, outside of the simulation.
    #[cfg(not(madsim))]
    pub(crate) around: Around,
}

impl<O: Occurrence> Hub<O> {
    /// Call it inside the runtime.
    #[cfg(madsim)]
    pub(crate) fn new(watch: Watch<O>) -> Arc<Hub<O>> {
        let time = TimeHandle::current();
        Arc::new(Hub { watch: Mutex::new(watch), time, hands: OnceLock::new(), bell: Notify::new() })
    }

    /// Call it inside the runtime.
    #[cfg(not(madsim))]
    pub(crate) fn new(watch: Watch<O>, around: Around) -> Arc<Hub<O>> {
        let time = TimeHandle::current();
        Arc::new(Hub { watch: Mutex::new(watch), time, hands: OnceLock::new(), bell: Notify::new(), around })
    }

    /// The world is built: from here on deeds can be done.
    pub(crate) fn arm(&self, hands: Hands) {
        assert!(self.hands.set(hands).is_ok(), "a world is built once");
    }

    pub(crate) fn now(&self) -> Duration {
        self.time.elapsed()
    }

    /// Looks without acting. The product must not call back from inside.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&mut Watch<O>) -> T) -> T {
        look(&mut self.lock())
    }

    /// Does something to the watch, now, and to the world what follows.
    pub(crate) fn act<T>(self: &Arc<Self>, act: impl FnOnce(&mut Watch<O>) -> T) -> T {
        let (out, deeds, stopped) = {
            let mut watch = self.lock();
            watch.set_now(self.now());
            let out = act(&mut watch);
            (out, watch.take_deeds(), watch.stop().is_some())
        };
        for deed in deeds {
            self.perform(deed);
        }
        if stopped {
            self.bell.notify_one();
        }
        out
    }

    /// As [`Hub::act`], unless the watch is at work: for what its own callees cause.
    #[cfg(madsim)]
    pub(crate) fn try_act(self: &Arc<Self>, act: impl FnOnce(&mut Watch<O>)) {
        if self.watch.try_lock().is_ok() {
            self.act(act);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Watch<O>> {
        self.watch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn perform(self: &Arc<Self>, deed: Deed) {
        let Some(hands) = self.hands.get() else { return };
        match deed {
            Deed::Later(order) => self.later(hands, order),
            Deed::Strike { number, kind, part, link } => match (hands.links.get(&link), effect(kind)) {
                (Some(link), Some(effect)) => link.strike_part(number, effect, part),
                _ => self.act(|watch| watch.fail(format!("fault {number}: there is no link {link}"))),
            },
            Deed::Heal { number, link } => {
                if let Some(link) = hands.links.get(&link) {
                    link.heal(number);
                }
            }
            Deed::Terminate { process, incarnation } => {
                if let Some(keeper) = hands.keepers.get(&process) {
                    keeper.terminate(incarnation);
                }
            }
            Deed::Kill { process, incarnation } => {
                if let Some(keeper) = hands.keepers.get(&process) {
                    keeper.kill(incarnation);
                }
            }
            Deed::Lose { process, incarnation } => {
                if let Some(keeper) = hands.keepers.get(&process) {
                    keeper.lose(incarnation);
                }
            }
            Deed::ExpireLater { process, losses } => {
                let hub = self.clone();
                hands.stage.spawn(async move {
                    tokio::time::sleep(HALF_OPEN).await;
                    hub.perform(Deed::Expire { process, losses });
                });
            }
            Deed::Expire { process, losses } => {
                if let Some(keeper) = hands.keepers.get(&process) {
                    keeper.expire(losses);
                }
            }
            Deed::Crash { process, incarnation } => {
                if let Some(keeper) = hands.keepers.get(&process) {
                    keeper.crash(incarnation);
                }
            }
            Deed::Stop { process, incarnation, heard } => {
                if let Some(keeper) = hands.keepers.get(&process) {
                    keeper.stop(incarnation, heard);
                }
            }
            Deed::Raise { process } => {
                if let Some(keeper) = hands.keepers.get(&process) {
                    keeper.raise();
                }
            }
            Deed::Pause { process } => {
                if let Some(keeper) = hands.keepers.get(&process) {
                    keeper.pause();
                }
            }
            Deed::Resume { process } => {
                if let Some(keeper) = hands.keepers.get(&process) {
                    keeper.resume();
                }
            }
            Deed::Control { service, control } => match hands.controls.get(service.as_str()) {
                // Whoever would hear it is gone only with the world.
                Some(told) => _ = told.send(control),
                None => self.act(|watch| watch.fail(format!("the service {service} knows no faults of its own"))),
            },
            Deed::Down { number, service, down } => {
                let links = hands.links.values().filter(|link| link.far == service);
                links.for_each(|link| if down { link.strike(number, Effect::Close) } else { link.heal(number) });
                if down && let Some(restart) = hands.restarts.get(service.as_str()) {
                    restart.notify_one();
                }
            }
        }
    }

    fn later(self: &Arc<Self>, hands: &Hands, order: Order) {
        let hub = self.clone();
        // Zero would be a timer's shortest time; such orders never come here.
        hands.stage.spawn(async move {
            tokio::time::sleep(order.after).await;
            hub.act(|watch| watch.go(order));
        });
    }

    /// Where a stand-in says what it did.
    pub(crate) fn tap(self: &Arc<Self>) -> Tap {
        let hub = self.clone();
        Arc::new(move |observation: Observation| hub.act(|watch| watch.observed(&observation)))
    }

    /// Where a user says what it saw.
    pub(crate) fn ear(self: &Arc<Self>, user: &str) -> Arc<dyn Fn(O) + Send + Sync> {
        let (hub, user) = (self.clone(), user.to_owned());
        Arc::new(move |occurrence| hub.act(|watch| watch.emit(&user, 0, What::Product(occurrence))))
    }
}

fn effect(kind: Kind) -> Option<Effect> {
    match kind {
        Kind::Wedge => Some(Effect::Wedge),
        Kind::Close => Some(Effect::Close),
        Kind::ConnectionRefused => Some(Effect::ConnectionRefused),
        Kind::ReplyLost { matches } => Some(Effect::ReplyLost { matches: matches.map(String::into_bytes) }),
        Kind::Delay { by } => Some(Effect::Delay(by)),
        Kind::HalfOpen => Some(Effect::HalfOpen),
        Kind::Trickle { bytes, by } => Some(Effect::Trickle { bytes: bytes as usize, by }),
        Kind::Cut { matches } => Some(Effect::Cut { matches: matches.map(String::into_bytes) }),
        Kind::Answer { status, matches } => Some(Effect::Answer { status, matches: matches.map(String::into_bytes) }),
        // A kind that is new must be told apart here: one that does nothing is felt by nobody.
        Kind::Sigterm | Kind::Sigkill | Kind::HostLoss | Kind::Pause | Kind::Panic => None,
        Kind::RollingRestart | Kind::LostSignal | Kind::ScaleUp | Kind::ScaleDown | Kind::Reconfigure => None,
        Kind::Refuse { .. } | Kind::Disturb(_) | Kind::Ail(_) => None,
    }
}

/// A hub as links know it.
pub(crate) struct Sight<O>(pub(crate) Arc<Hub<O>>);

impl<O: Occurrence> Witness for Sight<O> {
    fn now(&self) -> Duration {
        self.0.now()
    }

    fn dialled(&self, link: &Link, incarnation: u32, local: SocketAddr) {
        self.0.look(|watch| watch.dialled(local, &link.near, incarnation));
    }

    fn fact(&self, link: &Link, incarnation: u32, happening: Happening) {
        #[cfg(not(madsim))]
        if let Happening::LinkOpened { conn, .. } = happening {
            self.0.opened(link, conn, incarnation);
        }
        self.0.act(|watch| watch.happened(&link.near, incarnation, happening));
    }

    fn spoke(&self, link: &Link, incarnation: u32, up: bool) {
        let (process, incarnation) = if up { (&link.near, Some(incarnation)) } else { (&link.far, None) };
        self.0.act(|watch| watch.spoke(process, incarnation, &link.name));
    }

    fn arrived(&self, link: &Link, bytes: &[u8], old: usize) {
        self.0.act(|watch| watch.requested(&link.name, bytes, old));
    }

    fn carried(&self, link: &Link, conn: u32, up: bool, bytes: &[u8]) {
        self.0.act(|watch| watch.carried(&link.name, conn, up, bytes));
        #[cfg(not(madsim))]
        if up {
            self.0.overheard(link, conn, |wire| wire.up(bytes));
        }
    }

    #[cfg(not(madsim))]
    fn returned(&self, link: &Link, conn: u32, bytes: &[u8]) {
        self.0.overheard(link, conn, |wire| wire.down(bytes));
    }

    #[cfg(not(madsim))]
    fn over(&self, link: &Link, conn: u32) -> bool {
        self.0.overheard(link, conn, |wire| wire.over())
    }

    fn mentions(&self, _: &Link, request: &[u8]) -> Option<String> {
        self.0.look(|watch| watch.mentioned(request))
    }

    fn serves(&self, link: &Link) -> Option<String> {
        self.0.look(|watch| watch.served_by(&link.near))
    }

    fn felt(&self, link: &Link, fault: usize, label: &str) {
        self.0.act(|watch| watch.felt(fault - 1, &link.name, label));
    }

    fn spent(&self, _: &Link, fault: usize) {
        self.0.act(|watch| watch.spent(fault));
    }
}
