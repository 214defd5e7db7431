//! What is held, where, and how much memory it takes. Pure: no I/O, no clock.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use bolthole_broker::handoff::Digest;
use bolthole_broker::id::{ResultKey, RunId, TaskId};
use bytes::Bytes;
use tokio::sync::Mutex as Gate;

use super::{HeldValue, Typed};

/// Memory accounted to every result beside its bytes: its entry, keys and bookkeeping.
const ENTRY_BYTES: u64 = 256;

struct Entry {
    digest: Digest,
    length: u64,
    confirmed: bool,
    place: Place,
    /// The file that has the bytes. It is kept when they are read back, so that dropping them from
    /// memory again costs nothing.
    file: Option<PathBuf>,
    gate: Arc<Gate<()>>,
}

enum Place {
    Memory { bytes: Bytes, typed: Option<Typed>, used: u64 },
    Disk,
}

impl Entry {
    /// Memory accounted to the entry. A typed value is taken to be as large as its encoding.
    fn memory_bytes(&self) -> u64 {
        match &self.place {
            Place::Disk => ENTRY_BYTES,
            Place::Memory { typed: None, .. } => ENTRY_BYTES + self.length,
            Place::Memory { typed: Some(_), .. } => ENTRY_BYTES + 2 * self.length,
        }
    }
}

/// Where a result was found.
pub(super) enum Found {
    Resident(HeldValue),
    Spilled { path: PathBuf, length: u64, digest: Digest, gate: Arc<Gate<()>> },
}

/// The results by run, and in order of use.
#[derive(Default)]
pub(super) struct Table {
    runs: BTreeMap<RunId, BTreeMap<ResultKey, Entry>>,
    /// Results in memory by when they were last used, the coldest first.
    used: BTreeMap<u64, ResultKey>,
    uses: u64,
    memory_bytes: u64,
    reserved_bytes: u64,
    /// Of results that wait for memory.
    waited_bytes: u64,
    /// What has left memory so far, however.
    left_bytes: u64,
    spilled_bytes: u64,
    /// The most that results have taken so far, in memory and on disk.
    peak_bytes: u64,
    doomed: Vec<PathBuf>,
    /// Confirmed since they were last asked for.
    confirmed: Vec<ResultKey>,
}

impl Table {
    pub(super) fn count(&self) -> u64 {
        self.runs.values().map(|run| run.len() as u64).sum()
    }

    pub(super) fn memory_bytes(&self) -> u64 {
        self.memory_bytes.saturating_add(self.reserved_bytes)
    }

    pub(super) fn spilled_bytes(&self) -> u64 {
        self.spilled_bytes
    }

    pub(super) fn peak_bytes(&self) -> u64 {
        self.peak_bytes
    }

    fn note_peak(&mut self) {
        self.peak_bytes = self.peak_bytes.max(self.memory_bytes + self.spilled_bytes);
    }

    pub(super) fn reserve(&mut self, bytes: u64) {
        self.reserved_bytes = self.reserved_bytes.saturating_add(bytes);
    }

    pub(super) fn unreserve(&mut self, bytes: u64) {
        self.reserved_bytes = self.reserved_bytes.saturating_sub(bytes);
    }

    /// As [`Self::memory_bytes`], with what waits for memory: what pressure is judged by.
    pub(super) fn wanted_bytes(&self) -> u64 {
        self.memory_bytes().saturating_add(self.waited_bytes)
    }

    pub(super) fn wait_for(&mut self, bytes: u64) {
        self.waited_bytes = self.waited_bytes.saturating_add(bytes);
    }

    pub(super) fn wait_no_more(&mut self, bytes: u64) {
        self.waited_bytes = self.waited_bytes.saturating_sub(bytes);
    }

    /// Bytes that have left memory so far: while they become more, waiting for some makes sense.
    pub(super) fn left_bytes(&self) -> u64 {
        self.left_bytes
    }

