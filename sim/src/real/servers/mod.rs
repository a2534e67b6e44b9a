//! Real servers, started by the test that needs them: each on free ports of loopback, with files of its own that go with
//! it. Their one law: a server ends with its test, however that ends, and by its own process id.

pub mod postgres;
pub mod rabbit;
pub mod redis;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

/// What a fresh machine needs.
pub const INSTALL: &str = "apt-get install -y redis-server rabbitmq-server postgresql postgresql-client";

/// RabbitMQ boots in ten seconds; on a loaded machine in several times that.
const BOOT_MAX: Duration = Duration::from_secs(90);
/// So long it may take over an orderly end.
const END_MAX: Duration = Duration::from_secs(5);
/// Between asking whether it is there and looking for a port, somebody else may take the port.
const TRIES: u32 = 3;

/// A directory of one server, deleted with it.
pub struct Home(pub PathBuf);

impl Home {
    /// An empty one for a server called `of`, in the directory for temporary files.
    ///
    /// # Panics
    /// It cannot be made.
    pub fn new(of: &str) -> Home {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("sim-{of}-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).unwrap_or_else(|error| panic!("no directory for {of}, {}: {error}", path.display()));
        Home(path)
    }

    /// Writes a file in it.
    ///
    /// # Panics
    /// It cannot be written.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        path
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A process with all that it starts.
pub struct Process {
    child: Child,
    /// How it is asked to end.
    signal: libc::c_int,
}

impl Process {
    /// Starts it in a process group of its own; what it says goes to `log`.
    pub fn start(command: &mut Command, signal: libc::c_int, log: &Path) -> Process {
        let log = fs::File::create(log).unwrap_or_else(|error| panic!("{}: {error}", log.display()));
        let errors = log.try_clone().expect("a descriptor to spare");
        command.stdin(Stdio::null()).stdout(log).stderr(errors).process_group(0);
        // SAFETY: it sets an attribute of the child and allocates nothing. The test's thread outlives the server.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        let child =
            command.spawn().unwrap_or_else(|error| panic!("{:?} does not start: {error}", command.get_program()));
        Process { child, signal }
    }

    fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    fn kill(&self, signal: libc::c_int) {
        let group = -libc::pid_t::try_from(self.child.id()).expect("a process id");
        // SAFETY: the group is that of a child of ours which has not been waited for, or is empty.
        unsafe { libc::kill(group, signal) };
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.has_ended() {
            self.kill(self.signal);
            let until = Instant::now() + END_MAX;
            while !self.has_ended() && Instant::now() < until {
                sleep(Duration::from_millis(10));
            }
        }
        // Whatever it had started and left behind.
        self.kill(libc::SIGKILL);
        let _ = self.child.wait();
    }
}

/// A process that is started in the middle of a test, by whatever thread: one of its own stays with it, for a process
/// ends with the thread that started it.
pub struct Kept {
    stays: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Kept {
    /// Starts it; what it says goes to `log`.
    pub fn start(start: impl FnOnce(PathBuf) -> Process + Send + 'static, log: PathBuf) -> Kept {
        let (stays, leaves) = channel::<()>();
        let thread = std::thread::spawn(move || {
            let process = start(log);
            // Nothing is ever sent: it ends when the other side is dropped.
            let _ = leaves.recv();
            drop(process);
        });
        Kept { stays: Some(stays), thread: Some(thread) }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.stays.take();
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// A server that answers. Fields are dropped in their order.
pub struct Server {
    /// Where it listens, on loopback.
    pub addr: SocketAddr,
    _processes: Vec<Process>,
    /// The files.
    pub home: Home,
}

/// A server that has been started and may not answer yet.
pub struct Started {
    /// Where it will listen, on loopback.
    pub port: u16,
    /// The processes, in the order in which they are ended; the server is there while the first lives.
    pub processes: Vec<Process>,
    /// The files.
    pub home: Home,
    /// The file with what it printed.
    pub log: PathBuf,
}

/// Starts a server and waits until `answers` says that it does.
pub fn boot(name: &str, start: impl Fn() -> Started, answers: impl Fn(SocketAddr) -> bool) -> Server {
    for last in (0..TRIES).map(|number| number + 1 == TRIES) {
        let mut started = start();
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, started.port));
        let until = Instant::now() + BOOT_MAX;
        while Instant::now() < until && !started.processes[0].has_ended() {
            if answers(addr) {
                return Server { addr, _processes: started.processes, home: started.home };
            }
            sleep(Duration::from_millis(20));
        }
        let log = fs::read_to_string(&started.log).unwrap_or_default();
        let tail: Vec<&str> = log.lines().rev().take(20).collect();
        let said = tail.into_iter().rev().collect::<Vec<_>>().join("\n");
        assert!(!last, "{name} did not come up within {BOOT_MAX:?}, {TRIES} times. It says:\n{said}");
    }
    unreachable!("the last try returns or panics")
}

/// A port of loopback that was free a moment ago.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has a free port");
    listener.local_addr().expect("it is bound").port()
}

/// The first of `places` that has the program, or else what PATH has.
pub fn program(name: &str, places: &[PathBuf]) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = places.iter().cloned().chain(std::env::split_paths(&path)).map(|place| place.join(name));
    found.into_iter().find(|file| file.is_file()).unwrap_or_else(|| panic!("there is no {name} here: {INSTALL}"))
}

/// Whether a server ends with the test that started it, a panic included.
#[test]
#[ignore = "needs all servers; `cargo sim conformance` runs it"]
fn servers_end_with_their_tests() {
    for start in [redis::start as fn() -> Server, postgres::start, rabbit::start] {
        let ended = std::panic::catch_unwind(|| {
            let server = start();
            let (addr, home) = (server.addr, server.home.0.clone());
            std::net::TcpStream::connect(addr).expect("it listens");
            std::panic::panic_any((addr, home));
        });
        let place = ended.expect_err("it panics").downcast::<(SocketAddr, PathBuf)>().expect("with its place");
        assert!(std::net::TcpStream::connect(place.0).is_err(), "a server still listens");
        assert!(!place.1.exists(), "a server has left {}", place.1.display());
    }
}
