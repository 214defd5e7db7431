//! Results that this worker holds: in memory, and on disk when memory fills.
//!
//! - `kept`: memory of results that are gone, kept for those that come
//! - `room`: waiting for memory
//! - `shortage`: what the system refuses for the moment
//! - `table`: what is held and how much memory it takes; pure
//! - `spill`: the files; blocking, so only ever called on threads for that
//!
//! A result is *unconfirmed* from its insertion until the commit that named it has succeeded. Only
//! confirmed ones are served to peers: an attempt that lost the race for its task must not be seen.

#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzz;
mod kept;
mod room;
mod shortage;
mod spill;
mod table;

use std::any::Any;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bolthole_broker::handoff::{Digest, buffers, is_shortage};
use bolthole_broker::id::{Incarnation, ResultKey, RunId, TaskId};
use bolthole_broker::limits::{
    HANDOFF_CONFIRM_WAIT, MEMORY_CRITICAL_PERCENT, MEMORY_FILLING_PERCENT, MEMORY_HIGH_PERCENT,
    MEMORY_SPILL_PERCENT, RESULT_BYTES_MAX, SPILL_GRACE, SPILL_PAUSE, SPILL_READS_MAX,
};
use bytes::Bytes;
use tokio::sync::{Notify, watch};
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::{sleep, timeout};

use self::kept::Kept;
use self::shortage::Shortages;
use self::spill::{ReadError, SpillFolder};
use self::table::{Found, Table};

/// A result as a typed value, for consumers in the same process: no copy and no decoding.
pub type Typed = Arc<dyn Any + Send + Sync>;

/// How results are held.
#[derive(Debug, Clone)]
pub struct HoldOptions {
    /// The memory that the thresholds of [`Pressure`] are shares of, in bytes. See
    /// [`crate::memory::limit_bytes`].
    pub memory_bytes: u64,
    /// Where to spill: a folder of this incarnation is made in it. `None` keeps all in memory.
    pub spill_dir: Option<PathBuf>,
    /// Whose results they are.
    pub incarnation: Incarnation,
}

/// How full the memory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pressure {
    /// Plenty is left.
    Normal,
    /// What is begun should be finished before more is begun.
    Filling,
    /// The least recently used results go to disk.
    Spill,
    /// No new sources should be started.
    High,
    /// One task at a time, the one that frees most.
    Critical,
}

impl Pressure {
    fn of(used: u64, memory: u64) -> Self {
        // A machine's memory times a hundred is far below 2^64.
        let percent = used.saturating_mul(100) / memory.max(1);
        match percent {
            MEMORY_CRITICAL_PERCENT.. => Self::Critical,
            MEMORY_HIGH_PERCENT.. => Self::High,
            MEMORY_SPILL_PERCENT.. => Self::Spill,
            MEMORY_FILLING_PERCENT.. => Self::Filling,
            _ => Self::Normal,
        }
    }
}

/// A held result.
#[derive(Clone)]
pub struct HeldValue {
    /// The encoded value.
    pub bytes: Bytes,
    /// The digest of the bytes.
    pub digest: Digest,
    /// The value itself, unless it came from a peer or from disk.
    pub typed: Option<Typed>,
}

/// Figures about what is held, at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HeldStats {
    /// Results held, in memory or on disk.
    pub count: u64,
    /// Bytes of memory accounted to results and to those being received.
    pub memory_bytes: u64,
    /// Bytes of results on disk only.
    pub spilled_bytes: u64,
    /// The most bytes that results have taken so far, in memory and on disk.
    pub peak_bytes: u64,
    /// Results written to disk so far.
    pub spills: u64,
    /// Writes that the disk refused so far. The results stayed in memory.
    pub spill_errors: u64,
    /// Results that could not be read back so far, which are lost.
    pub spill_losses: u64,
}

/// What this worker holds. Clones share it.
#[derive(Clone)]
pub struct Held {
    inner: Arc<Inner>,
}

struct Inner {
    table: Mutex<Table>,
    memory_bytes: u64,
    folder: Option<Arc<SpillFolder>>,
    pressure: watch::Sender<Pressure>,
    /// Something was confirmed or dropped.
    changed: Notify,
    /// The spill task has something to do. It keeps this alone, so that it ends with the rest.
    work: Arc<Notify>,
    spills: AtomicU64,
    spill_errors: AtomicU64,
    spill_losses: AtomicU64,
    shortages: Shortages,
    _kept: Kept,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.work.notify_one();
    }
}

