//! Waiting before the next try: from [`limits::BACKOFF_MIN`], doubling up to [`limits::BACKOFF_MAX`].

use std::time::Duration;

use crate::limits;

/// How long the next wait is.
#[derive(Debug)]
pub struct Backoff(Duration);

impl Default for Backoff {
    fn default() -> Self {
        Backoff(limits::BACKOFF_MIN)
    }
}

impl Backoff {
    /// Waits, and will wait longer next time.
    pub async fn wait(&mut self) {
        tokio::time::sleep(self.0).await;
        self.0 = (self.0 * 2).min(limits::BACKOFF_MAX);
    }

    /// It worked: begins anew.
    pub fn reset(&mut self) {
        *self = Backoff::default();
    }
}
