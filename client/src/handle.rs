//! A handle to a task that is part of a run.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use bolthole_broker::id::{RunId, TaskId};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use crate::error::{Error, ErrorKind, Result};
use crate::run::{Run, RunInner};

/// A submitted call: waits for its result, and may be an argument of later calls in its run.
///
/// While a handle of a task lives, its result is kept. Dropping the last one gives the result up,
/// once nothing else needs it; it never cancels the task. The results of a named graph are kept in
/// any case, for those who attach to it later.
pub struct Handle<T> {
    // 16 bytes: a program may have millions of these.
    run: Arc<RunInner>,
    task: TaskId,
    /// A handle owns no `T`: it is `Send` and `Sync` whatever `T` is.
    value: PhantomData<fn() -> T>,
}

impl<T> Handle<T> {
    /// The handle that owns the pin of a task, whose result is a `T`.
    pub(crate) fn new(run: Arc<RunInner>, task: TaskId) -> Self {
        Self { run, task, value: PhantomData }
    }

    /// The run's id.
    pub fn run(&self) -> RunId {
        self.run.id
    }

    /// The task.
    pub fn task(&self) -> TaskId {
        self.task
    }

    /// The run that the task belongs to.
    pub fn in_run(&self) -> Run {
        Run::of(Arc::clone(&self.run))
    }

    pub(crate) fn inner(&self) -> &Arc<RunInner> {
        &self.run
    }

    /// Returns when the task has finished, well or not, or never will.
    pub async fn wait(&self) -> Result<()> {
        self.run.finished(self.task).await
    }

    /// Whether the task has finished, well or not.
    pub async fn is_finished(&self) -> Result<bool> {
        self.run.is_finished(self.task).await
    }

    /// Cancels the task, unless it has finished: it is not run, or what it does is not used, and
    /// what depends on it is skipped. Returns whether it was still to finish.
    pub async fn cancel(&self) -> Result<bool> {
        self.run.cancel_task(self.task).await
    }
}

impl<T: DeserializeOwned> Handle<T> {
    /// The result, when there is one.
    pub async fn result(&self) -> Result<T> {
        let bytes = self.run.value(self.task).await?;
        decode(self.task, &bytes)
    }

    /// The result, if it comes within `limit`; else an error of kind [`ErrorKind::Timeout`], and the
    /// task goes on.
    pub async fn result_within(&self, limit: Duration) -> Result<T> {
        match timeout(limit, self.result()).await {
            Ok(result) => result,
            Err(_) => Err(too_late(&format!("task {}", self.task), limit)),
        }
    }

    /// The result, if the task has finished; `None` while it has not.
    pub async fn try_result(&self) -> Result<Option<T>> {
        if self.is_finished().await? { self.result().await.map(Some) } else { Ok(None) }
    }
}

/// The value of a result.
pub(crate) fn decode<T: DeserializeOwned>(task: TaskId, bytes: &[u8]) -> Result<T> {
    rmp_serde::from_slice(bytes).map_err(|error| {
        let type_name = std::any::type_name::<T>();
        let message = format!("the result of task {task} is no {type_name}: {error}");
        Error::new(ErrorKind::Codec, message)
    })
}

/// A wait that has taken as long as the caller gave it.
pub(crate) fn too_late(what: &str, limit: Duration) -> Error {
    Error::new(ErrorKind::Timeout, format!("{what} has not finished within {limit:?}"))
}

impl<T> Clone for Handle<T> {
    fn clone(&self) -> Self {
        self.run.share(self.task);
        Self { run: Arc::clone(&self.run), task: self.task, value: PhantomData }
    }
}

impl<T> Drop for Handle<T> {
    fn drop(&mut self) {
        self.run.give_up(self.task);
    }
}

impl<T> fmt::Debug for Handle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Handle({}, {})", self.run.id, self.task)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_has_sixteen_bytes() {
        assert_eq!(size_of::<Handle<String>>(), 16);
        assert_eq!(size_of::<Option<crate::blocking::Handle<String>>>(), 16);
    }
}
