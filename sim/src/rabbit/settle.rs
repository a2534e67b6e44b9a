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
use super::queue::{Entry, Kind, Place, Return, Subscriber};
use super::store::Message;
use crate::observation::Broker;

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
    /// Its consumer's.
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
        self.bury(dead, out);
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

    /// Takes back what channels have left behind. Returns the queues that it came from, and letters to bury.
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
    pub(super) fn bury(&mut self, dead: Vec<Dead>, out: &mut Effects) {
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
