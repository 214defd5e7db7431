//! What a holder does for a worker that cannot reach it: it gives the results that are wanted a
//! second place, best with that worker itself, for the way from here to there may be open. Then the
//! record of each result names it, and whoever looks finds it there.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use bolthole_broker::handoff::Digest;
use bolthole_broker::id::{ResultKey, RunId, TaskId, WorkerIndex};
use bolthole_broker::limits::{INSPECT_TASKS_MAX, RELAYED_STORED_MAX, STORED_COPY_MAX};
use bolthole_broker::locator::{Copies, HeldRecord, Locator};
use bolthole_broker::run::{Relocation, TaskStatus};
use bolthole_broker::state::TaskState;
use bolthole_broker::store::Error;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::iter;

use super::{Copier, Peers};

/// Results of one message that are relayed at once.
const AT_ONCE: usize = 4;

/// One message's places.
struct Places {
    to: WorkerIndex,
    peers: Peers,
    /// Those that did not take one: they are not asked for each of the others.
    deaf: Mutex<BTreeSet<WorkerIndex>>,
}

impl Places {
    /// The peers that may take a result over, the one who wants it first.
    fn of<'a>(&'a self, record: &HeldRecord) -> impl Iterator<Item = &'a super::Place> {
        // Where it is already it was looked for in vain.
        let elsewhere = record.copies.worker;
        let wanted = self.peers.iter().filter(|(index, _)| *index == self.to);
        let others =
            self.peers.iter().filter(move |(index, _)| *index != self.to && elsewhere.is_none());
        wanted.chain(others).filter(move |(index, _)| Some(*index) != elsewhere)
    }

    fn is_deaf(&self, index: WorkerIndex) -> bool {
        self.deaf.lock().unwrap_or_else(PoisonError::into_inner).contains(&index)
    }

    fn note_deaf(&self, index: WorkerIndex) {
        self.deaf.lock().unwrap_or_else(PoisonError::into_inner).insert(index);
    }
}

/// A result that is being relayed, until this is dropped.
struct UnderWay<'a> {
    copier: &'a Copier,
    key: ResultKey,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let mut relaying = self.copier.relaying.lock().unwrap_or_else(PoisonError::into_inner);
        relaying.remove(&self.key);
    }
}

impl Copier {
    /// Gives results of this worker another place, for `to`. What finds none stays where it is.
    pub(crate) async fn relay(self: Arc<Self>, run: RunId, to: WorkerIndex, tasks: Vec<TaskId>) {
        // Whoever waits asks again.
        let Ok(_place) = self.relays.try_acquire() else { return };
        if let Err(error) = self.relay_all(run, to, &tasks).await {
            tracing::debug!(%run, %to, %error, "results are not relayed");
        }
    }

    async fn relay_all(&self, run: RunId, to: WorkerIndex, tasks: &[TaskId]) -> Result<(), Error> {
        let places = Places { to, peers: self.peers().await?, deaf: Mutex::default() };
        for tasks in tasks.chunks(INSPECT_TASKS_MAX) {
            let statuses = self.store.inspect(run, tasks).await?;
            let wanted = tasks.iter().zip(statuses).filter_map(|(task, status)| {
                let (locator, record) = self.own(status.as_ref()?)?;
                let generation = status.as_ref()?.state.generation();
                Some((
                    ResultKey { run, task: *task, generation, nonce: record.nonce },
                    locator,
                    record,
                ))
            });
            let wanted: Vec<_> = wanted.collect();
            let relaying = iter(wanted)
                .map(async |(key, locator, record)| {
                    if let Err(error) = self.relay_one(key, locator, record, &places).await {
                        tracing::debug!(?key, %error, "a result is not relayed");
                    }
                })
                .buffer_unordered(AT_ONCE);
            relaying.collect::<()>().await;
        }
        Ok(())
    }

    /// Where a result is, when this worker holds it.
    fn own(&self, status: &TaskStatus) -> Option<(Locator, HeldRecord)> {
        let mine = matches!(status.locator, Locator::Held { worker, .. } if worker == self.me);
        let mine = mine && status.state.state() == TaskState::Done;
        let record = HeldRecord::from_bytes(status.record.as_deref()?).ok()?;
        mine.then_some((status.locator, record))
    }

    async fn relay_one(
        &self,
        key: ResultKey,
        locator: Locator,
        record: HeldRecord,
        places: &Places,
    ) -> Result<(), Error> {
        if record.copies.worker == Some(places.to) {
            return Ok(());
        }
        let first = self.relaying.lock().unwrap_or_else(PoisonError::into_inner).insert(key);
        if !first {
            return Ok(());
        }
        let _under_way = UnderWay { copier: self, key };
        let Some(held) = self.held.get(&key).await else { return Ok(()) };
        let copies = self.place(key, &record, held.bytes, places).await?;
        if copies == record.copies {
            return Ok(());
        }
        tracing::info!(run = %key.run, task = %key.task, to = %places.to, ?copies, "relayed");
        let ResultKey { run, task, generation, .. } = key;
        let record = HeldRecord { copies, ..record }.to_bytes().into();
        let relocation = Relocation { task, generation, from: locator, to: locator, record };
        self.store.relocate(run, &[relocation]).await?;
        Ok(())
    }

    /// Another place for a result: its copies afterwards.
    async fn place(
        &self,
        key: ResultKey,
        record: &HeldRecord,
        bytes: Bytes,
        places: &Places,
    ) -> Result<Copies, Error> {
        let digest = Digest::from_bytes(record.digest);
        for (index, peer) in places.of(record) {
            if places.is_deaf(*index) {
                continue;
            }
            if self.push(peer, key, digest, bytes.clone()).await {
                return Ok(Copies { worker: Some(*index), ..record.copies });
            }
            places.note_deaf(*index);
        }
        if let Some(folder) = self.folder.as_ref().filter(|_| !record.copies.folder) {
            match folder.write(key, bytes.clone()).await {
                Ok(()) => return Ok(Copies { folder: true, ..record.copies }),
                Err(error) => tracing::warn!(%error, "a result is not copied to the folder"),
            }
        }
        if record.copies.store || record.length > STORED_COPY_MAX {
            return Ok(record.copies);
        }
        let before = self.relayed.fetch_add(record.length, Ordering::Relaxed);
        if before + record.length > RELAYED_STORED_MAX {
            self.relayed.fetch_sub(record.length, Ordering::Relaxed);
            return Ok(record.copies);
        }
        self.store.put_blob(key.run, record.blob(), bytes).await?;
        Ok(Copies { store: true, ..record.copies })
    }
}
