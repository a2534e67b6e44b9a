//! The AMQP client against RabbitMQ's stand-in, on the virtual clock. Each test is one simulation on a fresh thread.
#![cfg(madsim)]
#![allow(missing_docs)]

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

#[test]
fn publish_confirm_deliver_ack() {
    run(|world| async move {
        let connection = dial().await;
        let publisher = publisher(&connection).await;
        let (channel, mut consumer) = consumer(&connection, 1).await;
        assert_eq!(publisher.publish(hint("a")).await, Ok(Outcome::Confirmed));
        let delivery = consumer.next().await.unwrap();
        assert_eq!((&delivery.body[..], delivery.redelivered), (&b"a"[..], false));
        channel.ack(delivery.delivery_tag).await.unwrap();
        connection.close().await.unwrap();
        assert_eq!(world.told(), ["published a to work", "delivered a of work", "acked a"]);
        assert_eq!((world.rabbit.ready("work"), world.rabbit.connections()), (Some(0), 0));
    });
}

#[test]
fn prefetch_bounds_what_is_unacked_and_large_bodies_cross() {
    run(|world| async move {
        let connection = dial().await;
        let publisher = publisher(&connection).await;
        let (channel, mut consumer) = consumer(&connection, 2).await;
        let body = bytes::Bytes::from(vec![7u8; 300_000]);
        for _ in 0..3 {
            publisher.publish(Message { body: body.clone(), ..hint("") }).await.unwrap();
        }
        publisher.publish(hint("")).await.unwrap();
        assert_eq!((world.rabbit.ready("work"), world.rabbit.unacked()), (Some(2), 2));
        for size in [300_000, 300_000, 300_000, 0] {
            let delivery = consumer.next().await.unwrap();
            assert_eq!(delivery.body.len(), size);
            channel.ack(delivery.delivery_tag).await.unwrap();
        }
    });
}

#[test]
fn many_publishes_at_once_are_all_confirmed() {
    run(|world| async move {
        let connection = dial().await;
        let publisher = publisher(&connection).await;
        let all = (0..1000).map(|_| publisher.publish(hint("m")));
        for outcome in futures_util::future::join_all(all).await {
            assert_eq!(outcome, Ok(Outcome::Confirmed));
        }
        assert_eq!(world.rabbit.ready("work"), Some(1000));
    });
}

#[test]
fn nack_with_requeue_is_delivered_again_in_its_place() {
    run(|world| async move {
        let connection = dial().await;
        let publisher = publisher(&connection).await;
        for body in ["a", "b"] {
            publisher.publish(hint(body)).await.unwrap();
        }
        let (channel, mut consumer) = consumer(&connection, 1).await;
        let first = consumer.next().await.unwrap();
        channel.nack(first.delivery_tag, true).await.unwrap();
        let again = consumer.next().await.unwrap();
        assert_eq!((&again.body[..], again.redelivered), (&b"a"[..], true));
        channel.nack(again.delivery_tag, false).await.unwrap();
        assert_eq!(&consumer.next().await.unwrap().body[..], b"b");
        assert_eq!(
            world.told()[2..6],
            ["delivered a of work", "nacked a true", "delivered a of work again", "nacked a false"]
        );
    });
}

#[test]
fn a_cut_connection_requeues_in_place() {
    run(|world| async move {
        let first = dial().await;
        let publisher_channel = publisher(&first).await;
        for body in ["a", "b", "c"] {
            publisher_channel.publish(hint(body)).await.unwrap();
        }
        let (_channel, mut deliveries) = consumer(&first, 2).await;
        deliveries.next().await.unwrap();
        drop(first);
        assert_eq!(deliveries.next().await.unwrap().body, "b"); // it had come
        assert_eq!(deliveries.next().await, Err(Error::Closed));
        sleep(Duration::from_millis(100)).await;
        assert_eq!((world.rabbit.connections(), world.rabbit.ready("work")), (0, Some(3)));
        let second = dial().await;
        let (_channel, mut deliveries) = consumer(&second, 3).await;
        for (body, redelivered) in [("a", true), ("b", true), ("c", false)] {
            let delivery = deliveries.next().await.unwrap();
            assert_eq!((&delivery.body[..], delivery.redelivered), (body.as_bytes(), redelivered));
        }
    });
}

