//! A run is one plan and one seed in one world, on a fresh thread of a process of its own.
//! Its one law: the same plan and seed give the same digest, alone or in a batch, in any order, on any worker.
//!
//! That holds only if the parent of [`fork_run`] is single-threaded, never runs a simulation itself and never polls a
//! `select!`: branch order comes from counters that a child inherits.

use std::any::Any;
use std::cell::{OnceCell, RefCell};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt;

use crate::explore::coverage::Coverage;
use crate::plan::Plan;
use crate::plan::seed::Seed;
use crate::standins::StandIn;
use crate::trace::event::ProductEvent;
use crate::trace::recorder::{ChunkEar, Recorder};
use crate::trace::verdict::{Report, Verdict};
use crate::world;
use crate::world::dispatcher::Dispatcher;
use crate::world::monitor::Monitor;
use crate::world::nemesis::Nemesis;
use crate::world::nodes::NodeId;
use crate::world::product::{Product, System};
use crate::world::report::{Lived, blank, build_report};

/// How to run, apart from what.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where to write the trace as JSON lines, the first of them a header with version, scenario and seed.
    pub trace: Option<PathBuf>,
    /// How long a child may take on the wall's clock before its parent ends it.
    pub wall_max: Duration,
    /// Whether a run that proves nothing is [`Verdict::Vacuous`], as for scenarios in files.
    pub strict: bool,
    /// Where to stream every [`Step`](crate::trace::step::Step) while the run goes on, a JSON object a line.
    pub items: Option<Arc<File>>,
    /// Whether to keep the [shapes](crate::explore::coverage) of what processes say to services.
    pub shapes: bool,
    /// Whether no invariant counts: a run fails only if something panics, or if it comes to no end.
    pub naive: bool,
    /// Whether to list the [events on which a fault can be hung](crate::trace::anchor).
    pub anchors: bool,
}

impl Default for Options {
    fn default() -> Self {
        // A long run takes seconds; two minutes is a hang even on a loaded machine.
        Options {
            trace: None,
            wall_max: Duration::from_secs(120),
            strict: false,
            items: None,
            shapes: false,
            naive: false,
            anchors: false,
        }
    }
}

/// What the panic hook knows of the run on this thread.
struct Scene {
    title: String,
    /// Whether the world lives, so that code runs on some node of it.
    lives: bool,
    /// What was said, and on which node.
    panics: Vec<(String, Option<NodeId>)>,
}

thread_local! {
    static SCENE: RefCell<Option<Scene>> = const { RefCell::new(None) };
}

/// Runs in this process, on a fresh thread. The caller must be a child that does nothing else, or a test that does not
/// compare digests across processes.
pub fn run_here<P: Product>(scenario: &str, plan: &Plan<P::Workload>, seed: Seed, options: &Options) -> Report {
    run_system(scenario, plan, seed, options, || System::of::<P>(plan, seed))
}

/// Runs what `system` makes, in this process, on a fresh thread.
pub(crate) fn run_system<O: ProductEvent, W: Sync>(
    scenario: &str,
    plan: &Plan<W>,
    seed: Seed,
    options: &Options,
    system: impl FnOnce() -> System<O> + Send,
) -> Report {
    let began = Instant::now();
    let mut report = std::thread::scope(|scope| {
        // As much as a main thread has.
        let run = std::thread::Builder::new().name("run".into()).stack_size(8 << 20);
        match run.spawn_scoped(scope, || on_this_thread(scenario, plan, seed, options, system)) {
            Ok(thread) => thread.join().unwrap_or_else(|panic| {
                blank(scenario, seed, Verdict::Error, format!("the harness panicked: {}", message(&*panic)))
            }),
            Err(error) => blank(scenario, seed, Verdict::Error, format!("no thread for the run: {error}")),
        }
    });
    report.wall_seconds = began.elapsed().as_secs_f64();
    report
}

