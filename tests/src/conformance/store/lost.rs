//! What is known of a result that is lost.

use anyhow::{Context as _, ensure};
use bolthole_broker::id::WorkerIndex;
use bolthole_broker::locator::{Copies, HeldRecord, Locator};
use bolthole_broker::run::{End, Lost, Rearmed};
use bolthole_broker::state::TaskState;
use bolthole_broker::store::Store;
use bytes::Bytes;

use super::sample::{Sample, done, task};

/// What a consumer has used is remembered when it is lost, until there is another result.
pub async fn remembered(store: &Store) -> anyhow::Result<()> {
    let sample = Sample::chain(store, 3).await?;
    let (run, locator) = (sample.run, Locator::held(WorkerIndex::new(7), 9_000));
    let record = HeldRecord { length: 9_000, digest: [1; 16], nonce: 5, copies: Copies::default() };
    let record = Bytes::from(record.to_bytes());
    let held = || End::Done { locator, record: record.clone(), keep: false };
    let lost = |index: u16| {
        let inputs = if index == 0 { vec![] } else { vec![task(index - 1)] };
        [Lost { task: task(index), locator, inputs, successors: vec![task(index + 1)] }]
    };
    let stands = async |index| {
        let status = store.inspect(run, &[task(index)]).await?.remove(0).context("no task")?;
        anyhow::Ok((status.state.state(), status.record))
    };
    store.commit(run, &sample.commit(&[(0, held())], 1)).await?;
    ensure!(store.rearm(run, &lost(0)).await? == [Rearmed::Pending(0)]);
    ensure!(stands(0).await? == (TaskState::Pending, None), "nobody had used it");
    let again = |index, generation, end, nonce| {
        let mut commit = sample.commit(&[(index, end)], nonce);
        commit.finished[0].generation = generation;
        commit
    };
    store.commit(run, &again(0, 1, held(), 2)).await?;
    store.commit(run, &sample.commit(&[(1, held())], 3)).await?;
    // Any finished task does for the consumer.
    let used = Lost { task: task(1), successors: vec![task(0), task(2)], ..lost(1)[0].clone() };
    ensure!(store.rearm(run, &[used]).await? == [Rearmed::Pending(0)]);
    ensure!(stands(1).await? == (TaskState::Pending, Some(record.clone())));
    store.commit(run, &again(1, 1, done(), 4)).await?;
    ensure!(stands(1).await? == (TaskState::Done, None), "the other result takes its place");
    store.purge(run).await?;
    Ok(())
}
