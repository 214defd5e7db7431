//! The bench: runnable tasks in their order, and what running ones have taken. Pure bookkeeping.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BinaryHeap};

use bolthole_broker::call::Units;
use bolthole_broker::id::{RunId, TaskId};
use bolthole_broker::limits;
use tokio::time::Instant;

use crate::core::{OnSlot, Order};
use crate::flight::{Key, Runnable};
use crate::slots::units::{self, Free};

#[cfg(test)]
mod tests;

/// Tasks that wait for a slot, and those that have one.
#[derive(Default)]
pub(super) struct Bench {
    waiting: BinaryHeap<Waiting>,
    order: Order,
    /// Attempts on slots, by the slot's number.
    running: BTreeMap<usize, Running>,
    /// What no running attempt has taken.
    free: Free,
    pub(super) slots: usize,
    pub(super) next_slot: usize,
    /// Threads that were replaced and end when they come back; no longer among the slots. What they
    /// have taken stays taken until then.
    stuck: BTreeMap<usize, Units>,
    /// Attempts whose bodies have ended and whose results wait for memory. Other threads have their
    /// slots; their own end with them.
    aside: BTreeMap<usize, Running>,
    /// Memory is short: one at a time.
    pub(super) throttled: bool,
    /// The worker is to leave: nothing else starts.
    pub(super) leaving: bool,
    pub(super) closed: bool,
}

/// What the end of an attempt means for its thread and for others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ended {
    /// Another thread has its place.
    pub(super) replaced: bool,
    /// Others may have waited for what it had taken.
    pub(super) awaited: bool,
}

struct Running {
    attempt: OnSlot,
    /// It is in a process of its own, which is killed.
    isolated: bool,
    taken: Units,
}

impl Bench {
    pub(super) fn new(resources: BTreeMap<String, u32>) -> Self {
        Self { free: Free::all(resources), ..Self::default() }
    }

    pub(super) fn extend(&mut self, tasks: Vec<Runnable>) {
        let order = self.order;
        self.waiting.extend(tasks.into_iter().map(|task| Waiting::new(task, order)));
    }

    /// Puts what waits into this order, and what comes.
    pub(super) fn set_order(&mut self, order: Order) {
        if order != self.order {
            self.order = order;
            let waiting = std::mem::take(&mut self.waiting).into_iter();
            self.waiting = waiting.map(|waiting| Waiting::new(waiting.task, order)).collect();
        }
    }

    /// Takes all tasks off, for good.
    pub(super) fn clear(&mut self) -> Vec<Key> {
        self.leaving = true;
        let waiting = std::mem::take(&mut self.waiting);
        waiting.into_iter().map(|waiting| waiting.task.key).collect()
    }

    /// Takes these off; those that were there still.
    pub(super) fn take_back(&mut self, keys: &[Key]) -> Vec<Key> {
        let waiting = std::mem::take(&mut self.waiting);
        let (back, stay): (Vec<Waiting>, Vec<Waiting>) =
            waiting.into_iter().partition(|waiting| keys.contains(&waiting.task.key));
        self.waiting = stay.into();
        back.into_iter().map(|waiting| waiting.task.key).collect()
    }

    /// The first task whose resources are free, for this slot. While results wait for memory, only
    /// tasks that use others: they are what frees some.
    pub(super) fn take(&mut self, number: usize) -> Option<Runnable> {
        if self.throttled && !self.running.is_empty() {
            return None;
        }
        let mut passed = Vec::new();
        let mut found = None;
        let full = !self.aside.is_empty();
        while let Some(next) = self.waiting.pop() {
            let task = &next.task;
            let fills = full && task.info.inputs(&task.ready).is_empty();
            if !fills && self.free.has(&task.info.class().options.resources) {
                found = Some(next.task);
                break;
            }
            passed.push(next);
        }
        self.waiting.extend(passed);
        let found = found?;
        let taken = self.free.take(&found.info.class().options.resources);
        if !taken.is_empty() {
            found.call.ctx.give_units(taken.clone());
        }
        let isolated = found.isolated;
        let attempt =
            OnSlot { key: found.key, nonce: found.nonce, since: Instant::now(), begun: !isolated };
        self.running.insert(number, Running { attempt, isolated, taken });
        Some(found)
    }

