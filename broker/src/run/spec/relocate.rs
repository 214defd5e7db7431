//! A result is somewhere else: its holder has handed it on, or it has a copy more.

use super::Run;
use crate::run::Relocation;
use crate::state::{StateByte, TaskState};

impl Run {
    /// Changes where a finished task's result is, whatever became of the run; false when the task
    /// is at another generation or its result has another place by now. Repeated, it is true again.
    pub fn relocate(&mut self, relocation: &Relocation) -> bool {
        let Relocation { task, generation, from, to, record } = relocation;
        let place = usize::from(task.index());
        let Some(arena) = self.active_mut(task.segment()) else { return false };
        let done = StateByte::new(TaskState::Done, *generation).0;
        if arena.states.get(place) != Some(&done) {
            return false;
        }
        let now = arena.locators[place];
        if now != from.to_bytes() && now != to.to_bytes() {
            return false;
        }
        arena.locators[place] = to.to_bytes();
        arena.records.insert(task.index(), record.clone());
        true
    }
}
