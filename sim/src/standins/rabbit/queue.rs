//! A queue: which message is next, whose turn it is, and where a message goes that comes back.
//!
//! Its law: **a classic queue puts a message back where it was; a quorum queue never does.** What was refused goes behind
//! everything else there, or, if the queue has a delivery limit, before everything that is new; what a channel left behind
//! goes before it in either case. A quorum queue counts how often, and gives up what came back oftener than its limit.
//! So does RabbitMQ 3.10 while fewer than 32 commands of a channel are on their way to a quorum queue: what it does beyond
//! that hangs on time, and nothing here imitates it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use amq_protocol::types::FieldTable;

use super::store::Message;

/// What a consumer of a quorum queue may have unacknowledged if it set no prefetch: RabbitMQ's own number.
const QUORUM_PREFETCH: u32 = 2000;

/// What kind of queue it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Classic,
    /// How often a message may come back.
    Quorum {
        limit: Option<u64>,
    },
}

/// Where a message stands: what was given back and goes before the rest, then the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place(Lane, u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Lane {
    Returned,
    New,
}

/// A message in a queue.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) message: Arc<Message>,
    pub(super) redelivered: bool,
    /// How often it came back; a classic queue does not count.
    pub(super) returned: u64,
}

/// A consumer: connection, channel, consumer tag.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Subscriber {
    pub(super) connection: u64,
    pub(super) channel: u16,
    pub(super) tag: String,
}

/// Why a message comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Return {
    /// The consumer refused it.
    Refused,
    /// The consumer's channel is gone.
    Lost,
}

/// Where a queue's dead letters go.
#[derive(Clone, Debug)]
pub(super) struct DeadLetters {
    pub(super) exchange: String,
    /// In place of the message's own.
    pub(super) routing_key: Option<String>,
}

#[derive(Debug)]
pub(super) struct Queue {
    /// A queue of the same name that is declared later is another one.
    pub(super) serial: u64,
    pub(super) kind: Kind,
    /// As it was declared.
    pub(super) arguments: FieldTable,
    pub(super) dead_letters: Option<DeadLetters>,
    /// Outlives a restart, with its messages: a quorum queue with all, a classic one with those that are persistent.
    pub(super) durable: bool,
    /// The connection that it belongs to and goes with.
    pub(super) exclusive: Option<u64>,
    /// Goes with its last consumer.
    pub(super) auto_delete: bool,
    pub(super) ready: BTreeMap<Place, Entry>,
    /// The next number of a place.
    pub(super) next: u64,
    /// In a classic queue the next one to be served is the first with room.
    pub(super) consumers: VecDeque<Subscriber>,
    /// In a quorum queue consumers with room wait here, the one that has had room for longest first. One that was cancelled goes when
    /// its turn comes.
    pub(super) waiting: VecDeque<Subscriber>,
}

impl Queue {
    pub(super) fn is_quorum(&self) -> bool {
        matches!(self.kind, Kind::Quorum { .. })
    }

    /// Appends a message.
    pub(super) fn push(&mut self, message: Arc<Message>) {
        let place = self.place(Lane::New);
        self.ready.insert(place, Entry { message, redelivered: false, returned: 0 });
    }

    /// Takes a message back, marked.
    ///
    /// # Errors
    /// The message, if it came back too often.
    pub(super) fn put_back(&mut self, place: Place, mut entry: Entry, why: Return) -> Result<(), Entry> {
        entry.redelivered = true;
        let place = match self.kind {
            Kind::Classic => place,
            Kind::Quorum { limit } => {
                entry.returned += 1;
                if limit.is_some_and(|limit| entry.returned > limit) {
                    return Err(entry);
                }
                let behind = why == Return::Refused && limit.is_none();
                self.place(if behind { Lane::New } else { Lane::Returned })
            }
        };
        self.ready.insert(place, entry);
        Ok(())
    }

    fn place(&mut self, lane: Lane) -> Place {
        self.next += 1;
        Place(lane, self.next)
    }

    /// How many deliveries a consumer with this prefetch may have; `None` is no limit.
    pub(super) fn room(&self, prefetch: u16) -> Option<u32> {
        match (prefetch, self.kind) {
            (0, Kind::Classic) => None,
            (0, Kind::Quorum { .. }) => Some(QUORUM_PREFETCH),
            (prefetch, _) => Some(prefetch.into()),
        }
    }

    /// The next message, and whose it is. `room` says whether a consumer has room; `None` if there is no such consumer.
    pub(super) fn take(&mut self, room: impl Fn(&Subscriber) -> Option<bool>) -> Option<(Subscriber, Place, Entry)> {
        let subscriber = match self.kind {
            Kind::Classic => {
                let turn = self.consumers.iter().position(|subscriber| room(subscriber) == Some(true))?;
                self.ready.first_key_value()?;
                let subscriber = self.consumers.remove(turn)?;
                self.consumers.push_back(subscriber.clone());
                subscriber
            }
            Kind::Quorum { .. } => loop {
                let first = room(self.waiting.front()?);
                if first.is_some() {
                    self.ready.first_key_value()?;
                }
                let subscriber = self.waiting.pop_front()?;
                if first == Some(true) {
                    break subscriber;
                }
            },
        };
        let (place, entry) = self.ready.pop_first()?;
        Some((subscriber, place, entry))
    }

