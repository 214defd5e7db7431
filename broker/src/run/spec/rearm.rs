//! A result is lost: its task becomes pending again and blocks whoever still needs it.

use super::Run;
use crate::id::TaskId;
use crate::locator::Locator;
use crate::run::{Lost, Rearmed};
use crate::state::{FORWARDED, KEPT, PINNED, RunState, StateByte, TaskState};

impl Run {
    /// Makes a finished task pending again, unless it is somewhere else by now, nobody needs it or
    /// the run has ended. A run all of whose tasks have finished, well or not, is reopened for a
    /// result that was to be kept: someone wants to read it, and its holder is gone. The task's pending consumers wait for it again, and it counts as a consumer of
    /// its inputs again.
    ///
    /// The record of a held result that a consumer has used stays beside its task, so that the next
    /// result can be compared with it. The result of an effect is not computed again.
    pub fn rearm(&mut self, lost: &Lost) -> Rearmed {
        let place = usize::from(lost.task.index());
        let failed = self.state == RunState::Failed && self.finished == self.tasks;
        let complete = self.state == RunState::Done || failed;
        let Some(arena) = self.active(lost.task.segment()) else { return Rearmed::NotNeeded };
        let Some(byte) = arena.states.get(place).copied().map(StateByte) else {
            return Rearmed::NotNeeded;
        };
        match byte.state() {
            TaskState::Pending => return Rearmed::Already,
            TaskState::Failed | TaskState::Skipped => return Rearmed::Moved,
            TaskState::Done | TaskState::Freed => {}
        }
        if arena.locators[place] != lost.locator.to_bytes() {
            return Rearmed::Moved;
        }
        let consumers = arena.consumers[place];
        let wanted = if complete { consumers & PINNED } else { consumers & !KEPT };
        if wanted == 0 || !(complete || self.state.is_running()) {
            return Rearmed::NotNeeded;
        }
        if consumers & KEPT != 0 {
            return Rearmed::Kept;
        }
        let Some(next) = byte.rearmed() else { return Rearmed::TooOften };
        let later = arena.later.get(&lost.task.index()).cloned().unwrap_or_default();
        let was_used = lost.successors.iter().chain(&later).any(|next| self.is_used(*next));
        let keep = was_used && byte.0 & FORWARDED == 0 && lost.is_held();
        for successor in lost.successors.iter().chain(&later) {
            self.block(lost.task, *successor);
        }
        let mut pending = 0;
        for input in &lost.inputs {
            pending += u32::from(self.is_pending(*input));
            self.consume_again(*input);
        }
        if let Some(arena) = self.active_mut(lost.task.segment()) {
            arena.states[place] = next.0;
            arena.pending[place] = pending;
            arena.locators[place] = Locator::Empty.to_bytes();
            if !keep {
                arena.records.remove(&lost.task.index());
            }
        }
        self.finished -= 1;
        if complete {
            self.state = RunState::Closed;
            self.ended_ms = None;
        }
        Rearmed::Pending(pending)
    }

    /// Whether a consumer has finished with what it was given.
    fn is_used(&self, consumer: TaskId) -> bool {
        let arena = self.active(consumer.segment());
        let byte = arena.and_then(|arena| arena.states.get(usize::from(consumer.index())));
        byte.is_some_and(|byte| {
            matches!(StateByte(*byte).state(), TaskState::Done | TaskState::Freed)
        })
    }

    /// A segment that is not active yet counts too: its commits will be released the same way.
    pub(super) fn block(&mut self, from: TaskId, successor: TaskId) {
        if let Some(arena) = self.arenas.get_mut(&successor.segment())
            && arena.waits_for(Some(from), successor.index())
        {
            arena.pending[usize::from(successor.index())] += 1;
        }
    }

    pub(super) fn consume_again(&mut self, input: TaskId) {
        let arena = self.active_mut(input.segment());
        let consumers = arena.and_then(|arena| arena.consumers.get_mut(usize::from(input.index())));
        if let Some(consumers) = consumers {
            let flags = *consumers & (PINNED | KEPT);
            *consumers = flags | ((*consumers & !flags) + 1);
        }
    }
}
