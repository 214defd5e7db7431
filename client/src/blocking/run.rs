//! Runs of a blocking client.

use std::sync::Arc;
use std::time::Duration;

use bolthole_broker::id::{RunId, TaskId};
use bolthole_broker::run::{Header, RunStatus};
use bolthole_broker::state::FailurePolicy;

use super::handle::{BlockingHandles, Handle};
use super::wait;
use crate::compute::{Compute, sealed};
use crate::core::Core;
use crate::delayed::Delayed;
use crate::error::Result;
use crate::outputs::Outputs;
use crate::run::{Run as AsyncRun, RunBuilder as AsyncRunBuilder};
use crate::submission::{entry_of, handle_of};
use crate::submit::Submit;

/// The options of a run to be: see [`crate::RunBuilder`].
#[derive(Debug, Clone)]
pub struct RunBuilder {
    inner: AsyncRunBuilder,
}

impl RunBuilder {
    pub(super) fn new(inner: AsyncRunBuilder) -> Self {
        Self { inner }
    }

    /// See [`crate::RunBuilder::header`].
    #[must_use]
    pub fn header(self, key: impl Into<String>, value: impl Into<String>) -> Self {
        Self { inner: self.inner.header(key, value) }
    }

    /// See [`crate::RunBuilder::policy`].
    #[must_use]
    pub fn policy(self, policy: FailurePolicy) -> Self {
        Self { inner: self.inner.policy(policy) }
    }

    /// See [`crate::RunBuilder::retention`].
    #[must_use]
    pub fn retention(self, retention: Duration) -> Self {
        Self { inner: self.inner.retention(retention) }
    }

    fn core(&self) -> Arc<Core> {
        Arc::clone(self.inner.core())
    }

    /// See [`crate::RunBuilder::open`].
    pub fn open(self) -> Result<Run> {
        wait(&self.core(), self.inner.open()).map(Run::new)
    }

    /// See [`crate::RunBuilder::compute`].
    pub fn compute<O: Outputs>(self, outputs: O) -> Result<O::Values> {
        wait(&self.core(), self.inner.compute(outputs))
    }

    /// See [`crate::RunBuilder::persist`].
    pub fn persist<O: Outputs>(
        self,
        outputs: O,
    ) -> Result<<O::Handles as BlockingHandles>::Blocking>
    where
        O::Handles: BlockingHandles,
    {
        wait(&self.core(), self.inner.persist(outputs)).map(O::Handles::blocking)
    }

    /// See [`crate::RunBuilder::submit`].
    pub fn submit<O: Outputs>(self, outputs: O) -> Result<<O::Handles as BlockingHandles>::Blocking>
    where
        O::Handles: BlockingHandles,
    {
        wait(&self.core(), self.inner.submit(outputs)).map(O::Handles::blocking)
    }
}

impl sealed::Sealed for RunBuilder {}
impl Compute for RunBuilder {
    type Reply<'a, T: Send + 'static> = T;

    fn compute_outputs<'a, O>(&'a self, outputs: O) -> Result<O::Values>
    where
        O: Outputs + Send + Sync + 'a,
    {
        self.clone().compute(outputs)
    }
}

/// A run: see [`crate::Run`].
#[derive(Debug, Clone)]
pub struct Run {
    inner: AsyncRun,
}

impl Run {
    pub(super) fn new(inner: AsyncRun) -> Self {
        Self { inner }
    }

    fn core(&self) -> &Core {
        &self.inner.inner().core
    }

    /// Its id.
    pub fn id(&self) -> RunId {
        self.inner.id()
    }

    /// The name that it was opened with.
    pub fn name(&self) -> Option<&str> {
        self.inner.name()
    }

    /// Where it stands.
    pub fn status(&self) -> Result<RunStatus> {
        wait(self.core(), self.inner.status())
    }

    /// What travels with it.
    pub fn header(&self) -> Result<Header> {
        wait(self.core(), self.inner.header())
    }

    /// See [`crate::Run::handle`].
    pub fn handle<T>(&self, task: TaskId) -> Handle<T> {
        Handle::new(self.inner.handle(task))
    }

    /// See [`crate::Run::close`].
    pub fn close(&self) -> Result<()> {
        wait(self.core(), self.inner.close())
    }

    /// See [`crate::Run::cancel`].
    pub fn cancel(&self, reason: &str) -> Result<()> {
        wait(self.core(), self.inner.cancel(reason))
    }

    /// See [`crate::Run::retry_failed`].
    pub fn retry_failed(&self) -> Result<u64> {
        wait(self.core(), self.inner.retry_failed())
    }

    /// See [`crate::Run::wait`].
    pub fn wait(&self) -> Result<RunStatus> {
        wait(self.core(), self.inner.wait())
    }

    /// See [`crate::Run::wait_within`].
    pub fn wait_within(&self, limit: Duration) -> Result<RunStatus> {
        wait(self.core(), self.inner.wait_within(limit))
    }

    /// See [`crate::Run::forget`].
    pub fn forget(&self) -> Result<()> {
        wait(self.core(), self.inner.forget())
    }

    /// See [`crate::Run::compute`].
    pub fn compute<O: Outputs>(&self, outputs: O) -> Result<O::Values> {
        wait(self.core(), self.inner.compute(outputs))
    }

    /// See [`crate::Run::persist`].
    pub fn persist<O: Outputs>(
        &self,
        outputs: O,
    ) -> Result<<O::Handles as BlockingHandles>::Blocking>
    where
        O::Handles: BlockingHandles,
    {
        wait(self.core(), self.inner.persist(outputs)).map(O::Handles::blocking)
    }
}

impl sealed::Sealed for Run {}
impl Compute for Run {
    type Reply<'a, T: Send + 'static> = T;

    fn compute_outputs<'a, O>(&'a self, outputs: O) -> Result<O::Values>
    where
        O: Outputs + Send + Sync + 'a,
    {
        self.compute(outputs)
    }
}

/// A run that takes calls. Waits while the segment under construction is full.
impl Submit for Run {
    type Handle<T> = Result<Handle<T>>;

    fn submit_delayed<T>(&self, call: Delayed<T>) -> Result<Handle<T>> {
        let run = self.inner.inner();
        let mut entry = entry_of(run, &call)?;
        let writer = run.writer()?;
        // Mostly there is room, and no future is needed.
        let tasks = match writer.try_submit(&mut entry)? {
            Some(tasks) => tasks,
            None => wait(&run.core, writer.submit(entry))?,
        };
        handle_of(Arc::clone(run), &tasks).map(Handle::new)
    }
}
