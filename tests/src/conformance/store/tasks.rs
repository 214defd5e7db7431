//! Tasks: staging, leases, retries, lost results, effects, tasks that submit tasks. The numbers in
//! names are of histories that broke earlier drafts of the protocol.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use bolthole_broker::clock;
use bolthole_broker::id::{RunId, TaskId, WorkerIndex};
use bolthole_broker::limits::WORKER_LEASE;
use bolthole_broker::locator::{Copies, HeldRecord, Locator};
use bolthole_broker::run::{
    Activate, Activated, Committed, End, LeaseRequest, Leased, Lost, Ready, Rearmed, Relocation,
    Retried, Retry, Setback, Stage,
};
use bolthole_broker::state::{PINNED, RunState, TaskState};
use bolthole_broker::store::{Epoch, Store};
use bytes::Bytes;
use tokio::time::{sleep, timeout};

use super::sample::{DIGEST, PATIENCE, Sample, activate, done, open, task};

/// What was computed in another life of the store is not committed; what it remembers is answered.
pub async fn lives(store: &Store) -> anyhow::Result<()> {
    let sample = Sample::chain(store, 3).await?;
    let (run, now, other) = (sample.run, store.epoch().await?, Epoch("another".to_owned()));
    let (first, second) = (sample.finish(&[0]), sample.finish(&[1]));
    ensure!(store.commit_in(run, &other, &first).await?.is_none());
    let status = store.inspect(run, &[task(0)]).await?.remove(0).context("no task")?;
    ensure!(status.state.state() == TaskState::Pending, "{status:?}");
    let written = store.commit_in(run, &now, &first).await?;
    ensure!(matches!(written, Some(Committed::Written { .. })), "{written:?}");
    let again = store.commit_in(run, &other, &first).await?;
    ensure!(matches!(again, Some(Committed::Written { .. })), "it is remembered: {again:?}");
    ensure!(store.commit_in(run, &other, &second).await?.is_none());
    let unknown = store.commit_in(RunId::new(0, 1), &other, &second).await?;
    ensure!(unknown == Some(Committed::NotRunning(None)), "{unknown:?}");
    store.cancel(run, "no more").await?;
    let over = store.commit_in(run, &other, &second).await?;
    ensure!(over == Some(Committed::NotRunning(Some(RunState::Cancelled))), "{over:?}");
    store.purge(run).await?;
    Ok(())
}

/// 9: an input that finishes between two slices of a segment's edges releases nothing early, and
/// nothing late. 8: when it is lost in between, it blocks what it had satisfied.
pub async fn slices(store: &Store) -> anyhow::Result<()> {
    let sample = Sample::tolerant_chain(store, 2).await?;
    let run = sample.run;
    let stage = Stage { segment: 1, pending: vec![0], consumers: vec![0], ..sample.stage.clone() };
    store.stage(run, &stage).await?;
    let slice = |cursor: u32, input: u16, last: bool| Activate {
        segment: 1,
        cursor,
        edges: vec![(task(input), 0)],
        last,
        ..activate()
    };
    ensure!(store.activate(run, &slice(0, 0, false)).await? == Activated::More { cursor: 1 });
    ensure!(store.activate(run, &slice(0, 0, false)).await? == Activated::More { cursor: 1 });
    let reply = store.commit(run, &sample.finish(&[0])).await?;
    let Committed::Written { ready, freed, .. } = reply else { anyhow::bail!("{reply:?}") };
    ensure!(ready.len() == 1 && freed.is_empty(), "{ready:?} {freed:?}");
    let status = store.inspect(run, &[task(0)]).await?.remove(0).context("no task")?;
    let lost =
        Lost { task: task(0), locator: status.locator, inputs: vec![], successors: vec![task(1)] };
    ensure!(store.rearm(run, &[lost]).await? == [Rearmed::Pending(0)]);
    let reply = store.activate(run, &slice(1, 1, true)).await?;
    ensure!(reply == Activated::Active { ready: vec![] }, "{reply:?}");
    let mut again = sample.commit(&[(0, done())], 7);
    again.finished[0].generation = 1;
    let reply = store.commit(run, &again).await?;
    let Committed::Written { ready, .. } = reply else { anyhow::bail!("{reply:?}") };
    ensure!(ready.len() == 1 && ready[0].task == task(1), "{ready:?}");
    let reply = store.commit(run, &sample.finish(&[1])).await?;
    let Committed::Written { ready, .. } = reply else { anyhow::bail!("{reply:?}") };
    ensure!(ready.len() == 1 && ready[0].task == TaskId::new(1, 0), "{ready:?}");
    store.purge(run).await?;
    Ok(())
}

