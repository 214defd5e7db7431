//! Control messages to all workers. Hints only: some may be lost, the state in the store decides.
//!
//! ```text
//! "BHX1" · kind (1 byte) · run (16 bytes)
//! ```

use bytes::Bytes;

use crate::id::RunId;
use crate::wire::{Reader, WireError};

pub(crate) const MAGIC: [u8; 4] = *b"BHX1";
const ENDED: u8 = 1;

/// What workers are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// The run was cancelled or failed: stop its tasks.
    Ended(RunId),
}

impl Control {
    /// The message's wire form.
    pub fn encode(self) -> Bytes {
        let Self::Ended(run) = self;
        let mut out = Vec::with_capacity(21);
        out.extend_from_slice(&MAGIC);
        out.push(ENDED);
        out.extend_from_slice(&run.to_bytes());
        Bytes::from(out)
    }

    /// Reads a message.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(bytes);
        reader.magic(MAGIC, "a control message")?;
        if reader.byte("kind")? != ENDED {
            return Err(WireError::Invalid("kind of a control message"));
        }
        let run = RunId::from_bytes(reader.array("run")?);
        reader.finish()?;
        Ok(Self::Ended(run))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_read_back() {
        let message = Control::Ended(RunId::new(1, 2));
        assert_eq!(Control::decode(&message.encode()), Ok(message));
        assert!(Control::decode(b"BHX1\x02").is_err());
    }
}
