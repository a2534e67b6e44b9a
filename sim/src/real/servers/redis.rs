//! A Redis that keeps nothing on disk, one of somebody else's, and what makes one answer with an error.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use super::{Home, Process, Server, Started, boot, free_port, program};

/// A fresh one.
pub fn start() -> Server {
    boot("redis-server", || begin(&[], None), |addr| says(addr, "PING", b"+PONG"))
}

/// One with a password.
pub fn with_password() -> Server {
    boot("redis-server", || begin(&["--requirepass", "secret"], None), |addr| says(addr, "PING", b"-NOAUTH"))
}

/// A node of a cluster that has no slots: another node has them, if it `knows` one.
pub fn of_a_cluster(knows: bool) -> Server {
    // It would wait for that node, which does not answer, before it says that the cluster is down.
    let bus = free_port().to_string();
    let options = ["--cluster-enabled", "yes", "--cluster-node-timeout", "100000000", "--cluster-port", &bus];
    let nodes = knows.then_some(NODES);
    // It does not trust what it has read for the first two seconds.
    let says_so: &[u8] = if knows { b"-MOVED" } else { b"-CLUSTERDOWN" };
    boot("redis-server", || begin(&options, nodes), |addr| says(addr, "GET k", says_so))
}

/// Two nodes: itself, and one that has every slot.
const NODES: &str = "\
aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa 127.0.0.1:1@10001 myself,master - 0 0 1 connected
bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb 127.0.0.9:6379@16379 master - 0 0 2 connected 0-16383
vars currentEpoch 2 lastVoteEpoch 0
";

/// Brings it into the state in which it answers with this code, or out of it.
///
/// # Panics
/// A code for which there is no such state.
pub fn make(server: &Server, code: &str, begins: bool) {
    let tell = |line: &str| assert!(says(server.addr, line, b"+"), "Redis does as it is told: {line}");
    match (code, begins) {
        ("NOREPLICAS", true) => tell("CONFIG SET min-replicas-to-write 1"),
        ("NOREPLICAS", false) => tell("CONFIG SET min-replicas-to-write 0"),
        ("MAXCLIENTS", true) => tell("CONFIG SET maxclients 1"),
        // Nobody else can tell it anything: it is over with the server.
        ("MAXCLIENTS", false) => {}
        ("NOAUTH", true) => tell("CONFIG SET requirepass secret"),
        // Whoever tells it anything comes later.
        ("NOAUTH", false) => tell("AUTH secret\r\nCONFIG SET requirepass \"\""),
        ("MISCONF", true) => {
            // No file can take the place of a directory.
            fs::create_dir(server.home.0.join("dump.rdb")).expect("its home is ours");
            tell("CONFIG SET save \"900 1\"");
            tell("BGSAVE");
            until(server, "-MISCONF", "it cannot save");
        }
        ("MISCONF", false) => tell("CONFIG SET save \"\""),
        ("BUSY", true) => {
            tell("CONFIG SET busy-reply-threshold 1");
            let mut stream = TcpStream::connect(server.addr).expect("Redis listens");
            stream.write_all(b"EVAL \"while true do end\" 0\r\n").expect("Redis reads");
            until(server, "-BUSY", "it runs a script");
        }
        ("BUSY", false) => {
            tell("SCRIPT KILL");
            // The script goes on until it next looks, and no other one shall be taken for slow.
            until(server, "+PONG", "its script has ended");
            tell("CONFIG SET busy-reply-threshold 5000");
        }
        other => panic!("nothing makes Redis say so: {other:?}"),
    }
}

/// Waits until a PING is answered with what begins so.
fn until(server: &Server, answer: &str, why: &str) {
    let since = Instant::now();
    while !says(server.addr, "PING", answer.as_bytes()) {
        assert!(since.elapsed() < PATIENCE, "{why}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// How long it may take until it answers as it should.
const PATIENCE: Duration = Duration::from_secs(10);

fn begin(options: &[&str], nodes: Option<&str>) -> Started {
    let (home, port) = (Home::new("redis"), free_port());
    if let Some(nodes) = nodes {
        fs::write(home.0.join("nodes.conf"), nodes).expect("its home is ours");
    }
    let mut command = Command::new(program("redis-server", &[]));
    command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--port", &port.to_string(), "--dir"]);
    let log = home.0.join("log");
    let process = Process::start(command.arg(&home.0).args(options), libc::SIGTERM, &log);
    Started { port, processes: vec![process], home, log }
}

/// Whether it answers `line` with what begins so.
fn says(addr: SocketAddr, line: &str, begin: &[u8]) -> bool {
    let asked = || {
        let mut stream = TcpStream::connect(addr)?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(format!("{line}\r\n").as_bytes())?;
        let mut answer = vec![0; begin.len()];
        stream.read_exact(&mut answer).map(|()| answer == begin)
    };
    asked().unwrap_or(false)
}
