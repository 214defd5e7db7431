//! Second places for results that must outlive this worker: for outputs when they have been there
//! for a moment, for what an effect returned before it is committed. The result folder if there is
//! one, else another worker; for effects at last the store. And, in `relay`, for what a worker needs
//! that cannot reach this one.

mod relay;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bolthole_broker::durable::Folder;
use bolthole_broker::handoff::{Digest, Fetcher, Peer, Pushed};
use bolthole_broker::id::{ResultKey, RunId, TaskId, WorkerIndex};
use bolthole_broker::limits;
use bolthole_broker::locator::{Copies, HeldRecord, Locator};
use bolthole_broker::run::{Commit, End, Relocation, TaskStatus};
use bolthole_broker::state::{PINNED, TaskState};
use bolthole_broker::store::{Error, Store};
use bytes::Bytes;
use tokio::sync::Semaphore;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::hold::Held;

/// How long an output is there before it is copied: most are read and dropped at once.
const COPY_AFTER: Duration = Duration::from_secs(1);

/// Makes copies of results that are here.
#[derive(Debug)]
pub(crate) struct Copier {
    pub(crate) store: Store,
    pub(crate) held: Held,
    pub(crate) me: WorkerIndex,
    fetcher: Fetcher,
    folder: Option<Folder>,
    /// Whose turn it is among the peers.
    turn: AtomicUsize,
    /// Messages that ask for relays and are worked on.
    relays: Semaphore,
    /// Results that are being relayed.
    relaying: Mutex<BTreeSet<ResultKey>>,
    /// Bytes that were relayed through the store.
    relayed: AtomicU64,
}

/// A worker that may take results over.
type Place = (WorkerIndex, Peer);
/// The workers that may take results over.
pub(crate) type Peers = Vec<Place>;

impl Copier {
    pub(crate) fn new(
        store: &Store,
        held: &Held,
        fetcher: &Fetcher,
        me: WorkerIndex,
        folder: Option<Folder>,
    ) -> Arc<Self> {
        let (store, held, fetcher) = (store.clone(), held.clone(), fetcher.clone());
        Arc::new(Self {
            store,
            held,
            me,
            fetcher,
            folder,
            turn: AtomicUsize::new(0),
            relays: Semaphore::new(limits::RELAYS_MAX),
            relaying: Mutex::default(),
            relayed: AtomicU64::new(0),
        })
    }

    /// All living workers but this one that can be reached.
    pub(crate) async fn peers(&self) -> Result<Peers, Error> {
        let workers = self.store.workers().await?.into_iter();
        let others =
            workers.filter(|(index, record)| *index != self.me && !record.address.is_empty());
        let peer = |record: bolthole_broker::store::WorkerRecord| Peer {
            addr: record.address,
            incarnation: record.incarnation,
        };
        Ok(others.map(|(index, record)| (index, peer(record))).collect())
    }

    /// Offers a result to a peer; whether it has it now.
    pub(crate) async fn push(
        &self,
        peer: &Peer,
        key: ResultKey,
        digest: Digest,
        bytes: Bytes,
    ) -> bool {
        match self.fetcher.push(peer, key, digest, bytes).await {
            Ok(Pushed::Stored) => true,
            Ok(Pushed::Refused(reason)) => {
                tracing::debug!(peer = %peer.addr, ?reason, "a peer takes no result over");
                false
            }
            Err(error) => {
                tracing::debug!(%error, "a peer did not take a result over");
                false
            }
        }
    }

