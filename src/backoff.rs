//! Pauses between tries: from [`limits::BACKOFF_MIN`], doubling up to [`limits::BACKOFF_MAX`].

use std::time::Duration;

use crate::limits;

/// The pause before the next try.
#[derive(Debug)]
pub struct Backoff {
    first: Duration,
    next: Duration,
    max: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Backoff { first: limits::BACKOFF_MIN, next: limits::BACKOFF_MIN, max: limits::BACKOFF_MAX }
    }
}

impl Backoff {
    /// Pauses that do not grow.
    pub fn steady(pause: Duration) -> Self {
        Backoff { first: pause, next: pause, max: pause }
    }

    /// The length of the next pause.
    pub fn next(&self) -> Duration {
        self.next
    }

    /// Sleeps for the next pause, and doubles it.
    pub async fn wait(&mut self) {
        self.wait_at_least(Duration::ZERO).await;
    }

    /// Sleeps for so long, or for the next pause if that is longer, and doubles the next pause.
    pub async fn wait_at_least(&mut self, asked: Duration) {
        tokio::time::sleep(self.next.max(asked)).await;
        self.next = (self.next * 2).min(self.max);
    }

    /// Begins anew: a try has succeeded.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}
