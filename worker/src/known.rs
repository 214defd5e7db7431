//! What this worker has read of runs and does not change: descriptors, headers, blobs. Bounded
//! caches; the oldest goes first.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use bolthole_broker::args::BlobDigest;
use bolthole_broker::descriptor::{Chunk, chunk_of};
use bolthole_broker::id::{RunId, TaskId};
use bolthole_broker::run::Header;
use bolthole_broker::store::{Error, Store};
use bytes::Bytes;

use crate::flight::TaskInfo;

/// Encoded descriptors to keep.
const CHUNK_BYTES_MAX: usize = 64 << 20;
/// Headers to keep, by their encoded size.
const HEADER_BYTES_MAX: usize = 16 << 20;
/// Large arguments to keep.
const BLOB_BYTES_MAX: usize = 256 << 20;

/// Read-only facts.
#[derive(Debug)]
pub(crate) struct Known {
    store: Store,
    chunks: Mutex<Cache<(RunId, u32, u32), Arc<Chunk>>>,
    headers: Mutex<Cache<RunId, Arc<Header>>>,
    blobs: Mutex<Cache<(RunId, BlobDigest), Bytes>>,
}

#[derive(Debug)]
struct Cache<K, V> {
    values: HashMap<K, (V, usize)>,
    order: VecDeque<K>,
    bytes: usize,
    bytes_max: usize,
}

impl<K: Copy + Eq + Hash, V: Clone> Cache<K, V> {
    fn new(bytes_max: usize) -> Mutex<Self> {
        Mutex::new(Self { values: HashMap::new(), order: VecDeque::new(), bytes: 0, bytes_max })
    }

    fn put(&mut self, key: K, value: V, bytes: usize) {
        if self.values.insert(key, (value, bytes)).is_some() {
            return;
        }
        self.bytes += bytes;
        self.order.push_back(key);
        while self.bytes > self.bytes_max && self.order.len() > 1 {
            let oldest = self.order.pop_front().and_then(|key| self.values.remove(&key));
            self.bytes -= oldest.map_or(0, |(_, bytes)| bytes);
        }
    }

    fn retain(&mut self, keep: impl Fn(&K) -> bool) {
        let before = self.order.len();
        self.order.retain(&keep);
        if self.order.len() < before {
            self.values.retain(|key, _| keep(key));
            self.bytes = self.values.values().map(|(_, bytes)| bytes).sum();
        }
    }
}

fn get<K: Copy + Eq + Hash, V: Clone>(cache: &Mutex<Cache<K, V>>, key: K) -> Option<V> {
    let cache = cache.lock().unwrap_or_else(PoisonError::into_inner);
    cache.values.get(&key).map(|(value, _)| value.clone())
}

fn put<K: Copy + Eq + Hash, V: Clone>(cache: &Mutex<Cache<K, V>>, key: K, value: V, bytes: usize) {
    cache.lock().unwrap_or_else(PoisonError::into_inner).put(key, value, bytes);
}

/// What a header takes here.
fn size_of(header: &Header) -> usize {
    64 + header.iter().map(|(name, value)| name.len() + value.len() + 64).sum::<usize>()
}

impl Known {
    /// A task's descriptor, if it is here.
    pub(crate) fn describe(&self, run: RunId, task: TaskId) -> Option<TaskInfo> {
        let (segment, number) = chunk_of(task);
        TaskInfo::find(&get(&self.chunks, (run, segment, number))?, task.index())
    }

    pub(crate) fn new(store: Store) -> Self {
        Self {
            store,
            chunks: Cache::new(CHUNK_BYTES_MAX),
            headers: Cache::new(HEADER_BYTES_MAX),
            blobs: Cache::new(BLOB_BYTES_MAX),
        }
    }

