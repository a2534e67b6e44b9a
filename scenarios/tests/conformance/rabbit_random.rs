//! Random settling of random deliveries, with the stand-in and with RabbitMQ: what comes again, in which order, is equal.
//! `PROPTEST_CASES` raises the number of cases, and then each time they are others. Classic queues, as `src` has them: the
//! stand-in knows no other kind and says so.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::time::Duration;

use lychgate::amqp::{Channel, Connection, Consumer, Message, Options, QueueDeclare};
use lychgate_sim::observation::untapped;
use lychgate_sim::rabbit::{Rabbit, Settings};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed, TestRunner};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

/// So many take a quarter of a minute.
const CASES: u32 = 16;
/// What has been sent by the time the queue was asked arrives within this.
const MOMENT: Duration = Duration::from_millis(15);

#[derive(Clone, Debug)]
enum Step {
    Publish(u8),
    /// Which of the deliveries that are ours, counted from the oldest and around.
    Ack(u8),
    Reject(u8),
    Requeue(u8),
    /// The consumer is cancelled, and another begins; what was delivered stays ours.
    Resume,
    /// The channel is closed by us.
    Close,
    /// The connection breaks.
    Cut,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..4u8).prop_map(Step::Publish),
        3 => any::<u8>().prop_map(Step::Ack),
        1 => any::<u8>().prop_map(Step::Reject),
        4 => any::<u8>().prop_map(Step::Requeue),
        1 => Just(Step::Resume),
        1 => Just(Step::Close),
        1 => Just(Step::Cut),
    ]
}

struct Player {
    addr: SocketAddr,
    queue: String,
    prefetch: NonZeroU16,
    connection: Connection,
    channel: Channel,
    consumer: Consumer,
    /// By tag.
    ours: BTreeMap<u64, String>,
    published: u32,
    lines: String,
}

async fn dial(addr: SocketAddr) -> Connection {
    Connection::open(TcpStream::connect(addr).await.expect("it listens"), Options::default())
        .await
        .expect("a connection")
}

fn durable(queue: &str) -> QueueDeclare {
    QueueDeclare { name: queue.into(), durable: true, ..QueueDeclare::default() }
}

impl Player {
    async fn new(addr: SocketAddr, queue: &str, prefetch: NonZeroU16) -> Player {
        let connection = dial(addr).await;
        let channel = connection.channel().await.expect("a channel");
        channel.queue_declare(durable(queue)).await.expect("a queue");
        let consumer = channel.consume(queue, prefetch).await.expect("a consumer");
        let (ours, lines) = (BTreeMap::new(), String::new());
        Player { addr, queue: queue.into(), prefetch, connection, channel, consumer, ours, published: 0, lines }
    }

    fn chosen(&mut self, which: u8) -> Option<u64> {
        let at = usize::from(which) % self.ours.len().max(1);
        let tag = self.ours.keys().nth(at).copied()?;
        self.ours.remove(&tag);
        Some(tag)
    }

    async fn take(&mut self, step: &Step) {
        match step {
            Step::Publish(count) => {
                let publisher = self.connection.channel().await.expect("a channel");
                publisher.confirm_select().await.expect("confirms");
                for _ in 0..*count {
                    self.published += 1;
                    let body = format!("m{}", self.published).into_bytes().into();
                    let message =
                        Message { routing_key: self.queue.clone(), body, persistent: true, ..Message::default() };
                    publisher.publish(message).await.expect("a confirm");
                }
                publisher.close().await.expect("it closes");
            }
            Step::Ack(which) => {
                if let Some(tag) = self.chosen(*which) {
                    self.channel.ack(tag).await.expect("it is sent");
                }
            }
            Step::Reject(which) | Step::Requeue(which) => {
                if let Some(tag) = self.chosen(*which) {
                    self.channel.nack(tag, matches!(step, Step::Requeue(_))).await.expect("it is sent");
                }
            }
            Step::Resume => {
                self.consumer.cancel().await.expect("it is sent");
                while self.consumer.next().await.map(|late| self.hear(&late)).is_ok() {}
                self.consumer = self.channel.consume(&self.queue, self.prefetch).await.expect("a consumer");
            }
            Step::Close => {
                self.channel.close().await.expect("it closes");
                self.begin_again().await;
            }
            Step::Cut => {
                self.connection = dial(self.addr).await;
                self.begin_again().await;
            }
        }
    }

    /// Consumes anew once the queue has everything back.
    async fn begin_again(&mut self) {
        self.ours.clear();
        self.channel = self.connection.channel().await.expect("a channel");
        loop {
            let queue = self.channel.queue_declare(durable(&self.queue)).await.expect("a queue");
            if queue.consumers == 0 {
                break;
            }
            sleep(Duration::from_millis(2)).await;
        }
        self.consumer = self.channel.consume(&self.queue, self.prefetch).await.expect("a consumer");
    }

    fn hear(&mut self, delivery: &lychgate::amqp::Delivery) {
        let body = String::from_utf8_lossy(&delivery.body).into_owned();
        let again = if delivery.redelivered { " again" } else { "" };
        write!(self.lines, " {body}{again},").expect("a string takes everything");
        self.ours.insert(delivery.delivery_tag, body);
    }

    /// Writes down what arrives, and what is left in the queue.
    async fn look(&mut self) {
        let mut left = None;
        for _ in 0..2 {
            left = Some(self.channel.queue_declare(durable(&self.queue)).await.expect("a queue").messages);
            while let Ok(Ok(delivery)) = timeout(MOMENT, self.consumer.next()).await {
                self.hear(&delivery);
            }
        }
        writeln!(self.lines, " {} ready", left.unwrap_or_default()).expect("a string takes everything");
    }
}

async fn play(addr: SocketAddr, queue: String, prefetch: NonZeroU16, steps: Vec<Step>) -> String {
    let mut player = Player::new(addr, &queue, prefetch).await;
    for step in &steps {
        write!(player.lines, "{step:?}:").expect("a string takes everything");
        player.take(step).await;
        player.look().await;
    }
    player.connection.close().await.expect("it closes");
    player.lines
}

#[test]
#[ignore = "needs rabbitmq-server; `cargo sim conformance` runs it"]
fn any_settling_comes_to_the_same() {
    let server = crate::servers::rabbit::start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let fake = runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback is free");
        let addr = listener.local_addr().expect("it is bound");
        tokio::spawn(Rabbit::new(Settings::default()).serve(listener, untapped()));
        addr
    });
    let asked = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
    let rng_seed = if asked.is_some() { RngSeed::Random } else { RngSeed::Fixed(7) };
    let config = Config { cases: asked.unwrap_or(CASES), rng_seed, failure_persistence: None, ..Config::default() };
    let number = std::cell::Cell::new(0);
    let cases = (1..4u16, vec(step(), 1..20));
    let tried = TestRunner::new(config).run(&cases, |(prefetch, steps)| {
        number.set(number.get() + 1);
        let queue = format!("lg-random-{}", number.get());
        let prefetch = NonZeroU16::new(prefetch).expect("above zero");
        let play = |addr| play(addr, queue.clone(), prefetch, steps.clone());
        let (real, fake) = runtime.block_on(async { futures_util::join!(play(server.addr), play(fake)) });
        prop_assert!(real == fake, "RabbitMQ with prefetch {prefetch} says\n{real}\nthe stand-in\n{fake}");
        Ok(())
    });
    tried.unwrap_or_else(|failure| panic!("{failure}"));
}
