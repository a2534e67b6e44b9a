//! A RabbitMQ node with a name, an epmd and a cookie of its own: nothing of the machine's configuration counts.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::{BOOT_MAX, Home, Kept, Process, Server, Started, boot, free_port, program};

/// A fresh one. User and password are `guest`.
pub fn start() -> Server {
    boot("rabbitmq-server", begin, answers)
}

fn begin() -> Started {
    let (home, port, names) = (Home::new("rabbitmq"), free_port(), free_port());
    let at = |name: &str| home.0.join(name);
    home.write("rabbitmq.conf", &format!("listeners.tcp.1 = 127.0.0.1:{port}\ndisk_free_limit.absolute = 1MB\n"));
    home.write("env.conf", "");
    home.write("plugins", "[].\n");
    home.write("epmd-port", &names.to_string());
    // One that RabbitMQ started would be a daemon, and outlive it.
    let mut epmd = Command::new(program("epmd", &[]));
    epmd.args(["-port", &names.to_string(), "-address", "127.0.0.1"]);
    let epmd = Process::start(&mut epmd, libc::SIGTERM, &at("epmd.log"));
    let log = at("said");
    let process = Process::start(&mut node(&home.0, port, &names.to_string()), libc::SIGTERM, &log);
    Started { port, processes: vec![process, epmd], home, log }
}

/// The name of the node that listens on `port` of loopback, as its tools ask for it.
pub fn node_name(port: u16) -> String {
    format!("sim-{port}@localhost")
}

/// The node whose files are in `home`; `names` is epmd's port.
fn node(home: &Path, port: u16, names: &str) -> Command {
    let at = |name: &str| home.join(name);
    // Debian's program in PATH changes to a user of its own; the one underneath does not.
    let mut command = Command::new(program("rabbitmq-server", &[PathBuf::from("/usr/lib/rabbitmq/bin")]));
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", home)
        .env("LANG", "C.UTF-8")
        .env("ERL_EPMD_PORT", names)
        .env("ERL_EPMD_ADDRESS", "127.0.0.1")
        .env("RABBITMQ_NODENAME", node_name(port))
        .env("RABBITMQ_NODE_PORT", port.to_string())
        .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
        .env("RABBITMQ_DIST_PORT", free_port().to_string())
        .env("RABBITMQ_CONF_ENV_FILE", at("env.conf"))
        .env("RABBITMQ_CONFIG_FILE", at("rabbitmq.conf"))
        .env("RABBITMQ_ENABLED_PLUGINS_FILE", at("plugins"))
        .env("RABBITMQ_BASE", home)
        .env("RABBITMQ_MNESIA_BASE", at("mnesia"))
        .env("RABBITMQ_GENERATED_CONFIG_DIR", at("config"))
        .env("RABBITMQ_SCHEMA_DIR", at("schema"))
        .env("RABBITMQ_LOG_BASE", at("log"))
        .env("RABBITMQ_PID_FILE", at("pid"))
        // It waits without spinning: others use this machine.
        .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "+S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none");
    command
}

/// Kills the node as a crash does, and starts it again on its files. Returns the next life once that answers.
pub fn crash(home: &Path, addr: SocketAddr) -> Kept {
    let read = |name: &str| fs::read_to_string(home.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    let pid: libc::pid_t = read("pid").trim().parse().expect("RabbitMQ wrote its process id");
    // SAFETY: it is the process of a child of ours, which nobody has waited for yet.
    unsafe { libc::kill(pid, libc::SIGKILL) };
    let until = Instant::now() + BOOT_MAX;
    while TcpStream::connect(addr).is_ok() && Instant::now() < until {
        sleep(Duration::from_millis(10));
    }
    let mut command = node(home, addr.port(), &read("epmd-port"));
    let next = Kept::start(move |log| Process::start(&mut command, libc::SIGTERM, &log), home.join("said-again"));
    while !answers(addr) {
        assert!(Instant::now() < until, "RabbitMQ did not come up again within {BOOT_MAX:?}: {}", read("said-again"));
        sleep(Duration::from_millis(20));
    }
    next
}

/// The broker listens before it serves: a client that greets it is answered only by then.
fn answers(addr: SocketAddr) -> bool {
    let asked = || {
        let mut stream = TcpStream::connect(addr)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"AMQP\0\0\x09\x01")?;
        let mut kind = [0];
        stream.read_exact(&mut kind).map(|()| kind == [1])
    };
    asked().unwrap_or(false)
}
