//! The sweep: finds runs that nobody told us of and runs whose owner is gone, ends what is stuck, and makes the live view
//! say what Postgres says. It needs no reader, no broker and no restart; every executor does it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::Executor;
use crate::ids::SessionId;
use crate::limits;
use crate::live::Entry;
use crate::run::{End, Row};
use crate::store::StoreError;

impl Executor {
    pub(super) async fn keep_sweeping(self: Arc<Self>) {
        let mut pause = self.config.limits.sweep_min;
        loop {
            tokio::time::sleep(pause).await;
            pause = match self.sweep().await {
                Ok(pause) => pause,
                Err(error) => {
                    tracing::warn!(%error, "a sweep was cut short");
                    self.config.limits.sweep_min
                }
            };
        }
    }

    /// One sweep. Returns how long to sleep: until the earliest row can be due.
    async fn sweep(self: &Arc<Self>) -> Result<Duration, StoreError> {
        if self.store.newest_incarnation(&self.owner.process).await? > self.owner.incarnation {
            self.drain("a later life of this process has begun");
        }
        // The view is read before the rows: an entry without an open row is then surely over.
        let entries = self.live.entries().await;
        let rows = self.store.open_runs().await?;
        for row in &rows {
            self.look_after(row).await?;
        }
        match entries {
            Ok(entries) => self.repair(entries, &rows).await?,
            Err(error) => tracing::debug!(%error, "the live view waits for the next sweep"),
        }
        if rows.iter().any(|row| row.owner.is_none()) {
            self.store.see_waiting().await?;
        }
        let limits = &self.config.limits;
        let earliest = rows.iter().map(|row| row.due_in(limits)).min().unwrap_or(limits.sweep_max);
        Ok(earliest.clamp(limits.sweep_min, limits.sweep_max))
    }

    async fn look_after(self: &Arc<Self>, row: &Row) -> Result<(), StoreError> {
        let limits = &self.config.limits;
        if self.desk.has(&row.run) {
            return Ok(());
        }
        if row.is_stuck(limits) {
            return self.end_stuck(row).await;
        }
        if row.is_stray(&self.owner) {
            tracing::warn!(run = %row.run, "ours by name, but nobody works on it: handed back");
            self.store.hand_back(&row.run, row.fence).await?;
        } else if row.is_due(&self.owner, limits)
            && !self.is_draining()
            && let Some(slot) = self.desk.free_slot()
        {
            let (this, run, session) = (self.clone(), row.run.clone(), row.session.clone());
            self.send_on_errand(async move {
                this.take(&run, &session, false, slot).await;
            });
        }
        Ok(())
    }

    async fn end_stuck(&self, row: &Row) -> Result<(), StoreError> {
        let end = End::failed("stuck: its owner lived but did not move");
        if let Some((fence, end)) = self.store.end_unowned(row, &end).await? {
            tracing::warn!(run = %row.run, "stuck");
            if let Err(error) = self.live.end(limits::TERMINAL_WRITE, &row.session, &row.run, fence, &end).await {
                tracing::warn!(run = %row.run, %error, "the live view is left to the next sweep");
            }
        }
        Ok(())
    }

    /// Compares the view with the rows, both ways. An entry that is right costs nothing.
    async fn repair(&self, mut entries: BTreeMap<SessionId, Entry>, rows: &[Row]) -> Result<(), StoreError> {
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
