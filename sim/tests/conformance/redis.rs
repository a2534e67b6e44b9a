//! The stand-in and the real Redis answer the same commands with the same bytes. `redis.txt` holds both.
//!
//! A line `1> SET "a key" v` is a command of connection 1; the lines `1< …` below it are the bytes that each connection
//! got of it. `@wait 30` lets 30 ms pass. From `@begins command_error BUSY` to `@ends command_error BUSY` it has that fault: a real
//! server is brought into the state in which it says so.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use lychgate_sim::plan::Kind;
use lychgate_sim::standins::redis::core::{Core, Outcome};
use lychgate_sim::standins::redis::faults::{MISROUTED, TOO_MANY_CONNECTIONS, WORDS};
use lychgate_sim::standins::redis::resp;

use lychgate_sim::real::servers;

const TRANSCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/conformance/redis.txt");

/// Something that takes commands.
pub trait Server {
    /// What each connection got of one command.
    fn tell(&mut self, client: u64, words: &[Bytes]) -> BTreeMap<u64, Vec<u8>>;
    fn wait(&mut self, time: Duration) -> BTreeMap<u64, Vec<u8>>;
    /// Makes it ill, or well again.
    fn make(&mut self, fault: &Kind, begins: bool);
}

pub struct StandIn {
    core: Core,
    now: Duration,
    deadlines: BTreeMap<u64, Duration>,
    /// The connections that it has let in.
    known: BTreeSet<u64>,
}

impl StandIn {
    pub fn new() -> StandIn {
        StandIn {
            core: Core::default(),
            now: Duration::from_secs(1_700_000_000),
            deadlines: BTreeMap::new(),
            known: BTreeSet::new(),
        }
    }
}

impl Server for StandIn {
    fn tell(&mut self, client: u64, words: &[Bytes]) -> BTreeMap<u64, Vec<u8>> {
        let mut got: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
        self.now += Duration::from_millis(1);
        if !self.known.contains(&client)
            && let Some(refusal) = self.core.refuses_connection()
        {
            return BTreeMap::from([(client, refusal.encode().to_vec())]);
        }
        self.known.insert(client);
        match self.core.execute(self.now, client, words) {
            Outcome::Reply(reply) => got.entry(client).or_default().extend_from_slice(&reply.encode()),
            Outcome::Block(limit) => {
                self.deadlines.extend(limit.map(|limit| (client, self.now + limit)));
            }
        }
        for delivery in self.core.deliveries() {
            got.entry(delivery.client).or_default().extend_from_slice(&delivery.reply.encode());
        }
        got
    }

    fn wait(&mut self, time: Duration) -> BTreeMap<u64, Vec<u8>> {
        self.now += time;
        let due: Vec<_> = self.deadlines.iter().filter(|(_, at)| **at <= self.now).map(|(client, _)| *client).collect();
        let given_up = due.into_iter().filter_map(|client| {
            self.deadlines.remove(&client);
            self.core.give_up(client).map(|(_, reply)| (client, reply.encode().to_vec()))
        });
        given_up.collect()
    }

    fn make(&mut self, fault: &Kind, begins: bool) {
        if begins { self.core.fall_ill(fault) } else { self.core.recover(fault) }
    }
}

pub struct Real {
    server: servers::Server,
    /// Somebody else's nodes. Who has come there stays there.
    others: Vec<servers::Server>,
    /// Whether the name leads to the last of them.
    misrouted: bool,
    connections: BTreeMap<u64, TcpStream>,
    /// It says something to whoever connects, and hangs up.
    crowded: bool,
}

impl Real {
    pub fn new(server: servers::Server) -> Real {
        Real { server, others: Vec::new(), misrouted: false, connections: BTreeMap::new(), crowded: false }
    }

    /// Everything that arrives until nothing has for a moment. `owed` is waited for longer.
    fn hear(&mut self, owed: Option<(u64, Duration)>) -> BTreeMap<u64, Vec<u8>> {
        let mut got: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
        for (client, stream) in &mut self.connections {
            let owed = owed.filter(|(owed, _)| owed == client);
            let mut patience = owed.map_or(Duration::from_millis(4), |(_, patience)| patience);
            let mut buffer = [0; 65536];
            loop {
                stream.set_read_timeout(Some(patience)).expect("a timeout above zero");
                match stream.read(&mut buffer) {
                    Ok(0) => panic!("redis-server hung up on connection {client}"),
                    Ok(count) => got.entry(*client).or_default().extend_from_slice(&buffer[..count]),
                    Err(_) => break,
                }
                patience = Duration::from_millis(2);
            }
        }
        got
    }
}

impl Server for Real {
    fn tell(&mut self, client: u64, words: &[Bytes]) -> BTreeMap<u64, Vec<u8>> {
        let addr = self.others.last().filter(|_| self.misrouted).unwrap_or(&self.server).addr;
        if self.crowded && !self.connections.contains_key(&client) {
            let (mut said, mut stream) = (Vec::new(), TcpStream::connect(addr).expect("it listens"));
            stream.read_to_end(&mut said).expect("it hangs up by itself");
            return BTreeMap::from([(client, said)]);
        }
        let connect = || TcpStream::connect(addr).expect("it listens");
        let stream = self.connections.entry(client).or_insert_with(connect);
        stream.write_all(&resp::encode_command(words)).expect("it reads");
        let may_block = words.iter().any(|word| &word[..] == b"BLOCK");
        self.hear(Some((client, Duration::from_millis(if may_block { 60 } else { 5000 }))))
    }

