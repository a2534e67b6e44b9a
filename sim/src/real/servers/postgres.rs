//! A PostgreSQL with one user, `postgres`, whom it trusts. It refuses to run as root, so root starts it as somebody else.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use super::{Home, Process, Server, Started, boot, free_port, program};

/// The users that run the server where the test is root: the first that exists.
const USERS: &[&str] = &["postgres", "nobody"];

/// A fresh one.
pub fn start() -> Server {
    boot("postgres", begin, answers)
}

/// Where Debian has its programs, the newest version first.
fn places() -> Vec<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut versions: Vec<PathBuf> = versions.map(|entry| entry.path().join("bin")).collect();
    versions.sort();
    versions.reverse();
    versions
}

/// The ids of a user who is not root; none if we are not root either.
fn user(home: &Home) -> Option<(u32, u32)> {
    let ours = fs::metadata(&home.0).expect("it was just made").uid();
    (ours == 0).then(|| {
        let passwd = fs::read_to_string("/etc/passwd").expect("root reads /etc/passwd");
        let entry = |name: &&str| {
            let line = passwd.lines().find(|line| line.split(':').next() == Some(name))?;
            let mut fields = line.split(':').skip(2);
            Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
        };
        let found = USERS.iter().find_map(entry);
        found.unwrap_or_else(|| panic!("PostgreSQL does not run as root, and there is none of the users {USERS:?}"))
    })
}

fn begin() -> Started {
    let (home, port) = (Home::new("postgres"), free_port());
    let user = user(&home);
    if let Some((uid, gid)) = user {
        chown(&home.0, Some(uid), Some(gid)).expect("root may");
    }
    let (data, log) = (home.0.join("data"), home.0.join("log"));
    let run = |name: &str| {
        let mut command = Command::new(program(name, &places()));
        command.current_dir(&home.0).env_remove("PGDATA").arg("-D").arg(&data);
        if let Some((uid, gid)) = user {
            command.uid(uid).gid(gid);
        }
        command
    };
    let mut initdb = run("initdb");
    initdb.args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]);
    let made = initdb.output().unwrap_or_else(|error| panic!("initdb does not start: {error}"));
    assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
    let mut command = run("postgres");
    command.args(["-p", &port.to_string()]);
    for setting in ["listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=off", "timezone=Etc/UTC"] {
        command.args(["-c", setting]);
    }
    // SIGQUIT ends it and what it started, at once.
    let process = Process::start(&mut command, libc::SIGQUIT, &log);
    Started { port, processes: vec![process], home, log }
}

/// While it starts it refuses with an error; when it serves it says that nobody needs a password.
fn answers(addr: SocketAddr) -> bool {
    knock(addr, Duration::from_secs(1)).is_ok_and(|(_, kind)| kind == b'R')
}

/// Asks to be let in; the connection, and the kind of message that answers within `bound`.
pub fn knock(addr: SocketAddr, bound: Duration) -> std::io::Result<(TcpStream, u8)> {
    let mut stream = TcpStream::connect(addr)?;
    stream.set_read_timeout(Some(bound))?;
    let pairs = b"\0\x03\0\0user\0postgres\0database\0postgres\0\0";
    let length = u32::try_from(pairs.len() + 4).expect("a few bytes").to_be_bytes();
    stream.write_all(&[&length, pairs.as_slice()].concat())?;
    let mut kind = [0];
    stream.read_exact(&mut kind)?;
    Ok((stream, kind[0]))
}
