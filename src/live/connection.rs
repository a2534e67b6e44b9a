//! One connection to Redis, redialled when it is lost. A call that got no answer ends its connection: a pipeline that
//! is wedged never heals, and a late answer must not meet the next question.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, FromRedisValue, IntoConnectionInfo, RedisError};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::config::Address;
use crate::limits;
use crate::owned_task::OwnedTask;
use crate::socket::Socket;

/// Redis did not answer; nothing durable may depend on it.
#[derive(Clone, Debug, thiserror::Error)]
#[error("Redis is unavailable: {0}")]
pub struct RedisDown(pub String);

impl From<RedisError> for RedisDown {
    fn from(error: RedisError) -> Self {
        RedisDown(error.to_string())
    }
}

/// A connection that is up; its driver ends with the last user.
#[derive(Clone)]
struct Connected {
    serial: u64,
    connection: MultiplexedConnection,
    driver: Arc<OwnedTask>,
    since: Instant,
}

/// The state of the one connection.
enum State {
    /// No connection: lost, or never dialled. Not dialled before `dial_at`; after a failure the next pause is longer.
    Down { dial_at: Option<Instant>, pause: Duration },
    /// A dial is going on, for at most [`limits::CONNECT`]. It outlives the call that began it: others wait for it too.
    Dialling { pause: Duration, _dial: OwnedTask },
    /// The connection is up.
    Up(Connected),
}

struct Shared {
    state: Mutex<State>,
    /// Counts the dials that have come to an end.
    dialled: watch::Sender<u64>,
}

/// A client that is shared by all tasks of a process.
#[derive(Clone)]
pub struct Redis {
    address: Address,
    shared: Arc<Shared>,
}

impl Redis {
    /// A client for `address`; nothing is dialled yet.
    pub fn new(address: &Address) -> Self {
        let state = Mutex::new(State::Down { dial_at: None, pause: Duration::ZERO });
        Redis { address: address.clone(), shared: Arc::new(Shared { state, dialled: watch::Sender::new(0) }) }
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
    pub fn close(&self) {
        self.shared.set(State::Down { dial_at: None, pause: Duration::ZERO });
    }

    async fn within<T, F: Future<Output = Result<T, RedisError>>>(
        &self,
        bound: Duration,
        ask: impl Fn(MultiplexedConnection) -> F,
    ) -> Result<T, RedisDown> {
        let began = Instant::now();
        let late = |_| RedisDown(format!("no answer within {bound:?}"));
        loop {
            let left = bound.saturating_sub(began.elapsed());
            let connected = tokio::time::timeout(left, self.connection()).await.map_err(late)??;
            let left = bound.saturating_sub(began.elapsed());
            let mut abandoned = Abandoned { redis: self, connected: Some(connected.clone()) };
            let answer = tokio::time::timeout(left, ask(connected.connection.clone())).await;
            abandoned.connected = None;
            match answer {
                Ok(Ok(answer)) => return Ok(answer),
                // It has done nothing of what it was asked, so that another one may be asked the same.
                Ok(Err(error)) if is_another_node(&error) && connected.since.elapsed() >= limits::REDIS_REDIAL => {
                    tracing::warn!(%error, "Redis is dialled anew: its name may lead to another node");
                    self.discard(connected.serial);
                }
                Ok(Err(error)) if !error.is_unrecoverable_error() && !error.is_io_error() => return Err(error.into()),
                Ok(Err(error)) => {
                    self.discard(connected.serial);
                    return Err(error.into());
                }
                Err(elapsed) => {
                    self.discard(connected.serial);
                    return Err(late(elapsed));
                }
            }
        }
    }

    /// Probes a connection whose caller was dropped before the answer: answers keep their order, so the answer to a
    /// PING shows that the earlier ones came, a refusal as well as any. Without it the connection is discarded.
    async fn probe(self, connected: Connected) {
        let mut connection = connected.connection;
        let ping = redis::cmd("PING");
        let answer = tokio::time::timeout(limits::REDIS_LOOK, ping.query_async::<String>(&mut connection)).await;
        let answered = match answer {
            Ok(Ok(_)) => true,
            Ok(Err(error)) => error.into_server_errors().is_some(),
            Err(_) => false,
        };
        if !answered {
            self.discard(connected.serial);
        }
    }

    fn discard(&self, serial: u64) {
        let mut state = self.shared.state();
        if let State::Up(connected) = &*state
            && connected.serial == serial
        {
            // Others who wait on it learn of its end now, not at their own bounds.
            connected.driver.abort();
            *state = State::Down { dial_at: None, pause: Duration::ZERO };
        }
    }

    /// The connection; dialled if it is not there.
    async fn connection(&self) -> Result<Connected, RedisDown> {
        let mut dialled = self.shared.dialled.subscribe();
        loop {
            dialled.mark_unchanged();
            if let Some(connected) = self.up_or_dial()? {
                return Ok(connected);
            }
            // The sender lives as long as `self`, so waiting cannot fail.
            let _ = dialled.changed().await;
        }
    }

    /// The connection if it is there; else it is being dialled when this returns.
    fn up_or_dial(&self) -> Result<Option<Connected>, RedisDown> {
        let mut state = self.shared.state();
        let (dial_at, pause) = match &*state {
            // Redis has hung up, and nobody has asked since.
            State::Up(connected) if connected.driver.is_finished() => (None, Duration::ZERO),
            State::Up(connected) => return Ok(Some(connected.clone())),
            State::Dialling { .. } => return Ok(None),
            State::Down { dial_at, pause } => (*dial_at, *pause),
        };
        if dial_at.is_some_and(|at| Instant::now() < at) {
            return Err(RedisDown("waiting before the next connect".into()));
        }
        let pause = (pause * 2).clamp(limits::BACKOFF_MIN, limits::BACKOFF_MAX);
        let (address, shared) = (self.address.clone(), self.shared.clone());
        let dial = OwnedTask::new(tokio::spawn(async move { shared.end_of_dial(dial(&address).await) }));
        *state = State::Dialling { pause, _dial: dial };
        Ok(None)
    }
}

/// What a node says that is not the one we mean: a replica, a node of somebody's cluster, one with a password that we have not been
/// asked for.
const ANOTHER_NODES: &[&str] = &["READONLY", "MASTERDOWN", "MOVED", "ASK", "CLUSTERDOWN", "CROSSSLOT", "NOAUTH"];

/// Whether the node at the other end says that it is another one. It refuses before it does anything.
fn is_another_node(error: &RedisError) -> bool {
    let said = error.clone().into_server_errors();
    said.is_some_and(|said| said.iter().any(|(_, said)| ANOTHER_NODES.contains(&said.code())))
}

/// A call whose caller may be dropped before the answer has come.
struct Abandoned<'a> {
    redis: &'a Redis,
    connected: Option<Connected>,
}

