//! Counts that something else than an operation has changed.

use anyhow::{Context as _, ensure};
use bolthole_broker::descriptor::{Chunk, Descriptor};
use bolthole_broker::id::WorkerIndex;
use bolthole_broker::locator::Locator;
use bolthole_broker::run::{
    Activate, Counts, End, Examination, Finding, Mend, Open, RunDump, Stage, Tally,
};
use bolthole_broker::state::{FailurePolicy, PINNED, RunState, StateByte, TaskState};
use bolthole_broker::store::Store;
use bytes::Bytes;

use super::sample::{DIGEST, Sample, activate, open, task};

const PENDING: StateByte = StateByte::new(TaskState::Pending, 0);

/// A chain of three whose second task waits, by its column, for one input more than it has.
async fn damaged(store: &Store) -> anyhow::Result<Sample> {
    let sample = Sample::tolerant_chain(store, 3).await?;
    let run = bolthole_broker::clock::new_run_id();
    store.open(run, &Open { policy: FailurePolicy::Continue, ..open() }).await?;
    let stage = Stage { pending: vec![0, 2, 1], ..sample.stage.clone() };
    store.stage(run, &stage).await?;
    store.activate(run, &Activate { digest: DIGEST, ..activate() }).await?;
    Ok(Sample { run, stage, ..sample })
}

/// Counts are put right while they stand as they were found, and then the run goes on.
pub async fn counts(store: &Store) -> anyhow::Result<()> {
    let sample = damaged(store).await?;
    let run = sample.run;
    store.commit(run, &sample.finish(&[0])).await?;
    let found = Counts { state: PENDING, pending: 1, consumers: 1 };
    let mend = Mend { task: task(1), found, right: Counts { pending: 0, ..found } };
    let stale = Mend { found: Counts { pending: 2, ..found }, ..mend };
    let nowhere = Mend { task: bolthole_broker::id::TaskId::new(7, 0), ..mend };
    ensure!(store.mend(run, &[stale, nowhere]).await? == [false, false]);
    ensure!(store.ready(run, 0).await?.is_empty(), "nothing was changed");
    ensure!(store.mend(run, &[mend]).await? == [true]);
    ensure!(store.mend(run, &[mend]).await? == [false], "it stands so no more");
    ensure!(store.ready(run, 0).await?.first().is_some_and(|ready| ready.task == task(1)));
    // A result that nobody needs is freed at once.
    store.commit(run, &sample.finish(&[1])).await?;
    let done = StateByte::new(TaskState::Done, 0);
    let found = Counts { state: done, pending: 0, consumers: 1 };
    let mend = Mend { task: task(1), found, right: Counts { consumers: 0, ..found } };
    ensure!(store.mend(run, &[mend]).await? == [true]);
    let status = store.inspect(run, &[task(1)]).await?.remove(0).context("it is there")?;
    ensure!(status.state.state() == TaskState::Freed);
    Ok(())
}

/// Totals are put right while they stand as they were found, and end the run.
pub async fn totals(store: &Store) -> anyhow::Result<()> {
    let sample = Sample::tolerant_chain(store, 2).await?;
    let run = sample.run;
    store.commit(run, &sample.finish(&[0])).await?;
    store.close(run).await?;
    let found = Tally { tasks: 2, finished: 1, failed: 0 };
    let right = Tally { finished: 2, ..found };
    ensure!(!store.recount(run, right, found).await?, "others stand there");
    ensure!(store.recount(run, found, right).await?);
    let status = store.status(run).await?.context("it is there")?;
    ensure!((status.state, status.finished) == (RunState::Done, 2));
    ensure!(!store.recount(bolthole_broker::clock::new_run_id(), found, right).await?);
    Ok(())
}

/// Adding up what is stored finds damage, and nothing else.
pub async fn examined(store: &Store) -> anyhow::Result<()> {
    let sample = Sample::tolerant_chain(store, 3).await?;
    store.commit(sample.run, &sample.finish(&[0])).await?;
    ensure!(examine(store, &sample, 3).await?.is_empty());
    let missing = examine(store, &sample, 0).await?;
    ensure!(missing == [Finding::Chunk { segment: 0, number: 0 }]);
    let sample = damaged(store).await?;
    let found = Counts { state: PENDING, pending: 2, consumers: 1 };
    let right = Counts { pending: 1, ..found };
    let expected = Finding::Counts { task: task(1), found, right };
    ensure!(examine(store, &sample, 3).await? == [expected]);
    ensure!(sample.stage.consumers[2] == PINNED, "a flag is no consumer");
    Ok(())
}

/// A result that is not in its locator cannot be had without what the store keeps beside the task.
pub async fn unrecorded(store: &Store) -> anyhow::Result<()> {
    let held = Locator::held(WorkerIndex::new(5), 9_000);
    for locator in [Locator::Stored { length: 32 }, held, Locator::apart(9_000)] {
        let sample = Sample::tolerant_chain(store, 3).await?;
        let end = End::Done { locator, record: Bytes::from(vec![7; 32]), keep: false };
        store.commit(sample.run, &sample.commit(&[(0, end)], 0)).await?;
        let mut dump = store.dump(sample.run).await?.context("the run is there")?;
        ensure!(findings(&dump, 3).is_empty());
        let segment = dump.segments.get_mut(&0).context("the segment is there")?;
        segment.tasks[0].record = None;
        let found = findings(&dump, 3);
        ensure!(found == [Finding::Record { task: task(0), locator }], "{locator:?}: {found:?}");
    }
    Ok(())
}

/// What is found in a chain of which the first `known` tasks have descriptors.
async fn examine(store: &Store, sample: &Sample, known: u16) -> anyhow::Result<Vec<Finding>> {
    ensure!(sample.stage.chunks == [Bytes::from_static(b"chunk")]);
    let dump = store.dump(sample.run).await?.context("the run is there")?;
    ensure!(Examination::new(&dump).chunks() == [(0, 0)]);
    Ok(findings(&dump, known))
}

fn findings(dump: &RunDump, known: u16) -> Vec<Finding> {
    let tasks = (0..known).map(|index| Descriptor {
        id: task(index),
        class: 0,
        rank: 0,
        inputs: index.checked_sub(1).map(task).into_iter().collect(),
        successors: vec![],
        args: vec![],
    });
    let chunk = Chunk { classes: vec![], tasks: tasks.collect() };
    let mut examination = Examination::new(dump);
    examination.add(0, 0, Some(&chunk).filter(|_| known > 0));
    examination.finish()
}
