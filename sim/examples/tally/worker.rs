//! Takes orders from RabbitMQ and counts them. Its one law: an order is acknowledged after it was counted and its receipt
//! kept, never before; so it may come again, and must not count again. In any trouble it starts afresh.

use std::convert::Infallible;
use std::io::{Error, Result};
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::amqp::Connection;
use super::count::Count;
use super::receipts;

/// So many orders are on their way to a worker: the next one is there when one is done.
const PREFETCH: u16 = 10;
/// After so long without an order the connection may be dead without having said so. Opening another one costs nothing.
const IDLE_MAX: Duration = Duration::from_secs(30);
/// Between two attempts.
const PAUSE: Duration = Duration::from_secs(1);

/// What a worker is told.
pub struct Settings {
    pub broker: SocketAddr,
    pub redis: SocketAddr,
    pub objects: SocketAddr,
    /// Counts without a note of what was counted. Only a scenario that shows what follows wants it.
    pub count_then_ack: bool,
    /// Acknowledges an order before its receipt is kept. Likewise.
    pub ack_then_receipt: bool,
}

/// Works until it is dropped.
pub async fn serve(settings: Settings) -> Infallible {
    loop {
        let Err(error) = work(&settings).await;
        tracing::warn!(%error, "starting afresh");
        sleep(PAUSE).await;
    }
}

async fn work(settings: &Settings) -> Result<Infallible> {
    let mut orders = Connection::open(settings.broker).await?;
    orders.consume(PREFETCH).await?;
    let mut count = Count::open(settings.redis).await?;
    loop {
        let delivery = timeout(IDLE_MAX, orders.next()).await.map_err(Error::other)??;
        let order = String::from_utf8_lossy(&delivery.body);
        match order.split_once('/') {
            Some((customer, _)) if settings.count_then_ack => count.blindly(customer).await?,
            Some((customer, _)) => count.once(customer, &order).await?,
            None => {
                tracing::warn!(%order, "this is no order; it is thrown away");
                0
            }
        };
        if settings.ack_then_receipt {
            orders.ack(delivery.tag).await?;
        }
        receipts::keep(settings.objects, &order).await?;
        if !settings.ack_then_receipt {
            orders.ack(delivery.tag).await?;
        }
    }
}
