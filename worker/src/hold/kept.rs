//! Memory of results that are gone: a small part of what a worker has is kept for those that come.
//! What is kept and not used goes back to the system after some seconds.

use bolthole_broker::handoff::buffers::{self, Keeper};
use bolthole_broker::limits::BUFFERS_SWEEP;
use tokio::task::AbortHandle;
use tokio::time::sleep;

/// While it lives, buffers are kept.
#[derive(Debug)]
pub(super) struct Kept {
    _keeper: Keeper,
    sweeping: AbortHandle,
}

impl Kept {
    /// For results that may take so much memory.
    pub(super) fn new(memory_bytes: u64) -> Self {
        let sweep = async {
            loop {
                sleep(BUFFERS_SWEEP).await;
                buffers::sweep();
            }
        };
        let sweeping = tokio::spawn(sweep).abort_handle();
        Self { _keeper: Keeper::new(memory_bytes), sweeping }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.sweeping.abort();
    }
}