    fn wait(&mut self, time: Duration) -> BTreeMap<u64, Vec<u8>> {
        std::thread::sleep(time);
        self.hear(None)
    }

    fn make(&mut self, fault: &Kind, begins: bool) {
        let code = fault.text("code").unwrap_or_default();
        if fault.is(&MISROUTED) {
            let start = || match code {
                "NOAUTH" => servers::redis::with_password(),
                code => servers::redis::of_a_cluster(code == "MOVED"),
            };
            self.others.extend(begins.then(start));
            self.misrouted = begins;
            return;
        }
        let ill = if fault.is(&TOO_MANY_CONNECTIONS) { "MAXCLIENTS" } else { code };
        servers::redis::make(&self.server, ill, begins);
        self.crowded = begins && fault.is(&TOO_MANY_CONNECTIONS);
    }
}

/// `command_error BUSY`.
fn fault_of(line: &str) -> Kind {
    let (word, code) = line.split_once(' ').map_or((line, None), |(word, code)| (word, Some(code)));
    let row = WORDS.faults.iter().find(|row| row.word() == word).unwrap_or_else(|| panic!("no fault: {line}"));
    Kind::of(row).with_any("code", code)
}

/// The transcript with this server's answers in it.
fn transcribe(transcript: &str, server: &mut impl Server) -> String {
    let mut out = String::new();
    for line in transcript.lines() {
        if line.split_once('<').is_some_and(|(client, _)| client.parse::<u64>().is_ok()) {
            continue;
        }
        out.push_str(line);
        out.push('\n');
        let got = if let Some(ms) = line.strip_prefix("@wait ") {
            server.wait(Duration::from_millis(ms.parse().expect("milliseconds")))
        } else if let Some(fault) = line.strip_prefix("@begins ") {
            server.make(&fault_of(fault), true);
            continue;
        } else if let Some(fault) = line.strip_prefix("@ends ") {
            server.make(&fault_of(fault), false);
            continue;
        } else if line.is_empty() || line.starts_with('#') {
            continue;
        } else {
            let (client, words) = line.split_once("> ").expect("a command");
            server.tell(client.parse().expect("a connection"), &words_of(words))
        };
        for (client, bytes) in got {
            let mut bytes = BytesMut::from(&bytes[..]);
            while let Some(reply) = resp::take_reply(&mut bytes) {
                out.push_str(&format!("{client}< {}\n", reply.escape_ascii()));
            }
            assert!(bytes.is_empty(), "an answer ends in the middle: {:?} of {line}", bytes.escape_ascii().to_string());
        }
    }
    out
}

/// Words apart by spaces; in double quotes, `\n`, `\"` and `\\` are escapes.
pub fn words_of(line: &str) -> Vec<Bytes> {
    let mut words = Vec::new();
    let mut rest = line.chars().peekable();
    while let Some(first) = rest.next() {
        let mut word = String::new();
        if first == '"' {
            loop {
                match rest.next().expect("a closing quote") {
                    '"' => break,
                    '\\' => word.push(match rest.next().expect("something to escape") {
                        'n' => '\n',
                        'r' => '\r',
                        other => other,
                    }),
                    other => word.push(other),
                }
            }
            rest.next();
        } else {
            word.push(first);
            word.extend(std::iter::from_fn(|| rest.next_if(|next| *next != ' ')));
            rest.next();
        }
        words.push(word.into());
    }
    words
}

fn read() -> String {
    std::fs::read_to_string(TRANSCRIPT).expect("the transcript stands beside the test")
}

/// Compares command by command, and shows every one that differs.
fn assert_same(expected: &str, found: &str) {
    let differences: Vec<_> = exchanges(expected).into_iter().zip(exchanges(found)).filter(|(a, b)| a != b).collect();
    let shown = differences.iter().map(|(expected, found)| format!("expected {expected}\n   found {found}\n"));
    assert!(differences.is_empty(), "{} answers differ:\n{}", differences.len(), shown.collect::<String>());
}

/// Each command with the answers to it.
fn exchanges(transcript: &str) -> Vec<String> {
    let mut exchanges = Vec::new();
    for line in transcript.lines() {
        match exchanges.last_mut() {
            Some(last) if line.contains("< ") && !line.contains("> ") => *last = format!("{last}\n      {line}"),
            _ => exchanges.push(line.to_string()),
        }
    }
    exchanges
}

#[test]
fn the_stand_in_answers_as_the_transcript_says() {
    let mut stand_in = StandIn::new();
    let transcript = read();
    assert_same(&transcript, &transcribe(&transcript, &mut stand_in));
}

#[test]
#[ignore = "needs redis-server; `cargo sim conformance` runs it"]
fn the_real_server_answers_as_the_transcript_says() {
    let mut real = Real::new(servers::redis::start());
    let transcript = read();
    let found = transcribe(&transcript, &mut real);
    if crate::records() {
        std::fs::write(TRANSCRIPT, found).expect("the transcript can be written");
    } else {
        assert_same(&transcript, &found);
    }
}
