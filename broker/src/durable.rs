//! Results that outlive their holders: where the record of a result names copies, they are read
//! from here. A copy is checked against what was committed, wherever it comes from.
//!
//! - a second worker: made for outputs as soon as they are committed
//! - the result folder, [`Folder`]: a disk that clients and workers share
//! - the store, in pieces: a few, for want of anything else

mod folder;

use bytes::Bytes;

pub use folder::{Folder, FolderError};

use crate::handoff::{Digest, Fetcher, Peer, Want};
use crate::id::ResultKey;
use crate::locator::HeldRecord;
use crate::store::{Error, Store};

/// Reads copies.
#[derive(Debug, Clone)]
pub struct Durable {
    /// Where the second holder's address is, and some of the copies.
    pub store: Store,
    /// How the second holder is asked.
    pub fetcher: Fetcher,
    /// The result folder, where there is one.
    pub folder: Option<Folder>,
}

impl Durable {
    /// The copy of a result that its holder does not have any more; `None` when no copy can be had.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn read(&self, key: ResultKey, record: &HeldRecord) -> Result<Option<Bytes>, Error> {
        if let Some(bytes) = self.at_second_holder(key, record).await? {
            return Ok(Some(bytes));
        }
        if let Some(folder) = self.folder.as_ref().filter(|_| record.copies.folder) {
            match folder.read(key, record).await {
                Ok(bytes) => return Ok(Some(bytes)),
                Err(error) => tracing::warn!(?key, %error, "a copy is not to be had"),
            }
        }
        if !record.copies.store {
            return Ok(None);
        }
        let bytes = self.store.blob(key.run, record.blob()).await?;
        Ok(bytes.filter(|bytes| is_whole(bytes, record)))
    }

    async fn at_second_holder(
        &self,
        key: ResultKey,
        record: &HeldRecord,
    ) -> Result<Option<Bytes>, Error> {
        let Some(worker) = record.copies.worker else { return Ok(None) };
        let Some(found) = self.store.worker(worker).await? else { return Ok(None) };
        let peer = Peer { addr: found.address, incarnation: found.incarnation };
        let (length, digest) = (record.length, Digest::from_bytes(record.digest));
        let fetched = self.fetcher.fetch(&peer, vec![Want { key, length, digest }]).await;
        let fetched = fetched.into_iter().next().and_then(|fetched| {
            fetched.inspect_err(|error| tracing::debug!(%worker, %error, "no copy there")).ok()
        });
        Ok(fetched)
    }
}

/// Whether these are the bytes that were committed.
fn is_whole(bytes: &[u8], record: &HeldRecord) -> bool {
    bytes.len() as u64 == record.length && Digest::of(bytes).to_bytes() == record.digest
}
