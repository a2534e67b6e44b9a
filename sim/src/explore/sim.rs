//! The small door: a world for a plain `#[test]`, from nothing to a verdict. [`Product`](crate::world::product::Product)
//! is the large one: it has plans in files, a command line, sweeps and shrinking. The run behind both is the same.
//!
//! ```
//! use std::time::Duration;
//!
//! use lychgate_sim::explore::sim::{Sim, wedge};
//! use lychgate_sim::standins::redis::Redis;
//! use lychgate_sim::standins::redis::observation::Command;
//! use lychgate_sim::trace::verdict::Verdict;
//! use lychgate_sim::world::product::Boot;
//! use tokio::io::{AsyncReadExt, AsyncWriteExt};
//! use tokio::net::TcpStream;
//! use tokio::time::{sleep, timeout};
//!
//! const SECOND: Duration = Duration::from_secs(1);
//!
//! async fn ping(boot: &Boot) -> std::io::Result<()> {
//!     let mut redis = TcpStream::connect(boot.links["redis"]).await?;
//!     redis.write_all(b"*1\r\n$4\r\nPING\r\n").await?;
//!     redis.flush().await?;
//!     redis.read_exact(&mut [0; 7]).await.map(drop)
//! }
//!
//! let report = Sim::new(7)
//!     .standin(Redis::new())
//!     .process("worker", |boot| async move {
//!         loop {
//!             let _ = timeout(SECOND, ping(&boot)).await; // it is asked again in any case
//!             sleep(SECOND).await;
//!         }
//!     })
//!     .fault(wedge("worker->redis").at(5 * SECOND).lasting(10 * SECOND))
//!     .check("only_pings", |seen, _| match seen.of::<Command>() {
//!         Some(command) if &*command.words[0] != b"PING" => Err(format!("{command:?}")),
//!         _ => Ok(()),
//!     })
//!     .run();
//! assert_eq!(report.verdict, Verdict::Passed, "{report:#?}");
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde::Serialize;

use crate::explore::run::{Options, run_system};
use crate::link;
use crate::plan::seed::Seed;
use crate::plan::{Expect, Fault, Kind, Lifetime, Plan, Trigger};
use crate::standins::StandIn;
use crate::standins::observation::Observation;
use crate::trace::event::{Event, ProductEvent, What};
use crate::trace::invariant::{Breach, Invariant, Obligation};
use crate::trace::verdict::Report;
use crate::world::process_faults;
use crate::world::product::{Actors, Boot, Judges, Origin, Reader, Role, System, User, UserContext};

/// How long the world of a test lasts, unless the test says otherwise.
const LASTS: Duration = Duration::from_secs(60);
/// Time from SIGTERM to SIGKILL.
const GRACE: Duration = Duration::from_secs(10);
/// Time from an exit to the next boot.
const RESTART_DELAY: Duration = Duration::from_secs(1);
/// How long settling may take.
const SETTLE_MAX: Duration = Duration::from_secs(600);
/// The user that does nothing: the world lasts as long as it stays.
const CLOCK: &str = "clock";
/// The label of all work: whatever strikes a request or a process is felt by it.
const WORK: &str = "work";

/// What happens in such a world.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Seen {
    /// A stand-in did something, or a process logged.
    Observed {
        /// The service; empty of a log.
        service: &'static str,
        /// What it was.
        what: String,
    },
    /// A user says what came of something.
    Told {
        /// In its own words.
        says: String,
    },
    /// A check found something wrong.
    Broke {
        /// The check's name.
        check: &'static str,
        /// What is wrong.
        says: String,
    },
}

impl ProductEvent for Seen {
    const NAMES: &'static [&'static str] = &["observed", "told", "broke"];

    fn name(&self) -> &'static str {
        match self {
            Seen::Observed { .. } => "observed",
            Seen::Told { .. } => "told",
            Seen::Broke { .. } => "broke",
        }
    }

    fn session(&self) -> Option<&str> {
        None
    }

    fn story(&self) -> Option<String> {
        match self {
            Seen::Told { says } => Some(says.clone()),
            Seen::Observed { .. } | Seen::Broke { .. } => None,
        }
    }
}

