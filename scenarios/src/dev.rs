//! The stand-ins on this machine's loopback, for the production runtime: no server is needed to try the product. As in
//! the world they keep everything in memory; nothing breaks here but what their user breaks on purpose.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use lychgate::config;
use lychgate::signal::Signal;
pub use lychgate_sim::plan::Kind;
pub use lychgate_sim::standins::Control;
use lychgate_sim::standins::StandIn;
use lychgate_sim::standins::engine::{Engine, KILLED, Runner, Running, Spec};
use lychgate_sim::standins::observation::untapped;
use lychgate_sim::standins::postgres::Postgres;
pub use lychgate_sim::standins::provider::Reply;
use lychgate_sim::standins::provider::dialect::Dialect;
pub use lychgate_sim::standins::provider::faults::REFUSE;
use lychgate_sim::standins::provider::{Provider, Script};
use lychgate_sim::standins::rabbit::{self, Rabbit};
use lychgate_sim::standins::redis::Redis;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinHandle};

use crate::fault_admin;

/// What the model answers to anything: two turns of three seconds, long enough to watch.
pub const REPLY: Reply =
    Reply { turns: 2, takes: Duration::from_secs(3), tokens: 12, first_token_after: None, dialect: Dialect::Plain };

/// Stand-ins that serve. They end when this is dropped.
#[derive(Debug)]
pub struct Loopback {
    /// Where each listens, by service.
    pub links: BTreeMap<&'static str, SocketAddr>,
    /// The one that agents ask: it refuses whom it is told to.
    pub provider: Provider,
    tasks: Vec<JoinHandle<&'static str>>,
    containers: Containers,
}

/// What kills each container that runs.
type Containers = Arc<Mutex<Vec<AbortHandle>>>;

/// A container as its task is given it.
#[derive(Debug)]
pub struct Container {
    /// As `lychgate-agent-1-1`.
    pub name: String,
    /// The environment that it was created with.
    pub env: BTreeMap<String, String>,
    /// Where it must listen, whatever its environment says.
    pub listen: SocketAddr,
    /// SIGTERMs as they come.
    pub signals: mpsc::UnboundedReceiver<()>,
}

/// The exit code of a Rust program that panicked.
const PANICKED: i32 = 101;

/// The exit code for wrong settings.
const USAGE: i32 = 2;

/// Starts the task of a container.
async fn begin<R>(spec: Spec, run: Arc<R>, containers: Containers) -> Result<Running, String>
where
    R: Fn(Container) -> BoxFuture<'static, i32>,
{
    let listen = free_port().await.map_err(|error| format!("no port is free: {error}"))?;
    let (send, signals) = mpsc::unbounded_channel();
    let process = spec.name.clone();
    let task = tokio::spawn(run(Container { name: spec.name, env: spec.env, listen, signals }));
    let (abort, killer) = (task.abort_handle(), task.abort_handle());
    {
        let mut containers = containers.lock().unwrap_or_else(PoisonError::into_inner);
        containers.retain(|container| !container.is_finished());
        containers.push(abort);
    }
    let exit = async move {
        match task.await {
            Ok(code) => code,
            Err(error) if error.is_panic() => PANICKED,
            Err(_) => KILLED,
        }
    };
    let terminate = Arc::new(move || {
        let _ = send.send(()); // one that has dropped its receiver ignores SIGTERM
    });
    let kill = Arc::new(move || killer.abort());
    let exit = exit.boxed().shared();
    Ok(Running { process, published: listen.port(), inside: listen, exit, terminate, kill })
}

/// An agent as a container's task, whose provider is the stand-in.
async fn agent(container: Container, provider: String) -> i32 {
    let Container { mut env, listen, signals: mut told, .. } = container;
    env.insert("LYCHGATE_PROVIDER".into(), provider);
    env.insert("LYCHGATE_LISTEN".into(), listen.to_string());
    let config = match config::Agent::from(&env) {
        Ok(config) => config,
        Err(error) => {
            tracing::error!(%error, "an agent's container is told nonsense");
            return USAGE;
        }
    };
    let (tell, signals) = mpsc::unbounded_channel();
    let relay = async move {
        while let Some(()) = told.recv().await {
            // One that has ended hears no signals.
            let _ = tell.send(Signal::Terminate);
        }
        std::future::pending::<i32>().await
    };
    tokio::select! {
        exit = lychgate::agent::serve(config, || 0, signals) => exit.code(),
        code = relay => code,
    }
}

impl Loopback {
    /// Starts Postgres, Redis, RabbitMQ and a provider that answers `reply` to anything, each on a free port.
    ///
    /// # Errors
    /// Loopback has no free port.
    pub async fn start(reply: Reply) -> std::io::Result<Self> {
        let provider = Provider::new(Script { replies: BTreeMap::new(), default_reply: Some(reply) });
        let services: [&dyn StandIn; 4] =
            [&Postgres::new(), &Redis::new(), &Rabbit::new(rabbit::Settings::default()), &provider];
        let (links, tasks, containers) = (BTreeMap::new(), Vec::new(), Containers::default());
        let mut loopback = Loopback { links, provider: provider.clone(), tasks, containers };
        for service in services {
            loopback.serve(service).await?;
        }
        Ok(loopback)
    }

    /// Starts a container engine whose containers are tasks: each is what `run` makes of it, and is reached at its real
    /// port. What the engine is told to do beyond its API is told the handle that this gives.
    ///
    /// # Errors
    /// Loopback has no free port.
    pub async fn start_engine<R>(&mut self, run: R) -> std::io::Result<Engine>
    where
        R: Fn(Container) -> BoxFuture<'static, i32> + Send + Sync + 'static,
    {
        let engine = Engine::new([0; 32]);
        let (run, containers) = (Arc::new(run), self.containers.clone());
        engine.run_with(Runner(Box::new(move |spec| Box::pin(begin(spec, run.clone(), containers.clone())))));
        self.serve(&engine).await?;
        Ok(engine)
    }

    /// Starts a container engine whose containers are agents of the product.
    ///
    /// # Errors
    /// Loopback has no free port.
    pub async fn start_agents(&mut self) -> std::io::Result<Engine> {
        let provider = self.links.get("provider").map(|link| format!("http://{link}")).unwrap_or_default();
        self.start_engine(move |container| agent(container, provider.clone()).boxed()).await
    }

    /// Serves what breaks subscriptions by hand, for those with these bearer tokens.
    ///
    /// # Errors
    /// Loopback has no free port.
    pub async fn start_levers(&mut self, tokens: Vec<String>) -> std::io::Result<()> {
        self.serve(&fault_admin::service(self.provider.clone(), tokens)).await
    }

    async fn serve(&mut self, service: &dyn StandIn) -> std::io::Result<()> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let name = service.name();
        self.links.insert(name, listener.local_addr()?);
        let serving = service.serve(listener.into(), untapped());
        self.tasks.push(tokio::spawn(async move {
            serving.await;
            name
        }));
        Ok(())
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
        for container in self.containers.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            container.abort();
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
