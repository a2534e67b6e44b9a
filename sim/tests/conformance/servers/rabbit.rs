//! A RabbitMQ node with a name, an epmd and a cookie of its own: nothing of the machine's configuration counts.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use super::{Home, Process, Server, Started, boot, free_port, program};

/// A fresh one. User and password are `guest`.
pub fn start() -> Server {
    boot("rabbitmq-server", begin, answers)
}

fn begin() -> Started {
    // Debian's program in PATH changes to a user of its own; the one underneath does not.
    let server = program("rabbitmq-server", &[PathBuf::from("/usr/lib/rabbitmq/bin")]);
    let (home, port, names) = (Home::new("rabbitmq"), free_port(), free_port());
    let at = |name: &str| home.0.join(name);
    let config =
        home.write("rabbitmq.conf", &format!("listeners.tcp.1 = 127.0.0.1:{port}\ndisk_free_limit.absolute = 1MB\n"));
    let (nothing, plugins) = (home.write("env.conf", ""), home.write("plugins", "[].\n"));
    home.write("epmd-port", &names.to_string());
    // One that RabbitMQ started would be a daemon, and outlive it.
    let mut epmd = Command::new(program("epmd", &[]));
    epmd.args(["-port", &names.to_string(), "-address", "127.0.0.1"]);
    let epmd = Process::start(&mut epmd, libc::SIGTERM, &at("epmd.log"));
    let mut command = Command::new(server);
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", &home.0)
        .env("LANG", "C.UTF-8")
        .env("ERL_EPMD_PORT", names.to_string())
        .env("ERL_EPMD_ADDRESS", "127.0.0.1")
        .env("RABBITMQ_NODENAME", format!("lychgate-{port}@localhost"))
        .env("RABBITMQ_NODE_PORT", port.to_string())
        .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
        .env("RABBITMQ_DIST_PORT", free_port().to_string())
        .env("RABBITMQ_CONF_ENV_FILE", nothing)
        .env("RABBITMQ_CONFIG_FILE", config)
        .env("RABBITMQ_ENABLED_PLUGINS_FILE", plugins)
        .env("RABBITMQ_BASE", &home.0)
        .env("RABBITMQ_MNESIA_BASE", at("mnesia"))
        .env("RABBITMQ_GENERATED_CONFIG_DIR", at("config"))
        .env("RABBITMQ_SCHEMA_DIR", at("schema"))
        .env("RABBITMQ_LOG_BASE", at("log"))
        .env("RABBITMQ_PID_FILE", at("pid"))
        // It waits without spinning: others use this machine.
        .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "+S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none");
    let log = at("said");
    let process = Process::start(&mut command, libc::SIGTERM, &log);
    Started { port, processes: vec![process, epmd], home, log }
}

/// It listens before it serves: whoever greets it is answered only by then.
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