type BootFn = Arc<dyn Fn(Boot) -> BoxFuture<'static, i32> + Send + Sync>;
type CheckFn = Box<dyn FnMut(&Observation, &Origin) -> Result<(), String> + Send>;
type GoalFn = Box<dyn FnMut(&Observation, &Origin) -> bool + Send>;

/// A kind of process, and how each of them boots.
struct Process {
    name: &'static str,
    port: Option<u16>,
    count: usize,
    boot: BootFn,
}

/// Something that must be seen.
struct Goal {
    name: &'static str,
    within: Duration,
    seen: Arc<AtomicBool>,
    sees: GoalFn,
}

/// A world to be run once: stand-ins, processes, users, faults and checks.
pub struct Sim {
    seed: Seed,
    lasts: Duration,
    crates: &'static [&'static str],
    standins: Vec<Arc<dyn StandIn>>,
    processes: Vec<Process>,
    users: Vec<User<Seen>>,
    faults: Vec<Fault>,
    checks: Vec<(&'static str, CheckFn)>,
    goals: Vec<Goal>,
}

impl fmt::Debug for Sim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sim").field("seed", &self.seed).field("faults", &self.faults).finish_non_exhaustive()
    }
}

impl Sim {
    /// An empty world of this seed, which lasts for a minute.
    pub fn new(seed: u64) -> Sim {
        Sim {
            seed: Seed(seed),
            lasts: LASTS,
            crates: &[],
            standins: Vec::new(),
            processes: Vec::new(),
            users: Vec::new(),
            faults: Vec::new(),
            checks: Vec::new(),
            goals: Vec::new(),
        }
    }

    /// The world lasts at least so long, in virtual time.
    #[must_use]
    pub fn lasting(mut self, lasts: Duration) -> Sim {
        self.lasts = lasts;
        self
    }

