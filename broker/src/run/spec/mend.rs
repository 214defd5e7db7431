//! Damage is put right: counts that are not what edges and states add up to. Only a tool calls this,
//! after it has added up a run and found a difference that stays.

use super::Run;
use crate::run::{Mend, Tally};
use crate::state::{RunState, StateByte};

impl Run {
    /// Gives a task of an active segment the right counts, if it still has those that were found,
    /// and frees its result when they say that nobody needs it. False when it has others by now:
    /// add up the run again.
    pub fn mend(&mut self, mend: &Mend) -> bool {
        if self.state == RunState::Purging {
            return false;
        }
        let place = usize::from(mend.task.index());
        let Some(arena) = self.active_mut(mend.task.segment()) else { return false };
        let found = &mend.found;
        if arena.states.get(place).copied().map(StateByte) != Some(found.state)
            || arena.pending[place] != found.pending
            || arena.consumers[place] != found.consumers
        {
            return false;
        }
        arena.pending[place] = mend.right.pending;
        arena.consumers[place] = mend.right.consumers;
        arena.free_if_unneeded(mend.task);
        true
    }

    /// Gives the run the right totals, if it still has those that were found, and ends it when they
    /// say that all is finished. False when it has others by now.
    pub fn recount(&mut self, found: Tally, right: Tally, now_ms: u64) -> bool {
        let now = Tally { tasks: self.tasks, finished: self.finished, failed: self.failed };
        if now != found || self.state == RunState::Purging {
            return false;
        }
        (self.tasks, self.finished, self.failed) = (right.tasks, right.finished, right.failed);
        self.end_if_finished(now_ms);
        true
    }
}
