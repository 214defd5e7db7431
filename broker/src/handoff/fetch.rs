//! The fetching half of the data port.

mod error;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures_util::future::join_all;
use tokio::sync::watch;

pub use self::error::{FetchError, is_shortage};
use super::Digest;
use super::auth::{ClusterSecret, HandoffKey, greet};
use super::budget::Budget;
use super::frame::Reason;
use super::link::Link;
use super::ports::Ports;
use super::socket::{self, Socket};
use crate::id::{Incarnation, ResultKey};
use crate::limits::{HANDOFF_KEYS_MAX, RESULT_BYTES_MAX};

/// Whom to fetch from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Peer {
    /// Where its data port listens, as `host:port`.
    pub addr: String,
    /// Which life of the worker is meant. Another one that answers there does not hold the data.
    pub incarnation: Incarnation,
}

/// A result to fetch, as the store describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Want {
    /// Which result.
    pub key: ResultKey,
    /// Its length in bytes; the buffer for it is allocated from this number, not the peer's.
    pub length: u64,
    /// What its bytes are checked against.
    pub digest: Digest,
}

/// What became of a result that was offered to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// The peer holds it and serves it.
    Stored,
    /// The peer will not have it.
    Refused(Reason),
}

/// Fetches results from peers, over one connection to each, made when first needed and closed when
/// idle. Clones share everything.
#[derive(Debug, Clone)]
pub struct Fetcher {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    key: HandoffKey,
    budget: Budget,
    /// Connections by peer, numbered so that the end of an old one does not remove its successor.
    links: Mutex<HashMap<Peer, (u64, watch::Receiver<State>)>>,
    dialled: AtomicU64,
    /// Where peers are found in a simulation, in place of the network.
    ports: Option<Ports>,
}

/// Where a connection to a peer stands. A failure is told to those who waited for it, then
/// forgotten: the next caller dials again.
#[derive(Debug, Clone)]
enum State {
    Dialling,
    Open(Arc<Link>),
    Failed(FetchError),
}

impl Fetcher {
    /// A fetcher that proves `secret` to its peers. `None` suits peers on the loopback interface.
    pub fn new(secret: Option<&ClusterSecret>, budget: Budget) -> Self {
        Self::with(HandoffKey::new(secret), budget, None)
    }

    /// A fetcher in a simulation: peers are found among `ports`, and nothing is sent.
    pub fn simulated(ports: Ports) -> Self {
        Self::with(HandoffKey::new(None), Budget::new(0), Some(ports))
    }

    fn with(key: HandoffKey, budget: Budget, ports: Option<Ports>) -> Self {
        let dialled = AtomicU64::new(0);
        Self { inner: Arc::new(Inner { key, budget, links: Mutex::default(), dialled, ports }) }
    }

    /// The receive budget.
    pub fn budget(&self) -> &Budget {
        &self.inner.budget
    }

    /// Fetches results from one peer; the answers are in the order of `wants`. What failed is told
    /// for each result. Needs a tokio runtime. Dropping the future stops the transfers.
    ///
    /// The bytes are taken from the budget before they are asked for, those of one call together
    /// as far as the budget goes.
    pub async fn fetch(&self, peer: &Peer, wants: Vec<Want>) -> Vec<Result<Bytes, FetchError>> {
        if let Some(ports) = &self.inner.ports {
            return ports.fetch(peer, wants).await;
        }
        let count = wants.len();
        let mut results: Vec<Option<Result<Bytes, FetchError>>> = vec![None; count];
        let mut open = Vec::with_capacity(count);
        for (index, want) in wants.into_iter().enumerate() {
            if want.length > RESULT_BYTES_MAX {
                results[index] = Some(Err(FetchError::TooLarge { length: want.length }));
            } else {
                open.push((index, want));
            }
        }
        let batches = batches(open, self.inner.budget.capacity_bytes());
        let batches = batches.into_iter().map(|batch| self.fetch_batch(peer, batch));
        for (index, result) in join_all(batches).await.into_iter().flatten() {
            results[index] = Some(result);
        }
        let missing = || Err(FetchError::closed(&peer.addr));
        results.into_iter().map(|result| result.unwrap_or_else(missing)).collect()
    }

    async fn fetch_batch(
        &self,
        peer: &Peer,
        batch: Vec<(usize, Want)>,
    ) -> Vec<(usize, Result<Bytes, FetchError>)> {
        let (places, wants): (Vec<usize>, Vec<Want>) = batch.into_iter().unzip();
        let bytes = wants.iter().fold(0_u64, |sum, want| sum.saturating_add(want.length));
        let results = match self.link(peer).await {
            Err(error) => vec![Err(error); wants.len()],
            Ok((link, fresh)) => {
                let _reserved = self.inner.budget.reserve(bytes).await;
                let mut results = link.get(wants.clone()).await;
                // A connection found open may have been closed by the peer while it was idle.
                if !fresh && !link.is_open() {
                    self.fetch_rest(peer, wants, &mut results).await;
                }
                results
            }
        };
        places.into_iter().zip(results).collect()
    }

    /// Asks once more, over a new connection, for what an old one did not deliver.
    async fn fetch_rest(
        &self,
        peer: &Peer,
        wants: Vec<Want>,
        results: &mut [Result<Bytes, FetchError>],
    ) {
        let unreached =
            |result: &Result<Bytes, _>| matches!(result, Err(FetchError::Unreachable { .. }));
        let (places, wants): (Vec<usize>, Vec<Want>) =
            wants.into_iter().enumerate().filter(|(place, _)| unreached(&results[*place])).unzip();
        if wants.is_empty() {
            return;
        }
        let again = match self.link(peer).await {
            Ok((link, _)) => link.get(wants).await,
            Err(error) => vec![Err(error); wants.len()],
        };
        for (place, result) in places.into_iter().zip(again) {
            results[place] = result;
        }
    }

