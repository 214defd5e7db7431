//! What the callers of one link wait for.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::handoff::fetch::{FetchError, Pushed, Want};
use crate::handoff::frame::{CHUNK, Frame};
use crate::handoff::wire::WireError;
use crate::handoff::{Digest, Digester, buffers};

/// A request that has not been answered in full.
#[derive(Debug)]
pub(super) enum Pending {
    Get(Get),
    Ping(oneshot::Sender<Result<(), FetchError>>),
    Push {
        accepted: Option<oneshot::Sender<()>>,
        done: oneshot::Sender<Result<Pushed, FetchError>>,
    },
}

/// A batch of results on their way.
#[derive(Debug)]
pub(super) struct Get {
    wants: Vec<Want>,
    results: Vec<Option<Result<Bytes, FetchError>>>,
    partial: HashMap<u32, Partial>,
    left: usize,
    done: oneshot::Sender<Vec<Result<Bytes, FetchError>>>,
}

impl Get {
    pub(super) fn new(
        wants: Vec<Want>,
        done: oneshot::Sender<Vec<Result<Bytes, FetchError>>>,
    ) -> Self {
        let left = wants.len();
        let results = wants.iter().map(|_| None).collect();
        Self { wants, results, partial: HashMap::new(), left, done }
    }

    /// Whether `index` may still be answered.
    fn is_open(&self, index: u32) -> bool {
        matches!(self.results.get(index as usize), Some(None)) && !self.partial.contains_key(&index)
    }

    fn settle(&mut self, index: u32, result: Result<Bytes, FetchError>) {
        if let Some(place @ None) = self.results.get_mut(index as usize) {
            *place = Some(result);
            self.left -= 1;
        }
    }

    fn finish(self, error: &FetchError) {
        let results = self.results.into_iter();
        let results = results.map(|result| result.unwrap_or_else(|| Err(error.clone()))).collect();
        // A caller that has gone needs no answer.
        let _ = self.done.send(results);
    }
}

/// One result of which some bytes are here. It is hashed as it comes, while the bytes are still in
/// the processor's cache.
#[derive(Debug)]
pub(super) struct Partial {
    buffer: Vec<u8>,
    length: usize,
    digest: Digest,
    digester: Digester,
}

impl Partial {
    /// A buffer for exactly what is wanted, whose length the caller has bounded.
    fn new(want: &Want) -> Result<Self, FetchError> {
        let no_memory = || FetchError::OutOfMemory { length: want.length };
        let length = usize::try_from(want.length).map_err(|_| no_memory())?;
        let buffer = buffers::take(length).map_err(|_| no_memory())?;
        Ok(Self { buffer, length, digest: want.digest, digester: Digester::default() })
    }

    /// Whether a piece of `length` bytes can come now.
    pub(super) fn expect(&self, length: usize) -> Result<(), WireError> {
        let rest = self.length - self.buffer.len();
        if length == 0 || length > rest { Err(WireError::Turn(CHUNK)) } else { Ok(()) }
    }

    pub(super) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.buffer
    }

    /// Takes note of the last `length` bytes of the buffer.
    pub(super) fn absorb(&mut self, length: usize) {
        let start = self.buffer.len().saturating_sub(length);
        self.digester.update(&self.buffer[start..]);
    }

    fn is_complete(&self) -> bool {
        self.buffer.len() == self.length
    }

    fn verify(self) -> Result<Bytes, FetchError> {
        if self.digester.finish() == self.digest {
            Ok(buffers::freeze(self.buffer))
        } else {
            Err(FetchError::Corrupt)
        }
    }
}

/// The requests of one link by number.
#[derive(Debug)]
pub(super) struct Table {
    addr: String,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    pending: HashMap<u32, Pending>,
    /// Why there will be no more.
    closed: Option<FetchError>,
    /// When the peer last answered something, or began to have something to answer.
    since: Option<Instant>,
}

