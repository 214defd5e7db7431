//! One peer's connection: requests in, answers out, side by side.
//!
//! Every request is looked up by a task of its own, and the writer sends large results in pieces
//! by turns, so nothing waits for a slow disk or a large neighbour.

mod receive;
mod send;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use bolthole_broker::handoff::Frame;
use bolthole_broker::handoff::frame::PUSH;
use bolthole_broker::handoff::pack::TAKES_PACKED;
use bolthole_broker::handoff::socket::{self, ReadHalf, Socket};
use bolthole_broker::handoff::wire::{FrameReader, FrameWriter, WireError};
use bolthole_broker::id::ResultKey;
use bolthole_broker::limits::{
    HANDOFF_CHUNK_BYTES, HANDOFF_IDLE, HANDOFF_REQUESTS_MAX, HANDOFF_STALL,
};
use futures_util::StreamExt;
use futures_util::stream::iter;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout;

use self::receive::Offers;
use super::Shared;
use crate::hold::{Held, HeldValue};

/// Answers that wait to be written.
const ANSWERS_MAX: usize = 64;
/// Results of one request that are read from disk, or waited for, at once.
const LOOKUPS_MAX: usize = 8;
/// Large results of one request that are sent by turns, so that one request cannot fill the queue.
const LARGE_MAX: usize = 2;

/// Something for the writer.
enum Answer {
    /// A frame as it is.
    Frame(Frame),
    /// A result, or that there is none.
    Result {
        request: Arc<Request>,
        index: u32,
        value: Option<HeldValue>,
        /// A large result's place among those of its request.
        turn: Option<OwnedSemaphorePermit>,
    },
}

/// A request that has not been answered in full. It lives as long as one of its answers does.
struct Request {
    number: u32,
    cancelled: AtomicBool,
    large: Arc<Semaphore>,
    /// Its place among the requests of the connection.
    _place: OwnedSemaphorePermit,
}

impl Request {
    fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}

/// Serves a connection until the peer closes it, breaks the protocol, stalls, or idles.
pub(super) async fn serve(socket: Socket, shared: &Shared) -> Result<(), WireError> {
    let (read, write) = socket::split(socket);
    let (answers, queue) = mpsc::channel(ANSWERS_MAX);
    let packs = AtomicBool::new(false);
    let reading = Reading {
        shared,
        packs: &packs,
        answers,
        places: Arc::new(Semaphore::new(HANDOFF_REQUESTS_MAX)),
        requests: HashMap::new(),
        lookups: JoinSet::new(),
        offers: Offers::default(),
    };
    tokio::select! {
        ended = reading.run(FrameReader::new(read, HANDOFF_STALL)) => ended,
        ended = send::run(FrameWriter::new(write, HANDOFF_STALL), queue, shared, &packs) => ended,
    }
}

/// The reading half of a connection.
struct Reading<'a> {
    shared: &'a Shared,
    /// The peer takes packed pieces.
    packs: &'a AtomicBool,
    answers: mpsc::Sender<Answer>,
    places: Arc<Semaphore>,
    requests: HashMap<u32, Weak<Request>>,
    /// Aborted with the connection.
    lookups: JoinSet<()>,
    offers: Offers,
}

impl Reading<'_> {
    async fn run(mut self, mut reader: FrameReader<ReadHalf>) -> Result<(), WireError> {
        loop {
            // Twice the client's patience, so that it is the client who closes.
            match timeout(HANDOFF_IDLE * 2, reader.ready()).await {
                Ok(Err(WireError::Closed)) => return Ok(()),
                Ok(ready) => ready?,
                Err(_) if self.places.available_permits() == HANDOFF_REQUESTS_MAX => return Ok(()),
                Err(_) => continue,
            }
            let prefix = reader.prefix().await?;
            if prefix.kind == PUSH {
                let answer = self.offers.push(&mut reader, prefix.length, self.shared).await?;
                self.answer(answer).await?;
            } else {
                let frame = reader.frame(prefix).await?;
                self.act(frame).await?;
            }
        }
    }

    async fn act(&mut self, frame: Frame) -> Result<(), WireError> {
        match frame {
            Frame::Get { request, keys } => self.get(request, keys).await,
            Frame::Cancel { request: TAKES_PACKED } => {
                self.packs.store(true, Ordering::Relaxed);
                Ok(())
            }
            Frame::Cancel { request } => {
                self.offers.cancel(request);
                if let Some(request) = self.requests.remove(&request).and_then(|it| it.upgrade()) {
                    request.cancelled.store(true, Ordering::Relaxed);
                }
                Ok(())
            }
            Frame::Ping { request } => self.answer(Some(Frame::Pong { request })).await,
            Frame::Drop(keys) => {
                // The store that says what is freed does not know the attempt.
                for key in &keys {
                    self.shared.held.drop_attempts(key.run, key.task, key.generation);
                }
                Ok(())
            }
            Frame::Offer { request, key, length, digest } => {
                let answer = self.offers.offer(request, key, length, digest, self.shared)?;
                self.answer(Some(answer)).await
            }
            frame => Err(WireError::Turn(frame.kind())),
        }
    }

    async fn answer(&self, frame: Option<Frame>) -> Result<(), WireError> {
        let Some(frame) = frame else { return Ok(()) };
        self.answers.send(Answer::Frame(frame)).await.map_err(|_| WireError::Closed)
    }

    /// Starts to answer a request. One beyond the limit waits, and with it all that comes after:
    /// a peer that keeps the limit never notices.
    async fn get(&mut self, number: u32, keys: Vec<ResultKey>) -> Result<(), WireError> {
        let place = Arc::clone(&self.places).acquire_owned().await;
        let request = Arc::new(Request {
            number,
            cancelled: AtomicBool::new(false),
            large: Arc::new(Semaphore::new(LARGE_MAX)),
            _place: place.map_err(|_| WireError::Closed)?,
        });
        while self.lookups.try_join_next().is_some() {}
        self.requests.retain(|_, request| request.strong_count() > 0);
        self.requests.insert(number, Arc::downgrade(&request));
        self.lookups.spawn(look_up(self.shared.held.clone(), request, keys, self.answers.clone()));
        Ok(())
    }
}

/// Looks the results of a request up and hands them to the writer: first those which can go at
/// once, then the others as they are found.
async fn look_up(
    held: Held,
    request: Arc<Request>,
    keys: Vec<ResultKey>,
    answers: mpsc::Sender<Answer>,
) {
    let mut others = Vec::new();
    for (index, key) in (0_u32..).zip(keys) {
        let small =
            held.serve_resident(&key).filter(|value| value.bytes.len() <= HANDOFF_CHUNK_BYTES);
        match small {
            None => others.push((index, key)),
            Some(value) => hand_over(&request, index, Some(value), &answers).await,
        }
    }
    let found = iter(others).map(async |(index, key)| (index, held.serve(&key).await));
    let mut found = std::pin::pin!(found.buffer_unordered(LOOKUPS_MAX));
    while let Some((index, value)) = found.next().await {
        if request.is_cancelled() {
            return;
        }
        hand_over(&request, index, value, &answers).await;
    }
}

async fn hand_over(
    request: &Arc<Request>,
    index: u32,
    value: Option<HeldValue>,
    answers: &mpsc::Sender<Answer>,
) {
    let large = value.as_ref().is_some_and(|value| value.bytes.len() > HANDOFF_CHUNK_BYTES);
    let turn = if large { Arc::clone(&request.large).acquire_owned().await.ok() } else { None };
    // It fails when the connection has ended, and then this task is about to.
    let _ = answers.send(Answer::Result { request: Arc::clone(request), index, value, turn }).await;
}
