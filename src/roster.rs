//! Who is still here: tasks sign in, and whoever closes what they use waits until the last one has gone. A task that is
//! dropped in the middle of its work signs out as well.

use tokio::sync::watch;

/// Counts those who are here.
#[derive(Clone)]
pub struct Roster(watch::Sender<usize>);

/// One who is here, until it is dropped.
pub struct Member(watch::Sender<usize>);

impl Drop for Member {
    fn drop(&mut self) {
        self.0.send_modify(|here| *here -= 1);
    }
}

impl Default for Roster {
    fn default() -> Self {
        Roster(watch::Sender::new(0))
    }
}

impl Roster {
    /// Signs in.
    pub fn join(&self) -> Member {
        self.0.send_modify(|here| *here += 1);
        Member(self.0.clone())
    }

    /// How many are here.
    pub fn len(&self) -> usize {
        *self.0.borrow()
    }

    /// Whether nobody is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Waits until nobody is.
    pub async fn empty(&self) {
        let mut here = self.0.subscribe();
        // The sender lives as long as `self`, so waiting cannot fail.
        let _ = here.wait_for(|here| *here == 0).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_dropped_has_left() {
        let roster = Roster::default();
        let (one, two) = (roster.join(), roster.clone().join());
        assert_eq!(roster.len(), 2);
        drop(one);
        assert!(!roster.is_empty());
        drop(two);
        assert!(roster.is_empty());
    }
}