#[test]
fn a_mandatory_message_without_a_queue_comes_back() {
    run(|world| async move {
        let connection = dial().await;
        let publisher = publisher(&connection).await;
        let lost = Message { routing_key: "nowhere".into(), ..hint("lost") };
        let optional = Message { mandatory: false, ..lost.clone() };
        let (returned, confirmed, swallowed) =
            tokio::join!(publisher.publish(lost), publisher.publish(hint("kept")), publisher.publish(optional));
        assert!(
            matches!(&returned, Ok(Outcome::Returned(why)) if why.code == 312 && why.text == "NO_ROUTE"),
            "{returned:?}"
        );
        assert_eq!((confirmed, swallowed), (Ok(Outcome::Confirmed), Ok(Outcome::Confirmed)));
        assert_eq!(world.rabbit.ready("work"), Some(1));
    });
}

#[test]
fn heartbeats_keep_an_idle_connection() {
    for (server, client) in [(60, 10), (10, 60), (0, 10), (10, 0), (0, 0)] {
        let settings = Settings { heartbeat: Duration::from_secs(server), ..Settings::default() };
        simulate(1, settings, move |_| async move {
            let options = Options { heartbeat: Duration::from_secs(client), ..Options::default() };
            let connection = dial_with(BROKER, options).await.unwrap();
            sleep(Duration::from_secs(600)).await;
            assert_eq!(connection.ended(), None);
            work_queue(&connection.channel().await.unwrap()).await;
        });
    }
}

#[test]
fn a_silent_server_is_noticed_within_two_heartbeats() {
    run(|world| async move {
        let connection =
            dial_with(BROKER, Options { heartbeat: Duration::from_secs(10), ..Options::default() }).await.unwrap();
        sleep(Duration::from_secs(33)).await;
        Handle::current().pause(world.broker.id());
        let since = Instant::now();
        let reason = connection.over().await;
        assert!(matches!(reason, Error::Silent(_)) && reason.is_over(), "{reason:?}");
        assert!(since.elapsed() <= Duration::from_secs(20), "{:?}", since.elapsed());
    });
}

#[test]
fn a_wedged_request_ends_the_connection_for_everyone() {
    run(|world| async move {
        let connection = dial().await;
        let publisher = publisher(&connection).await;
        let (channel, mut consumer) = consumer(&connection, 1).await;
        Handle::current().pause(world.broker.id());
        let since = Instant::now();
        let (declared, published, delivered) =
            tokio::join!(channel.queue_declare(QueueDeclare::default()), publisher.publish(hint("a")), consumer.next());
        let timed_out = Error::Timeout { what: "queue.declare" };
        assert_eq!(declared, Err(timed_out.clone()));
        assert!([Err(timed_out.clone()), Err(Error::Unconfirmed)].contains(&published), "{published:?}");
        assert_eq!(delivered, Err(timed_out.clone()));
        assert!(since.elapsed() <= Duration::from_secs(11));
        assert_eq!(channel.ack(1).await, Err(timed_out));
    });
}

#[test]
fn the_server_hangs_up_on_a_silent_client() {
    run(|world| async move {
        let node = Handle::current().create_node().ip("10.0.0.3".parse().unwrap()).build();
        node.spawn(async {
            let connection = dial().await;
            connection.over().await;
        });
        sleep(Duration::from_secs(5)).await;
        assert_eq!(world.rabbit.connections(), 1);
        Handle::current().pause(node.id());
        sleep(Duration::from_secs(85)).await;
        assert_eq!(world.rabbit.connections(), 1);
        sleep(Duration::from_secs(25)).await;
        assert_eq!(world.rabbit.connections(), 0);
    });
}

#[test]
fn a_pause_shorter_than_the_server_minds_is_survived() {
    run(|_| async move {
        let node = Handle::current().create_node().ip("10.0.0.3".parse().unwrap()).build();
        let client = node.spawn(async {
            let connection = dial().await;
            let ended = timeout(Duration::from_secs(300), connection.over()).await;
            assert!(ended.is_err(), "{ended:?}");
        });
        sleep(Duration::from_secs(20)).await;
        Handle::current().pause(node.id());
        sleep(Duration::from_secs(70)).await; // the client's own limit is 60
        Handle::current().resume(node.id());
        client.await.unwrap();
    });
}

