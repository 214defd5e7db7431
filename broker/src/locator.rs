//! Where a finished task's result is: 8 bytes, one for each task of a run.
//!
//! | tag | meaning | the other 7 bytes |
//! |---|---|---|
//! | 0 | nothing: not finished, or freed | zero |
//! | 1–8 | the encoded value itself, `tag - 1` bytes of it | the value, then zeros |
//! | 9 | in the store, beside the task | length (u32, the low bytes), zeros |
//! | 10 | held by a worker | worker index (3 bytes), length in units of 4 KiB, rounded up (u32) |
//! | 11 | failed, skipped or cancelled: no result | the task that is the cause (6 bytes), zero |
//! | 12 | with no worker, but where its [`HeldRecord`] names copies | zeros, length as of 10 |
//!
//! The length of a held result only sizes fetches and placement; its exact length and digest stand
//! in the [`HeldRecord`] that is committed with it.

use bytes::Bytes;

use crate::args::BlobDigest;
use crate::id::{TaskId, WorkerIndex};
use crate::wire::{Reader, WireError};

/// A result of up to this many encoded bytes is stored in its locator.
pub const EMBEDDED_MAX: usize = 7;

const TAG_STORED: u8 = 9;
const TAG_HELD: u8 = 10;
const TAG_CAUSE: u8 = 11;
const TAG_APART: u8 = 12;
const HELD_UNIT: u64 = 4 << 10;

/// Where a result is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Locator {
    /// There is none.
    Empty,
    /// The locator is the value: its first `length` bytes.
    Embedded {
        /// Encoded bytes, at most [`EMBEDDED_MAX`].
        length: u8,
        /// The bytes, padded with zeros.
        bytes: [u8; EMBEDDED_MAX],
    },
    /// In the store, with this many bytes.
    Stored {
        /// Encoded bytes.
        length: u32,
    },
    /// A worker holds it.
    Held {
        /// The worker.
        worker: WorkerIndex,
        /// About how many bytes: the true length, rounded up to 4 KiB.
        about_bytes: u64,
    },
    /// No result, because of this task (itself, when it failed).
    Cause(TaskId),
    /// No worker holds it any more: it is where its [`HeldRecord`] names copies.
    Apart {
        /// About how many bytes: the true length, rounded up to 4 KiB.
        about_bytes: u64,
    },
}

impl Locator {
    /// The locator that carries `value`, when it is short enough.
    pub fn embed(value: &[u8]) -> Option<Self> {
        let length = u8::try_from(value.len()).ok().filter(|_| value.len() <= EMBEDDED_MAX)?;
        let mut bytes = [0; EMBEDDED_MAX];
        bytes[..value.len()].copy_from_slice(value);
        Some(Self::Embedded { length, bytes })
    }

    /// The locator of a result of `length` bytes that `worker` holds.
    pub fn held(worker: WorkerIndex, length: u64) -> Self {
        Self::Held { worker, about_bytes: about(length) }
    }

    /// The locator of a result of `length` bytes that outlives the workers.
    pub fn apart(length: u64) -> Self {
        Self::Apart { about_bytes: about(length) }
    }

    /// The value, when the locator carries it.
    pub fn value(&self) -> Option<Bytes> {
        match self {
            Self::Embedded { length, bytes } => {
                Some(Bytes::copy_from_slice(&bytes[..usize::from(*length)]))
            }
            _ => None,
        }
    }

    /// The 8 bytes that are stored.
    pub fn to_bytes(self) -> [u8; 8] {
        let mut out = [0; 8];
        match self {
            Self::Empty => {}
            Self::Embedded { length, bytes } => {
                out[0] = length + 1;
                out[1..].copy_from_slice(&bytes);
            }
            Self::Stored { length } => {
                out[0] = TAG_STORED;
                out[4..].copy_from_slice(&length.to_be_bytes());
            }
            Self::Held { worker, about_bytes } => {
                out[0] = TAG_HELD;
                out[1..4].copy_from_slice(&worker.get().to_be_bytes()[1..]);
                out[4..].copy_from_slice(&units(about_bytes));
            }
            Self::Apart { about_bytes } => {
                out[0] = TAG_APART;
                out[4..].copy_from_slice(&units(about_bytes));
            }
            Self::Cause(task) => {
                out[0] = TAG_CAUSE;
                out[1..7].copy_from_slice(&task.to_bits().to_be_bytes()[2..]);
            }
        }
        out
    }

    /// Reads the 8 bytes of [`Locator::to_bytes`].
    pub fn from_bytes(stored: [u8; 8]) -> Result<Self, WireError> {
        let [tag, rest @ ..] = stored;
        let low = u32::from_be_bytes([rest[3], rest[4], rest[5], rest[6]]);
        match tag {
            0 => Ok(Self::Empty),
            1..=8 => Ok(Self::Embedded { length: tag - 1, bytes: rest }),
            TAG_STORED => Ok(Self::Stored { length: low }),
            TAG_HELD => Ok(Self::Held {
                worker: WorkerIndex::new(u32::from_be_bytes([0, rest[0], rest[1], rest[2]])),
                about_bytes: u64::from(low) * HELD_UNIT,
            }),
            TAG_APART => Ok(Self::Apart { about_bytes: u64::from(low) * HELD_UNIT }),
            TAG_CAUSE => {
                let mut wide = [0; 8];
                wide[2..].copy_from_slice(&rest[..6]);
                let bits = u64::from_be_bytes(wide);
                TaskId::from_bits(bits).map(Self::Cause).ok_or(WireError::Invalid("cause"))
            }
            _ => Err(WireError::Invalid("locator tag")),
        }
    }
}

