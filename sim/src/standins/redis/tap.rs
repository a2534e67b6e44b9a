//! Redis's wire, RESP2: commands with their answers, and the keys that they may have written as they are after them.
//!
//! The wire does not say how a key stands after a command. Redis itself is asked, on a line of our own, before the answer
//! goes on its way.

use std::collections::{BTreeMap, VecDeque};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use super::observation::{Command, Key};
use crate::standins::observation::Observation;
use crate::standins::redis::commands::may_write;
use crate::standins::wire::{Heard, Wire};

/// Redis answers at once, or is stuck: no fault acts on our own line to it.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// Answers `ENTRIES TTL` of a key, the time in milliseconds as PTTL says it.
const STANDS: &str = "local kind = redis.call('TYPE', KEYS[1]).ok
local sizes = { hash = 'HLEN', stream = 'XLEN', list = 'LLEN', set = 'SCARD', zset = 'ZCARD' }
local entries = kind == 'none' and 0 or 1
if sizes[kind] then entries = redis.call(sizes[kind], KEYS[1]) end
return entries .. ' ' .. redis.call('PTTL', KEYS[1])";

/// What the connections to one Redis share.
pub(crate) struct Shared {
    addr: SocketAddr,
    line: Option<TcpStream>,
    /// Scripts by the hash under which they are called.
    scripts: BTreeMap<String, Bytes>,
}

impl Shared {
    pub(crate) fn new(addr: SocketAddr) -> Arc<Mutex<Shared>> {
        Arc::new(Mutex::new(Shared { addr, line: None, scripts: BTreeMap::new() }))
    }

    fn key(&mut self, name: &Bytes) -> Result<Key, String> {
        let said = self.ask(name).map_err(|error| format!("our own line to Redis: {error}"))?;
        let said = String::from_utf8_lossy(&said).into_owned();
        let odd = || format!("asked how a key stands, Redis says {said:?}");
        let (entries, ttl) = said.lines().nth(1).and_then(|line| line.trim().split_once(' ')).ok_or_else(odd)?;
        let ttl = ttl.parse::<i64>().map_err(|_| odd())?;
        let ttl = u64::try_from(ttl).ok().map(Duration::from_millis);
        Ok(Key { name: name.clone(), entries: entries.parse().map_err(|_| odd())?, ttl })
    }

    fn ask(&mut self, name: &Bytes) -> std::io::Result<Vec<u8>> {
        let line = match &mut self.line {
            Some(line) => line,
            none => {
                let line = TcpStream::connect_timeout(&self.addr, ANSWER_MAX)?;
                line.set_read_timeout(Some(ANSWER_MAX))?;
                line.set_nodelay(true)?;
                none.insert(line)
            }
        };
        let mut request = b"*4\r\n".to_vec();
        for word in [b"EVAL".as_slice(), STANDS.as_bytes(), b"1", name] {
            request.extend(format!("${}\r\n", word.len()).bytes());
            request.extend(word);
            request.extend(b"\r\n");
        }
        line.write_all(&request)?;
        let (mut said, mut bytes) = (Vec::new(), [0; 256]);
        while reply(&said).map_err(std::io::Error::other)?.is_none() {
            match line.read(&mut bytes)? {
                0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                read => said.extend_from_slice(&bytes[..read]),
            }
        }
        Ok(said)
    }
}

/// A connection.
pub(crate) struct Redis {
    peer: SocketAddr,
    shared: Arc<Mutex<Shared>>,
    up: Vec<u8>,
    down: Vec<u8>,
    asked: VecDeque<Vec<Bytes>>,
}

impl Redis {
    pub(crate) fn new(peer: SocketAddr, shared: Arc<Mutex<Shared>>) -> Redis {
        Redis { peer, shared, up: Vec::new(), down: Vec::new(), asked: VecDeque::new() }
    }

    fn answered(&self, mut words: Vec<Bytes>, reply: Bytes) -> Result<Observation, String> {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let is = |at: usize, name: &str| words.get(at).is_some_and(|word| word.eq_ignore_ascii_case(name.as_bytes()));
        if let Some(body) = words.get(2).filter(|_| is(0, "SCRIPT") && is(1, "LOAD")) {
            shared.scripts.insert(sha1_smol::Sha1::from(body).digest().to_string(), body.clone());
        }
        if let Some(body) = words.get(1).filter(|_| is(0, "EVAL")) {
            shared.scripts.insert(sha1_smol::Sha1::from(body).digest().to_string(), body.clone());
        }
        let hash = words.get(1).filter(|_| is(0, "EVALSHA")).map(|hash| String::from_utf8_lossy(hash).to_lowercase());
        if let Some(body) = hash.and_then(|hash| shared.scripts.get(&hash)) {
            words[1] = body.clone();
        }
        let keys = may_write(&words).iter().map(|name| shared.key(name)).collect::<Result<_, _>>()?;
        Ok(Command { peer: self.peer, words, reply, keys }.into())
    }
}