/// A live lease keeps others away, is taken over by its nonce, and fences failures.
pub async fn leases(store: &Store) -> anyhow::Result<()> {
    let sample = Sample::tolerant_chain(store, 2).await?;
    let run = sample.run;
    let (mine, yours) = (clock::new_incarnation(), clock::new_incarnation());
    let ask = |nonce, over| [LeaseRequest { task: task(0), generation: 0, nonce, over }];
    let granted = [Leased::Granted { attempt: 1, crashes: None }];
    ensure!(store.lease(run, mine, WORKER_LEASE, &ask(u64::MAX, None)).await? == granted);
    ensure!(
        store.lease(run, mine, WORKER_LEASE, &ask(u64::MAX, None)).await? == granted,
        "renewed"
    );
    let taken = [Leased::Taken { holder: mine, nonce: u64::MAX }];
    ensure!(store.lease(run, yours, WORKER_LEASE, &ask(2, None)).await? == taken);
    ensure!(store.lease(run, yours, WORKER_LEASE, &ask(2, Some(3))).await? == taken);
    ensure!(store.lease(run, yours, WORKER_LEASE, &ask(2, Some(u64::MAX))).await? == granted);
    ensure!(store.ready(run, 0).await?.is_empty(), "leased tasks are not rung");
    let shortly = Duration::from_millis(1);
    ensure!(store.lease(run, yours, shortly, &ask(2, None)).await? == granted);
    let run_out = async {
        while store.lease(run, mine, WORKER_LEASE, &ask(u64::MAX, None)).await? != granted {
            sleep(shortly).await;
        }
        anyhow::Ok(())
    };
    timeout(PATIENCE, run_out).await.context("the lease did not run out")??;
    ensure!(store.lease(run, yours, WORKER_LEASE, &ask(2, Some(u64::MAX))).await? == granted);
    let failed = End::Failed { error: Bytes::from_static(b"why") };
    let mut commit = sample.commit(&[(0, failed)], 1);
    commit.finished[0].lease = Some(u64::MAX);
    let reply = store.commit(run, &commit).await?;
    ensure!(matches!(reply, Committed::Superseded(_)), "fenced off: {reply:?}");
    commit.finished[0].lease = Some(2);
    let reply = store.commit(run, &commit).await?;
    ensure!(matches!(reply, Committed::Written { .. }), "{reply:?}");
    ensure!(store.lease(run, mine, WORKER_LEASE, &ask(4, None)).await? == [Leased::Over]);
    ensure!(store.evict(run, mine).await?.is_empty(), "a finished task has no lease");
    store.purge(run).await?;
    Ok(())
}

