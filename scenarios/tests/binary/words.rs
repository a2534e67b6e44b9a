//! What the binary says to wrong words and wrong settings, and what its help teaches.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};

use lychgate::config::{Environment, SETTINGS};
use lychgate_scenarios::roles;

use crate::process::says;

#[test]
fn help_teaches_the_roles_and_every_setting() {
    let output = says(&["--help"], &Environment::new());
    assert_eq!(output.status.code(), Some(0));
    let help = String::from_utf8(output.stdout).expect("text");
    for (name, what, default) in SETTINGS {
        let line = help.lines().find(|line| line.split_whitespace().next() == Some(name));
        let line = line.unwrap_or_else(|| panic!("{name} is missing: {help}"));
        assert!(line.contains(what) && line.contains(default), "{line}");
    }
    assert!(["gateway", "executor", "agent"].iter().all(|role| help.contains(&format!("  {role} "))), "{help}");
}

#[test]
fn what_is_wrong_is_said_in_one_line() {
    let somewhere = SocketAddr::from(([127, 0, 0, 1], 1));
    let links = ["postgres", "redis", "rabbitmq", "engine"].map(|service| (service, somewhere)).into();
    let wrong = |words: &[&str], name: &str, value: &str, expected: &str| {
        let mut environment = roles::environment(words.first().unwrap_or(&""), "process-1", &links);
        environment.insert(name.to_string(), value.to_string());
        let output = says(words, &environment);
        let problem = String::from_utf8(output.stderr).expect("text");
        assert_eq!((output.status.code(), problem.lines().count()), (Some(2), 1), "{problem}");
        assert!(problem.contains(expected), "{problem}");
        // Tokens are secrets.
        assert!(!problem.contains("sk-"), "{problem}");
        assert!(output.stdout.is_empty());
    };
    wrong(&[], "A", "b", "which role?");
    wrong(&["janitor"], "A", "b", "`janitor` is no role");
    wrong(&["gateway", "--port"], "A", "b", "`--port` is too much");
    wrong(&["gateway"], "LYCHGATE_LISTEN", "here", "LYCHGATE_LISTEN: `here` is no IP:PORT");
    wrong(&["gateway"], "RUST_LOG", "lychgate=loud", "RUST_LOG: `lychgate=loud` is no filter");
    wrong(&["executor"], "LYCHGATE_SLOT", "4", "LYCHGATE_SLOT: no such setting");
    wrong(&["executor"], "LYCHGATE_KILL_WINDOW", "", "LYCHGATE_KILL_WINDOW: not set");
    wrong(&["executor"], "LYCHGATE_KILL_WINDOW", "5h 45m", "LYCHGATE_KILL_WINDOW: 5h 45m must be longer than a drain");
    wrong(&["executor"], "LYCHGATE_SUBSCRIPTIONS", "", "LYCHGATE_SUBSCRIPTIONS: not set; it is NAME=TOKEN");
    wrong(&["executor"], "LYCHGATE_SUBSCRIPTIONS", "a=sk-a,a=sk-b", "LYCHGATE_SUBSCRIPTIONS: names `a` twice");
    let same = "LYCHGATE_SUBSCRIPTIONS: `a` and `b` have the same token";
    wrong(&["executor"], "LYCHGATE_SUBSCRIPTIONS", "a=sk-a,b=sk-a", same);
    wrong(&["executor"], "LYCHGATE_SUBSCRIPTIONS", "sk-a", "LYCHGATE_SUBSCRIPTIONS: number 1 is not NAME=TOKEN");
    wrong(&["agent"], "LYCHGATE_EPOCH", "", "LYCHGATE_EPOCH: not set");
}

/// A server that stands in for a Postgres that asks for a password: each of its connections does, until the process is gone.
fn asks_for_a_password() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = listener.local_addr().expect("it is bound");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let mut startup = [0; 1024];
            _ = stream.read(&mut startup).expect("a start-up message");
            stream.write_all(b"R\0\0\0\x08\0\0\0\x03").expect("AuthenticationCleartextPassword");
        }
    });
    addr
}

#[test]
fn a_password_that_is_asked_for_and_not_set_is_not_waited_for() {
    let postgres = asks_for_a_password();
    let links = ["postgres", "redis", "rabbitmq", "engine"].map(|service| (service, postgres)).into();
    let mut environment = roles::environment("gateway", "gateway-1", &links);
    environment.insert("LYCHGATE_POSTGRES".into(), format!("postgres://lychgate@{postgres}/lychgate"));
    environment.insert("LYCHGATE_LISTEN".into(), "127.0.0.1:0".into());
    let output = says(&["gateway"], &environment);
    let log = String::from_utf8(output.stdout).expect("text");
    assert_eq!(output.status.code(), Some(1), "{log}");
    assert!(log.contains("it asks for a password, and LYCHGATE_POSTGRES names none"), "{log}");
}