#[test]
fn a_fanout_reaches_every_exclusive_queue() {
    run(|world| async move {
        let (left, right) = (dial().await, dial().await);
        let mut consumers = Vec::new();
        let mut names = Vec::new();
        for connection in [&left, &right] {
            let channel = connection.channel().await.unwrap();
            channel.exchange_declare("cancel", ExchangeKind::Fanout, true).await.unwrap();
            let own = QueueDeclare { exclusive: true, auto_delete: true, ..QueueDeclare::default() };
            let name = channel.queue_declare(own).await.unwrap().name;
            channel.queue_bind(&name, "cancel", "").await.unwrap();
            consumers.push(channel.consume(&name, NonZeroU16::MIN).await.unwrap());
            names.push(name);
        }
        let locked = left.channel().await.unwrap();
        let refused = locked.consume(&names[1], NonZeroU16::MIN).await.unwrap_err();
        assert!(matches!(refused, Error::ChannelClosed { code: 405, .. }), "{refused:?}");
        let publisher = publisher(&left).await;
        publisher.publish(Message { exchange: "cancel".into(), ..hint("stop") }).await.unwrap();
        for consumer in &mut consumers {
            assert_eq!(consumer.next().await.unwrap().body, "stop");
        }
        right.close().await.unwrap();
        assert_eq!((world.rabbit.ready(&names[0]), world.rabbit.ready(&names[1])), (Some(0), None));
    });
}

#[test]
fn a_restart_keeps_what_is_durable() {
    run(|world| async move {
        let connection = dial().await;
        let publisher = publisher(&connection).await;
        publisher.queue_declare(QueueDeclare { name: "passing".into(), ..QueueDeclare::default() }).await.unwrap();
        publisher.publish(hint("a")).await.unwrap();
        publisher.publish(Message { persistent: false, ..hint("gone") }).await.unwrap();
        publisher.publish(hint("b")).await.unwrap();
        let (_channel, mut deliveries) = consumer(&connection, 1).await;
        deliveries.next().await.unwrap();
        Handle::current().kill(world.broker.id());
        let reason = connection.over().await;
        assert!(matches!(reason, Error::Lost(_)), "{reason:?}");
        assert_eq!(deliveries.next().await, Err(reason.clone()));
        assert_eq!(publisher.publish(hint("x")).await, Err(reason));
        let refused = dial_with(BROKER, Options::default()).await.unwrap_err();
        assert!(matches!(refused, Error::Lost(_)), "{refused:?}");
        Handle::current().restart(world.broker.id());
        sleep(Duration::from_secs(1)).await;
        let connection = dial().await;
        let (channel, mut deliveries) = consumer(&connection, 1).await;
        // After a crash the broker does not know that b was never delivered.
        for body in ["a", "b"] {
            let delivery = deliveries.next().await.unwrap();
            assert_eq!((&delivery.body[..], delivery.redelivered), (body.as_bytes(), true));
            channel.ack(delivery.delivery_tag).await.unwrap();
        }
        let passive = QueueDeclare { name: "passing".into(), passive: true, ..QueueDeclare::default() };
        let missing = channel.queue_declare(passive).await.unwrap_err();
        assert!(matches!(missing, Error::ChannelClosed { code: 404, .. }), "{missing:?}");
    });
}

#[test]
fn an_orderly_restart_remembers_what_was_delivered() {
    run(|world| async move {
        let connection = dial().await;
        let publisher = publisher(&connection).await;
        for body in ["a", "b"] {
            publisher.publish(hint(body)).await.unwrap();
        }
        let (_channel, mut deliveries) = consumer(&connection, 1).await;
        deliveries.next().await.unwrap();
        world.rabbit.shut_down();
        let reason = connection.over().await;
        assert!(matches!(reason, Error::ConnectionClosed { code: 320, .. }), "{reason:?}");
        Handle::current().kill(world.broker.id());
        sleep(Duration::from_millis(10)).await;
        Handle::current().restart(world.broker.id());
        sleep(Duration::from_millis(100)).await;
        let connection = dial().await;
        let (_channel, mut deliveries) = consumer(&connection, 2).await;
        assert!(deliveries.next().await.unwrap().redelivered);
        assert!(!deliveries.next().await.unwrap().redelivered);
    });
}

