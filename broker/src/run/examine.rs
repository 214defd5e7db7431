//! What a run's columns say against what its edges and states add up to: for whoever looks for
//! damage. Nothing that the operations do can make them differ, so a difference is a lost key, a
//! stranger's write, or a mistake of ours.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::{RunDump, SegmentDump, TaskDump};
use crate::descriptor::{Chunk, Descriptor};
use crate::id::TaskId;
use crate::limits::CHUNK_TASKS;
use crate::locator::Locator;
use crate::state::{KEPT, PINNED, StateByte, TaskState};

/// What is counted of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// State and generation.
    pub state: StateByte,
    /// Its inputs that are pending.
    pub pending: u32,
    /// Its consumers that are pending, and flags.
    pub consumers: u32,
}

/// Counts of a task to be put right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mend {
    /// The task.
    pub task: TaskId,
    /// What was found: unless it still stands so, nothing is changed.
    pub found: Counts,
    /// The right ones; their state is not looked at.
    pub right: Counts,
}

/// What is counted of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    /// Tasks of active segments.
    pub tasks: u64,
    /// Finished ones of them.
    pub finished: u64,
    /// Failed ones of those.
    pub failed: u64,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} tasks, {} finished, {} failed", self.tasks, self.finished, self.failed)
    }
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// The counts of a task are not what its edges add up to: I1 or I2 does not hold.
    Counts {
        /// The task.
        task: TaskId,
        /// What is stored.
        found: Counts,
        /// What should be.
        right: Counts,
    },
    /// The run's totals are not those of its tasks.
    Tally {
        /// What is stored.
        found: Tally,
        /// What should be.
        right: Tally,
    },
    /// State and locator of a task do not go together.
    Locator {
        /// The task.
        task: TaskId,
        /// Its state.
        state: TaskState,
    },
    /// What the store should keep beside a task is not there, so its result cannot be had.
    Record {
        /// The task.
        task: TaskId,
        /// Its locator.
        locator: Locator,
    },
    /// Descriptors are missing or cannot be read: their tasks cannot be run.
    Chunk {
        /// The segment.
        segment: u32,
        /// The chunk's number in it.
        number: u32,
    },
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Counts { task, found, right } => {
                let (waits, needs) = (found.pending, found.consumers & !(PINNED | KEPT));
                write!(
                    f,
                    "task {task} waits for {waits} inputs and has {needs} consumers to come; by its \
                     edges it is {} and {}",
                    right.pending,
                    right.consumers & !(PINNED | KEPT)
                )
            }
            Self::Tally { found, right } => write!(f, "the run counts {found}; its tasks {right}"),
            Self::Locator { task, state } => {
                write!(f, "task {task} is {state:?}, which does not go with its locator")
            }
            Self::Record { task, .. } => write!(f, "the result of task {task} is not in the store"),
            Self::Chunk { segment, number } => {
                write!(f, "descriptors {number} of segment {segment} are missing or damaged")
            }
        }
    }
}

/// Adds up a run, a chunk of descriptors at a time.
#[derive(Debug)]
pub struct Examination<'a> {
    dump: &'a RunDump,
    /// Pending inputs and pending consumers of every task, counted anew.
    counted: BTreeMap<u32, Vec<(u32, u32)>>,
    /// Inputs of segments whose edges are being registered: how many are is not known.
    unsettled: BTreeSet<TaskId>,
    findings: Vec<Finding>,
}

impl<'a> Examination<'a> {
    /// Begins with what is stored of a run.
    pub fn new(dump: &'a RunDump) -> Self {
        let columns = |segment: &SegmentDump| vec![(0, 0); segment.tasks.len()];
        let counted = dump.segments.iter().map(|(number, segment)| (*number, columns(segment)));
        let (counted, unsettled) = (counted.collect(), BTreeSet::new());
        Self { dump, counted, unsettled, findings: Vec::new() }
    }

    /// The chunks to be added: segment and number.
    pub fn chunks(&self) -> Vec<(u32, u32)> {
        let numbers = |tasks: usize| 0..u32::try_from(tasks.div_ceil(CHUNK_TASKS)).unwrap_or(0);
        let of = |(segment, dump): (&u32, &SegmentDump)| {
            let segment = *segment;
            numbers(dump.tasks.len()).map(move |number| (segment, number))
        };
        self.dump.segments.iter().flat_map(of).collect()
    }

    /// Adds a chunk; `None` when it is missing or cannot be read.
    pub fn add(&mut self, segment: u32, number: u32, chunk: Option<&Chunk>) {
        let Some(chunk) = chunk else {
            self.findings.push(Finding::Chunk { segment, number });
            return;
        };
        for descriptor in &chunk.tasks {
            self.add_task(descriptor);
        }
    }

