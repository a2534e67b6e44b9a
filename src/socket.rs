//! A TCP connection, as everything here dials and accepts it. The law: a flush reaches the transport only if something
//! was written since the last one. Drivers of connections flush whenever they wake, mostly nothing, and some transports
//! send a packet for an empty flush.

use std::io::{IoSlice, Result};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A connection that flushes what was written, and nothing else.
#[derive(Debug)]
pub struct Socket {
    stream: TcpStream,
    /// Something was written since the last flush.
    written: bool,
}

impl Socket {
    /// Dials `host` (`HOST:PORT`). The caller bounds the wait.
    ///
    /// # Errors
    /// No process listens there, or the host is not known or not reached.
    pub async fn connect(host: &str) -> Result<Socket> {
        TcpStream::connect(host).await.map(Socket::from)
    }
}

impl From<TcpStream> for Socket {
    fn from(stream: TcpStream) -> Socket {
        Socket { stream, written: false }
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        self.written = true;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        self.written = true;
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        if self.written {
            ready!(Pin::new(&mut self.stream).poll_flush(context))?;
            self.written = false;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