/// The leases of a worker that is no more end at once, and those of others stay.
pub async fn evicted(store: &Store) -> anyhow::Result<()> {
    let sample = Sample::tolerant_chain(store, 3).await?;
    let run = sample.run;
    let (dead, other) = (clock::new_incarnation(), clock::new_incarnation());
    let ask = |index| LeaseRequest { task: task(index), generation: 0, nonce: 1, over: None };
    store.lease(run, dead, WORKER_LEASE, &[ask(0), ask(1)]).await?;
    ensure!(store.evict(run, other).await?.is_empty());
    ensure!(store.ready(run, 0).await?.is_empty());
    // The second task waits for the first: its lease ends, but nobody is to run it.
    ensure!(store.evict(run, dead).await? == [Ready::first(task(0))]);
    ensure!(store.evict(run, dead).await?.is_empty(), "repeated");
    let granted = Leased::Granted { attempt: 1, crashes: None };
    ensure!(store.lease(run, other, WORKER_LEASE, &[ask(0), ask(1)]).await? == [granted; 2]);
    ensure!(store.evict(run, dead).await?.is_empty(), "another's leases");
    store.cancel(run, "enough").await?;
    ensure!(store.evict(run, other).await?.is_empty(), "of a run that has ended");
    store.purge(run).await?;
    ensure!(store.evict(run, other).await?.is_empty(), "of a run that is gone");
    Ok(())
}

/// A failed attempt counts once, and its task waits until it is due.
pub async fn retries(store: &Store) -> anyhow::Result<()> {
    let sample = Sample::chain(store, 2).await?;
    let run = sample.run;
    let retry = |attempt, delay_ms| Retry {
        task: task(0),
        generation: 0,
        setback: Setback::Failed,
        attempt,
        lease: None,
        delay_ms,
    };
    let first = store.retry(run, &retry(1, 600_000)).await?;
    let Retried::Due { at_ms } = first else { anyhow::bail!("{first:?}") };
    ensure!(store.retry(run, &retry(1, 0)).await? == Retried::Stale);
    ensure!(store.ready(run, 0).await?.is_empty(), "not due");
    let ask = [LeaseRequest { task: task(0), generation: 0, nonce: 1, over: None }];
    let owner = clock::new_incarnation();
    ensure!(store.lease(run, owner, WORKER_LEASE, &ask).await? == [Leased::NotDue { at_ms }]);
    ensure!(matches!(store.retry(run, &retry(2, 0)).await?, Retried::Due { .. }));
    let granted = Leased::Granted { attempt: 3, crashes: None };
    ensure!(store.lease(run, owner, WORKER_LEASE, &ask).await? == [granted]);
    let status = store.inspect(run, &[task(0)]).await?.remove(0).context("no task")?;
    ensure!(status.failures == 2);
    store.purge(run).await?;
    Ok(())
}

/// Crashes are counted apart from failures, by the holder of the lease alone; who was stuck or has
/// crashed is a suspect.
pub async fn suspects(store: &Store) -> anyhow::Result<()> {
    let sample = Sample::chain(store, 2).await?;
    let run = sample.run;
    let (owner, other) = (clock::new_incarnation(), clock::new_incarnation());
    let ask = |nonce| [LeaseRequest { task: task(0), generation: 0, nonce, over: None }];
    let retry = |setback, attempt, lease| Retry {
        task: task(0),
        generation: 0,
        setback,
        attempt,
        lease: Some(lease),
        delay_ms: 0,
    };
    let crash = |attempt, lease| retry(Setback::Crashed, attempt, lease);
    let due = |reply| matches!(reply, Retried::Due { .. });
    store.lease(run, owner, WORKER_LEASE, &ask(1)).await?;
    ensure!(store.retry(run, &crash(1, 2)).await? == Retried::Stale, "of another attempt");
    ensure!(store.retry(run, &crash(2, 1)).await? == Retried::Stale, "the first comes first");
    ensure!(due(store.retry(run, &crash(1, 1)).await?));
    let granted = [Leased::Granted { attempt: 1, crashes: Some(1) }];
    ensure!(store.lease(run, other, WORKER_LEASE, &ask(2)).await? == granted, "the lease went");
    ensure!(store.retry(run, &crash(1, 1)).await? == Retried::Stale, "counted once");
    ensure!(due(store.retry(run, &crash(2, 2)).await?));
    ensure!(due(store.retry(run, &retry(Setback::Stuck, 1, 3)).await?));
    let granted = [Leased::Granted { attempt: 2, crashes: Some(2) }];
    ensure!(store.lease(run, owner, WORKER_LEASE, &ask(3)).await? == granted);
    store.purge(run).await?;

    let sample = Sample::chain(store, 2).await?;
    let run = sample.run;
    ensure!(due(store.retry(run, &retry(Setback::Stuck, 1, 1)).await?));
    let granted = [Leased::Granted { attempt: 2, crashes: Some(0) }];
    ensure!(store.lease(run, owner, WORKER_LEASE, &ask(1)).await? == granted);
    store.purge(run).await?;
    Ok(())
}

