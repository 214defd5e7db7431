//! Control messages to all workers. Hints only: some may be lost, the state in the store decides.
//!
//! ```text
//! "BHX1" · 1 · run (16 bytes)
//! "BHX1" · 2 · run (16 bytes) · holder (3) · to (3) · 1 to 256 × task (6)
//! ```

use bytes::Bytes;

use crate::id::{RunId, TaskId, WorkerIndex};
use crate::limits::RELAY_TASKS_MAX;
use crate::wire::{Reader, WireError};

pub(crate) const MAGIC: [u8; 4] = *b"BHX1";
const ENDED: u8 = 1;
const RELAY: u8 = 2;

/// What workers are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Control {
    /// The run was cancelled or failed: stop its tasks.
    Ended(RunId),
    /// A worker cannot reach the holder of results, which is to give them another place.
    Relay {
        /// Of which run they are.
        run: RunId,
        /// Who holds them; nobody else is meant.
        holder: WorkerIndex,
        /// Who wants them: the place that suits best.
        to: WorkerIndex,
        /// Whose results they are, 1 to [`RELAY_TASKS_MAX`].
        tasks: Vec<TaskId>,
    },
}

impl Control {
    /// The message's wire form.
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(27);
        out.extend_from_slice(&MAGIC);
        match self {
            Self::Ended(run) => {
                out.push(ENDED);
                out.extend_from_slice(&run.to_bytes());
            }
            Self::Relay { run, holder, to, tasks } => {
                out.push(RELAY);
                out.extend_from_slice(&run.to_bytes());
                for worker in [holder, to] {
                    out.extend_from_slice(&worker.get().to_be_bytes()[1..]);
                }
                for task in tasks.iter().take(RELAY_TASKS_MAX) {
                    out.extend_from_slice(&task.to_bits().to_be_bytes()[2..]);
                }
            }
        }
        Bytes::from(out)
    }

    /// Reads a message.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(bytes);
        reader.magic(MAGIC, "a control message")?;
        let kind = reader.byte("kind")?;
        let run = RunId::from_bytes(reader.array("run")?);
        let message = match kind {
            ENDED => Self::Ended(run),
            RELAY => {
                let holder = worker(&mut reader)?;
                let to = worker(&mut reader)?;
                let mut tasks = vec![task(&mut reader)?];
                while !reader.rest().is_empty() && tasks.len() < RELAY_TASKS_MAX {
                    tasks.push(task(&mut reader)?);
                }
                Self::Relay { run, holder, to, tasks }
            }
            _ => return Err(WireError::Invalid("kind of a control message")),
        };
        reader.finish()?;
        Ok(message)
    }
}

fn worker(reader: &mut Reader<'_>) -> Result<WorkerIndex, WireError> {
    let [a, b, c] = reader.array("worker")?;
    Ok(WorkerIndex::new(u32::from_be_bytes([0, a, b, c])))
}

fn task(reader: &mut Reader<'_>) -> Result<TaskId, WireError> {
    let mut bits = [0; 8];
    bits[2..].copy_from_slice(&reader.array::<6>("task")?);
    TaskId::from_bits(u64::from_be_bytes(bits)).ok_or(WireError::Invalid("task"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_read_back() {
        let run = RunId::new(1, 2);
        let message = Control::Ended(run);
        assert_eq!(Control::decode(&message.encode()), Ok(message));
        assert!(Control::decode(b"BHX1\x03").is_err());
        let (holder, to) = (WorkerIndex::new(0x0a_0b0c), WorkerIndex::new(7));
        let tasks: Vec<TaskId> = (0..256).map(|index| TaskId::new(9, index)).collect();
        let message = Control::Relay { run, holder, to, tasks };
        let encoded = message.encode();
        assert_eq!(Control::decode(&encoded), Ok(message));
        assert!(Control::decode(&encoded[..27]).is_err(), "without a task");
        assert!(Control::decode(&[&encoded[..], &[0; 6]].concat()).is_err(), "one too many");
    }
}
