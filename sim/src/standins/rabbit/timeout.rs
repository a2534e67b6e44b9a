//! Deliveries that stay unacknowledged for too long. RabbitMQ looks once a minute, and takes them back by what costs their
//! consumer most: its channel, or, as [`Version::V4_3`](super::Version) says, its subscription.

use std::collections::BTreeSet;
use std::time::Duration;

use amq_protocol::types::{AMQPValue, FieldTable};

use super::channel::Channel;
use super::core::{Core, Effects, Refusal};
use super::queue::Subscriber;

/// The argument of a consumer that has a timeout of its own, in milliseconds.
const ARGUMENT: &str = "x-consumer-timeout";

/// The timeout in a consumer's arguments; any other argument stops the run.
pub(super) fn own(arguments: &FieldTable, honoured: bool) -> Option<Duration> {
    let known = |name: &str| honoured && name == ARGUMENT;
    let odd = arguments.inner().keys().find(|name| !known(name.as_str()));
    assert!(odd.is_none(), "RabbitMQ stand-in: an argument {odd:?} of a consumer is not known here");
    let millis = match arguments.inner().get(ARGUMENT)? {
        AMQPValue::LongInt(millis) => u64::try_from(*millis).ok(),
        AMQPValue::LongLongInt(millis) => u64::try_from(*millis).ok(),
        _ => None,
    };
    Some(Duration::from_millis(millis.expect("RabbitMQ stand-in: a consumer's timeout is a number of milliseconds")))
}

impl Core {
    /// Whether any delivery can be too old.
    pub(super) fn looks(&self) -> bool {
        self.settings.consumer_timeout.is_some() || self.settings.version.cancels_who_is_late()
    }

    /// Once a minute: takes back what a connection has had for too long.
    pub(super) fn look(&mut self, connection: u64, out: &mut Effects) {
        let Some(peer) = self.peers.get(&connection) else { return };
        let cancels = self.settings.version.cancels_who_is_late() && peer.cancel_notify;
        let late: Vec<(u16, BTreeSet<String>, Duration)> =
            peer.channels.iter().filter_map(|(id, channel)| self.late(*id, channel, out)).collect();
        for (id, tags, limit) in late {
            if cancels {
                tags.into_iter().for_each(|tag| self.expire(Subscriber { connection, channel: id, tag }, out));
                continue;
            }
            let text = format!(
                "PRECONDITION_FAILED - delivery acknowledgement on channel {id} timed out. Timeout value used: {} ms. \
                 This timeout value can be configured, see consumers doc guide to learn more",
                limit.as_millis()
            );
            self.close_channel(connection, id, Refusal::new(406, text), (0, 0), out);
        }
    }

    /// The consumers of a channel that have had something for too long, and for how long they might.
    fn late(&self, id: u16, channel: &Channel, out: &Effects) -> Option<(u16, BTreeSet<String>, Duration)> {
        let limit = |tag: &str| {
            let own = channel.consumers.get(tag).and_then(|consumer| consumer.timeout);
            own.or(self.settings.consumer_timeout)
        };
        let late = channel.unacked.values().filter_map(|unacked| {
            let limit = limit(&unacked.tag)?;
            (unacked.since + limit < out.now).then(|| (unacked.tag.clone(), limit))
        });
        let late: Vec<(String, Duration)> = late.collect();
        let (_, limit) = late.first()?.clone();
        Some((id, late.into_iter().map(|(tag, _)| tag).collect(), limit))
    }

    /// Cancels a consumer that is late. What it has goes back to its queue; an acknowledgement of that comes too late and
    /// is one of an unknown tag, which the documentation leaves open.
    fn expire(&mut self, subscriber: Subscriber, out: &mut Effects) {
        let Some(peer) = self.peers.get_mut(&subscriber.connection) else { return };
        let addr = peer.addr;
        let Some(channel) = peer.channels.get_mut(&subscriber.channel) else { return };
        let its = channel.unacked.extract_if(.., |_, unacked| unacked.tag == subscriber.tag);
        let left = its.map(|(_, unacked)| (addr, unacked)).collect();
        self.cancelled(&subscriber, out);
        let mut touched = self.depart(|other| *other == subscriber, out);
        let (from, dead) = self.take_back(left, out);
        touched.extend(from);
        for queue in touched {
            self.deliver(&queue, out);
        }
        self.reap(dead, out);
    }
}
