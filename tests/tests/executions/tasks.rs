//! Histories of tasks: counts, failures, attempts, releases.

use std::time::Duration;

use anyhow::ensure;
use bolthole_broker::clock;
use bolthole_broker::limits::{COMMIT_TASKS_MAX, WORKER_LEASE};
use bolthole_broker::run::{
    Committed, End, LeaseRequest, Leased, OutboxId, Ready, Rearmed, Retried, Retry, Setback,
};
use bolthole_broker::state::TaskState;
use bolthole_broker::store::Store;

use super::little::{Little, failed, stored, task};

const HOUR: Duration = Duration::from_secs(3_600);

/// History 4b: task 0 has the consumers 1 and 2; 1 commits, its result is lost, it is computed again
/// and commits again. Task 0 was freed although 2 needs it.
pub(crate) async fn a_recomputed_consumer_does_not_free_what_another_needs(
    store: &Store,
) -> anyhow::Result<()> {
    let run = Little::new(store, &[&[], &[0], &[0]], &[1, 2]).await?;
    run.finish(0, 0, stored(1)).await?;
    run.finish(1, 0, stored(2)).await?;
    let again = store.rearm(run.run, &[run.lost(1).await?]).await?;
    ensure!(again == [Rearmed::Pending(0)], "{again:?}");
    run.finish(1, 1, stored(3)).await?;
    run.is(task(0), TaskState::Done).await?;
    run.finish(2, 0, stored(4)).await?;
    run.is(task(0), TaskState::Freed).await
}

/// History 4c: computing a result again overwrote the flag of its handle.
pub(crate) async fn a_recomputation_keeps_the_pin(store: &Store) -> anyhow::Result<()> {
    let run = Little::new(store, &[&[], &[0]], &[0, 1]).await?;
    run.finish(0, 0, stored(1)).await?;
    for index in [0, 1] {
        if index == 1 {
            run.finish(1, 0, stored(2)).await?;
        }
        store.rearm(run.run, &[run.lost(index).await?]).await?;
        run.finish(index, 1, stored(3)).await?;
        run.is(task(index), TaskState::Done).await?;
    }
    run.is(task(0), TaskState::Done).await
}

/// History 4d: the result of an effect was freed by count, and the effect ran again for a lost result
/// behind it.
pub(crate) async fn the_result_of_an_effect_outlives_its_consumers(
    store: &Store,
) -> anyhow::Result<()> {
    let run = Little::new(store, &[&[], &[0], &[1]], &[2]).await?;
    let End::Done { locator, record, .. } = stored(1) else { return Ok(()) };
    run.finish(0, 0, End::Done { locator, record, keep: true }).await?;
    run.finish(1, 0, stored(2)).await?;
    run.is(task(0), TaskState::Done).await?;
    let again = store.rearm(run.run, &[run.lost(1).await?]).await?;
    ensure!(again == [Rearmed::Pending(0)], "{again:?}");
    run.is(task(0), TaskState::Done).await
}

/// History 4e: consumers that were skipped never counted down.
pub(crate) async fn skipped_consumers_count_down(store: &Store) -> anyhow::Result<()> {
    let run = Little::new(store, &[&[], &[], &[0, 1]], &[2]).await?;
    run.finish(0, 0, stored(1)).await?;
    ensure!(run.finish(1, 0, failed()).await? == [Ready::first(task(2))]);
    run.finish(2, 0, End::Skipped { cause: task(1) }).await?;
    run.is(task(0), TaskState::Freed).await
}

/// History 5: a walk over all tasks behind a failed one died after its first slice, and the rest
/// stayed pending. Nobody walks: each end releases the next task, which is skipped in its turn.
pub(crate) async fn a_failure_reaches_all_behind_it_step_by_step(
    store: &Store,
) -> anyhow::Result<()> {
    let run = Little::new(store, &[&[], &[0], &[1], &[2]], &[3]).await?;
    store.close(run.run).await?;
    ensure!(run.finish(0, 0, failed()).await? == [Ready::first(task(1))]);
    for index in 1..4 {
        let ready = run.finish(index, 0, End::Skipped { cause: task(0) }).await?;
        ensure!(ready.len() == usize::from(index < 3), "{index}: {ready:?}");
    }
    ensure!(run.state().await? == Some(bolthole_broker::state::RunState::Failed));
    Ok(())
}

fn lease(nonce: u64, over: Option<u64>) -> LeaseRequest {
    LeaseRequest { task: task(0), generation: 0, nonce, over }
}

fn retry(attempt: u32, delay: Duration) -> Retry {
    Retry {
        task: task(0),
        generation: 0,
        setback: Setback::Failed,
        attempt,
        lease: None,
        delay_ms: u64::try_from(delay.as_millis()).unwrap(),
    }
}

/// History 6: with no message left, a scan rang for a task that ran under its lease, and for one
/// whose next attempt was due later.
pub(crate) async fn what_is_leased_or_waits_for_its_time_is_not_rung_for(
    store: &Store,
) -> anyhow::Result<()> {
    let run = Little::new(store, &[&[], &[]], &[0, 1]).await?;
    store.lease(run.run, run.owner, WORKER_LEASE, &[lease(1, None)]).await?;
    ensure!(store.ready(run.run, 0).await? == [Ready::first(task(1))]);
    let later = Retry { task: task(1), ..retry(1, HOUR) };
    let due = store.retry(run.run, &later).await?;
    ensure!(matches!(due, Retried::Due { .. }), "{due:?}");
    ensure!(store.ready(run.run, 0).await?.is_empty());
    Ok(())
}