#[test]
fn an_unknown_tag_closes_the_channel_and_nothing_else() {
    run(|world| async move {
        let connection = dial().await;
        let publisher = publisher(&connection).await;
        publisher.publish(hint("a")).await.unwrap();
        let (channel, mut deliveries) = consumer(&connection, 1).await;
        deliveries.next().await.unwrap();
        channel.ack(99).await.unwrap();
        let text = "PRECONDITION_FAILED - unknown delivery tag 99".to_owned();
        let reason = Error::ChannelClosed { code: 406, text };
        assert_eq!(deliveries.next().await, Err(reason.clone()));
        assert_eq!(channel.ack(1).await, Err(reason));
        assert_eq!(publisher.publish(hint("b")).await, Ok(Outcome::Confirmed));
        let (_channel, mut deliveries) = consumer(&connection, 2).await;
        let again = deliveries.next().await.unwrap();
        assert_eq!((&again.body[..], again.redelivered), (&b"a"[..], true));
        assert_eq!(world.told()[2], "requeued a");
    });
}

#[test]
fn closes_that_cross_leave_the_connection_alone() {
    run(|_| async move {
        let connection = dial().await;
        for _ in 0..3 {
            let channel = connection.channel().await.unwrap();
            work_queue(&channel).await;
            channel.ack(99).await.unwrap();
            channel.close().await.unwrap();
            let reason = channel.ended();
            assert!(matches!(reason, Some(Error::ChannelClosed { code: 406, .. })), "{reason:?}");
        }
        assert_eq!(publisher(&connection).await.publish(hint("a")).await, Ok(Outcome::Confirmed));
        connection.close().await.unwrap();
    });
}

#[test]
fn refusals_name_their_code() {
    run(|_| async move {
        let wrong = Options { password: "wrong".into(), ..Options::default() };
        let elsewhere = Options { vhost: "elsewhere".into(), ..Options::default() };
        for (options, code) in [(wrong, 403), (elsewhere, 530)] {
            let refused = dial_with(BROKER, options).await.unwrap_err();
            assert!(matches!(refused, Error::ConnectionClosed { code: c, .. } if c == code), "{refused:?}");
        }
        let connection = dial().await;
        let publisher = publisher(&connection).await;
        let (a, b) = tokio::join!(
            publisher.publish(Message { exchange: "none".into(), ..hint("a") }),
            publisher.publish(hint("b")),
        );
        assert!(matches!(&a, Err(Error::ChannelClosed { code: 404, .. })), "{a:?}");
        assert!(matches!(&b, Err(Error::ChannelClosed { code: 404, .. })), "{b:?}");
        let channel = connection.channel().await.unwrap();
        let other = QueueDeclare { name: "work".into(), ..QueueDeclare::default() };
        let refused = channel.queue_declare(other).await.unwrap_err();
        assert!(matches!(refused, Error::ChannelClosed { code: 406, .. }), "{refused:?}");
        let long = "x".repeat(256);
        let channel = connection.channel().await.unwrap();
        assert!(matches!(channel.queue_bind(&long, "e", "").await, Err(Error::Invalid(_))));
        connection.close().await.unwrap();
    });
}

#[test]
fn whoever_is_late_hears_it_in_the_way_of_its_broker_and_goes_on() {
    for version in [Version::V3_10, Version::V4_0, Version::V4_3] {
        let settings = Settings { version, consumer_timeout: Some(Duration::from_secs(90)), ..Settings::default() };
        simulate(1, settings, move |world| async move {
            let connection = dial().await;
            let publisher = publisher(&connection).await;
            let (channel, mut consumer) = consumer(&connection, 1).await;
            publisher.publish(hint("a")).await.unwrap();
            consumer.next().await.unwrap();
            let told = consumer.next().await.unwrap_err();
            let channel = match version {
                // It keeps its channel, and may consume again.
                Version::V4_3 => {
                    assert_eq!(told, Error::Cancelled);
                    channel
                }
                _ => {
                    assert!(matches!(told, Error::ChannelClosed { code: 406, .. }), "{told:?}");
                    connection.channel().await.unwrap()
                }
            };
            let mut again = channel.consume("work", NonZeroU16::MIN).await.unwrap();
            let delivery = again.next().await.unwrap();
            assert!(delivery.redelivered);
            channel.ack(delivery.delivery_tag).await.unwrap();
            connection.close().await.unwrap();
            let told = world.told();
            assert_eq!(told[1..], ["delivered a of work", "requeued a", "delivered a of work again", "acked a"]);
        });
    }
}