    /// Whether no result is in memory, nor on its way there.
    pub(super) fn is_bare(&self) -> bool {
        self.used.is_empty() && self.reserved_bytes == 0
    }

    fn entry(&self, key: &ResultKey) -> Option<&Entry> {
        self.runs.get(&key.run)?.get(key)
    }

    fn next_use(&mut self, key: ResultKey) -> u64 {
        self.uses += 1;
        self.used.insert(self.uses, key);
        self.uses
    }

    pub(super) fn insert(
        &mut self,
        key: ResultKey,
        bytes: Bytes,
        digest: Digest,
        typed: Option<Typed>,
    ) {
        if self.entry(&key).is_some() {
            return;
        }
        let used = self.next_use(key);
        let entry = Entry {
            digest,
            length: bytes.len() as u64,
            confirmed: false,
            place: Place::Memory { bytes, typed, used },
            file: None,
            gate: Arc::default(),
        };
        self.memory_bytes += entry.memory_bytes();
        self.note_peak();
        self.runs.entry(key.run).or_default().insert(key, entry);
    }

    pub(super) fn confirm(&mut self, key: &ResultKey) -> bool {
        let entry = self.runs.get_mut(&key.run).and_then(|run| run.get_mut(key));
        let Some(entry) = entry else { return false };
        if !entry.confirmed {
            entry.confirmed = true;
            self.confirmed.push(*key);
        }
        true
    }

    /// The results that were confirmed since the last call and are still there.
    pub(super) fn take_confirmed(&mut self) -> Vec<ResultKey> {
        let mut confirmed = std::mem::take(&mut self.confirmed);
        confirmed.retain(|key| self.entry(key).is_some());
        confirmed
    }

    /// Whether a result is confirmed; `None` when it is not held.
    pub(super) fn is_confirmed(&self, key: &ResultKey) -> Option<bool> {
        self.entry(key).map(|entry| entry.confirmed)
    }

    pub(super) fn is_served(&self, key: &ResultKey, digest: Digest) -> bool {
        self.entry(key).is_some_and(|entry| entry.confirmed && entry.digest == digest)
    }

    pub(super) fn confirmed_keys(&self) -> Vec<ResultKey> {
        let entries = self.runs.values().flatten();
        entries.filter(|(_, entry)| entry.confirmed).map(|(key, _)| *key).collect()
    }

    /// Looks a result up and makes it the last used.
    pub(super) fn find(&mut self, key: &ResultKey) -> Option<Found> {
        let next = self.uses + 1;
        let entry = self.runs.get_mut(&key.run)?.get_mut(key)?;
        let digest = entry.digest;
        match (&mut entry.place, &entry.file) {
            (Place::Memory { bytes, typed, used }, _) => {
                self.used.remove(used);
                *used = next;
                self.used.insert(next, *key);
                self.uses = next;
                let (bytes, typed) = (bytes.clone(), typed.clone());
                Some(Found::Resident(HeldValue { bytes, digest, typed }))
            }
            (Place::Disk, Some(path)) => Some(Found::Spilled {
                path: path.clone(),
                length: entry.length,
                digest,
                gate: Arc::clone(&entry.gate),
            }),
            (Place::Disk, None) => None,
        }
    }

    pub(super) fn remove(&mut self, key: &ResultKey) -> bool {
        let Some(run) = self.runs.get_mut(&key.run) else { return false };
        let removed = run.remove(key);
        if run.is_empty() {
            self.runs.remove(&key.run);
        }
        removed.map(|entry| self.forget(entry)).is_some()
    }

    /// Removes the results of all attempts at one generation of a task.
    pub(super) fn remove_attempts(&mut self, run: RunId, task: TaskId, generation: u8) -> usize {
        let key = |nonce| ResultKey { run, task, generation, nonce };
        let Some(of_run) = self.runs.get(&run) else { return 0 };
        let keys: Vec<ResultKey> =
            of_run.range(key(0)..=key(u64::MAX)).map(|(key, _)| *key).collect();
        keys.iter().filter(|key| self.remove(key)).count()
    }

