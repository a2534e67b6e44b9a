//! A stand-in for PostgreSQL 15: its wire protocol, over tables in SQLite.
//!
//! It speaks the dialect that both databases share: `bigint`, `text`, `bytea`, `boolean`, typed parameters, `now_us()`.
//! What lies outside stops the run with a message that names it. One law: **one transaction at a time**, first come first
//! served; the races of READ COMMITTED are for the real server to show.

mod connection;
mod data_type;
mod engine;
pub mod faults;
pub mod observation;
mod refusal;
mod session;
mod shapes;
mod standby;
mod statement;
#[cfg(not(madsim))]
pub(crate) mod tap;
mod token;
mod wire;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::future::BoxFuture;
use pgwire::messages::startup::SecretKey;
use tokio::sync::{Notify, Semaphore, watch};

use self::engine::Database;
use self::faults::{FAILOVER, Faults, Login, TABLE_LOCK, TOO_MANY_CONNECTIONS};
use self::observation::Value;
use self::refusal::Refusal;
use self::shapes::Messages;
use self::standby::Standby;
use crate::plan::FaultRow;
use crate::standins::listener::{Listener, Stream};
use crate::standins::observation::Tap;
use crate::standins::shapes::Shapes;
#[cfg(not(madsim))]
use crate::standins::wire::ServerTap;
use crate::standins::{Control, StandIn};

/// Where Postgres listens.
pub const PORT: u16 = 5432;

/// Postgres's default `max_connections`; one more is refused with 53300.
pub const CONNECTIONS_MAX: usize = 100;

/// A database. Clones are the same one; it outlives a restart of [`Postgres::serve`], connections and what they have not
/// committed do not.
#[derive(Clone)]
pub struct Postgres {
    shared: Arc<Shared>,
}

impl Default for Postgres {
    fn default() -> Postgres {
        Postgres::new()
    }
}

/// What connections share.
struct Shared {
    database: Mutex<Database>,
    standby: Mutex<Standby>,
    /// Which node is the primary, counted. Who was connected to the one before is so no longer.
    primary: watch::Sender<u64>,
    /// Held by the open transaction.
    turn: Arc<Semaphore>,
    /// Whether somebody waits for every table, so that nobody new gets a turn.
    locked: watch::Sender<bool>,
    clients: Mutex<Clients>,
    faults: Mutex<Faults>,
}

/// The connected clients, for cancel requests. A restart forgets them, not the count.
#[derive(Default)]
struct Clients {
    next_pid: i32,
    connected: BTreeMap<i32, (i32, Arc<Notify>)>,
}

/// A client's entry among the connected ones, until it is dropped.
struct Registration {
    shared: Arc<Shared>,
    pid: i32,
    secret: i32,
    /// Told when the client's statement is to be cancelled.
    cancel: Arc<Notify>,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.shared.clients().connected.remove(&self.pid);
    }
}

impl Shared {
    /// For as long as one step of one statement; never across an await.
    fn database(&self) -> MutexGuard<'_, Database> {
        self.database.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same for a session that began with the primary of this number; refused if that is none any more.
    fn database_of(&self, primary: u64) -> Result<MutexGuard<'_, Database>, Refusal> {
        let database = self.database();
        if *self.primary.borrow() == primary {
            return Ok(database);
        }
        Err(Refusal::fatal("57P01", "terminating connection due to administrator command"))
    }

    fn standby(&self) -> MutexGuard<'_, Standby> {
        self.standby.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The standby takes over: every connection ends, with what it has not committed.
    fn fail_over(&self) {
        let told = {
            let mut database = self.database();
            self.primary.send_modify(|primary| *primary += 1);
            self.standby().promote(&mut database)
        };
        if let Some((tap, failover)) = told {
            tap(failover.into());
        }
    }

    fn clients(&self) -> MutexGuard<'_, Clients> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the server's clock shows, since 1970, and which fault has changed it.
    fn time(&self) -> (Duration, Option<&'static FaultRow>) {
        let clock = self.faults().clock;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970");
        (clock.shows(now), clock.misleads())
    }

    /// A client's place, or what it is refused with.
    fn register(self: &Arc<Shared>, login: &Login) -> Result<Registration, Box<(&'static FaultRow, Refusal)>> {
        let refused = {
            let faults = self.faults();
            // A server that comes up or is full says so before it looks who it is.
            faults.refuses_connection().or_else(|| faults.refuses_login(login))
        };
        if let Some(refusal) = refused {
            return Err(Box::new(refusal));
        }
        let mut clients = self.clients();
        if clients.connected.len() >= CONNECTIONS_MAX {
            let refusal = Refusal::fatal("53300", "sorry, too many clients already");
            return Err(Box::new((&TOO_MANY_CONNECTIONS, refusal)));
        }
        clients.next_pid += 1;
        let pid = clients.next_pid;
        // Not a secret here: it only has to differ between connections and be the same in every run.
        let secret = pid.wrapping_mul(0x5bd1_e995);
        let cancel = Arc::new(Notify::new());
        clients.connected.insert(pid, (secret, cancel.clone()));
        Ok(Registration { shared: self.clone(), pid, secret, cancel })
    }

    /// Cancels the statement that this client waits for; as in Postgres, a wrong key is passed over in silence.
    fn cancel(&self, pid: i32, secret: &SecretKey) {
        if let Some((known, cancel)) = self.clients().connected.get(&pid)
            && SecretKey::I32(*known).eq_value(secret)
        {
            cancel.notify_waiters();
        }
    }
}

