//! The worker of this process, in embedded mode: its results are here already.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use bolthole_broker::id::ResultKey;
use bytes::Bytes;

/// Looks a result up in this process.
type Lookup =
    dyn Fn(ResultKey) -> Pin<Box<dyn Future<Output = Option<Bytes>> + Send>> + Send + Sync;

/// What the worker of this process holds. Dropping it stops that worker.
pub(crate) struct Local {
    lookup: Box<Lookup>,
}

impl Local {
    /// `lookup` owns the worker.
    #[cfg_attr(not(feature = "embedded"), expect(dead_code, reason = "no worker can be here"))]
    pub(crate) fn new<F, R>(lookup: F) -> Self
    where
        F: Fn(ResultKey) -> R + Send + Sync + 'static,
        R: Future<Output = Option<Bytes>> + Send + 'static,
    {
        Self { lookup: Box::new(move |key| Box::pin(lookup(key))) }
    }

    /// The encoded result, if it is here.
    pub(crate) async fn get(&self, key: ResultKey) -> Option<Bytes> {
        (self.lookup)(key).await
    }
}

impl fmt::Debug for Local {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Local")
    }
}
