//! Where everything meets: relays, stand-ins, users and processes call the dispatcher, it calls the monitor, and then does to the
//! world what follows. Its one law: nothing of the world is touched while the monitor is locked.

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

/// The world's handles: what actions are done to.
pub(crate) struct Handles {
    pub(crate) links: BTreeMap<String, Arc<Link>>,
    pub(crate) service_managers: BTreeMap<String, ProcessHandle>,
    /// By service: what is done to it.
    pub(crate) controls: BTreeMap<&'static str, mpsc::UnboundedSender<Control>>,
    /// Rung to end the life of a service; the next begins at once.
    pub(crate) restarts: BTreeMap<&'static str, Arc<Notify>>,
    /// The node on which timers of faults run.
    pub(crate) control_node: NodeHandle,
}

/// The monitor, and what it needs to act.
pub(crate) struct Dispatcher<O> {
    monitor: Mutex<Monitor<O>>,
    time: TimeHandle,
    handles: OnceLock<Handles>,
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
        Arc::new(Dispatcher { monitor: Mutex::new(monitor), time, handles: OnceLock::new(), bell: Notify::new() })
    }

    /// Call it inside the runtime.
    #[cfg(not(madsim))]
    pub(crate) fn new(monitor: Monitor<O>, around: RealWorld) -> Arc<Dispatcher<O>> {
        let time = TimeHandle::current();
        Arc::new(Dispatcher {
            monitor: Mutex::new(monitor),
            time,
            handles: OnceLock::new(),
            bell: Notify::new(),
            around,
        })
    }

    /// The world is built: from here on actions can be done.
    pub(crate) fn arm(&self, handles: Handles) {
        assert!(self.handles.set(handles).is_ok(), "a world is built once");
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
        let (out, actions, stopped) = {
            let mut monitor = self.lock();
            monitor.set_now(self.now());
            let out = act(&mut monitor);
            (out, monitor.take_actions(), monitor.stop().is_some())
        };
        for action in actions {
            self.perform(action);
        }
        if stopped {
            self.bell.notify_one();
        }
        out
    }

    /// As [`Dispatcher::act`], unless the monitor is at work: for what its own callees cause.
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

    fn perform(self: &Arc<Self>, action: Action) {
        let Some(handles) = self.handles.get() else { return };
        match action {
            Action::Later(order) => self.later(handles, order),
            Action::Strike { fault, kind, part, link } => match handles.links.get(&link) {
                Some(link) => link.strike_part(fault, Effect::of(&kind), part),
                None => self.act(|monitor| monitor.fail(format!("{fault}: there is no link {link}"))),
            },
            Action::Heal { fault, link } => {
                if let Some(link) = handles.links.get(&link) {
                    link.heal(fault);
                }
            }
            Action::Terminate { process, incarnation } => {
                if let Some(service_manager) = handles.service_managers.get(&process) {
                    service_manager.terminate(incarnation);
                }
            }
            Action::Kill { process, incarnation } => {
                if let Some(service_manager) = handles.service_managers.get(&process) {
                    service_manager.kill(incarnation);
                }
            }
            Action::Lose { process, incarnation } => {
                if let Some(service_manager) = handles.service_managers.get(&process) {
                    service_manager.lose(incarnation);
                }
            }
            Action::ExpireLater { process, losses } => {
                let dispatcher = self.clone();
                handles.control_node.spawn(async move {
                    tokio::time::sleep(HALF_OPEN).await;
                    dispatcher.perform(Action::Expire { process, losses });
                });
            }
            Action::Expire { process, losses } => {
                if let Some(service_manager) = handles.service_managers.get(&process) {
                    service_manager.expire(losses);
                }
            }
            Action::Crash { process, incarnation } => {
                if let Some(service_manager) = handles.service_managers.get(&process) {
                    service_manager.crash(incarnation);
                }
            }
            Action::Stop { process, incarnation, heard } => {
                if let Some(service_manager) = handles.service_managers.get(&process) {
                    service_manager.stop(incarnation, heard);
                }
            }
            Action::Raise { process } => {
                if let Some(service_manager) = handles.service_managers.get(&process) {
                    service_manager.raise();
                }
            }
            Action::Pause { process } => {
                if let Some(service_manager) = handles.service_managers.get(&process) {
                    service_manager.pause();
                }
            }
            Action::Resume { process } => {
                if let Some(service_manager) = handles.service_managers.get(&process) {
                    service_manager.resume();
                }
            }
            Action::Control { service, control } => match handles.controls.get(service.as_str()) {
                // The receiver is gone only with the world.
                Some(told) => _ = told.send(control),
                None => self.act(|monitor| monitor.fail(format!("there is no service {service}"))),
            },
            Action::Down { fault, service, down } => {
                let links = handles.links.values().filter(|link| link.far == service);
                links.for_each(|link| if down { link.strike(fault, Effect::Close) } else { link.heal(fault) });
                if down && let Some(restart) = handles.restarts.get(service.as_str()) {
                    restart.notify_one();
                }
            }
        }
    }

    fn later(self: &Arc<Self>, handles: &Handles, order: ScheduledMove) {
        let dispatcher = self.clone();
        // Zero would be a timer's shortest time; such moves never come here.
        handles.control_node.spawn(async move {
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
        Arc::new(move |product_event| dispatcher.act(|monitor| monitor.emit(&user, 0, What::Product(product_event))))
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

    fn fact(&self, link: &Link, incarnation: u32, event: WorldEvent) {
        #[cfg(not(madsim))]
        if let WorldEvent::LinkOpened { conn, .. } = event {
            self.0.opened(link, conn, incarnation);
        }
        self.0.act(|monitor| monitor.happened(&link.near, incarnation, event));
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
