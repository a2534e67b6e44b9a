//! A process has many lives, one incarnation after another, and a service manager that ends and begins them: the same one
//! in the simulation and outside of it. What a life consists of is the [`crate::world::backend`]'s affair.
//! Its one law: an order is for one incarnation, and void for the next.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::link::Link;
use crate::plan::Plan;
use crate::plan::seed::Seed;
use crate::standins::probe;
use crate::trace::event::{PANICKED, ProductEvent};
use crate::world::backend::{BURIAL, ProcessBackend, RunningProcess};
use crate::world::dispatcher::Dispatcher;
use crate::world::nodes::NodeId;
use crate::world::product::{Boot, BootFn, Role};

/// After a life this long the next delay is the shortest again, as a kubelet has it.
const LONG: Duration = Duration::from_secs(600);

/// What the service manager is told, each for one incarnation.
enum Order {
    Terminate(u32),
    Kill(u32),
    /// The main panics.
    Crash(u32),
    /// The process is to stop, whether or not it hears of that.
    Stop {
        whom: u32,
        heard: bool,
    },
    /// The process waits for its first boot no longer. Void for a process that lives.
    Raise,
}

/// The world's end of a process's service manager.
pub(crate) struct ProcessHandle {
    body: Arc<ProcessBackend>,
    orders: mpsc::UnboundedSender<Order>,
}

/// Everything that a life of one process needs.
pub(crate) struct ProcessSpec {
    pub(crate) boot: BootFn,
    pub(crate) role: &'static Role,
    pub(crate) process: String,
    pub(crate) node: NodeId,
    pub(crate) near: Vec<Arc<Link>>,
    pub(crate) far: Vec<Arc<Link>>,
    pub(crate) links: BTreeMap<&'static str, SocketAddr>,
    pub(crate) listen: Option<SocketAddr>,
    pub(crate) config: BTreeMap<String, String>,
    /// Time from SIGTERM to SIGKILL.
    pub(crate) grace: Duration,
    /// Time from an exit to the next boot.
    pub(crate) restart_delay: Duration,
    /// Time from the beginning to the first boot.
    pub(crate) first_boot: Duration,
    /// Time from the decision to stop it to SIGTERM.
    pub(crate) pre_stop: Duration,
    /// How often it is asked for its health, if it is.
    pub(crate) probe: Option<Duration>,
    /// Up to where the time from an exit to the next boot grows.
    pub(crate) restart_max: Duration,
    pub(crate) seed: Seed,
}

impl ProcessHandle {
    /// SIGTERM.
    pub(crate) fn terminate(&self, incarnation: u32) {
        // It fails only when the world is being taken down.
        let _ = self.orders.send(Order::Terminate(incarnation));
    }

    /// SIGKILL: from this call on the process makes no step.
    pub(crate) fn kill(&self, incarnation: u32) {
        self.body.stop();
        let _ = self.orders.send(Order::Kill(incarnation));
    }

    /// The main panics: from this call on the process makes no step, and its connections are closed.
    pub(crate) fn crash(&self, incarnation: u32) {
        self.body.crash();
        let _ = self.orders.send(Order::Crash(incarnation));
    }

    /// The service manager is to stop it.
    pub(crate) fn stop(&self, whom: u32, heard: bool) {
        let _ = self.orders.send(Order::Stop { whom, heard });
    }

    /// The process need not wait for its first boot any more.
    pub(crate) fn raise(&self) {
        let _ = self.orders.send(Order::Raise);
    }

    /// The host is lost: the same, and nothing of what it had opened says anything more.
    pub(crate) fn lose(&self, incarnation: u32) {
        self.body.lose();
        let _ = self.orders.send(Order::Kill(incarnation));
    }

    /// What its first `losses` lost hosts left half-open is closed.
    pub(crate) fn expire(&self, losses: u32) {
        self.body.near.iter().for_each(|link| link.expire_near(losses));
        self.body.far.iter().for_each(|link| link.expire_far(losses));
    }

