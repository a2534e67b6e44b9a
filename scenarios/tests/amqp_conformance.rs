//! One exchange of our client with a broker, written down. The stand-in and RabbitMQ must give the same transcript.
//!
//! The real server needs the real runtime: set `AMQP_ADDR` (as `127.0.0.1:5672`, user guest) and run this test there;
//! without the variable it passes without having looked.
#![allow(missing_docs)]

use std::fmt::Debug;
use std::num::NonZeroU16;
use std::time::Duration;

use lychgate::amqp::{
    AMQPValue, Channel, Connection, Consumer, Delivery, Error, ExchangeKind, Message, Options, QueueDeclare,
};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

/// What both say.
const TRANSCRIPT: &str = "\
wrong password: Err(ConnectionClosed { code: 403, text: \"ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN. For details see the broker logfile.\" })
wrong vhost: Err(ConnectionClosed { code: 530, text: \"NOT_ALLOWED - vhost elsewhere not found\" })
declare: Ok(QueueDeclared { name: \"lg-work\", messages: 0, consumers: 0 })
declare again: Ok(QueueDeclared { name: \"lg-work\", messages: 0, consumers: 0 })
not durable: Err(ChannelClosed { code: 406, text: \"PRECONDITION_FAILED - inequivalent arg 'durable' for queue 'lg-work' in vhost '/': received 'false' but current is 'true'\" })
auto-delete: Err(ChannelClosed { code: 406, text: \"PRECONDITION_FAILED - inequivalent arg 'auto_delete' for queue 'lg-work' in vhost '/': received 'true' but current is 'false'\" })
passive, missing: Err(ChannelClosed { code: 404, text: \"NOT_FOUND - no queue 'lg-none' in vhost '/'\" })
exchange, other type: Err(ChannelClosed { code: 406, text: \"PRECONDITION_FAILED - inequivalent arg 'type' for exchange 'lg-fanout' in vhost '/': received 'direct' but current is 'fanout'\" })
exchange, not durable: Err(ChannelClosed { code: 406, text: \"PRECONDITION_FAILED - inequivalent arg 'durable' for exchange 'lg-fanout' in vhost '/': received 'false' but current is 'true'\" })
bind, no queue: Err(ChannelClosed { code: 404, text: \"NOT_FOUND - no queue 'lg-none' in vhost '/'\" })
bind, no exchange: Err(ChannelClosed { code: 404, text: \"NOT_FOUND - no exchange 'lg-none' in vhost '/'\" })
publish a: Ok(Confirmed)
publish b: Ok(Confirmed)
publish c: Ok(Confirmed)
mandatory: Ok(Returned(Returned { code: 312, text: \"NO_ROUTE\" }))
optional: Ok(Confirmed)
no exchange: Err(ChannelClosed { code: 404, text: \"NOT_FOUND - no exchange 'lg-none' in vhost '/'\" })
prefetch 2: a first, b first, nothing
nack a: a again, nothing
drop a: c first, nothing
cut: b again, c again, nothing
unknown tag: Err(ChannelClosed { code: 406, text: \"PRECONDITION_FAILED - unknown delivery tag 99\" })
after it: b again, c again, nothing
acked twice: Err(ChannelClosed { code: 406, text: \"PRECONDITION_FAILED - unknown delivery tag 1\" })
after that: c again, nothing
after cancel: Err(Closed)
cancelled and acked: Ok(QueueDeclared { name: \"lg-work\", messages: 0, consumers: 0 })
channel closed by us: Err(Closed)
locked, consume: Err(ChannelClosed { code: 405, text: \"RESOURCE_LOCKED - cannot obtain exclusive access to locked queue 'lg-own' in vhost '/'. It could be originally declared on another connection or the exclusive property value does not match that of the original declaration.\" })
locked, declare: Err(ChannelClosed { code: 405, text: \"RESOURCE_LOCKED - cannot obtain exclusive access to locked queue 'lg-own' in vhost '/'. It could be originally declared on another connection or the exclusive property value does not match that of the original declaration.\" })
fan-out: Ok(Confirmed)
first: x first, nothing
second: x first, nothing
exclusive, after its connection: Err(ChannelClosed { code: 404, text: \"NOT_FOUND - no queue 'lg-own' in vhost '/'\" })
auto-delete, after its consumer: Err(ChannelClosed { code: 404, text: \"NOT_FOUND - no queue 'lg-passing' in vhost '/'\" })
in turn: one m0 m2, two m1 m3
large: 300000 bytes
close: Ok(())
";

struct Script {
    addr: String,
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
        Connection::open(TcpStream::connect(&*self.addr).await.unwrap(), options).await
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

async fn script(addr: &str) -> String {
    let mut script = Script { addr: addr.into(), lines: String::new() };
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
    script.note("unknown tag", consumer.next().await);
    let channel = connection.channel().await.unwrap();
    let mut consumer = consume(&channel, "lg-work", 2).await;
    script.noted("after it", &mut consumer).await;
    channel.ack(1).await.unwrap();
    channel.ack(1).await.unwrap();
    script.note("acked twice", consumer.next().await);
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

#[cfg(madsim)]
#[test]
fn the_stand_in_follows_the_transcript() {
    use lychgate_sim::observation::untapped;
    use lychgate_sim::rabbit::{Rabbit, Settings};
    use madsim::runtime::{Handle, Runtime};

    let run = || {
        Runtime::with_seed_and_config(1, madsim::Config::default()).block_on(async {
            let rabbit = Rabbit::new(Settings::default());
            let broker = Handle::current().create_node().ip("10.0.0.1".parse().unwrap()).build();
            let listener = async { tokio::net::TcpListener::bind("10.0.0.1:5672").await.unwrap() };
            broker.spawn(async move { rabbit.serve(listener.await, untapped()).await });
            let client = Handle::current().create_node().ip("10.0.0.2".parse().unwrap()).build();
            sleep(Duration::from_millis(50)).await;
            client.spawn(script("10.0.0.1:5672")).await.unwrap()
        })
    };
    let transcript = std::thread::spawn(run).join().unwrap();
    assert!(transcript == TRANSCRIPT, "{}", difference(&transcript));
}

#[cfg(real)]
#[tokio::test]
async fn rabbitmq_follows_the_transcript() {
    let Ok(addr) = std::env::var("AMQP_ADDR") else { return };
    let transcript = script(&addr).await;
    assert!(transcript == TRANSCRIPT, "{}", difference(&transcript));
}

/// The lines that differ, both ways.
fn difference(transcript: &str) -> String {
    let only = |these: &str, others: &str, sign: char| -> String {
        let others: Vec<&str> = others.lines().collect();
        these.lines().filter(|line| !others.contains(line)).map(|line| format!("{sign} {line}\n")).collect()
    };
    format!("\n{}{}", only(TRANSCRIPT, transcript, '-'), only(transcript, TRANSCRIPT, '+'))
}