    /// The crates whose `tracing` events are observed, too.
    #[must_use]
    pub fn logs_of(mut self, crates: &'static [&'static str]) -> Sim {
        self.crates = crates;
        self
    }

    /// Every process reaches `standin` through a link of its own, by its name in [`Boot::links`].
    #[must_use]
    pub fn standin(mut self, standin: impl StandIn + 'static) -> Sim {
        self.standins.push(Arc::new(standin));
        self
    }

    /// A process, `worker-1` if its name is `worker`. Its output is its exit code; it boots again after each exit.
    #[must_use]
    pub fn process<F>(self, name: &'static str, boot: impl Fn(Boot) -> F + Send + Sync + 'static) -> Sim
    where
        F: Future<Output = i32> + Send + 'static,
    {
        self.processes(name, 1, boot)
    }

    /// As many processes of one kind, `worker-1`, `worker-2` and so on.
    #[must_use]
    pub fn processes<F>(
        mut self,
        name: &'static str,
        count: usize,
        boot: impl Fn(Boot) -> F + Send + Sync + 'static,
    ) -> Sim
    where
        F: Future<Output = i32> + Send + 'static,
    {
        let boot: BootFn = Arc::new(move |one| Box::pin(boot(one)));
        self.processes.push(Process { name, port: None, count, boot });
        self
    }

    /// A process that users reach, each through a link of its own: it listens on [`Boot::listen`], at this port.
    #[must_use]
    pub fn server<F>(mut self, name: &'static str, port: u16, boot: impl Fn(Boot) -> F + Send + Sync + 'static) -> Sim
    where
        F: Future<Output = i32> + Send + 'static,
    {
        let boot: BootFn = Arc::new(move |one| Box::pin(boot(one)));
        self.processes.push(Process { name, port: Some(port), count: 1, boot });
        self
    }

    /// A user, from the beginning to its end.
    #[must_use]
    pub fn user<F>(mut self, name: &str, act: impl FnOnce(UserContext<Seen>) -> F + Send + 'static) -> Sim
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let act = Box::new(move |context| -> BoxFuture<'static, ()> { Box::pin(act(context)) });
        self.users.push(User { name: name.to_owned(), act });
        self
    }

    /// Something that goes wrong. A target names processes by their kind, as `worker->redis`, or one of them, as
    /// `worker-2->redis`.
    #[must_use]
    pub fn fault(mut self, fault: Fault) -> Sim {
        self.faults.push(fault);
        self
    }

    /// What must hold: it is shown each observation with the process at the connection's other end, and says what is wrong.
    /// The run stops there, as a violation of the invariant `name`.
    #[must_use]
    pub fn check(
        mut self,
        name: &'static str,
        check: impl FnMut(&Observation, &Origin) -> Result<(), String> + Send + 'static,
    ) -> Sim {
        self.checks.push((name, Box::new(check)));
        self
    }

    /// What must be seen once within this time since the beginning: else the invariant `name` is violated.
    #[must_use]
    pub fn eventually(
        mut self,
        name: &'static str,
        within: Duration,
        sees: impl FnMut(&Observation, &Origin) -> bool + Send + 'static,
    ) -> Sim {
        self.goals.push(Goal { name, within, seen: Arc::default(), sees: Box::new(sees) });
        self
    }

    /// Runs it, on a thread of its own. A fault that nobody felt and a check that was shown nothing make it vacuous. To see
    /// every event of a failure, print the report.
    pub fn run(self) -> Report {
        let kinds: Vec<&str> = self.processes.iter().map(|process| process.name).collect();
        let plural = |fault: Fault| Fault {
            targets: fault.targets.iter().flat_map(|target| each(target, &self.processes)).collect(),
            ..fault
        };
        let plan = Plan {
            about: format!("A test of {}", kinds.join(", ")),
            arms: self.checks.iter().map(|(name, _)| (*name).to_owned()).collect(),
            must_reach: Vec::new(),
            topology: self.processes.iter().map(|process| (process.name.to_owned(), process.count)).collect(),
            config: BTreeMap::new(),
            service: BTreeMap::new(),
            users: (),
            faults: self.faults.into_iter().map(plural).collect(),
            expect: Expect { verdict: "passed".to_owned(), invariant: None },
            repro: None,
        };
        let options = Options { strict: true, ..Options::default() };
        let lasts = self.lasts;
        let clock = User { name: CLOCK.to_owned(), act: Box::new(move |_| Box::pin(tokio::time::sleep(lasts))) };
        let users = self.users.into_iter().chain([clock]).collect();
        let roles = roles(&self.processes, &self.standins);
        let boots: BTreeMap<_, _> = self.processes.into_iter().map(|process| (process.name, process.boot)).collect();
        let boot = Arc::new(move |boot: Boot| boots[boot.role](boot));
        let checks = self.checks.iter().map(|(name, _)| checked(name));
        let goals = self.goals.iter().map(|goal| reached(goal));
        let invariants = checks.chain(goals).collect();
        let actors =
            Actors { roles, crates: self.crates, standins: self.standins, boot, users, settle_max: SETTLE_MAX };
        let reader = Box::new(Watching { checks: self.checks, goals: self.goals });
        let judges = Judges { reader, invariants, moments: Box::new(()) };
        run_system("test", &plan, self.seed, &options, move || System { actors, judges })
    }
}

/// A target as plans say it: of a kind of process each one.
fn each(target: &str, processes: &[Process]) -> Vec<String> {
    let named = |name: &str| match processes.iter().find(|process| process.name == name) {
        Some(process) => (1..=process.count).map(|number| format!("{name}-{number}")).collect(),
        None => vec![name.to_owned()],
    };
    match target.split_once("->") {
        Some((near, far)) => {
            let fars = named(far);
            named(near).iter().flat_map(|near| fars.iter().map(move |far| format!("{near}->{far}"))).collect()
        }
        None => named(target),
    }
}

/// The roles of these processes. A world knows its roles for ever; those of a test are a few bytes.
fn roles(processes: &[Process], standins: &[Arc<dyn StandIn>]) -> &'static [Role] {
    let services: &'static [&'static str] = Vec::leak(standins.iter().map(|standin| standin.name()).collect());
    let role = |process: &Process| Role {
        name: process.name,
        services,
        port: process.port,
        count: process.count,
        grace: GRACE,
        restart_delay: RESTART_DELAY,
        contained: None,
    };
    Vec::leak(processes.iter().map(role).collect())
}

