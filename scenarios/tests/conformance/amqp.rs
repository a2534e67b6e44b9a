//! One exchange of our client with a broker, written down: the stand-in and RabbitMQ must give the same transcript.

use std::fmt::Debug;
use std::num::NonZeroU16;
use std::time::Duration;

use lychgate::amqp::{
    AMQPValue, Channel, Connection, Consumer, Delivery, Error, ExchangeKind, Message, Options, QueueDeclare,
};
use lychgate::broker::{Arrival, HintConsumer, Hints, Topic};
use lychgate::config::Address;
use lychgate::ids::{RunId, SessionId};
use lychgate_sim::plan::Kind;
use lychgate_sim::standins::Control;
use lychgate_sim::standins::rabbit::faults::{FULL, RESTART};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::arms::Place;

struct Script {
    place: Place,
    lines: String,
}

impl Script {
    fn note(&mut self, what: &str, result: impl Debug) {
        self.lines.push_str(&format!("{what}: {result:?}\n"));
    }

    async fn noted(&mut self, what: &str, consumer: &mut Consumer) -> Vec<Delivery> {
        let mut seen = Vec::new();
        let mut words = Vec::new();
        while let Ok(delivery) = timeout(Duration::from_millis(500), consumer.next()).await {
            let delivery = delivery.unwrap();
            let times = if delivery.redelivered { "again" } else { "first" };
            words.push(format!("{} {times}", String::from_utf8_lossy(&delivery.body)));
            seen.push(delivery);
        }
        words.push("nothing".into());
        self.lines.push_str(&format!("{what}: {}\n", words.join(", ")));
        seen
    }

    async fn dial(&self, options: Options) -> Result<Connection, Error> {
        Connection::open(TcpStream::connect(self.place.tapped).await.unwrap(), options).await
    }

    async fn connection(&self) -> Connection {
        self.dial(Options::default()).await.unwrap()
    }
}

fn durable(name: &str) -> QueueDeclare {
    QueueDeclare { name: name.into(), durable: true, ..QueueDeclare::default() }
}

fn to(queue: &str, body: &str) -> Message {
    let (routing_key, body) = (queue.into(), body.as_bytes().to_vec().into());
    Message { routing_key, body, mandatory: true, persistent: true, ..Message::default() }
}

async fn consume(channel: &Channel, queue: &str, prefetch: u16) -> Consumer {
    channel.consume(queue, NonZeroU16::new(prefetch).unwrap()).await.unwrap()
}

/// How a consumer ends whose channel has made a mistake. A broker that lets it pass is not waited for.
async fn refused(consumer: &mut Consumer) -> Result<Delivery, Error> {
    timeout(Duration::from_secs(5), consumer.next()).await.expect("the broker refuses it")
}

/// All of it.
pub async fn body(place: Place) -> String {
    let mut script = Script { place, lines: String::new() };
    let wrong = script.dial(Options { password: "wrong".into(), ..Options::default() }).await.map(drop);
    script.note("wrong password", wrong);
    let wrong = script.dial(Options { vhost: "elsewhere".into(), ..Options::default() }).await.map(drop);
    script.note("wrong vhost", wrong);
    declarations(&mut script).await;
    publishing(&mut script).await;
    deliveries(&mut script).await;
    ends(&mut script).await;
    sharing(&mut script).await;
    turns(&mut script).await;
    handover(&mut script).await;
    hints(&mut script).await;
    silence(&mut script).await;
    alarm(&mut script).await;
    crash(&mut script).await;
    script.lines
}

async fn declarations(script: &mut Script) {
    let connection = script.connection().await;
    let open = || async { connection.channel().await.unwrap() };
    let channel = open().await;
    script.note("declare", channel.queue_declare(durable("lg-work")).await);
    let mut again = durable("lg-work");
    let key = |name: &str| name.to_owned().into();
    again.arguments.insert(key("x-consumer-timeout"), AMQPValue::LongLongInt(1_000_000));
    again.arguments.insert(key("x-queue-type"), AMQPValue::LongString("classic".into()));
    script.note("declare again", channel.queue_declare(again).await);
    let other = QueueDeclare { durable: false, ..durable("lg-work") };
    script.note("not durable", open().await.queue_declare(other).await);
    let other = QueueDeclare { auto_delete: true, ..durable("lg-work") };
    script.note("auto-delete", open().await.queue_declare(other).await);
    let missing = QueueDeclare { passive: true, ..durable("lg-none") };
    script.note("passive, missing", open().await.queue_declare(missing).await);
    channel.exchange_declare("lg-fanout", ExchangeKind::Fanout, true).await.unwrap();
    channel.exchange_declare("lg-fanout", ExchangeKind::Fanout, true).await.unwrap();
    let other = open().await.exchange_declare("lg-fanout", ExchangeKind::Direct, true).await;
    script.note("exchange, other type", other);
    let other = open().await.exchange_declare("lg-fanout", ExchangeKind::Fanout, false).await;
    script.note("exchange, not durable", other);
    script.note("bind, no queue", open().await.queue_bind("lg-none", "lg-fanout", "").await);
    script.note("bind, no exchange", open().await.queue_bind("lg-work", "lg-none", "").await);
    connection.close().await.unwrap();
}

