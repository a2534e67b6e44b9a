//! Which connections are open, as the relays see them: a connection is open from the process's connect to its end.

use std::collections::BTreeMap;
use std::time::Duration;

use lychgate_sim::trace::event::{Event, What, WorldEvent};

use crate::names::ends;

/// A connection that is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Open {
    /// The life of the near end that opened the connection.
    pub incarnation: u32,
    /// When.
    pub since: Duration,
}

/// Follows connections. A road is a pair of names: who dialled, and whom.
#[derive(Debug, Default)]
pub struct Links {
    roads: BTreeMap<(String, String), BTreeMap<u32, Open>>,
    /// When the last connection of a road ended.
    closed: BTreeMap<(String, String), Duration>,
}

impl Links {
    /// Learns of an event.
    pub fn observe<O>(&mut self, event: &Event<O>) {
        let road = |link: &str| ends(link).map(|(near, far)| (near.to_string(), far.to_string()));
        match &event.what {
            What::World(WorldEvent::LinkOpened { link, conn }) => {
                let Some(road) = road(link) else { return };
                let open = Open { incarnation: event.incarnation, since: event.at };
                self.roads.entry(road).or_default().insert(*conn, open);
            }
            What::World(WorldEvent::LinkClosed { link, conn, .. }) => {
                let Some(road) = road(link) else { return };
                self.roads.entry(road.clone()).or_default().remove(conn);
                self.closed.insert(road, event.at);
            }
            _ => {}
        }
    }

    /// Every road that was ever used, and what is open on it.
    pub fn roads(&self) -> impl Iterator<Item = (&str, &str, &BTreeMap<u32, Open>)> {
        self.roads.iter().map(|((near, far), open)| (near.as_str(), far.as_str(), open))
    }

    /// How many connections lead to `far`.
    pub fn leading_to(&self, far: &str) -> usize {
        self.roads.iter().filter(|((_, to), _)| to == far).map(|(_, open)| open.len()).sum()
    }

    /// When the last connection to `far` ended; zero if none has.
    pub fn last_closed(&self, far: &str) -> Duration {
        let closed = self.closed.iter().filter(|((_, to), _)| to == far).map(|(_, at)| *at);
        closed.max().unwrap_or_default()
    }
}