#[test]
fn consumers_hear_why_they_ended() {
    run(|world| async move {
        let connection = dial().await;
        let publisher = publisher(&connection).await;
        let (channel, mut first) = consumer(&connection, 5).await;
        publisher.publish(hint("a")).await.unwrap();
        first.cancel().await.unwrap();
        let left = first.next().await.unwrap();
        assert_eq!(first.next().await, Err(Error::Closed));
        channel.ack(left.delivery_tag).await.unwrap();
        let mut second = channel.consume("work", NonZeroU16::MIN).await.unwrap();
        world.rabbit.delete_queue("work");
        assert_eq!(second.next().await, Err(Error::Cancelled));
        let mut third = {
            work_queue(&channel).await;
            channel.consume("work", NonZeroU16::MIN).await.unwrap()
        };
        channel.close().await.unwrap();
        assert_eq!(third.next().await, Err(Error::Closed));
        world.rabbit.shut_down();
        let reason = connection.over().await;
        assert!(matches!(reason, Error::ConnectionClosed { code: 320, .. }), "{reason:?}");
        sleep(Duration::from_millis(100)).await;
        assert_eq!(world.rabbit.connections(), 0);
    });
}

#[test]
fn a_blocked_broker_reads_nothing_more_from_who_publishes() {
    run(|world| async move {
        let (connection, other) = (dial().await, dial().await);
        let publisher = publisher(&connection).await;
        publisher.publish(hint("a")).await.unwrap();
        let (channel, mut deliveries) = consumer(&other, 1).await;
        let delivery = deliveries.next().await.unwrap();
        world.rabbit.block("low on memory");
        let (held, refused) = tokio::join!(publisher.publish(hint("b")), async {
            sleep(Duration::from_millis(500)).await;
            assert_eq!(connection.blocked().as_deref(), Some("low on memory"));
            assert_eq!(other.blocked(), None);
            publisher.publish(hint("c")).await
        });
        assert_eq!(held, Err(Error::Unconfirmed));
        assert_eq!(refused, Err(Error::Blocked("low on memory".into())));
        channel.ack(delivery.delivery_tag).await.unwrap();
        sleep(Duration::from_millis(100)).await;
        assert_eq!((world.rabbit.ready("work"), world.rabbit.unacked()), (Some(0), 0));
        world.rabbit.unblock();
        sleep(Duration::from_millis(100)).await;
        assert_eq!(connection.blocked(), None);
        assert_eq!(deliveries.next().await.unwrap().body, "b");
        assert_eq!(publisher.publish(hint("d")).await, Ok(Outcome::Confirmed));
    });
}

#[test]
fn a_delivery_that_is_kept_too_long_costs_the_channel() {
    run(|_| async move {
        let connection = dial().await;
        let publisher = publisher(&connection).await;
        publisher.publish(hint("a")).await.unwrap();
        let (_channel, mut deliveries) = consumer(&connection, 1).await;
        deliveries.next().await.unwrap();
        let since = Instant::now();
        let reason = deliveries.next().await.unwrap_err();
        assert!(matches!(reason, Error::ChannelClosed { code: 406, .. }), "{reason:?}");
        let minutes = since.elapsed().as_secs_f64() / 60.0;
        assert!((30.0..31.1).contains(&minutes), "{minutes}");
    });
}

#[test]
fn dropping_the_connection_ends_its_driver() {
    run(|world| async move {
        let connection = dial().await;
        let channel = connection.channel().await.unwrap();
        drop(connection);
        sleep(Duration::from_millis(100)).await;
        assert_eq!(world.rabbit.connections(), 0);
        assert_eq!(channel.ack(1).await, Err(Error::Closed));
    });
}

