//! Holders that live and cannot be reached from here. One bad link must not make the cluster compute
//! again what is there: the tasks that need it are handed back, so that a worker with a better link
//! runs them, and the holder is asked to give its results another place. Only when that has not
//! helped for a while are they computed again.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bolthole_broker::control::Control;
use bolthole_broker::id::{RunId, TaskId, WorkerIndex};
use bolthole_broker::limits::{
    HAND_BACK_WAIT, HAND_BACKS_KNOWN_MAX, HAND_BACKS_MAX, LINK_REST, RELAY_TASKS_MAX,
};
use bolthole_broker::queue::Queue;
use tokio::time::Instant;

use crate::flight::Key;

/// Which holders do not answer, and what is done about their results.
#[derive(Debug)]
pub(crate) struct Reach {
    queue: Queue,
    me: WorkerIndex,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    /// Links that rest.
    resting: HashMap<WorkerIndex, Rest>,
    /// How often tasks were handed back.
    handed: HashMap<Key, u32>,
    /// The same tasks, the oldest first.
    order: VecDeque<Key>,
}

#[derive(Debug, Clone, Copy)]
struct Rest {
    until: Instant,
    wait: Duration,
}

impl Reach {
    pub(crate) fn new(queue: Queue, me: WorkerIndex) -> Self {
        Self { queue, me, table: Mutex::default() }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a holder may be asked. After a failure one caller at a time tries it again.
    pub(super) fn may_ask(&self, holder: WorkerIndex) -> bool {
        self.table().may_ask(holder, Instant::now())
    }

    /// A holder has answered.
    pub(super) fn answered(&self, holder: WorkerIndex) {
        self.table().resting.remove(&holder);
    }

    /// A holder has not answered.
    pub(super) fn failed(&self, holder: WorkerIndex) {
        self.table().failed(holder, Instant::now());
    }

    /// A task is to be handed back for want of an input that cannot be reached: when to ring for it
    /// again; `None` when that was done often enough.
    pub(crate) fn hand_back(&self, key: Key) -> Option<Duration> {
        self.table().hand_back(key)
    }

    /// Asks a holder to give these results another place. A hint: it is repeated with each task that
    /// is handed back.
    pub(crate) async fn ask(&self, run: RunId, holder: WorkerIndex, tasks: &[TaskId]) {
        for tasks in tasks.chunks(RELAY_TASKS_MAX) {
            tracing::info!(%run, %holder, results = tasks.len(), "asks for a relay");
            let message = Control::Relay { run, holder, to: self.me, tasks: tasks.to_vec() };
            if let Err(error) = self.queue.broadcast(message.encode()).await {
                tracing::debug!(%run, %holder, %error, "a relay was not asked for");
            }
        }
    }
}

impl Table {
    fn may_ask(&mut self, holder: WorkerIndex, now: Instant) -> bool {
        let Some(rest) = self.resting.get_mut(&holder) else { return true };
        let due = now >= rest.until;
        if due {
            rest.until = now + rest.wait;
        }
        due
    }

    fn failed(&mut self, holder: WorkerIndex, now: Instant) {
        // Those that are asked for nothing any more are gone, or well.
        self.resting.retain(|_, rest| now < rest.until + 2 * LINK_REST.1);
        let rest = self.resting.entry(holder);
        let rest = rest.and_modify(|rest| rest.wait = (2 * rest.wait).min(LINK_REST.1));
        let rest = rest.or_insert(Rest { until: now, wait: LINK_REST.0 });
        rest.until = now + rest.wait;
    }

    fn hand_back(&mut self, key: Key) -> Option<Duration> {
        let times = self.handed.get(&key).copied().unwrap_or(0);
        if times >= HAND_BACKS_MAX {
            self.handed.remove(&key);
            return None;
        }
        if times == 0 {
            self.order.push_back(key);
        }
        self.handed.insert(key, times + 1);
        while self.order.len() > HAND_BACKS_KNOWN_MAX {
            let Some(oldest) = self.order.pop_front() else { break };
            self.handed.remove(&oldest);
        }
        let wait = HAND_BACK_WAIT.0.saturating_mul(1 << times.min(16));
        Some(wait.min(HAND_BACK_WAIT.1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOLDER: WorkerIndex = WorkerIndex::new(3);

    #[tokio::test(start_paused = true)]
    async fn one_at_a_time_tries_a_link_that_failed() {
        let (mut table, now) = (Table::default(), Instant::now());
        assert!(table.may_ask(HOLDER, now) && table.may_ask(HOLDER, now));
        table.failed(HOLDER, now);
        assert!(!table.may_ask(HOLDER, now));
        assert!(table.may_ask(WorkerIndex::new(4), now), "another link");
        let later = now + LINK_REST.0;
        assert!(table.may_ask(HOLDER, later));
        assert!(!table.may_ask(HOLDER, later), "somebody tries it");
        table.failed(HOLDER, later);
        assert!(!table.may_ask(HOLDER, later + LINK_REST.0), "it rests for longer");
        assert!(table.may_ask(HOLDER, later + LINK_REST.1));
    }

    #[test]
    fn a_task_is_handed_back_for_some_time_and_not_for_ever() {
        let mut table = Table::default();
        let key = (RunId::new(1, 2), TaskId::new(0, 3));
        let mut waits = Vec::new();
        while let Some(wait) = table.hand_back(key) {
            waits.push(wait);
        }
        assert_eq!(waits.len(), HAND_BACKS_MAX as usize);
        assert_eq!((waits[0], waits[1]), (HAND_BACK_WAIT.0, 2 * HAND_BACK_WAIT.0));
        assert!(waits.is_sorted() && waits.last() == Some(&HAND_BACK_WAIT.1));
        assert_eq!(table.hand_back(key), Some(HAND_BACK_WAIT.0), "it begins anew");
    }

    #[test]
    fn only_so_many_tasks_are_remembered() {
        let mut table = Table::default();
        for low in 0..2 * HAND_BACKS_KNOWN_MAX as u64 {
            let task = TaskId::from_bits(low).unwrap();
            assert!(table.hand_back((RunId::new(1, 2), task)).is_some());
        }
        assert_eq!(table.order.len(), HAND_BACKS_KNOWN_MAX);
        assert_eq!(table.handed.len(), HAND_BACKS_KNOWN_MAX);
    }
}
