//! Where everything meets: relays, stand-ins, users and processes call the dispatcher, it calls the monitor, and then does to the
//! world what follows. Its one law: nothing of the world is touched while the watch is locked.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};

use crate::link::{Effect, HALF_OPEN, Link, LinkObserver};
use crate::standins::Control;
use crate::standins::observation::{Observation, Tap};
use crate::trace::event::{ProductEvent, What, WorldEvent};
use crate::trace::fault::FaultId;
use crate::world::monitor::{Action, Monitor};
use crate::world::nemesis::ScheduledMove;
use crate::world::nodes::{NodeHandle, TimeHandle};
use crate::world::process::ProcessHandle;
#[cfg(not(madsim))]
use crate::world::taps::RealWorld;

/// The world's hands: what deeds are done to.
pub(crate) struct Handles {
    pub(crate) links: BTreeMap<String, Arc<Link>>,
    pub(crate) keepers: BTreeMap<String, ProcessHandle>,
    /// By service: what is done to it.
    pub(crate) controls: BTreeMap<&'static str, mpsc::UnboundedSender<Control>>,
    /// Rung to end the life of a service; the next begins at once.
    pub(crate) restarts: BTreeMap<&'static str, Arc<Notify>>,
    /// The node on which timers of faults run.
    pub(crate) stage: NodeHandle,
}

/// The monitor, and what it needs to act.
pub(crate) struct Dispatcher<O> {
    monitor: Mutex<Monitor<O>>,
    time: TimeHandle,
    hands: OnceLock<Handles>,
    /// Rung when the run stops, and when a user ends.
    pub(crate) bell: Notify,
    /// What the world is built around, outside of the simulation.
    #[cfg(not(madsim))]
    pub(crate) around: RealWorld,
}

impl<O: ProductEvent> Dispatcher<O> {
    /// Call it inside the runtime.
    #[cfg(madsim)]
    pub(crate) fn new(monitor: Monitor<O>) -> Arc<Dispatcher<O>> {
        let time = TimeHandle::current();
        Arc::new(Dispatcher { monitor: Mutex::new(monitor), time, hands: OnceLock::new(), bell: Notify::new() })
    }

    /// Call it inside the runtime.
    #[cfg(not(madsim))]
    pub(crate) fn new(monitor: Monitor<O>, around: RealWorld) -> Arc<Dispatcher<O>> {
        let time = TimeHandle::current();
        Arc::new(Dispatcher { monitor: Mutex::new(monitor), time, hands: OnceLock::new(), bell: Notify::new(), around })
    }

    /// The world is built: from here on deeds can be done.
    pub(crate) fn arm(&self, hands: Handles) {
        assert!(self.hands.set(hands).is_ok(), "a world is built once");
    }

    pub(crate) fn now(&self) -> Duration {
        self.time.elapsed()
    }

