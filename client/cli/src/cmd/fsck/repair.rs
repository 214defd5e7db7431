//! Putting a run right. Each step is a compare-and-set against what was found, so it does nothing to
//! a run that has gone on since.

use bolthole_broker::descriptor::Chunk;
use bolthole_broker::id::{RunId, TaskId};
use bolthole_broker::limits::CHUNK_TASKS;
use bolthole_broker::locator::Locator;
use bolthole_broker::run::{Finding, Lost, Mend};
use bolthole_broker::store::{Error, Store};

use super::look::Looked;

/// Puts right what was found. What is ready by that is rung for by the next worker that looks after
/// the run.
pub(super) async fn run(store: &Store, run: RunId, looked: &Looked) -> Result<(), Error> {
    let hopeless = looked
        .findings
        .iter()
        .any(|finding| matches!(finding, Finding::Chunk { .. } | Finding::Locator { .. }));
    if looked.damage.is_some() || hopeless {
        let why = "a part of it is missing in the store, found by bolthole fsck";
        store.cancel(run, why).await?;
        return Ok(());
    }
    // Totals first: what is made pending counts from them.
    for finding in &looked.findings {
        if let Finding::Tally { found, right } = finding {
            store.recount(run, *found, *right).await?;
        }
    }
    let (mut mends, mut lost) = (Vec::new(), Vec::new());
    for finding in &looked.findings {
        match finding {
            Finding::Counts { task, found, right } => {
                mends.push(Mend { task: *task, found: *found, right: *right });
            }
            Finding::Record { task, locator } => {
                lost.extend(recompute(store, run, *task, *locator).await?);
            }
            _ => {}
        }
    }
    if !mends.is_empty() {
        store.mend(run, &mends).await?;
    }
    // Descending: a freed input is wanted again once its consumer is pending.
    lost.sort_unstable_by_key(|lost: &Lost| std::cmp::Reverse(lost.task));
    if !lost.is_empty() {
        store.rearm(run, &lost).await?;
    }
    Ok(())
}

/// A result to compute again, when its descriptor is there.
async fn recompute(
    store: &Store,
    run: RunId,
    task: TaskId,
    locator: Locator,
) -> Result<Option<Lost>, Error> {
    let number = u32::from(task.index()) / u32::try_from(CHUNK_TASKS).unwrap_or(u32::MAX);
    let chunk = store.chunks(run, &[(task.segment(), number)]).await?.pop().flatten();
    let chunk = chunk.and_then(|bytes| Chunk::decode(&bytes, task.segment()).ok());
    let descriptor = chunk.as_ref().and_then(|chunk| chunk.task(task.index()));
    Ok(descriptor.map(|descriptor| Lost {
        task,
        locator,
        inputs: descriptor.inputs.clone(),
        successors: descriptor.successors.clone(),
    }))
}
