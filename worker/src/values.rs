//! Results that are on this worker, by task: its own and copies it has fetched. Small ones are kept
//! while there is room, large ones are with [`Held`]. A result that no commit has named yet is used
//! only by the tasks that continue it here.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bolthole_broker::call::Value;
use bolthole_broker::id::{ResultKey, RunId, TaskId, WorkerIndex};
use bolthole_broker::limits;
use bolthole_broker::locator::{Copies, HeldRecord, Locator};
use bytes::Bytes;

use crate::flight::{Kept, Key};
use crate::hold::Held;

/// Small values kept for consumers that may run here: a cache, the store has them too.
const SMALL_BYTES_MAX: usize = 64 << 20;
/// What a small value costs beside its bytes.
const SMALL_OVERHEAD: usize = 256;
/// The result of an effect is stored with its commit up to this size, whatever it costs.
const EFFECT_STORED_MAX: usize = 16 << 20;

#[derive(Debug)]
enum Place {
    Small(Value),
    Held(ResultKey),
}

#[derive(Debug)]
struct Local {
    nonce: u64,
    place: Place,
}

#[derive(Debug, Default)]
struct Table {
    /// What commits have named, by run: those of a run that is gone are dropped without a look at
    /// the others.
    values: HashMap<RunId, HashMap<TaskId, Local>>,
    /// How many there are.
    count: usize,
    /// Results of attempts by nonce, until their commits are answered. Apart, so that a late
    /// attempt does not take the place of the one that won.
    uncommitted: HashMap<(Key, u64), Place>,
    /// Small committed values, oldest first; some may be gone.
    order: VecDeque<(Key, u64)>,
    small_bytes: usize,
}

/// A result that is here.
#[derive(Debug)]
pub(crate) enum Found {
    Value(Value),
    /// On disk: ask [`Held::get`].
    Spilled(ResultKey),
}

/// The results.
#[derive(Debug)]
pub(crate) struct Values {
    held: Held,
    me: WorkerIndex,
    table: Mutex<Table>,
}

/// A result is larger than the system carries.
#[derive(Debug, thiserror::Error)]
#[error("the result has {0} bytes, more than the {max} allowed; return the path of a file instead", max = limits::RESULT_BYTES_MAX)]
pub(crate) struct ResultTooLarge(u64);

/// Whether a result of this length stays with its worker, unless an effect has made it.
pub(crate) fn is_large(length: usize) -> bool {
    length > limits::INLINE_RESULT_MAX
}

impl Values {
    pub(crate) fn new(held: Held, me: WorkerIndex) -> Self {
        Self { held, me, table: Mutex::default() }
    }

