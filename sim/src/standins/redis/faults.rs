//! What a Redis answers when it is not well. The texts of READONLY and OOM are those of Redis 7.0.15, tried; that of
//! LOADING, and what is answered in spite of it, stand in its source (`server.c`, and the flags of `commands.c`).

use super::channels::Client;
use super::keyspace::{Keyspace, Refusal};
use crate::plan::{Connections, Course, FaultRow, Kind, ServiceWords};
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

/// No memory is left, writes are refused.
pub static FULL: FaultRow = FaultRow { help: "OOM to writes", ..faults::FULL };

/// What is written while it lasts is lost at its end, with every connection: a replica took over that had not heard of it.
pub static FAILOVER: FaultRow = FaultRow {
    kind: FaultKind {
        word: "failover",
        struck: Some("what {} takes from here on will be lost"),
        healed: Some("another {} takes over"),
    },
    connections: Connections::LostAtEnd,
    help: "what is written meanwhile is lost at the end, and every connection",
    ..FaultRow::SERVICE
};

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
    faults: &[&RESTART, &READONLY, &DEMOTED, &LOADING, &FULL, &FAILOVER, &EVICT, &FLUSH, &clock::AHEAD, &clock::BEHIND],
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
const WHILE_LOADING: &[&str] = &["publish", "script", "subscribe", "unsubscribe"];

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
            row if *row == FAILOVER => {
                if let Some(elsewhere) = self.elsewhere.take() {
                    *keys = elsewhere;
                }
            }
            _ => _ = self.clock.set(fault, false),
        }
    }

    /// Whether it answers this client's command with a refusal, whatever the command does.
    ///
    /// # Errors
    /// That refusal.
    pub fn hear(&mut self, client: Client, name: &str) -> Result<(), Refusal> {
        (self.newest, self.asks) = (self.newest.max(client), client);
        self.script_wrote = false;
        if self.loading && !WHILE_LOADING.contains(&name) {
            self.suffered = Some(LOADING.word());
            return Err(Refusal("LOADING Redis is loading the dataset in memory".into()));
        }
        Ok(())
    }

    /// Whether it lets a command run, a client's or a script's.
    ///
    /// # Errors
    /// Redis's refusal.
    pub fn allow(&mut self, name: &str) -> Result<(), Refusal> {
        let demoted = self.demoted.is_some_and(|newest| self.asks <= newest);
        if (self.readonly || demoted) && WRITES.contains(&name) {
            self.suffered = Some(if demoted { DEMOTED.word() } else { READONLY.word() });
            return Err(Refusal("READONLY You can't write against a read only replica.".into()));
        }
        if self.full && !self.script_wrote && GROWS.contains(&name) {
            self.suffered = Some(FULL.word());
            return Err(Refusal("OOM command not allowed when used memory > 'maxmemory'.".into()));
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