async fn publishing(script: &mut Script) {
    let connection = script.connection().await;
    let channel = connection.channel().await.unwrap();
    channel.confirm_select().await.unwrap();
    for body in ["a", "b", "c"] {
        script.note(&format!("publish {body}"), channel.publish(to("lg-work", body)).await);
    }
    script.note("mandatory", channel.publish(to("lg-none", "x")).await);
    script.note("optional", channel.publish(Message { mandatory: false, ..to("lg-none", "x") }).await);
    let nowhere = Message { exchange: "lg-none".into(), ..to("", "x") };
    script.note("no exchange", channel.publish(nowhere).await);
    connection.close().await.unwrap();
}

async fn deliveries(script: &mut Script) {
    let connection = script.connection().await;
    let channel = connection.channel().await.unwrap();
    let mut consumer = consume(&channel, "lg-work", 2).await;
    let seen = script.noted("prefetch 2", &mut consumer).await;
    channel.nack(seen[0].delivery_tag, true).await.unwrap();
    let seen = script.noted("nack a", &mut consumer).await;
    channel.nack(seen[0].delivery_tag, false).await.unwrap();
    script.noted("drop a", &mut consumer).await;
    drop(connection);
    sleep(Duration::from_millis(500)).await;
    let connection = script.connection().await;
    let channel = connection.channel().await.unwrap();
    let mut consumer = consume(&channel, "lg-work", 2).await;
    script.noted("cut", &mut consumer).await;
    channel.ack(99).await.unwrap();
    script.note("unknown tag", refused(&mut consumer).await);
    let channel = connection.channel().await.unwrap();
    let mut consumer = consume(&channel, "lg-work", 2).await;
    script.noted("after it", &mut consumer).await;
    channel.ack(1).await.unwrap();
    channel.ack(1).await.unwrap();
    script.note("acked twice", refused(&mut consumer).await);
    connection.close().await.unwrap();
}

async fn ends(script: &mut Script) {
    let connection = script.connection().await;
    let channel = connection.channel().await.unwrap();
    let mut consumer = consume(&channel, "lg-work", 5).await;
    let seen = script.noted("after that", &mut consumer).await;
    consumer.cancel().await.unwrap();
    script.note("after cancel", consumer.next().await);
    channel.ack(seen[0].delivery_tag).await.unwrap();
    script.note("cancelled and acked", channel.queue_declare(durable("lg-work")).await);
    let mut consumer = consume(&channel, "lg-work", 5).await;
    channel.close().await.unwrap();
    script.note("channel closed by us", consumer.next().await);
    connection.close().await.unwrap();
}

async fn sharing(script: &mut Script) {
    let (first, second) = (script.connection().await, script.connection().await);
    let (one, two) = (first.channel().await.unwrap(), second.channel().await.unwrap());
    let own = |name: &str| QueueDeclare { name: name.into(), exclusive: true, ..QueueDeclare::default() };
    one.queue_declare(own("lg-own")).await.unwrap();
    let other = two.queue_declare(own("")).await.unwrap().name;
    let locked = second.channel().await.unwrap().consume("lg-own", NonZeroU16::MIN).await.map(drop);
    script.note("locked, consume", locked);
    script.note("locked, declare", second.channel().await.unwrap().queue_declare(own("lg-own")).await);
    one.queue_bind("lg-own", "lg-fanout", "").await.unwrap();
    two.queue_bind(&other, "lg-fanout", "").await.unwrap();
    one.confirm_select().await.unwrap();
    script.note("fan-out", one.publish(Message { exchange: "lg-fanout".into(), ..to("any", "x") }).await);
    script.noted("first", &mut consume(&one, "lg-own", 1).await).await;
    script.noted("second", &mut consume(&two, &other, 1).await).await;
    first.close().await.unwrap();
    let missing = QueueDeclare { passive: true, ..own("lg-own") };
    let channel = second.channel().await.unwrap();
    script.note("exclusive, after its connection", channel.queue_declare(missing).await);
    let passing = QueueDeclare { name: "lg-passing".into(), auto_delete: true, ..QueueDeclare::default() };
    two.queue_declare(passing.clone()).await.unwrap();
    consume(&two, "lg-passing", 1).await.cancel().await.unwrap();
    let missing = QueueDeclare { passive: true, ..passing };
    script.note("auto-delete, after its consumer", two.queue_declare(missing).await);
    second.close().await.unwrap();
}

