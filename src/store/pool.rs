//! Connections to Postgres. A connection that was left in the middle of anything is thrown away, never used again.

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use bytes::BytesMut;
use deadpool::managed::{Manager, Metrics, Object, Pool, RecycleError, RecycleResult};
use tokio::time::Instant;
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};
use tokio_postgres::{Client, NoTls, Row};
use tokio_util::sync::CancellationToken;

use super::{StoreError, sql};
use crate::config::Address;
use crate::limits;
use crate::owned_task::OwnedTask;
use crate::socket::Socket;
use crate::task_tracker::TaskTracker;

/// A connection: a client, and the task that drives its socket.
pub(super) struct Wire {
    client: Client,
    driver: OwnedTask,
    /// The end of its last use.
    used: Instant,
}

impl Wire {
    /// Closes a connection at rest: its driver says goodbye to the server and ends by itself.
    fn leave(self) {
        self.driver.detach();
    }
}

struct Dialer {
    address: Address,
    application: String,
    /// The drivers of all connections, in use or idle.
    drivers: TaskTracker,
    /// Ends the drivers that are left when the pool must be closed.
    cut: CancellationToken,
    /// The last use of a connection that turned out to be dead: what was idle as long is dead, too, as like as not.
    dead_since: Mutex<Option<Instant>>,
}

impl Manager for Dialer {
    type Type = Wire;
    type Error = StoreError;

    async fn create(&self) -> Result<Wire, StoreError> {
        // Boxed, as dialling takes a hundred times the memory of a statement, and every future with a statement in it
        // would have room for it, and be copied with it.
        let dialled = tokio::time::timeout(limits::CONNECT, Box::pin(self.dial())).await;
        dialled.map_err(|_| StoreError::unavailable("connecting took too long"))?
    }

    async fn recycle(&self, wire: &mut Wire, _: &Metrics) -> RecycleResult<StoreError> {
        if wire.client.is_closed() { Err(RecycleError::message("closed")) } else { Ok(()) }
    }
}

impl Dialer {
    async fn dial(&self) -> Result<Wire, StoreError> {
        let stream = Socket::connect(&self.address.host).await.map_err(StoreError::unavailable)?;
        let mut config = tokio_postgres::Config::new();
        config.user(&self.address.user).application_name(&self.application);
        if !self.address.password.is_empty() {
            config.password(&self.address.password);
        }
        if !self.address.path.is_empty() {
            config.dbname(&self.address.path);
        }
        let dialled = config.connect_raw(stream, NoTls).await;
        let (client, connection) = dialled.map_err(|error| match error.as_db_error() {
            // The client has not gone on: what it says of its configuration is that Postgres asks for a password.
            None if error.to_string().starts_with("invalid configuration") => {
                StoreError::Login("it asks for a password, and LYCHGATE_POSTGRES names none".into())
            }
            _ => error.into(),
        })?;
        let (here, cut) = (self.drivers.token(), self.cut.clone());
        let driver = tokio::spawn(async move {
            let _here = here;
            tokio::select! {
                biased;
                () = cut.cancelled() => {}
                ended = connection => if let Err(error) = ended {
                    tracing::debug!(%error, "a Postgres connection ended");
                }
            }
        });
        let wire = Wire { client, driver: OwnedTask::new(driver), used: Instant::now() };
        let (idle, statement) = (limits::POSTGRES_IDLE_IN_TRANSACTION, limits::POSTGRES_CALL);
        wire.client.batch_execute(&sql::session_settings(idle.as_millis(), statement.as_millis())).await?;
        Ok(wire)
    }
}

impl Dialer {
    fn dead_since(&self) -> MutexGuard<'_, Option<Instant>> {
        self.dead_since.lock().expect("nothing panics while it holds this")
    }

    /// Makes sure that `wire`, which has been idle, still leads to Postgres: asks it for a sign of life, and dials another
    /// one if that takes long. Whichever answers first is `wire` afterwards.
    async fn refresh(&self, wire: &mut Wire) -> Result<(), StoreError> {
        let suspect = self.dead_since().is_some_and(|dead| wire.used <= dead);
        let dial = async {
            if !suspect {
                tokio::time::sleep(limits::POSTGRES_PROBE).await;
            }
            self.create().await
        };
        tokio::select! {
            biased;
            answered = wire.client.batch_execute("") => if answered.is_ok() {
                return Ok(());
            },
            dialled = dial => {
                let mut dead = self.dead_since();
                *dead = (*dead).max(Some(wire.used));
                drop(dead);
                *wire = dialled?;
                return Ok(());
            }
        }
        *wire = self.create().await?;
        Ok(())
    }
}

/// A bounded pool of connections to one Postgres.
#[derive(Clone)]
pub(super) struct Postgres(Pool<Dialer>);

