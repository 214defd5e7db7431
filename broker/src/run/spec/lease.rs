//! Leases of long tasks, and attempts to come.

use super::{Lease, Run};
use crate::id::{Incarnation, TaskId};
use crate::run::{LeaseRequest, Leased, Ready, Retried, Retry, Setback};
use crate::state::{StateByte, TaskState};

impl Run {
    /// Gives the task to one attempt until the lease runs out. A lease that has run out is anyone's;
    /// a live one changes hands only to a caller that names its nonce, having found its holder dead.
    pub fn lease(
        &mut self,
        request: &LeaseRequest,
        holder: Incarnation,
        now_ms: u64,
        lease_ms: u64,
    ) -> Leased {
        if !self.state.is_running() || !self.is_at(request.task, request.generation) {
            return Leased::Over;
        }
        if let Some(at_ms) = self.due.get(&request.task).copied().filter(|due| *due > now_ms) {
            return Leased::NotDue { at_ms };
        }
        let live = self.leases.get(&request.task).filter(|lease| lease.until_ms > now_ms);
        if let Some(lease) = live
            && lease.nonce != request.nonce
            && request.over != Some(lease.nonce)
        {
            return Leased::Taken { holder: lease.holder, nonce: lease.nonce };
        }
        let lease = Lease { holder, nonce: request.nonce, until_ms: now_ms + lease_ms };
        self.leases.insert(request.task, lease);
        let failures = self.failures.get(&request.task).copied().unwrap_or(0);
        let crashes = self.suspects.get(&request.task).copied();
        Leased::Granted { attempt: 1 + failures, crashes }
    }

    /// Ends the lease of this nonce: the attempt will not be finished, and anyone may have the task
    /// at once. Nothing is counted against the task.
    pub fn unlease(&mut self, task: TaskId, nonce: u64) {
        if self.leases.get(&task).is_some_and(|lease| lease.nonce == nonce) {
            self.leases.remove(&task);
        }
    }

    /// Ends the leases of a worker that is no more, whether they have run out or not; those of its
    /// tasks that are ready. Repeated, it finds none: nobody takes leases for the dead.
    pub fn evict(&mut self, holder: Incarnation) -> Vec<Ready> {
        if !self.state.is_running() {
            return Vec::new();
        }
        let of_holder = |(_, lease): &(&TaskId, &Lease)| lease.holder == holder;
        let mut tasks: Vec<TaskId> =
            self.leases.iter().filter(of_holder).map(|(task, _)| *task).collect();
        tasks.sort_unstable();
        for task in &tasks {
            self.leases.remove(task);
        }
        let ready = |task: TaskId| self.active(task.segment())?.ready_at(task);
        tasks.into_iter().filter_map(ready).collect()
    }

    /// Prolongs a lease, or makes it again when the store has lost it; false when the task is no
    /// longer this attempt's to run.
    pub fn renew(
        &mut self,
        task: TaskId,
        generation: u8,
        nonce: u64,
        holder: Incarnation,
        now_ms: u64,
        lease_ms: u64,
    ) -> bool {
        let request = LeaseRequest { task, generation, nonce, over: None };
        matches!(self.lease(&request, holder, now_ms, lease_ms), Leased::Granted { .. })
    }

    /// Counts a failed or crashed attempt and says when the next one may start. A compare-and-set on
    /// the count: of two that report the same attempt one is stale.
    pub fn retry(&mut self, retry: &Retry, now_ms: u64) -> Retried {
        let crashed = retry.setback == Setback::Crashed;
        let counts = if crashed { &self.suspects } else { &self.failures };
        let counted = counts.get(&retry.task).copied().unwrap_or(0);
        let lease = self.leases.get(&retry.task).filter(|lease| lease.until_ms > now_ms);
        let fenced = lease.is_some_and(|lease| retry.lease != Some(lease.nonce));
        let running = self.state.is_running() && self.is_at(retry.task, retry.generation);
        if !running || counted + 1 != retry.attempt || fenced {
            return Retried::Stale;
        }
        let at_ms = now_ms + retry.delay_ms;
        let counts = if crashed { &mut self.suspects } else { &mut self.failures };
        counts.insert(retry.task, retry.attempt);
        if retry.setback == Setback::Stuck {
            self.suspects.entry(retry.task).or_default();
        }
        self.due.insert(retry.task, at_ms);
        self.leases.remove(&retry.task);
        Retried::Due { at_ms }
    }

    fn is_at(&self, task: TaskId, generation: u8) -> bool {
        let arena = self.active(task.segment());
        let byte = arena.and_then(|arena| arena.states.get(usize::from(task.index())));
        byte.is_some_and(|byte| {
            let byte = StateByte(*byte);
            byte.state() == TaskState::Pending && byte.generation() == generation
        })
    }
}