fn on_this_thread<O: ProductEvent, W>(
    scenario: &str,
    plan: &Plan<W>,
    seed: Seed,
    options: &Options,
    system: impl FnOnce() -> System<O>,
) -> Report {
    hook();
    SCENE.set(Some(Scene { title: format!("scenario {scenario}, seed {}", seed.0), lives: false, panics: Vec::new() }));
    let recorder = match Recorder::new(options.trace.as_deref(), scenario, seed.0) {
        Ok(recorder) => recorder.streaming(options.items.clone()).anchoring(options.anchors),
        Err(error) => return blank(scenario, seed, Verdict::Error, format!("the trace cannot be written: {error}")),
    };
    // The runtime is first: it seeds the keys of every hash map that this thread makes from here on.
    let runtime = madsim::runtime::Runtime::with_seed_and_config(seed.number("schedule"), madsim::Config::default());
    let (slot, shapes) = (OnceCell::new(), OnceCell::new());
    let lived = catch_unwind(AssertUnwindSafe(|| {
        runtime.block_on(async {
            lives(true);
            turn_selects(seed);
            let System { actors, judges } = system();
            let (ear, coverage) = options.shapes.then(|| listening(&actors.standins)).unzip();
            shapes.set(coverage).unwrap_or_else(|_| unreachable!("a run begins once"));
            let recorder = recorder.heard_by(ear);
            let nemesis = Nemesis::new(&plan.faults, actors.links(&plan.topology));
            let invariants = if options.naive { Vec::new() } else { judges.invariants };
            let monitor = Monitor::new(recorder, nemesis, invariants, judges.reader, judges.moments);
            let dispatcher = slot.get_or_init(|| Dispatcher::new(monitor)).clone();
            let because = world::live(dispatcher.clone(), actors, plan, seed).await;
            dispatcher.look(|monitor| monitor.close());
            lives(false);
            because
        })
    }));
    // Dropping the world would run destructors of everything in it, for nothing.
    std::mem::forget(runtime);
    let lived = lived.map_or_else(|panic| panicked(&*panic), Lived::Settled);
    let mut report = match (slot.get(), lived) {
        (Some(dispatcher), lived) => build_report(dispatcher, scenario, plan, seed, options.strict, lived),
        (None, Lived::Panicked { says, .. }) => {
            blank(scenario, seed, Verdict::Error, format!("the harness panicked: {says}"))
        }
        (None, Lived::Settled(_)) => blank(scenario, seed, Verdict::Error, "the run had no world".to_owned()),
    };
    if let Some(Some(coverage)) = shapes.get() {
        let coverage: &Mutex<Coverage> = coverage;
        report.shapes = coverage.lock().unwrap_or_else(PoisonError::into_inner).all().into_iter().collect();
    }
    std::mem::forget(slot);
    SCENE.set(None);
    report
}

/// Says whether code runs on some node of a world from now on.
fn lives(lives: bool) {
    SCENE.with_borrow_mut(|scene| scene.iter_mut().for_each(|scene| scene.lives = lives));
}

/// What ended a run that did not come to its end.
fn panicked(panic: &(dyn Any + Send)) -> Lived {
    let panics = SCENE.with_borrow_mut(|scene| scene.as_mut().map(|scene| std::mem::take(&mut scene.panics)));
    // The last is the one that ended the run; the product may have caught others before.
    let (says, node) = panics.and_then(|mut panics| panics.pop()).unwrap_or_else(|| (message(panic), None));
    Lived::Panicked { says, node }
}

/// What hears the shapes of what is said to these stand-ins, and where they are kept.
fn listening(standins: &[Arc<dyn StandIn>]) -> (ChunkEar, Arc<Mutex<Coverage>>) {
    let coverage = Arc::new(Mutex::new(Coverage::of(standins)));
    let kept = coverage.clone();
    let ear = Box::new(move |link: &str, conn, up, bytes: &[u8]| {
        if let Some((_, service)) = link.split_once("->") {
            kept.lock().unwrap_or_else(PoisonError::into_inner).carried(service, link, conn, up, bytes);
        }
    });
    (ear, coverage)
}

/// `futures::select!` takes its order from a counter of the thread, whatever the seed: some dummies turn it on.
fn turn_selects(seed: Seed) {
    for _ in 0..seed.number("selects") % 64 {
        async {
            let (mut one, mut other) = (std::future::ready(()).fuse(), std::future::ready(()).fuse());
            futures_util::select! { () = one => {}, () = other => {} }
        }
        .now_or_never();
    }
}

/// On the thread of a run a panic is kept for the report, and the way back to it is printed; elsewhere nothing changes.
fn hook() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let kept = SCENE.try_with(|scene| {
                let Ok(mut scene) = scene.try_borrow_mut() else { return false };
                let Some(scene) = scene.as_mut() else { return false };
                let place = info.location().map(|place| format!(" ({}:{})", place.file(), place.line()));
                let node = scene.lives.then(madsim::plugin::node);
                scene.panics.push((message(info.payload()) + &place.unwrap_or_default(), node));
                eprintln!("panic in {}", scene.title);
                true
            });
            if !kept.unwrap_or(false) {
                before(info);
            }
        }));
    });
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic without words".into())
}

/// A run in a child of this process.
pub struct Child {
    /// The child's process id.
    pub pid: libc::pid_t,
    pipe: OwnedFd,
    scenario: String,
    seed: Seed,
    began: Instant,
    wall_max: Duration,
    reaped: bool,
}

