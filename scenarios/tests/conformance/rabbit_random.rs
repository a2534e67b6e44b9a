//! Random settling of random deliveries, with the stand-in and with RabbitMQ: what comes again, in which order, how often
//! delivered, and what becomes a dead letter, is equal. `PROPTEST_CASES` raises the number of cases, and then each time they
//! are others. Classic queues, as `src` has them, and quorum queues with a delivery limit and without.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::time::Duration;

use lychgate::amqp::{AMQPValue, Channel, Connection, Consumer, Delivery, Message, Options, QueueDeclare};
use lychgate_sim::standins::observation::untapped;
use lychgate_sim::standins::rabbit::{Rabbit, Settings};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, RngSeed, TestRunner};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout};

/// So many take half a minute.
const CASES: u32 = 24;
/// What has been sent by the time the queue was asked arrives within this.
const MOMENT: Duration = Duration::from_millis(15);
/// Everything has happened by then.
const PATIENCE: Duration = Duration::from_secs(3);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Classic,
    Quorum,
    /// A quorum queue that gives up what came back this often.
    Limited(i64),
}

impl Kind {
    fn declare(self, queue: &str) -> QueueDeclare {
        let mut declare = QueueDeclare { name: queue.into(), durable: true, ..QueueDeclare::default() };
        let mut argue = |name: &str, value| {
            declare.arguments.insert(name.into(), value);
        };
        argue("x-dead-letter-exchange", AMQPValue::LongString("".into()));
        argue("x-dead-letter-routing-key", AMQPValue::LongString(format!("{queue}-dead").into()));
        if self != Kind::Classic {
            argue("x-queue-type", AMQPValue::LongString("quorum".into()));
        }
        if let Kind::Limited(limit) = self {
            argue("x-delivery-limit", AMQPValue::LongLongInt(limit));
        }
        declare
    }
}

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
    kind: Kind,
    prefetch: NonZeroU16,
    connection: Connection,
    channel: Channel,
    consumer: Consumer,
    /// Takes the dead letters.
    undertaker: (Connection, Consumer),
    /// By tag, with how often it was delivered before.
    ours: BTreeMap<u64, i64>,
    published: u32,
    /// Messages that are in the queue or ours.
    alive: usize,
    /// Letters that must come, because we made them.
    letters: usize,
    lines: String,
}

async fn dial(addr: SocketAddr) -> Connection {
    Connection::open(TcpStream::connect(addr).await.expect("it listens"), Options::default())
        .await
        .expect("a connection")
}

impl Player {
    async fn new(addr: SocketAddr, queue: &str, kind: Kind, prefetch: NonZeroU16) -> Player {
        let last = dial(addr).await;
        let yard = last.channel().await.expect("a channel");
        let grave = format!("{queue}-dead");
        let declare = QueueDeclare { name: grave.clone(), durable: true, ..QueueDeclare::default() };
        yard.queue_declare(declare).await.expect("a queue");
        let undertaker = (last, yard.consume(&grave, NonZeroU16::MAX).await.expect("a consumer"));
        let connection = dial(addr).await;
        let channel = connection.channel().await.expect("a channel");
        channel.queue_declare(kind.declare(queue)).await.expect("a queue");
        let consumer = channel.consume(queue, prefetch).await.expect("a consumer");
        Player {
            addr,
            queue: queue.into(),
            kind,
            prefetch,
            connection,
            channel,
            consumer,
            undertaker,
            ours: BTreeMap::new(),
            published: 0,
            alive: 0,
            letters: 0,
            lines: String::new(),
        }
    }

    fn chosen(&mut self, which: u8) -> Option<(u64, i64)> {
        let at = usize::from(which) % self.ours.len().max(1);
        let tag = self.ours.keys().nth(at).copied()?;
        self.ours.remove(&tag).map(|before| (tag, before))
    }

