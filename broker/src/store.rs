//! The store: what is true of every run. [`Memory`] wraps the specification; [`Redis`] does the same
//! by functions that run inside the server. One conformance suite holds both to it.
//!
//! Every operation may be repeated with the same arguments: a caller whose reply was lost
//! ([`Error::is_ambiguous`]) simply asks again.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::args::BlobDigest;
use crate::id::{Incarnation, RunId, TaskId, WorkerIndex};
use crate::line::{Broken, carry};
use crate::locator::Locator;
use crate::run::{
    Activate, Activated, Commit, Committed, FinishedEvent, FreedResult, LeaseRequest, Leased, Lost,
    Mend, Open, Opened, OutboxId, Ready, Rearmed, Refused, Relocation, Retried, Retry, Revive,
    Revived, RunDump, RunStatus, Stage, Tally, TaskStatus,
};
use crate::state::RunState;
use crate::wire::WireError;

mod memory;
mod redis;

pub use memory::{Memory, Snapshot};
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub use redis::fuzz;
pub use redis::{Functions, Keyspace, Redis, RunKeys, Survey, functions_version};

/// One life of the store's data: another one after a restart, when its last second may be missing.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Epoch(pub String);

impl Epoch {
    /// Said in a message: ask the store where its tasks stand.
    pub fn unknown() -> Self {
        Self(String::new())
    }

    /// Said in a message: ask the store, and the worker that had its tasks has died. No store names
    /// a life so.
    pub fn suspicious() -> Self {
        Self("!".to_owned())
    }
}

/// A worker as others see it. Kept while renewed. Builds of other versions read it too: they need its
/// life and its address, the rest may be absent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerRecord {
    /// Its life.
    pub incarnation: Incarnation,
    /// `host:port` of its data port.
    pub address: String,
    /// Tasks it runs at once.
    #[serde(default)]
    pub slots: u32,
    /// Queues it serves.
    #[serde(default)]
    pub queues: Vec<String>,
    /// What it has in flight, by run: running, waiting for inputs, prefetched.
    #[serde(default)]
    pub in_flight: Vec<(RunId, Vec<TaskId>)>,
    /// Bytes of results it holds.
    #[serde(default)]
    pub held_bytes: u64,
    /// Names and signatures of the tasks it can run.
    #[serde(default)]
    pub tasks: Vec<(String, String)>,
}

impl WorkerRecord {
    /// The stored form: MessagePack with named fields, so that later versions can add some.
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        rmp_serde::to_vec_named(self).map_err(|_| WireError::Invalid("the record of a worker"))
    }

    /// Reads the stored form.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        rmp_serde::from_slice(bytes).map_err(|_| WireError::Invalid("the record of a worker"))
    }
}

/// Where a reader of a run's events stands. Starts at the default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventCursor(pub String);

impl EventCursor {
    const NEW_RUN: &str = "new";

    /// The start, for whoever has just opened the run: it is there and has not ended, so a store may
    /// wait for the first events without looking first.
    pub fn of_new_run() -> Self {
        Self(Self::NEW_RUN.to_owned())
    }

    pub(crate) fn is_of_new_run(&self) -> bool {
        self.0 == Self::NEW_RUN
    }
}

/// What has happened since a cursor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Events {
    /// Pinned tasks that finished, oldest first.
    pub finished: Vec<FinishedEvent>,
    /// Where to go on.
    pub cursor: EventCursor,
    /// Older events than these were dropped unread: look at the tasks themselves.
    pub gap: bool,
    /// The run; `None` when the store knows nothing of it.
    pub run: Option<RunState>,
}

/// The store could not do what was asked.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No connection: nothing has happened.
    #[error("no Redis at {address}: {reason}; is it running, and are host and port right?")]
    Unreachable {
        /// `host:port`.
        address: String,
        /// What the connection said.
        reason: String,
    },
    /// The connection broke or the deadline passed after the request was sent.
    #[error("Redis at {address} did not answer: {reason}; the request may have been carried out")]
    Unanswered {
        /// `host:port`.
        address: String,
        /// What the connection said.
        reason: String,
    },
    /// User name or password is wrong, or a right is missing.
    #[error(
        "Redis at {address} refused this user: {reason}; check the user name, its password and its \
         rights"
    )]
    Denied {
        /// `host:port`.
        address: String,
        /// What the server said.
        reason: String,
    },
    /// It cannot be used as it is set up.
    #[error("Redis at {address} cannot be used: {reason}")]
    Unsuitable {
        /// `host:port`.
        address: String,
        /// What is wrong and what to change.
        reason: String,
    },
    /// It has no memory or disk left for new work.
    #[error("Redis at {address} is full: {reason}")]
    Full {
        /// `host:port`.
        address: String,
        /// What the server said.
        reason: String,
    },
    /// The operation does not fit the run.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The store holds or answers something that no version of this program writes.
    #[error("the store holds damaged data: {0}")]
    Corrupt(String),
}

