//! Reconciling, in sweeps: finds runs that no hint told of and runs whose owner is gone, ends what is stuck, and makes
//! the live view say what Postgres says. It needs no reader, no broker and no restart; every executor does it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use super::active_runs::ActiveRuns;
use super::claim::Claims;
use super::drain_signal::DrainSignal;
use super::slots::Line;
use super::tasks::Tasks;
use crate::ids::{Owner, RunId, SessionId};
use crate::limits::{self, Limits};
use crate::live::{Entry, Live};
use crate::run::{self, End, Row};
use crate::store::{Store, StoreError};

/// Runs to claim, the oldest first; as many as one sweep reads.
type Due = VecDeque<(RunId, SessionId)>;

/// The sweeps of one incarnation.
pub(super) struct Reconcile {
    pub store: Store,
    pub live: Live,
    pub owner: Owner,
    pub limits: Limits,
    pub active: Arc<ActiveRuns>,
    pub drain: DrainSignal,
    pub claims: Arc<Claims>,
    pub tasks: Tasks,
}

impl Reconcile {
    /// Sweeps until it is dropped.
    pub(super) async fn run(self) {
        let (mut pause, mut due, mut place) = (self.limits.sweep_min, VecDeque::new(), None);
        loop {
            // What is due now will be in the next sweep too, unless somebody has claimed it.
            let _ = tokio::time::timeout(pause, self.claim_due(&mut due)).await;
            due.clear();
            pause = match self.sweep(&mut due, &mut place).await {
                Ok(pause) => pause,
                Err(error) => {
                    tracing::warn!(%error, "a sweep was cut short");
                    self.limits.sweep_min
                }
            };
        }
    }

    /// Claims what is due, the oldest first, each as soon as there is a slot. Does not return.
    async fn claim_due(&self, due: &mut Due) -> Infallible {
        while !due.is_empty() && !self.drain.has_begun() {
            let slot = self.active.slots.take(Line::Overdue).await;
            if let Some((run, session)) = due.pop_front().filter(|_| !self.drain.has_begun()) {
                let claims = self.claims.clone();
                self.tasks.spawn_run(async move {
                    claims.claim_and_work(&run, &session, false, slot).await;
                });
            }
        }
        std::future::pending().await
    }

    /// Sweeps once, and notes what is `due`: all of that, and as many of the other open rows as one sweep reads, from
    /// `place` on. Returns how long to sleep: until the earliest row can be due.
    async fn sweep(&self, due: &mut Due, place: &mut Option<Row>) -> Result<Duration, StoreError> {
        if self.store.newest_incarnation(&self.owner.process).await? > self.owner.incarnation {
            self.drain.begin("a later life of this process has begun");
        }
        // The view is read before the rows: an entry without an open row is then surely over.
        let entries = self.live.entries().await;
        let overdue = self.store.due_runs(&self.owner, &self.limits).await?;
        let mut rows = self.store.open_runs(place.as_ref()).await?;
        // Where the rows end they begin anew: none is out of reach, however many there are.
        let full = rows.len() >= usize::try_from(limits::SWEEP_ROWS).unwrap_or(usize::MAX);
        *place = rows.last().filter(|_| full).cloned();
        let read: BTreeSet<RunId> = overdue.iter().map(|row| row.run.clone()).collect();
        rows.retain(|row| !read.contains(&row.run));
        let rows: Vec<Row> = overdue.into_iter().chain(rows).collect();
        for row in &rows {
            self.reconcile(row, due).await?;
        }
        match entries {
            Ok(entries) => self.repair_view(entries, &rows).await?,
            Err(error) => tracing::debug!(%error, "the live view waits for the next sweep"),
        }
        let limits = &self.limits;
        if !due.is_empty() || rows.iter().any(|row| row.owner.is_none()) {
            self.store.see_waiting(limits).await?;
        }
        let earliest = rows.iter().map(|row| row.due_in(limits)).min().unwrap_or(limits.sweep_max);
        Ok(earliest.clamp(limits.sweep_min, limits.sweep_max))
    }

    async fn reconcile(&self, row: &Row, due: &mut Due) -> Result<(), StoreError> {
        let limits = &self.limits;
        if self.active.has(&row.run) {
            return Ok(());
        }
        // Before anything else: of a run whose owner is gone a claim decides, whatever led to it.
        if row.is_due(&self.owner, limits) {
            due.push_back((row.run.clone(), row.session.clone()));
        } else if row.is_stuck(limits) {
            self.end_stuck(row).await?;
        } else if let Some(claim) = row.claim.as_ref().filter(|_| row.is_stray(&self.owner)) {
            tracing::warn!(run = %row.run, "ours by name, but nobody works on it: handed back");
            self.store.hand_back(&row.run, row.fence, claim).await?;
        }
        Ok(())
    }

    async fn end_stuck(&self, row: &Row) -> Result<(), StoreError> {
        let end = End::failed(run::STUCK);
        if let Some((fence, end)) = self.store.end_unowned(row, &end).await? {
            tracing::warn!(run = %row.run, "stuck");
            if let Err(error) = self.live.end(limits::TERMINAL_WRITE, &row.session, &row.run, fence, &end).await {
                tracing::warn!(run = %row.run, %error, "the live view is left to the next sweep");
            }
        }
        Ok(())
    }

    /// Compares the view with the rows, both ways. An entry that is right costs nothing.
    async fn repair_view(&self, mut entries: BTreeMap<SessionId, Entry>, rows: &[Row]) -> Result<(), StoreError> {
        let mut repairs = 0;
        for row in rows {
            let shown = entries.remove(&row.session);
            let should = Entry { run: row.run.clone(), fence: row.fence, status: row.status.word().into() };
            if shown.as_ref() == Some(&should) || repairs == limits::VIEW_REPAIRS {
                continue;
            }
            repairs += 1;
            let show = self.live.show(limits::REDIS_HINT, &row.session, &row.run, row.fence, row.status);
            if let Err(error) = show.await {
                tracing::debug!(%error, "the live view waits for the next sweep");
                return Ok(());
            }
        }
        for (session, entry) in entries.into_iter().take(limits::VIEW_REPAIRS - repairs) {
            // Not among the open rows that were read: over, or beyond what one sweep reads, or unknown.
            let repaired = match self.store.run(&entry.run).await? {
                Some(row) => match row.end() {
                    Some(end) => {
                        let fence = row.fence.max(entry.fence);
                        self.live.end(limits::TERMINAL_WRITE, &session, &row.run, fence, &end).await
                    }
                    None => Ok(()),
                },
                None => self.live.drop_entry(&session).await,
            };
            match repaired {
                Ok(()) => tracing::info!(%session, run = %entry.run, "the live view was repaired"),
                Err(error) => {
                    tracing::debug!(%error, "the live view waits for the next sweep");
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}
