//! What waits, by run: slots go to the run that has had the least of their time.
//!
//! Fair queueing by virtual time, as Linux shares a processor: a run's time is what its attempts have
//! used of slots here; one that comes begins where the least of the others is, so that nobody is owed
//! anything for the time before; one that has nothing here is forgotten.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use bolthole_broker::id::RunId;

use crate::flight::{Key, Runnable};
use crate::options::Order;

/// A slot runs on with tasks of one run, although another one is owed time, until that is owed so
/// much: not every task of many short ones changes the run.
const TURN: Duration = Duration::from_millis(3);
/// The weight of the last attempt in how long a run's attempts take.
const RECENT: f64 = 0.125;

/// Waiting tasks of all runs.
#[derive(Default)]
pub(super) struct Shares {
    runs: BTreeMap<RunId, Share>,
    order: Order,
    /// Tasks that have come so far.
    arrived: u64,
}

/// One run, while it has something here.
#[derive(Default)]
struct Share {
    waiting: BinaryHeap<Waiting>,
    running: u32,
    /// Seconds of slots that its attempts have used.
    used: f64,
    /// How long its attempts take: a moving average, in seconds.
    typical: f64,
}

impl Share {
    /// What it has had, with what runs now.
    fn claimed(&self) -> f64 {
        self.used + f64::from(self.running) * self.typical
    }
}

impl Shares {
    pub(super) fn extend(&mut self, tasks: Vec<Runnable>) {
        let order = self.order;
        for task in tasks {
            self.arrived += 1;
            let arrived = self.arrived;
            self.share(task.key.0).waiting.push(Waiting::new(task, order, arrived));
        }
    }

    /// Puts what waits into this order, and what comes.
    pub(super) fn set_order(&mut self, order: Order) {
        if order == self.order {
            return;
        }
        self.order = order;
        for share in self.runs.values_mut() {
            let waiting = std::mem::take(&mut share.waiting).into_iter();
            share.waiting = waiting.map(|one| Waiting::new(one.task, order, one.arrived)).collect();
        }
    }

    /// Takes off what `leaves`.
    pub(super) fn take_off(&mut self, leaves: impl Fn(Key) -> bool) -> Vec<Runnable> {
        let mut gone = Vec::new();
        for share in self.runs.values_mut() {
            let waiting = std::mem::take(&mut share.waiting).into_iter();
            let (off, stay): (Vec<_>, Vec<_>) = waiting.partition(|one| leaves(one.task.key));
            gone.extend(off.into_iter().map(|one| one.task));
            share.waiting = stay.into();
        }
        self.runs.retain(|_, share| !share.is_over());
        gone
    }

    pub(super) fn len(&self) -> usize {
        self.runs.values().map(|share| share.waiting.len()).sum()
    }

    /// A queue whose tasks wait.
    pub(super) fn queue(&self) -> Option<&str> {
        let first = self.runs.values().find_map(|share| share.waiting.peek())?;
        Some(&first.task.info.class().options.queue)
    }

    /// Half of the tasks of that queue that `fit`, those that would be the last of their runs.
    pub(super) fn last_half(&self, fits: impl Fn(&Runnable) -> bool) -> Vec<Key> {
        let Some(queue) = self.queue() else { return Vec::new() };
        let of_queue = |task: &Runnable| task.info.class().options.queue == queue;
        let mut half = Vec::new();
        for share in self.runs.values() {
            let fitting = share.waiting.iter().filter(|one| of_queue(&one.task) && fits(&one.task));
            let mut fitting: Vec<&Waiting> = fitting.collect();
            fitting.sort_unstable();
            half.extend(fitting.iter().take(fitting.len().div_ceil(2)).map(|one| one.task.key));
        }
        half
    }

    /// The first task that `fits`; it runs from now on. Of the run whose first task has the highest
    /// priority, and among those the one that has had the least.
    pub(super) fn take(&mut self, fits: impl Fn(&Runnable) -> bool) -> Option<Runnable> {
        let first = self.runs.iter().filter_map(|(run, share)| Some((share.claim(*run)?, *run)));
        let (_, first) = first.min_by(|(one, _), (other, _)| one.cmp(other))?;
        if let Some(found) = self.take_of(first, &fits) {
            return Some(found);
        }
        let mut others: Vec<(Claim, RunId)> =
            self.runs.iter().filter_map(|(run, share)| Some((share.claim(*run)?, *run))).collect();
        others.sort_unstable_by_key(|(claim, _)| *claim);
        others.into_iter().find_map(|(_, run)| self.take_of(run, &fits))
    }

