//! HTTP/1.1 from our side: a connection per conversation, every wait within its caller's bound. Dropped, it hangs up:
//! that is how a call is aborted.

use std::fmt::Display;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::limits;
use crate::socket::Socket;
use crate::task_tracker::TaskTracker;

/// Why a conversation came to nothing, in words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Lost(pub String);

fn lost(why: impl Display) -> Lost {
    Lost(why.to_string())
}

/// A connection that was dialled.
pub(crate) struct Line {
    sender: SendRequest<Full<Bytes>>,
    driver: Driver,
}

/// Ends a connection's task with its user.
struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// An answer whose head has come. Its body is read part by part.
pub(crate) struct Answer {
    response: Response<Incoming>,
    _driver: Driver,
}

impl Line {
    /// Dials `host` (`HOST:PORT`), within [`limits::CONNECT`].
    pub async fn dial(host: &str, tasks: &TaskTracker) -> Result<Self, Lost> {
        let dial = async {
            let stream = Socket::connect(host).await.map_err(lost)?;
            http1::handshake(TokioIo::new(stream)).await.map_err(lost)
        };
        let dialled = tokio::time::timeout(limits::CONNECT, dial).await;
        let (sender, connection) = dialled.map_err(|_| lost("connecting took too long"))??;
        let driver = Driver(tasks.spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection ended");
            }
        }));
        Ok(Line { sender, driver })
    }

    /// Sends the one request of this connection and waits for the head of its answer.
    pub async fn ask(mut self, request: Request<Full<Bytes>>, bound: Duration) -> Result<Answer, Lost> {
        let answered = tokio::time::timeout(bound, self.sender.send_request(request)).await;
        let response = answered.map_err(|_| lost("no answer in time"))?.map_err(lost)?;
        Ok(Answer { response, _driver: self.driver })
    }
}

impl Answer {
    /// The head.
    pub fn head(&self) -> &Response<Incoming> {
        &self.response
    }

    /// The next bytes of the body, or `None` at its end.
    pub async fn part(&mut self, bound: Duration) -> Result<Option<Bytes>, Lost> {
        let wait = async {
            while let Some(frame) = self.response.body_mut().frame().await {
                if let Ok(data) = frame.map_err(lost)?.into_data() {
                    return Ok(Some(data));
                }
            }
            Ok(None)
        };
        tokio::time::timeout(bound, wait).await.map_err(|_| lost("the answer stalled"))?
    }

    /// The whole body, of at most `most` bytes, within `bound` however slowly it comes.
    pub async fn whole(mut self, most: usize, bound: Duration) -> Result<Vec<u8>, Lost> {
        let mut whole = Vec::new();
        let until = Instant::now() + bound;
        while let Some(part) = self.part(until.saturating_duration_since(Instant::now())).await? {
            if whole.len() + part.len() > most {
                return Err(lost(format!("an answer of more than {most} bytes")));
            }
            whole.extend_from_slice(&part);
        }
        Ok(whole)
    }
}

/// Splits what streams in into lines of bounded length.
#[derive(Default)]
pub(crate) struct Lines {
    bytes: Vec<u8>,
}

impl Lines {
    /// Takes what came.
    pub fn push(&mut self, data: &[u8]) -> Result<(), Lost> {
        self.bytes.extend_from_slice(data);
        let unfinished = self.bytes.iter().rev().take_while(|byte| **byte != b'\n').count();
        if unfinished > limits::LINE { Err(lost("a line without an end")) } else { Ok(()) }
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
