//! The writing half: small results at once, large ones in pieces by turns.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bolthole_broker::failpoint::{self, Point};
use bolthole_broker::handoff::Frame;
use bolthole_broker::handoff::pack::{Packer, Piece};
use bolthole_broker::handoff::socket::WriteHalf;
use bolthole_broker::handoff::wire::{FrameWriter, WireError};
use bolthole_broker::limits::HANDOFF_CHUNK_BYTES;
use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::Instant;

use super::{Answer, Request};
use crate::hold::HeldValue;
use crate::serve::Shared;

/// Answers taken up between two pieces of large results: neither kind can starve the other.
const BURST_MAX: usize = 32;

/// A large result of which some bytes are still to be sent.
struct Sending {
    request: Arc<Request>,
    index: u32,
    rest: Bytes,
    /// It does not get smaller when it is packed.
    plain: bool,
    _turn: Option<OwnedSemaphorePermit>,
}

/// Writes answers until the queue ends.
pub(super) async fn run(
    writer: FrameWriter<WriteHalf>,
    mut queue: mpsc::Receiver<Answer>,
    shared: &Shared,
    packs: &AtomicBool,
) -> Result<(), WireError> {
    let packer = Packer::default();
    let mut sender = Sender { writer, large: VecDeque::new(), shared, packs, packer };
    loop {
        if sender.large.is_empty() {
            let Some(answer) = queue.recv().await else { return Ok(()) };
            sender.answer(answer).await?;
        }
        for _ in 0..BURST_MAX {
            let Ok(answer) = queue.try_recv() else { break };
            sender.answer(answer).await?;
        }
        sender.next_piece().await?;
        if sender.large.is_empty() && queue.is_empty() {
            sender.writer.flush().await?;
        }
    }
}

struct Sender<'a> {
    writer: FrameWriter<WriteHalf>,
    large: VecDeque<Sending>,
    shared: &'a Shared,
    /// The peer takes packed pieces.
    packs: &'a AtomicBool,
    packer: Packer,
}

impl Sender<'_> {
    async fn answer(&mut self, answer: Answer) -> Result<(), WireError> {
        let (request, index, value, turn) = match answer {
            Answer::Frame(frame) => return self.writer.send(&frame).await,
            Answer::Result { request, index, value, turn } => (request, index, value, turn),
        };
        if request.is_cancelled() {
            return Ok(());
        }
        let number = request.number;
        let Some(HeldValue { bytes, digest, .. }) = value else {
            return self.writer.send(&Frame::NotHeld { request: number, index }).await;
        };
        let length = bytes.len() as u64;
        self.writer.send(&Frame::Found { request: number, index, length, digest }).await?;
        self.shared.sent.fetch_add(1, Ordering::Relaxed);
        if bytes.len() > HANDOFF_CHUNK_BYTES {
            let plain = false;
            self.large.push_back(Sending { request, index, rest: bytes, plain, _turn: turn });
        } else if !bytes.is_empty() {
            self.piece(number, index, bytes, false).await?;
        }
        Ok(())
    }

    /// Sends a piece, packed where that is worth it; whether it is not worth it for this result.
    async fn piece(
        &mut self,
        request: u32,
        index: u32,
        bytes: Bytes,
        plain: bool,
    ) -> Result<bool, WireError> {
        let length = bytes.len();
        self.shared.sent_bytes.fetch_add(length as u64, Ordering::Relaxed);
        if !plain
            && self.packer.is_slow()
            && self.packs.load(Ordering::Relaxed)
            && let Piece::Packed(bytes) = self.packer.pack(&bytes)
        {
            // A piece is far below 4 GiB.
            let length = u32::try_from(length).unwrap_or(u32::MAX);
            self.writer.send(&Frame::Packed { request, index, length, bytes }).await?;
            return Ok(false);
        }
        let plain = plain || self.packer.is_slow();
        let began = Instant::now();
        self.writer.send(&Frame::Chunk { request, index, bytes }).await?;
        self.packer.wrote(length, began.elapsed());
        Ok(plain)
    }

    /// Sends the next piece of the large result whose turn it is.
    async fn next_piece(&mut self) -> Result<(), WireError> {
        let Some(mut sending) = self.large.pop_front() else { return Ok(()) };
        if sending.request.is_cancelled() {
            return Ok(());
        }
        let bytes = sending.rest.split_to(sending.rest.len().min(HANDOFF_CHUNK_BYTES));
        let (request, index) = (sending.request.number, sending.index);
        sending.plain = self.piece(request, index, bytes, sending.plain).await?;
        if !sending.rest.is_empty() {
            failpoint::reach(Point::HandoffMid).await;
            self.large.push_back(sending);
        }
        Ok(())
    }
}