/// 4d, 8: the result of an effect is never freed; a lost result is computed again only while
/// somebody needs it and the run goes on.
pub async fn lost_results(store: &Store) -> anyhow::Result<()> {
    let sample = Sample::chain(store, 3).await?;
    let run = sample.run;
    let End::Done { locator, record, .. } = done() else { anyhow::bail!("done") };
    let effect = End::Done { locator, record, keep: true };
    store.commit(run, &sample.commit(&[(0, effect)], 7)).await?;
    let reply = store.commit(run, &sample.finish(&[1])).await?;
    let Committed::Written { freed, .. } = reply else { anyhow::bail!("{reply:?}") };
    ensure!(freed.is_empty(), "{freed:?}");
    let lost = |index: u16| Lost {
        task: task(index),
        locator,
        inputs: if index == 0 { vec![] } else { vec![task(index - 1)] },
        successors: vec![task(index + 1)],
    };
    ensure!(store.rearm(run, &[lost(0)]).await? == [Rearmed::NotNeeded]);
    ensure!(store.rearm(run, &[lost(1)]).await? == [Rearmed::Pending(0)]);
    ensure!(store.rearm(run, &[lost(1)]).await? == [Rearmed::Already]);
    ensure!(store.rearm(run, &[lost(0)]).await? == [Rearmed::Kept], "an effect is not run again");
    let reply = store.commit(run, &sample.commit(&[(1, done())], 8)).await?;
    ensure!(matches!(reply, Committed::Superseded(_)), "of generation 0: {reply:?}");
    store.cancel(run, "enough").await?;
    ensure!(store.rearm(run, &[lost(0)]).await? == [Rearmed::NotNeeded]);
    store.purge(run).await?;
    Ok(())
}

fn held_record() -> HeldRecord {
    HeldRecord { length: 9_000, digest: [1; 16], nonce: 5, copies: Copies::default() }
}

/// A result is found where it was handed on to, unless it has moved or was computed again since.
pub async fn relocated(store: &Store) -> anyhow::Result<()> {
    let sample = Sample::chain(store, 1).await?;
    let (run, leaver, heir) = (sample.run, WorkerIndex::new(7), WorkerIndex::new(8));
    let locator = Locator::held(leaver, 9_000);
    let end = End::Done { locator, record: held_record().to_bytes().into(), keep: false };
    let to_heir = Relocation {
        task: task(0),
        generation: 0,
        from: locator,
        to: Locator::held(heir, 9_000),
        record: held_record().to_bytes().into(),
    };
    let all = [to_heir.clone()];
    ensure!(store.relocate(run, &all).await? == [false], "it is not finished");
    store.commit(run, &sample.commit(&[(0, end)], 1)).await?;
    store.close(run).await?;
    let later = Relocation { generation: 1, ..to_heir.clone() };
    ensure!(store.relocate(run, &[later]).await? == [false], "of another generation");
    ensure!(store.relocate(run, &all).await? == [true], "also when the run has ended");
    ensure!(store.relocate(run, &all).await? == [true], "repeated");
    let mut record = held_record();
    record.copies.folder = true;
    let to = Locator::apart(9_000);
    let record = Bytes::from(record.to_bytes());
    let apart = Relocation { from: to_heir.to, to, record: record.clone(), ..to_heir.clone() };
    ensure!(store.relocate(run, &[apart]).await? == [true]);
    ensure!(store.relocate(run, &all).await? == [false], "it has moved on");
    let status = store.inspect(run, &[task(0)]).await?.remove(0).context("no task")?;
    ensure!((status.locator, status.record) == (to, Some(record)), "{:?}", status.locator);
    ensure!(status.consumers == PINNED, "{}", status.consumers);
    store.purge(run).await?;
    ensure!(store.relocate(run, &all).await? == [false], "the run is gone");
    Ok(())
}

