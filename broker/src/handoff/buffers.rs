//! Memory of large results that are gone, kept a little while for those that come.
//!
//! A system hands out memory page by page, each of them zeroed when it is first touched, which takes
//! longer than to receive the bytes that go there; and allocators give blocks of this size back at
//! once. So the buffers of received, copied and read results return here when their last [`Bytes`]
//! is gone, and the next result of about that length goes into memory that is there already.
//!
//! One shelf for the process, because whoever drops the last [`Bytes`] knows of nothing else. It
//! keeps only what a [`Keeper`] allows, and nothing without one: a client has no workers' traffic.

use std::collections::{BTreeMap, TryReserveError};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::limits::{BUFFERS_KEPT_MAX, BUFFERS_KEPT_PART};

/// Blocks below this come from memory that an allocator keeps anyway.
const KEPT_BYTES_MIN: usize = 128 << 10;
/// A buffer goes to a result that leaves at most this part of it unused: what is accounted to a
/// result is its length.
const SLACK_PART: usize = 16;

static SHELF: Shelf = Shelf::new();

/// An empty buffer with room for `length` bytes, whose last owner may have been another result.
///
/// # Errors
/// When the system has no memory for it.
pub fn take(length: usize) -> Result<Vec<u8>, TryReserveError> {
    SHELF.take(length)
}

/// The bytes of a buffer that was taken here; it returns when the last of them is gone.
pub fn freeze(buffer: Vec<u8>) -> Bytes {
    SHELF.freeze(buffer)
}

/// Gives back to the system what nobody has taken since the last call.
pub fn sweep() {
    SHELF.sweep();
}

/// Gives all of it back: the memory is needed for something else.
pub fn clear() {
    SHELF.clear();
}

/// Allows this process to keep buffers, until it is dropped.
#[derive(Debug)]
pub struct Keeper {
    limit: usize,
    shelf: &'static Shelf,
}

impl Keeper {
    /// For a worker whose results may take so much memory.
    pub fn new(memory_bytes: u64) -> Self {
        Self::of(&SHELF, memory_bytes)
    }

    fn of(shelf: &'static Shelf, memory_bytes: u64) -> Self {
        let share = usize::try_from(memory_bytes / BUFFERS_KEPT_PART).unwrap_or(usize::MAX);
        let limit = share.min(BUFFERS_KEPT_MAX);
        shelf.state().limit += limit;
        Self { limit, shelf }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.shelf.state().limit -= self.limit;
        // Others that keep some fill it again.
        self.shelf.clear();
    }
}

/// A buffer in use.
struct Lent {
    buffer: Vec<u8>,
    shelf: &'static Shelf,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.shelf.give(std::mem::take(&mut self.buffer));
    }
}

#[derive(Debug)]
struct Shelf(Mutex<State>);

#[derive(Debug)]
struct State {
    /// Empty buffers by capacity and number: of those of one size the last that came is taken, so
    /// that what is too much grows old.
    buffers: BTreeMap<(usize, u64), Vec<u8>>,
    bytes: usize,
    limit: usize,
    next: u64,
    /// Lower numbers came before the last sweep.
    swept: u64,
}

impl Shelf {
    const fn new() -> Self {
        let buffers = BTreeMap::new();
        Self(Mutex::new(State { buffers, bytes: 0, limit: 0, next: 0, swept: 0 }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics under this lock half way through a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, length: usize) -> Result<Vec<u8>, TryReserveError> {
        if let Some(buffer) = self.state().take(length) {
            return Ok(buffer);
        }
        let mut buffer = Vec::new();
        buffer.try_reserve_exact(length)?;
        Ok(buffer)
    }

    fn freeze(&'static self, buffer: Vec<u8>) -> Bytes {
        if buffer.capacity() < KEPT_BYTES_MIN || self.state().limit == 0 {
            // It need not come back, so whoever is its only owner may have it without a copy.
            return Bytes::from(buffer);
        }
        Bytes::from_owner(Lent { buffer, shelf: self })
    }

    fn give(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        // The lock is free again when what is not kept goes: the system takes its time.
        let surplus = self.state().give(buffer);
        drop(surplus);
    }

    fn sweep(&self) {
        let before = {
            let mut state = self.state();
            let next = state.next;
            std::mem::replace(&mut state.swept, next)
        };
        self.drop_before(before);
    }

    fn clear(&self) {
        self.drop_before(u64::MAX);
    }

    /// Drops the buffers with lower numbers.
    fn drop_before(&self, number: u64) {
        let mut old = Vec::new();
        let mut state = self.state();
        state.buffers.retain(|(_, own), buffer| {
            let stays = *own >= number;
            if !stays {
                old.push(std::mem::take(buffer));
            }
            stays
        });
        state.bytes -= old.iter().map(Vec::capacity).sum::<usize>();
        // As in `give`.
        drop(state);
        drop(old);
    }
}

impl State {
    fn take(&mut self, length: usize) -> Option<Vec<u8>> {
        if length < KEPT_BYTES_MIN {
            return None;
        }
        let most = length.saturating_add(length / SLACK_PART);
        let (&(capacity, _), _) = self.buffers.range((length, 0)..=(most, u64::MAX)).next()?;
        let (&key, _) = self.buffers.range((capacity, 0)..=(capacity, u64::MAX)).next_back()?;
        let buffer = self.buffers.remove(&key)?;
        self.bytes -= capacity;
        Some(buffer)
    }

    /// Keeps an empty buffer, or hands it back when there is no room.
    fn give(&mut self, buffer: Vec<u8>) -> Option<Vec<u8>> {
        let capacity = buffer.capacity();
        if capacity < KEPT_BYTES_MIN || capacity > self.limit.saturating_sub(self.bytes) {
            return Some(buffer);
        }
        self.bytes += capacity;
        self.buffers.insert((capacity, self.next), buffer);
        self.next += 1;
        None
    }
}

#[cfg(test)]
mod tests;
