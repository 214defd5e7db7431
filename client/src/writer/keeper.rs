//! The task that stages, renews, unpins and closes.

use std::sync::{Arc, Weak};
use std::time::Duration;

use bolthole_broker::id::RunId;
use bolthole_broker::limits::{
    CLIENT_RENEW, COALESCE_MAX, REREAD_AFTER, UNFINISHED_TASKS_MAX, UNPIN_DELAY, UNPIN_TASKS_MAX,
};
use bolthole_broker::state::RunState;
use bolthole_broker::store::{EventCursor, Store};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::{Phase, Work, Writer};
use crate::core::Core;
use crate::error::Result;

/// The pause after the first of several segments in a row; doubled with each.
const COALESCE_FIRST: Duration = Duration::from_micros(250);

impl Writer {
    /// Works until the run is closed and nobody here has a handle of it any more, or the store
    /// refuses.
    pub(super) async fn keep(self: Arc<Self>) {
        let ended = match self.work_on().await {
            Ok(ended) => ended,
            Err(error) => {
                tracing::debug!(run = %self.run, %error, "the run is not staged any further");
                self.fail(error);
                return;
            }
        };
        if self.unnamed && !ended {
            let store = self.core.store.clone();
            let (run, core) = (self.run, Arc::downgrade(&self.core));
            drop(self);
            purge_ended(store, run, &core).await;
        }
    }

    /// Until nothing more will come; whether the run has ended and is gone.
    async fn work_on(&self) -> Result<bool> {
        let mut renewed = Instant::now();
        let mut streak = 0_u32;
        let mut staged = 0_u64;
        loop {
            if renewed.elapsed() >= CLIENT_RENEW {
                self.renew().await?;
                renewed = Instant::now();
            }
            let left = self.is_left();
            if left {
                // Mostly it has ended by now, and then nothing of it needs to be unpinned; a program
                // about to end waits for this.
                if self.unnamed && self.core.reap(self.run).await {
                    return Ok(true);
                }
                if self.is_idle() {
                    return Ok(false);
                }
            }
            if self.is_idle() {
                streak = 0;
                tokio::select! {
                    biased;
                    () = self.work.notified() => {}
                    () = sleep_until(renewed + CLIENT_RENEW) => {}
                }
                continue;
            }
            self.linger(streak).await;
            if self.unnamed && !left && self.is_left() {
                // There may be nothing to unpin any more.
                continue;
            }
            let work = self.take_work();
            staged += work.segment.as_ref().map_or(0, |segment| u64::from(segment.tasks));
            streak = if work.segment.is_some() { streak + 1 } else { 0 };
            self.carry_out(work).await?;
            if staged > UNFINISHED_TASKS_MAX {
                self.let_workers_catch_up().await?;
            }
        }
    }

    /// Whether there is nothing to do.
    fn is_idle(&self) -> bool {
        let state = self.state();
        state.builder.is_empty() && state.unpin.is_empty() && state.phase != Phase::Closing
    }

    /// Whether nothing more will come.
    fn is_left(&self) -> bool {
        let state = self.state();
        state.left.is_some() && state.phase == Phase::Closed
    }

    /// Lets more come together: between the segments of a busy stream, and before unpinning.
    async fn linger(&self, streak: u32) {
        while let Some(since) = self.only_unpins_since() {
            tokio::select! {
                biased;
                // It may be about calls that were staged before: then there is time still.
                () = self.urgent.notified() => {}
                () = sleep_until(since + UNPIN_DELAY) => return,
            }
        }
        if streak == 0 || self.is_left() || self.state().phase == Phase::Closing {
            return;
        }
        let pause = COALESCE_FIRST * (1 << (streak - 1).min(10));
        tokio::select! {
            biased;
            () = self.urgent.notified() => {}
            () = sleep(pause.min(COALESCE_MAX)) => {}
        }
    }

    /// Since when there is nothing to do but to unpin, if so.
    fn only_unpins_since(&self) -> Option<Instant> {
        let state = self.state();
        let more = !state.builder.is_empty() || state.phase == Phase::Closing;
        state.unpin_since.filter(|_| !more && state.left.is_none())
    }

    async fn carry_out(&self, work: Work) -> Result<()> {
        self.core.check_capable(&work.unchecked).await?;
        let closing = work.phase == Phase::Closing;
        let closed = if let Some(segment) = work.segment {
            self.core.stage_again_if_lost(&self.staged, segment, work.blobs, closing).await?
        } else {
            self.core.put_blobs(self.run, &work.blobs).await?;
            false
        };
        self.staged.unpin(&work.unpin);
        for tasks in work.unpin.chunks(UNPIN_TASKS_MAX) {
            let store = &self.core.store;
            // Who holds what was freed drops it when it next compares with the store.
            self.core.persist_in(|| store.unpin(self.run, tasks)).await?;
        }
        if closing {
            if !closed {
                self.core.close_staged(&self.staged).await?;
            }
            self.state().phase = Phase::Closed;
            self.closed.notify_waiters();
        }
        Ok(())
    }

    async fn renew(&self) -> Result<()> {
        if self.state().phase == Phase::Open {
            self.core.persist_in(|| self.core.store.keep_alive(self.run)).await?;
        }
        Ok(())
    }

    /// Waits while the store has too many tasks that nobody has run.
    async fn let_workers_catch_up(&self) -> Result<()> {
        loop {
            let status = self.core.persist_in(|| self.core.store.status(self.run)).await?;
            let unfinished = status.map_or(0, |status| status.tasks - status.finished);
            if unfinished <= UNFINISHED_TASKS_MAX {
                return Ok(());
            }
            self.renew().await?;
            sleep(UNPIN_DELAY).await;
        }
    }
}

/// Deletes an unnamed run when it has ended, as long as its client is there. Later, the time that
/// it is kept for runs out.
async fn purge_ended(store: Store, run: RunId, core: &Weak<Core>) {
    let mut cursor = EventCursor::default();
    while core.strong_count() > 0 {
        match timeout(2 * REREAD_AFTER, store.events(run, &cursor, REREAD_AFTER)).await {
            Ok(Ok(events)) if events.run.is_none() => return,
            Ok(Ok(events)) if !events.run.is_some_and(RunState::is_running) => {
                match core.upgrade() {
                    // It may go on, when a result of it was lost.
                    Some(core) if !core.reap(run).await => {}
                    _ => return,
                }
            }
            Ok(Ok(events)) => cursor = events.cursor,
            Ok(Err(error)) if !error.is_retryable() => return,
            Ok(Err(_)) | Err(_) => sleep(REREAD_AFTER).await,
        }
    }
}
