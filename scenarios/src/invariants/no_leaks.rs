//! What a process takes it gives back: a lease when its run is over, a delivery when there is nothing left to do for it,
//! a connection when no caller needs it; and a process that exits in order leaves nothing behind.

use std::collections::BTreeMap;
use std::time::Duration;

use lychgate::limits::{BROKER_HEARTBEAT, LEASE_TTL};
use lychgate_sim::trace::event::{Event, What, WorldEvent};
use lychgate_sim::trace::invariant::{Breach, Obligation};

use super::Promise;
use super::world::World;
use crate::events::{DeliveryEvent, Did, How, LiveEvent, Queue, RunEvent};
use crate::names::{self, Role, role};

/// Letting go of a lease, with a healthy Redis: as long as both terminal writes may take.
const HEALTHY: Duration = Duration::from_secs(20);
/// The same for what may need a new connection, and after something has healed.
const HEALED: Duration = Duration::from_secs(60);
/// A host that is gone says nothing: RabbitMQ misses it after three heartbeats, and a moment later gives its deliveries back.
const MISSED: Duration = Duration::from_secs(3 * BROKER_HEARTBEAT.as_secs() + 5);
/// A run that is claimed so soon after its message is claimed because of a hint.
const HINTED: Duration = Duration::from_secs(5);
/// From a death to the end of its connections: the world's relays read nothing more from the dead.
const BURIED: Duration = Duration::from_secs(1);

struct Lease {
    run: String,
    fence: i64,
    process: String,
    incarnation: u32,
    /// When it was first taken under this fence.
    since: Duration,
    /// When it lapses, unless it is renewed.
    until: Duration,
}

struct Delivery {
    process: String,
    incarnation: u32,
    line: u32,
    queue: Queue,
    run: String,
    since: Duration,
}

/// See the module.
#[derive(Default)]
pub struct NoLeaks {
    /// By session.
    leases: BTreeMap<String, Lease>,
    deliveries: Vec<Delivery>,
    armed: bool,
}

fn of<'a>(process: &'a str) -> impl Fn(&str) -> bool + 'a {
    move |target| names::near(target) == process
}

impl NoLeaks {
    /// Whether neither `process` nor any link of it has been faulty from a minute before `since` until now.
    fn undisturbed(&self, world: &World, process: &str, since: Duration) -> bool {
        world.health.calm_since(of(process)).is_some_and(|calm| calm.is_zero() || calm + HEALED <= since)
    }

    fn leased(
        &mut self,
        world: &World,
        event: &Event<Did>,
        session: &str,
        lease: Lease,
        lasts: Option<u64>,
    ) -> Result<(), Breach> {
        if lasts.is_none_or(|lasts| lasts > LEASE_TTL.as_secs()) {
            return Err(Breach::now(format!("the lease on {session} outlasts its {} s", LEASE_TTL.as_secs())));
        }
        if let Some(over) = world.runs.over(&lease.run)
            && self.undisturbed(world, &event.process, event.at)
            // Who goes on after a pause learns a moment later that the run is over.
            && event.at > world.health.life(&event.process).since.max(over.at) + HEALED
        {
            let says = format!("{} renews the lease on {session} long after {} is over", event.process, lease.run);
            return Err(Breach::now(says));
        }
        let held = self.leases.get(session).filter(|held| held.run == lease.run && held.fence == lease.fence);
        let since = held.map_or(event.at, |held| held.since);
        self.leases.insert(session.to_string(), Lease { since, ..lease });
        Ok(())
    }