impl Postgres {
    /// An empty database.
    pub fn new() -> Postgres {
        let shared = Shared {
            database: Mutex::new(Database::new()),
            standby: Mutex::default(),
            primary: watch::Sender::new(0),
            turn: Arc::new(Semaphore::new(1)),
            locked: watch::Sender::new(false),
            clients: Mutex::new(Clients::default()),
            faults: Mutex::new(Faults::default()),
        };
        Postgres { shared: Arc::new(shared) }
    }

    /// Serves clients until it is dropped, and drops their connections with it. What is committed is shown to `tap` before
    /// the answer leaves.
    ///
    /// # Panics
    /// In a task of its own, when a client asks for something outside of the dialect.
    pub async fn serve(self, listener: impl Into<Listener>, tap: Tap) {
        let (_alive, ended) = watch::channel(());
        let mut listener = listener.into();
        while let Ok((stream, peer)) = listener.accept().await {
            tokio::spawn(serve_one(stream, peer, self.shared.clone(), tap.clone(), ended.clone()));
        }
    }

    /// Does to it what a fault wants.
    ///
    /// # Panics
    /// What Postgres does not suffer from.
    pub fn control(&self, control: Control) {
        match control {
            Control::Begin(fault) if fault.is(&FAILOVER) => self.shared.standby().fall(),
            Control::End(fault) if fault.is(&FAILOVER) => self.shared.fail_over(),
            Control::Begin(fault) if fault.is(&TABLE_LOCK) => _ = self.shared.locked.send_replace(true),
            Control::End(fault) if fault.is(&TABLE_LOCK) => _ = self.shared.locked.send_replace(false),
            Control::Begin(fault) => self.shared.faults().set(&fault, true),
            Control::End(fault) => self.shared.faults().set(&fault, false),
            other => panic!("the Postgres stand-in refuses nobody by name: {other:?}"),
        }
    }

    /// The rows of one statement without parameters, each by column name: for tests and judges. It sees what an open
    /// transaction has done so far; ask [`Postgres::transaction_open`] where that matters.
    ///
    /// # Panics
    /// If Postgres would refuse the statement.
    pub fn query(&self, sql: &str) -> Vec<BTreeMap<String, Value>> {
        let statements = statement::statements(sql);
        let Ok([statement]) = statements.as_deref() else { panic!("not one statement: {sql}") };
        let (clock, _) = self.shared.time();
        self.shared.database().query(statement, clock).unwrap_or_else(|refusal| panic!("{refusal:?}: {sql}"))
    }

    /// Whether a transaction has done something that it has not committed.
    pub fn transaction_open(&self) -> bool {
        self.shared.database().in_transaction()
    }
}

async fn serve_one(stream: Stream, peer: SocketAddr, shared: Arc<Shared>, tap: Tap, mut ended: watch::Receiver<()>) {
    let mut primary = shared.primary.subscribe();
    tokio::select! {
        biased;
        _ = ended.changed() => {}
        _ = primary.changed() => {}
        () = connection::serve(stream, peer, shared, tap) => {}
    }
}

impl StandIn for Postgres {
    fn name(&self) -> &'static str {
        "postgres"
    }

    fn port(&self) -> u16 {
        PORT
    }

    fn serve(&self, listener: Listener, tap: Tap) -> BoxFuture<'static, ()> {
        Box::pin(Postgres::serve(self.clone(), listener, tap))
    }

    fn control(&self, control: Control) -> Result<(), String> {
        Postgres::control(self, control);
        Ok(())
    }

    fn shapes(&self) -> Option<Box<dyn Shapes>> {
        Some(Box::new(Messages::default()))
    }

    #[cfg(not(madsim))]
    fn tap(&self, _: SocketAddr) -> Option<ServerTap> {
        Some(Box::new(|peer| Box::new(tap::Postgres::new(peer))))
    }
}
