//! The stand-ins on this machine's loopback, for the production runtime: no server is needed to try the product. As in
//! the world they keep everything in memory; nothing breaks here but what whoever uses them breaks.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use lychgate_sim::observation::untapped;
use lychgate_sim::product::Service;
pub use lychgate_sim::provider::Reply;
use lychgate_sim::provider::{Provider, Script};
use lychgate_sim::{postgres, provider, rabbit, redis};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// What the model answers to anything: two turns of three seconds, long enough to watch.
pub const REPLY: Reply = Reply { turns: 2, takes: Duration::from_secs(3), tokens: 12, first_token_after: None };

/// Stand-ins that serve. They end when this is dropped.
#[derive(Debug)]
pub struct Loopback {
    /// Where each listens, by service.
    pub links: BTreeMap<&'static str, SocketAddr>,
    tasks: Vec<JoinHandle<&'static str>>,
}

impl Loopback {
    /// Starts Postgres, Redis, RabbitMQ and a provider that answers `reply` to anything, each on a free port.
    ///
    /// # Errors
    /// Loopback has no free port.
    pub async fn start(reply: Reply) -> std::io::Result<Self> {
        let script = Script { replies: BTreeMap::new(), default_reply: Some(reply) };
        let services = [
            postgres::service(&postgres::Postgres::new()),
            redis::service(&redis::Redis::new()),
            rabbit::service(rabbit::Rabbit::new(rabbit::Settings::default())),
            provider::service(&Provider::new(script)),
        ];
        let mut loopback = Loopback { links: BTreeMap::new(), tasks: Vec::new() };
        for Service { name, serve, .. } in services {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
            loopback.links.insert(name, listener.local_addr()?);
            let serving = serve(listener, untapped());
            loopback.tasks.push(tokio::spawn(async move {
                serving.await;
                name
            }));
        }
        Ok(loopback)
    }

    /// Waits until a stand-in ends, which none does by itself: says which, or that it panicked.
    pub async fn fails(&mut self) -> String {
        match futures_util::future::select_all(&mut self.tasks).await.0 {
            Ok(name) => format!("the stand-in of {name} has ended"),
            Err(panic) => format!("a stand-in has ended: {panic}"),
        }
    }
}

impl Drop for Loopback {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// A port that is free at this moment.
///
/// # Errors
/// There is none.
pub async fn free_port() -> std::io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?.local_addr()
}
