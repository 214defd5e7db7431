//! Which tasks of a run have finished, as this process knows it, and how to wait for more.
//!
//! One reader per run follows the store's events while anyone waits, and now and then looks at the
//! tasks themselves, in case an event was lost. A finished task costs one bit; a waiter registers
//! before it looks, so no wake-up can be lost.

mod bits;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bolthole_broker::id::{RunId, TaskId};
use bolthole_broker::limits::REREAD_AFTER;
use bolthole_broker::locator::Locator;
use bolthole_broker::run::FinishedEvent;
use bolthole_broker::state::{RunState, StateByte, TaskState};
use bolthole_broker::store::{self, EventCursor, Events, Store};
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

pub(crate) use bits::Bits;

use crate::core::{Away, Core, lock};
use crate::error::Error;

/// Waiters are told apart by their tasks in so many groups, so that an event wakes few.
const GROUPS: usize = 64;
/// Finished tasks whose results are remembered from their events, to save a read.
const RECENT_MAX: usize = 8 << 10;

/// The finished tasks of one run.
pub(crate) struct Watch {
    run: RunId,
    store: Store,
    away: Arc<Away>,
    known: Mutex<Known>,
    groups: [Notify; GROUPS],
    /// Told of every change.
    any: Notify,
}

#[derive(Default)]
struct Known {
    /// Finished tasks by segment.
    finished: BTreeMap<u32, Bits>,
    recent: HashMap<TaskId, (StateByte, Locator)>,
    over: Option<Over>,
    absence: Absence,
    /// The store has begun another life: its events may have earlier numbers.
    rewound: bool,
    /// How often the run was taken up again, as far as this process knows.
    resumed: u64,
    /// How many wait.
    interest: usize,
    /// Whether the reader runs, and where it will go on if it does not.
    reading: bool,
    cursor: EventCursor,
}

/// What it means that the run is not there.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Absence {
    /// It was deleted, or its time has run out.
    #[default]
    Deleted,
    /// The store may have lost it, and this client can stage it again.
    Lost,
    /// The same, and it was not there when it was last asked for.
    Noticed,
}

/// Why nothing more will come.
#[derive(Debug, Clone)]
pub(crate) enum Over {
    /// The run has ended, or is not there.
    Ended(Option<RunState>),
    /// This client could not stage the run, or cannot read the store.
    Broken(Error),
}

/// Keeps the reader going.
pub(crate) struct Interest {
    watch: Arc<Watch>,
}

impl Drop for Interest {
    fn drop(&mut self) {
        self.watch.known().interest -= 1;
    }
}

impl Watch {
    pub(crate) fn new(run: RunId, core: &Core) -> Arc<Self> {
        Self::from(EventCursor::default(), run, core)
    }

    /// Of a run that this client opens.
    pub(crate) fn of_new_run(run: RunId, core: &Core) -> Arc<Self> {
        Self::from(EventCursor::of_new_run(), run, core)
    }

    fn from(cursor: EventCursor, run: RunId, core: &Core) -> Arc<Self> {
        Arc::new(Self {
            run,
            store: core.store.clone(),
            away: Arc::clone(&core.away),
            known: Mutex::new(Known { cursor, ..Known::default() }),
            groups: std::array::from_fn(|_| Notify::new()),
            any: Notify::new(),
        })
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        lock(&self.known)
    }

    fn group(&self, task: TaskId) -> &Notify {
        // Neighbours finish together and are waited for together.
        &self.groups[usize::from(task.index()) / 64 % GROUPS]
    }

