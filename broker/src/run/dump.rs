//! Everything that a store knows of a run, in one form for every store: for tests and for whoever
//! looks for damage.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::{OutboxId, Ready, RunStatus};
use crate::id::TaskId;
use crate::state::{KEPT, PINNED, StateByte, TaskState};

/// A run as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunDump {
    /// What its header says.
    pub status: RunStatus,
    /// Its segments, staged and active.
    pub segments: BTreeMap<u32, SegmentDump>,
    /// Releases that are not settled.
    pub outbox: BTreeMap<OutboxId, Vec<Ready>>,
    /// Failed attempts by task.
    pub failures: BTreeMap<TaskId, u32>,
    /// Suspects, and how often each has crashed.
    pub suspects: BTreeMap<TaskId, u32>,
}

/// A segment as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentDump {
    /// Whether it is part of the run.
    pub active: bool,
    /// Edges from earlier segments registered so far.
    pub cursor: u32,
    /// Its tasks by index.
    pub tasks: Vec<TaskDump>,
}

/// A task as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskDump {
    /// State and generation.
    pub state: StateByte,
    /// Its inputs that are pending.
    pub pending: u32,
    /// Its consumers that are pending, and flags.
    pub consumers: u32,
    /// Its locator's bytes.
    pub locator: [u8; 8],
    /// What is stored beside it.
    pub record: Option<Bytes>,
    /// Its consumers in later segments.
    pub later: Vec<TaskId>,
}

impl RunDump {
    /// Checks I1 and I2 by counting again from `edges` (input, consumer), each once.
    ///
    /// # Errors
    /// With the first task whose count is another one.
    pub fn check(&self, edges: &BTreeSet<(TaskId, TaskId)>) -> Result<(), String> {
        let mut inputs: BTreeMap<TaskId, u32> = BTreeMap::new();
        let mut users: BTreeMap<TaskId, u32> = BTreeMap::new();
        for (from, to) in edges {
            *inputs.entry(*to).or_default() += u32::from(self.is_pending(*from));
            *users.entry(*from).or_default() += u32::from(self.will_run(*to));
        }
        for (segment, dump) in self.segments.iter().filter(|(_, dump)| dump.active) {
            for (place, stored) in dump.tasks.iter().enumerate() {
                let Ok(index) = u16::try_from(place) else { break };
                let task = TaskId::new(*segment, index);
                let blocked = inputs.get(&task).copied().unwrap_or(0);
                let pending = stored.state.state() == TaskState::Pending;
                if pending && stored.pending != blocked {
                    let counted = stored.pending;
                    return Err(format!(
                        "I1: {task} counts {counted} pending inputs, {blocked} are"
                    ));
                }
                let needed = users.get(&task).copied().unwrap_or(0);
                let counted = stored.consumers & !(PINNED | KEPT);
                if counted != needed {
                    return Err(format!("I2: {task} counts {counted} consumers, {needed} are"));
                }
            }
        }
        Ok(())
    }

    /// A pending task of an active segment.
    fn is_pending(&self, task: TaskId) -> bool {
        self.segments.get(&task.segment()).is_some_and(|segment| segment.active)
            && self.will_run(task)
    }

    /// A pending task, also of a segment whose edges are still being registered.
    fn will_run(&self, task: TaskId) -> bool {
        let segment = self.segments.get(&task.segment());
        let stored = segment.and_then(|segment| segment.tasks.get(usize::from(task.index())));
        stored.is_some_and(|stored| stored.state.state() == TaskState::Pending)
    }
}