    async fn take(&mut self, step: &Step) {
        match step {
            Step::Publish(count) => {
                let publisher = self.connection.channel().await.expect("a channel");
                publisher.confirm_select().await.expect("confirms");
                for _ in 0..*count {
                    self.published += 1;
                    self.alive += 1;
                    let body = format!("m{}", self.published).into_bytes().into();
                    let message =
                        Message { routing_key: self.queue.clone(), body, persistent: true, ..Message::default() };
                    publisher.publish(message).await.expect("a confirm");
                }
                publisher.close().await.expect("it closes");
            }
            Step::Ack(which) => {
                if let Some((tag, _)) = self.chosen(*which) {
                    self.alive -= 1;
                    self.channel.ack(tag).await.expect("it is sent");
                }
            }
            Step::Reject(which) | Step::Requeue(which) => {
                if let Some((tag, before)) = self.chosen(*which) {
                    // RabbitMQ 3.10 gives more than its prefetch to whoever requeues beyond the limit, and our client
                    // takes no more: for that there is the transcript of `lychgate-sim`.
                    let over = self.kind == Kind::Limited(before);
                    let requeue = matches!(step, Step::Requeue(_)) && !over;
                    if !requeue {
                        self.alive -= 1;
                        self.letters += 1;
                    }
                    self.channel.nack(tag, requeue).await.expect("it is sent");
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
            let queue = self.channel.queue_declare(self.kind.declare(&self.queue)).await.expect("a queue");
            if queue.consumers == 0 {
                break;
            }
            sleep(Duration::from_millis(2)).await;
        }
        self.consumer = self.channel.consume(&self.queue, self.prefetch).await.expect("a consumer");
    }

    fn hear(&mut self, delivery: &Delivery) {
        let body = String::from_utf8_lossy(&delivery.body).into_owned();
        let again = if delivery.redelivered { " again" } else { "" };
        let headers = delivery.properties.headers().as_ref();
        let before = match headers.and_then(|headers| headers.inner().get("x-delivery-count")) {
            Some(AMQPValue::LongLongInt(count)) => *count,
            Some(other) => panic!("no count: {other:?}"),
            None => 0,
        };
        write!(self.lines, " {body}{again} {before},").expect("a string takes everything");
        self.ours.insert(delivery.delivery_tag, before);
    }

    /// Writes down what arrives, what died, and what is left in the queue, once every message is somewhere: a quorum queue
    /// counts what it has written to disk.
    async fn look(&mut self) {
        let (until, mut letters) = (Instant::now() + PATIENCE, Vec::new());
        loop {
            while let Ok(Ok(delivery)) = timeout(MOMENT, self.consumer.next()).await {
                self.hear(&delivery);
            }
            while let Ok(Ok(letter)) = timeout(Duration::from_millis(1), self.undertaker.1.next()).await {
                letters.push(self.bury(&letter));
            }
            let left = self.channel.queue_declare(self.kind.declare(&self.queue)).await.expect("a queue").messages;
            let settled = left as usize + self.ours.len() == self.alive && self.letters == 0;
            // What can be handed out still will be.
            let idle = left == 0 || self.ours.len() >= self.prefetch.get().into();
            if settled && idle || Instant::now() > until {
                writeln!(self.lines, " {} {left} ready", letters.concat()).expect("a string takes everything");
                return;
            }
        }
    }

    fn bury(&mut self, letter: &Delivery) -> String {
        let headers = letter.properties.headers().as_ref().expect("what it died of");
        let refused = AMQPValue::LongString("rejected".into());
        let rejected = headers.inner().get("x-first-death-reason") == Some(&refused);
        *if rejected { &mut self.letters } else { &mut self.alive } -= 1;
        format!(" {} {},", String::from_utf8_lossy(&letter.body), if rejected { "rejected" } else { "given up" })
    }
}

async fn play(addr: SocketAddr, queue: String, kind: Kind, prefetch: NonZeroU16, steps: Vec<Step>) -> String {
    let mut player = Player::new(addr, &queue, kind, prefetch).await;
    for step in &steps {
        write!(player.lines, "{step:?}:").expect("a string takes everything");
        player.take(step).await;
        player.look().await;
    }
    player.connection.close().await.expect("it closes");
    player.undertaker.0.close().await.expect("it closes");
    player.lines
}

#[test]
#[ignore = "needs rabbitmq-server; `cargo sim conformance` runs it"]
fn any_settling_comes_to_the_same() {
    let server = lychgate_sim::real::servers::rabbit::start();
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
    let kinds = vec![Kind::Classic, Kind::Quorum, Kind::Limited(0), Kind::Limited(1), Kind::Limited(2)];
    let cases = (select(kinds), 1..4u16, vec(step(), 1..20));
    let tried = TestRunner::new(config).run(&cases, |(kind, prefetch, steps)| {
        number.set(number.get() + 1);
        let queue = format!("lg-random-{}", number.get());
        let prefetch = NonZeroU16::new(prefetch).expect("above zero");
        let play = |addr| play(addr, queue.clone(), kind, prefetch, steps.clone());
        let (real, fake) = runtime.block_on(async { futures_util::join!(play(server.addr), play(fake)) });
        prop_assert!(real == fake, "RabbitMQ with {kind:?} and prefetch {prefetch} says\n{real}\nthe stand-in\n{fake}");
        Ok(())
    });
    tried.unwrap_or_else(|failure| panic!("{failure}"));
}
