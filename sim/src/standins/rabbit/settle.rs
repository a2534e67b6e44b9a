//! How a delivery ends: acknowledged, refused, or left behind by its channel.
//!
//! Its law: **a delivery ends once, and what it ended as is seen before anything follows from it.** Those that are settled
//! together go to their queue together, by queue and consumer, as RabbitMQ sends them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::time::Instant;

use super::core::{Core, Effects, Refusal};
use super::dead_letter::{self, Reason};
use super::observation::Broker;
use super::queue::{Entry, Kind, Place, Return, Subscriber};
use super::store::Message;

/// Above so many RabbitMQ takes messages back in an order of its own.
const RETURNED_MAX: usize = 32;

/// A delivery that was neither acknowledged nor refused.
#[derive(Debug)]
pub(super) struct Unacked {
    pub(super) queue: String,
    pub(super) serial: u64,
    pub(super) place: Place,
    pub(super) entry: Entry,
    pub(super) since: Instant,
    /// The tag of the delivery's consumer.
    pub(super) tag: String,
}

/// What a client says to a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Ack,
    Requeue,
    Drop,
}

impl Answer {
    /// What a refusal says.
    pub(super) fn refused(requeue: bool) -> Self {
        if requeue { Answer::Requeue } else { Answer::Drop }
    }
}

/// A letter on its way to these queues.
#[derive(Debug)]
pub(super) struct Dead {
    letter: Arc<Message>,
    queues: BTreeSet<String>,
}

impl Core {
    /// Ends deliveries of a channel by tag. A tag that is not there is refused.
    pub(super) fn settle(
        &mut self,
        connection: u64,
        id: u16,
        (tag, multiple): (u64, bool),
        answer: Answer,
        out: &mut Effects,
    ) -> Result<(), Refusal> {
        let channel = self.channel(connection, id);
        let settled = match (multiple, tag) {
            (true, 0) => std::mem::take(&mut channel.unacked),
            (true, tag) if channel.unacked.contains_key(&tag) => {
                let later = channel.unacked.split_off(&(tag + 1));
                std::mem::replace(&mut channel.unacked, later)
            }
            (false, tag) if channel.unacked.contains_key(&tag) => {
                channel.unacked.remove(&tag).map(|unacked| (tag, unacked)).into_iter().collect()
            }
            _ => return Err(Refusal::new(406, format!("PRECONDITION_FAILED - unknown delivery tag {tag}"))),
        };
        let mut groups = BTreeMap::<_, Vec<_>>::new();
        for (tag, unacked) in settled {
            groups.entry((unacked.queue.clone(), unacked.tag.clone())).or_default().push((tag, unacked));
        }
        for ((queue, tag), group) in groups {
            let subscriber = Subscriber { connection, channel: id, tag };
            match (answer, self.store.queues.get(&queue).map(|queue| queue.kind)) {
                // RabbitMQ writes each of these anew.
                (Answer::Requeue, Some(Kind::Quorum { limit: None })) => {
                    for one in group {
                        self.answer(&queue, &subscriber, vec![one], answer, out);
                    }
                }
                (Answer::Requeue, Some(Kind::Quorum { .. })) if group.len() > RETURNED_MAX => {
                    panic!("RabbitMQ stand-in: how {queue} takes back {} at once is not known here", group.len())
                }
                _ => self.answer(&queue, &subscriber, group, answer, out),
            }
        }
        Ok(())
    }