    pub(crate) fn held(&self) -> &Held {
        &self.held
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the result of an attempt, uncommitted. Hashes large ones: call it on the thread that
    /// made them.
    pub(crate) fn keep(
        &self,
        key: Key,
        generation: u8,
        nonce: u64,
        value: Value,
        effect: bool,
    ) -> Result<Kept, ResultTooLarge> {
        let length = value.bytes.len();
        if length as u64 > limits::RESULT_BYTES_MAX {
            return Err(ResultTooLarge(length as u64));
        }
        let stored = u32::try_from(length).ok().filter(|_| {
            length <= limits::INLINE_RESULT_MAX || effect && length <= EFFECT_STORED_MAX
        });
        if let Some(locator) = Locator::embed(&value.bytes) {
            self.table().uncommitted.insert((key, nonce), Place::Small(value));
            return Ok(Kept { locator, record: Bytes::new() });
        }
        if let Some(length) = stored {
            let record = value.bytes.clone();
            self.table().uncommitted.insert((key, nonce), Place::Small(value));
            return Ok(Kept { locator: Locator::Stored { length }, record });
        }
        let result = ResultKey { run: key.0, task: key.1, generation, nonce };
        let digest = self.held.insert(result, value.bytes, value.typed);
        self.table().uncommitted.insert((key, nonce), Place::Held(result));
        let (length, digest) = (length as u64, digest.to_bytes());
        let record = HeldRecord { length, digest, nonce, copies: Copies::default() };
        let record = Bytes::from(record.to_bytes());
        Ok(Kept { locator: Locator::held(self.me, length), record })
    }

    /// Keeps a copy of a committed result that was read from the store or fetched from a peer.
    pub(crate) fn keep_copy(&self, result: ResultKey, value: Value) {
        let key = (result.run, result.task);
        let place = if value.bytes.len() <= limits::INLINE_RESULT_MAX {
            Place::Small(value)
        } else {
            self.held.insert(result, value.bytes, value.typed);
            Place::Held(result)
        };
        self.put(key, Local { nonce: result.nonce, place });
    }

    /// Keeps a committed result, in place of what there was.
    fn put(&self, key: Key, local: Local) {
        let mut table = self.table();
        if let Place::Small(value) = &local.place {
            table.small_bytes += value.bytes.len() + SMALL_OVERHEAD;
            table.order.push_back((key, local.nonce));
        }
        let held = |local: &Local| match &local.place {
            Place::Held(result) => Some(*result),
            Place::Small(_) => None,
        };
        let now = held(&local);
        let before = table.values.entry(key.0).or_default().insert(key.1, local);
        table.count += usize::from(before.is_none());
        table.forget_bytes(before.as_ref());
        if let Some(result) = before.as_ref().and_then(held).filter(|before| Some(*before) != now) {
            self.held.drop_key(&result);
        }
        while table.small_bytes > SMALL_BYTES_MAX || table.order.len() > 2 * table.count + 64 {
            let Some((oldest, nonce)) = table.order.pop_front() else { break };
            let found = table.get(&oldest).filter(|local| local.nonce == nonce);
            let small = found.is_some_and(|local| matches!(local.place, Place::Small(_)));
            if small && table.small_bytes > SMALL_BYTES_MAX {
                table.remove(oldest);
            } else if small {
                table.order.push_back((oldest, nonce));
                break;
            }
        }
    }

    /// A commit has named the result.
    pub(crate) fn confirm(&self, key: Key, nonce: u64) {
        let Some(place) = self.table().uncommitted.remove(&(key, nonce)) else { return };
        if let Place::Held(result) = place {
            self.held.confirm(&result);
        }
        self.put(key, Local { nonce, place });
    }

    /// Drops the result of an attempt that lost.
    pub(crate) fn discard(&self, key: Key, nonce: u64) {
        if let Some(Place::Held(result)) = self.table().uncommitted.remove(&(key, nonce)) {
            self.held.drop_key(&result);
        }
    }

    /// Drops a result that nobody needs.
    pub(crate) fn forget(&self, key: Key) {
        self.drop_in(&mut self.table(), key);
    }

    /// A commit that had named the result was undone: it waits for another one. False when it is not
    /// here.
    pub(crate) fn take_back(&self, key: Key, nonce: u64) -> bool {
        let mut table = self.table();
        if table.get(&key).is_none_or(|local| local.nonce != nonce) {
            return false;
        }
        let Some(local) = table.remove(key) else { return false };
        table.uncommitted.insert((key, nonce), local.place);
        true
    }

    /// All committed results, by task.
    pub(crate) fn all(&self) -> Vec<Key> {
        let table = self.table();
        let of_run = |(run, of_run): (&RunId, &HashMap<TaskId, Local>)| -> Vec<Key> {
            of_run.keys().map(|task| (*run, *task)).collect()
        };
        table.values.iter().flat_map(of_run).collect()
    }

    /// Drops everything of a run.
    pub(crate) fn drop_run(&self, run: RunId) {
        let mut table = self.table();
        let of_run = table.take_run(run);
        table.uncommitted.retain(|(key, _), _| key.0 != run);
        drop(table);
        drop(of_run);
        self.held.drop_run(run);
    }

    /// Drops small values of all runs but these, sorted ones: the others are gone. Large ones are
    /// dropped one by one, after asking the store.
    pub(crate) fn retain_small(&self, runs: &[RunId]) {
        let known: Vec<RunId> = self.table().values.keys().copied().collect();
        for run in known.into_iter().filter(|run| runs.binary_search(run).is_err()) {
            let of_run = self.table().take_run(run);
            // There may be very many of them: nobody waits meanwhile.
            let held =
                of_run.into_iter().filter(|(_, local)| matches!(local.place, Place::Held(_)));
            let held: Vec<(TaskId, Local)> = held.collect();
            let mut table = self.table();
            for (task, local) in held {
                table.restore((run, task), local);
            }
        }
    }

    fn drop_in(&self, table: &mut Table, key: Key) {
        if let Some(Place::Held(result)) = table.get(&key).map(|local| &local.place) {
            self.held.drop_key(result);
        }
        table.remove(key);
    }

    /// The committed result of a task, when it is here; or the one of the uncommitted attempt that
    /// a task continues.
    pub(crate) fn find(&self, key: Key, continuing: Option<u64>) -> Option<Found> {
        let table = self.table();
        let uncommitted = continuing.and_then(|nonce| table.uncommitted.get(&(key, nonce)));
        let place = uncommitted.or_else(|| table.get(&key).map(|local| &local.place))?;
        match place {
            Place::Small(value) => Some(Found::Value(value.clone())),
            Place::Held(result) => match self.held.get_resident(result) {
                Some(held) => Some(Found::Value(Value { bytes: held.bytes, typed: held.typed })),
                None => Some(Found::Spilled(*result)),
            },
        }
    }

    /// Whose results these are.
    pub(crate) fn me(&self) -> WorkerIndex {
        self.me
    }

    /// Results that peers handed over: no commit of this worker's has named them.
    pub(crate) fn taken_over(&self) -> Vec<ResultKey> {
        let mut keys = self.held.confirmed_keys();
        let table = self.table();
        keys.retain(|key| {
            let local = table.get(&(key.run, key.task)).map(|local| &local.place);
            !matches!(local, Some(Place::Held(own)) if own == key)
        });
        keys
    }

    /// The attempt that made the committed result of a task, when it is here; zero when it was read
    /// from the store.
    pub(crate) fn nonce_of(&self, key: Key) -> Option<u64> {
        self.table().get(&key).map(|local| local.nonce)
    }

    /// Whether the result that is here is a small one with these bytes.
    pub(crate) fn is_small(&self, key: Key, bytes: &[u8]) -> bool {
        let table = self.table();
        let place = table.get(&key).map(|local| &local.place);
        matches!(place, Some(Place::Small(value)) if value.bytes == bytes)
    }

    /// Committed results by task, ascending, to be compared with the store.
    pub(crate) fn committed(&self) -> Vec<Key> {
        let table = self.table();
        let all = table.values.iter();
        let all =
            all.flat_map(|(run, of_run)| of_run.iter().map(|(task, local)| (*run, *task, local)));
        let held = all.filter(|(.., local)| matches!(local.place, Place::Held(_)));
        let mut held: Vec<Key> = held.map(|(run, task, _)| (run, task)).collect();
        held.sort_unstable();
        held
    }
}

impl Table {
    fn get(&self, key: &Key) -> Option<&Local> {
        self.values.get(&key.0)?.get(&key.1)
    }

