//! The messages of the data port and their bytes.
//!
//! A frame is a length (4 bytes, of all that follows it), a kind (1 byte) and a body; numbers are
//! big-endian. Each kind has its own greatest length, known before anything is allocated.

mod decode;

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};

pub use self::decode::Prefix;
use crate::handoff::Digest;
use crate::id::{Incarnation, ResultKey};

/// The version of the data port that this process speaks.
pub const VERSION: u8 = 2;
/// What every connection begins with, so that a stray client of something else is told apart.
pub const MAGIC: [u8; 4] = *b"BHDP";
/// Bytes of a frame before its body: length and kind.
pub const PREFIX_BYTES: usize = 5;
/// Bytes of a key.
pub const KEY_BYTES: usize = 33;
/// Bytes of a nonce of the handshake.
pub const NONCE_BYTES: usize = 32;
/// Bytes of a proof of the handshake.
pub const PROOF_BYTES: usize = 32;

/// Bytes that are no frame. The connection they came on is of no further use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A kind that this version does not know.
    #[error("frame of unknown kind {0}")]
    Unknown(u8),
    /// Longer than its kind may be, or of length zero.
    #[error("frame of kind {kind} with a body of {length} bytes")]
    Length {
        /// The kind.
        kind: u8,
        /// The length of the body as announced.
        length: usize,
    },
    /// A body that ends early, goes on too long, or holds a value out of range.
    #[error("malformed body in a frame of kind {0}")]
    Malformed(u8),
}

/// Why a server ends a handshake or declines an offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Reason {
    /// The proof was wrong.
    Auth = 1,
    /// The other version is not spoken.
    Version = 2,
    /// As many connections as allowed, or too little memory for what is offered. Passes.
    Busy = 3,
    /// The worker is about to leave.
    Draining = 4,
    /// What arrived was not what its digest says.
    Corrupt = 5,
}

impl Reason {
    fn from_byte(byte: u8) -> Option<Self> {
        [Self::Auth, Self::Version, Self::Busy, Self::Draining, Self::Corrupt]
            .into_iter()
            .find(|reason| *reason as u8 == byte)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auth => "the cluster secrets differ",
            Self::Version => "another version of the data port",
            Self::Busy => "busy",
            Self::Draining => "draining",
            Self::Corrupt => "the bytes do not match their digest",
        })
    }
}

/// One message. The numbers called `request` are chosen by the client, unique on its connection;
/// `index` is a key's place in its request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// Client, first: version, nonce, and the incarnation it wants to speak to.
    Hello {
        /// The client's version.
        version: u8,
        /// Drawn by the client for this connection.
        nonce: [u8; NONCE_BYTES],
        /// Whom the client expects.
        expected: Incarnation,
    },
    /// Server, second: version, nonce, and the incarnation it is.
    Challenge {
        /// The server's version.
        version: u8,
        /// Drawn by the server for this connection.
        nonce: [u8; NONCE_BYTES],
        /// Who answers.
        actual: Incarnation,
    },
    /// Client, third: that it knows the secret.
    Proof([u8; PROOF_BYTES]),
    /// Server, fourth: that it knows the secret too.
    Welcome([u8; PROOF_BYTES]),
    /// Server, in place of its turn in the handshake.
    Goodbye(Reason),
    /// Client: send these results.
    Get {
        /// The request.
        request: u32,
        /// At most [`crate::limits::HANDOFF_KEYS_MAX`] keys.
        keys: Vec<ResultKey>,
    },
    /// Client: send nothing more of this request.
    Cancel {
        /// The request.
        request: u32,
    },
    /// Client: are you there?
    Ping {
        /// The request.
        request: u32,
    },
    /// Client: these have no consumers left. A hint, without an answer.
    Drop(Vec<ResultKey>),
    /// Client: will you hold this from now on?
    Offer {
        /// The request.
        request: u32,
        /// The result.
        key: ResultKey,
        /// Its length in bytes.
        length: u64,
        /// Its digest.
        digest: Digest,
    },
    /// Client: the next bytes of what it offered.
    Push {
        /// The request of the offer.
        request: u32,
        /// At most [`crate::limits::HANDOFF_CHUNK_BYTES`].
        bytes: Bytes,
    },
    /// Server: this result is held; its bytes follow in chunks.
    Found {
        /// The request.
        request: u32,
        /// The key's place in it.
        index: u32,
        /// The result's length in bytes.
        length: u64,
        /// The result's digest.
        digest: Digest,
    },
    /// Server: this result is not held.
    NotHeld {
        /// The request.
        request: u32,
        /// The key's place in it.
        index: u32,
    },
    /// Server: the next bytes of a result.
    Chunk {
        /// The request.
        request: u32,
        /// The key's place in it.
        index: u32,
        /// At most [`crate::limits::HANDOFF_CHUNK_BYTES`].
        bytes: Bytes,
    },
    /// Server: the next bytes of a result, packed with LZ4. Only to clients that take them.
    Packed {
        /// The request.
        request: u32,
        /// The key's place in it.
        index: u32,
        /// How many bytes they are unpacked, at most [`crate::limits::HANDOFF_CHUNK_BYTES`].
        length: u32,
        /// Fewer than that.
        bytes: Bytes,
    },
    /// Server: yes, I am.
    Pong {
        /// The request.
        request: u32,
    },
    /// Server: push what was offered.
    Accepted {
        /// The request of the offer.
        request: u32,
    },
    /// Server: what was offered is held here now.
    Stored {
        /// The request of the offer.
        request: u32,
    },
    /// Server: it is not, and will not be.
    Refused {
        /// The request of the offer.
        request: u32,
        /// Why.
        reason: Reason,
    },
}

