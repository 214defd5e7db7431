//! A run and every operation on it, as values: what is asked, what is answered. [`spec`] says what
//! each operation does, in plain Rust on plain columns; the functions in the store do the same on
//! packed strings, and one suite holds them to it.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::id::{Incarnation, RunId, TaskId};
use crate::locator::Locator;
use crate::state::{FailurePolicy, RunState, StateByte};

mod dump;
mod examine;
pub mod spec;

pub use dump::{RunDump, SegmentDump, TaskDump};
pub use examine::{Counts, Examination, Finding, Mend, Tally};

/// What identifies a segment's content: the same bytes may be staged again, others may not.
pub type SegmentDigest = [u8; 16];

/// Segments that tasks submit are numbered from here, so that they never meet the client's.
pub const SPAWNED_SEGMENTS: u32 = 1 << 31;

/// The small string map that travels with a run: parameters, tags, trace context, deadline.
pub type Header = BTreeMap<String, String>;

/// Makes a run known before anything of it is staged.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Open {
    /// The name people find it by, when it has one.
    pub name: Option<String>,
    /// Of the whole graph, or of the stream's name: another content under the same name is refused.
    pub digest: [u8; 32],
    /// What a failed task means for the rest.
    pub policy: FailurePolicy,
    /// Travels with the run.
    pub header: Header,
    /// How long without a sign of the client before an open run is closed, in milliseconds.
    pub client_lease_ms: u64,
    /// How long state and results outlive the end, in milliseconds.
    pub retention_ms: u64,
}

/// How opening ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opened {
    /// The run is new.
    Created,
    /// The same content runs under this name already, as this run.
    Attached(RunId),
    /// The name stands for other content: this run.
    Conflict(RunId),
}

/// Writes a segment's columns and descriptors. May be repeated until the segment is active.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// Its number.
    pub segment: u32,
    /// Of its content.
    pub digest: SegmentDigest,
    /// For each task, the number of its inputs in the same segment.
    pub pending: Vec<u32>,
    /// For each task, its consumers in the same segment and [`crate::state::PINNED`].
    pub consumers: Vec<u32>,
    /// Descriptor chunks of [`crate::limits::CHUNK_TASKS`] tasks each.
    pub chunks: Vec<Bytes>,
}

/// Why a segment was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The run is not there: never opened, purged, or lost with the store's data.
    #[error("the store knows nothing of this run: it was purged, or the store has lost its data")]
    Unknown,
    /// The run takes no more segments.
    #[error("the run is {0:?} and takes no more tasks")]
    NotOpen(RunState),
    /// Another segment of this number is there.
    #[error("another client has staged a different segment of this number")]
    Conflict,
    /// Its columns contradict each other, or an edge does not go from a lower id to a higher one.
    #[error("the segment is malformed: {0}")]
    Malformed(&'static str),
    /// Its client has staged more than the run has.
    #[error("the store has lost the last segments of the run")]
    Incomplete,
}

/// Makes a staged segment part of the run, a slice of its edges from earlier segments at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Activate {
    /// Its number.
    pub segment: u32,
    /// Of its content.
    pub digest: SegmentDigest,
    /// Edges that earlier slices have registered: this slice starts there.
    pub cursor: u32,
    /// Earlier task → index of its consumer here; each pair once in all slices.
    pub edges: Vec<(TaskId, u16)>,
    /// Whether no slice follows.
    pub last: bool,
}

/// How activation stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Activated {
    /// The slice is registered; the next one starts here.
    More {
        /// Edges registered.
        cursor: u32,
    },
    /// The segment is active: these tasks of it are ready.
    Active {
        /// Indexes, ascending.
        ready: Vec<u16>,
    },
    /// It was active before.
    Already,
}

/// One finished task of a commit.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Finished {
    /// Its index in the commit's segment.
    pub index: u16,
    /// The generation that was computed.
    pub generation: u8,
    /// How it ended.
    pub end: End,
    /// The nonce of its lease, when it has one: required for failures and effects.
    pub lease: Option<u64>,
}

