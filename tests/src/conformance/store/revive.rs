//! A run that has ended without success is taken up again.

use anyhow::{Context as _, ensure};
use bolthole_broker::clock;
use bolthole_broker::id::TaskId;
use bolthole_broker::limits::WORKER_LEASE;
use bolthole_broker::run::{
    Committed, End, LeaseRequest, Leased, Lost, Ready, Rearmed, Retry, Revive, Revived, Setback,
};
use bolthole_broker::state::{RunState, StateByte, TaskState};
use bolthole_broker::store::Store;
use bytes::Bytes;

use super::sample::{Sample, done, task};

/// The task of this index in a chain of four.
fn revive(index: u16, generation: u8) -> Revive {
    Revive {
        task: task(index),
        generation,
        inputs: index.checked_sub(1).map(task).into_iter().collect(),
        successors: (index < 3).then(|| task(index + 1)).into_iter().collect(),
    }
}

fn failed() -> End {
    End::Failed { error: Bytes::from_static(b"why") }
}

/// What failed and what was skipped is pending again, with fresh attempts; what succeeded stays; a
/// freed input is computed again. Only a run that has ended is taken up, and only when nothing of
/// it counts as failed any more.
pub async fn taken_up_again(store: &Store) -> anyhow::Result<()> {
    let sample = Sample::tolerant_chain(store, 4).await?;
    let run = sample.run;
    store.commit(run, &sample.finish(&[0])).await?;
    let retry = Retry {
        task: task(1),
        generation: 0,
        setback: Setback::Stuck,
        attempt: 1,
        lease: None,
        delay_ms: 0,
    };
    store.retry(run, &retry).await?;
    store.commit(run, &sample.commit(&[(1, failed())], 1)).await?;
    ensure!(store.revive(run, &[revive(1, 0)]).await? == [Revived::NotEnded]);
    ensure!(store.resume(run).await? == Some(RunState::Open));
    let skipped = End::Skipped { cause: task(1) };
    store.commit(run, &sample.commit(&[(2, skipped.clone()), (3, skipped)], 2)).await?;
    ensure!(store.close(run).await? == Some(RunState::Failed));

    ensure!(store.resume(run).await? == Some(RunState::Failed), "a task counts as failed");
    let all = [revive(0, 0), revive(1, 0), revive(2, 0), revive(3, 0)];
    let one = Revived::Pending(1);
    for _ in 0..2 {
        let reply = store.revive(run, &all).await?;
        ensure!(reply == [Revived::Stale, Revived::Pending(0), one, one], "{reply:?}");
    }
    let status = store.status(run).await?.context("no status")?;
    ensure!((status.state, status.finished, status.failed) == (RunState::Failed, 1, 0));
    ensure!(store.resume(run).await? == Some(RunState::Closed));
    ensure!(store.resume(run).await? == Some(RunState::Closed), "repeated");
    let status = store.status(run).await?.context("no status")?;
    ensure!(status.reason.is_none() && !store.overdue().await?.contains(&run));
    let stored = store.inspect(run, &[task(1), task(2)]).await?;
    for stored in stored.into_iter().flatten() {
        ensure!(stored.state == StateByte::new(TaskState::Pending, 1) && stored.record.is_none());
        ensure!(stored.failures == 0);
    }

    // The input of task 1 was freed when that failed.
    let freed = store.inspect(run, &[task(0)]).await?.remove(0).context("no task")?;
    ensure!(freed.state.state() == TaskState::Freed);
    let successors = vec![task(1)];
    let lost = Lost { task: task(0), locator: freed.locator, inputs: vec![], successors };
    ensure!(store.rearm(run, &[lost]).await? == [Rearmed::Pending(0)]);
    let late = store.commit(run, &sample.commit(&[(1, done())], 3)).await?;
    ensure!(matches!(late, Committed::Superseded(_)), "of generation 0: {late:?}");
    let ask = [LeaseRequest { task: task(1), generation: 1, nonce: 1, over: None }];
    let leased = store.lease(run, clock::new_incarnation(), WORKER_LEASE, &ask).await?;
    ensure!(leased == [Leased::Granted { attempt: 1, crashes: None }], "{leased:?}");
    for (index, sequence) in (0..4).zip(4..) {
        let mut commit = sample.commit(&[(index, done())], sequence);
        (commit.finished[0].generation, commit.finished[0].lease) = (1, Some(1));
        let reply = store.commit(run, &commit).await?;
        ensure!(matches!(reply, Committed::Written { .. }), "{index}: {reply:?}");
    }
    ensure!(store.status(run).await?.context("no status")?.state == RunState::Done);
    store.purge(run).await?;
    ensure!(store.resume(run).await?.is_none());
    ensure!(store.revive(run, &[revive(0, 0)]).await? == [Revived::NotEnded]);
    Ok(())
}

/// Between two slices nothing is committed; a consumer that was about to be skipped is not skipped
/// by a commit from before; a cancelled run goes on with what was pending.
pub async fn in_slices(store: &Store) -> anyhow::Result<()> {
    let sample = Sample::tolerant_chain(store, 4).await?;
    let run = sample.run;
    let reply = store.commit(run, &sample.commit(&[(0, failed())], 1)).await?;
    let Committed::Written { ready, .. } = reply else { anyhow::bail!("{reply:?}") };
    ensure!(ready == [Ready::first(task(1))]);
    let skip = sample.commit(&[(1, End::Skipped { cause: task(0) })], 2);
    ensure!(store.cancel(run, "to be repaired").await? == Some(RunState::Cancelled));
    ensure!(store.revive(run, &[revive(0, 0)]).await? == [Revived::Pending(0)]);
    let reply = store.commit(run, &skip).await?;
    ensure!(reply == Committed::NotRunning(Some(RunState::Cancelled)), "{reply:?}");
    ensure!(store.resume(run).await? == Some(RunState::Closed));
    let reply = store.commit(run, &skip).await?;
    ensure!(matches!(reply, Committed::Superseded(_)), "{reply:?}");
    let ready = store.ready(run, 0).await?;
    ensure!(ready == [Ready { generation: 1, ..Ready::first(task(0)) }], "{ready:?}");
    let spawned = TaskId::new(7, 0);
    let nowhere = Revive { task: spawned, generation: 0, inputs: vec![], successors: vec![] };
    ensure!(store.revive(run, &[nowhere]).await? == [Revived::Stale]);
    store.purge(run).await?;

    // Sixteen generations, then the run must be submitted again.
    let sample = Sample::chain(store, 1).await?;
    for generation in 0..=15 {
        let mut commit = sample.commit(&[(0, failed())], generation.into());
        commit.finished[0].generation = generation;
        let reply = store.commit(sample.run, &commit).await?;
        ensure!(matches!(reply, Committed::Written { run: RunState::Failed, .. }), "{reply:?}");
        let one = Revive { successors: vec![], ..revive(0, generation) };
        let reply = store.revive(sample.run, &[one]).await?;
        let most = generation == 15;
        ensure!(reply == [if most { Revived::TooOften } else { Revived::Pending(0) }], "{reply:?}");
        let state = store.resume(sample.run).await?;
        ensure!(state == Some(if most { RunState::Failed } else { RunState::Closed }));
    }
    store.purge(sample.run).await?;
    Ok(())
}
