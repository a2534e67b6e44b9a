//! A process of the operating system has many lives, and a service manager that ends and begins them.
//! Its one law: the dead say nothing more. Their last lines are heard before their end is told, unless they were killed.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::ground::NodeId;
use crate::engine::KILLED;
use crate::event::Occurrence;
use crate::hub::Hub;
use crate::link::Link;
use crate::observation::{Log, Observation};
use crate::plan::Plan;
use crate::product::{Boot, Product, Role};
use crate::seed::Seed;

/// The least time from a death to the next boot: relays have seen the ends of its connections by then.
const BURIAL: Duration = Duration::from_millis(50);
/// How often it is looked whether a process that says nothing more has ended.
const LOOK: Duration = Duration::from_millis(5);

/// What the service manager is told. Each order is for one incarnation and void for the next.
enum Order {
    Terminate(u32),
    Kill(u32),
}

/// The world's end of a process's service manager.
pub(crate) struct Keeper {
    body: Arc<Body>,
    orders: mpsc::UnboundedSender<Order>,
}

/// What a process consists of, apart from its lives.
struct Body {
    /// Who lives now.
    child: Mutex<Option<Arc<Living>>>,
    /// Links on which it is the near end.
    near: Vec<Arc<Link>>,
    /// Links on which it is the far end.
    far: Vec<Arc<Link>>,
}

/// A child of ours. Nobody but us waits for it, so its id is its own until then.
struct Living(Mutex<Child>);

/// Everything that a life of one process needs.
pub(crate) struct Birth {
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
    pub(crate) seed: Seed,
}

impl Keeper {
    /// SIGTERM.
    pub(crate) fn terminate(&self, incarnation: u32) {
        let _ = self.orders.send(Order::Terminate(incarnation)); // it fails only when the world is being taken down
    }

    /// SIGKILL.
    pub(crate) fn kill(&self, incarnation: u32) {
        self.body.signal(libc::SIGKILL);
        let _ = self.orders.send(Order::Kill(incarnation));
    }

    /// Its host is lost: nothing of what it had opened says anything more.
    pub(crate) fn lose(&self, incarnation: u32) {
        // SIGSTOP first: its connections must not be seen to close.
        self.body.signal(libc::SIGSTOP);
        self.body.near.iter().for_each(|link| link.lose_near());
        self.body.far.iter().for_each(|link| link.lose_far());
        self.kill(incarnation);
    }

    /// What its first `losses` lost hosts left half-open is closed.
    pub(crate) fn expire(&self, losses: u32) {
        self.body.near.iter().for_each(|link| link.expire_near(losses));
        self.body.far.iter().for_each(|link| link.expire_far(losses));
    }

    /// SIGSTOP.
    pub(crate) fn pause(&self) {
        self.body.signal(libc::SIGSTOP);
    }

    /// SIGCONT.
    pub(crate) fn resume(&self) {
        self.body.signal(libc::SIGCONT);
    }
}

impl Body {
    fn child(&self) -> MutexGuard<'_, Option<Arc<Living>>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn signal(&self, signal: libc::c_int) {
        if let Some(living) = &*self.child() {
            living.signal(signal);
        }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        // The world ends, and everything in it.
        self.signal(libc::SIGKILL);
    }
}

impl Living {
    fn child(&self) -> MutexGuard<'_, Child> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn signal(&self, signal: libc::c_int) {
        let mut child = self.child();
        // It ends between the question and the signal without its id being given away: nobody else waits for it.
        if matches!(child.try_wait(), Ok(None)) {
            let pid = libc::pid_t::try_from(child.id()).expect("a process id");
            // SAFETY: it sends a signal to a child of ours that has not been waited for.
            unsafe { libc::kill(pid, signal) };
        }
    }

    /// Waits for its end, on a thread of its own.
    fn end(&self) -> i32 {
        loop {
            if let Ok(Some(status)) = self.child().try_wait() {
                return status.code().unwrap_or(KILLED);
            }
            std::thread::sleep(LOOK);
        }
    }
}