impl Held {
    /// Makes the store, and its spill folder; removes those that dead workers left behind.
    ///
    /// # Errors
    /// When the spill folder cannot be made.
    pub async fn open(options: HoldOptions) -> io::Result<Self> {
        let HoldOptions { memory_bytes, spill_dir, incarnation } = options;
        let folder = match spill_dir {
            None => None,
            Some(dir) => {
                let open = move || SpillFolder::open(&dir, incarnation);
                Some(Arc::new(spawn_blocking(open).await.map_err(io::Error::other)??))
            }
        };
        let work = Arc::new(Notify::new());
        let inner = Arc::new(Inner {
            table: Mutex::default(),
            memory_bytes,
            folder,
            pressure: watch::Sender::new(Pressure::Normal),
            changed: Notify::new(),
            work: Arc::clone(&work),
            spills: AtomicU64::new(0),
            spill_errors: AtomicU64::new(0),
            spill_losses: AtomicU64::new(0),
            shortages: Shortages::default(),
            _kept: Kept::new(memory_bytes),
        });
        tokio::spawn(spill_while_alive(Arc::downgrade(&inner), work));
        Ok(Self { inner })
    }

    /// Holds a result, unconfirmed, and returns its digest. A result that is held already stays.
    /// Hashes the bytes: call it on the thread that made them.
    pub fn insert(&self, key: ResultKey, bytes: Bytes, typed: Option<Typed>) -> Digest {
        let digest = Digest::of(&bytes);
        self.insert_with_digest(key, bytes, digest, typed);
        digest
    }

    /// [`Self::insert`] of bytes whose digest is known.
    pub fn insert_with_digest(
        &self,
        key: ResultKey,
        bytes: Bytes,
        digest: Digest,
        typed: Option<Typed>,
    ) {
        self.change(|table| table.insert(key, bytes, digest, typed));
    }

    /// Notes that a successful commit named the result: peers may have it. `false` when it is not
    /// held.
    pub fn confirm(&self, key: &ResultKey) -> bool {
        self.change(|table| table.confirm(key))
    }

    /// A result, confirmed or not, if it is in memory. Never waits.
    pub fn get_resident(&self, key: &ResultKey) -> Option<HeldValue> {
        match self.inner.table().find(key) {
            Some(Found::Resident(value)) => Some(value),
            _ => None,
        }
    }

    /// As [`Self::get_resident`], of a confirmed result: what may be served at once.
    pub fn serve_resident(&self, key: &ResultKey) -> Option<HeldValue> {
        let mut table = self.inner.table();
        match table.is_confirmed(key)?.then(|| table.find(key))? {
            Some(Found::Resident(value)) => Some(value),
            _ => None,
        }
    }

    /// Whether a confirmed result with this digest is held.
    pub fn is_served(&self, key: &ResultKey, digest: Digest) -> bool {
        self.inner.table().is_served(key, digest)
    }

    /// A result, confirmed or not, read back from disk when it is there. `None` when it is not held
    /// or cannot be read any more: then it is lost, and counted.
    pub async fn get(&self, key: &ResultKey) -> Option<HeldValue> {
        let gate = match self.inner.table().find(key)? {
            Found::Resident(value) => return Some(value),
            Found::Spilled { gate, .. } => gate,
        };
        // One reads, the others find it in memory.
        let _turn = gate.lock().await;
        let (path, length, digest) = match self.inner.table().find(key)? {
            Found::Resident(value) => return Some(value),
            Found::Spilled { path, length, digest, .. } => (path, length, digest),
        };
        match self.read(path, length, digest).await {
            Ok(Ok(bytes)) => {
                self.change(|table| table.restore(key, bytes.clone()));
                Some(HeldValue { bytes, digest, typed: None })
            }
            Ok(Err(error)) => {
                // A disk that failed may work again. A file that is gone since the result was
                // dropped meanwhile is no loss.
                if matches!(error, ReadError::Io(_)) || self.drop_key(key) {
                    tracing::error!(?key, %error, "a spilled result is lost");
                    self.inner.spill_losses.fetch_add(1, Ordering::Relaxed);
                }
                None
            }
            Err(_) => None,
        }
    }

