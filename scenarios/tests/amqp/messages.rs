//! What becomes of messages: confirmed, delivered, given back, kept over a restart, refused.

use super::*;

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
