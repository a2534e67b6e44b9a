//! A Redis that keeps nothing on disk.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use super::{Home, Process, Server, Started, boot, free_port, program};

/// A fresh one.
pub fn start() -> Server {
    boot("redis-server", begin, answers)
}

fn begin() -> Started {
    let (home, port) = (Home::new("redis"), free_port());
    let mut command = Command::new(program("redis-server", &[]));
    command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--port", &port.to_string(), "--dir"]);
    let log = home.0.join("log");
    let process = Process::start(command.arg(&home.0), libc::SIGTERM, &log);
    Started { port, processes: vec![process], home, log }
}

fn answers(addr: std::net::SocketAddr) -> bool {
    let asked = || {
        let mut stream = TcpStream::connect(addr)?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(b"PING\r\n")?;
        let mut answer = [0; 5];
        stream.read_exact(&mut answer).map(|()| &answer == b"+PONG")
    };
    asked().unwrap_or(false)
}
