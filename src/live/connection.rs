//! One connection to Redis, redialled when it is lost. A call that got no answer ends its connection: a pipeline that is
//! wedged never heals, and a late answer must not meet the next question.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, FromRedisValue, IntoConnectionInfo, RedisError};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::config::Address;
use crate::limits;

/// Redis did not answer; nothing durable may depend on it.
#[derive(Clone, Debug, thiserror::Error)]
#[error("Redis is unavailable: {0}")]
pub struct RedisDown(pub String);

impl From<RedisError> for RedisDown {
    fn from(error: RedisError) -> Self {
        RedisDown(error.to_string())
    }
}

/// The task that drives a connection's socket; it ends with its last user.
struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[derive(Clone)]
struct Line {
    serial: u64,
    connection: MultiplexedConnection,
    driver: Arc<Driver>,
}

#[derive(Default)]
struct State {
    line: Option<Line>,
    dialled: u64,
    pause: Duration,
    dial_at: Option<Instant>,
}

/// A client that is shared by all tasks of a process.
#[derive(Clone)]
pub struct Redis {
    address: Address,
    state: Arc<Mutex<State>>,
}

impl Redis {
    /// A client for `address`; nothing is dialled yet.
    pub fn new(address: &Address) -> Self {
        Redis { address: address.clone(), state: Arc::default() }
    }

    /// Sends one command within `bound`, dialling if need be.
    ///
    /// # Errors
    /// [`RedisDown`]; the command may have happened.
    pub async fn command<T: FromRedisValue>(&self, bound: Duration, command: &redis::Cmd) -> Result<T, RedisDown> {
        self.within(bound, |mut connection| async move { command.query_async(&mut connection).await }).await
    }

    /// Sends several commands in one go within `bound`.
    ///
    /// # Errors
    /// [`RedisDown`]; each command may have happened.
    pub async fn pipeline<T: FromRedisValue>(
        &self,
        bound: Duration,
        pipeline: &redis::Pipeline,
    ) -> Result<T, RedisDown> {
        self.within(bound, |mut connection| async move { pipeline.query_async(&mut connection).await }).await
    }

    /// Runs a script within `bound`.
    ///
    /// # Errors
    /// [`RedisDown`]; the script may have run.
    pub async fn script<T: FromRedisValue>(
        &self,
        bound: Duration,
        script: &redis::ScriptInvocation<'_>,
    ) -> Result<T, RedisDown> {
        self.within(bound, |mut connection| async move { script.invoke_async(&mut connection).await }).await
    }

    /// Forgets the connection; what is in flight on it fails.
    pub async fn close(&self) {
        self.state.lock().await.line = None;
    }

    async fn within<T, F: Future<Output = Result<T, RedisError>>>(
        &self,
        bound: Duration,
        ask: impl FnOnce(MultiplexedConnection) -> F,
    ) -> Result<T, RedisDown> {
        let began = Instant::now();
        let late = |_| RedisDown(format!("no answer within {bound:?}"));
        let line = tokio::time::timeout(bound, self.line()).await.map_err(late)??;
        let left = bound.saturating_sub(began.elapsed());
        match tokio::time::timeout(left, ask(line.connection.clone())).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) if !error.is_unrecoverable_error() && !error.is_io_error() => Err(error.into()),
            Ok(Err(error)) => {
                self.discard(line.serial).await;
                Err(error.into())
            }
            Err(elapsed) => {
                self.discard(line.serial).await;
                Err(late(elapsed))
            }
        }
    }

    async fn discard(&self, serial: u64) {
        let mut state = self.state.lock().await;
        if state.line.as_ref().is_some_and(|line| line.serial == serial)
            && let Some(line) = state.line.take()
        {
            // Others who wait on it learn of its end now, not at their own bounds.
            line.driver.0.abort();
        }
    }

    async fn line(&self) -> Result<Line, RedisDown> {
        let mut state = self.state.lock().await;
        if let Some(line) = &state.line {
            return Ok(line.clone());
        }
        let now = Instant::now();
        if state.dial_at.is_some_and(|at| now < at) {
            return Err(RedisDown("waiting before the next connect".into()));
        }
        // Counted as failed until it has succeeded: whoever waits for it may give up first.
        state.pause = (state.pause * 2).clamp(limits::BACKOFF_MIN, limits::BACKOFF_MAX);
        state.dial_at = Some(now + state.pause);
        state.dialled += 1;
        let (connection, driver) = dial(&self.address).await?;
        let line = Line { serial: state.dialled, connection, driver: Arc::new(driver) };
        *state = State { line: Some(line.clone()), dialled: state.dialled, ..State::default() };
        Ok(line)
    }
}

async fn dial(address: &Address) -> Result<(MultiplexedConnection, Driver), RedisDown> {
    let dialled = async {
        let stream = TcpStream::connect(&address.host).await.map_err(|error| RedisDown(error.to_string()))?;
        let login = match (address.user.as_str(), address.password.as_str()) {
            ("", "") => String::new(),
            (user, password) => format!("{user}:{password}@"),
        };
        // The address is dialled above; what is left of the URL is the login and the database.
        let info = format!("redis://{login}localhost/{}", address.path).into_connection_info()?;
        let bounds = AsyncConnectionConfig::new().set_response_timeout(None).set_connection_timeout(None);
        let (connection, driver) =
            MultiplexedConnection::new_with_config(info.redis_settings(), stream, bounds).await?;
        Ok::<_, RedisDown>((connection, Driver(tokio::spawn(driver))))
    };
    let late = |_| RedisDown("connecting took too long".into());
    tokio::time::timeout(limits::CONNECT, dialled).await.map_err(late)?
}

/// A connection of one reader's own, for reads that block.
pub struct ReaderConnection {
    connection: MultiplexedConnection,
    _driver: Driver,
}

impl ReaderConnection {
    /// Dials `redis`'s address.
    ///
    /// # Errors
    /// [`RedisDown`].
    pub async fn dial(redis: &Redis) -> Result<Self, RedisDown> {
        let (connection, driver) = dial(&redis.address).await?;
        Ok(ReaderConnection { connection, _driver: driver })
    }

    /// Sends one command that may block for less than [`limits::REDIS_CALL`].
    ///
    /// # Errors
    /// [`RedisDown`]; drop the connection.
    pub async fn command<T: FromRedisValue>(&mut self, command: &redis::Cmd) -> Result<T, RedisDown> {
        let asked = tokio::time::timeout(limits::REDIS_CALL, command.query_async(&mut self.connection)).await;
        Ok(asked.map_err(|_| RedisDown("no answer to a read".into()))??)
    }
}