    /// Reads a file. One that the system does not open for the moment is tried again.
    async fn read(
        &self,
        path: PathBuf,
        length: u64,
        digest: Digest,
    ) -> Result<Result<Bytes, ReadError>, JoinError> {
        let mut tries = 0;
        loop {
            let path = path.clone();
            let read = spawn_blocking(move || spill::read(&path, length, digest)).await?;
            tries += 1;
            match &read {
                Err(ReadError::Io(error)) if is_shortage(error) && tries < SPILL_READS_MAX => {
                    self.refused("to read a result from disk", error);
                    sleep(SPILL_PAUSE).await;
                }
                _ => return Ok(read),
            }
        }
    }

    /// A confirmed result, as [`Self::get`]. One that is not confirmed yet is waited for a little:
    /// whoever asks may know of its commit before this worker does.
    pub async fn serve(&self, key: &ResultKey) -> Option<HeldValue> {
        match timeout(HANDOFF_CONFIRM_WAIT, self.confirmed(key)).await {
            Ok(true) => self.get(key).await,
            Ok(false) | Err(_) => None,
        }
    }

    /// Waits until the result is confirmed, or dropped: `false`.
    async fn confirmed(&self, key: &ResultKey) -> bool {
        loop {
            let mut changed = std::pin::pin!(self.inner.changed.notified());
            // Enlisted before looking, so that no change is missed in between.
            changed.as_mut().enable();
            let confirmed = self.inner.table().is_confirmed(key);
            match confirmed {
                None => return false,
                Some(true) => return true,
                Some(false) => changed.await,
            }
        }
    }

    /// Whether this result is here.
    pub(crate) fn holds(&self, key: &ResultKey) -> bool {
        self.inner.table().is_confirmed(key).is_some()
    }

    /// The results that were confirmed since they were last asked for here.
    pub(crate) fn take_confirmed(&self) -> Vec<ResultKey> {
        self.inner.table().take_confirmed()
    }

    /// As [`Self::take_confirmed`], once there is one.
    pub(crate) async fn confirmed_lately(&self) -> Vec<ResultKey> {
        loop {
            let mut changed = std::pin::pin!(self.inner.changed.notified());
            changed.as_mut().enable();
            let confirmed = self.take_confirmed();
            if !confirmed.is_empty() {
                return confirmed;
            }
            changed.await;
        }
    }

    /// Drops a result; `false` when it was not held.
    pub fn drop_key(&self, key: &ResultKey) -> bool {
        self.change(|table| table.remove(key))
    }

    /// Drops the results of all attempts at one generation of a task; returns how many.
    pub fn drop_attempts(&self, run: RunId, task: TaskId, generation: u8) -> usize {
        self.change(|table| table.remove_attempts(run, task, generation))
    }

    /// Drops all results of a run; returns how many.
    pub fn drop_run(&self, run: RunId) -> usize {
        self.change(|table| table.remove_run(run))
    }

    /// Drops the confirmed results that are not to be kept; returns how many. Unconfirmed ones stay:
    /// no locator can name them yet.
    pub fn sweep(&self, keep: impl FnMut(&ResultKey) -> bool) -> usize {
        self.change(|table| table.sweep(keep))
    }

    /// The confirmed results: what a sweep asks the store about, and what a drain moves.
    pub fn confirmed_keys(&self) -> Vec<ResultKey> {
        self.inner.table().confirmed_keys()
    }

    /// Sets memory aside for a result that a peer wants to hand over; `None` when there is too
    /// little.
    pub fn admit(&self, length: u64) -> Option<Admitted> {
        if length > RESULT_BYTES_MAX {
            return None;
        }
        let memory = self.inner.memory_bytes;
        let admitted = self.change(|table| {
            let used = table.wanted_bytes().saturating_add(length);
            let fits = Pressure::of(used, memory) < Pressure::High;
            if fits {
                table.reserve(length);
            }
            fits
        });
        admitted.then(|| Admitted { held: self.clone(), length })
    }

    /// How full the memory is.
    pub fn pressure(&self) -> Pressure {
        *self.inner.pressure.borrow()
    }