    /// SIGSTOP.
    pub(crate) fn pause(&self) {
        self.body.pause();
    }

    /// SIGCONT. Not for the dead: they would make a step.
    pub(crate) fn resume(&self) {
        self.body.resume();
    }
}

/// The settings of one process: for all, for its role, for itself (of a container: for its agent, for its slot), the
/// narrowest winning. What holds for all is no container's: all that it has comes from the process that creates it.
pub(crate) fn settings<W>(plan: &Plan<W>, role: &Role, own: &[&str]) -> BTreeMap<String, String> {
    let mut settings = BTreeMap::new();
    let all = role.contained.is_none().then_some("all");
    for scope in all.iter().chain([&role.name]).chain(own) {
        settings.extend(plan.config.get(*scope).into_iter().flatten().map(|(key, value)| (key.clone(), value.clone())));
    }
    settings
}

/// How a life ended.
pub(crate) enum Ended {
    Exited(i32),
    Killed,
}

/// A life that goes on.
pub(crate) struct Life {
    pub(crate) incarnation: u32,
    living: RunningProcess,
    exit: oneshot::Receiver<i32>,
}

/// A process as its service manager or container engine holds it.
pub(crate) struct Supervised {
    spec: ProcessSpec,
    body: Arc<ProcessBackend>,
    inbox: mpsc::UnboundedReceiver<Order>,
    incarnations: u32,
}

/// A process before its first life, and the world's end of it.
pub(crate) fn man(spec: ProcessSpec) -> (ProcessHandle, Supervised) {
    let (orders, inbox) = mpsc::unbounded_channel();
    let body = Arc::new(ProcessBackend::new(spec.node, spec.near.clone(), spec.far.clone()));
    (ProcessHandle { body: body.clone(), orders }, Supervised { spec, body, inbox, incarnations: 0 })
}

/// Starts the service manager of a process; the future keeps it alive for ever.
pub(crate) fn keep<O: ProductEvent>(
    dispatcher: Arc<Dispatcher<O>>,
    spec: ProcessSpec,
) -> (ProcessHandle, impl Future<Output = ()> + Send + 'static) {
    let (handle, supervised) = man(spec);
    (handle, manage(dispatcher, supervised))
}

async fn manage<O: ProductEvent>(dispatcher: Arc<Dispatcher<O>>, mut supervised: Supervised) {
    if !supervised.spec.first_boot.is_zero() {
        supervised.wait().await;
    }
    let mut delay = supervised.spec.restart_delay;
    while !dispatcher.look(|monitor| monitor.is_retired(supervised.process())) {
        let began = dispatcher.now();
        let life = supervised.bear(&dispatcher, BTreeMap::new());
        let grace = supervised.spec.grace;
        supervised.live(&dispatcher, life, Some(grace)).await;
        if dispatcher.now() - began >= LONG {
            delay = supervised.spec.restart_delay;
        }
        supervised.body.reap().await;
        tokio::time::sleep(delay.max(BURIAL)).await;
        delay = (delay * 2).min(supervised.spec.restart_max.max(supervised.spec.restart_delay));
    }
    // It does not come back.
    std::future::pending().await
}

impl Supervised {
    /// Waits for the first boot.
    async fn wait(&mut self) {
        let due = tokio::time::sleep(self.spec.first_boot);
        tokio::pin!(due);
        loop {
            tokio::select! {
                biased;
                order = self.inbox.recv() => match order {
                    Some(Order::Raise) | None => return,
                    Some(_) => {}
                },
                () = &mut due => return,
            }
        }
    }

    pub(crate) fn process(&self) -> &str {
        &self.spec.process
    }

    pub(crate) fn listen(&self) -> Option<SocketAddr> {
        self.spec.listen
    }