/// How a task ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum End {
    /// With a result at this locator; `record` is the value of a stored result or the
    /// [`crate::locator::HeldRecord`] of a held one, empty for an embedded one.
    Done {
        /// Where the result is.
        locator: Locator,
        /// What is stored beside the task.
        record: Bytes,
        /// The result of an effect: kept until the run is purged.
        keep: bool,
    },
    /// With an error: an encoded [`crate::error::TaskError`].
    Failed {
        /// The error.
        error: Bytes,
    },
    /// Not run, because this task has no result.
    Skipped {
        /// The first task of the chain of causes.
        cause: TaskId,
    },
    /// It returned a task: from now on it is pending on that one alone and will hand on its result.
    Forwarded {
        /// A task of the segment that this commit spawns.
        to: TaskId,
    },
}

/// A list of releases that a commit wrote down, until they are published or run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OutboxId {
    /// Who committed.
    pub owner: Incarnation,
    /// Its how-many-eth commit; never used twice.
    pub sequence: u64,
}

/// Finishes 1–256 tasks of one segment, all or none.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Commit {
    /// The segment.
    pub segment: u32,
    /// What finished, ascending by index, each once.
    pub finished: Vec<Finished>,
    /// Successors of the finished in active segments' descriptors, with how many of the finished
    /// each has as input; ascending. Successors in later segments are known to the store.
    pub releases: Vec<(TaskId, u32)>,
    /// Inputs of the finished, with how many of the finished each is an input of; ascending.
    pub consumed: Vec<(TaskId, u32)>,
    /// Where the releases are written down.
    pub outbox: OutboxId,
    /// Earlier entries of the same owner that are published or committed: deleted.
    pub settled: Vec<u64>,
    /// A staged segment of tasks that the only finished task has submitted.
    pub spawn: Option<(u32, SegmentDigest)>,
}

/// A task that became ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ready {
    /// The task.
    pub task: TaskId,
    /// How often it was rearmed: the generation that its next commit names.
    pub generation: u8,
    /// The task it returned, whose result it hands on.
    pub forwarded: Option<TaskId>,
}

impl Ready {
    /// A task that nothing is special about: generation 0, not forwarded.
    pub const fn first(task: TaskId) -> Self {
        Self { task, generation: 0, forwarded: None }
    }
}

/// A result that nobody needs any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FreedResult {
    /// Whose it was.
    pub task: TaskId,
    /// Of which generation.
    pub generation: u8,
    /// Where it was.
    pub locator: Locator,
}

/// How a commit ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Committed {
    /// Written.
    Written {
        /// What it made ready, ascending; also in the outbox entry.
        ready: Vec<Ready>,
        /// What it freed.
        freed: Vec<FreedResult>,
        /// The run afterwards.
        run: RunState,
    },
    /// Nothing was written, because some of the tasks are not pending at the given generation, or
    /// are leased to others: their current states and locators, in the order of the commit.
    Superseded(Vec<(StateByte, Locator)>),
    /// Nothing was written: the run is not there or no longer running.
    NotRunning(Option<RunState>),
}

/// How an attempt came to its end without a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setback {
    /// With an error.
    Failed,
    /// It ran out of time on a thread, which cannot be stopped: a failure, and its task is a suspect.
    Stuck,
    /// Its process died, and it ran alone there: a crash, and its task is a suspect.
    Crashed,
}

/// A failed attempt is to be repeated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retry {
    /// The task.
    pub task: TaskId,
    /// Its generation.
    pub generation: u8,
    /// How it failed.
    pub setback: Setback,
    /// The attempt that failed, 1 for the first; of a crash, which crash of the task it was.
    pub attempt: u32,
    /// The nonce of its lease, when it has one.
    pub lease: Option<u64>,
    /// How long to wait, in milliseconds.
    pub delay_ms: u64,
}

/// How a retry was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retried {
    /// The next attempt may start at this time of the store's clock.
    Due {
        /// Milliseconds since 1970.
        at_ms: u64,
    },
    /// Someone else has finished or retried it.
    Stale,
}

/// A result that cannot be had from where its locator says.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Lost {
    /// Whose it is.
    pub task: TaskId,
    /// The locator that was followed.
    pub locator: Locator,
    /// The task's inputs, from its descriptor.
    pub inputs: Vec<TaskId>,
    /// Its successors of the same segment, from its descriptor.
    pub successors: Vec<TaskId>,
}

impl Lost {
    /// Whether a worker was said to hold it.
    pub fn is_held(&self) -> bool {
        matches!(self.locator, Locator::Held { .. })
    }
}