/// A lease that its holder ends is anyone's at once; nothing is counted against the task.
pub async fn given_back(store: &Store) -> anyhow::Result<()> {
    let sample = Sample::chain(store, 1).await?;
    let (run, leaver, heir) = (sample.run, clock::new_incarnation(), clock::new_incarnation());
    let lease = |nonce| [LeaseRequest { task: task(0), generation: 0, nonce, over: None }];
    let granted = [Leased::Granted { attempt: 1, crashes: None }];
    ensure!(store.lease(run, leaver, WORKER_LEASE, &lease(1)).await? == granted);
    store.unlease(run, &[(task(0), 2)]).await?;
    let taken = [Leased::Taken { holder: leaver, nonce: 1 }];
    ensure!(
        store.lease(run, heir, WORKER_LEASE, &lease(2)).await? == taken,
        "another's nonce ends nothing"
    );
    ensure!(store.ready(run, 0).await?.is_empty());
    store.unlease(run, &[(task(0), 1)]).await?;
    ensure!(store.ready(run, 0).await?.len() == 1);
    ensure!(store.lease(run, heir, WORKER_LEASE, &lease(2)).await? == granted);
    store.unlease(run, &[(task(0), 1)]).await?;
    ensure!(
        store.lease(run, leaver, WORKER_LEASE, &lease(3)).await?
            == [Leased::Taken { holder: heir, nonce: 2 }]
    );
    store.purge(run).await?;
    Ok(())
}

/// What a worker has taken along when it died: its results that someone still needs.
pub async fn held(store: &Store) -> anyhow::Result<()> {
    let sample = Sample::chain(store, 3).await?;
    let (dead, alive) = (WorkerIndex::new(7), WorkerIndex::new(8));
    let at = |worker| {
        let locator = Locator::held(worker, 9_000);
        End::Done { locator, record: held_record().to_bytes().into(), keep: false }
    };
    store.commit(sample.run, &sample.commit(&[(0, at(dead))], 1)).await?;
    store.commit(sample.run, &sample.commit(&[(1, at(dead))], 2)).await?;
    let held = store.held_by(sample.run, 0, dead).await?;
    ensure!(held == [(task(1), Locator::held(dead, 9_000))], "the first was freed: {held:?}");
    ensure!(store.held_by(sample.run, 0, alive).await?.is_empty());
    ensure!(store.held_by(sample.run, 1, dead).await?.is_empty(), "no such segment");
    store.purge(sample.run).await?;
    Ok(())
}

/// Dropping the last pin frees a result that nobody else needs.
pub async fn pins(store: &Store) -> anyhow::Result<()> {
    let sample = Sample::chain(store, 1).await?;
    store.commit(sample.run, &sample.finish(&[0])).await?;
    let freed = store.unpin(sample.run, &[task(0), task(9), TaskId::new(5, 0)]).await?;
    ensure!(freed.len() == 1 && freed[0].task == task(0), "{freed:?}");
    ensure!(freed[0].locator.value().as_deref() == Some(&b"v"[..]));
    ensure!(store.unpin(sample.run, &[task(0)]).await?.is_empty());
    let status = store.inspect(sample.run, &[task(0)]).await?.remove(0).context("no task")?;
    ensure!(status.state.state() == TaskState::Freed);
    store.purge(sample.run).await?;
    Ok(())
}

