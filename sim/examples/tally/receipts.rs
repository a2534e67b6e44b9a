//! Receipts in an object store, one for each order, under a key of its own: storing one again changes nothing.

use std::io::{Error, ErrorKind, Result};
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A healthy store answers within milliseconds.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// What every answer begins with that says that the object is safe.
const STORED: &[u8] = b"HTTP/1.1 200 ";

/// Keeps the receipt of `order`. It is safe when this returns.
pub async fn keep(store: SocketAddr, order: &str) -> Result<()> {
    timeout(ANSWER_MAX, put(store, order)).await.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()))
}

async fn put(store: SocketAddr, order: &str) -> Result<()> {
    let mut stream = TcpStream::connect(store).await?;
    let receipt = format!("{order} is counted\n");
    let head = format!("PUT /receipts/{order} HTTP/1.1\r\nHost: objects\r\nContent-Length: {}\r\n\r\n", receipt.len());
    stream.write_all((head + &receipt).as_bytes()).await?;
    stream.flush().await?;
    let mut answer = [0; STORED.len()];
    stream.read_exact(&mut answer).await?;
    if answer == *STORED { Ok(()) } else { Err(Error::other("the store keeps no receipt now")) }
}
