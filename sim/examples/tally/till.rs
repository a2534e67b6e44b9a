//! Takes orders over TCP: a line `CUSTOMER/NUMBER` each, answered `ok` once RabbitMQ has it. A customer who got no answer
//! sends the same line again.

use std::io::Result;
use std::net::SocketAddr;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::amqp::Connection;

/// An order is a dozen bytes; who sends so many without a line's end is no customer.
const SAID_MAX: u64 = 4096;

/// Serves until it is dropped.
pub async fn serve(listen: SocketAddr, broker: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(listen).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(async move {
            if let Err(error) = customer(stream, broker).await {
                tracing::warn!(%error, "a customer was sent away");
            }
        });
    }
}

async fn customer(stream: TcpStream, broker: SocketAddr) -> Result<()> {
    let (reader, mut writer) = tokio::io::split(stream);
    let mut lines = BufReader::new(reader.take(SAID_MAX)).lines();
    let mut orders = Connection::open(broker).await?;
    while let Some(order) = lines.next_line().await? {
        let answer = if order.contains('/') {
            orders.publish(order.as_bytes()).await?;
            "ok\n"
        } else {
            "this is no order\n"
        };
        writer.write_all(answer.as_bytes()).await?;
        writer.flush().await?;
    }
    Ok(())
}
