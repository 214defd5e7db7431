//! Runs: opening, finding, ending, deleting; blobs, workers and locks.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use bolthole_broker::clock;
use bolthole_broker::limits;
use bolthole_broker::run::{Committed, End, Opened, Reason, Refused};
use bolthole_broker::state::RunState;
use bolthole_broker::store::{Error, EventCursor, Store};
use bytes::Bytes;
use tokio::time::{sleep, timeout};

use super::sample::{self, PATIENCE, Sample, done, open, task};

/// A name stands for one run: the same content attaches, other content conflicts, and a purged
/// run's name is free again.
pub async fn names(store: &Store) -> anyhow::Result<()> {
    let name = format!("nightly {}", clock::new_run_id());
    let (first, second, third) = (clock::new_run_id(), clock::new_run_id(), clock::new_run_id());
    let mut words = open();
    words.name = Some(name.clone());
    ensure!(store.find(&name).await?.is_none());
    ensure!(store.open(first, &words).await? == Opened::Created);
    ensure!(store.open(first, &words).await? == Opened::Attached(first));
    ensure!(store.open(second, &words).await? == Opened::Attached(first));
    let mut other = words.clone();
    other.digest = [9; 32];
    ensure!(store.open(third, &other).await? == Opened::Conflict(first));
    ensure!(store.find(&name).await? == Some(first));
    let runs = store.runs().await?;
    ensure!(runs.contains(&first) && !runs.contains(&second) && !runs.contains(&third));
    let status = store.status(first).await?.context("no status")?;
    ensure!(status.name.as_deref() == Some(&name) && status.header == words.header);
    store.purge(first).await?;
    ensure!(store.find(&name).await?.is_none());
    ensure!(store.open(third, &other).await? == Opened::Created);
    store.purge(third).await?;
    Ok(())
}

/// After a purge every operation says that there is no such run, and purging again is harmless.
pub async fn purged_is_unknown(store: &Store) -> anyhow::Result<()> {
    let sample = Sample::chain(store, 3).await?;
    let run = sample.run;
    store.put_blob(run, [1; 32], Bytes::from_static(b"blob")).await?;
    store.purge(run).await?;
    store.purge(run).await?;
    ensure!(store.status(run).await?.is_none());
    ensure!(!store.runs().await?.contains(&run));
    ensure!(store.close(run).await?.is_none() && store.keep_alive(run).await?.is_none());
    ensure!(store.cancel(run, "late").await?.is_none());
    let reply = store.commit(run, &sample.finish(&[0])).await?;
    ensure!(reply == Committed::NotRunning(None), "{reply:?}");
    let staged = store.stage(run, &sample.stage).await;
    ensure!(matches!(staged, Err(Error::Refused(Refused::Unknown))), "{staged:?}");
    ensure!(store.inspect(run, &[task(0)]).await? == [None]);
    ensure!(store.chunks(run, &[(0, 0)]).await? == [None]);
    ensure!(store.states(run, 0).await?.is_none() && store.blob(run, [1; 32]).await?.is_none());
    let events = store.events(run, &EventCursor::default(), Duration::from_secs(60)).await?;
    ensure!(events.run.is_none() && events.finished.is_empty());
    Ok(())
}

/// Whoever has no more use for a run deletes it, unless it has not ended.
pub async fn reaped(store: &Store) -> anyhow::Result<()> {
    let sample = Sample::chain(store, 2).await?;
    let run = sample.run;
    for state in [RunState::Open, RunState::Closed] {
        ensure!(store.reap(&[run]).await? == [false]);
        let status = store.status(run).await?;
        ensure!(status.is_some_and(|status| status.state == state), "it is gone");
        store.close(run).await?;
    }
    store.commit(run, &sample.finish(&[0])).await?;
    store.commit(run, &sample.finish(&[1])).await?;
    let other = Sample::chain(store, 2).await?;
    for _ in 0..2 {
        ensure!(store.reap(&[other.run, run]).await? == [false, true]);
        ensure!(store.status(run).await?.is_none(), "it is there");
        ensure!(store.runs().await? == [other.run], "it is listed");
    }
    store.purge(other.run).await?;
    Ok(())
}

