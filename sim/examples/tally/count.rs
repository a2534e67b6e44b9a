//! The count in Redis. Its one law: an order is counted in the same step in which it is noted as counted, so that
//! counting it again, after a lost answer or by another worker, changes nothing.

use std::io::{Error, ErrorKind, Result};
use std::net::SocketAddr;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, FromRedisValue, IntoConnectionInfo};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// A healthy Redis answers within milliseconds.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// Gives the new total, or 0 if the order had been counted. The note is kept for a day; by then RabbitMQ has long
/// forgotten the order.
const COUNT: &str = "\
if redis.call('SET', KEYS[1], '1', 'NX', 'EX', '86400') then
  return redis.call('INCR', KEYS[2])
end
return 0";

/// A connection to the count.
pub struct Count {
    redis: MultiplexedConnection,
    driver: JoinHandle<()>,
}

impl Count {
    /// Connects. The timeouts are ours: those of the client would ask a clock that is not the runtime's.
    pub async fn open(redis: SocketAddr) -> Result<Count> {
        within(async {
            let stream = TcpStream::connect(redis).await?;
            let info = "redis://localhost/".into_connection_info().map_err(Error::other)?;
            let bounds = AsyncConnectionConfig::new().set_response_timeout(None).set_connection_timeout(None);
            let made = MultiplexedConnection::new_with_config(info.redis_settings(), stream, bounds).await;
            let (redis, driver) = made.map_err(Error::other)?;
            Ok(Count { redis, driver: tokio::spawn(driver) })
        })
        .await
    }

    /// Counts `order` of `customer`, once.
    pub async fn once(&mut self, customer: &str, order: &str) -> Result<u64> {
        let (note, total) = (format!("counted:{order}"), format!("tally:{customer}"));
        self.ask(redis::cmd("EVAL").arg(COUNT).arg(2).arg(note).arg(total)).await
    }

    /// Counts without a note: the bug.
    pub async fn blindly(&mut self, customer: &str) -> Result<u64> {
        self.ask(redis::cmd("INCR").arg(format!("tally:{customer}"))).await
    }

    async fn ask<T: FromRedisValue>(&mut self, command: &redis::Cmd) -> Result<T> {
        within(async { command.query_async(&mut self.redis).await.map_err(Error::other) }).await
    }
}

impl Drop for Count {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

async fn within<T>(answer: impl Future<Output = Result<T>>) -> Result<T> {
    timeout(ANSWER_MAX, answer).await.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()))
}