impl Error {
    /// Whether the same request can succeed later.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Unanswered { .. } | Self::Full { .. })
    }

    /// Whether the request may have been carried out.
    pub fn is_ambiguous(&self) -> bool {
        matches!(self, Self::Unanswered { .. })
    }
}

impl Broken for Error {
    fn refused() -> Self {
        let (address, reason) = ("the store".to_owned(), "the line is down".to_owned());
        Self::Unreachable { address, reason }
    }

    fn unanswered() -> Self {
        let (address, reason) = ("the store".to_owned(), "the line is down".to_owned());
        Self::Unanswered { address, reason }
    }
}

/// The store, whichever it is. A cheap clone.
#[derive(Debug, Clone)]
pub enum Store {
    /// In this process.
    Memory(Memory),
    /// In a Redis server.
    Redis(Redis),
}

/// Hands each call to the store there is.
macro_rules! dispatch {
    ($($(#[$doc:meta])* $name:ident($($arg:ident: $type:ty),*) -> $reply:ty;)*) => {
        impl Store {
            $($(#[$doc])*
            pub async fn $name(&self, $($arg: $type),*) -> Result<$reply, Error> {
                match self {
                    Self::Memory(store) => {
                        carry(store.line(), stringify!($name), store.$name($($arg),*)).await
                    }
                    // Boxed: its future is large, and callers nest deeply.
                    Self::Redis(store) => Box::pin(store.$name($($arg),*)).await,
                }
            })*
        }
    };
}

#[cfg(feature = "failpoints")]
impl Store {
    /// From now on every change of a run is written down.
    pub async fn start_audit(&self) -> Result<(), Error> {
        match self {
            Self::Memory(store) => store.start_audit().await,
            Self::Redis(store) => store.start_audit().await,
        }
    }

    /// Every change that was written down so far, in the order in which they were made.
    pub async fn audit(&self) -> Result<Vec<crate::audit::Entry>, Error> {
        match self {
            Self::Memory(store) => store.audit().await,
            Self::Redis(store) => store.audit().await,
        }
    }
}

dispatch! {
    /// The life of the store's data.
    epoch() -> Epoch;
    /// Makes `run` known, or finds the one that has its name and content.
    open(run: RunId, open: &Open) -> Opened;
    /// The run of this name.
    find(name: &str) -> Option<RunId>;
    /// Runs that are not purged, oldest first.
    runs() -> Vec<RunId>;
    /// What a run is; `None` when it is not there.
    status(run: RunId) -> Option<RunStatus>;
    /// Writes a segment's columns and descriptors.
    stage(run: RunId, stage: &Stage) -> ();
    /// Registers edges, and with the last slice makes the segment active.
    activate(run: RunId, activate: &Activate) -> Activated;
    /// [`Self::stage`], and [`Self::activate`] if that succeeded, in one round trip; with `open`, that
    /// of a run without a name whose id the caller has drawn, [`Self::open`] before; with `close`,
    /// [`Self::close_whole`] behind: the segment is the last one.
    begin(run: RunId, open: Option<&Open>, stage: &Stage, activate: &Activate, close: bool) -> Activated;
    /// A number for a segment that a task submits, which none has that the store knows of. Workers
    /// draw theirs: a store that has lost its last second gives a number twice.
    reserve(run: RunId) -> u32;
    /// Drops a staged segment that will not be activated.
    unstage(run: RunId, segment: u32) -> ();
    /// Finishes tasks.
    commit(run: RunId, commit: &Commit) -> Committed;
    /// The same if the store is in this life still. In another one, which may have forgotten what the
    /// results were computed from, `None`, and nothing is written; only a commit that the store has
    /// not forgotten is answered again.
    commit_in(run: RunId, life: &Epoch, commit: &Commit) -> Option<Committed>;
    /// Notes a failed attempt and when the next one may start.
    retry(run: RunId, retry: &Retry) -> Retried;
    /// Makes tasks pending whose results are lost, in the order given: consumers before the inputs
    /// that only they need.
    rearm(run: RunId, lost: &[Lost]) -> Vec<Rearmed>;
    /// Makes failed and skipped tasks of an ended run pending; ascending ids.
    revive(run: RunId, tasks: &[Revive]) -> Vec<Revived>;
    /// Makes an ended run go on, unless a task of it counts as failed.
    resume(run: RunId) -> Option<RunState>;
    /// Puts counts of tasks right that still are as they were found; false for the others.
    mend(run: RunId, tasks: &[Mend]) -> Vec<bool>;
    /// Puts the run's totals right if they still are as they were found.
    recount(run: RunId, found: Tally, right: Tally) -> bool;
    /// Takes or prolongs leases for `holder`, each until `hold` from now.
    lease(run: RunId, holder: Incarnation, hold: Duration, requests: &[LeaseRequest]) -> Vec<Leased>;
    /// Ends the leases of these nonces: anyone may run the tasks at once.
    unlease(run: RunId, leases: &[(TaskId, u64)]) -> ();
    /// Changes where results are, if they are still where each says; whether it did.
    relocate(run: RunId, relocations: &[Relocation]) -> Vec<bool>;
    /// Ends the leases of a worker that is no more; those of its tasks that are ready.
    evict(run: RunId, holder: Incarnation) -> Vec<Ready>;
    /// What is known of tasks; `None` for those of segments that are not active.
    inspect(run: RunId, tasks: &[TaskId]) -> Vec<Option<TaskStatus>>;
    /// Descriptor chunks by segment and number.
    chunks(run: RunId, which: &[(u32, u32)]) -> Vec<Option<Bytes>>;
    /// The state column of an active segment, a [`crate::state::StateByte`] a task.
    states(run: RunId, segment: u32) -> Option<Bytes>;
    /// Results of an active segment that `worker` holds and that someone still needs.
    held_by(run: RunId, segment: u32, worker: WorkerIndex) -> Vec<(TaskId, Locator)>;
    /// Numbers of the active segments.
    segments(run: RunId) -> Vec<u32>;
    /// Ready tasks of a segment that are neither leased nor waiting for their next attempt.
    ready(run: RunId, segment: u32) -> Vec<Ready>;
    /// Drops pins; what that freed.
    unpin(run: RunId, tasks: &[TaskId]) -> Vec<FreedResult>;
    /// No more segments will come from the client.
    close(run: RunId) -> Option<RunState>;
    /// The same, refused if the run does not have that many segments: the store has lost some.
    close_whole(run: RunId, segments: u32) -> Option<RunState>;
    /// Ends the run.
    cancel(run: RunId, reason: &str) -> Option<RunState>;
    /// A sign of life of the client.
    keep_alive(run: RunId) -> Option<RunState>;
    /// Deletes everything of the run.
    purge(run: RunId) -> ();
    /// Deletes everything of runs without names, of those that have ended; which are gone.
    reap(runs: &[RunId]) -> Vec<bool>;
    /// Runs that wait for nothing but to be closed or deleted: the client of an open one is silent
    /// for longer than its lease, or an ended one has outlived its retention.
    overdue() -> Vec<RunId>;
    /// Releases that were written down and not settled.
    outbox(run: RunId) -> Vec<(OutboxId, Vec<Ready>)>;
    /// Deletes an outbox entry that was published, if it still reads so.
    settle(run: RunId, id: OutboxId, read: &[Ready]) -> bool;
    /// Waits at most `patience` for events behind `after` or for the end of the run.
    events(run: RunId, after: &EventCursor, patience: Duration) -> Events;
    /// Stores a large argument under its digest.
    put_blob(run: RunId, digest: BlobDigest, bytes: Bytes) -> ();
    /// A large argument.
    blob(run: RunId, digest: BlobDigest) -> Option<Bytes>;
    /// Takes an index that no living worker has. The record runs out in `hold` unless renewed.
    join(record: &WorkerRecord, hold: Duration) -> WorkerIndex;
    /// Renews a worker's record until `hold` from now; false when it had run out.
    beat(index: WorkerIndex, record: &WorkerRecord, hold: Duration) -> bool;
    /// Deletes a worker's record.
    leave(index: WorkerIndex) -> ();
    /// Notes that a worker was found dead: its record goes at once, and it has left no farewell.
    bury(index: WorkerIndex) -> ();
    /// Makes what `owner` has of a task's permits as many as `wanted`, or as others leave of `max`;
    /// how many it has now, until `hold` from now. With 0 wanted it gives them back.
    admit(task: &str, owner: Incarnation, wanted: u32, max: u32, hold: Duration) -> u32;
    /// Says that a worker of these queues could run more tasks, for so long or until it is heard.
    seek(queues: &[String], hold: Duration) -> ();
    /// Whether somebody says so of a queue; once.
    sought(queue: &str) -> bool;
    /// A living worker.
    worker(index: WorkerIndex) -> Option<WorkerRecord>;
    /// All living workers.
    workers() -> Vec<(WorkerIndex, WorkerRecord)>;
    /// So many living workers, the next ones after this one in the order of indexes; after the last
    /// comes the first.
    neighbours(index: WorkerIndex, count: usize) -> Vec<(WorkerIndex, WorkerRecord)>;
    /// Workers that went without a farewell within [`crate::limits::DEATH_MEMORY`].
    deaths() -> Vec<WorkerIndex>;
    /// Everything that is stored of a run that stands still.
    dump(run: RunId) -> Option<RunDump>;
    /// Takes the right to look after a run for a while; false when another has it.
    lock(run: RunId, owner: Incarnation, hold: Duration) -> bool;
}