    fn take_of(&mut self, run: RunId, fits: impl Fn(&Runnable) -> bool) -> Option<Runnable> {
        let share = self.runs.get_mut(&run)?;
        let mut passed = Vec::new();
        let mut found = None;
        while let Some(next) = share.waiting.pop() {
            if fits(&next.task) {
                found = Some(next.task);
                break;
            }
            passed.push(next);
        }
        share.waiting.extend(passed);
        share.running += u32::from(found.is_some());
        found
    }

    /// Whether a task that does not wait here would be the next, but for the rest of its run's turn.
    pub(super) fn is_next(&self, task: &Runnable) -> bool {
        let (run, place) = (task.key.0, Place::of(task, self.order, self.arrived + 1));
        let own = self.runs.get(&run).map_or(0.0, |share| share.used);
        self.runs.iter().all(|(other, share)| match share.waiting.peek() {
            None => true,
            Some(first) if *other == run => first.place < place,
            Some(first) if first.place.priority != place.priority => {
                first.place.priority < place.priority
            }
            Some(_) => own <= share.used + TURN.as_secs_f64(),
        })
    }

    /// An attempt of this run goes on a slot's time without having waited here.
    pub(super) fn began(&mut self, run: RunId) {
        self.share(run).running += 1;
    }

    /// An attempt of this run has used so much of a slot.
    pub(super) fn ended(&mut self, run: RunId, used: Duration) {
        let Some(share) = self.runs.get_mut(&run) else { return };
        let used = used.as_secs_f64();
        share.running = share.running.saturating_sub(1);
        share.used += used;
        share.typical += RECENT * (used - share.typical);
        if share.is_over() {
            self.runs.remove(&run);
        }
    }

    /// The run's share, which begins now unless it has.
    fn share(&mut self, run: RunId) -> &mut Share {
        let least = || self.runs.values().map(|share| share.used).min_by(f64::total_cmp);
        let used = if self.runs.contains_key(&run) { None } else { least() };
        let begin = || Share { used: used.unwrap_or_default(), ..Share::default() };
        self.runs.entry(run).or_insert_with(begin)
    }
}

impl Share {
    fn is_over(&self) -> bool {
        self.waiting.is_empty() && self.running == 0
    }

    /// What it has to say for itself, if it has anything to run.
    fn claim(&self, run: RunId) -> Option<Claim> {
        let priority = self.waiting.peek()?.place.priority;
        Some(Claim { priority: Reverse(priority), had: Had(self.claimed()), run })
    }
}

/// Where a run stands among others: the least is the next. By the priority of its first task, then by
/// what it has had, then by its age.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Claim {
    priority: Reverse<i8>,
    had: Had,
    run: RunId,
}

/// Seconds, in their total order.
#[derive(Debug, Clone, Copy)]
struct Had(f64);

impl PartialEq for Had {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Had {}

impl PartialOrd for Had {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Had {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

/// Where a task stands among those of its run: the greatest is the next. By priority; then, if that
/// is the order, by rank; then by id, or by when it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    priority: i8,
    rank: u16,
    number: Reverse<u64>,
}

impl Place {
    fn of(task: &Runnable, order: Order, arrived: u64) -> Self {
        let id = task.key.1;
        let id = u64::from(id.segment()) << 16 | u64::from(id.index());
        let (rank, number) = match order {
            Order::Cone => (0, id),
            Order::Path => (task.info.descriptor().rank, id),
            Order::Arrival => (0, arrived),
        };
        let priority = task.info.class().options.priority;
        Self { priority, rank, number: Reverse(number) }
    }
}

/// A task on the bench, ordered by its place.
struct Waiting {
    place: Place,
    arrived: u64,
    task: Runnable,
}

impl Waiting {
    fn new(task: Runnable, order: Order, arrived: u64) -> Self {
        Self { place: Place::of(&task, order, arrived), arrived, task }
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
