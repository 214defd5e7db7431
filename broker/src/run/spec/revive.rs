//! An ended run is taken up again: what failed and what was skipped becomes pending, what succeeded
//! stays. While that goes on slice by slice the run is ended still, so nobody runs or skips a task
//! whose inputs are half revived; [`Run::resume`] makes it run when nothing counts as failed.

use super::Run;
use crate::id::TaskId;
use crate::locator::Locator;
use crate::run::{Revive, Revived};
use crate::state::{RunState, StateByte, TaskState};

impl Run {
    /// Makes a failed or skipped task of an ended run pending, one generation on. Its pending
    /// consumers wait for it again, and it counts as a consumer of its inputs again; those among
    /// them that were freed are recomputed when it is prepared. Repeated, it answers the same.
    pub fn revive(&mut self, revive: &Revive) -> Revived {
        let place = usize::from(revive.task.index());
        let Some(arena) = self.active(revive.task.segment()) else { return Revived::Stale };
        let Some(byte) = arena.states.get(place).copied().map(StateByte) else {
            return Revived::Stale;
        };
        let again = byte.state() == TaskState::Pending
            && byte.generation().checked_sub(1) == Some(revive.generation);
        if again {
            return Revived::Pending(arena.pending[place]);
        }
        if !matches!(self.state, RunState::Failed | RunState::Cancelled) {
            return Revived::NotEnded;
        }
        if !byte.state().has_no_result() || byte.generation() != revive.generation {
            return Revived::Stale;
        }
        let Some(next) = byte.rearmed() else { return Revived::TooOften };
        let later = arena.later.get(&revive.task.index()).cloned().unwrap_or_default();
        for successor in revive.successors.iter().chain(&later) {
            self.fence(revive.task, *successor);
            self.block(revive.task, *successor);
        }
        let mut pending = 0;
        for input in &revive.inputs {
            pending += u32::from(self.is_pending(*input));
            self.consume_again(*input);
        }
        if let Some(arena) = self.active_mut(revive.task.segment()) {
            arena.states[place] = next.0;
            arena.pending[place] = pending;
            arena.locators[place] = Locator::Empty.to_bytes();
            arena.records.remove(&revive.task.index());
        }
        self.failures.remove(&revive.task);
        self.suspects.remove(&revive.task);
        self.due.remove(&revive.task);
        self.leases.remove(&revive.task);
        self.finished -= 1;
        self.failed -= u64::from(byte.state() == TaskState::Failed);
        Revived::Pending(pending)
    }

    /// A consumer that was ready while its input had no result may be about to be committed as
    /// skipped: one generation on, that commit comes too late.
    fn fence(&mut self, from: TaskId, successor: TaskId) {
        let place = usize::from(successor.index());
        if let Some(arena) = self.active_mut(successor.segment())
            && arena.waits_for(Some(from), successor.index())
            && arena.pending[place] == 0
            && let Some(next) = StateByte(arena.states[place]).rearmed()
        {
            arena.states[place] = next.0;
        }
    }

    /// Makes an ended run go on with what is pending, unless a task of it counts as failed. It
    /// takes no more segments from its client.
    pub fn resume(&mut self, now_ms: u64) -> RunState {
        let ended = matches!(self.state, RunState::Failed | RunState::Cancelled);
        if ended && self.failed == 0 {
            self.state = RunState::Closed;
            self.reason = None;
            self.ended_ms = None;
            self.end_if_finished(now_ms);
        }
        self.state
    }
}