/// Carries bytes between a client and the broker; after `clean` bytes towards the client it sends `garbage`, then
/// nothing more.
async fn spoil(addr: SocketAddr, clean: usize, garbage: Vec<u8>) {
    let listener = TcpListener::bind(addr).await.unwrap();
    tokio::spawn(async move {
        let (client, _) = listener.accept().await.unwrap();
        let broker = TcpStream::connect(BROKER).await.unwrap();
        let (mut from_client, mut to_client) = tokio::io::split(client);
        let (mut from_broker, mut to_broker) = tokio::io::split(broker);
        let up = async move {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = from_client.read(&mut buffer).await {
                to_broker.write_all(&buffer[..count]).await.unwrap();
                to_broker.flush().await.unwrap();
            }
        };
        let down = async move {
            let mut left = clean;
            let mut buffer = [0; 4096];
            while left > 0 {
                let Ok(count @ 1..) = from_broker.read(&mut buffer).await else { break };
                let count = count.min(left);
                left -= count;
                to_client.write_all(&buffer[..count]).await.unwrap();
                to_client.flush().await.unwrap();
            }
            to_client.write_all(&garbage).await.unwrap();
            to_client.flush().await.unwrap();
            std::future::pending::<()>().await;
        };
        tokio::select! { biased; () = up => {}, () = down => {} }
    });
}

#[test]
fn garbage_is_an_error_and_never_a_hang() {
    let mut noticed = 0;
    for seed in 0..150 {
        noticed += simulate(seed, Settings::default(), move |_| async move {
            use rand_chacha::rand_core::{Rng, SeedableRng};
            let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
            let mut garbage = vec![0; 1 + (random.next_u32() % 400) as usize];
            random.fill_bytes(&mut garbage);
            if seed % 3 == 0 {
                // A well-formed frame around nonsense.
                let size = garbage.len() as u32;
                let kind = 1 + (seed / 3 % 3) as u8;
                garbage.splice(0..0, [kind, 0, (seed % 2) as u8].into_iter().chain(size.to_be_bytes()));
                garbage.push(206);
            }
            let addr: SocketAddr = "10.0.0.2:7000".parse().unwrap();
            spoil(addr, (random.next_u32() % 700) as usize, garbage).await;
            let since = Instant::now();
            let work = async {
                let connection = dial_with("10.0.0.2:7000", Options::default()).await?;
                let channel = connection.channel().await?;
                channel
                    .queue_declare(QueueDeclare { name: "work".into(), durable: true, ..Default::default() })
                    .await?;
                channel.confirm_select().await?;
                let mut consumer = channel.consume("work", NonZeroU16::MIN).await?;
                for _ in 0..20 {
                    match channel.publish(hint("a")).await {
                        Ok(_) | Err(Error::Unconfirmed) => {}
                        Err(error) => return Err(error),
                    }
                    let delivery = consumer.next().await?;
                    channel.ack(delivery.delivery_tag).await?;
                }
                Err(connection.over().await)
            };
            let result: Result<(), Error> = work.await;
            assert!(matches!(&result, Err(error) if error.is_over()), "seed {seed}: {result:?}");
            assert!(since.elapsed() < Duration::from_secs(120), "seed {seed}: {:?}", since.elapsed());
            u32::from(matches!(result, Err(Error::Protocol(_))))
        });
    }
    assert!(noticed > 75, "garbage was noticed as such only {noticed} times");
}

/// Two consumers, one of which is killed half-way.
async fn crowd(world: World) -> Vec<String> {
    let connection = dial().await;
    let publisher = publisher(&connection).await;
    let mut nodes = Vec::new();
    for ip in ["10.0.0.3", "10.0.0.4"] {
        let node = Handle::current().create_node().ip(ip.parse().unwrap()).build();
        node.spawn(async move {
            let connection = dial().await;
            let (channel, mut deliveries) = consumer(&connection, 3).await;
            while let Ok(delivery) = deliveries.next().await {
                sleep(Duration::from_millis(20)).await;
                channel.ack(delivery.delivery_tag).await.unwrap();
            }
        });
        nodes.push(node);
    }
    sleep(Duration::from_millis(100)).await;
    for body in ["a", "b", "c", "d", "e", "f", "g", "h"] {
        publisher.publish(hint(body)).await.unwrap();
        if body == "e" {
            Handle::current().kill(nodes[0].id());
        }
    }
    sleep(Duration::from_secs(5)).await;
    assert_eq!((world.rabbit.ready("work"), world.rabbit.unacked()), (Some(0), 0));
    world.log.lock().unwrap().iter().map(|broker| format!("{broker:?}")).collect()
}

#[test]
fn the_same_seed_gives_the_same_log() {
    let log = |seed| simulate(seed, Settings::default(), crowd);
    for seed in 0..10 {
        assert_eq!(log(seed), log(seed));
    }
    assert_ne!(log(1), log(2));
}