    /// A wake-up for changes of this task, and for the end of the run.
    pub(crate) fn changed(&self, task: TaskId) -> Notified<'_> {
        self.group(task).notified()
    }

    /// A wake-up for every change.
    pub(crate) fn any_changed(&self) -> Notified<'_> {
        self.any.notified()
    }

    /// Whether the task has finished: with a result or without.
    pub(crate) fn is_finished(&self, task: TaskId) -> bool {
        let known = self.known();
        known.finished.get(&task.segment()).is_some_and(|bits| bits.has(task.index()))
    }

    /// Those of `wanted` that have finished: moved from there to the reply, at most `max`.
    pub(crate) fn take_finished(
        &self,
        wanted: &mut BTreeMap<u32, Bits>,
        max: usize,
    ) -> Vec<TaskId> {
        let known = self.known();
        let mut taken = Vec::new();
        for (segment, wanted) in wanted.iter_mut() {
            if let Some(finished) = known.finished.get(segment) {
                let indexes = wanted.take_common(finished, max - taken.len());
                taken.extend(indexes.into_iter().map(|index| TaskId::new(*segment, index)));
            }
            if taken.len() == max {
                break;
            }
        }
        wanted.retain(|_, bits| !bits.is_empty());
        taken
    }

    /// What the event of a finished task said, once.
    pub(crate) fn take_recent(&self, task: TaskId) -> Option<(StateByte, Locator)> {
        self.known().recent.remove(&task)
    }

    /// Forgets that the task has finished: its result was found to be lost. To be called before the
    /// store is asked, so that its finishing again is not missed.
    pub(crate) fn unfinish(&self, task: TaskId) {
        let mut known = self.known();
        known.recent.remove(&task);
        if let Some(bits) = known.finished.get_mut(&task.segment()) {
            bits.clear(task.index());
        }
    }

    /// Why nothing more will come, if so.
    pub(crate) fn over(&self) -> Option<Over> {
        self.known().over.clone()
    }

    /// Nothing more will come: this client has failed.
    pub(crate) fn break_off(&self, error: Error) {
        self.known().over = Some(Over::Broken(error));
        self.wake_all();
    }

    /// When the run is not there, that is no end: it is staged again, or [`Watch::unguard`] is called.
    pub(crate) fn guard(&self) {
        self.known().absence = Absence::Lost;
    }

    /// From now on a run that is not there has been deleted.
    pub(crate) fn unguard(&self) {
        self.known().absence = Absence::Deleted;
    }

    /// Whether the run was not there when its events were last asked for.
    pub(crate) fn is_missing(&self) -> bool {
        self.known().absence == Absence::Noticed
    }

    /// The store has begun another life, and has all of the run.
    pub(crate) fn begin_again(self: &Arc<Self>, runtime: &tokio::runtime::Handle) {
        {
            let mut known = self.known();
            known.rewound = true;
            known.absence = Absence::Lost;
            known.recent.clear();
            known.cursor = EventCursor::default();
        }
        self.resume(runtime);
    }

    /// The run goes on, though its end was seen: the reader starts again if anyone waits.
    pub(crate) fn resume(self: &Arc<Self>, runtime: &tokio::runtime::Handle) {
        let mut known = self.known();
        known.resumed += 1;
        if matches!(known.over, Some(Over::Ended(_))) {
            known.over = None;
        }
        if known.over.is_none() && !known.reading && known.interest > 0 {
            known.reading = true;
            runtime.spawn(Arc::clone(self).read());
        }
    }

    /// Starts the reader on `runtime`, unless it runs, and keeps it until the reply is dropped.
    pub(crate) fn follow(self: &Arc<Self>, runtime: &tokio::runtime::Handle) -> Interest {
        let mut known = self.known();
        known.interest += 1;
        if !known.reading && known.over.is_none() {
            known.reading = true;
            runtime.spawn(Arc::clone(self).read());
        }
        Interest { watch: Arc::clone(self) }
    }

    /// Follows the events until nobody is interested or nothing more can come.
    async fn read(self: Arc<Self>) {
        let mut cursor = self.known().cursor.clone();
        let mut pause = Duration::from_millis(50);
        let mut silent = 0_u32;
        loop {
            let resumed = self.known().resumed;
            match self.store.events(self.run, &cursor, REREAD_AFTER).await {
                Ok(events) => {
                    pause = Duration::from_millis(50);
                    cursor = events.cursor.clone();
                    let ended = !events.run.is_some_and(RunState::is_running);
                    let unsure = events.gap || events.finished.is_empty();
                    let held = self.is_held(events.run);
                    let last = ended && events.finished.is_empty() && !held;
                    if held {
                        tokio::time::sleep(pause).await;
                    }
                    silent = if events.finished.is_empty() { silent + 1 } else { 0 };
                    if silent > 0 && silent.is_multiple_of(2) && !ended {
                        self.warn_of_nobody().await;
                    }
                    self.take(&events);
                    // Whoever waited for these goes now, and no more events may be wanted.
                    tokio::task::yield_now().await;
                    // Before the end is announced, so that a waiter finds what was missed.
                    if unsure
                        && self.known().interest > 0
                        && let Err(error) = self.look().await
                    {
                        tracing::warn!(run = %self.run, %error, "cannot look for finished tasks");
                    }
                    let mut known = self.known();
                    // An end that was read before the run was taken up again is none.
                    if last && known.interest > 0 && known.resumed == resumed {
                        known.over = Some(Over::Ended(events.run));
                    }
                }
                Err(error) if error.is_retryable() => {
                    self.away.seen();
                    tracing::warn!(run = %self.run, %error, "reading the run's events again");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(2));
                }
                Err(error) => self.known().over = Some(Over::Broken(error.into())),
            }
            let over = {
                let mut known = self.known();
                let over = known.over.is_some();
                if std::mem::take(&mut known.rewound) {
                    cursor = EventCursor::default();
                }
                if over || known.interest == 0 {
                    known.reading = false;
                    known.cursor = cursor.clone();
                    known.recent.shrink_to_fit();
                }
                if !over && known.interest == 0 {
                    return;
                }
                over
            };
            if over {
                self.wake_all();
                return;
            }
        }
    }

    /// Takes in that the run is or is not there; whether it is missed and may come back.
    fn is_held(&self, state: Option<RunState>) -> bool {
        let mut known = self.known();
        if known.absence != Absence::Deleted {
            known.absence = if state.is_none() { Absence::Noticed } else { Absence::Lost };
        }
        known.absence == Absence::Noticed
    }

    /// Says so when nothing can happen because there is no worker.
    async fn warn_of_nobody(&self) {
        if self.store.workers().await.is_ok_and(|workers| workers.is_empty()) {
            tracing::warn!(run = %self.run, "no worker is there: the run waits for one");
        }
    }

    /// Takes in what events say.
    fn take(&self, events: &Events) {
        if events.finished.is_empty() {
            return;
        }
        let mut touched = [false; GROUPS];
        {
            let mut known = self.known();
            for FinishedEvent { task, state, locator } in &events.finished {
                known.finished.entry(task.segment()).or_default().set(task.index());
                if known.recent.len() < RECENT_MAX {
                    known.recent.insert(*task, (*state, *locator));
                }
                touched[usize::from(task.index()) / 64 % GROUPS] = true;
            }
        }
        for (group, _) in self.groups.iter().zip(touched).filter(|(_, touched)| *touched) {
            group.notify_waiters();
        }
        self.any.notify_waiters();
    }

    /// Looks at the tasks themselves.
    async fn look(&self) -> Result<(), store::Error> {
        for segment in self.store.segments(self.run).await? {
            if let Some(states) = self.store.states(self.run, segment).await? {
                let mut known = self.known();
                let bits = known.finished.entry(segment).or_default();
                for (index, byte) in (0..=u16::MAX).zip(&states) {
                    if StateByte(*byte).state() != TaskState::Pending {
                        bits.set(index);
                    }
                }
            }
        }
        self.wake_all();
        Ok(())
    }

    fn wake_all(&self) {
        self.groups.iter().for_each(Notify::notify_waiters);
        self.any.notify_waiters();
    }
}
