//! What a worker tells the store when its reply may have been lost.

use std::time::Duration;

use bolthole_broker::clock;
use bolthole_broker::failpoint::{self, Point};
use bolthole_broker::id::{Incarnation, RunId, TaskId};
use bolthole_broker::locator::Locator;
use bolthole_broker::run::{Commit, Committed, End, Finished};
use bolthole_broker::state::{RunState, StateByte, TaskState};
use bolthole_broker::store::{Epoch, Error, Store};
use bytes::Bytes;
use tokio::time::sleep;

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
    let mut early = Early::new(run);
    let reply = loop {
        match store.commit_in(run, life, commit).await? {
            Some(Committed::NotRunning(None)) if early.waits().await => {}
            reply => break reply,
        }
    };
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

/// Waits for a run that the store does not know: a client may ring while it opens one, and the message
/// be faster. Briefly, because mostly such a run was deleted.
struct Early(Option<Duration>);

impl Early {
    /// How long ago a run may have been opened that the store has not heard of.
    const AGE_MAX: Duration = Duration::from_secs(5);
    /// The first wait, doubled each time, and the last one.
    const WAIT: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(64));

    fn new(run: RunId) -> Self {
        let age = Duration::from_millis(clock::unix_ms().abs_diff(run.unix_ms()));
        Self((age < Self::AGE_MAX).then_some(Self::WAIT.0))
    }

    /// Waits once more; false when it does not wait any longer.
    async fn waits(&mut self) -> bool {
        let Some(wait) = self.0 else { return false };
        self.0 = Some(wait * 2).filter(|next| *next <= Self::WAIT.1);
        sleep(wait).await;
        true
    }
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bolthole_broker::run::{Activate, Open, OutboxId, Stage};
    use bolthole_broker::state::FailurePolicy;
    use bolthole_broker::store::Memory;
    use tokio::time::Instant;

    use super::*;

    /// The only task of a run has finished.
    fn commit() -> Commit {
        let locator = Locator::embed(b"1").unwrap();
        let end = End::Done { locator, record: Bytes::new(), keep: false };
        Commit {
            segment: 0,
            finished: vec![Finished { index: 0, generation: 0, end, lease: None }],
            releases: Vec::new(),
            consumed: Vec::new(),
            outbox: OutboxId { owner: Incarnation::new(7), sequence: 0 },
            settled: Vec::new(),
            spawn: None,
        }
    }

    /// What the run is made of, after a while.
    async fn open(store: &Store, run: RunId, after: Duration) {
        sleep(after).await;
        let open = Open {
            name: None,
            digest: [0; 32],
            policy: FailurePolicy::FailFast,
            header: BTreeMap::new(),
            client_lease_ms: 60_000,
            retention_ms: 60_000,
        };
        let digest = [1; 16];
        let chunks = vec![Bytes::from_static(b"chunk")];
        let stage = Stage { segment: 0, digest, pending: vec![0], consumers: vec![1], chunks };
        let activate = Activate { segment: 0, digest, cursor: 0, edges: vec![], last: true };
        store.begin(run, Some(&open), &stage, &activate, true).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_commit_that_comes_before_its_run_waits_for_it() {
        let (store, run) = (Store::Memory(Memory::default()), clock::new_run_id());
        let life = store.epoch().await.unwrap();
        let commit = commit();
        let committing = send_commit(&store, run, &life, &commit, false);
        let opening = open(&store, run, Duration::from_millis(20));
        let (reply, ()) = tokio::join!(committing, opening);
        assert!(matches!(reply, Ok(Some(Committed::Written { .. }))), "{reply:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_commit_of_a_run_that_does_not_come_is_given_up() {
        let store = Store::Memory(Memory::default());
        let life = store.epoch().await.unwrap();
        for (run, waits) in [(clock::new_run_id(), true), (RunId::new(7, 7), false)] {
            let began = Instant::now();
            let reply = send_commit(&store, run, &life, &commit(), false).await;
            assert!(matches!(reply, Ok(Some(Committed::NotRunning(None)))), "{reply:?}");
            let waited = began.elapsed();
            assert!(waited < 3 * Early::WAIT.1 && waited.is_zero() != waits, "{waited:?}");
        }
    }
}