/// A run ends once: with its last task when it is closed, or when it is cancelled.
pub async fn ends_once(store: &Store) -> anyhow::Result<()> {
    let sample = Sample::chain(store, 2).await?;
    store.commit(sample.run, &sample.finish(&[0])).await?;
    let lacking = store.close_whole(sample.run, 2).await;
    ensure!(matches!(lacking, Err(Error::Refused(Refused::Incomplete))), "{lacking:?}");
    let state = store.status(sample.run).await?.map(|status| status.state);
    ensure!(state == Some(RunState::Open), "{state:?}");
    ensure!(store.close_whole(sample.run, 1).await? == Some(RunState::Closed));
    let reply = store.commit(sample.run, &sample.finish(&[1])).await?;
    ensure!(matches!(reply, Committed::Written { run: RunState::Done, .. }), "{reply:?}");
    ensure!(store.cancel(sample.run, "late").await? == Some(RunState::Done));
    ensure!(store.close_whole(sample.run, 2).await? == Some(RunState::Done));
    let again = store.commit(sample.run, &sample.finish(&[1])).await?;
    ensure!(again == Committed::NotRunning(Some(RunState::Done)), "{again:?}");
    store.purge(sample.run).await?;

    let sample = Sample::chain(store, 2).await?;
    ensure!(store.cancel(sample.run, "because").await? == Some(RunState::Cancelled));
    let status = store.status(sample.run).await?.context("no status")?;
    ensure!(status.reason == Some(Reason::Cancelled("because".to_owned())), "{status:?}");
    ensure!(store.outbox(sample.run).await?.is_empty());
    store.purge(sample.run).await?;
    Ok(())
}

/// A silent client's open run and an ended run past its retention are overdue, others are not.
pub async fn overdue(store: &Store) -> anyhow::Result<()> {
    let (silent, kept, expired) = (clock::new_run_id(), clock::new_run_id(), clock::new_run_id());
    let mut words = open();
    words.client_lease_ms = 0;
    store.open(silent, &words).await?;
    store.open(kept, &open()).await?;
    words = open();
    words.retention_ms = 0;
    store.open(expired, &words).await?;
    store.close(expired).await?;
    let found = store.overdue().await?;
    ensure!(found.contains(&silent) && found.contains(&expired), "{found:?}");
    ensure!(!found.contains(&kept), "{found:?}");
    for run in [silent, kept, expired] {
        store.purge(run).await?;
    }
    Ok(())
}

/// Whoever waits for events is woken by a pinned task's end, by the run's end, and by patience.
pub async fn events_wake(store: &Store) -> anyhow::Result<()> {
    let sample = Sample::chain(store, 3).await?;
    let start = EventCursor::default();
    let long = Duration::from_secs(60);
    let nothing = store.events(sample.run, &start, Duration::from_millis(1)).await?;
    ensure!(nothing.finished.is_empty() && nothing.run == Some(RunState::Open));
    let new = EventCursor::of_new_run();
    let nothing = store.events(sample.run, &new, Duration::from_millis(1)).await?;
    ensure!(nothing.finished.is_empty() && nothing.run == Some(RunState::Open));
    let finish = async {
        store.commit(sample.run, &sample.finish(&[0, 1])).await?;
        store.commit(sample.run, &sample.finish(&[2])).await
    };
    let waiting = store.events(sample.run, &start, long);
    let (events, at_once, reply) =
        tokio::join!(waiting, store.events(sample.run, &new, long), finish);
    let (events, at_once, _) = (events?, at_once?, reply?);
    ensure!(at_once == events, "{at_once:?}, {events:?}");
    // They may have come before it waited.
    ensure!(store.events(sample.run, &new, long).await? == events);
    // Only the last task of the chain is pinned.
    let tasks: Vec<_> = events.finished.iter().map(|event| event.task).collect();
    ensure!(tasks == [task(2)] && !events.gap, "{events:?}");
    ensure!(events.finished[0].locator.value().as_deref() == Some(&b"v"[..]));
    let close = store.close(sample.run);
    let (end, state) = tokio::join!(store.events(sample.run, &events.cursor, long), close);
    ensure!(state? == Some(RunState::Done));
    let end = end?;
    ensure!(end.finished.is_empty() && end.run == Some(RunState::Done), "{end:?}");
    store.purge(sample.run).await?;
    Ok(())
}