    /// A consumer has room, again or still.
    pub(super) fn wait(&mut self, subscriber: &Subscriber) {
        if self.is_quorum() && !self.waiting.contains(subscriber) {
            self.waiting.push_back(subscriber.clone());
        }
    }

    /// What a restart leaves of it. After a crash (not `clean`) a classic queue does not know what it had delivered, and
    /// marks everything; a quorum queue knows.
    pub(super) fn restart(&mut self, clean: bool) {
        self.consumers.clear();
        self.waiting.clear();
        if !self.is_quorum() {
            self.ready.retain(|_, entry| entry.message.persistent());
            self.ready.values_mut().for_each(|entry| entry.redelivered |= !clean);
        }
    }
}

#[cfg(test)]
mod tests {
    use amq_protocol::protocol::BasicProperties;

    use super::*;

    fn queue(kind: Kind) -> Queue {
        let mut queue = Queue {
            serial: 1,
            kind,
            arguments: FieldTable::default(),
            dead_letters: None,
            durable: true,
            exclusive: None,
            auto_delete: false,
            ready: BTreeMap::new(),
            next: 0,
            consumers: VecDeque::new(),
            waiting: VecDeque::new(),
        };
        for body in ["a", "b", "c", "d"] {
            let (exchange, routing_key) = (String::new(), "q".to_owned());
            let properties = BasicProperties::default();
            queue.push(Arc::new(Message { exchange, routing_key, properties, body: body.into() }));
        }
        queue
    }

    fn subscriber(tag: &str) -> Subscriber {
        Subscriber { connection: 1, channel: 1, tag: tag.into() }
    }

    /// Takes out the first two and puts them back, the second first. Returns the order of all, or what is given up.
    fn returned(kind: Kind, why: Return) -> Result<String, u64> {
        let mut queue = queue(kind);
        let two: Vec<_> = (0..2).filter_map(|_| queue.ready.pop_first()).collect();
        for (place, entry) in two.into_iter().rev() {
            queue.put_back(place, entry, why).map_err(|entry| entry.returned)?;
        }
        let bodies = queue.ready.into_values().map(|entry| {
            assert_eq!(entry.returned, u64::from(entry.redelivered && kind != Kind::Classic));
            String::from_utf8_lossy(&entry.message.body).into_owned()
        });
        Ok(bodies.collect())
    }

    #[test]
    fn a_message_comes_back_to_the_place_that_its_queue_has_for_it() {
        let (plain, limited) = (Kind::Quorum { limit: None }, Kind::Quorum { limit: Some(1) });
        for (kind, why, order) in [
            (Kind::Classic, Return::Refused, "abcd"),
            (Kind::Classic, Return::Lost, "abcd"),
            (plain, Return::Refused, "cdba"),
            (plain, Return::Lost, "bacd"),
            (limited, Return::Refused, "bacd"),
            (limited, Return::Lost, "bacd"),
        ] {
            assert_eq!(returned(kind, why), Ok(order.into()), "{kind:?} {why:?}");
        }
    }

    #[test]
    fn what_came_back_oftener_than_the_limit_is_given_up() {
        for why in [Return::Refused, Return::Lost] {
            assert_eq!(returned(Kind::Quorum { limit: Some(0) }, why), Err(1), "{why:?}");
            let mut queue = queue(Kind::Quorum { limit: Some(2) });
            for times in 1..=3 {
                let (place, entry) = queue.ready.pop_first().expect("four are there");
                assert_eq!(queue.put_back(place, entry, why).is_ok(), times <= 2, "{times}");
            }
            assert_eq!(queue.ready.len(), 3);
        }
    }

    #[test]
    fn a_consumer_that_has_had_one_waits_behind_the_others() {
        let turns = |kind, room: fn(&Subscriber) -> Option<bool>| {
            let mut queue = queue(kind);
            for tag in ["one", "two", "three"] {
                queue.consumers.push_back(subscriber(tag));
                queue.wait(&subscriber(tag));
            }
            let mut tags = Vec::new();
            while let Some((subscriber, ..)) = queue.take(room) {
                queue.wait(&subscriber);
                tags.push(subscriber.tag);
            }
            tags
        };
        for kind in [Kind::Classic, Kind::Quorum { limit: None }] {
            assert_eq!(turns(kind, |_| Some(true)), ["one", "two", "three", "one"]);
            assert_eq!(turns(kind, |who| Some(who.tag != "one")), ["two", "three", "two", "three"]);
            assert_eq!(turns(kind, |_| Some(false)), Vec::<String>::new());
        }
        assert_eq!(turns(Kind::Quorum { limit: None }, |who| (who.tag == "two").then_some(true)), ["two"; 4]);
    }

    #[test]
    fn a_quorum_queue_keeps_all_over_a_crash_and_knows_what_it_had_delivered() {
        for (kind, left) in [(Kind::Classic, 0), (Kind::Quorum { limit: None }, 4)] {
            let mut queue = queue(kind);
            queue.restart(false);
            assert_eq!(queue.ready.len(), left, "{kind:?}: none is persistent");
            assert!(!queue.ready.values().any(|entry| entry.redelivered));
        }
    }
}
