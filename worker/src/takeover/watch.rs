//! Watching the records of others, and whether the store can be believed.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bolthole_broker::id::{RunId, TaskId, WorkerIndex};
use bolthole_broker::limits;
use bolthole_broker::store::{Error, WorkerRecord};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::Takeover;

/// When what a silent worker had is looked at again, the time doubled up to the second: until then
/// the broker has given up a connection that says nothing.
const AGAIN: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(16));
/// How many records of others a worker watches.
const NEIGHBOURS: usize = 2;

/// Since when the store has answered in time. Nobody is judged by what the store says shortly after
/// it was away: who lives needs a moment to say so again.
#[derive(Debug)]
pub(crate) struct Contact {
    since: Mutex<Instant>,
    /// Whether it was away in the life of this worker.
    broken: AtomicBool,
}

impl Contact {
    pub(crate) fn new() -> Self {
        Self { since: Mutex::new(Instant::now()), broken: AtomicBool::new(false) }
    }

    /// The store did not answer in time.
    pub(crate) fn lost(&self) {
        *self.since.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.broken.store(true, Ordering::Relaxed);
    }

    /// Whether it has answered for so long.
    pub(crate) fn stands_for(&self, time: Duration) -> bool {
        self.since.lock().unwrap_or_else(PoisonError::into_inner).elapsed() >= time
    }

    /// Whether it was away less than so long ago.
    pub(crate) fn was_lost_within(&self, time: Duration) -> bool {
        self.broken.load(Ordering::Relaxed) && !self.stands_for(time)
    }
}

/// What a silent worker had, to be looked at again: a message about it may have gone to that very
/// worker, and stay there until the broker gives it up too.
pub(super) struct Again {
    run: RunId,
    tasks: HashSet<TaskId>,
    due: Instant,
    wait: Duration,
}

impl Again {
    pub(super) fn new(run: RunId, tasks: HashSet<TaskId>) -> Self {
        Self { run, tasks, due: Instant::now() + AGAIN.0, wait: AGAIN.0 }
    }
}

impl Takeover {
    /// Watches the records of the next workers in the order of their indexes until the worker stops.
    ///
    /// A record that was seen to stand and then runs out, while the store answered all the time, is
    /// a worker that did not renew it although it could. After an answer that came late nothing seen
    /// before counts: the store may have been away, and all records with it.
    pub(crate) async fn watch(self: Arc<Self>) {
        let mut look = interval((self.lease / 20).min(limits::WATCH_EVERY));
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut seen: BTreeMap<WorkerIndex, WorkerRecord> = BTreeMap::new();
        let mut chosen: Option<Instant> = None;
        let mut again: Vec<Again> = Vec::new();
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                _ = look.tick() => {}
            }
            let began = Instant::now();
            let choose = chosen.is_none_or(|at| began >= at + self.lease / 2);
            let looked = self.look(&mut seen, choose).await;
            if looked.is_err() || began.elapsed() >= self.lease / 2 {
                self.contact.lost();
                seen.clear();
                chosen = None;
                continue;
            }
            if choose {
                chosen = Some(began);
            }
            for last in looked.unwrap_or_default() {
                match self.after_silence(&last).await {
                    Ok(more) => again.extend(more),
                    Err(error) => tracing::warn!(%error, "cannot take over; reconciling will"),
                }
            }
            for mut one in again.extract_if(.., |one| one.due <= began).collect::<Vec<_>>() {
                if self.hand_on_again(&mut one).await.unwrap_or(true) {
                    again.push(one);
                }
            }
        }
    }

    /// Hands on what nobody has taken since; false when there is nothing left to look after.
    async fn hand_on_again(&self, again: &mut Again) -> Result<bool, Error> {
        let ready = self.ready(again.run, |task| again.tasks.contains(&task)).await?;
        again.tasks = ready.iter().map(|ready| ready.task).collect();
        again.wait *= 2;
        again.due = Instant::now() + again.wait;
        let more = !ready.is_empty() && again.wait <= AGAIN.1;
        self.hand_on(again.run, ready).await;
        Ok(more)
    }

    /// Looks at the neighbours, which it chooses anew if asked to; those whose records are gone.
    async fn look(
        &self,
        seen: &mut BTreeMap<WorkerIndex, WorkerRecord>,
        choose: bool,
    ) -> Result<Vec<WorkerRecord>, Error> {
        let mut silent = Vec::new();
        for index in seen.keys().copied().collect::<Vec<_>>() {
            match self.store.worker(index).await? {
                Some(record) => drop(seen.insert(index, record)),
                None => silent.extend(seen.remove(&index)),
            }
        }
        if choose || !silent.is_empty() {
            let near = self.store.neighbours(self.index, NEIGHBOURS).await?;
            *seen = near.into_iter().collect();
        }
        Ok(silent)
    }
}
