//! What one connection's statements do, and its transaction.
//!
//! A transaction takes its turn with its first statement on tables and gives it back when it ends, fails, or its
//! connection is gone: there is no other way to hold it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit};

use super::Shared;
use super::engine::{Outcome, Plan, named};
use super::faults::{FAILOVER, SLOW_COMMIT, TABLE_LOCK};
use super::observation::{Failover, Statement, Value};
use super::refusal::Refusal;
use super::statement::{Setting, Verb};
use crate::plan::FaultRow;
use crate::standins::observation::{FaultObserved, Tap};

/// Where a session stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transaction {
    None,
    /// Opened by a statement outside of a transaction; it ends with the `Sync` or the end of the query text.
    Implicit,
    /// Between BEGIN and COMMIT.
    Explicit,
    /// A statement of it failed.
    Failed,
}

/// What `SET` has set. None: no limit.
#[derive(Clone, Debug, Default)]
pub(super) struct Settings {
    pub idle_in_transaction: Option<Duration>,
    statement: Option<Duration>,
    lock: Option<Duration>,
}

/// What a statement is answered with.
#[derive(Debug)]
pub(super) struct Answer {
    pub rows: Vec<Vec<Value>>,
    /// The command tag.
    pub tag: String,
    /// A warning: SQLSTATE and message.
    pub warning: Option<(&'static str, &'static str)>,
}

impl Answer {
    fn tag(tag: &str) -> Answer {
        Answer { rows: Vec::new(), tag: tag.to_owned(), warning: None }
    }
}

/// One connection's side of the database.
pub(super) struct Session {
    shared: Arc<Shared>,
    /// The number of the primary that it is connected to.
    primary: u64,
    tap: Tap,
    peer: SocketAddr,
    /// The client's `application_name`.
    pub application: String,
    pub transaction: Transaction,
    pub settings: Settings,
    /// What a rollback restores.
    settings_before: Settings,
    /// Held while the transaction is open in the database.
    turn: Option<OwnedSemaphorePermit>,
    /// Shown at the commit; each with whether it has changed rows.
    done: Vec<(Statement, bool)>,
    /// Told by cancel requests.
    cancel: Arc<Notify>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.roll_back();
    }
}

impl Session {
    pub fn new(shared: Arc<Shared>, tap: Tap, peer: SocketAddr, cancel: Arc<Notify>) -> Session {
        let primary = *shared.primary.borrow();
        Session {
            shared,
            primary,
            tap,
            peer,
            application: String::new(),
            transaction: Transaction::None,
            settings: Settings::default(),
            settings_before: Settings::default(),
            turn: None,
            done: Vec::new(),
            cancel,
        }
    }

    /// Changes a setting.
    pub fn set(&mut self, setting: &Setting) {
        match setting {
            Setting::IdleInTransaction(limit) => self.settings.idle_in_transaction = *limit,
            Setting::Statement(limit) => self.settings.statement = *limit,
            Setting::Lock(limit) => self.settings.lock = *limit,
            Setting::Label => {}
        }
    }

    /// Whether a transaction that has failed would refuse this statement.
    pub fn refuses(&self, verb: &Verb) -> bool {
        self.transaction == Transaction::Failed && !matches!(verb, Verb::Commit | Verb::Rollback | Verb::Empty)
    }

    /// Executes one statement. On an error the caller calls [`Session::fail`].
    pub async fn execute(&mut self, plan: &Plan, params: &[Value]) -> Result<Answer, Refusal> {
        if self.refuses(&plan.statement.verb) {
            return Err(Refusal::aborted());
        }
        match &plan.statement.verb {
            Verb::Empty => return Ok(Answer::tag("")),
            Verb::Begin(tag) => return Ok(self.begin(tag)),
            Verb::Commit => return self.commit().await,
            Verb::Rollback => return Ok(self.rollback()),
            _ => {}
        }
        if self.transaction == Transaction::None {
            self.transaction = Transaction::Implicit;
            self.settings_before = self.settings.clone();
        }
        match &plan.statement.verb {
            Verb::Set(setting) => {
                self.set(setting);
                return Ok(Answer::tag("SET"));
            }
            Verb::Clock => return Ok(Answer::tag("CREATE FUNCTION")),
            _ => {}
        }
        self.take_turn(&plan.statement.name, params).await?;
        let refused = self.shared.faults().refuses(&plan.statement.verb);
        if let Some((ailment, refusal)) = refused {
            self.suffer(ailment, &plan.statement.name, params);
            return Err(refusal);
        }
        let (clock, misleads) = self.shared.time();
        if let Some(ailment) = misleads.filter(|_| plan.statement.text.contains("now_us()")) {
            self.suffer(ailment, &plan.statement.name, params);
        }
        let outcome = self.shared.database_of(self.primary)?.run(plan, params, clock)?;
        Ok(self.note(plan, params, outcome))
    }

    /// Waits until no other transaction is open and no table is locked, first come first served.
    async fn take_turn(&mut self, name: &str, params: &[Value]) -> Result<(), Refusal> {
        if self.turn.is_some() {
            return Ok(());
        }
        let mut locked = self.shared.locked.subscribe();
        if *locked.borrow() {
            self.suffer(&TABLE_LOCK, name, params);
        }
        let (limit, refusal) = match (self.settings.statement, self.settings.lock) {
            (statement, Some(lock)) if statement.is_none_or(|statement| lock < statement) => {
                (Some(lock), Refusal::new("55P03", "canceling statement due to lock timeout"))
            }
            (statement, _) => (statement, Refusal::new("57014", "canceling statement due to statement timeout")),
        };
        let expired = async {
            match limit {
                Some(limit) => tokio::time::sleep(limit).await,
                None => std::future::pending().await,
            }
        };
        let free = async {
            locked.wait_for(|locked| !locked).await.expect("it outlives its sessions");
            self.shared.turn.clone().acquire_owned().await
        };
        let turn = tokio::select! {
            biased;
            turn = free => turn.expect("the turn is never closed"),
            () = self.cancel.notified() => return Err(Refusal::new("57014", "canceling statement due to user request")),
            () = expired => return Err(refusal),
        };
        let left_behind = {
            let mut database = self.shared.database_of(self.primary)?;
            let left_behind = self.shared.standby().begins(&database, &self.tap);
            database.begin();
            left_behind
        };
        self.turn = Some(turn);
        if left_behind {
            (self.tap)(Failover::LeftBehind.into());
        }
        Ok(())
    }