    /// Looks without acting. The product must not call back from inside.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&mut Monitor<O>) -> T) -> T {
        look(&mut self.lock())
    }

    /// Does something to the monitor, now, and to the world what follows.
    pub(crate) fn act<T>(self: &Arc<Self>, act: impl FnOnce(&mut Monitor<O>) -> T) -> T {
        let (out, deeds, stopped) = {
            let mut monitor = self.lock();
            monitor.set_now(self.now());
            let out = act(&mut monitor);
            (out, monitor.take_deeds(), monitor.stop().is_some())
        };
        for deed in deeds {
            self.perform(deed);
        }
        if stopped {
            self.bell.notify_one();
        }
        out
    }

    /// As [`Dispatcher::act`], unless the watch is at work: for what its own callees cause.
    #[cfg(madsim)]
    pub(crate) fn try_act(self: &Arc<Self>, act: impl FnOnce(&mut Monitor<O>)) {
        if self.monitor.try_lock().is_ok() {
            self.act(act);
        }
    }

    /// Whether something panicked while it held the monitor.
    pub(crate) fn is_poisoned(&self) -> bool {
        self.monitor.is_poisoned()
    }

    fn lock(&self) -> MutexGuard<'_, Monitor<O>> {
        self.monitor.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn perform(self: &Arc<Self>, deed: Action) {
        let Some(hands) = self.hands.get() else { return };
        match deed {
            Action::Later(order) => self.later(hands, order),
            Action::Strike { fault, kind, part, link } => match hands.links.get(&link) {
                Some(link) => link.strike_part(fault, Effect::of(&kind), part),
                None => self.act(|monitor| monitor.fail(format!("{fault}: there is no link {link}"))),
            },
            Action::Heal { fault, link } => {
                if let Some(link) = hands.links.get(&link) {
                    link.heal(fault);
                }
            }
            Action::Terminate { process, incarnation } => {
                if let Some(keeper) = hands.keepers.get(&process) {
                    keeper.terminate(incarnation);
                }
            }
            Action::Kill { process, incarnation } => {
                if let Some(keeper) = hands.keepers.get(&process) {
                    keeper.kill(incarnation);
                }
            }
            Action::Lose { process, incarnation } => {
                if let Some(keeper) = hands.keepers.get(&process) {
                    keeper.lose(incarnation);
                }
            }
            Action::ExpireLater { process, losses } => {
                let dispatcher = self.clone();
                hands.stage.spawn(async move {
                    tokio::time::sleep(HALF_OPEN).await;
                    dispatcher.perform(Action::Expire { process, losses });
                });
            }
            Action::Expire { process, losses } => {
                if let Some(keeper) = hands.keepers.get(&process) {
                    keeper.expire(losses);
                }
            }
            Action::Crash { process, incarnation } => {
                if let Some(keeper) = hands.keepers.get(&process) {
                    keeper.crash(incarnation);
                }
            }
            Action::Stop { process, incarnation, heard } => {
                if let Some(keeper) = hands.keepers.get(&process) {
                    keeper.stop(incarnation, heard);
                }
            }
            Action::Raise { process } => {
                if let Some(keeper) = hands.keepers.get(&process) {
                    keeper.raise();
                }
            }
            Action::Pause { process } => {
                if let Some(keeper) = hands.keepers.get(&process) {
                    keeper.pause();
                }
            }
            Action::Resume { process } => {
                if let Some(keeper) = hands.keepers.get(&process) {
                    keeper.resume();
                }
            }
            Action::Control { service, control } => match hands.controls.get(service.as_str()) {
                // Whoever would hear it is gone only with the world.
                Some(told) => _ = told.send(control),
                None => self.act(|monitor| monitor.fail(format!("there is no service {service}"))),
            },
            Action::Down { fault, service, down } => {
                let links = hands.links.values().filter(|link| link.far == service);
                links.for_each(|link| if down { link.strike(fault, Effect::Close) } else { link.heal(fault) });
                if down && let Some(restart) = hands.restarts.get(service.as_str()) {
                    restart.notify_one();
                }
            }
        }
    }

    fn later(self: &Arc<Self>, hands: &Handles, order: ScheduledMove) {
        let dispatcher = self.clone();
        // Zero would be a timer's shortest time; such orders never come here.
        hands.stage.spawn(async move {
            tokio::time::sleep(order.after).await;
            dispatcher.act(|monitor| monitor.go(order));
        });
    }

    /// Where the stand-in of a service says what it did.
    pub(crate) fn tap(self: &Arc<Self>, service: &'static str) -> Tap {
        let dispatcher = self.clone();
        Arc::new(move |observation: Observation| {
            let observation = observation.at(service);
            dispatcher.act(|monitor| monitor.observed(&observation));
        })
    }

    /// Where a user says what it saw.
    pub(crate) fn ear(self: &Arc<Self>, user: &str) -> Arc<dyn Fn(O) + Send + Sync> {
        let (dispatcher, user) = (self.clone(), user.to_owned());
        Arc::new(move |occurrence| dispatcher.act(|monitor| monitor.emit(&user, 0, What::Product(occurrence))))
    }
}

/// A dispatcher as links know it.
pub(crate) struct DispatcherObserver<O>(pub(crate) Arc<Dispatcher<O>>);

impl<O: ProductEvent> LinkObserver for DispatcherObserver<O> {
    fn now(&self) -> Duration {
        self.0.now()
    }

    fn dialled(&self, link: &Link, incarnation: u32, local: SocketAddr) {
        self.0.look(|monitor| monitor.dialled(local, &link.near, incarnation));
    }

    fn fact(&self, link: &Link, incarnation: u32, happening: WorldEvent) {
        #[cfg(not(madsim))]
        if let WorldEvent::LinkOpened { conn, .. } = happening {
            self.0.opened(link, conn, incarnation);
        }
        self.0.act(|monitor| monitor.happened(&link.near, incarnation, happening));
    }

    fn spoke(&self, link: &Link, incarnation: u32, up: bool) {
        let (process, incarnation) = if up { (&link.near, Some(incarnation)) } else { (&link.far, None) };
        self.0.act(|monitor| monitor.spoke(process, incarnation, &link.name));
    }

    fn arrived(&self, link: &Link, bytes: &[u8], old: usize) {
        self.0.act(|monitor| monitor.requested(&link.name, bytes, old));
    }

    fn damaged(&self, link: &Link, conn: u32) {
        self.0.act(|monitor| monitor.recorder.unheard(&link.name, conn));
    }

    fn carried(&self, link: &Link, conn: u32, up: bool, bytes: &[u8]) {
        self.0.act(|monitor| monitor.carried(&link.name, conn, up, bytes));
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
        self.0.look(|monitor| monitor.mentioned(request))
    }

    fn serves(&self, link: &Link) -> Option<String> {
        self.0.look(|monitor| monitor.served_by(&link.near))
    }

    fn felt(&self, link: &Link, fault: FaultId, label: &str) {
        self.0.act(|monitor| monitor.felt(fault, &link.name, label));
    }

    fn spent(&self, _: &Link, fault: FaultId) {
        self.0.act(|monitor| monitor.spent(fault));
    }
}