    /// Ends deliveries of one consumer from one queue.
    fn answer(
        &mut self,
        queue: &str,
        subscriber: &Subscriber,
        group: Vec<(u64, Unacked)>,
        answer: Answer,
        out: &mut Effects,
    ) {
        let peer = self.peers[&subscriber.connection].addr;
        let mut dead = Vec::new();
        for (tag, unacked) in group {
            self.make_room(subscriber, tag, unacked.serial, queue);
            match answer {
                Answer::Ack => {
                    let body = unacked.entry.message.body.clone();
                    out.saw(Broker::Acked { peer, queue: queue.to_owned(), body });
                }
                Answer::Requeue => {
                    let serial = unacked.serial;
                    if let Err(letter) = self.put_back(peer, unacked, Return::Refused, out) {
                        // RabbitMQ 3.10 counts it twice: from here on its consumer gets one more than its prefetch.
                        self.make_room(subscriber, tag, serial, queue);
                        dead.extend(letter);
                    }
                }
                Answer::Drop => dead.extend(self.give_up(peer, &unacked, Reason::Rejected, out)),
            }
        }
        self.deliver(queue, out);
        self.reap(dead, out);
    }

    /// A consumer has one delivery less.
    fn make_room(&mut self, subscriber: &Subscriber, tag: u64, serial: u64, queue: &str) {
        let channel = self.channel(subscriber.connection, subscriber.channel);
        let consumer = channel.consumers.get_mut(&subscriber.tag).filter(|consumer| consumer.after < tag);
        let Some(consumer) = consumer else { return };
        if let Some(room) = &mut consumer.room {
            *room += 1;
        }
        if let Some(queue) = self.store.queues.get_mut(queue).filter(|queue| queue.serial == serial) {
            queue.wait(subscriber);
        }
    }

    /// Takes back what channels have left behind. Returns the queues that it came from, and letters to reap.
    pub(super) fn take_back(
        &mut self,
        mut left: Vec<(SocketAddr, Unacked)>,
        out: &mut Effects,
    ) -> (BTreeSet<String>, Vec<Dead>) {
        // A quorum queue goes by consumer; to a classic queue the order is all the same.
        let quorum = |queue: &str| self.store.queues.get(queue).is_some_and(|queue| queue.is_quorum());
        left.sort_by_cached_key(|(_, unacked)| quorum(&unacked.queue).then(|| unacked.tag.clone()));
        let touched = left.iter().map(|(_, unacked)| unacked.queue.clone()).collect();
        let mut dead = Vec::new();
        for (peer, unacked) in left {
            if let Err(letter) = self.put_back(peer, unacked, Return::Lost, out) {
                dead.extend(letter);
            }
        }
        (touched, dead)
    }

    /// Puts a delivery back, if its queue is still there.
    ///
    /// # Errors
    /// It came back too often; the letter that becomes of it, if any.
    fn put_back(
        &mut self,
        peer: SocketAddr,
        unacked: Unacked,
        why: Return,
        out: &mut Effects,
    ) -> Result<(), Option<Dead>> {
        let queue = self.store.queues.get_mut(&unacked.queue).filter(|queue| queue.serial == unacked.serial);
        let over = queue.and_then(|queue| queue.put_back(unacked.place, unacked.entry.clone(), why).err());
        if over.is_some() {
            return Err(self.give_up(peer, &unacked, Reason::DeliveryLimit, out));
        }
        let (queue, body) = (unacked.queue, unacked.entry.message.body.clone());
        out.saw(match why {
            Return::Refused => Broker::Nacked { peer, queue, requeue: true, body },
            Return::Lost => Broker::Requeued { peer, queue, body },
        });
        Ok(())
    }

    /// A queue gives a delivery up. Returns the letter that becomes of it, if the queue says where to.
    fn give_up(&mut self, peer: SocketAddr, unacked: &Unacked, reason: Reason, out: &mut Effects) -> Option<Dead> {
        let (name, message) = (&unacked.queue, &unacked.entry.message);
        let queue = self.store.queues.get(name).filter(|queue| queue.serial == unacked.serial);
        let dead = queue.and_then(|queue| queue.dead_letters.as_ref()).map(|to| {
            let letter = dead_letter::letter(message, name, reason, to, out.epoch);
            let mut queues = self.store.route(&letter.exchange, &letter.routing_key).unwrap_or_default();
            queues.retain(|queue| !dead_letter::goes_round(&letter, queue, reason));
            Dead { letter: Arc::new(letter), queues }
        });
        let (queue, body) = (name.clone(), message.body.clone());
        let queues = dead.as_ref().map(|dead| dead.queues.iter().cloned().collect::<Vec<_>>());
        out.saw(match (queues, reason) {
            (None, Reason::Rejected) => Broker::Nacked { peer, queue, requeue: false, body },
            (queues, reason) => {
                let queues = queues.unwrap_or_default();
                Broker::DeadLettered { peer, queue, reason: reason.word(), queues, body }
            }
        });
        dead
    }

