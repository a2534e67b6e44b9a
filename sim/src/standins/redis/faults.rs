//! What a Redis answers when it is not well. The texts are those of Redis 7.0.15, tried, and so is which of them comes first; that
//! of LOADING, and what is answered in spite of it, stand in its source (`server.c`, and the flags of `commands.c`).

use bytes::Bytes;

use super::channels::Client;
use super::cluster;
use super::keyspace::{Keyspace, Refusal};
use crate::plan::{Arg, Connections, Course, FaultRow, Kind, ServiceWords, Takes};
use crate::standins::clock::{self, Clock};
use crate::standins::faults;
use crate::trace::fault::FaultKind;

/// Redis forgets everything.
pub static RESTART: FaultRow = FaultRow { help: "it is down, then up again, and empty", ..faults::RESTART };

/// Redis is a replica now, and takes no writes.
pub static READONLY: FaultRow = FaultRow {
    kind: FaultKind { word: "readonly", struck: Some("{} takes no writes"), ..FaultRow::SERVICE.kind },
    help: "writes are answered with READONLY",
    ..FaultRow::SERVICE
};

/// Another node is the primary now and the name leads there; connections that stand stay with the old one, a replica. One
/// process of a real server is one node, so no conformance shows this.
pub static DEMOTED: FaultRow = FaultRow {
    kind: FaultKind {
        word: "demoted",
        struck: Some("the node of {} that is connected takes no writes"),
        healed: Some("the old node of {} takes writes again"),
    },
    help: "writes on connections that stand are answered with READONLY; new connections reach the new primary",
    ..FaultRow::SERVICE
};

/// Redis reads its data from disk, and answers nothing else.
pub static LOADING: FaultRow = FaultRow {
    kind: FaultKind { word: "loading", struck: Some("{} loads its data"), ..FaultRow::SERVICE.kind },
    help: "commands are answered with LOADING",
    ..FaultRow::SERVICE
};

/// What commands may be answered with: a snapshot that could not be saved; a replica that is away; a script that does not end; and
/// a password that somebody has set, which only connections notice that begin later.
pub const COMMAND_ERRORS: &[&str] = &["MISCONF", "NOREPLICAS", "BUSY", "NOAUTH"];

/// Commands are answered with one error.
pub static COMMAND_ERROR: FaultRow = FaultRow {
    kind: FaultKind {
        word: "command_error",
        struck: Some("{} answers commands with an error"),
        ..FaultRow::SERVICE.kind
    },
    args: &[Arg {
        name: "code",
        takes: Takes::OneOfWords(COMMAND_ERRORS),
        required: Some("code = \"MISCONF\""),
        told: " {}",
    }],
    help: "`code` answers commands: MISCONF and NOREPLICAS writes, BUSY all, NOAUTH all of connections that begin meanwhile",
    ..FaultRow::SERVICE
};

/// What another node may answer: one of a cluster that has given its slots away, one that has never had any, and one with a password.
pub const OTHER_NODES: &[&str] = &["MOVED", "CLUSTERDOWN", "NOAUTH"];

/// The name leads to somebody else's node. Connections that stand are lost; those that begin meanwhile lead there, and stay there
/// when it heals. What that node says is what a real one says; that two nodes have one name no conformance shows, as one process of
/// a real server is one node.
pub static MISROUTED: FaultRow = FaultRow {
    kind: FaultKind {
        word: "misrouted",
        struck: Some("the name of {} leads to somebody else's node"),
        healed: Some("the name of {} leads to it again"),
    },
    args: &[Arg {
        name: "code",
        takes: Takes::OneOfWords(OTHER_NODES),
        required: Some("code = \"MOVED\""),
        told: ", which says {}",
    }],
    connections: Connections::LostAtStart,
    help: "connections are lost; new ones lead to another node, which answers with `code`, and stay there afterwards",
    ..FaultRow::SERVICE
};

/// Nobody new may connect.
pub static TOO_MANY_CONNECTIONS: FaultRow = FaultRow {
    help: "new connections are told that the max number of clients is reached, and closed",
    ..faults::TOO_MANY_CONNECTIONS
};

/// No memory is left, writes are refused.
pub static FULL: FaultRow = FaultRow { help: "OOM to writes", ..faults::FULL };

/// A replica takes over that had not heard of what was written meanwhile.
pub static FAILOVER: FaultRow =
    FaultRow { help: "what is written meanwhile is lost at the end, and every connection", ..faults::FAILOVER };

/// Whatever would expire some day is gone now.
pub static EVICT: FaultRow = FaultRow {
    kind: FaultKind { word: "evict", struck: Some("{} forgets what it need not keep"), ..FaultRow::SERVICE.kind },
    course: Course::Instant,
    help: "every key with a TTL is gone",
    ..FaultRow::SERVICE
};

