//! What a Postgres answers when it is not well. SQLSTATEs and texts are those of its source (`errcodes.txt`, `md.c`,
//! `predicate.c`); a full disk and a serialization failure cannot be shown at will on a real server.

use std::net::IpAddr;
use std::time::Duration;

use super::refusal::Refusal;
use super::statement::Verb;
use crate::plan::{Arg, FaultRow, Kind, ServiceWords, Takes};
use crate::standins::clock::{self, Clock};
use crate::standins::faults;
use crate::trace::fault::FaultKind;

/// Postgres forgets what is not committed.
pub static RESTART: FaultRow = FaultRow { help: "it is down, then up again, with what is on disk", ..faults::RESTART };

/// A standby that is promoted has not heard of what was committed meanwhile: replication is asynchronous. Rows, sequences and
/// transaction ids are as the standby has them. One real server has no standby, so no conformance shows this.
pub static FAILOVER: FaultRow =
    FaultRow { help: "what is committed meanwhile is lost at the end, and every connection", ..faults::FAILOVER };

/// No disk is left, whatever needs some is refused.
pub static FULL: FaultRow = FaultRow { help: "53100 to writes", ..faults::FULL };

/// Each commit of a change is refused with 40001.
pub static SERIALIZATION_FAILURE: FaultRow = FaultRow {
    kind: FaultKind { word: "serialization_failure", struck: Some("{} refuses commits"), ..FaultRow::SERVICE.kind },
    help: "commits of changes are refused with 40001",
    ..FaultRow::SERVICE
};

/// What a commit may be refused with, something of each class that does not say that the statement is wrong: trouble of the
/// server's own, of its machine, of its memory; a deadlock; a server that is a standby now, is being stopped, or has waited for
/// too long; a lock that is not there; a pooler's lost server and refused login; and what nobody has a list for.
pub const COMMIT_ERRORS: &[&str] = &[
    "XX000", "XX001", "58030", "53200", "53400", "40P01", "25006", "57P01", "57014", "55P03", "54000", "08006",
    "28P01", "72000",
];

/// Each commit of a change is refused with one SQLSTATE.
pub static COMMIT_ERROR: FaultRow = FaultRow {
    kind: FaultKind { word: "commit_error", struck: Some("{} refuses commits"), ..FaultRow::SERVICE.kind },
    args: &[Arg {
        name: "code",
        takes: Takes::OneOfWords(COMMIT_ERRORS),
        required: Some("code = \"XX000\""),
        told: " with {}",
    }],
    help: "commits of changes are refused with the SQLSTATE `code`",
    ..FaultRow::SERVICE
};

/// Nobody new may connect.
pub static TOO_MANY_CONNECTIONS: FaultRow =
    FaultRow { help: "new connections are refused with 53300", ..faults::TOO_MANY_CONNECTIONS };

/// What a login may be refused with: a password that is not the one it knows, and a table of hosts without an entry.
pub const LOGIN_ERRORS: &[&str] = &["28P01", "28000"];

/// Nobody new may connect: the password was changed, or the hosts that may.
pub static LOGIN_REFUSED: FaultRow = FaultRow {
    kind: FaultKind { word: "login_refused", struck: Some("{} refuses logins"), ..FaultRow::SERVICE.kind },
    args: &[Arg {
        name: "code",
        takes: Takes::OneOfWords(LOGIN_ERRORS),
        required: Some("code = \"28P01\""),
        told: " with {}",
    }],
    help: "new connections are refused with the SQLSTATE `code`: a wrong password, or no entry in pg_hba.conf",
    ..FaultRow::SERVICE
};

/// Nobody new may connect: it comes up.
pub static STARTING_UP: FaultRow = FaultRow {
    kind: FaultKind { word: "starting_up", struck: Some("{} starts up"), ..FaultRow::SERVICE.kind },
    help: "new connections are refused with 57P03",
    ..FaultRow::SERVICE
};

/// A commit takes so much longer.
pub static SLOW_COMMIT: FaultRow = FaultRow {
    kind: FaultKind { word: "slow_commit", struck: Some("{} commits slowly"), ..FaultRow::SERVICE.kind },
    args: &[Arg { name: "by", takes: Takes::Time, required: Some("by = \"200ms\""), told: "" }],
    help: "commits of changes take longer, `by` this much",
    ..FaultRow::SERVICE
};

/// Somebody's ALTER TABLE has every table to itself; statements wait for it, transactions that are open go on.
pub static TABLE_LOCK: FaultRow = FaultRow {
    kind: FaultKind { word: "table_lock", struck: Some("somebody locks every table of {}"), ..FaultRow::SERVICE.kind },
    help: "an ALTER TABLE has every table to itself; statements wait",
    ..FaultRow::SERVICE
};