    /// A delivery was acknowledged. The one that led to a claim stands for the run as long as that goes on, for whoever comes after
    /// its owner.
    fn acknowledged(&self, world: &World, event: &Event<Did>, line: u32, run: &str) -> Result<(), Breach> {
        let Some((label, run)) = world.runs.get(run).map(|row| (run, row)) else { return Ok(()) };
        let Some(owner) = run.owner().filter(|owner| owner.is(&event.process, event.incarnation)) else {
            return Ok(());
        };
        let led = |delivery: &Delivery| {
            delivery.process == event.process
                && (delivery.line, delivery.queue) == (line, Queue::Runs)
                && delivery.run == label
                && delivery.since <= owner.since
        };
        // A sweep may be faster than a hint that waits.
        let hinted = owner.since <= run.accepted + HINTED && world.health.is_undisturbed_since(run.accepted);
        if hinted && self.deliveries.iter().any(led) {
            return Err(Breach::now(format!(
                "{} acknowledged the delivery of {label}, which it works on",
                owner.process
            )));
        }
        Ok(())
    }

    fn settled(&mut self, event: &Event<Did>, line: u32, queue: Queue, run: &str) {
        let this = |delivery: &Delivery| {
            delivery.process == event.process && delivery.line == line && delivery.queue == queue && delivery.run == run
        };
        if let Some(index) = self.deliveries.iter().position(this) {
            self.deliveries.remove(index);
        }
    }

    /// A life ended by itself, in order: it holds nothing any more.
    fn left(&self, world: &World, event: &Event<Did>) -> Result<(), Breach> {
        let process = &event.process;
        let its = |name: &str, incarnation: u32| name == process && incarnation == event.incarnation;
        let lease = self.leases.iter().find(|(_, lease)| {
            its(&lease.process, lease.incarnation)
                && lease.until > event.at
                && self.undisturbed(world, process, lease.since)
        });
        if let Some((session, _)) = lease {
            return Err(Breach::now(format!("{process} has left in order and holds the lease on {session}")));
        }
        let delivery = self.deliveries.iter().find(|delivery| {
            its(&delivery.process, delivery.incarnation) && self.undisturbed(world, process, delivery.since)
        });
        if let Some(Delivery { run, .. }) = delivery {
            return Err(Breach::now(format!("{process} has left in order and has a delivery of {run} unsettled")));
        }
        Ok(())
    }

    /// A lease is let go of by who held it. One whose run somebody else has ended, or whose holder was cut off from
    /// Redis, lapses: nobody needs to see to that, as long as nobody renews it.
    fn lease_owed(&self, world: &World, session: &str, lease: &Lease) -> Option<Obligation> {
        let over = world.runs.over(&lease.run)?;
        let life = world.health.life(&lease.process);
        let holder = over.by == lease.process && life.alive && life.incarnation == lease.incarnation;
        if !holder || !self.undisturbed(world, &lease.process, lease.since) {
            return None;
        }
        let says = format!("{} lets go of the lease on {session}, as {} is over", lease.process, lease.run);
        // Who stands still can give nothing back.
        let due = if life.paused { Duration::MAX } else { life.since.max(over.at) + HEALTHY };
        Some(Obligation::new(says, over.at, due))
    }

    fn delivery_owed(&self, world: &World, delivery: &Delivery) -> Option<Obligation> {
        let Delivery { process, run, queue, .. } = delivery;
        let since = match queue {
            Queue::Cancels => delivery.since,
            Queue::Runs => world.runs.over(run)?.at.max(delivery.since),
        };
        let life = world.health.life(process);
        let calm = world.health.calm_since(of(process)).filter(|_| !life.paused);
        let within = if life.alive { HEALED } else { MISSED };
        let due = calm.map_or(Duration::MAX, |calm| calm.max(since).max(life.since) + within);
        let says = format!("the delivery of {run} from the queue of {} to {process} is settled", queue.word());
        Some(Obligation::new(says, since, due))
    }