    /// Whether the peer lives: [`FetchError::is_lost`] says that it surely does not.
    ///
    /// # Errors
    /// [`FetchError`].
    pub async fn probe(&self, peer: &Peer) -> Result<(), FetchError> {
        if let Some(ports) = &self.inner.ports {
            return ports.probe(peer).await;
        }
        let (link, fresh) = self.link(peer).await?;
        match link.ping().await {
            Err(FetchError::Unreachable { .. }) if !fresh => self.link(peer).await?.0.ping().await,
            outcome => outcome,
        }
    }

    /// Tells the peer that results have no consumers left: those of all attempts at the generations
    /// that the keys name. A hint: nothing depends on it.
    ///
    /// # Errors
    /// [`FetchError`] when it could not be sent.
    pub async fn forget(&self, peer: &Peer, keys: &[ResultKey]) -> Result<(), FetchError> {
        if let Some(ports) = &self.inner.ports {
            return ports.forget(peer, keys).await;
        }
        let (link, _) = self.link(peer).await?;
        for keys in keys.chunks(HANDOFF_KEYS_MAX) {
            link.forget(keys.to_vec()).await?;
        }
        Ok(())
    }

    /// Offers a committed result to the peer and hands it over if it is accepted. [`Pushed::Stored`]
    /// means that the peer serves it from now on; the locator is the caller's to change.
    ///
    /// # Errors
    /// [`FetchError`]. After [`FetchError::Unreachable`] the peer may or may not hold it; pushing
    /// again is harmless.
    pub async fn push(
        &self,
        peer: &Peer,
        key: ResultKey,
        digest: Digest,
        bytes: Bytes,
    ) -> Result<Pushed, FetchError> {
        if let Some(ports) = &self.inner.ports {
            return ports.push(peer, key, digest, bytes).await;
        }
        let (link, _) = self.link(peer).await?;
        link.push(key, digest, bytes).await
    }

    fn links(&self) -> MutexGuard<'_, HashMap<Peer, (u64, watch::Receiver<State>)>> {
        self.inner.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The open connection to `peer`, or a new one; and whether it is new.
    async fn link(&self, peer: &Peer) -> Result<(Arc<Link>, bool), FetchError> {
        let (mut state, fresh) = {
            let mut links = self.links();
            let known = links.get(peer).filter(|(_, state)| match &*state.borrow() {
                State::Dialling => true,
                State::Open(link) => link.is_open(),
                State::Failed(_) => false,
            });
            if let Some((_, state)) = known {
                (state.clone(), matches!(*state.borrow(), State::Dialling))
            } else {
                let number = self.inner.dialled.fetch_add(1, Ordering::Relaxed);
                let (publish, state) = watch::channel(State::Dialling);
                links.insert(peer.clone(), (number, state.clone()));
                tokio::spawn(self.clone().dial(peer.clone(), number, publish));
                (state, true)
            }
        };
        // The sender goes away unpublished only when the runtime ends.
        let state = state.wait_for(|state| !matches!(state, State::Dialling)).await;
        match state.as_deref() {
            Ok(State::Open(link)) => Ok((Arc::clone(link), fresh)),
            Ok(State::Failed(error)) => Err(error.clone()),
            Ok(State::Dialling) | Err(_) => Err(FetchError::closed(&peer.addr)),
        }
    }

    /// Connects in a task of its own, so that a caller who gives up harms none of the others.
    async fn dial(self, peer: Peer, number: u64, publish: watch::Sender<State>) {
        let weak = Arc::downgrade(&self.inner);
        let ended = {
            let peer = peer.clone();
            move || {
                if let Some(inner) = weak.upgrade() {
                    Self { inner }.remove(&peer, number);
                }
            }
        };
        match connect(&peer, &self.inner.key).await {
            Ok(socket) => {
                let link = Link::start(socket, &peer.addr, ended);
                publish.send_replace(State::Open(link));
            }
            Err(error) => {
                ended();
                publish.send_replace(State::Failed(error));
            }
        }
    }

    /// Forgets a connection, unless a later one has taken its place.
    fn remove(&self, peer: &Peer, number: u64) {
        let mut links = self.links();
        if links.get(peer).is_some_and(|(current, _)| *current == number) {
            links.remove(peer);
        }
    }
}

async fn connect(peer: &Peer, key: &HandoffKey) -> Result<Socket, FetchError> {
    let addr = &peer.addr;
    let connected = socket::connect(peer).await;
    let mut socket = connected.map_err(|error| FetchError::from_connect(addr, &error))?;
    let greeted = greet(&mut socket, key, peer.incarnation).await;
    greeted.map_err(|error| FetchError::from_handshake(addr, &error))?;
    Ok(socket)
}

/// Splits what is wanted so that no batch exceeds the budget or a frame. A single result above the
/// budget is a batch by itself.
fn batches(wants: Vec<(usize, Want)>, budget_bytes: u64) -> Vec<Vec<(usize, Want)>> {
    let mut batches: Vec<Vec<(usize, Want)>> = Vec::new();
    let mut bytes = 0_u64;
    for (place, want) in wants {
        let length = want.length;
        bytes = bytes.saturating_add(length);
        match batches.last_mut() {
            Some(batch) if batch.len() < HANDOFF_KEYS_MAX && bytes <= budget_bytes => {
                batch.push((place, want));
            }
            _ => {
                batches.push(vec![(place, want)]);
                bytes = length;
            }
        }
    }
    batches
}
