//! Runs without a name that nobody here uses any more are deleted, those of a little while together:
//! an answer comes sooner when nothing is tidied up behind the one before.

use std::sync::{Arc, Mutex};

use bolthole_broker::id::RunId;
use bolthole_broker::limits::{REAP_DELAY, REAP_RUNS_MAX};
use tokio::sync::{Notify, oneshot};
use tokio::time::timeout;

use crate::core::{Core, lock};

/// The runs of one client that wait to be deleted.
#[derive(Default)]
pub(crate) struct Reaper {
    waiting: Mutex<Vec<(RunId, oneshot::Sender<bool>)>>,
    /// Nothing is worth waiting for any more.
    hurry: Notify,
}

impl Reaper {
    /// Deletes what waits, now.
    pub(crate) fn hurry(&self) {
        // Whoever begins to wait later sees that the client settles.
        self.hurry.notify_waiters();
    }
}

impl Core {
    /// Deletes a run without a name, as far as it can; false if it has not ended.
    pub(crate) async fn reap(self: &Arc<Self>, run: RunId) -> bool {
        let (done, gone) = oneshot::channel();
        let first = {
            let mut waiting = lock(&self.reaper.waiting);
            waiting.push((run, done));
            waiting.len() == 1
        };
        if first {
            self.runtime.spawn(Arc::clone(self).reap_waiting());
        }
        // It is told, unless the runtime ends; then the run is left to its retention.
        gone.await.unwrap_or(true)
    }

    async fn reap_waiting(self: Arc<Self>) {
        let hurry = self.reaper.hurry.notified();
        if !self.leaving.is_closed() {
            // Either way it is time.
            let _ = timeout(REAP_DELAY, hurry).await;
        }
        let mut waiting = std::mem::take(&mut *lock(&self.reaper.waiting));
        while !waiting.is_empty() {
            let rest = waiting.split_off(waiting.len().min(REAP_RUNS_MAX));
            let (runs, done): (Vec<RunId>, Vec<_>) = waiting.into_iter().unzip();
            for ((run, done), gone) in runs.iter().zip(done).zip(self.reap_now(&runs).await) {
                tracing::trace!(%run, gone, "a run that nobody uses any more");
                // Nobody may wait for it any more.
                let _ = done.send(gone);
            }
            waiting = rest;
        }
    }

    /// Deletes those that have ended; which are gone, or left to be deleted by their retention.
    pub(crate) async fn reap_now(self: &Arc<Self>, runs: &[RunId]) -> Vec<bool> {
        let life = self.known_epoch();
        let gone = self.store.reap(runs).await.unwrap_or_else(|error| {
            tracing::debug!(?runs, %error, "runs are left to be deleted by their retention");
            vec![true; runs.len()]
        });
        for (run, _) in runs.iter().zip(&gone).filter(|(_, gone)| **gone) {
            self.watchman.deleted_in(self, *run, life.clone());
        }
        gone
    }
}
