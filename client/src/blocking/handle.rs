//! Handles whose results are waited for.

use std::fmt;
use std::time::Duration;

use bolthole_broker::id::{RunId, TaskId};
use serde::de::DeserializeOwned;

use super::Run;
use super::wait;
use crate::error::{Error, ErrorKind, Result};
use crate::handle::Handle as AsyncHandle;

/// A submitted call: see [`crate::Handle`].
// As large as the other: nothing is beside it.
pub struct Handle<T>(AsyncHandle<T>);

impl<T> Handle<T> {
    pub(crate) fn new(handle: AsyncHandle<T>) -> Self {
        Self(handle)
    }

    pub(crate) fn as_async(&self) -> &AsyncHandle<T> {
        &self.0
    }

    pub(crate) fn into_async(self) -> AsyncHandle<T> {
        self.0
    }

    /// The run's id.
    pub fn run(&self) -> RunId {
        self.0.run()
    }

    /// The task.
    pub fn task(&self) -> TaskId {
        self.0.task()
    }

    /// The run that the task belongs to.
    pub fn in_run(&self) -> Run {
        Run::new(self.0.in_run())
    }

    /// Returns when the task has finished, well or not, or never will.
    pub fn wait(&self) -> Result<()> {
        wait(&self.0.inner().core, self.0.wait())
    }

    /// Whether the task has finished, well or not.
    pub fn is_finished(&self) -> Result<bool> {
        wait(&self.0.inner().core, self.0.is_finished())
    }

    /// See [`crate::Handle::cancel`].
    pub fn cancel(&self) -> Result<bool> {
        wait(&self.0.inner().core, self.0.cancel())
    }
}

impl<T: DeserializeOwned> Handle<T> {
    /// The result, when there is one.
    pub fn result(&self) -> Result<T> {
        wait(&self.0.inner().core, self.0.result())
    }

    /// See [`crate::Handle::result_within`].
    pub fn result_within(&self, limit: Duration) -> Result<T> {
        wait(&self.0.inner().core, self.0.result_within(limit))
    }

    /// See [`crate::Handle::try_result`].
    pub fn try_result(&self) -> Result<Option<T>> {
        wait(&self.0.inner().core, self.0.try_result())
    }
}

impl<T> Clone for Handle<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> fmt::Debug for Handle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Handles in any shape, as those of a blocking client.
pub trait BlockingHandles {
    /// The same shape.
    type Blocking;

    #[doc(hidden)]
    fn blocking(self) -> Self::Blocking;
}

impl<T> BlockingHandles for AsyncHandle<T> {
    type Blocking = Handle<T>;

    fn blocking(self) -> Handle<T> {
        Handle(self)
    }
}

impl<H: BlockingHandles> BlockingHandles for Vec<H> {
    type Blocking = Vec<H::Blocking>;

    fn blocking(self) -> Self::Blocking {
        self.into_iter().map(H::blocking).collect()
    }
}

macro_rules! tuples {
    ($(($($part:ident $place:tt),+))*) => {$(
        impl<$($part: BlockingHandles),+> BlockingHandles for ($($part,)+) {
            type Blocking = ($($part::Blocking,)+);

            fn blocking(self) -> Self::Blocking {
                ($(self.$place.blocking(),)+)
            }
        }
    )*};
}

tuples! {
    (A 0)
    (A 0, B 1)
    (A 0, B 1, C 2)
    (A 0, B 1, C 2, D 3)
    (A 0, B 1, C 2, D 3, E 4)
    (A 0, B 1, C 2, D 3, E 4, F 5)
}

/// The results of handles, in their order.
pub(super) async fn gather<T: DeserializeOwned>(handles: &[Handle<T>]) -> Result<Vec<T>> {
    crate::gather::gather_from(handles, Handle::as_async).await
}

/// See [`crate::wait_all`].
pub fn wait_all<T>(handles: &[Handle<T>], limit: Duration) -> Result<()> {
    let Some(first) = handles.first() else { return Ok(()) };
    wait(&first.0.inner().core, crate::gather::wait_all_of(handles, Handle::as_async, limit))
}

/// See [`crate::wait_any`].
pub fn wait_any<T>(handles: &[Handle<T>], limit: Duration) -> Result<usize> {
    let first = handles.first();
    let first =
        first.ok_or_else(|| Error::new(ErrorKind::Config, "there is no task to wait for"))?;
    wait(&first.0.inner().core, crate::gather::wait_any_of(handles, Handle::as_async, limit))
}
