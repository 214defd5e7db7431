//! The states of a task and of a run, and every step between them.
//!
//! ```text
//!              ┌──────────── retry: same generation, next attempt
//!              ▼        │
//!  staged ─▶ Pending ───┼─▶ Done ──── no consumer left ──▶ Freed
//!              ▲  │     ├─▶ Failed        ▲                 │
//!              │  │     └─▶ Skipped: an input has no result │
//!              │  └ forwarded: waits for the task it returned
//!              └────────────── rearm: the result is lost, generation + 1
//! ```
//!
//! In a run that has ended without success, Failed and Skipped become Pending again when it is taken
//! up (*revive*), also one generation on; the run itself goes back to Closed (*resume*).
//!
//! A pending task is *ready* when its count of pending inputs is zero; readiness is never stored.
//!
//! **I1.** For every pending task s, `pending[s]` is the number of its inputs that are pending.
//! Hence a repeated completion cannot decrement twice, a recomputation cannot release twice.
//!
//! **I2.** For every task u, the low 30 bits of `consumers[u]` are the number of its consumers that
//! are pending; its top bit stands while a handle or the list of outputs names u, the next one
//! while u must be kept for the life of the run. At zero the result is freed at once.

use crate::limits;

/// Where a task stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum TaskState {
    /// Not finished: waiting, ready, or running somewhere.
    Pending = 0,
    /// Finished; its result is where its locator says.
    Done = 1,
    /// Finished with an error.
    Failed = 2,
    /// Not run, because an input has no result.
    Skipped = 3,
    /// Finished, and its result no longer needed.
    Freed = 4,
}

impl TaskState {
    /// The state of a stored number.
    pub fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Pending),
            1 => Some(Self::Done),
            2 => Some(Self::Failed),
            3 => Some(Self::Skipped),
            4 => Some(Self::Freed),
            _ => None,
        }
    }

    /// Whether a consumer must be skipped because of this input.
    pub fn has_no_result(self) -> bool {
        matches!(self, Self::Failed | Self::Skipped)
    }
}

/// A task's byte in the state column: state in bits 0–2, forwarded in bit 3, generation in 4–7.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StateByte(pub u8);

/// Set while a pending task waits for the task that it returned.
pub const FORWARDED: u8 = 1 << 3;

impl StateByte {
    /// A byte of its parts; the generation's low four bits count.
    pub const fn new(state: TaskState, generation: u8) -> Self {
        Self(state as u8 | (generation << 4))
    }

    /// The state; bytes that no version wrote read as failed, so that nothing runs on them.
    pub fn state(self) -> TaskState {
        TaskState::from_number(self.0 & 7).unwrap_or(TaskState::Failed)
    }

    /// How often the task was rearmed.
    pub const fn generation(self) -> u8 {
        self.0 >> 4
    }

    /// Whether the task has returned another task, whose result it will hand on.
    pub const fn is_forwarded(self) -> bool {
        self.0 & FORWARDED != 0
    }

    /// The same task in another state.
    #[must_use]
    pub const fn with(self, state: TaskState) -> Self {
        Self((self.0 & 0xf0) | state as u8)
    }

    /// Pending once more, one generation on; `None` when it was recomputed too often.
    pub fn rearmed(self) -> Option<Self> {
        let next = self.generation() + 1;
        let keep = self.0 & FORWARDED;
        (next <= limits::RECOMPUTE_MAX)
            .then_some(Self((next << 4) | keep | TaskState::Pending as u8))
    }
}

/// In the consumers column: a handle or the outputs name the task.
pub const PINNED: u32 = 1 << 31;
/// In the consumers column: the result of an effect, freed only with its run.
pub const KEPT: u32 = 1 << 30;

/// Where a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum RunState {
    /// Running, and more segments may come.
    Open = 1,
    /// Running; no more segments will come from the client.
    Closed = 2,
    /// Every task is finished and none failed.
    Done = 3,
    /// A task failed: all others have finished or, when failing fast, will never start.
    Failed = 4,
    /// Cancelled on request.
    Cancelled = 5,
    /// Being deleted.
    Purging = 6,
}

impl RunState {
    /// The state of a stored number.
    pub fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Open),
            2 => Some(Self::Closed),
            3 => Some(Self::Done),
            4 => Some(Self::Failed),
            5 => Some(Self::Cancelled),
            6 => Some(Self::Purging),
            _ => None,
        }
    }

    /// Whether tasks may still be committed.
    pub fn is_running(self) -> bool {
        matches!(self, Self::Open | Self::Closed)
    }
}

/// What a failed task means for the rest of its run.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize,
)]
#[repr(u8)]
pub enum FailurePolicy {
    /// The run fails at once; what has not started never will.
    #[default]
    FailFast = 0,
    /// Branches that do not depend on it finish; what does is skipped with the cause.
    Continue = 1,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_keep_state_generation_and_forwarding() {
        let byte = StateByte::new(TaskState::Done, 3);
        assert_eq!((byte.state(), byte.generation()), (TaskState::Done, 3));
        let again = byte.rearmed().unwrap();
        assert_eq!((again.state(), again.generation()), (TaskState::Pending, 4));
        assert_eq!(StateByte::new(TaskState::Done, 15).rearmed(), None);
        assert!(StateByte(FORWARDED | 0x20).rearmed().unwrap().is_forwarded());
        assert_eq!(StateByte(7).state(), TaskState::Failed);
    }
}
