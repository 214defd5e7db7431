//! Histories of tasks that are pending once more, or whose worker is gone.

use anyhow::ensure;
use bolthole_broker::limits::COMMIT_TASKS_MAX;
use bolthole_broker::run::{Committed, Ready, Rearmed};
use bolthole_broker::state::TaskState;
use bolthole_broker::store::{Memory, Store};

use super::little::{Little, stored, task};

/// History 9, its end: a lost result has more inputs than a commit has tasks, and all of them are
/// computed again.
pub(crate) async fn a_lost_result_of_many_inputs(store: &Store) -> anyhow::Result<()> {
    let sources = u16::try_from(3 * COMMIT_TASKS_MAX)?;
    let all: Vec<u16> = (0..sources).collect();
    let mut inputs: Vec<&[u16]> = vec![&[]; all.len()];
    inputs.push(&all);
    let run = Little::new(store, &inputs, &[sources]).await?;
    for generation in 0..2 {
        for (sequence, some) in (1..).zip(all.chunks(COMMIT_TASKS_MAX)) {
            let ends: Vec<_> = some.iter().map(|index| (*index, generation, stored(1))).collect();
            let commit = run.commit_of(&ends, u64::from(generation) << 8 | sequence);
            let reply = store.commit(run.run, &commit).await?;
            ensure!(matches!(reply, Committed::Written { .. }), "{reply:?}");
        }
        run.is(task(sources), TaskState::Pending).await?;
        ensure!(run.finish(sources, generation, stored(2)).await?.is_empty());
        for source in [0, sources - 1] {
            run.is(task(source), TaskState::Freed).await?;
        }
        if generation == 0 {
            let mut lost = vec![run.lost(sources).await?];
            for source in all.iter().rev() {
                lost.push(run.lost(*source).await?);
            }
            let again = store.rearm(run.run, &lost).await?;
            let pending = again.iter().filter(|one| matches!(one, Rearmed::Pending(_))).count();
            ensure!(pending == lost.len(), "{pending} of {}", lost.len());
            let waits = run.status(task(sources)).await?.pending;
            ensure!(waits == u32::from(sources), "it waits for {waits}");
        }
    }
    Ok(())
}

/// History 12, its middle: a released task runs where its input was made, the delivery of that input
/// is acknowledged, and the worker dies. No message tells of the task, but the release does.
pub(crate) async fn what_ran_ahead_of_its_message_is_not_lost_with_its_worker(
    store: &Store,
) -> anyhow::Result<()> {
    let run = Little::new(store, &[&[], &[0]], &[1]).await?;
    let released = run.finish(0, 0, stored(1)).await?;
    ensure!(released == [Ready::first(task(1))]);
    store.evict(run.run, run.owner).await?;
    let entries = store.outbox(run.run).await?;
    ensure!(entries.len() == 1 && entries[0].0.owner == run.owner, "{entries:?}");
    ensure!(entries[0].1 == released && store.ready(run.run, 0).await? == released);
    // Whoever takes over settles it once the task has finished; a second time is none.
    run.finish(1, 0, stored(2)).await?;
    ensure!(store.settle(run.run, entries[0].0, &released).await?);
    ensure!(!store.settle(run.run, entries[0].0, &released).await?);
    ensure!(store.ready(run.run, 0).await?.is_empty());
    Ok(())
}

/// History 11, the second half: a generation is given out twice, because the first time was undone.
/// What was computed in the future that has vanished is not the second one's.
#[tokio::test]
async fn a_generation_that_was_given_out_twice() {
    let memory = Memory::new();
    let store = Store::Memory(memory.clone());
    let run = Little::new(&store, &[&[], &[0]], &[0, 1]).await.unwrap();
    run.finish(0, 0, stored(1)).await.unwrap();
    let (before, lost) = (memory.snapshot(), run.lost(0).await.unwrap());
    let again = [Rearmed::Pending(0)];
    assert_eq!(store.rearm(run.run, std::slice::from_ref(&lost)).await.unwrap(), again);
    run.finish(0, 1, stored(2)).await.unwrap();
    memory.restore(before);
    assert_eq!(store.rearm(run.run, &[lost]).await.unwrap(), again);
    run.finish(0, 1, stored(3)).await.unwrap();
    let vanished = run.commit_of(&[(0, 1, stored(2))], 99);
    let reply = store.commit(run.run, &vanished).await.unwrap();
    assert!(matches!(reply, Committed::Superseded(_)), "{reply:?}");
    let record = run.status(task(0)).await.unwrap().record.unwrap();
    assert_eq!(record[..], [3; 16], "the result of the history that there is");
}
