//! Histories of runs that have ended, and of what outlives them.

use anyhow::ensure;
use bolthole_broker::clock;
use bolthole_broker::id::TaskId;
use bolthole_broker::run::{Committed, End, Open, Ready, Rearmed};
use bolthole_broker::state::{RunState, TaskState};
use bolthole_broker::store::Store;

use super::little::{Little, columns, open, stored, task};

/// History 8: a message that comes again after the end finds its input freed, and the finished run
/// was set going once more.
pub(crate) async fn a_late_duplicate_computes_nothing_again(store: &Store) -> anyhow::Result<()> {
    let run = Little::new(store, &[&[], &[0]], &[1]).await?;
    store.close(run.run).await?;
    run.finish(0, 0, stored(1)).await?;
    run.finish(1, 0, stored(2)).await?;
    ensure!(run.state().await? == Some(RunState::Done));
    let reply = store.rearm(run.run, &[run.lost(0).await?]).await?;
    ensure!(reply == [Rearmed::NotNeeded], "{reply:?}");
    let late = run.commit_of(&[(1, 0, stored(3))], 9);
    let reply = store.commit(run.run, &late).await?;
    ensure!(reply == Committed::NotRunning(Some(RunState::Done)), "{reply:?}");
    ensure!(run.state().await? == Some(RunState::Done));
    Ok(())
}

/// History 8: a commit during a purge made a key that nobody deleted.
pub(crate) async fn a_commit_to_a_purged_run_leaves_nothing(store: &Store) -> anyhow::Result<()> {
    let run = Little::new(store, &[&[], &[0]], &[1]).await?;
    store.purge(run.run).await?;
    let reply = store.commit(run.run, &run.commit_of(&[(0, 0, stored(1))], 1)).await?;
    ensure!(reply == Committed::NotRunning(None), "{reply:?}");
    ensure!(store.stage(run.run, &run.stage).await.is_err());
    ensure!(store.dump(run.run).await?.is_none());
    ensure!(!store.runs().await?.contains(&run.run));
    Ok(())
}

/// History 8, its end: the client is dead when its run ends, and nobody started its retention.
pub(crate) async fn whoever_counts_last_starts_retention(store: &Store) -> anyhow::Result<()> {
    let words = Open { retention_ms: 0, ..open() };
    let run = Little::opened(store, &words, &[&[]], &[0]).await?;
    store.close(run.run).await?;
    ensure!(!store.overdue().await?.contains(&run.run));
    run.finish(0, 0, stored(1)).await?;
    ensure!(store.overdue().await?.contains(&run.run), "the commit has ended it");
    store.purge(run.run).await?;
    Ok(())
}

/// History 14: a large argument that two runs share died with the first of them.
pub(crate) async fn a_blob_of_two_runs_outlives_the_first(store: &Store) -> anyhow::Result<()> {
    let (first, second) = (clock::new_run_id(), clock::new_run_id());
    for run in [first, second] {
        store.open(run, &open()).await?;
        store.put_blob(run, [7; 32], vec![7; 100_000].into()).await?;
    }
    store.purge(first).await?;
    let blob = store.blob(second, [7; 32]).await?;
    ensure!(blob.is_some_and(|blob| blob == vec![7; 100_000]));
    store.purge(second).await?;
    Ok(())
}

/// History 14, the first half: a task stands for the one that it returned. The source was freed before
/// those behind it had the bytes; now it has a consumer until its result is handed on.
pub(crate) async fn what_a_task_hands_on_is_kept_until_it_has(store: &Store) -> anyhow::Result<()> {
    let run = Little::new(store, &[&[], &[0]], &[1]).await?;
    let number = store.reserve(run.run).await?;
    store.stage(run.run, &columns(number, &[&[]], &[])).await?;
    let source = TaskId::new(number, 0);
    let mut commit = run.commit_of(&[(0, 0, End::Forwarded { to: source })], 1);
    commit.releases.clear();
    commit.spawn = Some((number, [4; 16]));
    let reply = store.commit(run.run, &commit).await?;
    ensure!(matches!(reply, Committed::Written { .. }), "{reply:?}");
    let mut end = run.commit_of(&[], 2);
    end.segment = number;
    end.finished = run.commit_of(&[(0, 0, stored(5))], 2).finished;
    let reply = store.commit(run.run, &end).await?;
    let Committed::Written { ready, freed, .. } = reply else { anyhow::bail!("{reply:?}") };
    let handed = Ready { task: task(0), generation: 0, forwarded: Some(source) };
    ensure!(ready == [handed] && freed.is_empty(), "{ready:?} {freed:?}");
    run.is(source, TaskState::Done).await?;
    let mut relay = run.commit_of(&[(0, 0, stored(5))], 3);
    relay.consumed = vec![(source, 1)];
    let reply = store.commit(run.run, &relay).await?;
    let Committed::Written { ready, .. } = reply else { anyhow::bail!("{reply:?}") };
    ensure!(ready == [Ready::first(task(1))], "{ready:?}");
    run.is(source, TaskState::Freed).await?;
    run.is(task(0), TaskState::Done).await
}
