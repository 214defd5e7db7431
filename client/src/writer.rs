//! The writing half of a run: calls become tasks of the segment under construction, and a task of
//! the runtime, the keeper, stages one segment after the other, shows the store that the client
//! lives, unpins what was dropped, and closes the run in the end.
//!
//! An idle keeper stages at once; calls that come while it waits for an answer share the next
//! segment. Memory is bounded: whoever finds the segment full waits until it is taken.

mod keeper;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard};

use bolthole_broker::args::BlobDigest;
use bolthole_broker::graph::{Captured, Segment};
use bolthole_broker::graph::{Node, PushError, SegmentBuilder, plan};
use bolthole_broker::id::{RunId, TaskId};
use bolthole_broker::limits;
use bolthole_broker::queue::QueueName;
use bolthole_broker::task::TaskClass;
use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::core::{Core, lock};
use crate::error::{Error, ErrorKind, Result};
use crate::restage::Staged;
use crate::watch::Watch;

/// Takes the calls of one run.
pub(crate) struct Writer {
    core: Arc<Core>,
    run: RunId,
    watch: Arc<Watch>,
    staged: Arc<Staged>,
    /// Whether to delete the run as soon as it has ended and nobody here wants anything of it.
    unnamed: bool,
    state: Mutex<State>,
    /// There is something for the keeper to do.
    work: Notify,
    /// And it should not wait for more.
    urgent: Notify,
    /// A segment was taken, or never will be again.
    room: Notify,
    /// The run was closed, or could not be.
    closed: Notify,
}

struct State {
    builder: SegmentBuilder,
    /// Large arguments that the segment under construction needs stored.
    blobs: Vec<(BlobDigest, Bytes)>,
    /// All large arguments of the run so far, and their bytes together.
    known_blobs: HashSet<BlobDigest>,
    blob_bytes: usize,
    /// Tasks whose handles were dropped; to be unpinned when the segment that was under
    /// construction then is active, for it may have consumers of theirs.
    unpin: Vec<TaskId>,
    unpin_since: Option<Instant>,
    phase: Phase,
    /// Nobody has a handle of the run any more; the token says so to who waits for such writers.
    left: Option<TaskTrackerToken>,
    failure: Option<Error>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    /// Takes calls.
    Open,
    /// Takes no more calls; the store is to be told when all are staged.
    Closing,
    /// The store has been told.
    Closed,
}

/// A graph on its way into a run: what is left of it when the segment is full.
pub(crate) struct Entry {
    classes: Vec<TaskClass>,
    nodes: std::vec::IntoIter<Node>,
    pinned: Vec<bool>,
    ids: Vec<TaskId>,
    outputs: Vec<u32>,
    blobs: Vec<(BlobDigest, Bytes)>,
}

impl Entry {
    /// Checks and orders a captured graph; its outputs are pinned when `pin` says so.
    pub(crate) fn new(captured: Captured, pin: bool) -> Result<Self> {
        check_queues(&captured.classes)?;
        // One call has nothing to order, and a stream has millions of them.
        let (classes, nodes, outputs, blobs) = if captured.nodes.len() == 1 {
            (captured.classes, captured.nodes, captured.outputs, captured.blobs)
        } else {
            let plan = plan(captured)?;
            (plan.classes, plan.nodes, plan.outputs, plan.blobs)
        };
        let mut pinned = vec![false; nodes.len()];
        for output in &outputs {
            pinned[*output as usize] = pin;
        }
        let ids = Vec::with_capacity(nodes.len());
        let mut blobs: Vec<_> = blobs.into_iter().collect();
        blobs.sort_unstable_by_key(|(digest, _)| *digest);
        Ok(Self { classes, nodes: nodes.into_iter(), pinned, ids, outputs, blobs })
    }

    /// The tasks of the outputs, once all is in.
    fn outputs(&self) -> Vec<TaskId> {
        self.outputs.iter().map(|output| self.ids[*output as usize]).collect()
    }
}

/// Refuses names of queues that cannot exist, before anything is staged.
pub(crate) fn check_queues(classes: &[TaskClass]) -> Result<()> {
    for class in classes {
        if let Err(error) = QueueName::new(&class.options.queue) {
            let message =
                format!("task {} is to run in a queue that cannot be: {error}", class.task);
            return Err(Error::new(ErrorKind::Config, message));
        }
    }
    Ok(())
}

