//! What this client has staged, for a store that comes back without it: restarted from what was on
//! its disk a second ago, or empty.
//!
//! A client looks every [`limits::RESTAGE_LOOK`] whether the store has begun another life. Then it
//! stages again what that life lacks of the runs that are in use here: the same run, the same tasks,
//! so that whoever waits for their results gets them. What cannot be staged again ends with
//! [`ErrorKind::StoreLost`].

mod log;
mod watchman;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use bolthole_broker::args::BlobDigest;
use bolthole_broker::graph::Segment;
use bolthole_broker::id::{RunId, TaskId};
use bolthole_broker::limits;
use bolthole_broker::run::{Open, Opened};
use bolthole_broker::state::RunState;
use bolthole_broker::store::Epoch;
use bytes::Bytes;

pub(crate) use watchman::Watchman;

use crate::core::{Core, lock};
use crate::error::{Error, ErrorKind, Result};
use crate::fetch::gone;
use crate::watch::Watch;
use log::{Kept, Log};

/// A run of this client, and how to make it again.
pub(crate) struct Staged {
    pub(crate) run: RunId,
    open: Open,
    watch: Weak<Watch>,
    log: Mutex<Log>,
    /// The run is opened with its first segment.
    unopened: AtomicBool,
    /// The life of the store in which all of the log is known to be staged. Whoever stages again
    /// holds it.
    epoch: tokio::sync::Mutex<Epoch>,
}

impl Staged {
    fn log(&self) -> MutexGuard<'_, Log> {
        lock(&self.log)
    }

    /// A segment that is staged already, or is about to be.
    pub(crate) fn keep(&self, segment: Segment, blobs: Vec<(BlobDigest, Bytes)>) -> Kept {
        let kept = Kept { segment: Arc::new(segment), blobs: Arc::new(blobs) };
        self.log().keep(kept.clone());
        kept
    }

    /// Handles of these tasks were dropped: staged again, they are not kept for anyone.
    pub(crate) fn unpin(&self, tasks: &[TaskId]) {
        self.log().unpin(tasks);
    }

    /// The run takes no more segments, and the store knows.
    pub(crate) fn keep_closed(&self) {
        self.log().closed = true;
    }

    /// The run was ended by its user.
    pub(crate) fn cancel(&self, reason: &str) {
        self.log().cancelled = Some(reason.to_owned());
    }

    /// How long ago this client last told the store something of the run.
    fn age(&self) -> Duration {
        self.log().touched.elapsed()
    }

    fn lost(&self, why: &str) -> Error {
        let message = format!(
            "the store has lost run {} (it came back without its last data) and {why}: submit the \
             graph again",
            self.run
        );
        Error::new(ErrorKind::StoreLost, message)
    }
}

impl Core {
    /// A run that was opened just now, or is about to be, to be made again if the store loses it.
    pub(crate) async fn remember_staged(
        self: &Arc<Self>,
        run: RunId,
        open: Open,
        unopened: bool,
        watch: &Arc<Watch>,
    ) -> Result<Arc<Staged>> {
        // An epoch of some seconds ago costs a look at the run, no more.
        let epoch = tokio::sync::Mutex::new(self.epoch().await?);
        let (log, watched) = (Mutex::new(Log::new()), Arc::downgrade(watch));
        let unopened = AtomicBool::new(unopened);
        let staged = Arc::new(Staged { run, open, watch: watched, log, unopened, epoch });
        watch.guard();
        self.watchman.take(self, &staged);
        Ok(staged)
    }

    /// Makes a segment part of the run, with the large arguments that it needs. A store that has
    /// begun another life meanwhile gets what it has lost as well. With `close` it is the last one;
    /// whether the store knows, or is to be told by [`Self::close_staged`].
    pub(crate) async fn stage_again_if_lost(
        &self,
        staged: &Staged,
        segment: Segment,
        blobs: Vec<(BlobDigest, Bytes)>,
        close: bool,
    ) -> Result<bool> {
        let kept = staged.keep(segment, blobs);
        if close {
            staged.keep_closed();
        }
        self.restaging_if_lost(staged, || self.stage_kept(staged, &kept, close)).await
    }

    /// No more segments of the run will come from this client. A store that has begun another life
    /// meanwhile gets what it has lost before it hears that.
    pub(crate) async fn close_staged(&self, staged: &Staged) -> Result<()> {
        staged.keep_closed();
        self.restaging_if_lost(staged, || self.close_whole(staged)).await
    }

