//! Identities: runs, tasks, workers. Newtypes of fixed size, so that none is taken for another.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Tasks in one segment at the most: an index fits 16 bits.
pub const SEGMENT_TASKS_MAX: usize = 1 << 16;

/// One submitted graph. 128 bits, the first 48 of them the time in milliseconds, so that ids sort by age.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RunId(u128);

impl RunId {
    /// An id from a time (milliseconds since 1970) and 80 random bits.
    pub fn new(unix_ms: u64, random: u128) -> Self {
        Self((u128::from(unix_ms) << 80) | (random & ((1 << 80) - 1)))
    }

    /// The id's 16 bytes, most significant first.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// The id of 16 bytes.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(bytes))
    }

    /// When it was given, in milliseconds since 1970, by the clock of whoever gave it.
    pub fn unix_ms(self) -> u64 {
        u64::try_from(self.0 >> 80).unwrap_or(u64::MAX)
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RunId({self})")
    }
}

/// A text that is no run id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a run id has 32 hexadecimal digits, not {0:?}")]
pub struct BadRunId(String);

impl FromStr for RunId {
    type Err = BadRunId;

    fn from_str(text: &str) -> Result<Self, BadRunId> {
        let plain = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        match u128::from_str_radix(text, 16) {
            Ok(value) if plain => Ok(Self(value)),
            _ => Err(BadRunId(text.chars().take(64).collect())),
        }
    }
}

/// One task of a run: the number of its segment and its index there. Every edge of a staged graph
/// goes from a lower id to a higher one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u64")]
pub struct TaskId(u64);

/// A number that is no task's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a task's number has 48 bits, not those of {0}")]
pub struct BadTaskId(u64);

impl TryFrom<u64> for TaskId {
    type Error = BadTaskId;

    fn try_from(bits: u64) -> Result<Self, BadTaskId> {
        Self::from_bits(bits).ok_or(BadTaskId(bits))
    }
}

impl TaskId {
    /// The task at `index` of `segment`.
    pub const fn new(segment: u32, index: u16) -> Self {
        Self(((segment as u64) << 16) | index as u64)
    }

    /// The number of the segment that holds the task.
    #[allow(clippy::cast_possible_truncation, reason = "from_bits admits 48 bits only")]
    pub const fn segment(self) -> u32 {
        (self.0 >> 16) as u32
    }

    /// The task's place in its segment.
    #[allow(clippy::cast_possible_truncation, reason = "the low 16 bits are meant")]
    pub const fn index(self) -> u16 {
        self.0 as u16
    }

    /// The id as one number of 48 bits: segment, then index.
    pub const fn to_bits(self) -> u64 {
        self.0
    }

    /// The id of a number; `None` above 48 bits.
    pub const fn from_bits(bits: u64) -> Option<Self> {
        if bits >> 48 == 0 { Some(Self(bits)) } else { None }
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.segment(), self.index())
    }
}

impl fmt::Debug for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TaskId({self})")
    }
}

/// A worker's short name inside locators: random, unique among the living, 24 bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct WorkerIndex(u32);

impl WorkerIndex {
    /// The low 24 bits of `value`.
    pub const fn new(value: u32) -> Self {
        Self(value & 0x00ff_ffff)
    }

    /// The index as a number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for WorkerIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "w{:06x}", self.0)
    }
}

impl fmt::Debug for WorkerIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WorkerIndex({self})")
    }
}

/// One life of a worker process. A restarted worker is another incarnation, whatever its address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Incarnation(u128);

impl Incarnation {
    /// The incarnation of 128 random bits.
    pub const fn new(random: u128) -> Self {
        Self(random)
    }

    /// The id's 16 bytes.
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// The incarnation of 16 bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(bytes))
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Incarnation({self})")
    }
}

/// A committed result as its holder knows it. `generation` counts recomputations, `nonce` tells
/// apart two attempts at the same generation: only the one that a commit named is ever served.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct ResultKey {
    /// The run.
    pub run: RunId,
    /// The task whose result it is.
    pub task: TaskId,
    /// How often the task had been recomputed before.
    pub generation: u8,
    /// Drawn at random for each attempt.
    pub nonce: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn task_ids_keep_their_parts() {
        let id = TaskId::new(70_000, 65_535);
        assert_eq!((id.segment(), id.index()), (70_000, 65_535));
        assert_eq!(TaskId::from_bits(id.to_bits()), Some(id));
        assert_eq!(TaskId::from_bits(1 << 48), None);
    }

    #[test]
    fn run_ids_read_back_and_sort_by_time() {
        let (old, new) = (RunId::new(1, u128::MAX), RunId::new(2, 0));
        assert!(old < new);
        assert_eq!(old.to_string().parse(), Ok(old));
        assert!("+0000000000000000000000000000001".parse::<RunId>().is_err());
        assert!("12".parse::<RunId>().is_err());
    }
}
