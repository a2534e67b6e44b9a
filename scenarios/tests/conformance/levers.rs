//! What makes a real server ill as a fault makes the stand-in ill, and well again.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::arms::Lever;
use lychgate_sim::real::servers::postgres::knock;
use lychgate_sim::real::servers::rabbit::{crash, node_name};
use lychgate_sim::real::servers::{Server, program};

/// Far above what an answer takes.
const BOUND: Duration = Duration::from_secs(5);
/// More than PostgreSQL lets in by its own default.
const CLIENTS: usize = 110;

/// A replica whose primary is away; one that may use a byte of memory; one that knows nothing any more.
pub fn redis(server: &Server) -> Lever {
    let addr = server.addr;
    Arc::new(move |control| match (control.begins(), control.fault().word()) {
        (true, "readonly") => tell(addr, "REPLICAOF 127.0.0.1 1"),
        (false, "readonly") => tell(addr, "REPLICAOF NO ONE"),
        (true, "full") => tell(addr, "CONFIG SET maxmemory 1"),
        (false, "full") => tell(addr, "CONFIG SET maxmemory 0"),
        (true, "flush") => tell(addr, "FLUSHALL"),
        (true, "restart") => {
            tell(addr, "FLUSHALL");
            tell(addr, "SCRIPT FLUSH");
        }
        other => panic!("no lever of Redis does {other:?}"),
    })
}

fn tell(addr: SocketAddr, line: &str) {
    let mut stream = TcpStream::connect(addr).expect("Redis listens");
    stream.set_read_timeout(Some(BOUND)).expect("a socket");
    stream.write_all(format!("{line}\r\n").as_bytes()).expect("Redis reads");
    let mut answer = [0; 5];
    stream.read_exact(&mut answer).expect("Redis answers");
    assert_eq!(&answer, b"+OK\r\n", "{line}");
}

/// One for whom any memory is too much; one that is killed and starts again on what it has on disk.
pub fn rabbit(server: &Server) -> Lever {
    let (home, addr, port) = (server.home.0.clone(), server.addr, server.addr.port());
    let next = Mutex::new(None);
    Arc::new(move |control| {
        let mark = match (control.begins(), control.fault().word()) {
            (true, "restart") => {
                *next.lock().expect("nothing panics while it holds the next life") = Some(crash(&home, addr));
                return;
            }
            (true, "full") => "1",
            (false, "full") => "100GB",
            other => panic!("no lever of RabbitMQ does {other:?}"),
        };
        let names = std::fs::read_to_string(home.join("epmd-port")).expect("it is written at the start");
        let mut command = Command::new(program("rabbitmqctl", &["/usr/lib/rabbitmq/bin".into()]));
        command
            .args(["set_vm_memory_high_watermark", "absolute", mark])
            .env("HOME", &home)
            .env("LANG", "C.UTF-8")
            .env("ERL_EPMD_PORT", names)
            .env("RABBITMQ_CONF_ENV_FILE", home.join("env.conf"))
            .env("RABBITMQ_NODENAME", node_name(port));
        let said = command.output().expect("rabbitmqctl starts");
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    })
}

/// What an ALTER TABLE takes, for as long as the connection is open.
fn lock_runs(addr: SocketAddr) -> (TcpStream, u8) {
    let (mut stream, kind) = knock(addr, BOUND).expect("PostgreSQL answers");
    let text = b"BEGIN; LOCK TABLE runs IN ACCESS EXCLUSIVE MODE\0";
    let length = u32::try_from(text.len() + 4).expect("a few bytes").to_be_bytes();
    stream.write_all(&[b"Q", length.as_slice(), text].concat()).expect("PostgreSQL reads");
    let (mut said, mut some) = (Vec::new(), [0; 512]);
    // It is ready, inside of a transaction.
    while !said.ends_with(b"Z\0\0\0\x05T") {
        let count = stream.read(&mut some).expect("PostgreSQL answers");
        said.extend_from_slice(&some[..count]);
        assert!(count > 0, "{}", String::from_utf8_lossy(&said));
    }
    (stream, kind)
}

/// Has it read who may come in, and how; returns once it asks newcomers so.
fn let_in(addr: SocketAddr, home: &Path, entries: &str, asks: u8) {
    let data = home.join("data");
    std::fs::write(data.join("pg_hba.conf"), entries).expect("root writes, and so does its owner");
    let pid = std::fs::read_to_string(data.join("postmaster.pid")).expect("it runs");
    let pid = pid.lines().next().expect("the first line is its number");
    assert!(Command::new("kill").args(["-HUP", pid]).status().expect("there is a kill").success());
    let asked = || {
        let (mut stream, kind) = knock(addr, BOUND).expect("PostgreSQL answers");
        let mut rest = [0; 8];
        stream.read_exact(&mut rest).expect("it says how");
        if kind == b'R' { rest[7] } else { kind }
    };
    let since = Instant::now();
    while asked() != asks {
        assert!(since.elapsed() < BOUND, "it reads what it is told to");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// One at whose every seat somebody sits, or whose runs somebody has to himself, or that lets nobody in.
pub fn postgres(server: &Server) -> Lever {
    let (addr, home, seated) = (server.addr, server.home.0.clone(), Mutex::new(Vec::new()));
    Arc::new(move |control| {
        let mut seated = seated.lock().expect("nothing panics while it holds the seats");
        match (control.begins(), control.fault().word()) {
            (true, "too_many_connections") => {
                seated.extend((0..CLIENTS).map(|_| knock(addr, BOUND).expect("PostgreSQL answers")))
            }
            (true, "login_refused") if control.fault().text("code") == Some("28P01") => {
                let_in(addr, &home, "host all all all password\n", 3);
            }
            // A file without any entry is not taken.
            (true, "login_refused") => let_in(addr, &home, "local all all trust\n", b'E'),
            (false, "login_refused") => let_in(addr, &home, "host all all all trust\n", 0),
            (true, "table_lock") => seated.push(lock_runs(addr)),
            (false, "too_many_connections" | "table_lock") => seated.clear(),
            other => panic!("no lever of PostgreSQL does {other:?}"),
        }
    })
}
