//! Many results at once.

use std::time::Duration;

use bolthole_broker::id::TaskId;
use bolthole_broker::limits::INSPECT_TASKS_MAX;
use futures_util::future::select_all;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use crate::error::{Error, ErrorKind, Result};
use crate::handle::{Handle, decode, too_late};

/// The results of handles, in their order; the first error ends it.
pub(crate) async fn gather<T: DeserializeOwned>(handles: &[Handle<T>]) -> Result<Vec<T>> {
    gather_from(handles, |handle| handle).await
}

/// The same for what has a handle in it.
pub(crate) async fn gather_from<T, H>(
    handles: &[H],
    handle: impl Fn(&H) -> &Handle<T>,
) -> Result<Vec<T>>
where
    T: DeserializeOwned,
{
    let mut values = Vec::with_capacity(handles.len());
    // Handles of one run are read together.
    for of_run in handles.chunk_by(|a, b| handle(a).run() == handle(b).run()) {
        for some in of_run.chunks(INSPECT_TASKS_MAX) {
            let Some(first) = some.first() else { continue };
            let tasks: Vec<TaskId> = some.iter().map(|item| handle(item).task()).collect();
            let results = handle(first).inner().values(&tasks).await;
            for (task, result) in tasks.into_iter().zip(results) {
                values.push(decode(task, &result?)?);
            }
        }
    }
    Ok(values)
}

/// Returns when all tasks have finished, well or not; after `limit` an error of kind
/// [`ErrorKind::Timeout`].
pub async fn wait_all<T>(handles: &[Handle<T>], limit: Duration) -> Result<()> {
    wait_all_of(handles, |handle| handle, limit).await
}

/// The same for what has a handle in it.
pub(crate) async fn wait_all_of<T, H>(
    handles: &[H],
    handle: impl Fn(&H) -> &Handle<T>,
    limit: Duration,
) -> Result<()> {
    let all = async {
        for item in handles {
            handle(item).wait().await?;
        }
        Ok(())
    };
    timeout(limit, all).await.unwrap_or_else(|_| Err(too_late("one of the tasks", limit)))
}

/// Returns the place of a handle whose task has finished, well or not, when there is one; after
/// `limit` an error of kind [`ErrorKind::Timeout`].
pub async fn wait_any<T>(handles: &[Handle<T>], limit: Duration) -> Result<usize> {
    wait_any_of(handles, |handle| handle, limit).await
}

/// The same for what has a handle in it.
pub(crate) async fn wait_any_of<T, H>(
    handles: &[H],
    handle: impl Fn(&H) -> &Handle<T>,
    limit: Duration,
) -> Result<usize> {
    if handles.is_empty() {
        return Err(Error::new(ErrorKind::Config, "there is no task to wait for"));
    }
    let any = select_all(handles.iter().map(|item| Box::pin(handle(item).wait())));
    match timeout(limit, any).await {
        Ok((finished, place, _)) => finished.map(|()| place),
        Err(_) => Err(too_late("none of the tasks", limit)),
    }
}
