//! Sees a running container to its end, and asks it every few seconds how it is: from inside, over no link, so that no
//! fault of a road is taken for its faults.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::Engine;
use super::observation::Engine as Seen;
use crate::standins::probe;

/// From the end of one probe to the next, as Docker has it unless it is told otherwise.
pub const PROBE_EVERY: Duration = Duration::from_secs(30);
/// The same until the first one has succeeded, likewise.
pub const PROBE_START: Duration = Duration::from_secs(5);
/// A probe that takes longer has failed.
pub const PROBE_MAX: Duration = Duration::from_secs(2);

impl Engine {
    /// Tends start number `start` of a container until it ends, or the engine's life does.
    pub(super) fn tend(&self, id: String, start: u64) {
        let life = self.store().life;
        tokio::spawn(self.clone().tending(id, start, life));
    }

    async fn tending(self, id: String, start: u64, life: u64) {
        let Some(running) = self.store().find(&id).and_then(|container| container.running().cloned()) else { return };
        let mut pause = PROBE_START;
        loop {
            let probe = async {
                sleep(pause).await;
                let began = Instant::now();
                let answer = timeout(PROBE_MAX, probe::ask(running.inside)).await.ok().flatten();
                (answer, began.elapsed())
            };
            let (answer, took) = tokio::select! {
                biased;
                code = running.exit.clone() => {
                    let mut store = self.store();
                    if store.life == life {
                        store.ended(&id, start, code);
                    }
                    return;
                }
                probed = probe => probed,
            };
            let mut store = self.store();
            let Some(container) = store.get_mut(&id).filter(|container| container.start == start) else { return };
            let name = container.spec.name.clone();
            let healthy = matches!(answer, Some((status, _)) if status.is_success());
            container.probed(healthy);
            if healthy {
                pause = PROBE_EVERY;
            }
            if store.life != life {
                return;
            }
            let status = answer.as_ref().map(|(status, _)| status.as_u16());
            let body = answer.map(|(_, body)| body).unwrap_or_default();
            let (id, process) = (id.clone(), running.process.clone());
            store.tell(Seen::Probed { id, name, process, status, body, took });
        }
    }
}
