//! Looks now and then whether the store has begun another life.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use bolthole_broker::id::RunId;
use bolthole_broker::limits::{RESTAGE_LOOK, ROLLBACK_MAX};
use bolthole_broker::store::Epoch;
use tokio::time::{Instant, sleep};

use super::Staged;
use crate::core::{Core, lock};

/// The runs to look after.
#[derive(Default)]
pub(crate) struct Watchman {
    state: Mutex<State>,
    /// Segments that were staged again.
    again: AtomicU64,
}

#[derive(Default)]
struct State {
    runs: BTreeMap<RunId, Arc<Staged>>,
    /// Runs that were deleted a short while ago, in the life of the store that is named.
    deleted: VecDeque<(RunId, Instant, Epoch)>,
    /// Whether someone looks.
    awake: bool,
}

impl Watchman {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// A segment is staged again.
    pub(super) fn count(&self) {
        self.again.fetch_add(1, Ordering::Relaxed);
    }

    /// How many were so far.
    pub(crate) fn counted(&self) -> u64 {
        self.again.load(Ordering::Relaxed)
    }

    /// Looks after a run for as long as it is in use.
    pub(super) fn take(&self, core: &Arc<Core>, staged: &Arc<Staged>) {
        self.state().runs.insert(staged.run, Arc::clone(staged));
        self.wake(core);
    }

    /// The run is about to be deleted: it is not to come back, whatever the store forgets.
    pub(crate) fn delete(&self, core: &Arc<Core>, run: RunId) {
        self.deleted_in(core, run, core.known_epoch());
    }

    /// The same of a run that was deleted in this life of the store, or a later one.
    pub(crate) fn deleted_in(&self, core: &Arc<Core>, run: RunId, epoch: Epoch) {
        {
            let mut state = self.state();
            if let Some(staged) = state.runs.remove(&run) {
                staged.log().deleted = true;
                staged.watch.upgrade().inspect(|watch| watch.unguard());
            }
            state.deleted.push_back((run, Instant::now(), epoch));
        }
        self.wake(core);
    }

    fn wake(&self, core: &Arc<Core>) {
        if !std::mem::replace(&mut self.state().awake, true) {
            core.runtime.spawn(keep_watch(Arc::downgrade(core)));
        }
    }

    /// What there is to look after; `None`, and asleep, when there is nothing.
    fn rounds(&self) -> Option<Rounds> {
        let mut state = self.state();
        // Of a run that nobody uses any more what was just accepted is looked after all the same.
        state.runs.retain(|_, staged| Arc::strong_count(staged) > 1 || staged.age() < ROLLBACK_MAX);
        state.deleted.retain(|(_, at, _)| at.elapsed() < ROLLBACK_MAX);
        if state.runs.is_empty() && state.deleted.is_empty() {
            state.awake = false;
            return None;
        }
        let deleted = state.deleted.iter().cloned().collect();
        Some((state.runs.values().cloned().collect(), deleted))
    }

    fn deleted_again(&self, run: RunId, now: &Epoch) {
        for (of, _, epoch) in &mut self.state().deleted {
            if *of == run {
                epoch.clone_from(now);
            }
        }
    }
}

type Rounds = (Vec<Arc<Staged>>, Vec<(RunId, Instant, Epoch)>);

async fn keep_watch(core: Weak<Core>) {
    loop {
        sleep(RESTAGE_LOOK).await;
        let Some(core) = core.upgrade() else { return };
        let Some((runs, deleted)) = core.watchman.rounds() else { return };
        // Whoever waits for something of the store says that it does not answer.
        let Ok(now) = core.look_at_epoch().await else { continue };
        for (run, _, epoch) in deleted {
            if epoch != now && core.store.purge(run).await.is_ok() {
                core.watchman.deleted_again(run, &now);
            }
        }
        for staged in runs {
            look_after(&core, &staged).await;
        }
    }
}

/// A run that has ended, as far as is known here, is made again when somebody asks for its results.
async fn look_after(core: &Core, staged: &Staged) {
    let watch = staged.watch.upgrade();
    if watch.as_ref().is_some_and(|watch| watch.over().is_some()) {
        return;
    }
    match (core.restage(staged).await, watch) {
        (Ok(true), _) => tracing::warn!(run = %staged.run, "the store had begun another life"),
        (Ok(false), Some(watch)) if watch.is_missing() => {
            // Somebody has deleted it, unless it has been staged again since.
            if let Ok(None) = core.store.status(staged.run).await {
                watch.unguard();
            }
        }
        (Ok(false), _) => {}
        (Err(error), Some(watch)) if !error.is_retryable() => watch.break_off(error),
        (Err(error), _) => {
            tracing::warn!(run = %staged.run, %error, "cannot look after the run");
        }
    }
}
