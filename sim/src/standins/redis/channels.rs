//! Publish and subscribe: a message reaches those who are subscribed at that moment and is not kept.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::resp::Reply;

/// A connection, counted from 1 and never again.
pub type Client = u64;

/// The subscribers of each channel.
#[derive(Debug, Default)]
pub struct Channels {
    listeners: BTreeMap<Bytes, BTreeSet<Client>>,
    /// Messages on their way out.
    pub sent: Vec<(Client, Reply)>,
}

impl Channels {
    /// Sends to all who listen; says how many.
    pub fn publish(&mut self, channel: &Bytes, message: &Bytes) -> usize {
        let Some(listeners) = self.listeners.get(channel) else { return 0 };
        let kind = Bytes::from_static(b"message");
        let reply = Reply::Array([kind, channel.clone(), message.clone()].map(Reply::Bulk).into());
        self.sent.extend(listeners.iter().map(|client| (*client, reply.clone())));
        listeners.len()
    }

    /// How many channels a client listens to. While it is any, it may say little else.
    pub fn count(&self, client: Client) -> usize {
        self.listeners.values().filter(|clients| clients.contains(&client)).count()
    }

    /// SUBSCRIBE channel [channel …]
    pub fn subscribe(&mut self, client: Client, channels: &[Bytes]) -> Reply {
        let mut replies = Vec::new();
        for channel in channels {
            self.listeners.entry(channel.clone()).or_default().insert(client);
            replies.push(changed("subscribe", Reply::Bulk(channel.clone()), self.count(client)));
        }
        Reply::Several(replies)
    }

    /// UNSUBSCRIBE [channel …]: all without one.
    pub fn unsubscribe(&mut self, client: Client, channels: &[Bytes]) -> Reply {
        let channels = match channels {
            [] => self.of(client),
            some => some.to_vec(),
        };
        if channels.is_empty() {
            return changed("unsubscribe", Reply::Nil, 0);
        }
        let mut replies = Vec::new();
        for channel in channels {
            if let Some(clients) = self.listeners.get_mut(&channel) {
                clients.remove(&client);
            }
            replies.push(changed("unsubscribe", Reply::Bulk(channel), self.count(client)));
        }
        self.listeners.retain(|_, clients| !clients.is_empty());
        Reply::Several(replies)
    }

    fn of(&self, client: Client) -> Vec<Bytes> {
        let mine = self.listeners.iter().filter(|(_, clients)| clients.contains(&client));
        mine.map(|(channel, _)| channel.clone()).collect()
    }
}

fn changed(kind: &'static str, channel: Reply, count: usize) -> Reply {
    Reply::Array(vec![Reply::Bulk(Bytes::from_static(kind.as_bytes())), channel, Reply::count(count)])
}