/// Blobs are stored whole, under a run that is there.
pub async fn blobs(store: &Store) -> anyhow::Result<()> {
    let run = clock::new_run_id();
    let large: Bytes = (0..3_000_001_u32).map(|number| number.to_be_bytes()[3]).collect();
    let refused = store.put_blob(run, [1; 32], large.clone()).await;
    ensure!(matches!(refused, Err(Error::Refused(Refused::Unknown))), "{refused:?}");
    store.open(run, &open()).await?;
    for _ in 0..2 {
        store.put_blob(run, [1; 32], large.clone()).await?;
    }
    store.put_blob(run, [2; 32], Bytes::new()).await?;
    ensure!(store.blob(run, [1; 32]).await? == Some(large));
    ensure!(store.blob(run, [2; 32]).await?.is_some_and(|bytes| bytes.is_empty()));
    ensure!(store.blob(run, [3; 32]).await?.is_none());
    store.purge(run).await?;
    Ok(())
}

/// Workers have indexes of their own and records that can be renewed and deleted.
pub async fn workers(store: &Store) -> anyhow::Result<()> {
    let mut record = sample::worker();
    let first = store.join(&record, limits::WORKER_LEASE).await?;
    let second = store.join(&record, limits::WORKER_LEASE).await?;
    ensure!(first != second);
    record.held_bytes = 7;
    ensure!(store.beat(first, &record, limits::WORKER_LEASE).await?);
    ensure!(store.worker(first).await?.as_ref() == Some(&record));
    let all = store.workers().await?;
    ensure!(all.iter().filter(|(index, _)| [first, second].contains(index)).count() == 2);
    let shortly = Duration::from_millis(1);
    ensure!(store.beat(first, &record, shortly).await?);
    let run_out = async {
        while store.worker(first).await?.is_some() {
            sleep(shortly).await;
        }
        anyhow::Ok(())
    };
    timeout(PATIENCE, run_out).await.context("the record did not run out")??;
    ensure!(store.deaths().await?.contains(&first), "it went without a farewell");
    ensure!(!store.beat(first, &record, limits::WORKER_LEASE).await?, "its record had run out");
    let dead = store.deaths().await?;
    ensure!(![first, second].iter().any(|index| dead.contains(index)), "it has come back");
    store.leave(first).await?;
    ensure!(!store.deaths().await?.contains(&first), "it said that it goes");
    ensure!(store.worker(first).await?.is_none());
    ensure!(!store.beat(first, &record, limits::WORKER_LEASE).await?, "its record had gone");
    for index in [first, second] {
        store.leave(index).await?;
    }
    let all = store.workers().await?;
    ensure!(!all.iter().any(|(index, _)| [first, second].contains(index)));
    Ok(())
}