    /// How full the memory is, from now on.
    pub fn watch_pressure(&self) -> watch::Receiver<Pressure> {
        self.inner.pressure.subscribe()
    }

    /// Figures for metrics.
    pub fn stats(&self) -> HeldStats {
        let inner = &self.inner;
        let table = inner.table();
        HeldStats {
            count: table.count(),
            memory_bytes: table.memory_bytes(),
            spilled_bytes: table.spilled_bytes(),
            peak_bytes: table.peak_bytes(),
            spills: inner.spills.load(Ordering::Relaxed),
            spill_errors: inner.spill_errors.load(Ordering::Relaxed),
            spill_losses: inner.spill_losses.load(Ordering::Relaxed),
        }
    }

    /// Drops everything and removes the spill folder: the end of an orderly life.
    pub async fn close(&self) {
        self.change(Table::clear);
        if let Some(folder) = self.inner.folder.clone() {
            // What could not be removed is removed by the next worker that starts here.
            let _ = spawn_blocking(move || folder.remove()).await;
        }
    }

    /// Changes the table, then tells all who may wait for what follows from it.
    fn change<T>(&self, change: impl FnOnce(&mut Table) -> T) -> T {
        self.inner.change(change)
    }
}

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.stats().fmt(f)
    }
}

/// Memory set aside by [`Held::admit`], given back on drop.
#[must_use = "dropping it gives the memory back"]
#[derive(Debug)]
pub struct Admitted {
    held: Held,
    length: u64,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.held.change(|table| table.unreserve(self.length));
    }
}

impl Inner {
    fn table(&self) -> MutexGuard<'_, Table> {
        // Nothing panics under this lock half way through a change.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut Table) -> T) -> T {
        let mut table = self.table();
        let outcome = change(&mut table);
        let pressure = Pressure::of(table.wanted_bytes(), self.memory_bytes);
        let work = table.has_doomed() || (pressure >= Pressure::Spill && self.folder.is_some());
        // Under the lock, so that an older reading never replaces a newer one.
        self.pressure.send_if_modified(|known| std::mem::replace(known, pressure) != pressure);
        drop(table);
        self.changed.notify_waiters();
        if work {
            self.work.notify_one();
        }
        outcome
    }

    /// Waits until what is on its way to its last use has made room, but not longer than that may
    /// take, and not when memory goes on filling.
    async fn relieved(&self) {
        let mut pressure = self.pressure.subscribe();
        let changed = pressure.wait_for(|now| *now < Pressure::Spill || *now >= Pressure::High);
        let _ = timeout(SPILL_GRACE, changed).await;
    }

    /// Spills until memory is below the threshold. An error leaves the rest where it is.
    async fn spill(&self, folder: &Arc<SpillFolder>) -> io::Result<()> {
        while self.pressure.borrow().ge(&Pressure::Spill) {
            // What nobody uses goes first.
            buffers::clear();
            let coldest = self.table().coldest();
            let Some((key, unwritten)) = coldest else { return Ok(()) };
            let Some((bytes, digest)) = unwritten else {
                self.change(|table| table.leave_memory(&key));
                continue;
            };
            let folder = Arc::clone(folder);
            let write = move || folder.write(&bytes, digest);
            let path = spawn_blocking(write).await.map_err(io::Error::other)??;
            self.spills.fetch_add(1, Ordering::Relaxed);
            self.change(|table| table.spilled(&key, path));
        }
        Ok(())
    }
}

/// Moves results to disk and deletes files, for as long as the store lives.
async fn spill_while_alive(weak: Weak<Inner>, work: Arc<Notify>) {
    loop {
        work.notified().await;
        let Some(inner) = weak.upgrade() else { return };
        let doomed = inner.table().take_doomed();
        if !doomed.is_empty() {
            let _ = spawn_blocking(move || spill::delete(&doomed)).await;
        }
        let Some(folder) = inner.folder.clone() else { continue };
        inner.relieved().await;
        if let Err(error) = inner.spill(&folder).await {
            inner.spill_errors.fetch_add(1, Ordering::Relaxed);
            Held { inner }.refused("to move a result to disk", &error);
            sleep(SPILL_PAUSE).await;
            work.notify_one();
        }
    }
}

#[cfg(test)]
mod tests;
