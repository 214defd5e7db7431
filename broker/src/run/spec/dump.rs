//! All of a run, as stores show it.

use super::{Arena, Run};
use crate::run::{RunDump, SegmentDump, TaskDump};
use crate::state::StateByte;

impl Run {
    /// Everything that is known of the run.
    pub fn dump(&self) -> RunDump {
        let segments = self.arenas.iter().map(|(number, arena)| (*number, arena.dump()));
        RunDump {
            status: self.status(),
            segments: segments.collect(),
            outbox: self.outbox.clone(),
            failures: self.failures.iter().map(|(task, count)| (*task, *count)).collect(),
            suspects: self.suspects.iter().map(|(task, count)| (*task, *count)).collect(),
        }
    }
}

impl Arena {
    fn dump(&self) -> SegmentDump {
        let indexes = 0..=u16::MAX;
        let task = |(index, state): (u16, &u8)| {
            let place = usize::from(index);
            TaskDump {
                state: StateByte(*state),
                pending: self.pending[place],
                consumers: self.consumers[place],
                locator: self.locators[place],
                record: self.records.get(&index).cloned(),
                later: self.later.get(&index).cloned().unwrap_or_default(),
            }
        };
        let tasks = indexes.zip(&self.states).map(task).collect();
        SegmentDump { active: self.active, cursor: self.cursor, tasks }
    }
}