    fn note(&mut self, plan: &Plan, params: &[Value], outcome: Outcome) -> Answer {
        let Outcome { rows, affected } = outcome;
        let tag = match plan.statement.verb {
            Verb::Select => format!("SELECT {affected}"),
            Verb::Insert => format!("INSERT 0 {affected}"),
            Verb::Update => format!("UPDATE {affected}"),
            Verb::Delete => format!("DELETE {affected}"),
            Verb::Schema(tag) => tag.to_owned(),
            ref verb => unreachable!("{verb:?} is not executed on tables"),
        };
        let changed = affected > 0 && !matches!(plan.statement.verb, Verb::Select);
        let statement = Statement {
            peer: self.peer,
            application: self.application.clone(),
            name: plan.statement.name.clone(),
            params: params.to_vec(),
            rows: named(plan, rows.clone()),
            affected,
        };
        self.done.push((statement, changed));
        Answer { rows, tag, warning: None }
    }

    fn begin(&mut self, tag: &str) -> Answer {
        let warning = (self.transaction == Transaction::Explicit)
            .then_some(("25001", "there is already a transaction in progress"));
        if self.transaction == Transaction::None {
            self.settings_before = self.settings.clone();
        }
        self.transaction = Transaction::Explicit;
        Answer { warning, ..Answer::tag(tag) }
    }

    async fn commit(&mut self) -> Result<Answer, Refusal> {
        let warning = self.warning_outside();
        if self.transaction == Transaction::Failed {
            return Ok(self.rollback());
        }
        self.end().await?;
        Ok(Answer { warning, ..Answer::tag("COMMIT") })
    }

    fn rollback(&mut self) -> Answer {
        let warning = self.warning_outside();
        self.roll_back();
        Answer { warning, ..Answer::tag("ROLLBACK") }
    }

    fn warning_outside(&self) -> Option<(&'static str, &'static str)> {
        matches!(self.transaction, Transaction::None | Transaction::Implicit)
            .then_some(("25P01", "there is no transaction in progress"))
    }

    /// Commits what a `Sync` or the end of a query text commits.
    pub async fn end_implicit(&mut self) -> Result<(), Refusal> {
        if self.transaction == Transaction::Implicit { self.end().await } else { Ok(()) }
    }

    /// Commits, then shows what was committed, then gives the turn back: so the tap hears of transactions in the order of
    /// their commits.
    async fn end(&mut self) -> Result<(), Refusal> {
        self.sick_commit().await?;
        self.transaction = Transaction::None;
        if let Some(turn) = self.turn.take() {
            let done = std::mem::take(&mut self.done);
            let changes = done.iter().filter(|(_, changed)| *changed).map(|(statement, _)| statement);
            let last = changes.clone().next_back().cloned();
            let missed = {
                let mut database = self.shared.database_of(self.primary)?;
                database.commit()?;
                self.shared.standby().misses(changes.cloned())
            };
            for (statement, _) in done {
                (self.tap)(statement.into());
            }
            if let Some(last) = last.filter(|_| missed) {
                self.suffer(&FAILOVER, &last.name, &last.params);
            }
            drop(turn);
        }
        Ok(())
    }

    /// A commit of a change by a server that is not well: late, or refused and undone.
    async fn sick_commit(&mut self) -> Result<(), Refusal> {
        if !self.done.iter().any(|(_, changed)| *changed) {
            return Ok(());
        }
        let (refused, late) = {
            let faults = self.shared.faults();
            (faults.refuses_commit(), faults.slow_commit())
        };
        let last = self.done.last().map(|(statement, _)| (statement.name.clone(), statement.params.clone()));
        let (name, params) = last.unwrap_or_default();
        if let Some((ailment, refusal)) = refused {
            self.suffer(ailment, &name, &params);
            self.roll_back();
            return Err(refusal);
        }
        if !late.is_zero() {
            self.suffer(&SLOW_COMMIT, &name, &params);
            tokio::time::sleep(late).await;
        }
        Ok(())
    }

    fn suffer(&self, fault: &FaultRow, name: &str, params: &[Value]) {
        let texts = params.iter().filter_map(Value::as_text).collect::<Vec<_>>().join(" ");
        let request = format!("{name} {texts}").into_bytes();
        let (peer, service, ailment) = (self.peer, "postgres", fault.word());
        (self.tap)(FaultObserved { peer, service, ailment, request }.into());
    }

    /// After an error: the transaction is undone at once, and a BEGIN's waits for its ROLLBACK.
    pub fn fail(&mut self) {
        let explicit = matches!(self.transaction, Transaction::Explicit | Transaction::Failed);
        self.roll_back();
        if explicit {
            self.transaction = Transaction::Failed;
        }
    }

    fn roll_back(&mut self) {
        if self.transaction != Transaction::None {
            self.settings = self.settings_before.clone();
            self.transaction = Transaction::None;
        }
        self.done.clear();
        if let Some(turn) = self.turn.take() {
            self.shared.database().rollback();
            drop(turn);
        }
    }
}
