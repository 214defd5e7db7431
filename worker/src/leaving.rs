//! Results that only this worker has and that somebody still needs: before it leaves they move to
//! its peers, and where no peer takes them, outputs that are small enough go into the store. The
//! locator changes by compare-and-set, so whoever looks finds the one place or the other.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bolthole_broker::id::{ResultKey, RunId, TaskId};
use bolthole_broker::limits;
use bolthole_broker::locator::{Copies, HeldRecord, Locator};
use bolthole_broker::run::{Relocation, TaskStatus};
use bolthole_broker::state::{KEPT, PINNED, TaskState};
use bolthole_broker::store::Error;
use futures_util::StreamExt;
use futures_util::stream::iter;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::copies::{Copier, Peers};

/// How long until results are looked for again that were committed meanwhile.
const ROUND: Duration = Duration::from_millis(200);
/// Results that are handed on at once.
const AT_ONCE: usize = 4;

/// Hands results on.
#[derive(Debug)]
pub(crate) struct Leaving {
    copier: Arc<Copier>,
    totals: Totals,
    /// What is here alone, with its bytes, as far as is known.
    sole: Mutex<BTreeMap<ResultKey, u64>>,
}

/// What became of the results, in numbers and bytes.
#[derive(Debug, Default)]
struct Totals {
    moved: [AtomicU64; 2],
    stored: [AtomicU64; 2],
}

/// A result that only this worker has.
struct Sole {
    key: ResultKey,
    locator: Locator,
    record: HeldRecord,
    consumers: u32,
}

impl Sole {
    /// Whether it must stay when the run has ended: an output, or what an effect returned.
    fn is_kept(&self) -> bool {
        self.consumers & (PINNED | KEPT) != 0
    }
}

impl Leaving {
    pub(crate) fn new(copier: Arc<Copier>) -> Self {
        Self { copier, totals: Totals::default(), sole: Mutex::default() }
    }