/// An operator flushes Redis: every key is gone, connections and loaded scripts stay.
pub static FLUSH: FaultRow = FaultRow {
    kind: FaultKind { word: "flush", struck: Some("somebody flushes {}"), ..FaultRow::SERVICE.kind },
    course: Course::Instant,
    help: "an operator's FLUSHALL: every key is gone; connections and scripts stay",
    ..FaultRow::SERVICE
};

/// What plans may say of it.
pub static WORDS: ServiceWords = ServiceWords {
    name: "redis",
    http: false,
    faults: &[
        &RESTART,
        &READONLY,
        &DEMOTED,
        &LOADING,
        &FULL,
        &COMMAND_ERROR,
        &MISROUTED,
        &TOO_MANY_CONNECTIONS,
        &FAILOVER,
        &EVICT,
        &FLUSH,
        &clock::AHEAD,
        &clock::BEHIND,
    ],
};

/// Commands that write.
const WRITES: &[&str] = &[
    "del", "expire", "flushall", "hdel", "hmset", "hset", "incr", "incrby", "persist", "pexpire", "set", "xadd",
    "xdel", "xtrim",
];
/// The writing commands that may need memory.
const GROWS: &[&str] = &["hmset", "hset", "incr", "incrby", "set", "xadd"];
/// The commands that ask what time it is.
const TIMED: &[&str] = &["expire", "pexpire", "set", "time", "xadd"];
/// What is answered while the data is read from disk.
const WHILE_LOADING: &[&str] = &["auth", "publish", "script", "subscribe", "unsubscribe"];
/// What is answered while a script does not end, and to who has not given the password.
const ALWAYS: &[&str] = &["auth"];
/// What it says of snapshots that cannot be saved.
const MISCONF: &str = "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk. Commands \
                       that may modify the data set are disabled, because this instance is configured to report errors during \
                       writes if RDB snapshotting fails (stop-writes-on-bgsave-error option). Please check the Redis logs for \
                       details about the RDB error.";
const NOREPLICAS: &str = "NOREPLICAS Not enough good replicas to write.";
const BUSY: &str = "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.";
const NOAUTH: &str = "NOAUTH Authentication required.";
/// What somebody hears who connects where there is no room.
const MAX_CLIENTS: &str = "ERR max number of clients reached";

/// Connections that somebody else's node has.
#[derive(Debug)]
struct Strayed {
    /// They came after this one.
    after: Client,
    /// And not after this one.
    until: Client,
    code: String,
}

/// What ails it.
#[derive(Debug, Default)]
pub struct Faults {
    readonly: bool,
    /// The newest connection that the old node has, while there is an old node.
    demoted: Option<Client>,
    /// The newest connection that has asked for anything, and the one whose command runs.
    newest: Client,
    asks: Client,
    loading: bool,
    full: bool,
    /// What commands are answered with, and the newest connection when that began.
    command_error: Option<(String, Client)>,
    strayed: Vec<Strayed>,
    too_many_connections: bool,
    pub(super) clock: Clock,
    /// What a replica knows that will take over.
    elsewhere: Option<Keyspace>,
    /// A script that has written goes on, as long as that may take.
    pub script_wrote: bool,
    /// The word for what the last command suffered from.
    pub suffered: Option<&'static str>,
}

impl Faults {
    /// Begins.
    ///
    /// # Panics
    /// What Redis does not suffer from.
    pub fn begin(&mut self, fault: &Kind, keys: &mut Keyspace) {
        match fault.row() {
            row if *row == READONLY => self.readonly = true,
            row if *row == DEMOTED => self.demoted = Some(self.newest),
            row if *row == LOADING => self.loading = true,
            row if *row == FULL => self.full = true,
            row if *row == COMMAND_ERROR => {
                self.command_error = fault.text("code").map(|code| (code.to_owned(), self.newest));
            }
            row if *row == MISROUTED => {
                let code = fault.text("code").unwrap_or_default().to_owned();
                self.stay_there();
                self.strayed.push(Strayed { after: self.newest, until: Client::MAX, code });
            }
            row if *row == TOO_MANY_CONNECTIONS => self.too_many_connections = true,
            row if *row == FAILOVER => self.elsewhere = Some(keys.clone()),
            // The whole of it begins anew; and what is evicted or flushed is gone.
            row if [RESTART, EVICT, FLUSH].contains(row) => {}
            _ if self.clock.set(fault, true) => {}
            row => panic!("the Redis stand-in does not know the fault {}", row.word()),
        }
    }

    /// Ends.
    pub fn end(&mut self, fault: &Kind, keys: &mut Keyspace) {
        match fault.row() {
            row if *row == READONLY => self.readonly = false,
            row if *row == DEMOTED => self.demoted = None,
            row if *row == LOADING => self.loading = false,
            row if *row == FULL => self.full = false,
            row if *row == COMMAND_ERROR => self.command_error = None,
            row if *row == MISROUTED => self.stay_there(),
            row if *row == TOO_MANY_CONNECTIONS => self.too_many_connections = false,
            row if *row == FAILOVER => {
                if let Some(elsewhere) = self.elsewhere.take() {
                    *keys = elsewhere;
                }
            }
            _ => _ = self.clock.set(fault, false),
        }
    }