    fn add_task(&mut self, descriptor: &Descriptor) {
        let task = descriptor.id;
        let Some(stored) = self.task(task) else { return };
        if stored.state.state() != TaskState::Pending {
            return;
        }
        let target = stored.target();
        let inputs = target.as_ref().map_or(&descriptor.inputs[..], std::slice::from_ref);
        let staged = self.dump.segments.get(&task.segment()).filter(|segment| !segment.active);
        for input in inputs {
            match staged {
                Some(staged) if input.segment() != task.segment() => {
                    if staged.cursor > 0 {
                        self.unsettled.insert(*input);
                    }
                    continue;
                }
                _ => {}
            }
            let waits =
                self.task(*input).is_some_and(|input| input.state.state() == TaskState::Pending);
            if let Some((pending, _)) = self.counted_mut(task) {
                *pending += u32::from(waits);
            }
            if let Some((_, consumers)) = self.counted_mut(*input) {
                *consumers += 1;
            }
        }
    }

    /// What was found, the task with the lowest id first. A run whose descriptors are not all there
    /// cannot be added up: of its counts nothing is said.
    pub fn finish(mut self) -> Vec<Finding> {
        let whole = self.findings.is_empty();
        let mut right = Tally { tasks: 0, finished: 0, failed: 0 };
        for (number, segment) in self.dump.segments.iter().filter(|(_, segment)| segment.active) {
            let counted = self.counted.get(number).map_or(&[][..], Vec::as_slice);
            for ((stored, counted), index) in segment.tasks.iter().zip(counted).zip(0..=u16::MAX) {
                let task = TaskId::new(*number, index);
                let state = stored.state.state();
                right.tasks += 1;
                right.finished += u64::from(state != TaskState::Pending);
                right.failed += u64::from(state == TaskState::Failed);
                self.findings.extend(stored.examine(task));
                if whole && !self.unsettled.contains(&task) {
                    self.findings.extend(stored.recount(task, *counted));
                }
            }
        }
        let status = &self.dump.status;
        let found = Tally { tasks: status.tasks, finished: status.finished, failed: status.failed };
        if found != right {
            self.findings.push(Finding::Tally { found, right });
        }
        self.findings
    }

    fn task(&self, task: TaskId) -> Option<&'a TaskDump> {
        self.dump.segments.get(&task.segment())?.tasks.get(usize::from(task.index()))
    }

    fn counted_mut(&mut self, task: TaskId) -> Option<&mut (u32, u32)> {
        self.counted.get_mut(&task.segment())?.get_mut(usize::from(task.index()))
    }
}

impl TaskDump {
    /// The task that a forwarded one waits for.
    fn target(&self) -> Option<TaskId> {
        let record = self.record.as_ref().filter(|_| self.state.is_forwarded())?;
        let mut bits = [0; 8];
        bits[2..].copy_from_slice(record.get(..6)?);
        TaskId::from_bits(u64::from_be_bytes(bits))
    }

    fn recount(&self, task: TaskId, (pending, consumers): (u32, u32)) -> Option<Finding> {
        let flags = self.consumers & (PINNED | KEPT);
        let waits = self.state.state() == TaskState::Pending;
        let state = self.state;
        let found = Counts { state, pending: self.pending, consumers: self.consumers };
        // What a finished task counted last is of no use to anyone.
        let pending = if waits { pending } else { self.pending };
        let right = Counts { state, pending, consumers: flags | consumers };
        let unneeded = right.consumers == 0 && state.state() == TaskState::Done;
        (found != right || unneeded).then_some(Finding::Counts { task, found, right })
    }

    fn examine(&self, task: TaskId) -> Option<Finding> {
        let state = self.state.state();
        let Ok(locator) = Locator::from_bytes(self.locator) else {
            return Some(Finding::Locator { task, state });
        };
        let fits = match state {
            TaskState::Pending | TaskState::Freed => locator == Locator::Empty,
            TaskState::Done => !matches!(locator, Locator::Empty | Locator::Cause(_)),
            TaskState::Failed | TaskState::Skipped => matches!(locator, Locator::Cause(_)),
        };
        if !fits {
            return Some(Finding::Locator { task, state });
        }
        let stored = match locator {
            Locator::Stored { .. } | Locator::Held { .. } | Locator::Apart { .. } => true,
            Locator::Empty | Locator::Embedded { .. } | Locator::Cause(_) => false,
        };
        (stored && self.record.is_none()).then_some(Finding::Record { task, locator })
    }
}
