//! The bench: runnable tasks in their order, and what running ones have taken. Pure bookkeeping.

use std::collections::BTreeMap;
use std::time::Duration;

use bolthole_broker::call::Units;
use bolthole_broker::limits;
use tokio::time::Instant;

use crate::core::{OnSlot, Standing};
use crate::flight::{Key, Runnable};
use crate::hold::Pressure;
use crate::options::Order;
use crate::slots::units::{self, Free};

mod permits;
mod shares;
#[cfg(test)]
mod tests;

use permits::Permits;
pub(crate) use permits::Wish;
use shares::Shares;

/// Tasks that wait for a slot, and those that have one.
#[derive(Default)]
pub(super) struct Bench {
    waiting: Shares,
    /// Attempts on slots, by the slot's number.
    running: BTreeMap<usize, Running>,
    /// What no running attempt has taken.
    free: Free,
    permits: Permits,
    pub(super) slots: usize,
    pub(super) next_slot: usize,
    /// Threads that were replaced and end when they come back; no longer among the slots. What they
    /// have taken stays taken until then.
    stuck: BTreeMap<usize, Taken>,
    /// Attempts whose bodies have ended and whose results wait for memory. Other threads have their
    /// slots; their own end with them.
    aside: BTreeMap<usize, Running>,
    /// Memory is short: one at a time.
    throttled: bool,
    /// Until when no source starts.
    held_until: Option<Instant>,
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
    taken: Taken,
}

/// What an attempt has taken from others.
#[derive(Debug, Default)]
struct Taken {
    units: Units,
    /// The task whose permit it has.
    permit: Option<String>,
}

impl Taken {
    fn is_empty(&self) -> bool {
        self.units.is_empty() && self.permit.is_none()
    }
}

impl Bench {
    pub(super) fn new(resources: BTreeMap<String, u32>) -> Self {
        Self { free: Free::all(resources), ..Self::default() }
    }

    pub(super) fn extend(&mut self, tasks: Vec<Runnable>) {
        for task in &tasks {
            self.permits.waits(task.info.class());
        }
        self.waiting.extend(tasks);
    }

    /// Puts what waits into this order, and what comes.
    pub(super) fn set_order(&mut self, order: Order) {
        self.waiting.set_order(order);
    }

    /// How full the memory is. Sources are held for a while before results go to disk.
    pub(super) fn set_pressure(&mut self, pressure: Pressure, now: Instant) {
        self.throttled = pressure == Pressure::Critical;
        if pressure < Pressure::Spill {
            self.held_until = None;
        } else {
            self.held_until.get_or_insert(now + limits::SPILL_GRACE);
        }
    }

    /// For how long sources are held still.
    pub(super) fn held_for(&self, now: Instant) -> Option<Duration> {
        self.held_until?.checked_duration_since(now).filter(|rest| !rest.is_zero())
    }

    /// Takes all tasks off, for good.
    pub(super) fn clear(&mut self) -> Vec<Key> {
        self.leaving = true;
        self.take_off(|_| true)
    }

    /// Takes these off; those that were there still.
    pub(super) fn take_back(&mut self, keys: &[Key]) -> Vec<Key> {
        self.take_off(|key| keys.contains(&key))
    }

    fn take_off(&mut self, leaves: impl Fn(Key) -> bool) -> Vec<Key> {
        let gone = self.waiting.take_off(leaves);
        for task in &gone {
            self.permits.has_gone(task.info.class());
        }
        gone.into_iter().map(|task| task.key).collect()
    }

    /// What this worker would have of permits.
    pub(super) fn permit_wishes(&self) -> Vec<Wish> {
        self.permits.wishes(self.slots)
    }

    /// Whether tasks are here that need any.
    pub(super) fn have_permits(&self) -> bool {
        !self.permits.is_empty()
    }

    /// Whether that is something else than what it has.
    pub(super) fn have_permits_changed(&self) -> bool {
        self.permits.have_changed(self.slots)
    }

    /// What it is about to ask for of one task's.
    pub(super) fn ask_permits(&mut self, task: &str) -> Option<Wish> {
        self.permits.ask(task, self.slots)
    }

    /// So many of a task's are here now, of so many; true when more may run than before.
    pub(super) fn grant_permits(&mut self, task: &str, granted: u32, max: u32) -> bool {
        self.permits.grant(task, granted, max)
    }