/// The next workers in the order of their indexes, in a ring, without the dead.
pub async fn neighbours(store: &Store) -> anyhow::Result<()> {
    let record = sample::worker();
    let mut mine = Vec::new();
    for _ in 0..4 {
        mine.push(store.join(&record, limits::WORKER_LEASE).await?);
    }
    mine.sort_unstable();
    // Others may use the same store.
    let all: Vec<_> = store.workers().await?.into_iter().map(|(index, _)| index).collect();
    for of in &mine {
        let near = store.neighbours(*of, all.len() + 1).await?;
        let near: Vec<_> = near.into_iter().map(|(index, _)| index).collect();
        ensure!(!near.contains(of), "itself");
        let ring = near.iter().filter(|index| mine.contains(index)).copied();
        let mut expected = mine.clone();
        expected.rotate_left(mine.iter().position(|one| one == of).context("itself")? + 1);
        expected.pop();
        ensure!(ring.eq(expected), "{of}: {near:?} of {mine:?}");
        let next = store.neighbours(*of, 1).await?;
        ensure!(next.len() == 1 && next[0].0 != *of);
        ensure!(store.neighbours(*of, 0).await?.is_empty());
    }
    store.bury(mine[1]).await?;
    let near = store.neighbours(mine[0], all.len() + 1).await?;
    ensure!(near.iter().all(|(index, _)| *index != mine[1]), "a dead one");
    ensure!(near.iter().filter(|(index, _)| mine.contains(index)).count() == 2);
    for index in mine {
        store.leave(index).await?;
    }
    Ok(())
}

/// A worker that comes back just when others notice that its record has run out is one of all.
pub async fn workers_come_back(store: &Store) -> anyhow::Result<()> {
    const TIMES: u32 = 200;
    let record = sample::worker();
    let index = store.join(&record, limits::WORKER_LEASE).await?;
    for time in 0..TIMES {
        store.beat(index, &record, Duration::from_millis(1)).await?;
        let gone = async {
            while store.worker(index).await?.is_some() {
                sleep(Duration::from_micros(100)).await;
            }
            anyhow::Ok(())
        };
        timeout(PATIENCE, gone).await.context("the record did not run out")??;
        // In the middle of what others ask for, sometimes sooner and sometimes later.
        let back = async {
            for _ in 0..time % 4 {
                store.worker(index).await?;
            }
            store.beat(index, &record, limits::WORKER_LEASE).await
        };
        tokio::try_join!(store.deaths(), back)?;
        let living = store.workers().await?.iter().any(|(one, _)| *one == index);
        let dead = store.deaths().await?.contains(&index);
        ensure!(living && !dead, "time {time}: living {living}, dead {dead}");
    }
    Ok(store.leave(index).await?)
}

/// All owners together have as many permits of a task as there may be, and they run out.
pub async fn permits(store: &Store) -> anyhow::Result<()> {
    let task = format!("etl::load {}", clock::new_run_id());
    let (mine, yours) = (clock::new_incarnation(), clock::new_incarnation());
    let (long, short) = (Duration::from_secs(600), Duration::from_millis(1));
    let admit = |owner, wanted, hold| store.admit(&task, owner, wanted, 5, hold);
    ensure!(admit(mine, 3, long).await? == 3 && admit(mine, 3, long).await? == 3, "repeated");
    ensure!(admit(yours, 4, long).await? == 2, "what is left");
    ensure!(admit(mine, 9, long).await? == 3 && admit(mine, 1, long).await? == 1, "given back");
    ensure!(admit(yours, 4, long).await? == 4);
    ensure!(store.admit(&task, mine, 1, 4, long).await? == 0, "another build allows fewer");
    ensure!(admit(yours, 0, long).await? == 0 && admit(mine, 6, long).await? == 5);
    ensure!(store.admit("another", yours, 1, 1, short).await? == 1, "of each task by itself");
    ensure!(admit(mine, 5, short).await? == 5);
    while admit(yours, 5, long).await? == 0 {
        tokio::time::sleep(short).await;
    }
    ensure!(admit(yours, 5, long).await? == 5 && admit(mine, 1, long).await? == 0);
    ensure!(
        admit(yours, 0, long).await? == 0 && store.admit("another", yours, 0, 1, long).await? == 0
    );
    Ok(())
}