    /// Who comes from here on is at the right node.
    fn stay_there(&mut self) {
        let newest = self.newest;
        self.strayed.iter_mut().for_each(|strayed| strayed.until = strayed.until.min(newest));
    }

    /// Whether it answers this client's command with a refusal, whatever the command does. What it asks first is who that is, then
    /// whose the keys are, then whether it may write, and then whether it has the time.
    ///
    /// # Errors
    /// That refusal.
    pub fn hear(&mut self, client: Client, name: &str, words: &[Bytes]) -> Result<(), Refusal> {
        (self.newest, self.asks) = (self.newest.max(client), client);
        self.script_wrote = false;
        if let Some((row, text)) = self.refuses(name, words) {
            self.suffered = Some(row.word());
            return Err(Refusal(text));
        }
        Ok(())
    }

    fn refuses(&self, name: &str, words: &[Bytes]) -> Option<(&'static FaultRow, String)> {
        let (code, since) = self.command_error.as_ref().map_or(("", 0), |(code, since)| (code.as_str(), *since));
        let known = ALWAYS.contains(&name);
        // It knows none of this command's subcommands, and says so before anything else.
        if name == "client" {
            return None;
        }
        if !known && code == "NOAUTH" && self.asks > since {
            return Some((&COMMAND_ERROR, NOAUTH.into()));
        }
        let there = |strayed: &&Strayed| (strayed.after + 1..=strayed.until).contains(&self.asks);
        if let Some(Strayed { code, .. }) = self.strayed.iter().find(there) {
            let says = match code.as_str() {
                "NOAUTH" => (!known).then(|| NOAUTH.into()),
                code => cluster::redirects(name, words, code == "MOVED"),
            };
            if let Some(says) = says {
                return Some((&MISROUTED, says));
            }
        }
        if let Some((row, text)) = self.denies(name) {
            return Some((row, text.into()));
        }
        if code == "MISCONF" && name == "ping" {
            return Some((&COMMAND_ERROR, MISCONF.into()));
        }
        if self.loading && !WHILE_LOADING.contains(&name) {
            return Some((&LOADING, "LOADING Redis is loading the dataset in memory".into()));
        }
        (code == "BUSY" && !known).then(|| (&COMMAND_ERROR, BUSY.into()))
    }

    /// What a write is refused with.
    fn denies(&self, name: &str) -> Option<(&'static FaultRow, &'static str)> {
        if self.full && !self.script_wrote && GROWS.contains(&name) {
            return Some((&FULL, "OOM command not allowed when used memory > 'maxmemory'."));
        }
        if !WRITES.contains(&name) {
            return None;
        }
        match self.command_error.as_ref().map_or("", |(code, _)| code.as_str()) {
            "MISCONF" => return Some((&COMMAND_ERROR, MISCONF)),
            "NOREPLICAS" => return Some((&COMMAND_ERROR, NOREPLICAS)),
            _ => {}
        }
        let demoted = self.demoted.is_some_and(|newest| self.asks <= newest);
        let row = if demoted { &DEMOTED } else { &READONLY };
        (self.readonly || demoted).then_some((row, "READONLY You can't write against a read only replica."))
    }

    /// What it says to this client's login, with a password that is not the one it has.
    pub fn login(&self) -> Option<&'static str> {
        let locked = self.command_error.as_ref().is_some_and(|(code, _)| code == "NOAUTH");
        let there = |strayed: &Strayed| (strayed.after + 1..=strayed.until).contains(&self.asks);
        let elsewhere = self.strayed.iter().any(|strayed| there(strayed) && strayed.code == "NOAUTH");
        (locked || elsewhere).then_some("WRONGPASS invalid username-password pair or user is disabled.")
    }

    /// Whether a script does not end, so that nothing else happens.
    pub fn busy(&self) -> bool {
        self.command_error.as_ref().is_some_and(|(code, _)| code == "BUSY")
    }

    /// What somebody who connects is told, who may not.
    pub fn refuses_connection(&self) -> Option<&'static str> {
        self.too_many_connections.then_some(MAX_CLIENTS)
    }

    /// Whether it lets a command run, a client's or a script's.
    ///
    /// # Errors
    /// Redis's refusal.
    pub fn allow(&mut self, name: &str) -> Result<(), Refusal> {
        if let Some((row, text)) = self.denies(name) {
            self.suffered = Some(row.word());
            return Err(Refusal(text.into()));
        }
        if let Some(fault) = self.clock.misleads()
            && TIMED.contains(&name)
        {
            self.suffered = Some(fault.word());
        }
        self.script_wrote |= WRITES.contains(&name);
        Ok(())
    }
}