    /// Begins a life. What the plan sets wins over `environment`.
    pub(crate) fn bear<O: ProductEvent>(
        &mut self,
        dispatcher: &Arc<Dispatcher<O>>,
        environment: BTreeMap<String, String>,
    ) -> Life {
        let spec = &self.spec;
        self.incarnations += 1;
        let incarnation = self.incarnations;
        if incarnation > 1 {
            self.body.wake();
        }
        let mut config = environment;
        config.extend(spec.config.clone());
        let boot = Boot {
            role: spec.role.name,
            process: spec.process.clone(),
            incarnation,
            links: spec.links.clone(),
            listen: spec.listen,
            config,
            entropy: spec.seed.key(&format!("mint/{}/{incarnation}", spec.process)),
            // The backend that begins the life has them.
            signals: mpsc::unbounded_channel().1,
        };
        spec.near.iter().for_each(|link| link.near_up(incarnation));
        spec.far.iter().for_each(|link| link.far_up());
        dispatcher.act(|monitor| monitor.booted(&spec.process, incarnation));
        let (living, exit) = self.body.begin(dispatcher, &spec.boot, boot);
        dispatcher.act(|monitor| monitor.born(&spec.process));
        Life { incarnation, living, exit }
    }

    /// Waits for the end of a life, and brings it about if it is told to; `grace` is the time from SIGTERM to SIGKILL.
    pub(crate) async fn live<O: ProductEvent>(
        &mut self,
        dispatcher: &Arc<Dispatcher<O>>,
        life: Life,
        grace: Option<Duration>,
    ) -> Ended {
        let Life { incarnation, living, mut exit } = life;
        let process = &self.spec.process;
        let patience = tokio::time::sleep(Duration::MAX / 4);
        // As long as it goes on serving although it is to stop.
        let notice = tokio::time::sleep(Duration::MAX / 4);
        // Nobody but the service manager asks how a process is.
        let probe = self.spec.probe.zip(self.spec.listen).filter(|_| grace.is_some());
        let unwell = async move {
            match probe {
                Some((every, listen)) => probe::fails(listen, every).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(patience, notice, unwell);
        let (mut dying, mut noticed) = (false, false);
        let ended = loop {
            tokio::select! {
                biased;
                order = self.inbox.recv() => match order {
                    Some(Order::Kill(whom)) if whom == incarnation => break Ended::Killed,
                    Some(Order::Crash(whom)) if whom == incarnation => break Ended::Exited(PANICKED),
                    Some(Order::Stop { whom, heard }) if whom == incarnation => {
                        if let Some(grace) = grace && !std::mem::replace(&mut dying, true) {
                            patience.set(tokio::time::sleep(grace));
                        }
                        if heard && !std::mem::replace(&mut noticed, true) {
                            notice.set(tokio::time::sleep(self.spec.pre_stop));
                        }
                    }
                    Some(Order::Terminate(whom)) if whom == incarnation => {
                        living.terminate();
                        if let Some(grace) = grace && !std::mem::replace(&mut dying, true) {
                            patience.set(tokio::time::sleep(grace));
                        }
                    }
                    Some(_) => {}
                    None => break Ended::Killed,
                },
                Ok(code) = &mut exit => {
                    dispatcher.act(|monitor| monitor.exited(process, code));
                    return Ended::Exited(code);
                }
                () = &mut notice, if noticed => {
                    notice.set(tokio::time::sleep(Duration::MAX / 4));
                    dispatcher.act(|monitor| monitor.terminate(process));
                }
                () = &mut unwell => {
                    dispatcher.act(|monitor| monitor.kill(process));
                    break Ended::Killed;
                }
                () = &mut patience, if dying => {
                    dispatcher.act(|monitor| monitor.kill(process));
                    break Ended::Killed;
                }
            }
        };
        living.end(exit).await;
        ended
    }

    /// Buries who lived last: afterwards the next life may begin.
    pub(crate) async fn reap(&self) {
        self.body.reap().await;
        tokio::time::sleep(BURIAL).await;
    }
}
