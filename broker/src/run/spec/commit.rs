//! Tasks finish, their successors are released, results nobody needs are freed.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::Run;
use crate::id::TaskId;
use crate::locator::Locator;
use crate::run::{Commit, Committed, End, Finished, FinishedEvent, FreedResult, Ready, Reason};
use crate::state::{FORWARDED, FailurePolicy, KEPT, PINNED, RunState, StateByte, TaskState};

impl Run {
    /// Writes all of the commit or nothing. Repeated with the same arguments after its reply was
    /// lost, it answers from its outbox entry, or, when it released nothing, with
    /// [`Committed::Superseded`] and the states it wrote.
    pub fn commit(&mut self, commit: &Commit, now_ms: u64) -> Committed {
        if !self.state.is_running() {
            return Committed::NotRunning(Some(self.state));
        }
        if let Some(ready) = self.outbox.get(&commit.outbox) {
            return Committed::Written { ready: ready.clone(), freed: vec![], run: self.state };
        }
        if !self.is_fresh(commit, now_ms) {
            return Committed::Superseded(self.standing(commit));
        }
        for sequence in &commit.settled {
            let id = crate::run::OutboxId { owner: commit.outbox.owner, sequence: *sequence };
            self.outbox.remove(&id);
        }
        let mut touched = BTreeSet::new();
        let mut ready = BTreeSet::new();
        if let Some((segment, _)) = commit.spawn {
            touched.extend(self.spawn(segment));
        }
        let mut failure = None;
        for finished in &commit.finished {
            let task = TaskId::new(commit.segment, finished.index);
            self.finish(task, finished, &mut touched);
            if matches!(finished.end, End::Failed { .. }) && failure.is_none() {
                failure = Some(task);
            }
        }
        for (successor, count) in &commit.releases {
            if self.release(None, *successor, *count) {
                touched.insert(*successor);
            }
        }
        ready.extend(
            touched.into_iter().filter_map(|task| {
                self.active(task.segment()).and_then(|arena| arena.ready_at(task))
            }),
        );
        let freed = self.free_after(commit);
        if let Some(task) = failure {
            self.reason.get_or_insert(Reason::Task(task));
            if self.open.policy == FailurePolicy::FailFast {
                self.end(RunState::Failed, None, now_ms);
            }
        }
        self.end_if_finished(now_ms);
        let ready: Vec<Ready> =
            if self.state.is_running() { ready.into_iter().collect() } else { vec![] };
        if !ready.is_empty() {
            self.outbox.insert(commit.outbox, ready.clone());
        }
        Committed::Written { ready, freed, run: self.state }
    }

    /// The same if this is the life of the store in which the results were computed. If not, what
    /// they were computed from may have been undone: only a commit that is remembered is answered.
    pub fn commit_in(
        &mut self,
        same_life: bool,
        commit: &Commit,
        now_ms: u64,
    ) -> Option<Committed> {
        let remembered = self.outbox.contains_key(&commit.outbox);
        let decided = same_life || remembered || !self.state.is_running();
        decided.then(|| self.commit(commit, now_ms))
    }

    /// Whether every task is pending at the generation that was computed, and no failure or effect
    /// comes from an attempt that has lost its lease.
    fn is_fresh(&self, commit: &Commit, now_ms: u64) -> bool {
        let Some(arena) = self.active(commit.segment) else { return false };
        // What was computed from tasks that are not part of the run comes from a past that a store
        // which has lost its last second never had: in this one the task has other inputs to give up.
        let known = |(input, _): &(TaskId, u32)| self.active(input.segment()).is_some();
        if !commit.consumed.iter().all(known) {
            return false;
        }
        let spawn = commit.spawn;
        if spawn.is_some_and(|(segment, digest)| {
            commit.finished.len() != 1 || !self.can_spawn(segment, digest)
        }) {
            return false;
        }
        commit.finished.iter().all(|finished| {
            let byte = arena.states.get(usize::from(finished.index)).copied();
            let Some(byte) = byte.map(StateByte) else { return false };
            let task = TaskId::new(commit.segment, finished.index);
            if !self.is_forwarding_fresh(commit, finished) {
                return false;
            }
            let lease = self.leases.get(&task).filter(|lease| lease.until_ms > now_ms);
            let strict = match &finished.end {
                End::Failed { .. } => true,
                End::Done { keep, .. } => *keep,
                End::Skipped { .. } | End::Forwarded { .. } => false,
            };
            let fenced = strict && lease.is_some_and(|lease| finished.lease != Some(lease.nonce));
            byte.state() == TaskState::Pending
                && byte.generation() == finished.generation
                && !fenced
        })
    }

