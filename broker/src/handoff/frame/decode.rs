//! From bytes to frames. Nothing here panics, and nothing is allocated that is not bounded by the
//! bytes that are there.

use bytes::Bytes;

use super::{
    CHUNK, Frame, FrameError, KEY_BYTES, MAGIC, NONCE_BYTES, PACKED, PREFIX_BYTES, PUSH, Reason,
};
use crate::handoff::Digest;
use crate::id::{Incarnation, ResultKey, RunId, TaskId};
use crate::limits::{HANDOFF_CHUNK_BYTES, HANDOFF_KEYS_MAX};

impl Frame {
    /// The frame of a kind and a whole body.
    ///
    /// # Errors
    /// [`FrameError`] when they are no frame. Allocates no more than the body is long.
    pub fn decode(kind: u8, body: &[u8]) -> Result<Self, FrameError> {
        Prefix::new(kind, body.len())?;
        let mut fields = Fields { kind, rest: body };
        let frame = fields.frame()?;
        if fields.rest.is_empty() { Ok(frame) } else { Err(FrameError::Malformed(kind)) }
    }
}

/// What stands before a body: its kind and length, both within bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefix {
    /// The kind of frame.
    pub kind: u8,
    /// The length of its body in bytes.
    pub length: usize,
}

impl Prefix {
    /// A prefix that is in bounds.
    ///
    /// # Errors
    /// [`FrameError`] for an unknown kind or a body longer than the kind's greatest.
    pub fn new(kind: u8, length: usize) -> Result<Self, FrameError> {
        match body_max(kind) {
            None => Err(FrameError::Unknown(kind)),
            Some(max) if length > max => Err(FrameError::Length { kind, length }),
            Some(_) => Ok(Self { kind, length }),
        }
    }

    /// Reads a prefix from its bytes.
    ///
    /// # Errors
    /// As [`Prefix::new`].
    pub fn parse(bytes: [u8; PREFIX_BYTES]) -> Result<Self, FrameError> {
        let [a, b, c, d, kind] = bytes;
        match u32::from_be_bytes([a, b, c, d]) {
            0 => Err(FrameError::Length { kind, length: 0 }),
            length => Self::new(kind, length as usize - 1),
        }
    }
}

/// The greatest length of a body; `None` for an unknown kind.
const fn body_max(kind: u8) -> Option<usize> {
    Some(match kind {
        16 | 19 => 4 + HANDOFF_KEYS_MAX * KEY_BYTES,
        1..=5 | 17 | 18 | 20 | 32 | 33 | 35..=38 => 64,
        PUSH => 4 + HANDOFF_CHUNK_BYTES,
        CHUNK => 8 + HANDOFF_CHUNK_BYTES,
        PACKED => 12 + HANDOFF_CHUNK_BYTES,
        _ => return None,
    })
}

/// The unread rest of a body.
struct Fields<'a> {
    kind: u8,
    rest: &'a [u8],
}

impl Fields<'_> {
    fn frame(&mut self) -> Result<Frame, FrameError> {
        Ok(match self.kind {
            1 => {
                if self.array()? != MAGIC {
                    return Err(self.malformed());
                }
                let (version, nonce, expected) = self.greeting()?;
                Frame::Hello { version, nonce, expected }
            }
            2 => {
                let (version, nonce, actual) = self.greeting()?;
                Frame::Challenge { version, nonce, actual }
            }
            3 => Frame::Proof(self.array()?),
            4 => Frame::Welcome(self.array()?),
            5 => Frame::Goodbye(self.reason()?),
            16 => Frame::Get { request: self.number()?, keys: self.keys()? },
            17 => Frame::Cancel { request: self.number()? },
            18 => Frame::Ping { request: self.number()? },
            19 => Frame::Drop(self.keys()?),
            20 => Frame::Offer {
                request: self.number()?,
                key: self.key()?,
                length: u64::from_be_bytes(self.array()?),
                digest: Digest::from_bytes(self.array()?),
            },
            PUSH => Frame::Push { request: self.number()?, bytes: self.bytes() },
            32 => Frame::Found {
                request: self.number()?,
                index: self.number()?,
                length: u64::from_be_bytes(self.array()?),
                digest: Digest::from_bytes(self.array()?),
            },
            33 => Frame::NotHeld { request: self.number()?, index: self.number()? },
            CHUNK => {
                Frame::Chunk { request: self.number()?, index: self.number()?, bytes: self.bytes() }
            }
            35 => Frame::Pong { request: self.number()? },
            36 => Frame::Accepted { request: self.number()? },
            37 => Frame::Stored { request: self.number()? },
            38 => Frame::Refused { request: self.number()?, reason: self.reason()? },
            PACKED => Frame::Packed {
                request: self.number()?,
                index: self.number()?,
                length: self.number()?,
                bytes: self.bytes(),
            },
            kind => return Err(FrameError::Unknown(kind)),
        })
    }

    fn malformed(&self) -> FrameError {
        FrameError::Malformed(self.kind)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], FrameError> {
        let (head, rest) = self.rest.split_first_chunk().ok_or_else(|| self.malformed())?;
        self.rest = rest;
        Ok(*head)
    }

    fn number(&mut self) -> Result<u32, FrameError> {
        self.array().map(u32::from_be_bytes)
    }

    fn reason(&mut self) -> Result<Reason, FrameError> {
        let [byte] = self.array()?;
        Reason::from_byte(byte).ok_or_else(|| self.malformed())
    }

    fn greeting(&mut self) -> Result<(u8, [u8; NONCE_BYTES], Incarnation), FrameError> {
        let [version] = self.array()?;
        Ok((version, self.array()?, Incarnation::from_bytes(self.array()?)))
    }

    fn key(&mut self) -> Result<ResultKey, FrameError> {
        let run = RunId::from_bytes(self.array()?);
        let task = TaskId::from_bits(u64::from_be_bytes(self.array()?));
        let [generation] = self.array()?;
        let nonce = u64::from_be_bytes(self.array()?);
        Ok(ResultKey { run, task: task.ok_or_else(|| self.malformed())?, generation, nonce })
    }

    fn keys(&mut self) -> Result<Vec<ResultKey>, FrameError> {
        let count = self.rest.len() / KEY_BYTES;
        if count * KEY_BYTES != self.rest.len() || count > HANDOFF_KEYS_MAX {
            return Err(self.malformed());
        }
        (0..count).map(|_| self.key()).collect()
    }

    fn bytes(&mut self) -> Bytes {
        Bytes::copy_from_slice(std::mem::take(&mut self.rest))
    }
}