impl Table {
    pub(super) fn new(addr: &str) -> Self {
        Self { addr: addr.to_owned(), state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics under this lock half way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_open(&self) -> bool {
        self.state().closed.is_none()
    }

    /// Why the link ended.
    pub(super) fn closed(&self) -> FetchError {
        self.state().closed.clone().unwrap_or_else(|| FetchError::closed(&self.addr))
    }

    pub(super) fn insert(&self, request: u32, pending: Pending) -> Result<(), FetchError> {
        let mut state = self.state();
        if let Some(error) = &state.closed {
            return Err(error.clone());
        }
        if state.pending.is_empty() {
            state.since = Some(Instant::now());
        }
        state.pending.insert(request, pending);
        Ok(())
    }

    /// Takes a request out; whether it was there.
    pub(super) fn remove(&self, request: u32) -> bool {
        self.state().pending.remove(&request).is_some()
    }

    /// Since when the peer has owed an answer without giving any; `None` when it owes nothing.
    pub(super) fn waiting_since(&self) -> Option<Instant> {
        let state = self.state();
        state.since.filter(|_| !state.pending.is_empty())
    }

    /// Notes progress that is not an answer: what is pushed has been taken up.
    pub(super) fn touch(&self) {
        self.state().since = Some(Instant::now());
    }

    /// Closes the table if nothing is asked: in one step, so that no request slips in between.
    pub(super) fn close_idle(&self) -> bool {
        let mut state = self.state();
        let idle = state.pending.is_empty();
        if idle {
            state.closed.get_or_insert_with(|| FetchError::closed(&self.addr));
        }
        idle
    }

    /// Ends every request with `error`, but keeps the results that have arrived.
    pub(super) fn close(&self, error: &FetchError) {
        let pending = {
            let mut state = self.state();
            state.closed.get_or_insert_with(|| error.clone());
            std::mem::take(&mut state.pending)
        };
        for pending in pending.into_values() {
            match pending {
                Pending::Get(get) => get.finish(error),
                Pending::Ping(done) => drop(done.send(Err(error.clone()))),
                Pending::Push { done, .. } => drop(done.send(Err(error.clone()))),
            }
        }
    }

    /// Takes the buffer for the next piece of a result out of the table.
    pub(super) fn take_partial(&self, request: u32, index: u32) -> Option<Partial> {
        match self.state().pending.get_mut(&request) {
            Some(Pending::Get(get)) => get.partial.remove(&index),
            _ => None,
        }
    }

    /// Puts it back, or settles the result when it is complete.
    pub(super) fn put_partial(&self, request: u32, index: u32, partial: Partial) {
        if !partial.is_complete() {
            let mut state = self.state();
            state.since = Some(Instant::now());
            if let Some(Pending::Get(get)) = state.pending.get_mut(&request) {
                get.partial.insert(index, partial);
            }
            return;
        }
        let result = partial.verify();
        self.settle(request, index, result);
    }

    /// Acts on a frame that is read whole. Answers to requests that were given up are ignored.
    ///
    /// # Errors
    /// [`WireError::Turn`] when the peer breaks the protocol.
    pub(super) fn answer(&self, frame: &Frame) -> Result<(), WireError> {
        let kind = frame.kind();
        match *frame {
            Frame::Found { request, index, length, digest } => {
                self.found(request, index, length, digest).ok_or(WireError::Turn(kind))?;
            }
            Frame::NotHeld { request, index } => {
                self.settle(request, index, Err(FetchError::NotHeld));
            }
            Frame::Pong { request } => {
                if let Some(Pending::Ping(done)) = self.state().pending.remove(&request) {
                    let _ = done.send(Ok(()));
                }
            }
            Frame::Accepted { request } => {
                let mut state = self.state();
                state.since = Some(Instant::now());
                if let Some(Pending::Push { accepted, .. }) = state.pending.get_mut(&request) {
                    let _ = accepted.take().map(|accepted| accepted.send(()));
                }
            }
            Frame::Stored { request } => self.pushed(request, Pushed::Stored),
            Frame::Refused { request, reason } => self.pushed(request, Pushed::Refused(reason)),
            _ => return Err(WireError::Turn(kind)),
        }
        Ok(())
    }

    /// A result is about to come. `None` when it must not.
    fn found(&self, request: u32, index: u32, length: u64, digest: Digest) -> Option<()> {
        let mut state = self.state();
        state.since = Some(Instant::now());
        let Some(Pending::Get(get)) = state.pending.get_mut(&request) else {
            return Some(());
        };
        let want = get.wants.get(index as usize).filter(|_| get.is_open(index))?.clone();
        drop(state);
        if (length, digest) != (want.length, want.digest) {
            // Settled without a buffer: the pieces that follow are skipped.
            self.settle(request, index, Err(FetchError::Corrupt));
            return Some(());
        }
        match Partial::new(&want) {
            Ok(partial) => self.put_partial(request, index, partial),
            Err(error) => self.settle(request, index, Err(error)),
        }
        Some(())
    }

    fn pushed(&self, request: u32, outcome: Pushed) {
        if let Some(Pending::Push { done, .. }) = self.state().pending.remove(&request) {
            let _ = done.send(Ok(outcome));
        }
    }

    /// Settles one result; the last of a batch answers its caller.
    fn settle(&self, request: u32, index: u32, result: Result<Bytes, FetchError>) {
        let mut state = self.state();
        state.since = Some(Instant::now());
        let Some(Pending::Get(get)) = state.pending.get_mut(&request) else { return };
        get.settle(index, result);
        if get.left == 0
            && let Some(Pending::Get(get)) = state.pending.remove(&request)
        {
            drop(state);
            get.finish(&FetchError::closed(&self.addr));
        }
    }
}
