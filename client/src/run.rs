//! One submitted graph, or a stream of calls.

pub(crate) mod builder;
mod results;
mod retry;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bolthole_broker::id::{RunId, TaskId};
use bolthole_broker::run::{Commit, Committed, End, Finished, Header, RunStatus};
use bolthole_broker::state::{RunState, TaskState};
use tokio::time::timeout;

pub use builder::RunBuilder;

use crate::core::{Core, lock};
use crate::error::{Error, ErrorKind, Result};
use crate::fetch::gone;
use crate::handle::{Handle, too_late};
use crate::restage::Staged;
use crate::watch::{Over, Watch};
use crate::writer::Writer;

/// A run: a graph on its way through the workers, or a stream of calls into one. Cheap to clone.
///
/// Whatever was submitted goes on when the client is gone. A run that takes calls is closed when
/// its last clone and handle are dropped.
#[derive(Clone)]
pub struct Run {
    inner: Arc<RunInner>,
}

/// What handles and clones of one run share.
pub(crate) struct RunInner {
    pub(crate) id: RunId,
    pub(crate) core: Arc<Core>,
    pub(crate) watch: Arc<Watch>,
    name: Option<String>,
    /// Takes calls and unpins; `None` for a run that is only looked at, or whose results stay.
    writer: Option<Arc<Writer>>,
    /// What this client has staged of it.
    staged: Option<Arc<Staged>>,
    /// Handles beyond the first, of tasks that have more than one.
    shares: Mutex<HashMap<TaskId, u32>>,
}

impl RunInner {
    pub(crate) fn new(
        core: &Arc<Core>,
        id: RunId,
        name: Option<String>,
        watch: Arc<Watch>,
        writer: Option<Arc<Writer>>,
        staged: Option<Arc<Staged>>,
    ) -> Arc<Self> {
        let shares = Mutex::default();
        Arc::new(Self { id, core: Arc::clone(core), watch, name, writer, staged, shares })
    }

    /// Another handle of the task.
    pub(crate) fn share(&self, task: TaskId) {
        if self.writer.is_some() {
            *lock(&self.shares).entry(task).or_insert(0) += 1;
        }
    }

    /// One handle of the task less.
    pub(crate) fn give_up(&self, task: TaskId) {
        let Some(writer) = &self.writer else { return };
        {
            let mut shares = lock(&self.shares);
            if let Some(more) = shares.get_mut(&task) {
                *more -= 1;
                if *more == 0 {
                    shares.remove(&task);
                }
                return;
            }
        }
        writer.unpin(task);
    }

    /// What takes the run's calls.
    pub(crate) fn writer(&self) -> Result<&Arc<Writer>> {
        self.writer.as_ref().ok_or_else(|| {
            let message = format!("run {} takes no more tasks", self.id);
            Error::new(ErrorKind::Closed, message)
        })
    }

    /// Where the run stands. One that the store has lost is staged again first.
    async fn status(&self) -> Result<RunStatus> {
        let mut asked_again = false;
        loop {
            let status = self.core.persist_in(|| self.core.store.status(self.id)).await?;
            match (status, &self.staged) {
                (Some(status), _) => return Ok(status),
                (None, Some(staged)) if self.core.restage(staged).await? => {}
                // It may have been staged again by another part of this client since.
                (None, Some(_)) if !asked_again => asked_again = true,
                (None, _) => return Err(gone(self.id)),
            }
        }
    }

