//! What a worker leaves with the broker for the time when it is gone: who it was and where it was
//! reached, so that another worker can make sure and take over its tasks.
//!
//! ```text
//! "BHW1" · worker index (u32) · incarnation (16 bytes) · address (`host:port`, the rest)
//! ```

use bytes::Bytes;

use crate::id::{Incarnation, WorkerIndex};
use crate::wire::{Reader, WireError};

const MAGIC: [u8; 4] = *b"BHW1";
/// Longest address: a host's name has at most 253 bytes, its port six.
const ADDRESS_BYTES_MAX: usize = 260;

/// A worker that was there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Presence {
    /// Its name in locators, and of its record.
    pub index: WorkerIndex,
    /// Its life.
    pub incarnation: Incarnation,
    /// `host:port` of its data port.
    pub address: String,
}

impl Presence {
    /// The message's wire form.
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(24 + self.address.len());
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&self.index.get().to_be_bytes());
        out.extend_from_slice(&self.incarnation.to_bytes());
        out.extend_from_slice(self.address.as_bytes());
        Bytes::from(out)
    }

    /// Reads a message.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(bytes);
        reader.magic(MAGIC, "a presence")?;
        let index = WorkerIndex::new(u32::from_be_bytes(reader.array("worker index")?));
        let incarnation = Incarnation::from_bytes(reader.array("incarnation")?);
        let address = reader.rest();
        if address.len() > ADDRESS_BYTES_MAX {
            return Err(WireError::Invalid("address"));
        }
        let address = std::str::from_utf8(address).map_err(|_| WireError::Invalid("address"))?;
        Ok(Self { index, incarnation, address: address.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_read_back() {
        let presence = Presence {
            index: WorkerIndex::new(7),
            incarnation: Incarnation::new(9),
            address: "host:1234".to_owned(),
        };
        assert_eq!(Presence::decode(&presence.encode()), Ok(presence));
        assert!(Presence::decode(b"BHW1\0\0\0\x07").is_err());
    }
}