    /// Copies outputs until the worker is told to go.
    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken) {
        // Those that found no place so far: another worker may come.
        let mut waiting = BTreeSet::new();
        while !stop.is_cancelled() {
            if waiting.is_empty() {
                let confirmed = stop.run_until_cancelled(self.held.confirmed_lately()).await;
                waiting.extend(confirmed.unwrap_or_default());
            }
            if stop.run_until_cancelled(sleep(COPY_AFTER)).await.is_none() {
                return;
            }
            let outcome = stop.run_until_cancelled(self.copy_outputs(&mut waiting)).await;
            if let Some(Err(error)) = outcome {
                tracing::debug!(%error, "outputs are not copied; trying again");
            }
            waiting.extend(self.held.take_confirmed());
        }
    }

    /// Copies those of these results that are outputs and have no copy; what found no place stays.
    async fn copy_outputs(&self, waiting: &mut BTreeSet<ResultKey>) -> Result<(), Error> {
        waiting.retain(|key| self.held.holds(key));
        if self.folder.is_none() && self.peers().await?.is_empty() {
            return Ok(());
        }
        let mut runs: Vec<RunId> = waiting.iter().map(|key| key.run).collect();
        runs.dedup();
        for run in runs {
            let of_run: Vec<ResultKey> =
                waiting.iter().filter(|key| key.run == run).copied().collect();
            for keys in of_run.chunks(limits::INSPECT_TASKS_MAX) {
                let tasks: Vec<TaskId> = keys.iter().map(|key| key.task).collect();
                let statuses = self.store.inspect(run, &tasks).await?;
                for (key, status) in keys.iter().zip(statuses) {
                    let output = status.as_ref().and_then(|status| self.output(*key, status));
                    let done = match output {
                        Some((locator, record)) => self.copy_output(*key, locator, record).await?,
                        None => true,
                    };
                    if done {
                        waiting.remove(key);
                    }
                }
            }
        }
        Ok(())
    }

    /// Where this result is, when it is an output that only this worker has.
    fn output(&self, key: ResultKey, status: &TaskStatus) -> Option<(Locator, HeldRecord)> {
        let mine = matches!(status.locator, Locator::Held { worker, .. } if worker == self.me);
        let same = status.state.state() == TaskState::Done
            && status.state.generation() == key.generation
            && status.consumers & PINNED != 0;
        let record = HeldRecord::from_bytes(status.record.as_deref()?).ok()?;
        let alone = record.copies.is_empty() && record.nonce == key.nonce;
        (mine && same && alone).then_some((status.locator, record))
    }

    /// Copies one; false when there is no place for it at the moment.
    async fn copy_output(
        &self,
        key: ResultKey,
        locator: Locator,
        record: HeldRecord,
    ) -> Result<bool, Error> {
        let Some(held) = self.held.get(&key).await else { return Ok(true) };
        let copies = self.copy(key, &record, held.bytes, false).await?;
        if copies.is_empty() {
            return Ok(false);
        }
        let ResultKey { run, task, generation, .. } = key;
        let record = HeldRecord { copies, ..record }.to_bytes().into();
        let relocation = Relocation { task, generation, from: locator, to: locator, record };
        self.store.relocate(run, &[relocation]).await?;
        Ok(true)
    }

    /// Finds a second place for a result; in the store only if it may be there.
    async fn copy(
        &self,
        key: ResultKey,
        record: &HeldRecord,
        bytes: Bytes,
        may_store: bool,
    ) -> Result<Copies, Error> {
        if let Some(folder) = &self.folder {
            match folder.write(key, bytes.clone()).await {
                Ok(()) => return Ok(Copies { folder: true, ..Copies::default() }),
                Err(error) => tracing::warn!(%error, "a result is not copied to the folder"),
            }
        }
        let peers = self.peers().await?;
        let start = self.turn.fetch_add(1, Ordering::Relaxed) % peers.len().max(1);
        let (before, after) = peers.split_at(start);
        for (index, peer) in after.iter().chain(before) {
            let digest = Digest::from_bytes(record.digest);
            if self.push(peer, key, digest, bytes.clone()).await {
                return Ok(Copies { worker: Some(*index), ..Copies::default() });
            }
        }
        if may_store && bytes.len() <= limits::BLOB_BYTES_MAX {
            self.store.put_blob(key.run, record.blob(), bytes).await?;
            return Ok(Copies { store: true, ..Copies::default() });
        }
        Ok(Copies::default())
    }

    /// The same commit, with a copy for what an effect returned and this worker alone has: its
    /// result is never computed again, so it is safe before it counts.
    pub(crate) async fn secure(&self, run: RunId, commit: Arc<Commit>) -> Arc<Commit> {
        let exposed =
            |end: &End| matches!(end, End::Done { locator: Locator::Held { .. }, keep: true, .. });
        if !commit.finished.iter().any(|finished| exposed(&finished.end)) {
            return commit;
        }
        let mut secured = Commit::clone(&commit);
        for finished in secured.finished.iter_mut().filter(|finished| exposed(&finished.end)) {
            let task = TaskId::new(commit.segment, finished.index);
            let End::Done { record: stored, .. } = &mut finished.end else { continue };
            let Ok(record) = HeldRecord::from_bytes(stored) else { continue };
            let key = ResultKey { run, task, generation: finished.generation, nonce: record.nonce };
            let Some(held) = self.held.get(&key).await else { continue };
            match self.copy(key, &record, held.bytes, true).await {
                Ok(copies) if !copies.is_empty() => {
                    *stored = HeldRecord { copies, ..record }.to_bytes().into();
                }
                // The effect has happened: not to say so would be worse.
                outcome => tracing::warn!(
                    %run, %task, bytes = record.length, error = ?outcome.err(),
                    "the result of an effect has no second place: give workers a result folder"
                ),
            }
        }
        Arc::new(secured)
    }
}