async fn turns(script: &mut Script) {
    let connection = script.connection().await;
    let channel = connection.channel().await.unwrap();
    channel.confirm_select().await.unwrap();
    let (mut one, mut two) = (consume(&channel, "lg-work", 2).await, consume(&channel, "lg-work", 2).await);
    for number in 0..4 {
        channel.publish(to("lg-work", &format!("m{number}"))).await.unwrap();
    }
    let mut words = Vec::new();
    for (name, consumer) in [("one", &mut one), ("two", &mut two)] {
        let mut line = name.to_owned();
        for _ in 0..2 {
            let delivery = consumer.next().await.unwrap();
            line = format!("{line} {}", String::from_utf8_lossy(&delivery.body));
            channel.ack(delivery.delivery_tag).await.unwrap();
        }
        words.push(line);
    }
    script.lines.push_str(&format!("in turn: {}\n", words.join(", ")));
    channel.publish(to("lg-work", &"x".repeat(300_000))).await.unwrap();
    let large = one.next().await.unwrap();
    channel.ack(large.delivery_tag).await.unwrap();
    script.lines.push_str(&format!("large: {} bytes\n", large.body.len()));
    script.note("close", connection.close().await);
}

/// What one consumer leaves behind goes at once to another that has long been waiting.
async fn handover(script: &mut Script) {
    let (first, second) = (script.connection().await, script.connection().await);
    let (one, closed, two) =
        (first.channel().await.unwrap(), second.channel().await.unwrap(), second.channel().await.unwrap());
    one.confirm_select().await.unwrap();
    let mut leaves = consume(&one, "lg-work", 1).await;
    let mut ends = consume(&closed, "lg-work", 1).await;
    for body in ["left", "closed", "refused"] {
        one.publish(to("lg-work", body)).await.unwrap();
    }
    script.noted("one", &mut leaves).await;
    script.noted("another", &mut ends).await;
    let mut waits = consume(&two, "lg-work", 3).await;
    let mut seen = script.noted("a third", &mut waits).await;
    closed.close().await.unwrap();
    seen.extend(script.noted("after the channel's close", &mut waits).await);
    drop((one, first));
    seen.extend(script.noted("after the connection's end", &mut waits).await);
    for delivery in seen {
        two.ack(delivery.delivery_tag).await.unwrap();
    }
    second.close().await.unwrap();
}

/// What `broker` does with it: hints to whoever takes them, cancellations to everybody.
async fn hints(script: &mut Script) {
    let address = Address {
        host: script.place.tapped.to_string(),
        user: "guest".into(),
        password: "guest".into(),
        path: String::new(),
    };
    let (hints, publisher) = Hints::new(&address, "gateway-1");
    let publisher = tokio::spawn(publisher.publish());
    let mut intakes = Vec::new();
    for name in ["executor-1", "executor-2"] {
        intakes.push(HintConsumer::open(&address, name, "word", 1).await.expect("an intake"));
    }
    let (session, run) = (SessionId("s".into()), RunId("r".into()));
    hints.send(Topic::Cancelled, &session, &run);
    for intake in &mut intakes {
        let arrived = timeout(Duration::from_secs(5), intake.next()).await.expect("in time").expect("an arrival");
        script.note("cancelled", matches!(arrived, Arrival::Cancelled(cancelled) if cancelled == run));
    }
    hints.send(Topic::Waiting, &session, &run);
    let [one, two] = &mut intakes[..] else { unreachable!("there are two") };
    for turn in ["given back", "acked"] {
        let arrived = tokio::select! {
            arrived = one.next() => arrived,
            arrived = two.next() => arrived,
            () = sleep(Duration::from_secs(5)) => panic!("no arrival"),
        };
        let Ok(Arrival::Waiting { hint, redelivered, delivery }) = arrived else { panic!("no run is waiting") };
        script.note(turn, (hint.map(|hint| hint.run.0), redelivered));
        if turn == "acked" { delivery.ack().await } else { delivery.requeue().await }
    }
    for intake in intakes {
        script.note("stop", intake.stop().await);
        script.note("close", intake.close().await);
    }
    drop(hints);
    script.note("publisher", publisher.await.map_err(|_| "it panicked"));
}