    fn links_owed(&self, world: &World) -> Vec<Obligation> {
        let mut owed = Vec::new();
        for (near, far, open) in world.links.roads() {
            if open.is_empty() {
                continue;
            }
            let life = world.health.life(near);
            // Users have no lives that the world counts.
            let of_user = life.incarnation == 0;
            for link in open.values() {
                if !of_user && (!life.alive || link.incarnation < life.incarnation) {
                    let says = format!("the connection of a dead {near} to {far} is closed");
                    owed.push(Obligation::new(says, life.since, life.since + BURIED));
                } else if !world.runs.any_owned() && matches!(far, "provider" | "agents") {
                    let since = world.runs.last_let_go().max(link.since);
                    let says = format!("{near}, which works on no run, closes its connection to {far}");
                    let calm = world.health.calm_since(of(near));
                    let due = calm.map_or(Duration::MAX, |calm| calm.max(since) + HEALED);
                    owed.push(Obligation::new(says, since, due));
                }
            }
            // One connection is the gateway's own; the others belong to streams, and those to users.
            if role(near) == Some(Role::Gateway)
                && far == "redis"
                && open.len() > 1
                && world.links.leading_to(near) == 0
            {
                let newest = open.values().map(|link| link.since).max().unwrap_or_default();
                let since = newest.max(world.links.last_closed(near));
                let calm = world.health.calm_since(|target| names::far(target) == near);
                let due = calm.map_or(Duration::MAX, |calm| calm.max(since) + HEALED);
                let says = format!("{near}, which no user is connected to, closes its readers' connections to redis");
                owed.push(Obligation::new(says, since, due));
            }
        }
        owed
    }
}

impl Promise for NoLeaks {
    fn name(&self) -> &'static str {
        "no_leaks"
    }

    fn says(&self) -> &'static str {
        "leases, deliveries and connections are given back when their use is over, and all of them at a clean exit"
    }

    fn observe(&mut self, event: &Event<Did>, world: &World) -> Result<(), Breach> {
        if let What::World(WorldEvent::Exited { code: 0 }) = &event.what {
            return self.left(world, event);
        }
        let What::Product(did) = &event.what else { return Ok(()) };
        let (process, incarnation) = (event.process.clone(), event.incarnation);
        match did {
            Did::Run(RunEvent::Ended { run, .. }) => self.armed |= self.leases.values().any(|lease| lease.run == *run),
            Did::Live(LiveEvent::Leased { session, run, fence, lasts }) => {
                let until = event.at + Duration::from_secs(lasts.unwrap_or_default());
                let lease = Lease { run: run.clone(), fence: *fence, process, incarnation, since: event.at, until };
                self.leased(world, event, session, lease, *lasts)?;
            }
            Did::Live(LiveEvent::Released { session, run, fence }) => {
                self.leases.retain(|of, lease| of != session || lease.run != *run || lease.fence != *fence);
            }
            Did::Delivery(DeliveryEvent::Delivered { run, queue, line, .. }) => {
                let (run, queue, line) = (run.clone(), *queue, *line);
                self.deliveries.push(Delivery { process, incarnation, line, queue, run, since: event.at });
            }
            Did::Delivery(DeliveryEvent::Settled { run, queue, line, how, .. }) => {
                if (*queue, *how) == (Queue::Runs, How::Acked) {
                    self.acknowledged(world, event, *line, run)?;
                }
                self.settled(event, *line, *queue, run);
            }
            _ => {}
        }
        Ok(())
    }

    fn pending(&self, world: &World) -> Vec<Obligation> {
        let leases = self.leases.iter().filter_map(|(session, lease)| self.lease_owed(world, session, lease));
        let deliveries = self.deliveries.iter().filter_map(|delivery| self.delivery_owed(world, delivery));
        leases.chain(deliveries).chain(self.links_owed(world)).collect()
    }

    fn conclude(&mut self) -> Result<(), Breach> {
        match self.deliveries.first() {
            None => Ok(()),
            Some(Delivery { process, run, .. }) => {
                Err(Breach::now(format!("at rest a delivery of {run} to {process} is unsettled")))
            }
        }
    }

    fn armed(&self) -> bool {
        self.armed
    }
}
