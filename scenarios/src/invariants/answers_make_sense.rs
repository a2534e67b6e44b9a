//! Every answer that a user or an operator gets is one that its endpoint may give, a status and a shape of the endpoint's table. Whether
//! what it says is so, `answers_bind` asks.
//! Two faults excuse a gateway: something in between answered in its place, or changed bytes on one of its links.

use std::time::Duration;

use lychgate_sim::trace::event::{Event, What};
use lychgate_sim::trace::invariant::Breach;

use super::Promise;
use super::world::World;
use crate::events::{Did, UserEvent};
use crate::names::near;

/// A request is answered, or given up, within this: an answer may have met a fault that has healed since.
const ON_THE_WAY: Duration = Duration::from_secs(20);

/// See the module.
#[derive(Default)]
pub struct AnswersMakeSense {
    armed: bool,
}

/// Whether a fault may have made what `user` was answered by `gateway`.
pub(super) fn is_spoilt(world: &World, user: &str, gateway: &str, at: Duration) -> bool {
    let since = at.saturating_sub(ON_THE_WAY);
    let hers = format!("{user}->{gateway}");
    world.health.was_struck_since(&["answer", "corrupt"], |target| target == hers, since)
        || world.health.was_struck_since(&["corrupt"], |target| near(target) == gateway, since)
}

impl Promise for AnswersMakeSense {
    fn name(&self) -> &'static str {
        "answers_make_sense"
    }

    fn says(&self) -> &'static str {
        "a gateway answers each request with a status and a shape that its endpoint may give"
    }

    fn observe(&mut self, event: &Event<Did>, world: &World) -> Result<(), Breach> {
        let What::Product(did) = &event.what else { return Ok(()) };
        match did {
            // Each of them was an answer.
            Did::User(UserEvent::Heard { .. })
            | Did::User(UserEvent::TurnedAway { .. })
            | Did::User(UserEvent::Found { .. })
            | Did::User(UserEvent::Saw { .. })
            | Did::User(UserEvent::Heartbeat { .. }) => {
                self.armed = true;
            }
            Did::User(UserEvent::Puzzled { gateway, request, answer, legal, .. })
                if !is_spoilt(world, &event.process, gateway, event.at) =>
            {
                let user = &event.process;
                let says = format!("{gateway} answered {user}'s {request} with {answer}; legal are {legal}");
                return Err(Breach::now(says));
            }
            _ => {}
        }
        Ok(())
    }

    fn armed(&self) -> bool {
        self.armed
    }
}

#[cfg(test)]
mod tests {
    use lychgate_sim::link::faults;
    use lychgate_sim::trace::event::WorldEvent;
    use lychgate_sim::trace::fault::FaultId;

    use super::*;
    use crate::invariants::world::SharedWorld;

    fn puzzled_at(seconds: u64, faults: &[(u64, WorldEvent)]) -> Result<(), Breach> {
        let world = SharedWorld::default();
        let event =
            |seq, at, what| Event { seq, at: Duration::from_secs(at), process: "ann".into(), incarnation: 0, what };
        for (seq, (at, fault)) in faults.iter().enumerate() {
            drop(world.after(&event(seq as u64, *at, What::<Did>::World(fault.clone()))));
        }
        let puzzled = Did::User(UserEvent::Puzzled {
            session: "ann/1".into(),
            run: "ann/1#1".into(),
            gateway: "gateway-1".into(),
            request: "POST /sessions",
            answer: "200 with an empty body".into(),
            legal: "202 {run}".into(),
        });
        let event = event(99, seconds, What::Product(puzzled));
        AnswersMakeSense::default().observe(&event, &world.after(&event))
    }

    #[test]
    fn what_no_table_has_is_a_breach_unless_a_fault_was_in_between() {
        let breach = puzzled_at(5, &[]).unwrap_err().says;
        assert!(breach.contains("gateway-1 answered ann's POST /sessions with 200 with an empty body"), "{breach}");
        assert!(breach.ends_with("legal are 202 {run}"), "{breach}");
        let target = |link: &str| link.to_owned();
        let struck_by =
            |kind, link| WorldEvent::FaultStruck { fault: FaultId::numbered(1), kind, target: target(link) };
        let struck = |link| struck_by(&faults::ANSWER.kind, link);
        let healed = |link| WorldEvent::FaultHealed {
            fault: FaultId::numbered(1),
            kind: &faults::ANSWER.kind,
            target: target(link),
            lasted: true,
        };
        let (hers, other) = ("ann->gateway-1", "ann->gateway-2");
        assert_eq!(puzzled_at(5, &[(1, struck(hers))]), Ok(()));
        assert_eq!(puzzled_at(30, &[(1, struck(hers)), (10, healed(hers))]), Ok(()));
        assert!(puzzled_at(31, &[(1, struck(hers)), (10, healed(hers))]).is_err());
        assert!(puzzled_at(5, &[(1, struck(other))]).is_err());
        // A store that is away is no reason for nonsense; bytes that were changed on the way are.
        assert!(puzzled_at(5, &[(1, struck_by(&faults::WEDGE.kind, "gateway-1->postgres"))]).is_err());
        assert_eq!(puzzled_at(5, &[(1, struck_by(&faults::CORRUPT.kind, "gateway-1->postgres"))]), Ok(()));
    }
}
