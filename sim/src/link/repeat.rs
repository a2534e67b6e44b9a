//! A request that something in between delivers a second time, as a proxy does that repeats one after a retry. Its one law: the
//! near end hears nothing of the second answer.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt;

use super::conversation::{dial_to, write};
use super::{Link, LinkObserver, Target};
use crate::trace::fault::FaultId;

/// The second answer is not read for longer than this: the proxy has its answer already.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// A request that will be delivered again.
pub(super) struct Repeat {
    pub(super) fault: FaultId,
    pub(super) request: Vec<u8>,
}

impl Repeat {
    /// Delivers the request over a connection of its own and drops the answer.
    pub(super) async fn deliver(
        self,
        link: Arc<Link>,
        observer: Arc<dyn LinkObserver>,
        incarnation: u32,
        target: Target,
    ) {
        let conn = {
            let mut state = link.state();
            state.conns += 1;
            state.conns
        };
        let Some((mut far, local)) = dial_to(&target, conn).await else { return };
        if let Some(local) = local {
            observer.dialled(&link, incarnation, local);
        }
        observer.carried(&link, conn, true, &self.request);
        if write(&mut far, &self.request).await.is_err() {
            return;
        }
        observer.spent(&link, self.fault);
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(ANSWER_MAX, far.read_to_end(&mut answer)).await; // nobody waits for it
    }
}
