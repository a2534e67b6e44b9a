//! How connections reach a stand-in: over TCP from anywhere, or over a pipe from a link's relay, in memory, without a
//! socket, a packet or a timer. Its one law: what was written before an end is read before that end.
//!
//! The path that a link models lies between the process and its relay; that half stays TCP, with the network's delays.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

/// What a stand-in accepts connections from.
pub enum Listener {
    /// A port.
    Tcp(TcpListener),
    /// In memory, in a simulation.
    Pipes(mpsc::UnboundedReceiver<(Pipe, SocketAddr)>),
}

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Listener {
        Listener::Tcp(listener)
    }
}

impl Listener {
    /// The next connection, and where it comes from.
    ///
    /// # Errors
    /// As TCP has them; one in memory that is gone waits for ever.
    pub async fn accept(&mut self) -> io::Result<(Stream, SocketAddr)> {
        match self {
            Listener::Tcp(listener) => listener.accept().await.map(|(stream, peer)| (Stream::Tcp(stream), peer)),
            Listener::Pipes(pipes) => match pipes.recv().await {
                Some((pipe, peer)) => Ok((Stream::Pipe(pipe), peer)),
                None => std::future::pending().await,
            },
        }
    }
}

/// The in-memory end at which relays reach a service. Clones share one accept queue.
#[derive(Clone, Default)]
pub struct MemoryListener(Arc<Mutex<Option<AcceptQueue>>>);

/// The way to a life of the service.
type AcceptQueue = mpsc::UnboundedSender<(Pipe, SocketAddr)>;

impl MemoryListener {
    /// A new life of the service: from now on it gets the connections, until what is returned is dropped.
    pub fn open(&self) -> Listener {
        let (sender, pipes) = mpsc::unbounded_channel();
        *lock(&self.0) = Some(sender);
        Listener::Pipes(pipes)
    }

    /// Connects to the service as `from`.
    ///
    /// # Errors
    /// Connection refused: it is not there.
    pub fn connect(&self, from: SocketAddr) -> io::Result<Pipe> {
        let (near, far) = pipe();
        let moored = lock(&self.0).as_ref().is_some_and(|service| service.send((far, from)).is_ok());
        if moored { Ok(near) } else { Err(io::ErrorKind::ConnectionRefused.into()) }
    }
}

/// A connection to or at a stand-in.
#[derive(Debug)]
pub enum Stream {
    /// Over TCP.
    Tcp(TcpStream),
    /// Over a pipe.
    Pipe(Pipe),
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_read(context, buffer),
            Stream::Pipe(pipe) => pipe.from.read(context, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_write(context, bytes),
            Stream::Pipe(pipe) => Poll::Ready(pipe.to.write(bytes)),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_flush(context),
            Stream::Pipe(_) => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            Stream::Pipe(pipe) => {
                pipe.to.end();
                Poll::Ready(Ok(()))
            }
        }
    }
}

/// One end of a pipe. Dropped, it is the end for the other side.
#[derive(Debug)]
pub struct Pipe {
    to: Lane,
    from: Lane,
}

/// The two ends of a new pipe.
pub fn pipe() -> (Pipe, Pipe) {
    let (up, down) = (Lane::default(), Lane::default());
    (Pipe { to: up.clone(), from: down.clone() }, Pipe { to: down, from: up })
}

impl Drop for Pipe {
    fn drop(&mut self) {
        self.to.end();
        self.from.forsake();
    }
}

/// One direction.
#[derive(Clone, Debug, Default)]
struct Lane(Arc<Mutex<Way>>);

/// The stream takes whatever is written, as the simulated network does; relays bound what they take.
#[derive(Debug, Default)]
struct Way {
    bytes: VecDeque<u8>,
    /// Nothing more will be written.
    ended: bool,
    /// Nobody will read what is written.
    forsaken: bool,
    reader: Option<Waker>,
}

impl Lane {
    fn read(&self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut way = lock(&self.0);
        if way.bytes.is_empty() && !way.ended {
            if !way.reader.as_ref().is_some_and(|reader| reader.will_wake(context.waker())) {
                way.reader = Some(context.waker().clone());
            }
            return Poll::Pending;
        }
        let first = way.bytes.as_slices().0;
        let read = first.len().min(buffer.remaining());
        buffer.put_slice(&first[..read]);
        way.bytes.drain(..read);
        Poll::Ready(Ok(()))
    }

    fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut way = lock(&self.0);
        if way.forsaken || way.ended {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        way.bytes.extend(bytes);
        way.wake();
        Ok(bytes.len())
    }

    fn end(&self) {
        let mut way = lock(&self.0);
        way.ended = true;
        way.wake();
    }

    fn forsake(&self) {
        let mut way = lock(&self.0);
        way.forsaken = true;
        way.bytes.clear();
    }
}

impl Way {
    fn wake(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

/// Nothing that holds it panics or calls back.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn from(port: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], port))
    }

    #[test]
    fn what_was_written_before_an_end_is_read_before_it() {
        let (one, other) = pipe();
        let (mut one, mut other) = (Stream::Pipe(one), Stream::Pipe(other));
        let mut read = Vec::new();
        assert!(other.read_to_end(&mut read).now_or_never().is_none(), "nothing has come, and nobody has left");
        one.write_all(b"last words").now_or_never().expect("a pipe takes it").expect("somebody listens");
        drop(one);
        other.read_to_end(&mut read).now_or_never().expect("the end has come").expect("an end in order");
        assert_eq!(read, b"last words");
        let late = other.write_all(b"?").now_or_never().expect("a pipe answers");
        assert_eq!(late.expect_err("nobody listens").kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn a_dock_refuses_whom_no_life_of_its_service_will_serve() {
        let listener = MemoryListener::default();
        assert_eq!(listener.connect(from(1)).expect_err("not open").kind(), io::ErrorKind::ConnectionRefused);
        let mut life = listener.open();
        let _pipe = listener.connect(from(2)).expect("open");
        let (_, peer) = life.accept().now_or_never().expect("it waits").expect("accepted");
        assert_eq!(peer, from(2));
        drop(life);
        assert_eq!(listener.connect(from(3)).expect_err("closed").kind(), io::ErrorKind::ConnectionRefused);
    }
}
