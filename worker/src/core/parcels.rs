//! Deliveries this worker holds, and when each may be acknowledged. Pure bookkeeping.
//!
//! A delivery is acknowledged once its tasks are committed or dropped and what they released is
//! confirmed by the broker or committed here; confirms are waited for no longer than
//! [`limits::ACK_WAIT_MAX`], because under a broker's memory alarm they stop and only
//! acknowledgements can end the alarm. The outbox covers what is released either way.

use std::collections::HashMap;
use std::time::Duration;

use bolthole_broker::limits;
use bolthole_broker::queue::Tag;
use tokio::time::Instant;

/// Names a delivery inside this worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ParcelId(u64);

#[derive(Debug)]
struct Parcel {
    tag: Tag,
    /// Tasks that are neither committed nor dropped; those that run here because these released
    /// them are counted too.
    tasks: usize,
    /// Releases whose publication the broker has not confirmed.
    unconfirmed: usize,
    received: Instant,
    /// Since when only confirms are missing.
    waiting: Option<Instant>,
}

/// The deliveries.
#[derive(Debug, Default)]
pub(crate) struct Parcels {
    next: u64,
    held: HashMap<ParcelId, Parcel>,
}

impl Parcels {
    /// A delivery of `tasks` tasks that will be run here.
    pub(crate) fn open(&mut self, tag: Tag, tasks: usize, now: Instant) -> ParcelId {
        self.next += 1;
        let id = ParcelId(self.next);
        let parcel = Parcel { tag, tasks, unconfirmed: 0, received: now, waiting: None };
        self.held.insert(id, parcel);
        id
    }

    /// More tasks run here on account of this delivery.
    pub(crate) fn add_tasks(&mut self, id: ParcelId, count: usize) {
        if let Some(parcel) = self.held.get_mut(&id) {
            parcel.tasks += count;
        }
    }

    /// One of its tasks is committed or dropped.
    pub(crate) fn task_over(&mut self, id: ParcelId) {
        if let Some(parcel) = self.held.get_mut(&id) {
            parcel.tasks = parcel.tasks.saturating_sub(1);
        }
    }

    /// Releases of its tasks are being published.
    pub(crate) fn publishing(&mut self, id: ParcelId, count: usize) {
        if let Some(parcel) = self.held.get_mut(&id) {
            parcel.unconfirmed += count;
        }
    }

    /// They are confirmed.
    pub(crate) fn confirmed(&mut self, id: ParcelId, count: usize) {
        if let Some(parcel) = self.held.get_mut(&id) {
            parcel.unconfirmed = parcel.unconfirmed.saturating_sub(count);
        }
    }

    /// The deliveries that may be acknowledged now.
    pub(crate) fn take_settled(&mut self, now: Instant) -> Vec<Tag> {
        let mut settled = Vec::new();
        self.held.retain(|_, parcel| {
            if parcel.tasks > 0 {
                parcel.waiting = None;
                return true;
            }
            let since = *parcel.waiting.get_or_insert(now);
            let over = parcel.unconfirmed == 0 || now >= since + limits::ACK_WAIT_MAX;
            if over {
                settled.push(parcel.tag);
            }
            !over
        });
        settled
    }

    /// The deliveries that have been held for too long to trust the broker with them.
    pub(crate) fn overdue(&self, now: Instant, hold: Duration) -> Vec<ParcelId> {
        let late = self.held.iter().filter(|(_, parcel)| now >= parcel.received + hold);
        late.map(|(id, _)| *id).collect()
    }

    /// Lets go of a delivery whose tasks are protected otherwise; its tag, to be acknowledged.
    pub(crate) fn release(&mut self, id: ParcelId) -> Option<Tag> {
        self.held.remove(&id).map(|parcel| parcel.tag)
    }

    /// A session ended: its deliveries will come again and can no longer be acknowledged.
    pub(crate) fn forget_session(&mut self, epoch: bolthole_broker::queue::Epoch) {
        self.held.retain(|_, parcel| parcel.tag.epoch != epoch);
    }

    /// How many deliveries are held.
    pub(crate) fn len(&self) -> usize {
        self.held.len()
    }
}
