//! Runs that have ended and go on, because a result that was to be kept is lost.

use anyhow::{Context as _, ensure};
use bolthole_broker::clock;
use bolthole_broker::locator::Locator;
use bolthole_broker::run::{Commit, Committed, End, Lost, Open, Rearmed, Stage};
use bolthole_broker::state::{FailurePolicy, PINNED, RunState};
use bolthole_broker::store::Store;
use bytes::Bytes;

use super::sample::{DIGEST, Sample, activate, done, open, task};

/// A run that is done is reopened for a lost result that was to be kept, and for no other.
pub async fn when_done(store: &Store) -> anyhow::Result<()> {
    let sample = Sample::chain(store, 2).await?;
    let run = sample.run;
    store.commit(run, &sample.finish(&[0])).await?;
    store.commit(run, &sample.finish(&[1])).await?;
    ensure!(store.close(run).await? == Some(RunState::Done));
    let End::Done { locator, .. } = done() else { anyhow::bail!("done") };
    let lost = |index: u16, locator| {
        let inputs = if index == 0 { vec![] } else { vec![task(index - 1)] };
        [Lost { task: task(index), locator, inputs, successors: vec![] }]
    };
    ensure!(store.rearm(run, &lost(0, Locator::Empty)).await? == [Rearmed::NotNeeded]);
    ensure!(store.rearm(run, &lost(1, locator)).await? == [Rearmed::Pending(0)]);
    let status = store.status(run).await?.context("no run")?;
    ensure!((status.state, status.finished) == (RunState::Closed, 1), "{status:?}");
    // Its input was freed, and comes back first.
    ensure!(store.rearm(run, &lost(0, Locator::Empty)).await? == [Rearmed::Pending(0)]);
    for index in [0, 1] {
        let mut again = sample.commit(&[(index, done())], 7 + u64::from(index));
        again.finished[0].generation = 1;
        let reply = store.commit(run, &again).await?;
        ensure!(matches!(reply, Committed::Written { .. }), "{reply:?}");
    }
    let status = store.status(run).await?.context("no run")?;
    ensure!((status.state, status.finished) == (RunState::Done, 2), "{status:?}");
    store.purge(run).await?;
    Ok(())
}

/// So is one in which a task has failed, when all others have finished: it fails again.
pub async fn after_a_failure(store: &Store) -> anyhow::Result<()> {
    for (policy, rearmed) in [
        (FailurePolicy::Continue, Rearmed::Pending(0)),
        (FailurePolicy::FailFast, Rearmed::NotNeeded),
    ] {
        let run = clock::new_run_id();
        store.open(run, &Open { policy, ..open() }).await?;
        let stage = Stage {
            segment: 0,
            digest: DIGEST,
            pending: vec![0; 3],
            consumers: vec![PINNED; 3],
            chunks: vec![Bytes::from_static(b"chunk")],
        };
        store.stage(run, &stage).await?;
        store.activate(run, &activate()).await?;
        store.close(run).await?;
        let sample = Sample { run, stage, owner: clock::new_incarnation() };
        let commit = |index, end, sequence| {
            let commit = sample.commit(&[(index, end)], sequence);
            Commit { releases: vec![], consumed: vec![], ..commit }
        };
        store.commit(run, &commit(0, done(), 1)).await?;
        if policy == FailurePolicy::Continue {
            store.commit(run, &commit(2, done(), 2)).await?;
        }
        let failed = End::Failed { error: Bytes::from_static(b"why") };
        store.commit(run, &commit(1, failed, 3)).await?;
        let status = store.status(run).await?.context("no run")?;
        ensure!(status.state == RunState::Failed, "{status:?}");
        let End::Done { locator, .. } = done() else { anyhow::bail!("done") };
        let lost = [Lost { task: task(0), locator, inputs: vec![], successors: vec![] }];
        ensure!(store.rearm(run, &lost).await? == [rearmed]);
        if rearmed == Rearmed::Pending(0) {
            let mut again = commit(0, done(), 4);
            again.finished[0].generation = 1;
            store.commit(run, &again).await?;
        }
        let status = store.status(run).await?.context("no run")?;
        ensure!((status.state, status.failed) == (RunState::Failed, 1), "{status:?}");
        store.purge(run).await?;
    }
    Ok(())
}
