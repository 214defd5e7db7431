//! The receive budget: how many bytes of results may be on their way to this process at once.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What one unit of the budget stands for, so that 64 GiB fit the semaphore's numbers.
const UNIT_BYTES: u64 = 4 << 10;

/// A number of bytes, shared by all fetches of a process. Whoever asks first is served first, so a
/// large batch is not starved by small ones. Clones share it.
#[derive(Debug, Clone)]
pub struct Budget {
    units: Arc<Semaphore>,
    capacity: u32,
}

/// Bytes taken from a [`Budget`], given back on drop.
#[derive(Debug)]
#[must_use = "dropping it gives the bytes back"]
pub struct Reserved {
    _permit: Option<OwnedSemaphorePermit>,
}

impl Budget {
    /// A budget of so many bytes, in steps of 4 KiB, at least one.
    pub fn new(bytes: u64) -> Self {
        let capacity = u32::try_from(bytes / UNIT_BYTES).unwrap_or(u32::MAX).max(1);
        // The semaphore's own bound, which 32-bit machines have below `u32::MAX`.
        let capacity = capacity.min(u32::try_from(Semaphore::MAX_PERMITS).unwrap_or(u32::MAX));
        Self { units: Arc::new(Semaphore::new(capacity as usize)), capacity }
    }

    /// The whole budget in bytes.
    pub fn capacity_bytes(&self) -> u64 {
        u64::from(self.capacity) * UNIT_BYTES
    }

    /// What is left of it in bytes.
    pub fn available_bytes(&self) -> u64 {
        self.units.available_permits() as u64 * UNIT_BYTES
    }

    /// Takes `bytes`, all at once, waiting for them in order of arrival. More than the whole
    /// budget is granted when nobody else holds any of it.
    pub async fn reserve(&self, bytes: u64) -> Reserved {
        let units = u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX);
        let units = units.min(self.capacity);
        // The semaphore is never closed, so this is always `Ok`.
        Reserved { _permit: Arc::clone(&self.units).acquire_many_owned(units).await.ok() }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn what_exceeds_the_budget_goes_in_alone() {
        let budget = Budget::new(64 << 10);
        let small = budget.reserve(1).await;
        let mut large = Box::pin(budget.reserve(1 << 40));
        assert!(large.as_mut().now_or_never().is_none(), "another holds bytes");
        drop(small);
        let large = large.await;
        assert_eq!(budget.available_bytes(), 0);
        assert!(budget.reserve(1).now_or_never().is_none());
        drop(large);
        assert_eq!(budget.available_bytes(), budget.capacity_bytes());
    }

    #[tokio::test]
    async fn the_first_to_ask_is_the_first_served() {
        let budget = Budget::new(8 << 10);
        let held = budget.reserve(4 << 10).await;
        let mut large = Box::pin(budget.reserve(8 << 10));
        assert!(large.as_mut().now_or_never().is_none());
        assert!(budget.reserve(1).now_or_never().is_none(), "the small one must not overtake");
        drop(held);
        assert!(large.now_or_never().is_some());
    }
}