/// Neither side says anything for longer than a connection may be silent: heartbeats keep it.
async fn silence(script: &mut Script) {
    let beating = Options { heartbeat: Duration::from_secs(1), ..Options::default() };
    let connection = script.dial(beating).await.unwrap();
    sleep(Duration::from_secs(4)).await;
    script.note("after a silence", connection.ended());
    script.note("close", connection.close().await);
}

/// No memory is left, and then some: who publishes waits, who only consumes does not notice.
async fn alarm(script: &mut Script) {
    // The real alarm ends when another program has told the server so, which takes its time.
    let patient = Options { confirm_timeout: Duration::from_secs(60), ..Options::default() };
    let (publisher, consuming) = (script.dial(patient).await.unwrap(), script.connection().await);
    let (channel, other) = (publisher.channel().await.unwrap(), consuming.channel().await.unwrap());
    channel.confirm_select().await.unwrap();
    channel.queue_declare(durable("lg-alarm")).await.unwrap();
    for body in ["first", "second"] {
        script.note(&format!("publish the {body}"), channel.publish(to("lg-alarm", body)).await);
    }
    let mut consumer = consume(&other, "lg-alarm", 1).await;
    let seen = script.noted("before the alarm", &mut consumer).await;
    script.place.make(Control::Begin(Kind::of(&FULL))).await;
    let recovers = async {
        sleep(Duration::from_secs(1)).await;
        script.place.make(Control::End(Kind::of(&FULL))).await;
    };
    let late = async {
        sleep(Duration::from_millis(500)).await;
        let words = (
            publisher.blocked().is_some(),
            consuming.blocked().is_some(),
            channel.publish(to("lg-alarm", "refused")).await,
        );
        other.ack(seen[0].delivery_tag).await.unwrap();
        (words, consumer.next().await.unwrap())
    };
    let (third, (words, second), ()) = tokio::join!(channel.publish(to("lg-alarm", "third")), late, recovers);
    script.note("blocked: the publisher, the consumer, another publish", words);
    script.note("consumed meanwhile", String::from_utf8_lossy(&second.body));
    script.note("published into the alarm", third);
    other.ack(second.delivery_tag).await.unwrap();
    script.note("blocked afterwards", publisher.blocked());
    script.noted("afterwards", &mut consumer).await;
    script.note("publish again", channel.publish(to("lg-alarm", "fourth")).await);
    for connection in [publisher, consuming] {
        connection.close().await.unwrap();
    }
}

/// It is killed and comes up again: what is durable is there, and counts as delivered whether or not it was.
async fn crash(script: &mut Script) {
    let connection = script.connection().await;
    let channel = connection.channel().await.unwrap();
    channel.confirm_select().await.unwrap();
    let passing = QueueDeclare { name: "lg-passing".into(), ..QueueDeclare::default() };
    channel.queue_declare(passing.clone()).await.unwrap();
    channel.queue_declare(durable("lg-crash")).await.unwrap();
    channel.queue_bind("lg-crash", "lg-fanout", "").await.unwrap();
    for body in ["one", "two"] {
        channel.publish(to("lg-crash", body)).await.unwrap();
    }
    let fleeting = Message { persistent: false, ..to("lg-crash", "fleeting") };
    script.note("publish what is not persistent", channel.publish(fleeting).await);
    let mut consumer = consume(&channel, "lg-crash", 1).await;
    script.noted("before the crash", &mut consumer).await;
    script.place.make(Control::Begin(Kind::of(&RESTART))).await;
    script.note("the connection is over", connection.over().await.is_over());
    sleep(Duration::from_millis(500)).await;
    let connection = script.connection().await;
    let channel = connection.channel().await.unwrap();
    channel.confirm_select().await.unwrap();
    let missing = QueueDeclare { passive: true, ..passing };
    script.note("not durable", connection.channel().await.unwrap().queue_declare(missing).await);
    script.note("durable", channel.queue_declare(durable("lg-crash")).await);
    let bound = Message { exchange: "lg-fanout".into(), ..to("any", "three") };
    script.note("its binding", channel.publish(bound).await);
    script.noted("after the crash", &mut consume(&channel, "lg-crash", 5).await).await;
    connection.close().await.unwrap();
}

#[test]
fn the_stand_in_says_what_rabbitmq_said() {
    crate::kept("rabbitmq", &crate::arms::stand_in(crate::arms::Service::Rabbit, body).0);
}

#[cfg(not(madsim))]
#[test]
#[ignore = "needs rabbitmq-server; `cargo sim conformance` runs it"]
fn rabbitmq_still_says_it() {
    let server = lychgate_sim::real::servers::rabbit::start();
    crate::kept(
        "rabbitmq",
        &crate::arms::real(crate::arms::Service::Rabbit, server.addr, crate::levers::rabbit(&server), body).0,
    );
}