/// Shows observations to the checks and goals.
struct Watching {
    checks: Vec<(&'static str, CheckFn)>,
    goals: Vec<Goal>,
}

impl Reader<Seen> for Watching {
    fn read(&mut self, observation: &Observation, origin: &Origin) -> Vec<Seen> {
        let mut seen = vec![Seen::Observed { service: observation.service, what: format!("{observation:?}") }];
        for (check, wrong) in &mut self.checks {
            seen.extend(wrong(observation, origin).err().map(|says| Seen::Broke { check, says }));
        }
        for goal in &mut self.goals {
            if !goal.seen.load(Ordering::Relaxed) {
                goal.seen.store((goal.sees)(observation, origin), Ordering::Relaxed);
            }
        }
        seen
    }

    fn mentioned(&self, _: &[u8]) -> Option<String> {
        Some(WORK.to_owned())
    }

    fn served_by(&self, _: &str) -> Option<String> {
        Some(WORK.to_owned())
    }
}

/// A check or a goal, as the judge knows it.
struct Promise {
    name: &'static str,
    armed: bool,
    /// Until when it must have been seen, and whether it has been.
    goal: Option<(Duration, Arc<AtomicBool>)>,
}

fn checked(name: &'static str) -> Box<dyn Invariant<Seen>> {
    Box::new(Promise { name, armed: false, goal: None })
}

fn reached(goal: &Goal) -> Box<dyn Invariant<Seen>> {
    Box::new(Promise { name: goal.name, armed: false, goal: Some((goal.within, goal.seen.clone())) })
}

impl Invariant<Seen> for Promise {
    fn name(&self) -> &'static str {
        self.name
    }

    fn says(&self) -> &'static str {
        "what the test says"
    }

    fn observe(&mut self, event: &Event<Seen>) -> Result<(), Breach> {
        match &event.what {
            What::Product(Seen::Broke { check, says }) if *check == self.name => Err(Breach::now(says)),
            What::Product(Seen::Observed { .. }) => {
                self.armed = true;
                Ok(())
            }
            What::Product(_) | What::World(_) => Ok(()),
        }
    }

    fn pending(&self) -> Vec<Obligation> {
        let missing = self.goal.iter().filter(|(_, seen)| !seen.load(Ordering::Relaxed));
        missing.map(|(within, _)| Obligation::new(format!("{} is seen", self.name), Duration::ZERO, *within)).collect()
    }

    fn armed(&self) -> bool {
        self.armed
    }
}

/// Bytes on the link are accepted and not carried.
pub fn wedge(link: &str) -> Fault {
    of(Kind::of(&link::faults::WEDGE), link, Lifetime::UntilHeal)
}

/// Every connection of the link is closed once.
pub fn close(link: &str) -> Fault {
    of(Kind::of(&link::faults::CLOSE), link, Lifetime::Instant)
}

/// The next request on the link is carried out, and its answer lost with the connection.
pub fn reply_lost(link: &str) -> Fault {
    of(Kind::of(&link::faults::REPLY_LOST), link, Lifetime::Instant)
}

/// What is said on the link comes later, by this much.
pub fn delay(link: &str, by: Duration) -> Fault {
    of(Kind::of(&link::faults::DELAY).with("by", by), link, Lifetime::UntilHeal)
}

/// SIGKILL to the process.
pub fn kill(process: &str) -> Fault {
    of(Kind::of(&process_faults::SIGKILL), process, Lifetime::Instant)
}

/// SIGTERM to the process, and SIGKILL ten seconds later.
pub fn terminate(process: &str) -> Fault {
    of(Kind::of(&process_faults::SIGTERM), process, Lifetime::Instant)
}

/// Any kind of fault, at the beginning of the run.
pub fn of(kind: Kind, target: &str, length: Lifetime) -> Fault {
    Fault::new(kind, vec![target.to_owned()], Trigger::At(Duration::ZERO), length)
}

impl Fault {
    /// The same, at this virtual time since the beginning.
    #[must_use]
    pub fn at(self, at: Duration) -> Fault {
        Fault { trigger: Trigger::At(at), ..self }
    }

    /// The same, for so long.
    #[must_use]
    pub fn lasting(self, lasts: Duration) -> Fault {
        Fault { length: Lifetime::Lasts(lasts), ..self }
    }
}