impl Drop for Abandoned<'_> {
    fn drop(&mut self) {
        // Without a runtime nobody is left to be kept waiting.
        if let (Some(connected), Ok(runtime)) = (self.connected.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(self.redis.clone().probe(connected));
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds the state")
    }

    fn set(&self, state: State) {
        *self.state() = state;
    }

    fn end_of_dial(&self, dialled: Result<(MultiplexedConnection, OwnedTask), RedisDown>) {
        let serial = *self.dialled.borrow() + 1;
        let mut state = self.state();
        // Closed meanwhile: nobody waits for it any more.
        let State::Dialling { pause, .. } = &*state else { return };
        *state = match dialled {
            Ok((connection, driver)) => {
                State::Up(Connected { serial, connection, driver: Arc::new(driver), since: Instant::now() })
            }
            Err(error) => {
                tracing::debug!(%error, "Redis cannot be dialled");
                State::Down { dial_at: Some(Instant::now() + *pause), pause: *pause }
            }
        };
        drop(state);
        self.dialled.send_replace(serial);
    }
}

async fn dial(address: &Address) -> Result<(MultiplexedConnection, OwnedTask), RedisDown> {
    let dialled = async {
        let stream = Socket::connect(&address.host).await.map_err(|error| RedisDown(error.to_string()))?;
        let login = match (address.user.as_str(), address.password.as_str()) {
            ("", "") => String::new(),
            (user, password) => format!("{user}:{password}@"),
        };
        // The address is dialled above; what is left of the URL is the login and the database.
        let info = format!("redis://{login}localhost/{}", address.path).into_connection_info()?;
        let bounds = AsyncConnectionConfig::new().set_response_timeout(None).set_connection_timeout(None);
        let (connection, driver) =
            MultiplexedConnection::new_with_config(info.redis_settings(), stream, bounds).await?;
        Ok::<_, RedisDown>((connection, OwnedTask::new(tokio::spawn(driver))))
    };
    let late = |_| RedisDown("connecting took too long".into());
    tokio::time::timeout(limits::CONNECT, dialled).await.map_err(late)?
}

/// A connection of one reader's own, for reads that block.
pub struct ReaderConnection {
    connection: MultiplexedConnection,
    _driver: OwnedTask,
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
