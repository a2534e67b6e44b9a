//! What a failover of Postgres has undone. A loss that nobody here knows the meaning of is an error of the harness: else the judge
//! would go on with a truth that is none.

use lychgate::store::sql;
use lychgate_sim::standins::postgres::observation::{Failover, Statement};

use super::{Executed, LychgateReader, Misread};
use crate::events::StoreEvent;

/// Changes that mean nothing to the judge when they are undone: they lock, or say of something that it was so a moment ago.
const PASSING: &[sql::Statement] = &[sql::SESSION_LOCK, sql::RUN_BEAT, sql::SWEEP_SEEN, sql::AGENT_ANSWERED];

impl LychgateReader {
    pub(super) fn failover(&self, failover: &Failover) -> Result<StoreEvent, Misread> {
        match failover {
            Failover::LeftBehind => Ok(StoreEvent::LeftBehind {}),
            Failover::Promoted(lost) => Ok(StoreEvent::CommitsLost { runs: self.unclaimed(lost)? }),
        }
    }

    /// The runs whose claims are lost, each once. Whoever had such a claim works for the run until another claims it.
    fn unclaimed(&self, lost: &[Statement]) -> Result<Vec<String>, Misread> {
        let mut runs = Vec::new();
        for statement in lost {
            let Some(executed) = Executed::of(statement)?.filter(|executed| !PASSING.contains(executed.sql)) else {
                continue;
            };
            if *executed.sql != sql::RUN_CLAIM {
                return Err(Misread(format!("nobody knows what it means that `{}` is undone", executed.sql.name)));
            }
            if let Some((_, run)) = self.named(&executed.text("run")?).filter(|(_, run)| !runs.contains(run)) {
                runs.push(run);
            }
        }
        Ok(runs)
    }
}
