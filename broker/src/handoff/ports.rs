//! Data ports in memory, for simulations: what a worker serves, found by its address, without
//! sockets. The bytes and the rules are those of the network; frames and deadlines are not.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::time::sleep;

use super::Digest;
use super::fetch::{FetchError, Peer, Pushed, Want};
use crate::id::{Incarnation, ResultKey};
use crate::limits::HANDOFF_STALL;

/// An answer on its way.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What a worker serves.
pub trait Port: Send + Sync {
    /// A committed result, as [`Want`] names it.
    fn serve(&self, key: ResultKey) -> Answer<'_, Option<Bytes>>;
    /// Takes over a committed result.
    fn take(&self, key: ResultKey, digest: Digest, bytes: Bytes) -> Pushed;
    /// Drops results whose consumers are gone.
    fn forget(&self, keys: &[ResultKey]);
    /// Whether its process lives: else connections are refused.
    fn is_alive(&self) -> bool;
    /// Whether it answers: else those who ask wait in vain.
    fn is_running(&self) -> bool;
}

type Open = BTreeMap<String, (Incarnation, Arc<dyn Port>)>;

/// The data ports of a simulation, by address. Clones share them.
#[derive(Clone, Default)]
pub struct Ports {
    open: Arc<Mutex<Open>>,
}

impl fmt::Debug for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.lock().keys()).finish()
    }
}

impl Ports {
    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a port at `address`, in the place of one whose process has ended.
    pub fn open(&self, address: &str, incarnation: Incarnation, port: Arc<dyn Port>) {
        self.lock().insert(address.to_owned(), (incarnation, port));
    }

    /// Closes the port of a worker that leaves in order.
    pub fn close(&self, address: &str) {
        self.lock().remove(address);
    }

    /// The port of a peer, once it answers.
    async fn dial(&self, peer: &Peer) -> Result<Arc<dyn Port>, FetchError> {
        let addr = peer.addr.clone();
        let found = self.lock().get(&addr).cloned().filter(|(_, port)| port.is_alive());
        let Some((incarnation, port)) = found else { return Err(FetchError::Refused { addr }) };
        if !port.is_running() {
            sleep(HANDOFF_STALL).await;
            if !port.is_running() {
                let cause = "no answer in time".to_owned();
                return Err(FetchError::Unreachable { addr, cause });
            }
        }
        if incarnation != peer.incarnation {
            return Err(FetchError::WrongIncarnation { addr });
        }
        Ok(port)
    }

    /// As [`super::Fetcher::fetch`].
    pub(super) async fn fetch(
        &self,
        peer: &Peer,
        wants: Vec<Want>,
    ) -> Vec<Result<Bytes, FetchError>> {
        let port = match self.dial(peer).await {
            Ok(port) => port,
            Err(error) => return vec![Err(error); wants.len()],
        };
        let mut results = Vec::with_capacity(wants.len());
        for want in wants {
            results.push(match port.serve(want.key).await {
                _ if !port.is_alive() => Err(FetchError::closed(&peer.addr)),
                None => Err(FetchError::NotHeld),
                Some(bytes) if Digest::of(&bytes) != want.digest => Err(FetchError::Corrupt),
                Some(bytes) => Ok(bytes),
            });
        }
        results
    }

    /// As [`super::Fetcher::probe`].
    pub(super) async fn probe(&self, peer: &Peer) -> Result<(), FetchError> {
        self.dial(peer).await.map(|_| ())
    }

    /// As [`super::Fetcher::push`].
    pub(super) async fn push(
        &self,
        peer: &Peer,
        key: ResultKey,
        digest: Digest,
        bytes: Bytes,
    ) -> Result<Pushed, FetchError> {
        Ok(self.dial(peer).await?.take(key, digest, bytes))
    }

    /// As [`super::Fetcher::forget`].
    pub(super) async fn forget(&self, peer: &Peer, keys: &[ResultKey]) -> Result<(), FetchError> {
        self.dial(peer).await?.forget(keys);
        Ok(())
    }
}
