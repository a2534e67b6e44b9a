//! The HTTP/1.1 client: one request a connection, every wait within its caller's bound. Dropping a [`Client`] or an
//! [`Answer`] closes the connection: that is how a call is aborted.

use std::fmt::Display;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::time::Instant;

use crate::limits;
use crate::owned_task::OwnedTask;
use crate::socket::Socket;
use crate::task_tracker::TaskTracker;

/// Why a request failed, in words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct ClientError(pub String);

fn failed(why: impl Display) -> ClientError {
    ClientError(why.to_string())
}

/// A connection, good for one request.
pub(crate) struct Client {
    sender: SendRequest<Full<Bytes>>,
    driver: OwnedTask,
}

/// An answer whose head has come. Its body is read chunk by chunk.
pub(crate) struct Answer {
    response: Response<Incoming>,
    _driver: OwnedTask,
}

impl Client {
    /// Dials `host` (`HOST:PORT`), within [`limits::CONNECT`].
    pub async fn connect(host: &str, tasks: &TaskTracker) -> Result<Self, ClientError> {
        let dial = async {
            let stream = Socket::connect(host).await.map_err(failed)?;
            http1::handshake(TokioIo::new(stream)).await.map_err(failed)
        };
        let dialled = tokio::time::timeout(limits::CONNECT, dial).await;
        let (sender, connection) = dialled.map_err(|_| failed("connecting took too long"))??;
        let driver = OwnedTask::new(tasks.spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection ended");
            }
        }));
        Ok(Client { sender, driver })
    }

    /// Sends the one request of this connection and waits for the head of its answer.
    pub async fn send(mut self, request: Request<Full<Bytes>>, bound: Duration) -> Result<Answer, ClientError> {
        let answered = tokio::time::timeout(bound, self.sender.send_request(request)).await;
        let response = answered.map_err(|_| failed("no answer in time"))?.map_err(failed)?;
        Ok(Answer { response, _driver: self.driver })
    }
}

impl Answer {
    /// Status and headers.
    pub fn head(&self) -> &Response<Incoming> {
        &self.response
    }

    /// The next bytes of the body, or `None` at its end.
    pub async fn chunk(&mut self, bound: Duration) -> Result<Option<Bytes>, ClientError> {
        let wait = async {
            while let Some(frame) = self.response.body_mut().frame().await {
                if let Ok(data) = frame.map_err(failed)?.into_data() {
                    return Ok(Some(data));
                }
            }
            Ok(None)
        };
        tokio::time::timeout(bound, wait).await.map_err(|_| failed("the answer stalled"))?
    }

    /// The whole body, of at most `most` bytes, within `bound` however slowly it comes.
    pub async fn body(mut self, most: usize, bound: Duration) -> Result<Vec<u8>, ClientError> {
        let mut whole = Vec::new();
        let until = Instant::now() + bound;
        while let Some(chunk) = self.chunk(until.saturating_duration_since(Instant::now())).await? {
            if whole.len() + chunk.len() > most {
                return Err(failed(format!("an answer of more than {most} bytes")));
            }
            whole.extend_from_slice(&chunk);
        }
        Ok(whole)
    }
}

/// Splits a stream of bytes into lines of at most [`limits::LINE`] bytes.
#[derive(Default)]
pub(crate) struct Lines {
    bytes: Vec<u8>,
}

impl Lines {
    /// Adds bytes.
    ///
    /// # Errors
    /// The line that has no end yet is longer than [`limits::LINE`].
    pub fn push(&mut self, data: &[u8]) -> Result<(), ClientError> {
        self.bytes.extend_from_slice(data);
        let unfinished = self.bytes.iter().rev().take_while(|byte| **byte != b'\n').count();
        if unfinished > limits::LINE { Err(failed("a line without an end")) } else { Ok(()) }
    }

    /// The next whole line, without its end.
    pub fn next(&mut self) -> Option<String> {
        let end = self.bytes.iter().position(|byte| *byte == b'\n')?;
        let line: Vec<u8> = self.bytes.drain(..=end).collect();
        Some(String::from_utf8_lossy(&line).trim_end().to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_whole_however_they_were_cut() {
        let mut lines = Lines::default();
        lines.push(b"data: a\r\nda").unwrap();
        assert_eq!(lines.next().as_deref(), Some("data: a"));
        assert_eq!(lines.next(), None);
        lines.push(b"ta: b\n\n").unwrap();
        assert_eq!(lines.next().as_deref(), Some("data: b"));
        assert_eq!(lines.next().as_deref(), Some(""));
        assert!(lines.push(&vec![b'x'; limits::LINE + 1]).is_err());
    }
}