impl Writer {
    /// A writer whose first segment is number `first`, with its keeper.
    pub(crate) fn start(
        core: &Arc<Core>,
        staged: Arc<Staged>,
        watch: Arc<Watch>,
        unnamed: bool,
        first: u32,
    ) -> Arc<Self> {
        let state = State {
            builder: SegmentBuilder::new(first),
            blobs: Vec::new(),
            known_blobs: HashSet::new(),
            blob_bytes: 0,
            unpin: Vec::new(),
            unpin_since: None,
            phase: Phase::Open,
            left: None,
            failure: None,
        };
        let writer = Arc::new(Self {
            core: Arc::clone(core),
            run: staged.run,
            watch,
            staged,
            unnamed,
            state: Mutex::new(state),
            work: Notify::new(),
            urgent: Notify::new(),
            room: Notify::new(),
            closed: Notify::new(),
        });
        core.runtime.spawn(Arc::clone(&writer).keep());
        writer
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Adds a graph and waits for room when a segment is full; the tasks of its outputs.
    pub(crate) async fn submit(&self, mut entry: Entry) -> Result<Vec<TaskId>> {
        loop {
            let room = self.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            if let Some(outputs) = self.try_submit(&mut entry)? {
                return Ok(outputs);
            }
            room.await;
        }
    }

    /// Adds as much of a graph as there is room for; the tasks of its outputs, when that is all.
    pub(crate) fn try_submit(&self, entry: &mut Entry) -> Result<Option<Vec<TaskId>>> {
        let mut state = self.state();
        if let Some(error) = &state.failure {
            return Err(error.clone());
        }
        if state.phase != Phase::Open {
            let message = format!("run {} is closed and takes no more tasks", self.run);
            return Err(Error::new(ErrorKind::Closed, message));
        }
        state.take_blobs(&mut entry.blobs)?;
        let was_empty = state.builder.is_empty();
        let all = state.push(entry);
        drop(state);
        // A keeper that is busy looks again by itself.
        if was_empty {
            self.work.notify_one();
        }
        if !matches!(all, Ok(true)) {
            self.urgent.notify_one();
        }
        Ok(all?.then(|| entry.outputs()))
    }

    /// The last handle of a task was dropped.
    pub(crate) fn unpin(&self, task: TaskId) {
        let mut state = self.state();
        if state.builder.unpin(task) || state.failure.is_some() {
            return;
        }
        let first = state.unpin.is_empty();
        state.unpin.push(task);
        if first {
            state.unpin_since = Some(Instant::now());
            drop(state);
            self.work.notify_one();
        }
    }

    /// Takes no more calls. What was submitted is staged, then the store is told.
    pub(crate) fn begin_close(&self) {
        let mut state = self.state();
        if state.phase == Phase::Open {
            state.phase = Phase::Closing;
            drop(state);
            self.work.notify_one();
            self.urgent.notify_one();
        }
    }

    /// The store has been told already that no more calls will come.
    pub(crate) fn note_closed(&self) {
        self.state().phase = Phase::Closed;
    }

    /// Closes, and lets the keeper go when all is done: no handle will come back.
    pub(crate) fn leave(&self) {
        self.begin_close();
        self.state().left = Some(self.core.leaving.token());
        self.work.notify_one();
        self.urgent.notify_one();
    }

    /// Stages what has been submitted without waiting for more: someone waits for a result.
    pub(crate) fn hurry(&self) {
        self.urgent.notify_one();
    }

    /// Closes, and waits until the store knows.
    pub(crate) async fn close(&self) -> Result<()> {
        self.begin_close();
        loop {
            let closed = self.closed.notified();
            tokio::pin!(closed);
            closed.as_mut().enable();
            {
                let state = self.state();
                if let Some(error) = &state.failure {
                    return Err(error.clone());
                }
                if state.phase == Phase::Closed {
                    return Ok(());
                }
            }
            closed.await;
        }
    }
}

impl State {
    /// Notes large arguments to be stored with the next segment.
    fn take_blobs(&mut self, blobs: &mut Vec<(BlobDigest, Bytes)>) -> Result<()> {
        for (digest, bytes) in blobs.drain(..) {
            if self.known_blobs.contains(&digest) {
                continue;
            }
            self.blob_bytes += bytes.len();
            if self.blob_bytes > limits::RUN_BLOB_BYTES_MAX {
                let message = format!(
                    "the large arguments of the run have more than the {} bytes allowed together; \
                     load them in tasks",
                    limits::RUN_BLOB_BYTES_MAX
                );
                return Err(Error::new(ErrorKind::Limit, message));
            }
            self.known_blobs.insert(digest);
            self.blobs.push((digest, bytes));
        }
        Ok(())
    }

    /// Pushes calls until the segment is full; whether all are in.
    fn push(&mut self, entry: &mut Entry) -> Result<bool> {
        let mut inputs = Vec::new();
        while let Some(node) = entry.nodes.as_slice().first() {
            inputs.clear();
            inputs.extend(node.inputs.iter().map(|input| entry.ids[*input as usize]));
            inputs.extend(&node.earlier);
            let pinned = entry.pinned[entry.ids.len()];
            let class = &entry.classes[node.class as usize];
            match self.builder.push(class, &inputs, &node.args, pinned) {
                Ok(id) => {
                    entry.ids.push(id);
                    entry.nodes.next();
                }
                Err(PushError::Full) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(true)
    }
}

/// What the keeper is to do next.
struct Work {
    segment: Option<Segment>,
    /// Classes of the segment for which no capable worker has been seen.
    unchecked: Vec<TaskClass>,
    blobs: Vec<(BlobDigest, Bytes)>,
    unpin: Vec<TaskId>,
    phase: Phase,
}

impl Writer {
    fn take_work(&self) -> Work {
        let mut state = self.state();
        let work = Work {
            unchecked: self.core.unchecked(state.builder.classes()),
            segment: state.builder.take_segment(),
            blobs: std::mem::take(&mut state.blobs),
            unpin: std::mem::take(&mut state.unpin),
            phase: state.phase,
        };
        state.unpin_since = None;
        drop(state);
        self.room.notify_waiters();
        work
    }

    /// Nothing more can be staged.
    fn fail(&self, error: Error) {
        self.state().failure.get_or_insert(error.clone());
        self.room.notify_waiters();
        self.closed.notify_waiters();
        // A run that has ended says itself why, to those who wait for its results.
        if !matches!(error.kind(), ErrorKind::Closed | ErrorKind::Gone) {
            self.watch.break_off(error);
        }
    }
}
