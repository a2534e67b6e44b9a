//! What becomes of connections and channels: silence, cuts, closes that cross, garbage.

use super::*;

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
