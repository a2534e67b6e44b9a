//! What a process outside of the simulation consists of: a child of ours, and the relays at both ends of it.
//! Its one law: the dead say nothing more. Their last lines are heard before their end is told, unless they were killed.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::link::Link;
use crate::standins::container::KILLED;
use crate::standins::observation::Log;
use crate::trace::event::ProductEvent;
use crate::world::dispatcher::Dispatcher;
use crate::world::nodes::NodeId;
use crate::world::product::{Boot, BootFn};

/// The least time from a death to the next boot: relays have seen the ends of its connections by then.
pub(crate) const BURIAL: Duration = Duration::from_millis(50);
/// How often it is looked whether a process that says nothing more has ended.
const LOOK: Duration = Duration::from_millis(5);

/// One process, apart from its lives.
pub(crate) struct ProcessBackend {
    /// The processes that live now.
    child: Mutex<Option<Arc<Ours>>>,
    /// Links on which it is the near end.
    pub(crate) near: Vec<Arc<Link>>,
    /// Links on which it is the far end.
    pub(crate) far: Vec<Arc<Link>>,
}

/// The process that lives in it now.
pub(crate) struct RunningProcess(Arc<Ours>);

/// A child of ours. Nobody but us waits for it, so its id is its own until then.
struct Ours(Mutex<Child>);

impl ProcessBackend {
    pub(crate) fn new(_: NodeId, near: Vec<Arc<Link>>, far: Vec<Arc<Link>>) -> ProcessBackend {
        ProcessBackend { child: Mutex::default(), near, far }
    }

    /// SIGKILL.
    pub(crate) fn stop(&self) {
        self.signal(libc::SIGKILL);
    }

    /// The main panics: to its peers that is a kill.
    pub(crate) fn crash(&self) {
        self.stop();
    }

    /// The host is lost: nothing of what it had opened says anything more.
    pub(crate) fn lose(&self) {
        // SIGSTOP first: its connections must not be seen to close.
        self.signal(libc::SIGSTOP);
        self.near.iter().for_each(|link| link.lose_near());
        self.far.iter().for_each(|link| link.lose_far());
        self.stop();
    }

    /// SIGSTOP.
    pub(crate) fn pause(&self) {
        self.signal(libc::SIGSTOP);
    }

    /// SIGCONT.
    pub(crate) fn resume(&self) {
        self.signal(libc::SIGCONT);
    }

    /// Makes ready for a life after another: nothing is left of the one before.
    pub(crate) fn wake(&self) {}

    /// Begins a life; the receiver is told its exit code after its last line.
    pub(crate) fn begin<O: ProductEvent>(
        &self,
        dispatcher: &Arc<Dispatcher<O>>,
        _: &BootFn,
        boot: Boot,
    ) -> (RunningProcess, oneshot::Receiver<i32>) {
        let (child, exit) = start(dispatcher, &boot.process, (dispatcher.around.command)(&boot));
        *self.child() = Some(child.clone());
        (RunningProcess(child), exit)
    }

    /// Buries who was killed or has exited: the system does.
    pub(crate) async fn reap(&self) {}

    fn child(&self) -> MutexGuard<'_, Option<Arc<Ours>>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn signal(&self, signal: libc::c_int) {
        if let Some(child) = &*self.child() {
            child.signal(signal);
        }
    }
}

impl Drop for ProcessBackend {
    fn drop(&mut self) {
        // The world ends, and everything in it.
        self.stop();
    }
}

impl RunningProcess {
    /// SIGTERM.
    pub(crate) fn terminate(&self) {
        self.0.signal(libc::SIGTERM);
    }

    /// Waits until one that was killed is gone.
    pub(crate) async fn end(self, exit: oneshot::Receiver<i32>) {
        self.0.signal(libc::SIGKILL);
        let _ = exit.await; // its code is no news
    }
}

impl Ours {
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

/// Starts a process whose lines are heard; the receiver is told its exit code after the last one.
fn start<O: ProductEvent>(
    dispatcher: &Arc<Dispatcher<O>>,
    process: &str,
    mut command: Command,
) -> (Arc<Ours>, oneshot::Receiver<i32>) {
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
    let living = Arc::new(Ours(Mutex::new(child)));
    let (tell, mut told) = mpsc::unbounded_channel();
    let (ended, exit) = oneshot::channel();
    let waits = living.clone();
    std::thread::spawn(move || {
        for line in lines.lines().map_while(Result::ok) {
            let _ = tell.send(Ok(line)); // a world that is gone hears nothing
        }
        let _ = tell.send(Err(waits.end()));
    });
    let (dispatcher, process) = (dispatcher.clone(), process.to_owned());
    tokio::spawn(async move {
        while let Some(said) = told.recv().await {
            match said {
                Ok(line) => {
                    dispatcher.act(|monitor| monitor.logged(&process, |life| log(&process, life, &line).into()))
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
