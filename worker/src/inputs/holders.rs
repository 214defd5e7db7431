//! Who holds results, as far as the store can be believed: after it was away for longer than the
//! records of workers stand, the living need a moment to say again that they live.

use std::sync::Arc;
use std::time::Duration;

use bolthole_broker::id::WorkerIndex;
use bolthole_broker::store::{Error, Store, WorkerRecord};

use crate::takeover::Contact;

/// Looks up the records of workers.
#[derive(Debug, Clone)]
pub(crate) struct Holders {
    pub(crate) store: Store,
    pub(crate) contact: Arc<Contact>,
    /// How long a record stands without being renewed.
    pub(crate) lease: Duration,
}

impl Holders {
    /// The record of a worker; `None` when it is no more, and what it held with it.
    ///
    /// # Errors
    /// Those of the store, and a retryable one when a record is missing that may come back.
    pub(crate) async fn find(&self, worker: WorkerIndex) -> Result<Option<WorkerRecord>, Error> {
        let record = self.store.worker(worker).await?;
        if record.is_none() && self.contact.was_lost_within(self.lease) {
            let reason = "its record is missing, and the store was away".to_owned();
            return Err(Error::Unreachable { address: format!("worker {worker}"), reason });
        }
        Ok(record)
    }
}

#[cfg(test)]
mod tests {
    use bolthole_broker::store::Memory;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn nobody_is_missed_shortly_after_the_store_was_away() {
        let contact = Arc::new(Contact::new());
        let lease = Duration::from_secs(10);
        let holders =
            Holders { store: Store::Memory(Memory::new()), contact: Arc::clone(&contact), lease };
        let worker = WorkerIndex::new(7);
        assert!(holders.find(worker).await.unwrap().is_none(), "it was never away");
        contact.lost();
        let missing = holders.find(worker).await;
        assert!(missing.is_err_and(|error| error.is_retryable()));
        tokio::time::advance(lease).await;
        assert!(holders.find(worker).await.unwrap().is_none());
    }
}