    /// The first task whose resources are free and which may run, for this slot. While results wait
    /// for memory, or are about to go to disk, only tasks that use others: they are what frees some.
    pub(super) fn take(&mut self, number: usize) -> Option<Runnable> {
        if self.throttled && !self.running.is_empty() {
            return None;
        }
        let held = self.held_until.is_some_and(|until| Instant::now() < until);
        let full = held || !self.aside.is_empty();
        let fits = |task: &Runnable| {
            let fills = full && task.info.inputs(&task.ready).is_empty();
            let class = task.info.class();
            !fills && self.free.has(&class.options.resources) && self.permits.allow(class)
        };
        let found = self.waiting.take(fits)?;
        let class = found.info.class();
        let units = self.free.take(&class.options.resources);
        if !units.is_empty() {
            found.call.ctx.give_units(units.clone());
        }
        let taken = Taken { units, permit: self.permits.take(class) };
        let isolated = found.isolated;
        let attempt =
            OnSlot { key: found.key, nonce: found.nonce, since: Instant::now(), begun: !isolated };
        self.running.insert(number, Running { attempt, isolated, taken });
        Some(found)
    }

    /// The slot whose attempt has ended runs on with this task, as if it had been the first on the
    /// bench. False when it is not, or cannot be: another thread has the slot.
    pub(super) fn follow(&mut self, number: usize, next: &Runnable) -> bool {
        let crowded = self.throttled && self.running.len() > 1;
        if crowded || self.leaving || self.closed || !self.waiting.is_next(next) {
            return false;
        }
        let Some(running) = self.running.get_mut(&number) else { return false };
        let options = &next.info.class().options;
        let permits = running.taken.permit.is_some() || options.concurrency.is_some();
        if running.isolated || permits || !units::are(&running.taken.units, &options.resources) {
            return false;
        }
        if !running.taken.units.is_empty() {
            next.call.ctx.give_units(running.taken.units.clone());
        }
        let (key, nonce, now) = (next.key, next.nonce, Instant::now());
        let before =
            std::mem::replace(&mut running.attempt, OnSlot { key, nonce, since: now, begun: true });
        self.waiting.began(key.0);
        self.waiting.ended(before.key.0, now - before.since);
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
        let ran = self.leave(number).map(|running| running.taken);
        let taken = stuck.or(ran).unwrap_or_default();
        let awaited = self.throttled || replaced || !taken.is_empty();
        self.free.give_back(taken.units);
        if let Some(task) = taken.permit {
            self.permits.give_back(&task);
        }
        Ended { replaced, awaited }
    }

    /// A slot's attempt uses it no longer.
    fn leave(&mut self, number: usize) -> Option<Running> {
        let running = self.running.remove(&number)?;
        let OnSlot { key, since, .. } = running.attempt;
        self.waiting.ended(key.0, since.elapsed());
        Some(running)
    }

    /// The slot's attempt waits for memory: another thread is to take the slot. False when as many
    /// wait already as there are slots: each has a result in memory.
    pub(super) fn set_aside(&mut self, number: usize) -> bool {
        if self.aside.len() >= self.slots {
            return false;
        }
        let Some(running) = self.leave(number) else { return false };
        self.aside.insert(number, running);
        self.slots -= 1;
        true
    }

    /// The slot's attempt waits in its place: there is no other thread.
    pub(super) fn set_back(&mut self, number: usize) {
        if let Some(aside) = self.aside.remove(&number) {
            self.waiting.began(aside.attempt.key.0);
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
        if let Some(running) = self.leave(number) {
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

    /// What waits, and whether a slot has nothing to run.
    pub(super) fn standing(&self) -> Standing {
        let waiting = self.waiting.len();
        let running = self.running.len();
        Standing { waiting, running, starving: waiting == 0 && running < self.slots }
    }

    /// A queue whose tasks wait.
    pub(super) fn queue(&self) -> Option<&str> {
        self.waiting.queue()
    }

    /// Half of the tasks of that queue that wait and that others could run as well.
    pub(super) fn last_half(&self, fits: impl Fn(Key) -> bool) -> Vec<Key> {
        self.waiting.last_half(|task| !task.isolated && fits(task.key))
    }
}