/// The settings of one process: for all, for its role, for itself (of a container: for its agent, for its berth), the
/// narrowest winning.
pub(crate) fn settings<W>(plan: &Plan<W>, role: &str, own: &[&str]) -> BTreeMap<String, String> {
    let mut settings = BTreeMap::new();
    for scope in ["all", role].iter().chain(own) {
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
    living: Arc<Living>,
    exit: oneshot::Receiver<i32>,
}

/// A process as whoever boots it holds it: the service manager, or a container engine.
pub(crate) struct Manned {
    birth: Birth,
    body: Arc<Body>,
    inbox: mpsc::UnboundedReceiver<Order>,
    incarnations: u32,
}

/// A process before its first life, and the world's end of it.
pub(crate) fn man(birth: Birth) -> (Keeper, Manned) {
    let (orders, inbox) = mpsc::unbounded_channel();
    let body = Arc::new(Body { child: Mutex::default(), near: birth.near.clone(), far: birth.far.clone() });
    (Keeper { body: body.clone(), orders }, Manned { birth, body, inbox, incarnations: 0 })
}

/// Starts the service manager of a process; the future keeps it alive for ever.
pub(crate) fn keep<P: Product>(
    hub: Arc<Hub<P::Occurrence>>,
    birth: Birth,
) -> (Keeper, impl Future<Output = ()> + Send + 'static) {
    let (keeper, manned) = man(birth);
    (keeper, manage::<P>(hub, manned))
}

async fn manage<P: Product>(hub: Arc<Hub<P::Occurrence>>, mut manned: Manned) {
    tokio::time::sleep(manned.birth.first_boot).await;
    loop {
        let life = manned.bear::<P>(&hub, BTreeMap::new());
        let grace = manned.birth.grace;
        manned.live(&hub, life, Some(grace)).await;
        tokio::time::sleep(manned.birth.restart_delay.max(BURIAL)).await;
    }
}

impl Manned {
    pub(crate) fn process(&self) -> &str {
        &self.birth.process
    }

    pub(crate) fn listen(&self) -> Option<SocketAddr> {
        self.birth.listen
    }

    /// Begins a life. What the plan sets wins over `environment`.
    pub(crate) fn bear<P: Product>(
        &mut self,
        hub: &Arc<Hub<P::Occurrence>>,
        environment: BTreeMap<String, String>,
    ) -> Life {
        let birth = &self.birth;
        self.incarnations += 1;
        let incarnation = self.incarnations;
        let mut config = environment;
        config.extend(birth.config.clone());
        let boot = Boot {
            role: birth.role.name,
            process: birth.process.clone(),
            incarnation,
            links: birth.links.clone(),
            listen: birth.listen,
            config,
            entropy: birth.seed.key(&format!("mint/{}/{incarnation}", birth.process)),
            signals: mpsc::unbounded_channel().1,
        };
        birth.near.iter().for_each(|link| link.near_up(incarnation));
        birth.far.iter().for_each(|link| link.far_up());
        hub.act(|watch| watch.booted(&birth.process, incarnation));
        let (living, exit) = start(hub, &birth.process, (hub.around.command)(&boot));
        *self.body.child() = Some(living.clone());
        Life { incarnation, living, exit }
    }

    /// Waits for the end of a life, and brings it about if it is told to; `grace` is the time from SIGTERM to SIGKILL.
    pub(crate) async fn live<O: Occurrence>(
        &mut self,
        hub: &Arc<Hub<O>>,
        life: Life,
        grace: Option<Duration>,
    ) -> Ended {
        let Life { incarnation, living, mut exit } = life;
        let process = &self.birth.process;
        let patience = tokio::time::sleep(Duration::MAX / 4);
        tokio::pin!(patience);
        let mut dying = false;
        let ended = loop {
            tokio::select! {
                biased;
                order = self.inbox.recv() => match order {
                    Some(Order::Kill(whom)) if whom == incarnation => break Ended::Killed,
                    Some(Order::Terminate(whom)) if whom == incarnation => {
                        living.signal(libc::SIGTERM);
                        if let Some(grace) = grace && !std::mem::replace(&mut dying, true) {
                            patience.set(tokio::time::sleep(grace));
                        }
                    }
                    Some(_) => {}
                    None => break Ended::Killed,
                },
                Ok(code) = &mut exit => {
                    hub.act(|watch| watch.exited(process, code));
                    return Ended::Exited(code);
                }
                () = &mut patience, if dying => {
                    hub.act(|watch| watch.kill(process));
                    break Ended::Killed;
                }
            }
        };
        living.signal(libc::SIGKILL);
        let _ = exit.await; // its code is no news
        ended
    }

    /// Buries who lived last: afterwards the next life may begin.
    pub(crate) async fn bury(&self) {
        tokio::time::sleep(BURIAL).await;
    }
}

/// Starts a process whose lines are heard; the receiver is told its exit code after the last one.
fn start<O: Occurrence>(
    hub: &Arc<Hub<O>>,
    process: &str,
    mut command: Command,
) -> (Arc<Living>, oneshot::Receiver<i32>) {
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    // SAFETY: it sets an attribute of the child and allocates nothing. The run's thread outlives its processes.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            Ok(())
        });
    }
    let mut child = command
        .spawn()
        .unwrap_or_else(|error| panic!("{process}: {:?} does not start: {error}", command.get_program()));
    let lines = BufReader::new(child.stdout.take().expect("it is piped"));
    let living = Arc::new(Living(Mutex::new(child)));
    let (tell, mut told) = mpsc::unbounded_channel();
    let (ended, exit) = oneshot::channel();
    let waits = living.clone();
    std::thread::spawn(move || {
        for line in lines.lines().map_while(Result::ok) {
            let _ = tell.send(Ok(line)); // a world that is gone hears nothing
        }
        let _ = tell.send(Err(waits.end()));
    });
    let (hub, process) = (hub.clone(), process.to_owned());
    tokio::spawn(async move {
        while let Some(said) = told.recv().await {
            match said {
                Ok(line) => {
                    hub.act(|watch| watch.logged(&process, |life| Observation::Log(log(&process, life, &line))))
                }
                Err(code) => return ended.send(code).unwrap_or_default(), // nobody waits for one whose world is gone
            }
        }
    });
    (living, exit)
}

/// A line of JSON as `tracing` and most others write it; any other line is its own message.
fn log(process: &str, incarnation: u32, line: &str) -> Log {
    let words: Option<BTreeMap<String, serde_json::Value>> = serde_json::from_str(line).ok();
    let mut fields: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in words.unwrap_or_default() {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        fields.insert(name, text);
    }
    let message = ["message", "msg", "event"].iter().find_map(|name| fields.remove(*name));
    let level = fields.remove("level").unwrap_or_default().to_uppercase();
    let level = ["ERROR", "WARN", "DEBUG", "TRACE"].into_iter().find(|known| level.starts_with(known));
    Log {
        process: process.to_owned(),
        incarnation,
        level: level.unwrap_or("INFO"),
        message: message.unwrap_or_else(|| line.to_owned()),
        fields,
    }
}