    /// Brings letters to their queues.
    pub(super) fn reap(&mut self, dead: Vec<Dead>, out: &mut Effects) {
        for Dead { letter, queues } in dead {
            for queue in &queues {
                self.store.push(queue, letter.clone());
            }
            for queue in &queues {
                self.deliver(queue, out);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use amq_protocol::frame::{AMQPContentHeader, AMQPFrame, ProtocolVersion};
    use amq_protocol::protocol::{AMQPClass, BasicProperties, basic, channel, connection, queue};
    use amq_protocol::types::{AMQPValue, FieldTable, LongString};

    use std::time::Duration;

    use super::super::core::Effect;
    use super::super::{Settings, Version};
    use super::*;

    /// A client of a core: channel 1 publishes, channel 2 consumes from `q`, which holds `a` to `c` and has a limit of 1.
    struct Player {
        core: Core,
        connection: u64,
    }

    impl Player {
        fn new(letters: Option<&str>) -> Player {
            Player::of(Settings::default(), Some(1), letters)
        }

        fn of(settings: Settings, limit: Option<i32>, letters: Option<&str>) -> Player {
            let mut core = Core::new(settings);
            let connection = core.connect(([10, 0, 0, 1], 1).into());
            let mut player = Player { core, connection };
            player.frame(AMQPFrame::ProtocolHeader(ProtocolVersion::amqp_0_9_1()));
            let start_ok = connection::StartOk {
                client_properties: capable("consumer_cancel_notify"),
                mechanism: "PLAIN".into(),
                response: "\0guest\0guest".into(),
                locale: "en_US".into(),
            };
            player.tell(0, AMQPClass::Connection(connection::AMQPMethod::StartOk(start_ok)));
            let tune_ok = connection::TuneOk { channel_max: 9, frame_max: 4096, heartbeat: 0 };
            player.tell(0, AMQPClass::Connection(connection::AMQPMethod::TuneOk(tune_ok)));
            let open = connection::Open { virtual_host: "/".into() };
            player.tell(0, AMQPClass::Connection(connection::AMQPMethod::Open(open)));
            for id in [1, 2] {
                player.tell(id, AMQPClass::Channel(channel::AMQPMethod::Open(channel::Open {})));
            }
            let mut arguments = FieldTable::default();
            arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
            if let Some(limit) = limit {
                arguments.insert("x-delivery-limit".into(), AMQPValue::LongInt(limit));
            }
            if let Some(key) = letters {
                arguments.insert("x-dead-letter-exchange".into(), AMQPValue::LongString("".into()));
                arguments.insert("x-dead-letter-routing-key".into(), AMQPValue::LongString(LongString::from(key)));
            }
            player.declare("q", arguments);
            player.declare("dead", FieldTable::default());
            for body in ["a", "b", "c"] {
                player.publish(body);
            }
            player
        }

        fn frame(&mut self, frame: AMQPFrame) -> Vec<String> {
            let mut out = Effects::new(Instant::now());
            self.core.frame(self.connection, frame, &mut out);
            told(&out)
        }

        fn tell(&mut self, id: u16, method: AMQPClass) -> Vec<String> {
            self.frame(AMQPFrame::Method(id, method))
        }

        fn declare(&mut self, name: &str, arguments: FieldTable) {
            let declare = queue::Declare { queue: name.into(), durable: true, arguments, ..queue::Declare::default() };
            self.tell(1, AMQPClass::Queue(queue::AMQPMethod::Declare(declare)));
        }

        fn publish(&mut self, body: &str) {
            let publish = basic::Publish { routing_key: "q".into(), ..basic::Publish::default() };
            self.tell(1, AMQPClass::Basic(basic::AMQPMethod::Publish(publish)));
            let properties = BasicProperties::default();
            self.frame(AMQPFrame::Header(1, AMQPContentHeader { class_id: 60, body_size: 1, properties }));
            self.frame(AMQPFrame::Body(1, body.as_bytes().to_vec()));
        }

        fn consume(&mut self, prefetch_count: u16) -> Vec<String> {
            let qos = basic::Qos { prefetch_count, global: false };
            self.tell(2, AMQPClass::Basic(basic::AMQPMethod::Qos(qos)));
            let consume = basic::Consume { queue: "q".into(), consumer_tag: "one".into(), ..basic::Consume::default() };
            self.tell(2, AMQPClass::Basic(basic::AMQPMethod::Consume(consume)))
        }

        fn nack(&mut self, delivery_tag: u64, requeue: bool) -> Vec<String> {
            let nack = basic::Nack { delivery_tag, multiple: false, requeue };
            self.tell(2, AMQPClass::Basic(basic::AMQPMethod::Nack(nack)))
        }

        fn ready(&self, queue: &str) -> Option<usize> {
            self.core.ready(queue)
        }
    }

    fn capable(of: &str) -> FieldTable {
        let mut capabilities = FieldTable::default();
        capabilities.insert(of.into(), AMQPValue::Boolean(true));
        let mut properties = FieldTable::default();
        properties.insert("capabilities".into(), AMQPValue::FieldTable(capabilities));
        properties
    }

    /// What the judge gets to see.
    fn told(out: &Effects) -> Vec<String> {
        let text = |body: &[u8]| String::from_utf8_lossy(body).into_owned();
        let seen = out.list.iter().filter_map(|effect| match effect {
            Effect::Saw(broker) => Some(match broker {
                Broker::Published { body, .. } => format!("published {}", text(body)),
                Broker::Delivered { body, redelivered, .. } => {
                    format!("delivered {}{}", text(body), if *redelivered { " again" } else { "" })
                }
                Broker::Acked { body, .. } => format!("acked {}", text(body)),
                Broker::Nacked { body, requeue, .. } => format!("nacked {} {requeue}", text(body)),
                Broker::Requeued { body, .. } => format!("requeued {}", text(body)),
                Broker::DeadLettered { body, reason, queues, .. } => {
                    format!("gave up {} {reason} {queues:?}", text(body))
                }
            }),
            _ => None,
        });
        seen.collect()
    }

    #[test]
    fn a_delivery_that_is_given_up_looks_like_nothing_else() {
        let mut player = Player::new(Some("dead"));
        assert_eq!(player.consume(1), ["delivered a"]);
        assert_eq!(player.nack(1, true), ["nacked a true", "delivered a again"]);
        // One more than the prefetch: RabbitMQ 3.10 counts it twice.
        assert_eq!(player.nack(2, true), [r#"gave up a delivery_limit ["dead"]"#, "delivered b", "delivered c"]);
        assert_eq!(player.nack(3, false), [r#"gave up b rejected ["dead"]"#]);
        assert_eq!((player.ready("q"), player.ready("dead")), (Some(0), Some(2)));
        assert_eq!(player.core.unacked(), 1);
    }

    #[test]
    fn without_an_exchange_for_it_a_refused_one_is_gone() {
        let mut player = Player::new(None);
        assert_eq!(player.consume(1), ["delivered a"]);
        assert_eq!(player.nack(1, false), ["nacked a false", "delivered b"]);
        assert_eq!(player.nack(2, true), ["nacked b true", "delivered b again"]);
        assert_eq!(player.nack(3, true), ["gave up b delivery_limit []", "delivered c"]);
        assert_eq!((player.ready("q"), player.ready("dead")), (Some(0), Some(0)));
    }

    #[test]
    fn a_client_that_leaves_too_often_leaves_dead_letters() {
        let mut player = Player::new(Some("dead"));
        assert_eq!(player.consume(2), ["delivered a", "delivered b"]);
        let close = || AMQPClass::Channel(channel::AMQPMethod::Close(channel::Close::default()));
        assert_eq!(player.tell(2, close()), ["requeued a", "requeued b"]);
        player.tell(2, AMQPClass::Channel(channel::AMQPMethod::Open(channel::Open {})));
        assert_eq!(player.consume(1), ["delivered a again"]);
        let mut out = Effects::new(Instant::now());
        player.core.lost(player.connection, &mut out);
        assert_eq!(told(&out), [r#"gave up a delivery_limit ["dead"]"#]);
        assert_eq!((player.ready("q"), player.ready("dead")), (Some(2), Some(1)));
    }

    #[test]
    fn a_crash_counts_as_leaving() {
        let mut player = Player::new(Some("dead"));
        player.consume(1);
        for (told_then, ready, dead) in [("requeued a", 3, 0), (r#"gave up a delivery_limit ["dead"]"#, 2, 1)] {
            let mut out = Effects::new(Instant::now());
            player.core.boot(&mut out);
            assert_eq!(told(&out), [told_then]);
            assert_eq!((player.ready("q"), player.ready("dead")), (Some(ready), Some(dead)));
            player = again(player);
            player.consume(1);
        }
    }

    fn of_version(version: Version) -> Player {
        let settings = Settings { version, consumer_timeout: Some(Duration::from_secs(60)), ..Settings::default() };
        Player::of(settings, None, None)
    }

    #[test]
    fn a_later_broker_limits_what_names_no_limit() {
        for (version, gives_up) in [(Version::V3_10, false), (Version::V4_0, true)] {
            let mut player = of_version(version);
            player.consume(1);
            let told: Vec<String> = (1..=80).flat_map(|tag| player.nack(tag, true)).collect();
            assert_eq!(told.contains(&"gave up a delivery_limit []".to_string()), gives_up, "{version:?}: {told:?}");
        }
    }

    #[test]
    fn who_is_late_loses_its_channel_or_of_a_later_broker_its_consumer() {
        for (version, closed) in [(Version::V3_10, true), (Version::V4_3, false)] {
            let mut player = of_version(version);
            assert_eq!(player.consume(2), ["delivered a", "delivered b"]);
            let mut out = Effects::new(Instant::now());
            player.core.look(player.connection, &mut out);
            assert!(out.list.is_empty(), "nobody is late yet");
            out.now += Duration::from_secs(61);
            player.core.look(player.connection, &mut out);
            assert_eq!(told(&out), ["requeued a", "requeued b"], "{version:?}");
            let method = |effect: &Effect| match effect {
                Effect::Send(_, AMQPFrame::Method(2, AMQPClass::Channel(channel::AMQPMethod::Close(_)))) => Some(true),
                Effect::Send(_, AMQPFrame::Method(2, AMQPClass::Basic(basic::AMQPMethod::Cancel(_)))) => Some(false),
                _ => None,
            };
            assert_eq!(out.list.iter().filter_map(method).collect::<Vec<_>>(), [closed], "{version:?}");
            assert_eq!((player.ready("q"), player.core.unacked()), (Some(3), 0));
        }
    }

    /// The same broker, another connection.
    fn again(player: Player) -> Player {
        let Player { mut core, .. } = player;
        let fresh = Player::new(None);
        let peer = fresh.core.peers.into_iter().next().expect("it is connected").1;
        let connection = core.connect(peer.addr);
        core.peers.insert(connection, peer);
        Player { core, connection }
    }
}