    fn remove(&mut self, key: Key) -> Option<Local> {
        let of_run = self.values.get_mut(&key.0)?;
        let before = of_run.remove(&key.1);
        if of_run.is_empty() {
            self.values.remove(&key.0);
        }
        self.count -= usize::from(before.is_some());
        self.forget_bytes(before.as_ref());
        before
    }

    /// Takes out what is known of a run.
    fn take_run(&mut self, run: RunId) -> HashMap<TaskId, Local> {
        let of_run = self.values.remove(&run).unwrap_or_default();
        self.count -= of_run.len();
        for local in of_run.values() {
            self.forget_bytes(Some(local));
        }
        of_run
    }

    /// Puts a held result back, unless there is another by now.
    fn restore(&mut self, key: Key, local: Local) {
        if let Entry::Vacant(vacant) = self.values.entry(key.0).or_default().entry(key.1) {
            vacant.insert(local);
            self.count += 1;
        }
    }

    fn forget_bytes(&mut self, local: Option<&Local>) {
        if let Some(Local { place: Place::Small(value), .. }) = local {
            let bytes = value.bytes.len() + SMALL_OVERHEAD;
            self.small_bytes = self.small_bytes.saturating_sub(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use bolthole_broker::id::Incarnation;

    use super::*;
    use crate::hold::HoldOptions;

    #[tokio::test]
    async fn small_values_of_runs_that_are_gone_are_dropped() {
        let incarnation = Incarnation::new(7);
        let options = HoldOptions { memory_bytes: 1 << 30, spill_dir: None, incarnation };
        let values = Values::new(Held::open(options).await.unwrap(), WorkerIndex::new(1));
        let keep = |run: RunId, index: u16, bytes: usize| {
            let result = ResultKey { run, task: TaskId::new(0, index), generation: 0, nonce: 5 };
            let bytes = Bytes::from(vec![7; bytes]);
            values.keep_copy(result, Value { bytes, typed: None });
        };
        let (gone, stays) = (RunId::new(1, 1), RunId::new(1, 2));
        for index in 0..100 {
            keep(gone, index, 10);
            keep(stays, index, 10);
        }
        keep(gone, 200, 10_000);
        values.retain_small(&[stays]);
        let is_here = |run, index| values.find((run, TaskId::new(0, index)), None).is_some();
        assert!((0..100).all(|index| is_here(stays, index) && !is_here(gone, index)));
        assert!(is_here(gone, 200), "whether a large one is needed the store is asked");
        assert_eq!(values.table().count, 101);
        assert_eq!(values.table().small_bytes, 100 * (10 + SMALL_OVERHEAD));
        values.drop_run(gone);
        assert_eq!((values.table().count, values.held().stats().count), (100, 0));
    }
}
