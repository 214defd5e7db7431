//! The executable specification: a run as plain columns and what each operation does to it. Pure:
//! time comes in as an argument, nothing goes out but replies and the list of events.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::{
    FinishedEvent, Open, OutboxId, Ready, Reason, Refused, RunStatus, SPAWNED_SEGMENTS,
    SegmentDigest, Stage, TaskStatus,
};
use crate::id::{Incarnation, TaskId, WorkerIndex};
use crate::limits;
use crate::locator::Locator;
use crate::state::{KEPT, PINNED, RunState, StateByte, TaskState};

mod activate;
mod commit;
mod dump;
mod lease;
mod mend;
mod rearm;
mod relocate;
mod revive;

/// One segment: a column for each thing known of a task, and what is stored beside single tasks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Arena {
    digest: SegmentDigest,
    active: bool,
    /// Cross-segment edges registered so far.
    cursor: u32,
    states: Vec<u8>,
    pending: Vec<u32>,
    consumers: Vec<u32>,
    locators: Vec<[u8; 8]>,
    chunks: Vec<Bytes>,
    /// Values, held records, errors, forwarding targets.
    records: BTreeMap<u16, Bytes>,
    /// Consumers in later segments, and the one that a task forwards to.
    later: BTreeMap<u16, Vec<TaskId>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Lease {
    holder: Incarnation,
    nonce: u64,
    until_ms: u64,
}

/// A run. Equal runs answer equally for ever: what is compared and hashed is all that they know.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Run {
    open: Open,
    state: RunState,
    tasks: u64,
    finished: u64,
    failed: u64,
    spawned: u32,
    reason: Option<Reason>,
    client_until_ms: u64,
    ended_ms: Option<u64>,
    arenas: BTreeMap<u32, Arena>,
    outbox: BTreeMap<OutboxId, Vec<Ready>>,
    /// Failed attempts, by task.
    failures: BTreeMap<TaskId, u32>,
    /// Suspects, and how often each has crashed.
    suspects: BTreeMap<TaskId, u32>,
    /// When the next attempt may start, by task.
    due: BTreeMap<TaskId, u64>,
    leases: BTreeMap<TaskId, Lease>,
    events: Vec<FinishedEvent>,
}

impl Run {
    /// A run without tasks.
    pub fn new(open: Open, now_ms: u64) -> Self {
        Self {
            client_until_ms: now_ms + open.client_lease_ms,
            open,
            state: RunState::Open,
            tasks: 0,
            finished: 0,
            failed: 0,
            spawned: 0,
            reason: None,
            ended_ms: None,
            arenas: BTreeMap::new(),
            outbox: BTreeMap::new(),
            failures: BTreeMap::new(),
            suspects: BTreeMap::new(),
            due: BTreeMap::new(),
            leases: BTreeMap::new(),
            events: Vec::new(),
        }
    }

    /// Whether opening again with these words finds this run.
    pub fn is_same(&self, open: &Open) -> bool {
        self.open.digest == open.digest
    }

    /// What the run is.
    pub fn status(&self) -> RunStatus {
        let client = self.arenas.keys().filter(|number| **number < SPAWNED_SEGMENTS);
        RunStatus {
            state: self.state,
            tasks: self.tasks,
            finished: self.finished,
            failed: self.failed,
            segments: client.max().map_or(0, |last| last + 1),
            spawned: self.spawned,
            name: self.open.name.clone(),
            header: self.open.header.clone(),
            reason: self.reason.clone(),
        }
    }

    /// Takes a segment's columns and descriptors; an active one stays as it is.
    pub fn stage(&mut self, stage: &Stage) -> Result<(), Refused> {
        let known = self.arenas.get(&stage.segment);
        // Also when the run takes no more: the answer may have been lost.
        if known.is_some_and(|arena| arena.active && arena.digest == stage.digest) {
            return Ok(());
        }
        let spawned = stage.segment >= SPAWNED_SEGMENTS;
        if !(self.state == RunState::Open || spawned && self.state.is_running()) {
            return Err(Refused::NotOpen(self.state));
        }
        let tasks = stage.pending.len();
        if tasks == 0 || tasks > limits::SEGMENT_TASKS_MAX || stage.consumers.len() != tasks {
            return Err(Refused::Malformed("the columns differ in length"));
        }
        if stage.chunks.len() != tasks.div_ceil(limits::CHUNK_TASKS) {
            return Err(Refused::Malformed("the number of chunks does not fit the tasks"));
        }
        match known {
            Some(arena) if arena.digest != stage.digest => return Err(Refused::Conflict),
            Some(arena) if arena.cursor > 0 => return Ok(()),
            _ => {}
        }
        let arena = Arena {
            digest: stage.digest,
            states: vec![0; tasks],
            pending: stage.pending.clone(),
            consumers: stage.consumers.clone(),
            locators: vec![[0; 8]; tasks],
            chunks: stage.chunks.clone(),
            ..Arena::default()
        };
        self.arenas.insert(stage.segment, arena);
        Ok(())
    }