/// History 6, its end: the message for the next attempt is lost, and with it the number of attempts.
pub(crate) async fn a_failed_attempt_is_counted_without_its_message(
    store: &Store,
) -> anyhow::Result<()> {
    let run = Little::new(store, &[&[]], &[0]).await?;
    store.retry(run.run, &retry(1, Duration::ZERO)).await?;
    ensure!(store.ready(run.run, 0).await? == [Ready::first(task(0))], "a scan finds it");
    let granted = store.lease(run.run, run.owner, WORKER_LEASE, &[lease(1, None)]).await?;
    ensure!(granted == [Leased::Granted { attempt: 2, crashes: None }], "{granted:?}");
    // Who reports the same attempt again is late.
    ensure!(store.retry(run.run, &retry(1, HOUR)).await? == Retried::Stale);
    Ok(())
}

/// History 7a: a twin has committed task 0, and the loser's other results went in all the same. Its
/// commit of both is refused as a whole, and says which result counts.
pub(crate) async fn the_first_commit_names_the_result(store: &Store) -> anyhow::Result<()> {
    let run = Little::new(store, &[&[], &[0], &[1]], &[2]).await?;
    run.finish(0, 0, stored(1)).await?;
    let ours = [(0, 0, stored(2)), (1, 0, stored(3)), (2, 0, stored(4))];
    let reply = store.commit(run.run, &run.commit_of(&ours, 99)).await?;
    let Committed::Superseded(states) = reply else { anyhow::bail!("{reply:?}") };
    ensure!(states[0].0.state() == TaskState::Done);
    let record = run.status(task(0)).await?.record;
    ensure!(record.is_some_and(|record| record[..] == [1; 16]), "the twin's result");
    run.is(task(1), TaskState::Pending).await?;
    run.is(task(2), TaskState::Pending).await
}

/// History 12: the queue is started again while long tasks run, and all of them ran twice. A
/// redelivered task under a live lease is its holder's, until it is found dead.
pub(crate) async fn a_redelivered_task_under_a_lease_is_another_s(
    store: &Store,
) -> anyhow::Result<()> {
    let run = Little::new(store, &[&[]], &[0]).await?;
    let other = clock::new_incarnation();
    store.lease(run.run, run.owner, WORKER_LEASE, &[lease(1, None)]).await?;
    let taken = Leased::Taken { holder: run.owner, nonce: 1 };
    for over in [None, Some(7)] {
        let answer = store.lease(run.run, other, WORKER_LEASE, &[lease(2, over)]).await?;
        ensure!(answer == [taken], "{answer:?}");
    }
    let over = store.lease(run.run, other, WORKER_LEASE, &[lease(2, Some(1))]).await?;
    ensure!(over == [Leased::Granted { attempt: 1, crashes: None }], "{over:?}");
    // The first holder was not dead after all: its failure does not count.
    let mut late = run.commit_of(&[(0, 0, failed())], 1);
    late.finished[0].lease = Some(1);
    let fenced = store.commit(run.run, &late).await?;
    ensure!(matches!(fenced, Committed::Superseded(_)), "{fenced:?}");
    Ok(())
}

/// History 9, the second half: as many tasks as a commit may have, with successors of their own each,
/// in one call.
pub(crate) async fn many_successors_of_one_commit(store: &Store) -> anyhow::Result<()> {
    let sources = u16::try_from(COMMIT_TASKS_MAX).unwrap();
    let mut inputs: Vec<Vec<u16>> = vec![vec![]; COMMIT_TASKS_MAX];
    inputs.extend((0..4 * sources).map(|index| vec![index % sources]));
    let inputs: Vec<&[u16]> = inputs.iter().map(Vec::as_slice).collect();
    let run = Little::new(store, &inputs, &[]).await?;
    let all: Vec<_> = (0..sources).map(|index| (index, 0, stored(1))).collect();
    let reply = store.commit(run.run, &run.commit_of(&all, 1)).await?;
    let Committed::Written { ready, .. } = reply else { anyhow::bail!("{reply:?}") };
    ensure!(ready.len() == 4 * COMMIT_TASKS_MAX, "{}", ready.len());
    Ok(())
}

/// History 10: a second commit of one worker replaced the first one's list of releases; and what a
/// waking worker had just written was deleted by who had read it before.
pub(crate) async fn two_commits_of_one_worker_have_an_entry_each(
    store: &Store,
) -> anyhow::Result<()> {
    let run = Little::new(store, &[&[], &[], &[0], &[1]], &[2, 3]).await?;
    let first = run.finish(0, 0, stored(1)).await?;
    let second = run.finish(1, 0, stored(1)).await?;
    let entries = store.outbox(run.run).await?;
    let lists: Vec<_> = entries.iter().map(|(_, ready)| ready.clone()).collect();
    ensure!(lists == [first.clone(), second.clone()], "{entries:?}");
    let id = OutboxId { ..entries[1].0 };
    ensure!(!store.settle(run.run, id, &first).await?, "it reads differently");
    ensure!(store.settle(run.run, id, &second).await?);
    ensure!(store.outbox(run.run).await?.len() == 1);
    Ok(())
}