/// What plans may say of it.
pub static WORDS: ServiceWords = ServiceWords {
    name: "postgres",
    http: false,
    faults: &[
        &RESTART,
        &FAILOVER,
        &FULL,
        &SERIALIZATION_FAILURE,
        &COMMIT_ERROR,
        &TOO_MANY_CONNECTIONS,
        &STARTING_UP,
        &LOGIN_REFUSED,
        &SLOW_COMMIT,
        &TABLE_LOCK,
        &clock::AHEAD,
        &clock::BEHIND,
    ],
};

/// Who wants to be let in.
#[derive(Debug)]
pub(super) struct Login {
    pub user: String,
    pub database: String,
    pub host: IpAddr,
}

/// What ails it.
#[derive(Debug, Default)]
pub(super) struct Faults {
    full: bool,
    serialization_failure: bool,
    /// The SQLSTATE that commits are refused with.
    commit_error: Option<String>,
    too_many_connections: bool,
    starting_up: bool,
    /// The SQLSTATE that logins are refused with.
    login_refused: Option<String>,
    /// By how much commits are late.
    slow_commit: Duration,
    pub clock: Clock,
}

impl Faults {
    /// Begins or ends.
    ///
    /// # Panics
    /// What Postgres does not suffer from.
    pub fn set(&mut self, fault: &Kind, on: bool) {
        match fault.row() {
            row if *row == FULL => self.full = on,
            row if *row == SERIALIZATION_FAILURE => self.serialization_failure = on,
            row if *row == COMMIT_ERROR => self.commit_error = fault.text("code").filter(|_| on).map(str::to_owned),
            row if *row == TOO_MANY_CONNECTIONS => self.too_many_connections = on,
            row if *row == STARTING_UP => self.starting_up = on,
            row if *row == LOGIN_REFUSED => self.login_refused = fault.text("code").filter(|_| on).map(str::to_owned),
            row if *row == SLOW_COMMIT => self.slow_commit = if on { fault.time("by") } else { Duration::ZERO },
            // Its next life knows what was committed; what a standby knows is seen to elsewhere.
            row if [RESTART, FAILOVER].contains(row) => {}
            _ if self.clock.set(fault, on) => {}
            row => panic!("the Postgres stand-in does not know the fault {}", row.word()),
        }
    }

    /// What a statement is refused with: without disk each that writes a row.
    pub fn refuses(&self, verb: &Verb) -> Option<(&'static FaultRow, Refusal)> {
        if self.full && matches!(verb, Verb::Insert | Verb::Update | Verb::Schema(_)) {
            let text = "could not extend file \"base/5/16384\": No space left on device";
            return Some((&FULL, Refusal::new("53100", text)));
        }
        None
    }

    /// What the commit of a change is refused with.
    pub fn refuses_commit(&self) -> Option<(&'static FaultRow, Refusal)> {
        if let Some(code) = &self.commit_error {
            let known = COMMIT_ERRORS.iter().find(|known| *known == code)?;
            return Some((&COMMIT_ERROR, Refusal::new(known, "the server is not well")));
        }
        let text = "could not serialize access due to read/write dependencies among transactions";
        self.serialization_failure.then(|| (&SERIALIZATION_FAILURE, Refusal::new("40001", text)))
    }

    /// By how much such a commit is late.
    pub fn slow_commit(&self) -> Duration {
        self.slow_commit
    }

    /// What somebody new is refused with.
    pub fn refuses_connection(&self) -> Option<(&'static FaultRow, Refusal)> {
        if self.starting_up {
            return Some((&STARTING_UP, Refusal::fatal("57P03", "the database system is starting up")));
        }
        let refusal = || Refusal::fatal("53300", "sorry, too many clients already");
        self.too_many_connections.then(|| (&TOO_MANY_CONNECTIONS, refusal()))
    }

    /// What somebody new is refused with who says so, and from where.
    pub fn refuses_login(&self, login: &Login) -> Option<(&'static FaultRow, Refusal)> {
        let Login { user, database, host } = login;
        let refusal = match self.login_refused.as_deref()? {
            "28P01" => Refusal::fatal("28P01", format!("password authentication failed for user \"{user}\"")),
            _ => {
                let who = format!("host \"{host}\", user \"{user}\", database \"{database}\"");
                Refusal::fatal("28000", format!("no pg_hba.conf entry for {who}, no encryption"))
            }
        };
        Some((&LOGIN_REFUSED, refusal))
    }

    /// Whether it asks for a password, which is wrong whatever it is.
    pub fn asks_for_password(&self) -> bool {
        self.refuses_connection().is_none() && self.login_refused.as_deref() == Some("28P01")
    }
}