    /// Numbers for segments that a task submits.
    pub fn reserve(&mut self) -> u32 {
        self.spawned += 1;
        SPAWNED_SEGMENTS + self.spawned - 1
    }

    /// Drops a staged segment that will not be activated.
    pub fn unstage(&mut self, segment: u32) {
        if self.arenas.get(&segment).is_some_and(|arena| !arena.active) {
            self.arenas.remove(&segment);
        }
    }

    /// A chunk of an existing segment.
    pub fn chunk(&self, segment: u32, number: usize) -> Option<Bytes> {
        self.arenas.get(&segment)?.chunks.get(number).cloned()
    }

    /// What is known of a task of an active segment.
    pub fn inspect(&self, task: TaskId) -> Option<TaskStatus> {
        let arena = self.active(task.segment())?;
        let place = usize::from(task.index());
        Some(TaskStatus {
            state: StateByte(*arena.states.get(place)?),
            pending: arena.pending[place],
            consumers: arena.consumers[place],
            locator: Locator::from_bytes(arena.locators[place]).unwrap_or(Locator::Empty),
            record: arena.records.get(&task.index()).cloned(),
            failures: self.failures.get(&task).copied().unwrap_or(0),
        })
    }

    /// The state column of an active segment.
    pub fn states(&self, segment: u32) -> Option<&[u8]> {
        self.active(segment).map(|arena| arena.states.as_slice())
    }

    /// Tasks of an active segment that are pending and ready; among them those that are running
    /// or on their way, which only their workers can tell. Leased ones and those not yet due are
    /// left out.
    pub fn ready(&self, segment: u32, now_ms: u64) -> Vec<Ready> {
        let Some(arena) = self.active(segment) else { return Vec::new() };
        let indexes = 0..u16::try_from(arena.states.len() - 1).unwrap_or(u16::MAX);
        let all = indexes.chain(u16::try_from(arena.states.len() - 1));
        all.filter_map(|index| {
            let task = TaskId::new(segment, index);
            let leased = self.leases.get(&task).is_some_and(|lease| lease.until_ms > now_ms);
            let early = self.due.get(&task).is_some_and(|due| *due > now_ms);
            if leased || early { None } else { arena.ready_at(task) }
        })
        .collect()
    }

    /// Results of an active segment that `worker` holds and that someone still needs.
    pub fn held_by(&self, segment: u32, worker: WorkerIndex) -> Vec<(TaskId, Locator)> {
        let Some(arena) = self.active(segment) else { return Vec::new() };
        let results = arena.locators.iter().zip(&arena.consumers).zip(0_u16..=u16::MAX);
        let held = results.filter_map(|((stored, consumers), index)| {
            let locator = Locator::from_bytes(*stored).ok()?;
            let held = matches!(locator, Locator::Held { worker: holder, .. } if holder == worker);
            (held && consumers & !KEPT != 0).then_some((TaskId::new(segment, index), locator))
        });
        held.collect()
    }

    /// Drops the pins of `tasks`, and with them what nobody else needs.
    pub fn unpin(&mut self, tasks: &[TaskId]) -> Vec<super::FreedResult> {
        let mut freed = Vec::new();
        if self.state == RunState::Purging {
            return freed;
        }
        for task in tasks {
            let Some(arena) = self.active_mut(task.segment()) else { continue };
            if let Some(consumers) = arena.consumers.get_mut(usize::from(task.index())) {
                *consumers &= !PINNED;
                freed.extend(arena.free_if_unneeded(*task));
            }
        }
        freed
    }

    /// No more segments will come from the client, which has staged so many.
    pub fn close(&mut self, segments: u32, now_ms: u64) -> Result<RunState, Refused> {
        if self.state == RunState::Open {
            if segments > 0 && self.active(segments - 1).is_none() {
                return Err(Refused::Incomplete);
            }
            self.state = RunState::Closed;
            self.end_if_finished(now_ms);
        }
        Ok(self.state)
    }

    /// Ends the run: what has not been committed never will be.
    pub fn cancel(&mut self, reason: &str, now_ms: u64) -> RunState {
        if self.state.is_running() {
            self.end(RunState::Cancelled, Some(Reason::Cancelled(reason.to_owned())), now_ms);
        }
        self.state
    }

    /// A sign of life of the client.
    pub fn keep_alive(&mut self, now_ms: u64) -> RunState {
        self.client_until_ms = now_ms + self.open.client_lease_ms;
        self.state
    }