impl Wire for Redis {
    fn up(&mut self, bytes: &[u8]) -> Heard {
        self.up.extend_from_slice(bytes);
        while let Some((words, length)) = request(&self.up)? {
            self.up.drain(..length);
            self.asked.push_back(words);
        }
        Ok(Vec::new())
    }

    fn down(&mut self, bytes: &[u8]) -> Heard {
        self.down.extend_from_slice(bytes);
        let mut heard = Vec::new();
        while let Some(length) = reply(&self.down)? {
            let said: Bytes = self.down.drain(..length).collect::<Vec<_>>().into();
            let words = self.asked.pop_front().ok_or_else(|| format!("Redis says {said:?}, and nobody asked"))?;
            heard.push(self.answered(words, said)?);
        }
        Ok(heard)
    }

    fn over(&mut self) -> Heard {
        Ok(Vec::new())
    }
}

/// The line at the beginning of `bytes`, and how long it is with its end.
fn line(bytes: &[u8]) -> Option<(&str, usize)> {
    let end = bytes.windows(2).position(|window| window == b"\r\n")?;
    Some((std::str::from_utf8(&bytes[..end]).unwrap_or("?"), end + 2))
}

fn number(line: &str) -> Result<i64, String> {
    line.get(1..).and_then(|number| number.parse().ok()).ok_or_else(|| format!("{line:?} is no length in RESP"))
}

/// The first command in `bytes`, if it is there whole, and its length.
fn request(bytes: &[u8]) -> Result<Option<(Vec<Bytes>, usize)>, String> {
    let Some((head, mut at)) = line(bytes) else { return Ok(None) };
    if !head.starts_with('*') {
        return Err(format!("a client says {head:?}: only arrays are understood"));
    }
    let mut words = Vec::new();
    for _ in 0..number(head)? {
        let Some((head, length)) = line(&bytes[at..]) else { return Ok(None) };
        let size = usize::try_from(number(head)?).map_err(|_| "a command with a missing word")?;
        at += length;
        let Some(word) = bytes.get(at..at + size + 2) else { return Ok(None) };
        words.push(Bytes::copy_from_slice(&word[..size]));
        at += size + 2;
    }
    Ok(Some((words, at)))
}

/// The length of the first answer in `bytes`, if it is there whole.
fn reply(bytes: &[u8]) -> Result<Option<usize>, String> {
    let Some((head, mut at)) = line(bytes) else { return Ok(None) };
    match head.as_bytes().first() {
        Some(b'+' | b'-' | b':') => Ok(Some(at)),
        Some(b'$') => Ok(match usize::try_from(number(head)?) {
            Err(_) => Some(at),
            Ok(size) => (bytes.len() >= at + size + 2).then_some(at + size + 2),
        }),
        Some(b'*') => {
            for _ in 0..number(head)?.max(0) {
                let Some(length) = reply(&bytes[at..])? else { return Ok(None) };
                at += length;
            }
            Ok(Some(at))
        }
        _ => Err(format!("Redis says {head:?}: only RESP2 is understood")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_told_with_its_answer_however_it_comes() {
        // Nobody asks how a key stands that is only read.
        let shared = Shared::new(SocketAddr::from(([127, 0, 0, 1], 1)));
        let mut redis = Redis::new(SocketAddr::from(([0, 0, 0, 1], 1)), shared);
        for byte in b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n*1\r\n$4\r\nPING\r\n" {
            assert!(redis.up(&[*byte]).expect("a whole command or none").is_empty());
        }
        let mut told = Vec::new();
        for byte in b"*2\r\n$1\r\nx\r\n:5\r\n+PONG\r\n" {
            told.extend(redis.down(&[*byte]).unwrap());
        }
        let [get, ping] = told.as_slice() else { panic!("{told:?}") };
        let command = |seen: &Observation| seen.of::<Command>().expect("Redis shows commands").clone();
        let (get, ping) = (command(get), command(ping));
        assert_eq!((get.words.len(), get.reply.as_ref()), (2, b"*2\r\n$1\r\nx\r\n:5\r\n".as_slice()));
        assert_eq!(ping.reply.as_ref(), b"+PONG\r\n");
        assert!(redis.down(b"+OK\r\n").is_err(), "nobody asked");
        assert!(redis.down(b"%1\r\n").is_err(), "RESP3");
    }
}