/// The kind bytes of the frames whose bodies are streamed instead of read whole.
pub const PUSH: u8 = 21;
/// See [`PUSH`].
pub const CHUNK: u8 = 34;
/// See [`PUSH`].
pub const PACKED: u8 = 39;

impl Frame {
    /// The byte that tells this frame's kind.
    pub const fn kind(&self) -> u8 {
        match self {
            Self::Hello { .. } => 1,
            Self::Challenge { .. } => 2,
            Self::Proof(_) => 3,
            Self::Welcome(_) => 4,
            Self::Goodbye(_) => 5,
            Self::Get { .. } => 16,
            Self::Cancel { .. } => 17,
            Self::Ping { .. } => 18,
            Self::Drop(_) => 19,
            Self::Offer { .. } => 20,
            Self::Push { .. } => PUSH,
            Self::Found { .. } => 32,
            Self::NotHeld { .. } => 33,
            Self::Chunk { .. } => CHUNK,
            Self::Pong { .. } => 35,
            Self::Accepted { .. } => 36,
            Self::Stored { .. } => 37,
            Self::Refused { .. } => 38,
            Self::Packed { .. } => PACKED,
        }
    }

    /// The bytes of a result that the frame carries, which follow its head.
    pub fn payload(&self) -> Option<&Bytes> {
        match self {
            Self::Push { bytes, .. } | Self::Chunk { bytes, .. } | Self::Packed { bytes, .. } => {
                Some(bytes)
            }
            _ => None,
        }
    }

    /// Appends the frame but for its [payload](Self::payload).
    pub fn encode_head(&self, out: &mut BytesMut) {
        let start = out.len();
        out.put_u32(0);
        out.put_u8(self.kind());
        self.encode_body(out);
        let length = out.len() - start - 4 + self.payload().map_or(0, Bytes::len);
        // Every body is bounded by `body_max`, far below 4 GiB.
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        out[start..start + 4].copy_from_slice(&length.to_be_bytes());
    }

    /// Appends the whole frame.
    pub fn encode(&self, out: &mut BytesMut) {
        self.encode_head(out);
        if let Some(payload) = self.payload() {
            out.put_slice(payload);
        }
    }

    fn encode_body(&self, out: &mut BytesMut) {
        match self {
            Self::Hello { version, nonce, expected: incarnation } => {
                out.put_slice(&MAGIC);
                put_greeting(out, *version, nonce, *incarnation);
            }
            Self::Challenge { version, nonce, actual } => {
                put_greeting(out, *version, nonce, *actual);
            }
            Self::Proof(proof) | Self::Welcome(proof) => out.put_slice(proof),
            Self::Goodbye(reason) => out.put_u8(*reason as u8),
            Self::Get { request, keys } => {
                out.put_u32(*request);
                put_keys(out, keys);
            }
            Self::Drop(keys) => keys.iter().for_each(|key| put_key(out, key)),
            Self::Offer { request, key, length, digest } => {
                out.put_u32(*request);
                put_key(out, key);
                out.put_u64(*length);
                out.put_slice(&digest.to_bytes());
            }
            Self::Found { request, index, length, digest } => {
                out.put_u32(*request);
                out.put_u32(*index);
                out.put_u64(*length);
                out.put_slice(&digest.to_bytes());
            }
            Self::NotHeld { request, index } | Self::Chunk { request, index, .. } => {
                out.put_u32(*request);
                out.put_u32(*index);
            }
            Self::Packed { request, index, length, .. } => {
                out.put_u32(*request);
                out.put_u32(*index);
                out.put_u32(*length);
            }
            Self::Refused { request, reason } => {
                out.put_u32(*request);
                out.put_u8(*reason as u8);
            }
            Self::Cancel { request }
            | Self::Ping { request }
            | Self::Push { request, .. }
            | Self::Pong { request }
            | Self::Accepted { request }
            | Self::Stored { request } => out.put_u32(*request),
        }
    }
}

fn put_greeting(out: &mut BytesMut, version: u8, nonce: &[u8], incarnation: Incarnation) {
    out.put_u8(version);
    out.put_slice(nonce);
    out.put_slice(&incarnation.to_bytes());
}

fn put_keys(out: &mut BytesMut, keys: &[ResultKey]) {
    for key in keys {
        put_key(out, key);
    }
}

fn put_key(out: &mut BytesMut, key: &ResultKey) {
    out.put_slice(&key.run.to_bytes());
    out.put_u64(key.task.to_bits());
    out.put_u8(key.generation);
    out.put_u64(key.nonce);
}

#[cfg(test)]
mod tests;