    /// Reads the descriptors of tasks that are not at hand. Those that the store does not have
    /// stay unknown: their run is gone.
    pub(crate) async fn load(&self, run: RunId, tasks: &[TaskId]) -> Result<(), Error> {
        let mut missing: Vec<(u32, u32)> = tasks
            .iter()
            .map(|task| chunk_of(*task))
            .filter(|(segment, number)| get(&self.chunks, (run, *segment, *number)).is_none())
            .collect();
        missing.sort_unstable();
        missing.dedup();
        if missing.is_empty() {
            return Ok(());
        }
        let read = self.store.chunks(run, &missing).await?;
        for ((segment, number), bytes) in missing.into_iter().zip(read) {
            let Some(bytes) = bytes else { continue };
            let chunk = Chunk::decode(&bytes, segment)
                .map_err(|error| Error::Corrupt(format!("descriptors of {run}: {error}")))?;
            put(&self.chunks, (run, segment, number), Arc::new(chunk), 2 * bytes.len());
        }
        Ok(())
    }

    /// What travels with the run; `None` when the run is not there.
    pub(crate) async fn header(&self, run: RunId) -> Result<Option<Arc<Header>>, Error> {
        if let Some(header) = self.header_at_hand(run) {
            return Ok(Some(header));
        }
        let Some(status) = self.store.status(run).await? else { return Ok(None) };
        let bytes = size_of(&status.header);
        let header = Arc::new(status.header);
        put(&self.headers, run, Arc::clone(&header), bytes);
        Ok(Some(header))
    }

    /// What travels with a run, as a message says; it is the same for as long as the run is there.
    pub(crate) fn put_header(&self, run: RunId, header: Header) {
        let mut headers = self.headers.lock().unwrap_or_else(PoisonError::into_inner);
        if !headers.values.contains_key(&run) {
            let bytes = size_of(&header);
            headers.put(run, Arc::new(header), bytes);
        }
    }

    pub(crate) fn header_at_hand(&self, run: RunId) -> Option<Arc<Header>> {
        get(&self.headers, run)
    }

    /// A large argument; `None` when the store does not have it.
    pub(crate) async fn blob(
        &self,
        run: RunId,
        digest: BlobDigest,
    ) -> Result<Option<Bytes>, Error> {
        if let Some(bytes) = self.blob_at_hand(run, digest) {
            return Ok(Some(bytes));
        }
        let Some(bytes) = self.store.blob(run, digest).await? else { return Ok(None) };
        if *blake3::hash(&bytes).as_bytes() != digest {
            return Err(Error::Corrupt(format!("a blob of {run} does not have its digest")));
        }
        put(&self.blobs, (run, digest), bytes.clone(), bytes.len());
        Ok(Some(bytes))
    }

    /// Forgets all runs but these, sorted ones: the others are gone.
    pub(crate) fn retain(&self, runs: &[RunId]) {
        let keep = |run: &RunId| runs.binary_search(run).is_ok();
        let (chunks, headers, blobs) = (&self.chunks, &self.headers, &self.blobs);
        chunks.lock().unwrap_or_else(PoisonError::into_inner).retain(|(run, _, _)| keep(run));
        headers.lock().unwrap_or_else(PoisonError::into_inner).retain(keep);
        blobs.lock().unwrap_or_else(PoisonError::into_inner).retain(|(run, _)| keep(run));
    }

    pub(crate) fn blob_at_hand(&self, run: RunId, digest: BlobDigest) -> Option<Bytes> {
        get(&self.blobs, (run, digest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_gone_is_forgotten_and_the_oldest_goes_first() {
        let cache: Mutex<Cache<u8, u8>> = Cache::new(30);
        for key in 1..=4 {
            put(&cache, key, 10 * key, 10);
        }
        assert_eq!((get(&cache, 1), get(&cache, 2), get(&cache, 4)), (None, Some(20), Some(40)));
        cache.lock().unwrap().retain(|key| *key == 3);
        assert_eq!((get(&cache, 2), get(&cache, 3)), (None, Some(30)));
        for key in 5..=6 {
            put(&cache, key, 10 * key, 10);
        }
        assert_eq!((get(&cache, 3), get(&cache, 6)), (Some(30), Some(60)), "there was room");
    }
}
