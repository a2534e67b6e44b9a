//! A standby to which commits are sent after they were answered. Once it is promoted, what it has not heard of never was.
//!
//! It hears of everything at once, until a fault keeps it from that; so there is a copy only while there is such a fault.

use std::mem::take;

use super::engine::Database;
use super::observation::{Failover, Statement};
use crate::standins::observation::Tap;

/// What the standby knows.
#[derive(Default)]
pub(super) enum Standby {
    /// Everything.
    #[default]
    Current,
    /// Everything, but it will not hear of the next transaction.
    Falling,
    /// What was committed when it stopped hearing.
    Behind {
        database: Box<Database>,
        /// What has changed rows since.
        missed: Vec<Statement>,
        tap: Tap,
    },
}

impl Standby {
    /// It stops hearing, unless it has already. A transaction that is open is the last that it hears of.
    pub fn fall(&mut self) {
        if matches!(self, Standby::Current) {
            *self = Standby::Falling;
        }
    }

    /// A transaction is about to begin on `primary`. Returns whether the standby stops hearing here.
    pub fn begins(&mut self, primary: &Database, tap: &Tap) -> bool {
        let falls = matches!(self, Standby::Falling);
        if falls {
            *self = Standby::Behind { database: Box::new(primary.copy()), missed: Vec::new(), tap: tap.clone() };
        }
        falls
    }

    /// These statements were committed, and have changed rows. Returns whether the standby misses them.
    pub fn misses(&mut self, statements: impl Iterator<Item = Statement>) -> bool {
        let Standby::Behind { missed, .. } = self else { return false };
        missed.extend(statements);
        true
    }

    /// It is the primary from here on, in the place of `primary`. Returns what is to be said of that, and where.
    pub fn promote(&mut self, primary: &mut Database) -> Option<(Tap, Failover)> {
        let Standby::Behind { database, missed, tap } = take(self) else { return None };
        *primary = *database;
        Some((tap, Failover::Promoted(missed)))
    }
}
