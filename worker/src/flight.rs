//! A task on its way through this worker, and what is handed from step to step.

use std::sync::Arc;
use std::time::Duration;

use bolthole_broker::call::Call;
use bolthole_broker::descriptor::{Chunk, Descriptor};
use bolthole_broker::error::TaskErrorKind;
use bolthole_broker::id::{RunId, TaskId};
use bolthole_broker::locator::{HeldRecord, Locator};
use bolthole_broker::registry::Body;
use bolthole_broker::run::{Ready, SegmentDigest};
use bolthole_broker::task::{TaskClass, TaskKind};
use bytes::Bytes;
use tokio_util::sync::CancellationToken;

/// Tasks that may follow each other without a commit between them.
pub(crate) const LAZY_CHAIN_MAX: u16 = 64;
/// The same where tasks use several results. After the death of a worker all that may have run there
/// is tried one by one, and such tasks become many.
const LAZY_JOIN_MAX: u16 = 16;
/// With more inputs than these it is not looked whether all of them are here.
const LAZY_INPUTS_MAX: usize = 16;

/// A task of a run.
pub(crate) type Key = (RunId, TaskId);

/// A task's descriptor and class, inside the chunk they came in.
#[derive(Debug, Clone)]
pub(crate) struct TaskInfo {
    chunk: Arc<Chunk>,
    place: usize,
}

impl TaskInfo {
    /// The task with this index, when the chunk has it and its class.
    pub(crate) fn find(chunk: &Arc<Chunk>, index: u16) -> Option<Self> {
        let place = chunk.tasks.binary_search_by_key(&index, |task| task.id.index()).ok()?;
        chunk.class(chunk.tasks.get(place)?)?;
        Some(Self { chunk: Arc::clone(chunk), place })
    }

    pub(crate) fn descriptor(&self) -> &Descriptor {
        &self.chunk.tasks[self.place]
    }

    pub(crate) fn class(&self) -> &TaskClass {
        &self.chunk.classes[self.descriptor().class as usize]
    }

    /// Whether it may run on the value of an attempt that is not committed, with so many tasks between
    /// it and the last commit.
    pub(crate) fn may_continue(&self, depth: u16) -> bool {
        let class = self.class();
        // A failed attempt is noted at once, and could be before the task is ready at all: then its
        // next one would be forgotten. Hence no task that may be retried.
        depth < self.ahead_max()
            && class.options.retries == 0
            && class.kind != TaskKind::Effect
            && class.options.not_before_ms.is_none()
    }

    /// How many tasks there may be between it and the last commit.
    pub(crate) fn ahead_max(&self) -> u16 {
        match self.descriptor().inputs.len() {
            1 => LAZY_CHAIN_MAX,
            2..=LAZY_INPUTS_MAX => LAZY_JOIN_MAX,
            _ => 0,
        }
    }

    /// The tasks whose results it uses: those of its descriptor, or the one it was forwarded to.
    pub(crate) fn inputs<'a>(&'a self, ready: &'a Ready) -> &'a [TaskId] {
        match &ready.forwarded {
            Some(target) => std::slice::from_ref(target),
            None => &self.descriptor().inputs,
        }
    }
}

/// What speaks against a message, or against a task that it names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Doubt {
    /// Nothing: all is as it says.
    None,
    /// It is a reminder, or of another life of the store: the store knows where the task stands.
    Old,
    /// The same, for it came again: whether a worker has died, which may have died of it, is to be
    /// found out.
    Repeated,
    /// The same, and a worker that had it has died: of this task, or of one of so many that may
    /// have run on behind it there.
    Deadly(u16),
}

impl Doubt {
    /// Of a worker that died with it.
    pub(crate) const DEADLY: Self = Self::Deadly(LAZY_CHAIN_MAX);
}

/// A task to prepare.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    /// What is known of its readiness.
    pub(crate) ready: Ready,
    /// Its descriptor, when it is at hand.
    pub(crate) info: Option<TaskInfo>,
    /// Whether the store must be asked first where the task stands, and more.
    pub(crate) doubt: Doubt,
    /// It continues an uncommitted attempt here, whose value it may use.
    pub(crate) lazy: Option<Lead>,
}

/// Uncommitted attempts that a task continues.
#[derive(Debug, Clone)]
pub(crate) struct Lead {
    /// The one that has just ended.
    pub(crate) nonce: u64,
    /// Others whose results it uses as well.
    pub(crate) others: Vec<(TaskId, u64)>,
    /// Tasks between the one that continues them and the last commit.
    pub(crate) depth: u16,
}

impl Lead {
    /// The attempt whose value of an input may be used; of any other input a committed one.
    pub(crate) fn nonce_of(&self, input: TaskId) -> u64 {
        let other = self.others.iter().find(|(task, _)| *task == input);
        other.map_or(self.nonce, |(_, nonce)| *nonce)
    }
}

