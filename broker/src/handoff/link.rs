//! One connection to one peer, shared by all who fetch from it. A task reads and writes the socket;
//! callers register what they wait for and are answered through one-shot channels.

mod pending;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use tokio::sync::{Semaphore, SemaphorePermit, mpsc, oneshot};
use tokio::time::{Instant, timeout};

use self::pending::{Get, Pending, Table};
use super::Digest;
use super::fetch::{FetchError, Pushed, Want};
use super::frame::{CHUNK, Frame, FrameError, PACKED};
use super::pack::{TAKES_PACKED, unpack};
use super::socket::{self, ReadHalf, Socket, WriteHalf};
use super::wire::{FrameReader, FrameWriter, WireError};
use crate::id::ResultKey;
use crate::limits::{
    HANDOFF_ANSWER, HANDOFF_CHUNK_BYTES, HANDOFF_IDLE, HANDOFF_LARGE_REQUESTS_MAX,
    HANDOFF_REQUESTS_MAX, HANDOFF_STALL,
};

/// Frames that wait to be written.
const OUTGOING_MAX: usize = 32;

/// A connection whose handshake is done.
#[derive(Debug)]
pub(super) struct Link {
    table: Table,
    outgoing: mpsc::Sender<Frame>,
    requests: Semaphore,
    large: Semaphore,
    next: AtomicU32,
}

impl Link {
    /// Serves `socket` by a task of its own until it fails or has been idle for a while, then
    /// calls `ended`.
    pub(super) fn start(
        socket: Socket,
        peer: &str,
        ended: impl FnOnce() + Send + 'static,
    ) -> Arc<Self> {
        let (outgoing, frames) = mpsc::channel(OUTGOING_MAX);
        if socket::is_remote(&socket) {
            // There is room for it.
            let _ = outgoing.try_send(Frame::Cancel { request: TAKES_PACKED });
        }
        let link = Arc::new(Self {
            table: Table::new(peer),
            outgoing,
            requests: Semaphore::new(HANDOFF_REQUESTS_MAX),
            large: Semaphore::new(HANDOFF_LARGE_REQUESTS_MAX),
            next: AtomicU32::new(1),
        });
        let peer = peer.to_owned();
        tokio::spawn({
            let link = Arc::clone(&link);
            async move {
                let (read, write) = socket::split(socket);
                let error = tokio::select! {
                    Err(error) = link.read(FrameReader::new(read, HANDOFF_STALL)) => error,
                    Err(error) = write_frames(write, frames) => error,
                    else => WireError::Closed,
                };
                tracing::debug!(peer, %error, "connection to a data port ended");
                link.table.close(&FetchError::from_wire(&peer, &error));
                link.requests.close();
                link.large.close();
                ended();
            }
        });
        link
    }

    /// Whether requests can still be made.
    pub(super) fn is_open(&self) -> bool {
        self.table.is_open()
    }

    /// Asks for results and waits for all of them, in the order of `wants`. Dropping the future
    /// tells the peer to stop.
    pub(super) async fn get(&self, wants: Vec<Want>) -> Vec<Result<Bytes, FetchError>> {
        let count = wants.len();
        let failed = |error: FetchError| vec![Err(error); count];
        let bytes = wants.iter().fold(0_u64, |sum, want| sum.saturating_add(want.length));
        let Some(_permits) = self.permits(bytes > HANDOFF_CHUNK_BYTES as u64).await else {
            return failed(self.table.closed());
        };
        let keys = wants.iter().map(|want| want.key).collect();
        let (done, answer) = oneshot::channel();
        let request = match self.register(Pending::Get(Get::new(wants, done))) {
            Ok(request) => request,
            Err(error) => return failed(error),
        };
        // A send fails only when the link has ended, and then the answer says why.
        let _ = self.outgoing.send(Frame::Get { request: request.number, keys }).await;
        answer.await.unwrap_or_else(|_| failed(self.table.closed()))
    }

    /// Whether the peer answers at all.
    pub(super) async fn ping(&self) -> Result<(), FetchError> {
        let (done, answer) = oneshot::channel();
        let request = self.register(Pending::Ping(done))?;
        let _ = self.outgoing.send(Frame::Ping { request: request.number }).await;
        answer.await.unwrap_or_else(|_| Err(self.table.closed()))
    }

    /// Tells the peer that nobody needs these results any more.
    pub(super) async fn forget(&self, keys: Vec<ResultKey>) -> Result<(), FetchError> {
        self.outgoing.send(Frame::Drop(keys)).await.map_err(|_| self.table.closed())
    }