/// What became of a lost result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rearmed {
    /// Pending again, with this many pending inputs; at zero the caller runs or publishes it.
    Pending(u32),
    /// Being recomputed already.
    Already,
    /// It is somewhere else by now: look again.
    Moved,
    /// Recomputed too often: the data cannot be had.
    TooOften,
    /// The result of an effect, which is never run again: the data cannot be had.
    Kept,
    /// Nobody needs it, or the run has ended before all of its tasks had.
    NotNeeded,
}

/// A task without a result, in an ended run that is taken up again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revive {
    /// The task.
    pub task: TaskId,
    /// The generation that failed or was skipped.
    pub generation: u8,
    /// The task's inputs, from its descriptor.
    pub inputs: Vec<TaskId>,
    /// Its successors of the same segment, from its descriptor.
    pub successors: Vec<TaskId>,
}

/// What became of a task to be revived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Revived {
    /// Pending, one generation on, with this many pending inputs.
    Pending(u32),
    /// It is not failed or skipped at that generation.
    Stale,
    /// It was recomputed or revived too often: run the graph again.
    TooOften,
    /// The run has not ended, or is not there.
    NotEnded,
}

/// Protects a long task from being run twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseRequest {
    /// The task.
    pub task: TaskId,
    /// Its generation.
    pub generation: u8,
    /// Drawn at random by the attempt.
    pub nonce: u64,
    /// Take it over from the holder of this nonce, which was found dead.
    pub over: Option<u64>,
}

/// Whether the caller may run the task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leased {
    /// Yes; this is attempt number so-and-so.
    Granted {
        /// 1 for the first.
        attempt: u32,
        /// Of a suspect: how often it has crashed. It is to run in a process of its own.
        crashes: Option<u32>,
    },
    /// No: it runs elsewhere.
    Taken {
        /// By this worker.
        holder: Incarnation,
        /// With this nonce.
        nonce: u64,
    },
    /// No: it is finished, or the run is not running.
    Over,
    /// Not yet: its next attempt is due later.
    NotDue {
        /// Milliseconds since 1970 by the store's clock.
        at_ms: u64,
    },
}

/// The result of a finished task is somewhere else from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relocation {
    /// Whose it is.
    pub task: TaskId,
    /// Of which generation.
    pub generation: u8,
    /// The locator that it had.
    pub from: Locator,
    /// The locator that it has.
    pub to: Locator,
    /// What is stored beside the task: a [`crate::locator::HeldRecord`].
    pub record: Bytes,
}

/// One task as the store knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskStatus {
    /// State and generation.
    pub state: StateByte,
    /// Inputs that are pending.
    pub pending: u32,
    /// Consumers that are pending, with [`crate::state::PINNED`] and [`crate::state::KEPT`].
    pub consumers: u32,
    /// Where its result is.
    pub locator: Locator,
    /// The value of a stored result, the record of a held one, the error of a failed one, the six
    /// bytes of the task a forwarded one waits for.
    pub record: Option<Bytes>,
    /// Failed attempts so far.
    pub failures: u32,
}

impl TaskStatus {
    /// The task that a forwarded one waits for.
    pub fn forwarded(&self) -> Option<TaskId> {
        let record = self.record.as_deref().filter(|_| self.state.is_forwarded())?;
        let mut bits = [0; 8];
        bits[2..].copy_from_slice(record.get(..6)?);
        TaskId::from_bits(u64::from_be_bytes(bits))
    }
}

/// A run as the store knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunStatus {
    /// Where it stands.
    pub state: RunState,
    /// Tasks of active segments.
    pub tasks: u64,
    /// Finished ones of them.
    pub finished: u64,
    /// Failed ones of those.
    pub failed: u64,
    /// Segments of the client so far.
    pub segments: u32,
    /// Segments that tasks have submitted or reserved.
    pub spawned: u32,
    /// The name people find it by.
    pub name: Option<String>,
    /// What travels with it.
    pub header: Header,
    /// Why it was cancelled, or the task that failed it.
    pub reason: Option<Reason>,
}

/// Why a run ended before all of its tasks had.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Reason {
    /// This task failed first.
    Task(TaskId),
    /// Someone cancelled it, and said why.
    Cancelled(String),
}

/// A pinned task finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FinishedEvent {
    /// The task.
    pub task: TaskId,
    /// Its state and generation.
    pub state: StateByte,
    /// Its locator: an embedded result needs no further read.
    pub locator: Locator,
}