/// A length rounded up. No result is so long that it could not be, but a record that says so may be
/// damaged.
fn about(length: u64) -> u64 {
    length.div_ceil(HELD_UNIT).saturating_mul(HELD_UNIT)
}

fn units(about_bytes: u64) -> [u8; 4] {
    u32::try_from(about_bytes / HELD_UNIT).unwrap_or(u32::MAX).to_be_bytes()
}

/// Where else a held result is, so that it outlives its holder.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Copies {
    /// This worker holds it too.
    pub worker: Option<WorkerIndex>,
    /// It is in the result folder.
    pub folder: bool,
    /// It is in the store, as a blob named by [`HeldRecord::blob`].
    pub store: bool,
}

impl Copies {
    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }
}

/// What is committed beside the locator of a held result: enough to ask its holder for exactly
/// this value and to check what it sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldRecord {
    /// Encoded bytes.
    pub length: u64,
    /// The value's [`Digest`](crate::handoff::Digest).
    pub digest: [u8; 16],
    /// The attempt that made it.
    pub nonce: u64,
    /// Where else it is.
    pub copies: Copies,
}

const COPY_WORKER: u8 = 1;
const COPY_FOLDER: u8 = 2;
const COPY_STORE: u8 = 4;

impl HeldRecord {
    /// The bytes that are stored: 32, and up to 4 more when there are copies.
    pub fn to_bytes(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(36);
        out.extend(self.length.to_be_bytes());
        out.extend(self.digest);
        out.extend(self.nonce.to_be_bytes());
        let Copies { worker, folder, store } = self.copies;
        if !self.copies.is_empty() {
            let flag = |set, flag| if set { flag } else { 0 };
            let flags = flag(worker.is_some(), COPY_WORKER)
                | flag(folder, COPY_FOLDER)
                | flag(store, COPY_STORE);
            out.push(flags);
        }
        out.extend(worker.iter().flat_map(|worker| worker.get().to_be_bytes().into_iter().skip(1)));
        out
    }

    /// Reads the bytes of [`HeldRecord::to_bytes`].
    pub fn from_bytes(stored: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(stored);
        let mut record = Self {
            length: u64::from_be_bytes(reader.array("length")?),
            digest: reader.array("digest")?,
            nonce: u64::from_be_bytes(reader.array("nonce")?),
            copies: Copies::default(),
        };
        if reader.rest().is_empty() {
            return Ok(record);
        }
        let flags = reader.byte("copies")?;
        if flags & !(COPY_WORKER | COPY_FOLDER | COPY_STORE) != 0 {
            return Err(WireError::Invalid("copies"));
        }
        if flags & COPY_WORKER != 0 {
            let [a, b, c] = reader.array("second holder")?;
            record.copies.worker = Some(WorkerIndex::new(u32::from_be_bytes([0, a, b, c])));
        }
        record.copies.folder = flags & COPY_FOLDER != 0;
        record.copies.store = flags & COPY_STORE != 0;
        reader.finish()?;
        Ok(record)
    }

    /// The name of the copy in the store. Large arguments have the whole hash of their bytes for a
    /// name; the nonce keeps this one apart from them.
    pub fn blob(&self) -> BlobDigest {
        let mut name = [0; 32];
        name[..16].copy_from_slice(&self.digest);
        name[16..24].copy_from_slice(&self.nonce.to_be_bytes());
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_reads_back() {
        let kinds = [
            Locator::Empty,
            Locator::embed(b"").unwrap(),
            Locator::embed(b"1234567").unwrap(),
            Locator::Stored { length: 4096 },
            Locator::held(WorkerIndex::new(0x00ab_cdef), 5000),
            Locator::Cause(TaskId::new(7, 9)),
            Locator::apart(1 << 30),
        ];
        for locator in kinds {
            assert_eq!(Locator::from_bytes(locator.to_bytes()), Ok(locator));
        }
        assert_eq!(Locator::embed(b"12345678"), None);
        assert!(Locator::from_bytes([200, 0, 0, 0, 0, 0, 0, 0]).is_err());
        let copies = [
            Copies::default(),
            Copies { worker: Some(WorkerIndex::new(0x00ab_cdef)), folder: false, store: true },
            Copies { worker: None, folder: true, store: false },
        ];
        for copies in copies {
            let record = HeldRecord { length: 9, digest: [3; 16], nonce: 77, copies };
            let stored = record.to_bytes();
            assert_eq!(HeldRecord::from_bytes(&stored), Ok(record));
            assert!(HeldRecord::from_bytes(&stored[..31]).is_err());
            assert!(HeldRecord::from_bytes(&[&stored[..], &[9]].concat()).is_err());
        }
    }
}
