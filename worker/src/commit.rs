//! What a worker tells the store when its reply may have been lost.

use bolthole_broker::failpoint::{self, Point};
use bolthole_broker::id::{Incarnation, RunId, TaskId};
use bolthole_broker::locator::Locator;
use bolthole_broker::run::{Commit, Committed, End, Finished};
use bolthole_broker::state::{RunState, StateByte, TaskState};
use bolthole_broker::store::{Epoch, Error, Store};
use bytes::Bytes;

/// Sends a commit. When an earlier try of it may have been carried out, a run that has ended since,
/// perhaps by it, says nothing about its results: the tasks themselves do. Locators of results that
/// are stored or held by another attempt are not told: they may read like those of ours. `None` when
/// the store has begun another life than the one in which all this was computed.
pub(crate) async fn send_commit(
    store: &Store,
    run: RunId,
    life: &Epoch,
    commit: &Commit,
    repeated: bool,
) -> Result<Option<Committed>, Error> {
    failpoint::reach(Point::CommitBeforeSend).await;
    let reply = store.commit_in(run, life, commit).await?;
    failpoint::try_reach(Point::CommitAfterReply).await.map_err(|error| Error::Unanswered {
        address: "a failpoint".to_owned(),
        reason: error.to_string(),
    })?;
    let Some(reply) = reply else { return Ok(None) };
    let ended = |state: &RunState| !matches!(state, RunState::Cancelled | RunState::Purging);
    let doubtful = match &reply {
        Committed::Written { .. } => false,
        Committed::Superseded(states) => states.iter().any(|(state, locator)| {
            let exact = matches!(locator, Locator::Embedded { .. });
            state.state() == TaskState::Done && !exact
        }),
        Committed::NotRunning(state) => repeated && state.as_ref().is_some_and(ended),
    };
    if !doubtful {
        return Ok(Some(reply));
    }
    let task = |finished: &Finished| TaskId::new(commit.segment, finished.index);
    let tasks: Vec<TaskId> = commit.finished.iter().map(task).collect();
    let statuses = store.inspect(run, &tasks).await?;
    let standing = statuses.into_iter().zip(&commit.finished).map(|(status, finished)| {
        let missing = (StateByte::new(TaskState::Freed, 0), Locator::Empty);
        let Some(status) = status else { return missing };
        let ours = match &finished.end {
            End::Done { record, .. } => status.record.as_ref().unwrap_or(&Bytes::new()) == record,
            _ => true,
        };
        (status.state, if ours { status.locator } else { Locator::Empty })
    });
    let standing: Vec<(StateByte, Locator)> = standing.collect();
    let over = matches!(reply, Committed::NotRunning(_));
    if over && standing.iter().all(|(state, _)| state.state() == TaskState::Pending) {
        return Ok(Some(reply));
    }
    Ok(Some(Committed::Superseded(standing)))
}

/// Deletes outbox entries whose releases are all published or committed.
pub(crate) async fn settle_all(
    store: &Store,
    run: RunId,
    owner: Incarnation,
    sequences: &[u64],
) -> Result<(), Error> {
    for (id, ready) in store.outbox(run).await? {
        if id.owner == owner && sequences.contains(&id.sequence) {
            store.settle(run, id, &ready).await?;
        }
    }
    Ok(())
}
