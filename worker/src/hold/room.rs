//! Waiting for memory: a result that does not fit waits until others were freed or spilled. When
//! nothing moves for long, it never will.

use std::pin::pin;
use std::time::Duration;

use bolthole_broker::limits;
use tokio::time::{Instant, timeout_at};

use super::Held;

/// There is no memory for a result, and none is being freed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "its result of {bytes} bytes cannot be held: {used} of this worker's {limit} bytes are in use, and \
     nothing was freed for {waited:?}{}; give workers more memory or {}, or let fewer results be \
     needed at once",
    if *spills { ", nor could anything be moved to disk" } else { "" },
    if *spills { "a larger disk" } else { "a folder to spill to" }
)]
pub(crate) struct NoRoom {
    bytes: u64,
    used: u64,
    limit: u64,
    waited: Duration,
    spills: bool,
}

/// Bytes that are waited for, until this is dropped: they count as used, so that others are spilled
/// for them.
struct Waiting {
    held: Held,
    bytes: u64,
}

impl Waiting {
    fn new(held: &Held, bytes: u64) -> Self {
        held.change(|table| table.wait_for(bytes));
        Self { held: held.clone(), bytes }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.held.change(|table| table.wait_no_more(self.bytes));
    }
}

impl Held {
    /// Whether a result of so many bytes fits into memory now. One whose commit may free others, as
    /// it used some, may take a part of the reserve. When there is nothing else in memory, it fits:
    /// it is there already, and nothing is gained by refusing it.
    pub(crate) fn has_room(&self, bytes: u64, frees: bool) -> bool {
        let table = self.inner.table();
        let limit = self.inner.memory_bytes;
        let reserve = if frees { limit / limits::MEMORY_RESERVE_PART } else { 0 };
        table.is_bare() || table.memory_bytes().saturating_add(bytes) <= limit + reserve
    }

    /// Waits until a result of so many bytes fits, for as long as anything else leaves memory; when
    /// nothing does for `patience`, it does not fit.
    pub(crate) async fn room(
        &self,
        bytes: u64,
        frees: bool,
        patience: Duration,
    ) -> Result<(), NoRoom> {
        let _waiting = Waiting::new(self, bytes);
        let mut seen = None;
        let mut since = Instant::now();
        loop {
            let mut changed = pin!(self.inner.changed.notified());
            // Enlisted before looking, so that no change is missed in between.
            changed.as_mut().enable();
            if self.has_room(bytes, frees) {
                return Ok(());
            }
            let left = self.inner.table().left_bytes();
            if seen.replace(left) != Some(left) {
                since = Instant::now();
            }
            if timeout_at(since + patience, changed).await.is_err() {
                return Err(NoRoom {
                    bytes,
                    used: self.inner.table().memory_bytes(),
                    limit: self.inner.memory_bytes,
                    waited: patience,
                    spills: self.inner.folder.is_some(),
                });
            }
        }
    }
}