    /// Hands results on, and those that are committed meanwhile, until none comes any more
    /// (`finished`) and all have been tried, or until `until`. Says in the log what it came to.
    pub(crate) async fn run(&self, finished: CancellationToken, until: Instant) {
        loop {
            let last = finished.is_cancelled();
            match timeout_at(until, self.round(last)).await {
                Ok(Ok(())) if last => break,
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::warn!(%error, "results cannot be handed on; trying again");
                }
                Err(_) => break,
            }
            let next = (Instant::now() + ROUND).min(until);
            if last {
                // The store did not answer; it is not asked without a pause.
                sleep_until(next).await;
            } else {
                // Ends early when nothing new can come.
                let _ = timeout_at(next, finished.cancelled()).await;
            }
            if Instant::now() >= until {
                break;
            }
        }
        self.report();
    }

    fn report(&self) {
        let of = |pair: &[AtomicU64; 2]| pair.each_ref().map(|one| one.load(Ordering::Relaxed));
        let ([moved, moved_bytes], [stored, stored_bytes]) =
            (of(&self.totals.moved), of(&self.totals.stored));
        let sole = self.sole();
        let (left, left_bytes) = (sole.len(), sole.values().sum::<u64>());
        tracing::info!(moved, moved_bytes, stored, stored_bytes, "handed results on");
        if left > 0 {
            tracing::warn!(
                left,
                left_bytes,
                "results found no other place: they are computed again when somebody needs them"
            );
        }
    }

    fn sole(&self) -> MutexGuard<'_, BTreeMap<ResultKey, u64>> {
        self.sole.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks once for results that are here alone and hands them on, those with the most consumers
    /// first.
    async fn round(&self, last: bool) -> Result<(), Error> {
        let mut found = self.look().await?;
        found.sort_by_key(|one| (std::cmp::Reverse(one.consumers & !(PINNED | KEPT)), one.key));
        *self.sole() = found.iter().map(|one| (one.key, one.record.length)).collect();
        if found.is_empty() {
            return Ok(());
        }
        let peers = self.copier.peers().await?;
        let moving = iter(found.into_iter().enumerate()).map(async |(turn, sole)| {
            let outcome = self.hand_on(&sole, &peers, turn, last).await;
            if let Err(error) = outcome {
                tracing::warn!(key = ?sole.key, %error, "a result was not handed on");
            }
        });
        moving.buffer_unordered(AT_ONCE).collect::<()>().await;
        Ok(())
    }

    /// The results that the store says are here.
    async fn look(&self) -> Result<Vec<Sole>, Error> {
        let mut by_run: BTreeMap<RunId, BTreeSet<ResultKey>> = BTreeMap::new();
        for key in self.copier.held.confirmed_keys() {
            by_run.entry(key.run).or_default().insert(key);
        }
        let mut found = Vec::new();
        for (run, keys) in by_run {
            let keys: Vec<ResultKey> = keys.into_iter().collect();
            for keys in keys.chunks(limits::INSPECT_TASKS_MAX) {
                let tasks: Vec<TaskId> = keys.iter().map(|key| key.task).collect();
                let statuses = self.copier.store.inspect(run, &tasks).await?;
                let here = keys.iter().zip(statuses);
                found.extend(here.filter_map(|(key, status)| self.sole_of(*key, &status?)));
            }
        }
        Ok(found)
    }

    fn sole_of(&self, key: ResultKey, status: &TaskStatus) -> Option<Sole> {
        let state = status.state;
        let mine =
            matches!(status.locator, Locator::Held { worker, .. } if worker == self.copier.me);
        if state.state() != TaskState::Done || state.generation() != key.generation || !mine {
            return None;
        }
        let record = HeldRecord::from_bytes(status.record.as_deref()?).ok()?;
        let (locator, consumers) = (status.locator, status.consumers);
        (record.nonce == key.nonce).then_some(Sole { key, locator, record, consumers })
    }

    /// Finds another place for one result, if there is any. Different ones start with different
    /// peers: `turn`.
    async fn hand_on(
        &self,
        sole: &Sole,
        peers: &Peers,
        turn: usize,
        last: bool,
    ) -> Result<(), Error> {
        let Sole { key, record, .. } = sole;
        if record.copies.folder || record.copies.store {
            let to = Locator::apart(record.length);
            let copies = Copies { worker: None, ..record.copies };
            return self.relocate(sole, to, copies, &self.totals.moved).await;
        }
        let Some(held) = self.copier.held.get(key).await else { return Ok(()) };
        let start = turn % peers.len().max(1);
        let (before, after) = peers.split_at(start);
        let mut order: Vec<_> = after.iter().chain(before).collect();
        // One that has a copy answers at once.
        order.sort_by_key(|(index, _)| record.copies.worker != Some(*index));
        for (index, peer) in order {
            if self.copier.push(peer, *key, held.digest, held.bytes.clone()).await {
                let to = Locator::held(*index, record.length);
                let copies = Copies { worker: None, ..record.copies };
                return self.relocate(sole, to, copies, &self.totals.moved).await;
            }
        }
        if last && sole.is_kept() && self.reserve(record.length) {
            self.copier.store.put_blob(key.run, record.blob(), held.bytes).await?;
            let to = Locator::apart(record.length);
            let copies = Copies { store: true, ..Copies::default() };
            return self.relocate(sole, to, copies, &self.totals.stored).await;
        }
        Ok(())
    }

    /// Whether the store may be given so much more.
    fn reserve(&self, length: u64) -> bool {
        let [_, bytes] = &self.totals.stored;
        length <= limits::STORED_COPY_MAX
            && bytes.load(Ordering::Relaxed).saturating_add(length) <= limits::LEAVING_STORED_MAX
    }

    async fn relocate(
        &self,
        sole: &Sole,
        to: Locator,
        copies: Copies,
        [count, bytes]: &[AtomicU64; 2],
    ) -> Result<(), Error> {
        let Sole { key, locator, record, .. } = sole;
        let relocation = Relocation {
            task: key.task,
            generation: key.generation,
            from: *locator,
            to,
            record: HeldRecord { copies, ..*record }.to_bytes().into(),
        };
        self.copier.store.relocate(key.run, &[relocation]).await?;
        // When it has another place by now, or none, nobody looks for it here either.
        self.sole().remove(key);
        count.fetch_add(1, Ordering::Relaxed);
        bytes.fetch_add(record.length, Ordering::Relaxed);
        Ok(())
    }
}