/// 13: what a task submits is there once its attempt has won, and is dropped when it has lost. A
/// task that returned a task waits for it, and no other attempt finishes it.
pub async fn spawned(store: &Store) -> anyhow::Result<()> {
    let sample = Sample::chain(store, 2).await?;
    let run = sample.run;
    let (mine, twins) = (store.reserve(run).await?, store.reserve(run).await?);
    ensure!(mine != twins);
    for segment in [mine, twins] {
        let (pending, consumers) = (vec![0], vec![0]);
        let stage = Stage { segment, pending, consumers, ..sample.stage.clone() };
        store.stage(run, &stage).await?;
    }
    ensure!(store.segments(run).await? == [0]);
    let to = TaskId::new(mine, 0);
    let mut commit = sample.commit(&[(0, End::Forwarded { to })], 1);
    (commit.releases, commit.spawn) = (vec![], Some((mine, DIGEST)));
    let reply = store.commit(run, &commit).await?;
    let Committed::Written { ready, .. } = reply else { anyhow::bail!("{reply:?}") };
    ensure!(ready.len() == 1 && ready[0].task == to, "{ready:?}");
    let mut twin = sample.commit(&[(0, End::Forwarded { to: TaskId::new(twins, 0) })], 2);
    twin.spawn = Some((twins, DIGEST));
    let reply = store.commit(run, &twin).await?;
    ensure!(matches!(reply, Committed::Superseded(_)), "{reply:?}");
    let reply = store.commit(run, &sample.commit(&[(0, done())], 3)).await?;
    ensure!(matches!(reply, Committed::Superseded(_)), "{reply:?}");
    store.unstage(run, twins).await?;

    let mut returned = sample.commit(&[(0, done())], 4);
    (returned.segment, returned.releases) = (mine, vec![]);
    let reply = store.commit(run, &returned).await?;
    let Committed::Written { ready, .. } = reply else { anyhow::bail!("{reply:?}") };
    ensure!(ready.len() == 1 && ready[0].task == task(0), "{ready:?}");
    ensure!(ready[0].forwarded == Some(to));
    let mut handed_on = sample.commit(&[(0, done())], 5);
    handed_on.consumed = vec![(to, 1)];
    let reply = store.commit(run, &handed_on).await?;
    let Committed::Written { ready, freed, .. } = reply else { anyhow::bail!("{reply:?}") };
    ensure!(ready.len() == 1 && ready[0].task == task(1), "{ready:?}");
    ensure!(freed.len() == 1 && freed[0].task == to, "{freed:?}");
    store.purge(run).await?;
    Ok(())
}

/// The largest segment can be staged, activated and read; a commit of 256 tasks takes 1,000
/// successors.
pub async fn largest(store: &Store) -> anyhow::Result<()> {
    let run = clock::new_run_id();
    store.open(run, &open()).await?;
    let tasks = 65_536_usize;
    let half = 32_768_u16;
    let pending = (0..tasks).map(|place| u32::from(place >= half.into())).collect();
    let chunks = vec![Bytes::from(vec![7; 16 << 10]); tasks / 128];
    let stage = Stage { segment: 0, digest: DIGEST, pending, consumers: vec![1; tasks], chunks };
    store.stage(run, &stage).await?;
    let Activated::Active { ready } = store.activate(run, &activate()).await? else {
        anyhow::bail!("not active")
    };
    ensure!(ready.len() == usize::from(half) && ready.last() == Some(&(half - 1)));
    ensure!(store.ready(run, 0).await?.len() == usize::from(half));
    let sample = Sample { run, stage, ..Sample::chain(store, 1).await? };
    let ends: Vec<_> = (0..256).map(|index| (index, done())).collect();
    let mut commit = sample.commit(&ends, 1);
    commit.releases = (0..1_000).map(|place| (task(half + 32 * place), 1)).collect();
    commit.consumed = vec![];
    let reply = store.commit(run, &commit).await?;
    let Committed::Written { ready, .. } = reply else { anyhow::bail!("{reply:?}") };
    ensure!(ready.len() == 1_000 && ready.is_sorted(), "{}", ready.len());
    let states = store.states(run, 0).await?.context("no states")?;
    ensure!(
        states.len() == tasks && states[..256] == [1; 256] && states[256..] == vec![0; tasks - 256]
    );
    store.purge(run).await?;
    Ok(())
}