/// Runs in a forked child. The parent must be single-threaded.
pub fn fork_run<P: Product>(scenario: &str, plan: &Plan<P::Workload>, seed: Seed, options: &Options) -> Child {
    let began = Instant::now();
    let mut ends = [0; 2];
    // SAFETY: `ends` has room for the two descriptors that pipe2 writes.
    let made = unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) };
    assert_eq!(made, 0, "no pipe for a run: {}", std::io::Error::last_os_error());
    // SAFETY: pipe2 succeeded, so both descriptors are open, and nobody else owns them.
    let (pipe, out) = unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) };
    // SAFETY: this process has one thread, so the child's memory is whole: no lock is held by a thread that is gone.
    let pid = unsafe { libc::fork() };
    assert_ne!(pid, -1, "no child for a run: {}", std::io::Error::last_os_error());
    if pid == 0 {
        drop(pipe);
        die_with_parent();
        let code = catch_unwind(AssertUnwindSafe(|| {
            let report = run_here::<P>(scenario, plan, seed, options);
            let bytes = serde_json::to_vec(&report).map_err(std::io::Error::other);
            bytes.and_then(|bytes| File::from(out).write_all(&bytes)).is_err()
        }));
        // SAFETY: it ends the child without running what the parent registered for its own exit.
        unsafe { libc::_exit(i32::from(code.unwrap_or(true))) }
    }
    drop(out);
    let scenario = scenario.to_owned();
    Child { pid, pipe, scenario, seed, began, wall_max: options.wall_max, reaped: false }
}

/// A run that nobody waits for any more would keep a core busy for nothing.
fn die_with_parent() {
    // SAFETY: it sets an attribute of this process and touches no memory.
    #[cfg(target_os = "linux")]
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL)
    };
}

impl Child {
    /// Readable when the report comes, or the child has died.
    pub fn fd(&self) -> RawFd {
        self.pipe.as_raw_fd()
    }

    /// When the child will be ended if it has not reported.
    pub fn deadline(&self) -> Instant {
        self.began + self.wall_max
    }

    /// Waits for the report. A child that says nothing gets one that says so.
    pub fn finish(mut self) -> Report {
        let mut text = Vec::new();
        let read = self.read_until_deadline(&mut text);
        if !matches!(read, Ok(true)) {
            self.end();
        }
        let status = self.reap();
        let mut report = match (read, serde_json::from_slice::<Report>(&text)) {
            (Ok(true), Ok(report)) => return report,
            (Ok(false), _) => {
                let after = self.wall_max.as_secs_f64();
                blank(&self.scenario, self.seed, Verdict::NoProgress, format!("wall clock: no report after {after} s"))
            }
            (Err(error), _) => blank(&self.scenario, self.seed, Verdict::Error, format!("its report is lost: {error}")),
            (Ok(true), Err(_)) if libc::WIFSIGNALED(status) => {
                let signal = libc::WTERMSIG(status);
                // A panic while panicking, in a destructor say, aborts.
                let verdict = if signal == libc::SIGABRT { Verdict::Panicked } else { Verdict::Error };
                blank(&self.scenario, self.seed, verdict, format!("the child died by signal {signal}"))
            }
            (Ok(true), Err(error)) => {
                let code = libc::WEXITSTATUS(status);
                let because = format!("the child exited with code {code} and without a report: {error}");
                blank(&self.scenario, self.seed, Verdict::Error, because)
            }
        };
        report.wall_seconds = self.began.elapsed().as_secs_f64();
        report
    }

    /// Whether the end of the report was reached in time.
    fn read_until_deadline(&self, text: &mut Vec<u8>) -> std::io::Result<bool> {
        let mut pipe = File::from(self.pipe.try_clone()?);
        let mut buffer = [0; 1 << 16];
        loop {
            let left = self.deadline().saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            let mut ready = libc::pollfd { fd: self.fd(), events: libc::POLLIN, revents: 0 };
            let millis = i32::try_from(left.as_millis()).unwrap_or(i32::MAX).max(1);
            // SAFETY: `ready` is one pollfd, and lives through the call.
            match unsafe { libc::poll(&mut ready, 1, millis) } {
                0 => return Ok(false),
                -1 if std::io::Error::last_os_error().kind() == std::io::ErrorKind::Interrupted => continue,
                -1 => return Err(std::io::Error::last_os_error()),
                _ => match pipe.read(&mut buffer)? {
                    0 => return Ok(true),
                    read => text.extend_from_slice(&buffer[..read]),
                },
            }
        }
    }

    fn end(&self) {
        // SAFETY: the child has not been reaped, so its id is still its own.
        unsafe { libc::kill(self.pid, libc::SIGKILL) };
    }

    fn reap(&mut self) -> libc::c_int {
        let mut status = 0;
        loop {
            // SAFETY: `status` is a plain integer that waitpid fills.
            let reaped = unsafe { libc::waitpid(self.pid, &mut status, 0) };
            if reaped != -1 || std::io::Error::last_os_error().kind() != std::io::ErrorKind::Interrupted {
                self.reaped = true;
                return status;
            }
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.reaped {
            self.end();
            self.reap();
        }
    }
}