    async fn close_whole(&self, staged: &Staged) -> Result<()> {
        let segments = staged.log().staged();
        self.persist_in(|| self.store.close_whole(staged.run, segments)).await?;
        Ok(())
    }

    /// Does something to a run, and when the store refuses it because it has begun another life,
    /// again, after it was given what it had lost of the run.
    async fn restaging_if_lost<T, F>(&self, staged: &Staged, act: impl Fn() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        loop {
            let epoch = staged.epoch.lock().await.clone();
            match act().await {
                Err(error) if !error.is_retryable() => {
                    self.restage(staged).await?;
                    if *staged.epoch.lock().await == epoch {
                        return Err(error);
                    }
                }
                done => return done,
            }
        }
    }

    async fn stage_kept(&self, staged: &Staged, kept: &Kept, close: bool) -> Result<bool> {
        let unopened = staged.unopened.load(Ordering::Relaxed);
        let (run, open, Kept { segment, blobs }) = (staged.run, &staged.open, kept);
        let closed = self.stage(run, open, unopened, segment, blobs, close).await?;
        staged.unopened.store(false, Ordering::Relaxed);
        Ok(closed)
    }

    /// Stages again what the store has lost of a run since it began another life; whether it has.
    pub(crate) async fn restage(&self, staged: &Staged) -> Result<bool> {
        let mut epoch = staged.epoch.lock().await;
        let mut changed = false;
        loop {
            let now = self.epoch_now().await?;
            if *epoch == now {
                return Ok(changed);
            }
            changed = true;
            match self.restage_all(staged).await {
                // It may have begun yet another life in between.
                Err(error) if !error.is_retryable() && self.epoch_now().await? != now => {}
                Err(error) => return Err(error),
                Ok(()) => *epoch = now,
            }
        }
    }

    /// Gives a run its name again, which a server of a cluster may lose without the run.
    async fn name_again(&self, staged: &Staged) -> Result<()> {
        let Some(name) = &staged.open.name else { return Ok(()) };
        let found = self.persist_in(|| self.store.find(name)).await?;
        if found.is_none() && !staged.log().deleted {
            // Whoever has taken it meanwhile keeps it.
            self.persist_in(|| self.store.open(staged.run, &staged.open)).await?;
        }
        Ok(())
    }

    async fn restage_all(&self, staged: &Staged) -> Result<()> {
        let run = staged.run;
        let status = self.persist_in(|| self.store.status(run)).await?;
        if status.is_some() {
            self.name_again(staged).await?;
        }
        match status.map(|status| status.state) {
            Some(RunState::Open | RunState::Closed) => {}
            // It has all its tasks, and ended with them.
            Some(_) => return Ok(()),
            None if staged.log().deleted => return Err(gone(run)),
            None => match self.persist_in(|| self.store.open(run, &staged.open)).await? {
                Opened::Created => {
                    tracing::warn!(%run, "the store has lost the run: staging again");
                }
                Opened::Attached(other) if other == run => {}
                Opened::Attached(_) | Opened::Conflict(_) => {
                    return Err(staged.lost("its name stands for another run by now"));
                }
            },
        }
        let active = self.persist_in(|| self.store.segments(run)).await?;
        let again = staged.log().missing(&active);
        let Some(again) = again else {
            let limit = limits::RESTAGE_BYTES_MAX >> 20;
            let why = format!("this client keeps no more than {limit} MiB of what it has staged");
            return Err(staged.lost(&why));
        };
        for kept in again {
            tracing::info!(%run, segment = kept.segment.number, "the store has lost a segment");
            self.watchman.count();
            self.stage_kept(staged, &kept, false).await?;
        }
        let (unpinned, cancelled, closed) = {
            let log = staged.log();
            (log.unpinned(), log.cancelled.clone(), log.closed)
        };
        for tasks in unpinned.chunks(limits::UNPIN_TASKS_MAX) {
            self.persist_in(|| self.store.unpin(run, tasks)).await?;
        }
        if let Some(reason) = cancelled {
            self.persist_in(|| self.store.cancel(run, &reason)).await?;
        } else if closed {
            self.close_whole(staged).await?;
        }
        if let Some(watch) = staged.watch.upgrade() {
            watch.begin_again(&self.runtime);
        }
        Ok(())
    }
}