    /// Hands a result over, if the peer will have it.
    pub(super) async fn push(
        &self,
        key: ResultKey,
        digest: Digest,
        mut bytes: Bytes,
    ) -> Result<Pushed, FetchError> {
        let Some(_permits) = self.permits(bytes.len() > HANDOFF_CHUNK_BYTES).await else {
            return Err(self.table.closed());
        };
        let (accepted, go) = oneshot::channel();
        let (done, mut answer) = oneshot::channel();
        let request = self.register(Pending::Push { accepted: Some(accepted), done })?;
        let number = request.number;
        let length = bytes.len() as u64;
        let _ = self.outgoing.send(Frame::Offer { request: number, key, length, digest }).await;
        if go.await.is_ok() {
            while !bytes.is_empty() {
                let chunk = bytes.split_to(bytes.len().min(HANDOFF_CHUNK_BYTES));
                let push = Frame::Push { request: number, bytes: chunk };
                tokio::select! {
                    sent = self.outgoing.send(push) => match sent {
                        Ok(()) => self.table.touch(),
                        Err(_) => break,
                    },
                    // The peer may change its mind: then the rest need not travel.
                    early = &mut answer => return early.unwrap_or_else(|_| Err(self.table.closed())),
                }
            }
        }
        answer.await.unwrap_or_else(|_| Err(self.table.closed()))
    }

    /// A place among the requests in flight; `None` when the link has ended.
    async fn permits(
        &self,
        large: bool,
    ) -> Option<(Option<SemaphorePermit<'_>>, SemaphorePermit<'_>)> {
        let large = if large { Some(self.large.acquire().await.ok()?) } else { None };
        Some((large, self.requests.acquire().await.ok()?))
    }

    fn register(&self, pending: Pending) -> Result<Request<'_>, FetchError> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.table.insert(number, pending)?;
        Ok(Request { link: self, number })
    }

    /// Reads frames until the connection ends.
    async fn read(&self, mut reader: FrameReader<ReadHalf>) -> Result<(), WireError> {
        loop {
            self.await_frame(&mut reader).await?;
            let prefix = reader.prefix().await?;
            if prefix.kind == CHUNK {
                self.chunk(&mut reader, prefix.length).await?;
            } else if prefix.kind == PACKED {
                self.packed(&mut reader, prefix.length).await?;
            } else {
                let frame = reader.frame(prefix).await?;
                self.table.answer(&frame)?;
            }
        }
    }

    /// Waits for the next frame: without end while nothing is asked, but for a limited silence
    /// otherwise. A slow answer is told from a dead peer by a ping halfway.
    async fn await_frame(&self, reader: &mut FrameReader<ReadHalf>) -> Result<(), WireError> {
        let start = Instant::now();
        loop {
            if let Ok(ready) = timeout(HANDOFF_STALL / 2, reader.ready()).await {
                return ready;
            }
            let Some(waiting) = self.table.waiting_since() else {
                if start.elapsed() >= HANDOFF_IDLE && self.table.close_idle() {
                    return Err(WireError::Closed);
                }
                continue;
            };
            if waiting.elapsed() >= HANDOFF_ANSWER {
                return Err(WireError::Stalled(HANDOFF_ANSWER));
            }
            if start.max(waiting).elapsed() >= HANDOFF_STALL {
                return Err(WireError::Stalled(HANDOFF_STALL));
            }
            // A full queue means that the socket takes nothing, which the writer judges.
            let _ = self.outgoing.try_send(Frame::Ping { request: 0 });
        }
    }

    /// Receives one piece of a result into the buffer it belongs to.
    async fn chunk(
        &self,
        reader: &mut FrameReader<ReadHalf>,
        length: usize,
    ) -> Result<(), WireError> {
        let length = length.checked_sub(8).ok_or(WireError::Turn(CHUNK))?;
        let (request, index) = (reader.number().await?, reader.number().await?);
        let Some(mut partial) = self.table.take_partial(request, index) else {
            // Nobody waits for it any more.
            return reader.skip(length).await;
        };
        partial.expect(length)?;
        reader.append(partial.buffer(), length).await?;
        partial.absorb(length);
        self.table.put_partial(request, index, partial);
        Ok(())
    }

    /// The same of one that is packed.
    async fn packed(
        &self,
        reader: &mut FrameReader<ReadHalf>,
        length: usize,
    ) -> Result<(), WireError> {
        let packed = length.checked_sub(12).ok_or(FrameError::Malformed(PACKED))?;
        let (request, index) = (reader.number().await?, reader.number().await?);
        let length = reader.number().await? as usize;
        let Some(mut partial) = self.table.take_partial(request, index) else {
            return reader.skip(packed).await;
        };
        partial.expect(length)?;
        let mut bytes = Vec::with_capacity(packed);
        reader.append(&mut bytes, packed).await?;
        unpack(&bytes, length, partial.buffer())?;
        partial.absorb(length);
        self.table.put_partial(request, index, partial);
        Ok(())
    }
}

/// A request in the table, taken out and cancelled at the peer when its caller goes away.
struct Request<'a> {
    link: &'a Link,
    number: u32,
}

impl Drop for Request<'_> {
    fn drop(&mut self) {
        if self.link.table.remove(self.number) {
            // If it cannot be queued, the peer sends what will be skipped: costly, not wrong.
            let _ = self.link.outgoing.try_send(Frame::Cancel { request: self.number });
        }
    }
}

async fn write_frames(half: WriteHalf, mut frames: mpsc::Receiver<Frame>) -> Result<(), WireError> {
    let mut writer = FrameWriter::new(half, HANDOFF_STALL);
    while let Some(frame) = frames.recv().await {
        writer.send(&frame).await?;
        while let Ok(frame) = frames.try_recv() {
            writer.send(&frame).await?;
        }
        writer.flush().await?;
    }
    Ok(())
}
