//! Results in the order in which they come, as an iterator.

use std::sync::Arc;

use serde::de::DeserializeOwned;

use super::handle::Handle;
use super::wait;
use crate::completed::AsCompleted as AsyncAsCompleted;
use crate::core::Core;
use crate::error::Result;

/// Handles with their results, one after the other as their tasks finish: see
/// [`crate::AsCompleted`]. Inside an async runtime it panics in debug builds and yields nothing.
pub struct AsCompleted<T> {
    inner: AsyncAsCompleted<T>,
    core: Option<Arc<Core>>,
}

impl<T> AsCompleted<T> {
    pub(super) fn new(handles: impl IntoIterator<Item = Handle<T>>) -> Self {
        let inner = AsyncAsCompleted::new(handles.into_iter().map(Handle::into_async));
        let core = inner.core();
        Self { inner, core }
    }
}

impl<T: DeserializeOwned> Iterator for AsCompleted<T> {
    type Item = (Handle<T>, Result<T>);

    fn next(&mut self) -> Option<Self::Item> {
        let core = self.core.as_ref()?;
        let next = wait(core, async { Ok(self.inner.next().await) });
        debug_assert!(next.is_ok(), "a blocking iterator inside an async runtime");
        let (handle, result) = next.ok()??;
        Some((Handle::new(handle), result))
    }
}
