//! Permits of tasks that may run only so often at once in all workers: asked of the store, prolonged,
//! and given back.
//!
//! A permit runs out with its worker's lease. A worker that cannot prolong what it has starts nothing
//! on it any more: by then another one may have it.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::time::Duration;

use bolthole_broker::id::Incarnation;
use bolthole_broker::limits;
use bolthole_broker::store::Store;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::slots::{Slots, Wish};

/// How long a worker that got fewer than it could use waits until it asks again, doubled up to the
/// second, for whoever gives some back tells nobody; and for how long it keeps what it could not use.
const PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(320));

/// Looks after the permits of one worker.
pub(crate) struct Keeper {
    pub(crate) store: Store,
    pub(crate) slots: Slots,
    pub(crate) me: Incarnation,
    pub(crate) lease: Duration,
    pub(crate) stop: CancellationToken,
}

impl Keeper {
    /// Until the worker stops; then those are given back on which no body runs.
    pub(crate) async fn run(self) {
        let renew = self.lease / limits::WORKER_RENEWALS;
        let mut held: BTreeMap<String, Instant> = BTreeMap::new();
        let mut pause = PAUSE.0;
        while !self.stop.is_cancelled() {
            let mut short = false;
            let mut next = Instant::now() + renew;
            for wish in self.slots.permit_wishes() {
                let since = held.get(&wish.task);
                let due = match wish.wanted.cmp(&wish.granted) {
                    Ordering::Greater => None,
                    // The next task may be on its way here.
                    Ordering::Less => since.map(|asked| *asked + PAUSE.0),
                    Ordering::Equal => since.map(|asked| *asked + renew),
                };
                match due.filter(|due| *due > Instant::now()) {
                    Some(due) => next = next.min(due),
                    None => short |= self.ask(&wish.task, &mut held).await,
                }
            }
            pause = if short { (pause * 2).min(PAUSE.1) } else { PAUSE.0 };
            next = if short { next.min(Instant::now() + pause) } else { next };
            tokio::select! {
                () = self.stop.cancelled() => {}
                () = self.slots.permits_changed(), if !short => {}
                () = sleep_until(next) => {}
            }
        }
        for wish in self.slots.permit_wishes() {
            if wish.granted > wish.used {
                let kept = self.store.admit(&wish.task, self.me, wish.used, wish.max, self.lease);
                drop(kept.await);
            }
        }
    }

    /// Asks for what is wanted of a task's; true when there was less.
    async fn ask(&self, task: &str, held: &mut BTreeMap<String, Instant>) -> bool {
        let Some(wish) = self.slots.ask_permits(task) else { return false };
        let Wish { max, wanted, .. } = wish;
        let asked = Instant::now();
        let granted = match self.store.admit(task, self.me, wanted, max, self.lease).await {
            Ok(granted) => {
                held.insert(wish.task, asked);
                granted
            }
            Err(error) => {
                tracing::warn!(%task, %error, "cannot ask for permits");
                let since = held.get(task);
                let holds = since.is_some_and(|asked| asked.elapsed() < self.lease);
                if holds { wish.granted } else { 0 }
            }
        };
        if granted == 0 {
            held.remove(task);
        }
        self.slots.grant_permits(task, granted, max);
        granted < wanted
    }
}