    /// The slot whose attempt has ended runs on with this task, as if it had been the first on the
    /// bench. False when it is not, or cannot be: another thread has the slot.
    pub(super) fn follow(&mut self, number: usize, next: &Runnable) -> bool {
        let place = Place::of(next, self.order);
        let first = self.waiting.peek().is_none_or(|other| other.place < place);
        let crowded = self.throttled && self.running.len() > 1;
        if !first || crowded || self.leaving || self.closed {
            return false;
        }
        let Some(running) = self.running.get_mut(&number) else { return false };
        if running.isolated || !units::are(&running.taken, &next.info.class().options.resources) {
            return false;
        }
        if !running.taken.is_empty() {
            next.call.ctx.give_units(running.taken.clone());
        }
        let (key, nonce) = (next.key, next.nonce);
        running.attempt = OnSlot { key, nonce, since: Instant::now(), begun: true };
        true
    }

    /// The time of a slot's attempt begins now.
    pub(super) fn begin(&mut self, number: usize) {
        if let Some(running) = self.running.get_mut(&number) {
            running.attempt.since = Instant::now();
            running.attempt.begun = true;
        }
    }

    /// A slot's attempt has ended.
    pub(super) fn give_back(&mut self, number: usize) -> Ended {
        let stuck = self.stuck.remove(&number);
        let stuck = stuck.or_else(|| self.aside.remove(&number).map(|waiting| waiting.taken));
        let replaced = stuck.is_some();
        let ran = self.running.remove(&number).map(|running| running.taken);
        let taken = stuck.or(ran).unwrap_or_default();
        let awaited = self.throttled || replaced || !taken.is_empty();
        self.free.give_back(taken);
        Ended { replaced, awaited }
    }

    /// The slot's attempt waits for memory: another thread is to take the slot. False when as many
    /// wait already as there are slots: each has a result in memory.
    pub(super) fn set_aside(&mut self, number: usize) -> bool {
        if self.aside.len() >= self.slots {
            return false;
        }
        let Some(running) = self.running.remove(&number) else { return false };
        self.aside.insert(number, running);
        self.slots -= 1;
        true
    }

    /// The slot's attempt waits in its place: there is no other thread.
    pub(super) fn set_back(&mut self, number: usize) {
        if let Some(aside) = self.aside.remove(&number) {
            self.running.insert(number, aside);
            self.slots += 1;
        }
    }

    /// Whether more threads are stuck than can be borne.
    pub(super) fn is_worn_out(&self) -> bool {
        self.stuck.len() > limits::STUCK_PER_SLOT_MAX * self.slots.max(1)
    }

    /// Gives up on the thread that is in this attempt; false when it has come back, or soon does.
    pub(super) fn abandon(&mut self, nonce: u64) -> bool {
        let mut running = self.running.iter();
        let stuck =
            running.find(|(_, running)| running.attempt.nonce == nonce && !running.isolated);
        let Some(number) = stuck.map(|(number, _)| *number) else { return false };
        if let Some(running) = self.running.remove(&number) {
            self.stuck.insert(number, running.taken);
            self.slots -= 1;
        }
        true
    }

    /// What runs.
    pub(super) fn running(&self) -> Vec<OnSlot> {
        let running = self.running.values().map(|running| running.attempt);
        // The time of a body that has ended is not counted any more.
        let aside = self.aside.values().map(|aside| OnSlot { begun: false, ..aside.attempt });
        running.chain(aside).collect()
    }

    /// Whether a slot has nothing to run.
    pub(super) fn is_starving(&self) -> bool {
        self.waiting.is_empty() && self.running.len() < self.slots
    }
}

/// Where a task stands among others: the greatest is the next. By priority; then the older run, for
/// ranks of different graphs say nothing of each other; then, if that is the order, by rank; then by
/// id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    priority: i8,
    run: Reverse<RunId>,
    rank: u16,
    task: Reverse<TaskId>,
}

impl Place {
    fn of(task: &Runnable, order: Order) -> Self {
        let rank = match order {
            Order::Cone => 0,
            Order::Path => task.info.descriptor().rank,
        };
        let (run, task_id) = task.key;
        let priority = task.info.class().options.priority;
        Self { priority, run: Reverse(run), rank, task: Reverse(task_id) }
    }
}

/// A task on the bench, ordered by its place.
struct Waiting {
    place: Place,
    task: Runnable,
}

impl Waiting {
    fn new(task: Runnable, order: Order) -> Self {
        Self { place: Place::of(&task, order), task }
    }
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Self) -> bool {
        self.place == other.place
    }
}

impl Eq for Waiting {}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Waiting {
    fn cmp(&self, other: &Self) -> Ordering {
        self.place.cmp(&other.place)
    }
}
