//! The handle of a connection. Its driver lives as long as it does: dropping the handle drops the socket, without a
//! word to the broker; [`Connection::close`] is the polite way.

use std::sync::{Arc, OnceLock};

use amq_protocol::protocol::{AMQPClass, channel};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::Options;
use super::channel::Channel;
use super::dialogue::{Command, Dialogue};
use super::driver::Driver;
use super::error::Error;
use super::handshake::shake;

/// Commands that wait for the driver; the next one waits for a place. It takes them as fast as the socket does.
const COMMANDS_MAX: usize = 64;

/// A connection to a broker.
#[derive(Debug)]
pub struct Connection {
    commands: mpsc::Sender<Command>,
    shared: Arc<Shared>,
    options: Arc<Options>,
    driver: Option<JoinHandle<()>>,
}

impl Connection {
    /// Shakes hands over `stream` within [`Options::open_timeout`] and spawns the driver that owns it from then on.
    ///
    /// # Errors
    /// [`Error::ConnectionClosed`] with 403 for bad credentials and 530 for an unknown virtual host;
    /// [`Error::Timeout`], [`Error::Lost`] and [`Error::Protocol`] as everywhere.
    pub async fn open<S>(mut stream: S, options: Options) -> Result<Self, Error>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (tuned, inbox) = timeout(options.open_timeout, shake(&mut stream, &options))
            .await
            .map_err(|_| Error::Timeout { what: "the handshake" })??;
        let shared = Arc::new(Shared { state: watch::Sender::new(State::default()) });
        let (commands, queue) = mpsc::channel(COMMANDS_MAX);
        let dialogue = Dialogue::new(tuned, options.body_max, shared.clone());
        let driver = Driver::new(stream, inbox, queue, dialogue, tuned.heartbeat, shared.clone());
        Ok(Connection { commands, shared, options: Arc::new(options), driver: Some(tokio::spawn(driver.run())) })
    }

    /// Opens a channel.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the broker allows no more channels, and whatever ends the connection.
    pub async fn channel(&self) -> Result<Channel, Error> {
        let life = Arc::new(Life::default());
        let (place, placed) = oneshot::channel();
        let (reply, answer) = oneshot::channel();
        let opening = async {
            let command = Command::Open { life: life.clone(), place, reply };
            self.commands.send(command).await.map_err(|_| self.shared.reason())?;
            let key = placed.await.map_err(|_| life.reason(&self.shared))??;
            match answer.await.map_err(|_| life.reason(&self.shared))? {
                AMQPClass::Channel(channel::AMQPMethod::OpenOk(_)) => Ok(key),
                other => Err(Error::Protocol(format!("{other:?} in place of channel.open-ok"))),
            }
        };
        let key = self.shared.bound(&self.options, "channel.open", opening).await?;
        Ok(Channel::new(key, life, self.shared.clone(), self.commands.clone(), self.options.clone()))
    }

    /// Why the broker takes no messages at the moment, if it does not.
    pub fn blocked(&self) -> Option<String> {
        self.shared.state.borrow().blocked.clone()
    }

    /// Why the connection is over, if it is.
    pub fn ended(&self) -> Option<Error> {
        self.shared.state.borrow().ended.clone()
    }

    /// Returns when the connection is over, with the reason.
    pub async fn over(&self) -> Error {
        self.shared.over().await
    }

    /// Closes with a handshake, after everything that was handed over before (acknowledgements too) was written, and
    /// waits until the driver has let go of the socket; all within [`Options::request_timeout`].
    ///
    /// # Errors
    /// The error that ended the connection before, or [`Error::Timeout`]. The connection is over in any case.
    pub async fn close(mut self) -> Result<(), Error> {
        let (reply, answer) = oneshot::channel();
        let closing = async {
            self.commands.send(Command::Close { reply }).await.map_err(|_| self.shared.reason())?;
            answer.await.map_err(|_| self.shared.reason())
        };
        let result = self.shared.bound(&self.options, "connection.close", closing).await;
        self.shared.end(Error::Closed);
        if let Some(driver) = self.driver.take() {
            // It ends at once: its state says so, and it waits for nothing without looking at that.
            let _ = driver.await;
        }
        result
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.shared.end(Error::Closed);
    }
}

/// The state of the connection that driver and handles share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) state: watch::Sender<State>,
}

/// The phase of the connection.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) ended: Option<Error>,
    pub(super) blocked: Option<String>,
}

impl Shared {
    /// Ends the connection; the first reason stays.
    pub(super) fn end(&self, reason: Error) {
        self.state.send_if_modified(|state| {
            let first = state.ended.is_none();
            if first {
                state.ended = Some(reason);
            }
            first
        });
    }

    /// The reason of the end, for a caller that has noticed it.
    pub(super) fn reason(&self) -> Error {
        self.state.borrow().ended.clone().unwrap_or_else(|| Error::Lost("its driver is gone".into()))
    }

    /// Returns when the connection is over.
    pub(super) async fn over(&self) -> Error {
        let mut state = self.state.subscribe();
        match state.wait_for(|state| state.ended.is_some()).await {
            Ok(state) => state.ended.clone().unwrap_or(Error::Closed),
            Err(_) => Error::Closed,
        }
    }

    /// Bounds a request; one that takes too long ends the connection.
    pub(super) async fn bound<T>(
        &self,
        options: &Options,
        what: &'static str,
        request: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        if let Some(reason) = self.state.borrow().ended.clone() {
            return Err(reason);
        }
        timeout(options.request_timeout, request).await.unwrap_or_else(|_| {
            self.end(Error::Timeout { what });
            Err(self.reason())
        })
    }
}

/// Whether a channel or a consumer has ended, and why.
#[derive(Debug, Default)]
pub(super) struct Life {
    ended: OnceLock<Error>,
}

impl Life {
    /// Ends it; the first reason stays.
    pub(super) fn end(&self, reason: Error) {
        let _ = self.ended.set(reason);
    }

    /// The reason of the connection's end, once it has ended.
    pub(super) fn ended(&self) -> Option<Error> {
        self.ended.get().cloned()
    }

    /// The reason of the end, for a caller that has noticed it.
    pub(super) fn reason(&self, shared: &Shared) -> Error {
        self.ended().unwrap_or_else(|| shared.reason())
    }
}