    /// Whether an open run's client has been silent for too long.
    pub fn is_abandoned(&self, now_ms: u64) -> bool {
        self.state == RunState::Open && self.client_until_ms <= now_ms
    }

    /// Whether the run ended so long ago that it may be deleted.
    pub fn is_expired(&self, now_ms: u64) -> bool {
        self.ended_ms.is_some_and(|ended| ended + self.open.retention_ms <= now_ms)
    }

    /// Events behind the first `after` ones.
    pub fn events(&self, after: usize) -> &[FinishedEvent] {
        self.events.get(after..).unwrap_or_default()
    }

    /// Where the run stands.
    pub fn state(&self) -> RunState {
        self.state
    }

    /// The releases that commits have written down and nobody has settled.
    pub fn outbox(&self) -> impl Iterator<Item = (&OutboxId, &Vec<Ready>)> {
        self.outbox.iter()
    }

    /// Deletes an entry that was published, unless its owner has changed it since.
    pub fn settle(&mut self, id: OutboxId, read: &[Ready]) -> bool {
        let same = self.outbox.get(&id).is_some_and(|entry| entry == read);
        if same {
            self.outbox.remove(&id);
        }
        same
    }

    /// Numbers of the active segments.
    pub fn active_segments(&self) -> Vec<u32> {
        self.arenas.iter().filter(|(_, arena)| arena.active).map(|(number, _)| *number).collect()
    }

    fn active(&self, segment: u32) -> Option<&Arena> {
        self.arenas.get(&segment).filter(|arena| arena.active)
    }

    fn active_mut(&mut self, segment: u32) -> Option<&mut Arena> {
        self.arenas.get_mut(&segment).filter(|arena| arena.active)
    }

    /// A task that is pending, forwarded or not.
    fn is_pending(&self, task: TaskId) -> bool {
        self.active(task.segment()).is_some_and(|arena| arena.is_pending(task.index()))
    }

    fn end_if_finished(&mut self, now_ms: u64) {
        if self.state == RunState::Closed && self.finished == self.tasks {
            let state = if self.failed == 0 { RunState::Done } else { RunState::Failed };
            self.end(state, None, now_ms);
        }
    }

    /// The terminal state is written once; retention starts here.
    fn end(&mut self, state: RunState, reason: Option<Reason>, now_ms: u64) {
        self.state = state;
        self.reason = self.reason.take().or(reason);
        self.ended_ms = Some(now_ms);
        self.leases.clear();
        self.due.clear();
        self.outbox.clear();
    }

    /// Checks I1 and I2 by counting again from `edges` (input, consumer), each once.
    pub fn check(&self, edges: &BTreeSet<(TaskId, TaskId)>) -> Result<(), String> {
        self.dump().check(edges)
    }
}

impl Arena {
    fn is_pending(&self, index: u16) -> bool {
        let byte = self.states.get(usize::from(index));
        byte.is_some_and(|byte| StateByte(*byte).state() == TaskState::Pending)
    }

    /// Whether a pending task counts `from` among its inputs: one that has forwarded waits for its
    /// target alone. `None` is an input of the same segment, never a target.
    fn waits_for(&self, from: Option<TaskId>, index: u16) -> bool {
        self.is_pending(index) && self.target(index).is_none_or(|target| Some(target) == from)
    }

    /// The task, when it is pending and none of its inputs is.
    fn ready_at(&self, task: TaskId) -> Option<Ready> {
        let place = usize::from(task.index());
        let byte = StateByte(*self.states.get(place)?);
        if byte.state() != TaskState::Pending || self.pending[place] != 0 {
            return None;
        }
        let forwarded = self.target(task.index());
        Some(Ready { task, generation: byte.generation(), forwarded })
    }

    /// The task that a forwarded one waits for.
    fn target(&self, index: u16) -> Option<TaskId> {
        let byte = StateByte(*self.states.get(usize::from(index))?);
        let record = self.records.get(&index).filter(|_| byte.is_forwarded())?;
        let mut bits = [0; 8];
        bits[2..].copy_from_slice(record.get(..6)?);
        TaskId::from_bits(u64::from_be_bytes(bits))
    }

    /// Frees the result of a task that is done and that nobody needs.
    fn free_if_unneeded(&mut self, task: TaskId) -> Option<super::FreedResult> {
        let place = usize::from(task.index());
        let byte = StateByte(self.states[place]);
        if self.consumers[place] != 0 || byte.state() != TaskState::Done {
            return None;
        }
        let locator = Locator::from_bytes(self.locators[place]).unwrap_or(Locator::Empty);
        self.states[place] = byte.with(TaskState::Freed).0;
        self.locators[place] = [0; 8];
        self.records.remove(&task.index());
        Some(super::FreedResult { task, generation: byte.generation(), locator })
    }
}