    pub(super) fn remove_run(&mut self, run: RunId) -> usize {
        let entries = self.runs.remove(&run).unwrap_or_default();
        let count = entries.len();
        for entry in entries.into_values() {
            self.forget(entry);
        }
        count
    }

    pub(super) fn clear(&mut self) {
        for entry in std::mem::take(&mut self.runs).into_values().flat_map(BTreeMap::into_values) {
            self.forget(entry);
        }
    }

    pub(super) fn sweep(&mut self, mut keep: impl FnMut(&ResultKey) -> bool) -> usize {
        let mut unwanted = self.confirmed_keys();
        unwanted.retain(|key| !keep(key));
        unwanted.iter().filter(|key| self.remove(key)).count()
    }

    fn forget(&mut self, entry: Entry) {
        self.memory_bytes -= entry.memory_bytes();
        self.left_bytes = self.left_bytes.wrapping_add(entry.memory_bytes());
        match entry.place {
            Place::Memory { used, .. } => drop(self.used.remove(&used)),
            Place::Disk => self.spilled_bytes -= entry.length,
        }
        self.doomed.extend(entry.file);
    }

    /// The result in memory that was used longest ago: its key, and what has to be written unless
    /// it is on disk already. Empty results free nothing and are passed over.
    pub(super) fn coldest(&self) -> Option<(ResultKey, Option<(Bytes, Digest)>)> {
        self.used.values().find_map(|key| {
            let entry = self.entry(key).filter(|entry| entry.length > 0)?;
            match &entry.place {
                Place::Memory { .. } if entry.file.is_some() => Some((*key, None)),
                Place::Memory { bytes, .. } => Some((*key, Some((bytes.clone(), entry.digest)))),
                Place::Disk => None,
            }
        })
    }

    /// Notes that a result's bytes are in a file now, and drops them from memory.
    pub(super) fn spilled(&mut self, key: &ResultKey, path: PathBuf) {
        let entry = self.runs.get_mut(&key.run).and_then(|run| run.get_mut(key));
        let Some(entry) = entry else {
            // Dropped while it was written.
            self.doomed.push(path);
            return;
        };
        self.doomed.extend(entry.file.replace(path));
        self.leave_memory(key);
    }

    /// Drops a result from memory that is on disk too.
    pub(super) fn leave_memory(&mut self, key: &ResultKey) {
        let entry = self.runs.get_mut(&key.run).and_then(|run| run.get_mut(key));
        let Some(entry) = entry.filter(|entry| entry.file.is_some()) else { return };
        let before = entry.memory_bytes();
        if let Place::Memory { used, .. } = std::mem::replace(&mut entry.place, Place::Disk) {
            self.used.remove(&used);
            self.spilled_bytes += entry.length;
            self.memory_bytes -= before - entry.memory_bytes();
            self.left_bytes = self.left_bytes.wrapping_add(before);
        }
    }

    /// Puts bytes that were read from disk back into memory.
    pub(super) fn restore(&mut self, key: &ResultKey, bytes: Bytes) {
        let used = self.uses + 1;
        let entry = self.runs.get_mut(&key.run).and_then(|run| run.get_mut(key));
        let Some(entry) = entry.filter(|entry| matches!(entry.place, Place::Disk)) else { return };
        let before = entry.memory_bytes();
        entry.place = Place::Memory { bytes, typed: None, used };
        self.memory_bytes += entry.memory_bytes() - before;
        self.spilled_bytes -= entry.length;
        self.uses = used;
        self.used.insert(used, *key);
    }

    pub(super) fn has_doomed(&self) -> bool {
        !self.doomed.is_empty()
    }

    /// Files that nobody needs any more.
    pub(super) fn take_doomed(&mut self) -> Vec<PathBuf> {
        std::mem::take(&mut self.doomed)
    }
}