    /// A task forwards once, to a task that this commit spawns. One that has forwarded is finished
    /// only by who consumes its target: an attempt that knows nothing of the forwarding would take
    /// its inputs' counts down once more.
    fn is_forwarding_fresh(&self, commit: &Commit, finished: &Finished) -> bool {
        let target = self.active(commit.segment).and_then(|arena| arena.target(finished.index));
        match (&finished.end, target) {
            (End::Forwarded { to }, None) => {
                let spawned = commit.spawn.filter(|(segment, _)| *segment == to.segment());
                let arena = spawned.and_then(|(segment, _)| self.arenas.get(&segment));
                arena.is_some_and(|arena| usize::from(to.index()) < arena.states.len())
            }
            (End::Forwarded { .. }, Some(_)) => false,
            (_, Some(target)) => commit.consumed.iter().any(|(input, _)| *input == target),
            (_, None) => true,
        }
    }

    /// The states and locators of a commit's tasks.
    fn standing(&self, commit: &Commit) -> Vec<(StateByte, Locator)> {
        let status = |finished: &Finished| {
            let status = self.inspect(TaskId::new(commit.segment, finished.index));
            let missing = (StateByte::new(TaskState::Freed, 0), Locator::Empty);
            status.map_or(missing, |status| (status.state, status.locator))
        };
        commit.finished.iter().map(status).collect()
    }

    /// One task ends. Its consumers in later segments are released here, because only the store
    /// knows them.
    fn finish(&mut self, task: TaskId, finished: &Finished, touched: &mut BTreeSet<TaskId>) {
        self.leases.remove(&task);
        self.due.remove(&task);
        if let End::Forwarded { to } = finished.end {
            self.forward(task, to);
            return;
        }
        self.stop_forwarding(task);
        let Some(arena) = self.arenas.get_mut(&task.segment()) else { return };
        let place = usize::from(task.index());
        let byte = StateByte(arena.states[place]);
        let (state, locator, record) = match &finished.end {
            End::Done { locator, record, keep } => {
                arena.consumers[place] |= if *keep { KEPT } else { 0 };
                (TaskState::Done, *locator, record.clone())
            }
            End::Failed { error } => (TaskState::Failed, Locator::Cause(task), error.clone()),
            End::Skipped { cause } => (TaskState::Skipped, Locator::Cause(*cause), Bytes::new()),
            End::Forwarded { .. } => return,
        };
        let byte = byte.with(state);
        arena.states[place] = byte.0;
        arena.locators[place] = locator.to_bytes();
        if record.is_empty() {
            arena.records.remove(&task.index());
        } else {
            arena.records.insert(task.index(), record);
        }
        let pinned = arena.consumers[place] & PINNED != 0;
        let later = arena.later.get(&task.index()).cloned().unwrap_or_default();
        for successor in later {
            if self.release(Some(task), successor, 1) {
                touched.insert(successor);
            }
        }
        self.finished += 1;
        self.failed += u64::from(state == TaskState::Failed);
        if pinned {
            self.events.push(FinishedEvent { task, state: byte, locator });
        }
    }

    /// The task waits for the one it returned, and for nothing else.
    fn forward(&mut self, task: TaskId, to: TaskId) {
        if let Some(arena) = self.arenas.get_mut(&task.segment()) {
            let place = usize::from(task.index());
            arena.states[place] |= FORWARDED;
            arena.pending[place] = 0;
            let target = Bytes::copy_from_slice(&to.to_bits().to_be_bytes()[2..]);
            arena.records.insert(task.index(), target);
        }
        self.connect(to, task);
    }

    /// A task that had forwarded is finished: its target forgets it. When its result is lost it runs
    /// again from its own inputs.
    fn stop_forwarding(&mut self, task: TaskId) {
        let arena = self.active(task.segment());
        let Some(target) = arena.and_then(|arena| arena.target(task.index())) else { return };
        let Some(arena) = self.arenas.get_mut(&target.segment()) else { return };
        if let Some(later) = arena.later.get_mut(&target.index()) {
            later.retain(|consumer| *consumer != task);
            if later.is_empty() {
                arena.later.remove(&target.index());
            }
        }
    }

    /// Takes `count` off a pending successor and tells whether it did; a stale release of a finished
    /// one does nothing.
    fn release(&mut self, from: Option<TaskId>, successor: TaskId, count: u32) -> bool {
        let Some(arena) = self.arenas.get_mut(&successor.segment()) else { return false };
        let waits = arena.waits_for(from, successor.index());
        if waits {
            let pending = &mut arena.pending[usize::from(successor.index())];
            *pending = pending.saturating_sub(count);
        }
        waits
    }

    /// The finished no longer consume their inputs; what nobody needs is freed, the finished
    /// themselves included.
    fn free_after(&mut self, commit: &Commit) -> Vec<FreedResult> {
        let mut freed = Vec::new();
        for (input, count) in &commit.consumed {
            let Some(arena) = self.active_mut(input.segment()) else { continue };
            let Some(consumers) = arena.consumers.get_mut(usize::from(input.index())) else {
                continue;
            };
            let flags = *consumers & (PINNED | KEPT);
            *consumers = flags | (*consumers & !flags).saturating_sub(*count);
            freed.extend(arena.free_if_unneeded(*input));
        }
        for finished in &commit.finished {
            let task = TaskId::new(commit.segment, finished.index);
            let arena = self.active_mut(commit.segment);
            freed.extend(arena.and_then(|arena| arena.free_if_unneeded(task)));
        }
        freed
    }
}
