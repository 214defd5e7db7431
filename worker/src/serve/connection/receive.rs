//! Results that a draining peer hands over.

use std::collections::HashMap;
use std::sync::atomic::Ordering;

use bolthole_broker::handoff::frame::{PUSH, Reason};
use bolthole_broker::handoff::socket::ReadHalf;
use bolthole_broker::handoff::wire::{FrameReader, WireError};
use bolthole_broker::handoff::{Digest, Digester, Frame, buffers};
use bolthole_broker::id::ResultKey;
use bolthole_broker::limits::HANDOFF_REQUESTS_MAX;

use crate::hold::Admitted;
use crate::serve::Shared;

/// The offers of one connection that were accepted and have not been pushed in full.
#[derive(Default)]
pub(super) struct Offers(HashMap<u32, Offer>);

struct Offer {
    key: ResultKey,
    length: usize,
    digest: Digest,
    buffer: Vec<u8>,
    digester: Digester,
    _admitted: Admitted,
}

impl Offers {
    /// Accepts an offer or declines it.
    pub(super) fn offer(
        &mut self,
        request: u32,
        key: ResultKey,
        length: u64,
        digest: Digest,
        shared: &Shared,
    ) -> Result<Frame, WireError> {
        if self.0.len() >= HANDOFF_REQUESTS_MAX || self.0.contains_key(&request) {
            return Err(WireError::Turn(Frame::Offer { request, key, length, digest }.kind()));
        }
        if shared.draining.load(Ordering::Relaxed) {
            return Ok(Frame::Refused { request, reason: Reason::Draining });
        }
        if shared.held.is_served(&key, digest) {
            return Ok(Frame::Stored { request });
        }
        let busy = Frame::Refused { request, reason: Reason::Busy };
        let Some(admitted) = shared.held.admit(length) else { return Ok(busy) };
        let Ok(length) = usize::try_from(length) else { return Ok(busy) };
        let Ok(buffer) = buffers::take(length) else { return Ok(busy) };
        let digester = Digester::default();
        let offer = Offer { key, length, digest, buffer, digester, _admitted: admitted };
        if length == 0 {
            return Ok(offer.finish(request, shared));
        }
        self.0.insert(request, offer);
        Ok(Frame::Accepted { request })
    }

    /// Forgets an offer that its peer withdrew.
    pub(super) fn cancel(&mut self, request: u32) {
        self.0.remove(&request);
    }

    /// Receives a piece. The last one is answered.
    pub(super) async fn push(
        &mut self,
        reader: &mut FrameReader<ReadHalf>,
        length: usize,
        shared: &Shared,
    ) -> Result<Option<Frame>, WireError> {
        let length = length.checked_sub(4).ok_or(WireError::Turn(PUSH))?;
        let request = reader.number().await?;
        let offer = self.0.get_mut(&request).ok_or(WireError::Turn(PUSH))?;
        let start = offer.buffer.len();
        if length == 0 || length > offer.length - start {
            return Err(WireError::Turn(PUSH));
        }
        reader.append(&mut offer.buffer, length).await?;
        offer.digester.update(&offer.buffer[start..]);
        if offer.buffer.len() < offer.length {
            return Ok(None);
        }
        Ok(self.0.remove(&request).map(|offer| offer.finish(request, shared)))
    }
}

impl Offer {
    fn finish(self, request: u32, shared: &Shared) -> Frame {
        if self.digester.finish() != self.digest {
            return Frame::Refused { request, reason: Reason::Corrupt };
        }
        // A result is only moved once it is committed.
        let bytes = buffers::freeze(self.buffer);
        shared.held.insert_with_digest(self.key, bytes, self.digest, None);
        shared.held.confirm(&self.key);
        shared.received.fetch_add(1, Ordering::Relaxed);
        Frame::Stored { request }
    }
}
