//! Marks: what a process that is told to stop notes on its runs before it waits, so that the executor that finds them
//! after its death knows why they lie there. A mark is its maker's own: nobody else takes it off but the claim that
//! tells the user.

use super::pool::{Param, Postgres};
use super::work::named;
use super::{Store, StoreError, sql};
use crate::ids::{Fence, Owner, RunId};
use crate::limits;

/// Why runs are marked.
pub(super) const SHUTDOWN: &str = "shutdown";

/// The name of a mark's maker.
fn maker(owner: &Owner) -> String {
    format!("{}/{}", owner.process, owner.incarnation)
}

impl Store {
    /// Marks those of `runs` that are still `owner`'s, not marked, and not of a suspended session. Returns how many.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: repeat it.
    pub async fn mark(&self, owner: &Owner, runs: &[(RunId, Fence)]) -> Result<usize, StoreError> {
        let (maker, named) = (maker(owner), named(runs));
        let params = [
            Param::Text(&maker),
            Param::Text(SHUTDOWN),
            Param::Text(&owner.process),
            Param::Int(owner.incarnation),
            Param::Text(&named),
        ];
        Ok(Postgres::within(limits::MARK, self.one(sql::RUN_MARK, &params)).await?.len())
    }

    /// Takes `owner`'s own marks off runs that are over. Returns how many.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: repeat it.
    pub async fn unmark(&self, owner: &Owner) -> Result<usize, StoreError> {
        let maker = maker(owner);
        Ok(Postgres::within(limits::UNMARK, self.one(sql::RUN_UNMARK, &[Param::Text(&maker)])).await?.len())
    }
}
