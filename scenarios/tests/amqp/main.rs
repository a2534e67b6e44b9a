//! The AMQP client against RabbitMQ's stand-in, on the virtual clock. Each test is one simulation on a fresh thread.
#![cfg(madsim)]
#![allow(missing_docs)]

mod connections;
mod messages;

use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lychgate::amqp::{Channel, Connection, Consumer, Error, ExchangeKind, Message, Options, Outcome, QueueDeclare};
use lychgate_sim::standins::observation::{FaultObserved, Observation, Tap};
use lychgate_sim::standins::rabbit::observation::Broker;
use lychgate_sim::standins::rabbit::{PORT, Rabbit, Settings, Version};
use madsim::runtime::{Handle, NodeHandle, Runtime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout};

const BROKER: &str = "10.0.0.1:5672";

/// A broker on a node of its own, and what it did.
#[derive(Clone)]
struct World {
    rabbit: Rabbit,
    broker: NodeHandle,
    log: Arc<Mutex<Vec<Broker>>>,
}

impl World {
    fn new(settings: Settings) -> Self {
        let rabbit = Rabbit::new(settings);
        let log = Arc::new(Mutex::new(Vec::new()));
        let tap: Tap = {
            let log = log.clone();
            Arc::new(move |observation: Observation| {
                // What was held back shows by what comes of it.
                if observation.of::<FaultObserved>().is_none() {
                    log.lock().unwrap().push(observation.take().unwrap_or_else(|other| panic!("{other:?}")));
                }
            })
        };
        let served = rabbit.clone();
        let broker = Handle::current()
            .create_node()
            .name("rabbitmq")
            .ip("10.0.0.1".parse().unwrap())
            .init(move || {
                let (served, tap) = (served.clone(), tap.clone());
                async move { served.serve(TcpListener::bind(("0.0.0.0", PORT)).await.unwrap(), tap).await }
            })
            .build();
        World { rabbit, broker, log }
    }

    /// What happened, without peers: their ports are of no interest.
    fn told(&self) -> Vec<String> {
        let text = |body: &[u8]| String::from_utf8_lossy(body).into_owned();
        let line = |broker: &Broker| match broker {
            Broker::Published { queues, body, .. } => format!("published {} to {}", text(body), queues.join(",")),
            Broker::Delivered { queue, redelivered, body, .. } => {
                format!("delivered {} of {queue}{}", text(body), if *redelivered { " again" } else { "" })
            }
            Broker::Acked { body, .. } => format!("acked {}", text(body)),
            Broker::Nacked { body, requeue, .. } => format!("nacked {} {requeue}", text(body)),
            Broker::Requeued { body, .. } => format!("requeued {}", text(body)),
            Broker::DeadLettered { body, reason, queues, .. } => {
                format!("gave up {} ({reason}) to {}", text(body), queues.join(","))
            }
        };
        self.log.lock().unwrap().iter().map(line).collect()
    }
}

/// Runs a simulation of its own: `client` runs on a node of its own beside the broker.
fn simulate<T, F>(seed: u64, settings: Settings, client: impl FnOnce(World) -> F + Send + 'static) -> T
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let run = move || {
        let mut runtime = Runtime::with_seed_and_config(seed, madsim::Config::default());
        runtime.set_time_limit(Duration::from_secs(3600));
        runtime.block_on(async move {
            let world = World::new(settings);
            let node = Handle::current().create_node().name("client").ip("10.0.0.2".parse().unwrap()).build();
            sleep(Duration::from_millis(50)).await;
            node.spawn(client(world)).await.unwrap()
        })
    };
    std::thread::spawn(run).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn run<F>(client: impl FnOnce(World) -> F + Send + 'static)
where
    F: Future<Output = ()> + Send + 'static,
{
    simulate(1, Settings::default(), client);
}

async fn dial_with(addr: &str, options: Options) -> Result<Connection, Error> {
    let stream = TcpStream::connect(addr).await.map_err(|error| Error::Lost(error.to_string()))?;
    Connection::open(stream, options).await
}

async fn dial() -> Connection {
    dial_with(BROKER, Options::default()).await.unwrap()
}

async fn work_queue(channel: &Channel) {
    let declare = QueueDeclare { name: "work".into(), durable: true, ..QueueDeclare::default() };
    channel.queue_declare(declare).await.unwrap();
}

async fn publisher(connection: &Connection) -> Channel {
    let channel = connection.channel().await.unwrap();
    work_queue(&channel).await;
    channel.confirm_select().await.unwrap();
    channel
}

async fn consumer(connection: &Connection, prefetch: u16) -> (Channel, Consumer) {
    let channel = connection.channel().await.unwrap();
    let consumer = channel.consume("work", NonZeroU16::new(prefetch).unwrap()).await.unwrap();
    (channel, consumer)
}

fn hint(body: &'static str) -> Message {
    Message { routing_key: "work".into(), body: body.into(), mandatory: true, persistent: true, ..Message::default() }
}