/// What preparing a task came to.
#[derive(Debug)]
pub(crate) enum Prepared {
    /// Everything is here.
    Run(Box<Runnable>),
    /// It has its result without running: a relay, or a task that was forwarded.
    Relayed { ready: Ready, info: TaskInfo, nonce: u64, result: Kept },
    /// An input has no result, because of `cause`.
    Skip { ready: Ready, info: TaskInfo, cause: TaskId },
    /// It cannot be run, and never will be.
    Fail { ready: Ready, info: TaskInfo, attempt: u32, kind: TaskErrorKind, message: String },
    /// Another queue's workers run it.
    Elsewhere,
    /// This build cannot run it; another one may.
    Park { info: TaskInfo, message: String },
    /// It is to be rung for again after this time: not before then may it start.
    Later { ready: Ready, info: TaskInfo, wait: Duration },
    /// It is not to be run here and now: finished, leased elsewhere, or waiting for an input again. `rearmed` are inputs that were lost and are ready to be computed again.
    Drop { rearmed: Vec<Ready> },
}

/// A task with everything it needs.
pub(crate) struct Runnable {
    pub(crate) key: Key,
    pub(crate) ready: Ready,
    pub(crate) info: TaskInfo,
    pub(crate) body: Body,
    pub(crate) call: Call,
    /// 1 for the first.
    pub(crate) attempt: u32,
    /// Drawn for this attempt: names its lease and its result.
    pub(crate) nonce: u64,
    /// Whether a lease was taken before the start.
    pub(crate) leased: bool,
    /// The digest of its result at an earlier generation, which others have used.
    pub(crate) earlier: Option<[u8; 16]>,
    /// Whether it runs in a process of its own.
    pub(crate) isolated: bool,
    /// Of a suspect: how many that follow it are suspects, too, and itself.
    pub(crate) suspect: u16,
    /// Processes it is known to have brought down.
    pub(crate) crashes: u32,
    /// Tasks between it and the last commit.
    pub(crate) depth: u16,
    /// Ends the attempt early, as far as the task's code looks.
    pub(crate) cancel: CancellationToken,
}

impl Runnable {
    /// What is told of it when it has begun without being asked for.
    pub(crate) fn begun(&self) -> Begun {
        Begun {
            key: self.key,
            info: self.info.clone(),
            nonce: self.nonce,
            threaded: self.is_threaded(),
            cancel: self.cancel.clone(),
        }
    }

    /// Whether it runs on a thread of this process, which cannot be stopped.
    pub(crate) fn is_threaded(&self) -> bool {
        !self.isolated && matches!(self.body, Body::Sync(_))
    }
}

/// A task that a slot has begun on its own, right after the one it continues.
#[derive(Debug)]
pub(crate) struct Begun {
    pub(crate) key: Key,
    pub(crate) info: TaskInfo,
    pub(crate) nonce: u64,
    pub(crate) threaded: bool,
    pub(crate) cancel: CancellationToken,
}

impl Kept {
    /// Whether its value has this digest. Only results that workers hold are compared: others are of
    /// another length.
    pub(crate) fn has_digest(&self, digest: [u8; 16]) -> bool {
        let held = matches!(self.locator, Locator::Held { .. });
        let record = HeldRecord::from_bytes(&self.record).ok().filter(|_| held);
        record.is_some_and(|record| record.digest == digest)
    }
}

#[cfg(test)]
impl Runnable {
    /// A first attempt at a task, for tests in which no body runs.
    pub(crate) fn without_a_body(run: RunId, info: TaskInfo) -> Self {
        use bolthole_broker::call::{Ctx, Outcome};

        let (task, cancel) = (info.descriptor().id, CancellationToken::new());
        let call = Call {
            args: vec![],
            inputs: vec![],
            blobs: std::collections::HashMap::new(),
            states: Arc::default(),
            ctx: Ctx::new(run, task, 1, cancel.clone(), Arc::default()),
        };
        Self {
            key: (run, task),
            ready: Ready::first(task),
            info,
            body: Body::Sync(|_| Outcome::Unusable(String::new())),
            call,
            attempt: 1,
            nonce: 0,
            leased: false,
            earlier: None,
            isolated: false,
            suspect: 0,
            crashes: 0,
            depth: 0,
            cancel,
        }
    }
}

impl std::fmt::Debug for Runnable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Runnable({} {}, attempt {})",
            self.key.1,
            self.info.class().label(),
            self.attempt
        )
    }
}

/// A result as its commit names it. The value itself is among the worker's own.
#[derive(Debug, Clone)]
pub(crate) struct Kept {
    pub(crate) locator: Locator,
    /// What is stored beside the task.
    pub(crate) record: Bytes,
}

/// How an attempt ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// With a result, which is kept where this says.
    Done(Kept),
    /// It returned a task of the segment that it submitted.
    Forwarded(TaskId),
    /// With its process, in which it was alone.
    Crashed { how: String, last_lines: Vec<String> },
    /// With an error; `retryable` unless it would be the same every time.
    Failed {
        kind: TaskErrorKind,
        chain: Vec<String>,
        backtrace: Option<String>,
        encoded: Option<Bytes>,
        retryable: bool,
    },
}

/// An attempt that has ended on a slot.
#[derive(Debug)]
pub(crate) struct Finish {
    pub(crate) key: Key,
    pub(crate) nonce: u64,
    pub(crate) ended: Ended,
    /// A staged segment of tasks it submitted beside its result.
    pub(crate) spawn: Option<(u32, SegmentDigest)>,
    /// How long the body ran.
    pub(crate) took: Duration,
    /// What its slot has gone on with, on its result.
    pub(crate) next: Option<Begun>,
}
