//! Histories of clients: what is staged, and when it counts.

use anyhow::ensure;
use bolthole_broker::clock;
use bolthole_broker::id::TaskId;
use bolthole_broker::run::{Activated, Committed, End, Open, Opened, Ready, Refused};
use bolthole_broker::state::{RunState, TaskState};
use bolthole_broker::store::{Error, Store};

use super::little::{Little, columns, failed, open, slice, stored, task};

/// History 1: a writer repeats its column writes after task 0 has committed. Task 1 counted a pending
/// input for ever, and nobody rang for it.
pub(crate) async fn columns_are_not_rewritten_after_activation(
    store: &Store,
) -> anyhow::Result<()> {
    let run = Little::new(store, &[&[], &[0]], &[1]).await?;
    ensure!(run.finish(0, 0, stored(1)).await? == [Ready::first(task(1))]);
    store.stage(run.run, &run.stage).await?;
    let again = store.activate(run.run, &slice(0, 0, &[], true)).await?;
    ensure!(again == Activated::Already, "{again:?}");
    run.is(task(0), TaskState::Done).await?;
    ensure!(run.status(task(1)).await?.pending == 0);
    ensure!(store.ready(run.run, 0).await? == [Ready::first(task(1))]);
    Ok(())
}

/// History 3: the client of an open run goes for ever. The run was never closed and its pins kept.
pub(crate) async fn a_silent_client_is_noticed_and_its_run_closed(
    store: &Store,
) -> anyhow::Result<()> {
    let words = Open { client_lease_ms: 0, retention_ms: 0, ..open() };
    let run = Little::opened(store, &words, &[&[]], &[]).await?;
    ensure!(store.overdue().await?.contains(&run.run), "its client is silent");
    ensure!(store.close(run.run).await? == Some(RunState::Closed));
    run.finish(0, 0, stored(1)).await?;
    ensure!(run.state().await? == Some(RunState::Done));
    ensure!(store.overdue().await?.contains(&run.run), "it has outlived its retention");
    store.purge(run.run).await?;
    ensure!(run.state().await?.is_none());
    Ok(())
}

/// History 3, the other half: a handle is dropped, and no later segment tells the store. The result
/// stayed pinned.
pub(crate) async fn a_handle_that_is_dropped_frees_its_result(store: &Store) -> anyhow::Result<()> {
    let run = Little::new(store, &[&[]], &[0]).await?;
    run.finish(0, 0, stored(1)).await?;
    run.is(task(0), TaskState::Done).await?;
    ensure!(store.unpin(run.run, &[task(0)]).await?.len() == 1);
    run.is(task(0), TaskState::Freed).await
}

/// History 4a: an edge from an earlier segment adds no consumer. Its input was freed before the late
/// consumer ran.
pub(crate) async fn a_late_edge_keeps_its_input(store: &Store) -> anyhow::Result<()> {
    let run = Little::new(store, &[&[]], &[0]).await?;
    run.finish(0, 0, stored(1)).await?;
    let active = run.append(1, 1, &[(task(0), 0)]).await?;
    ensure!(active == Activated::Active { ready: vec![0] }, "{active:?}");
    ensure!(store.unpin(run.run, &[task(0)]).await?.is_empty(), "its consumer has not run");
    run.is(task(0), TaskState::Done).await
}

/// History 5, the second half: a segment is refused because one of its inputs has failed.
pub(crate) async fn an_input_that_has_failed_refuses_no_segment(
    store: &Store,
) -> anyhow::Result<()> {
    let run = Little::new(store, &[&[]], &[0]).await?;
    run.finish(0, 0, failed()).await?;
    let active = run.append(1, 2, &[(task(0), 1)]).await?;
    ensure!(active == Activated::Active { ready: vec![0, 1] }, "{active:?}");
    Ok(())
}

/// History 9: the first slice registers u → s, u commits and releases s, and then comes the slice
/// with the second edge of s. It ran without that input.
pub(crate) async fn an_input_may_finish_between_two_slices(store: &Store) -> anyhow::Result<()> {
    let run = Little::new(store, &[&[], &[]], &[0, 1]).await?;
    store.stage(run.run, &columns(1, &[&[]], &[])).await?;
    let more = store.activate(run.run, &slice(1, 0, &[(task(0), 0)], false)).await?;
    ensure!(more == Activated::More { cursor: 1 }, "{more:?}");
    ensure!(run.finish(0, 0, stored(1)).await?.is_empty(), "its segment is not active");
    // Sent twice: the cursor tells.
    let again = store.activate(run.run, &slice(1, 0, &[(task(0), 0)], false)).await?;
    ensure!(again == Activated::More { cursor: 1 }, "{again:?}");
    let active = store.activate(run.run, &slice(1, 1, &[(task(1), 0)], true)).await?;
    ensure!(active == Activated::Active { ready: vec![] }, "{active:?}");
    let late = TaskId::new(1, 0);
    ensure!(run.finish(1, 0, stored(2)).await? == [Ready::first(late)]);
    Ok(())
}

/// History 13: another client's different run of the same name counted as a duplicate, so did a
/// different segment; and a segment of a cancelled run was activated.
pub(crate) async fn other_content_is_no_duplicate(store: &Store) -> anyhow::Result<()> {
    let name = Some(format!("nightly {}", clock::random_u64()));
    let words = Open { name: name.clone(), ..open() };
    let run = Little::opened(store, &words, &[&[]], &[0]).await?;
    let other = Open { name, digest: [2; 32], ..open() };
    let opened = store.open(clock::new_run_id(), &other).await?;
    ensure!(opened == Opened::Conflict(run.run), "{opened:?}");
    let mut different = columns(0, &[&[], &[]], &[]);
    different.digest = [5; 16];
    let refused = store.stage(run.run, &different).await;
    ensure!(matches!(refused, Err(Error::Refused(Refused::Conflict))), "{refused:?}");
    store.stage(run.run, &columns(1, &[&[]], &[])).await?;
    store.cancel(run.run, "enough").await?;
    let refused = store.activate(run.run, &slice(1, 0, &[], true)).await;
    let not_open = Refused::NotOpen(RunState::Cancelled);
    ensure!(matches!(refused, Err(Error::Refused(no)) if no == not_open), "{refused:?}");
    Ok(())
}

/// History 13, the second half: what a task submits was staged and started by its twin as well.
pub(crate) async fn a_twin_submits_its_tasks_in_vain(store: &Store) -> anyhow::Result<()> {
    let run = Little::new(store, &[&[]], &[0]).await?;
    let mut spawned = Vec::new();
    for _ in 0..2 {
        let number = store.reserve(run.run).await?;
        store.stage(run.run, &columns(number, &[&[]], &[])).await?;
        spawned.push(number);
    }
    let forward = |sequence, number| {
        let to = TaskId::new(number, 0);
        let mut commit = run.commit_of(&[(0, 0, End::Forwarded { to })], sequence);
        commit.releases.clear();
        commit.spawn = Some((number, [4; 16]));
        commit
    };
    let first = store.commit(run.run, &forward(1, spawned[0])).await?;
    ensure!(matches!(first, Committed::Written { .. }), "{first:?}");
    let twin = store.commit(run.run, &forward(2, spawned[1])).await?;
    ensure!(matches!(twin, Committed::Superseded(_)), "{twin:?}");
    store.unstage(run.run, spawned[1]).await?;
    ensure!(store.segments(run.run).await? == [0, spawned[0]]);
    Ok(())
}