/// That a worker could run more tasks of a queue is heard once, by one, and not for ever.
pub async fn seeking(store: &Store) -> anyhow::Result<()> {
    let queue = |number: u64| format!("{number} {}", clock::new_run_id());
    let (one, other) = (queue(1), queue(2));
    let (long, short) = (Duration::from_secs(600), Duration::from_millis(1));
    ensure!(!store.sought(&one).await?);
    store.seek(&[one.clone(), other.clone()], long).await?;
    store.seek(std::slice::from_ref(&one), long).await?;
    ensure!(store.sought(&one).await? && !store.sought(&one).await?);
    ensure!(store.sought(&other).await?);
    store.seek(std::slice::from_ref(&one), short).await?;
    tokio::time::sleep(short * 2).await;
    ensure!(!store.sought(&one).await?);
    Ok(())
}

/// One looks after a run at a time.
pub async fn locks(store: &Store) -> anyhow::Result<()> {
    let sample = Sample::chain(store, 1).await?;
    let (mine, yours) = (clock::new_incarnation(), clock::new_incarnation());
    let long = Duration::from_secs(600);
    ensure!(store.lock(sample.run, mine, long).await?);
    ensure!(store.lock(sample.run, mine, long).await?);
    ensure!(!store.lock(sample.run, yours, long).await?);
    store.purge(sample.run).await?;
    Ok(())
}

/// A failed task ends a run that fails fast; otherwise its dependents go on to be skipped.
pub async fn failures(store: &Store) -> anyhow::Result<()> {
    let error = Bytes::from_static(b"why");
    let failed = End::Failed { error: error.clone() };
    let sample = Sample::chain(store, 2).await?;
    let reply = store.commit(sample.run, &sample.commit(&[(0, failed.clone())], 1)).await?;
    let Committed::Written { ready, run, .. } = reply else { anyhow::bail!("{reply:?}") };
    ensure!(ready.is_empty() && run == RunState::Failed);
    let status = store.status(sample.run).await?.context("no status")?;
    ensure!(status.reason == Some(Reason::Task(task(0))) && status.failed == 1);
    store.purge(sample.run).await?;

    let sample = Sample::tolerant_chain(store, 2).await?;
    let reply = store.commit(sample.run, &sample.commit(&[(0, failed)], 1)).await?;
    let Committed::Written { ready, run, .. } = reply else { anyhow::bail!("{reply:?}") };
    ensure!(ready.len() == 1 && ready[0].task == task(1) && run == RunState::Open);
    let stored = store.inspect(sample.run, &[task(0)]).await?;
    ensure!(stored[0].as_ref().and_then(|status| status.record.clone()) == Some(error));
    let skipped = sample.commit(&[(1, End::Skipped { cause: task(0) })], 2);
    store.commit(sample.run, &skipped).await?;
    ensure!(store.close(sample.run).await? == Some(RunState::Failed));
    store.purge(sample.run).await?;
    Ok(())
}

/// A commit that was answered and is repeated answers the same; one of finished tasks writes
/// nothing.
pub async fn repeated_commits(store: &Store) -> anyhow::Result<()> {
    let sample = Sample::chain(store, 3).await?;
    let commit = sample.commit(&[(0, done())], 1);
    let first = store.commit(sample.run, &commit).await?;
    let again = store.commit(sample.run, &commit).await?;
    ensure!(first == again, "{first:?} {again:?}");
    let mut twin = sample.commit(&[(0, done()), (1, done())], 2);
    twin.outbox.owner = clock::new_incarnation();
    let reply = store.commit(sample.run, &twin).await?;
    let Committed::Superseded(standing) = reply else { anyhow::bail!("{reply:?}") };
    ensure!(standing.len() == 2 && standing[0].1.value().as_deref() == Some(&b"v"[..]));
    let status = store.status(sample.run).await?.context("no status")?;
    ensure!(status.finished == 1, "all or nothing");
    let entries = store.outbox(sample.run).await?;
    ensure!(entries.len() == 1 && entries[0].0 == commit.outbox);
    ensure!(!store.settle(sample.run, commit.outbox, &[]).await?);
    ensure!(store.settle(sample.run, commit.outbox, &entries[0].1).await?);
    ensure!(store.outbox(sample.run).await?.is_empty());
    store.purge(sample.run).await?;
    Ok(())
}