    /// Cancels one task by finishing it as skipped, because of itself: whoever runs it comes too
    /// late with the result, and what depends on it is skipped in its turn.
    pub(crate) async fn cancel_task(&self, task: TaskId) -> Result<bool> {
        let store = &self.core.store;
        loop {
            let Some(status) = self.core.inspect(self.id, task).await? else {
                // Not staged yet: soon it is.
                self.hurry();
                if self.watch.over().is_some() {
                    return Ok(false);
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
                continue;
            };
            if status.state.state() != TaskState::Pending {
                return Ok(false);
            }
            let asked = [task];
            let described =
                self.core.persist_in(|| self.core.descriptions(self.id, &asked)).await?;
            let (descriptor, _) = described.into_values().next().ok_or_else(|| gone(self.id))?;
            let outbox = self.core.next_outbox();
            let commit = Commit {
                segment: task.segment(),
                finished: vec![Finished {
                    index: task.index(),
                    generation: status.state.generation(),
                    end: End::Skipped { cause: task },
                    lease: None,
                }],
                releases: descriptor.successors.iter().map(|task| (*task, 1)).collect(),
                consumed: descriptor.inputs.iter().map(|task| (*task, 1)).collect(),
                outbox,
                settled: Vec::new(),
                spawn: None,
            };
            match self.core.persist_in(|| store.commit(self.id, &commit)).await? {
                Committed::Written { ready, .. } => {
                    self.core.ring_for(self.id, &ready).await?;
                    self.core.persist_in(|| store.settle(self.id, outbox, &ready)).await?;
                    return Ok(true);
                }
                Committed::NotRunning(_) => return Ok(false),
                // It has finished meanwhile, or was rearmed: look again.
                Committed::Superseded(_) => {}
            }
        }
    }

    /// Stages at once what was submitted: someone waits for it.
    pub(crate) fn hurry(&self) {
        if let Some(writer) = &self.writer {
            writer.hurry();
        }
    }
}

impl Drop for RunInner {
    fn drop(&mut self) {
        if let Some(writer) = &self.writer {
            writer.leave();
        }
    }
}

impl Run {
    pub(crate) fn of(inner: Arc<RunInner>) -> Self {
        Self { inner }
    }

    pub(crate) fn inner(&self) -> &Arc<RunInner> {
        &self.inner
    }

    /// Its id.
    pub fn id(&self) -> RunId {
        self.inner.id
    }

    /// The name that it was opened with.
    pub fn name(&self) -> Option<&str> {
        self.inner.name.as_deref()
    }

    /// Where it stands.
    pub async fn status(&self) -> Result<RunStatus> {
        self.inner.status().await
    }

    /// What travels with it.
    pub async fn header(&self) -> Result<Header> {
        Ok(self.status().await?.header)
    }

    /// A handle of one of its tasks, by its id; for a run that was attached to. It does not keep the
    /// task's result.
    pub fn handle<T>(&self, task: TaskId) -> Handle<T> {
        // The pin belongs to whoever has submitted the task: this handle must not drop it.
        self.inner.share(task);
        Handle::new(Arc::clone(&self.inner), task)
    }

    /// No more calls will come. The run ends when all its tasks have finished.
    pub async fn close(&self) -> Result<()> {
        match &self.inner.writer {
            Some(writer) => writer.close().await,
            None => Ok(()),
        }
    }

    /// Ends the run: what has not finished never will.
    pub async fn cancel(&self, reason: &str) -> Result<()> {
        let core = &self.inner.core;
        if let Some(staged) = &self.inner.staged {
            staged.cancel(reason);
        }
        core.persist_in(|| core.store.cancel(self.inner.id, reason)).await?;
        core.tell_ended(self.inner.id);
        Ok(())
    }

    /// Returns when the run has ended, with where it stands then. A run that takes calls must be
    /// closed by someone before it can end.
    pub async fn wait(&self) -> Result<RunStatus> {
        let inner = &self.inner;
        let _interest = inner.watch.follow(&inner.core.runtime);
        loop {
            let changed = inner.watch.any_changed();
            tokio::pin!(changed);
            changed.as_mut().enable();
            match inner.watch.over() {
                Some(Over::Ended(Some(_))) => return inner.status().await,
                Some(Over::Ended(None)) => return Err(gone(inner.id)),
                Some(Over::Broken(error)) => return Err(error),
                None => changed.await,
            }
        }
    }

    /// Like [`Run::wait`], for at most `limit`.
    pub async fn wait_within(&self, limit: Duration) -> Result<RunStatus> {
        match timeout(limit, self.wait()).await {
            Ok(status) => status,
            Err(_) => Err(too_late(&format!("run {}", self.inner.id), limit)),
        }
    }

    /// Deletes everything of the run, results and name included. A run that has not ended is
    /// cancelled first.
    pub async fn forget(&self) -> Result<()> {
        let core = &self.inner.core;
        core.watchman.delete(core, self.inner.id);
        let state = core.persist_in(|| core.store.cancel(self.inner.id, "forgotten")).await?;
        if state == Some(RunState::Cancelled) {
            core.tell_ended(self.inner.id);
        }
        if state.is_some_and(|state| state != RunState::Purging) {
            core.persist_in(|| core.store.purge(self.inner.id)).await?;
        }
        Ok(())
    }
}

impl fmt::Debug for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Run").field("id", &self.inner.id).field("name", &self.inner.name).finish()
    }
}