impl Postgres {
    /// At most `connections` at a time.
    pub(super) fn new(address: &Address, application: &str, connections: usize) -> Self {
        let (address, application) = (address.clone(), application.to_string());
        let dialer = Dialer {
            address,
            application,
            drivers: TaskTracker::default(),
            cut: CancellationToken::new(),
            dead_since: Mutex::default(),
        };
        let pool = Pool::builder(dialer).max_size(connections).build();
        Postgres(pool.expect("a pool without timeouts needs no runtime"))
    }

    /// Runs `work` within `bound`, the wait for a connection included. Work that was cut loses its connection.
    pub(super) fn within<T>(
        bound: Duration,
        work: impl Future<Output = Result<T, StoreError>>,
    ) -> impl Future<Output = Result<T, StoreError>> {
        // On the heap: each timeout further up may hold its future twice, and this one has kilobytes.
        let work = Box::pin(work);
        async move {
            tokio::time::timeout(bound, work).await.unwrap_or_else(|_| Err(StoreError::unavailable("took too long")))
        }
    }

    /// A connection, to be returned by [`PooledConnection::release`].
    pub(super) async fn connection(&self) -> Result<PooledConnection, StoreError> {
        let object = self.0.get().await.map_err(|error| match error {
            deadpool::managed::PoolError::Backend(error) => error,
            other => StoreError::unavailable(other),
        })?;
        // From here on it is thrown away unless it is released.
        let mut connection = PooledConnection(Some(object));
        let wire = connection.0.as_mut().expect("just put there");
        if wire.used.elapsed() >= limits::POSTGRES_IDLE {
            self.0.manager().refresh(wire).await?;
        }
        Ok(connection)
    }

    /// Closes the pool: no connection is taken any more. Returns when every connection is back and the task that drove
    /// it has ended: by itself within `bound`, else by force. Says whether no force was needed.
    pub(super) async fn close(&self, bound: Duration) -> bool {
        self.0.retain(|_, _| false).removed.into_iter().for_each(Wire::leave);
        self.0.close();
        let Dialer { drivers, cut, .. } = self.0.manager();
        let gone = tokio::time::timeout(bound, drivers.wait_empty()).await.is_ok();
        if !gone {
            cut.cancel();
            // They wait for nothing any more.
            drivers.wait_empty().await;
        }
        gone
    }
}

/// A connection in use. Dropped before its release, it is thrown away.
pub(super) struct PooledConnection(Option<Object<Dialer>>);

impl Drop for PooledConnection {
    fn drop(&mut self) {
        if let Some(object) = self.0.take() {
            drop(Object::take(object));
        }
    }
}

impl PooledConnection {
    fn client(&self) -> &Client {
        &self.0.as_ref().expect("there until it is released").client
    }

    /// Returns it to the pool, at rest between two statements or transactions.
    pub(super) fn release(mut self) {
        let mut object = self.0.take();
        if let Some(wire) = &mut object {
            wire.used = Instant::now();
        }
        drop(object);
    }

    pub(super) async fn query(&self, statement: sql::Statement, params: &[Param<'_>]) -> Result<Vec<Row>, StoreError> {
        debug_assert_eq!(params.len(), statement.params.len(), "{} takes {:?}", statement.name, statement.params);
        let typed: Vec<(&(dyn ToSql + Sync), Type)> =
            params.iter().map(|param| (param as &(dyn ToSql + Sync), param.kind())).collect();
        Ok(self.client().query_typed(statement.text, &typed).await?)
    }

    pub(super) async fn batch(&self, statements: &str) -> Result<(), StoreError> {
        Ok(self.client().batch_execute(statements).await?)
    }

    pub(super) async fn begin(&self) -> Result<(), StoreError> {
        self.batch("BEGIN").await
    }

    pub(super) async fn commit(&self) -> Result<(), StoreError> {
        self.batch("COMMIT").await
    }

    /// Rolls back and releases the connection.
    pub(super) async fn roll_back(self) -> Result<(), StoreError> {
        self.batch("ROLLBACK").await?;
        self.release();
        Ok(())
    }
}

/// A typed parameter.
#[derive(Clone, Copy, Debug)]
pub(super) enum Param<'a> {
    Text(&'a str),
    Int(i64),
    Bool(bool),
}

impl Param<'_> {
    fn kind(&self) -> Type {
        match self {
            Param::Text(_) => Type::TEXT,
            Param::Int(_) => Type::INT8,
            Param::Bool(_) => Type::BOOL,
        }
    }
}

impl ToSql for Param<'_> {
    fn to_sql(&self, kind: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        match self {
            Param::Text(text) => text.to_sql(kind, out),
            Param::Int(number) => number.to_sql(kind, out),
            Param::Bool(flag) => flag.to_sql(kind, out),
        }
    }

    fn accepts(kind: &Type) -> bool {
        [Type::TEXT, Type::INT8, Type::BOOL].contains(kind)
    }

    to_sql_checked!();
}
