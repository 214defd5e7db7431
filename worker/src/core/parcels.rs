//! Deliveries this worker holds, and when each may be acknowledged. Pure bookkeeping.
//!
//! A delivery is acknowledged once its tasks are committed or dropped and what they released is
//! confirmed by the broker or committed here; confirms are waited for no longer than
//! [`limits::ACK_WAIT_MAX`], because under a broker's memory alarm they stop and only
//! acknowledgements can end the alarm. The outbox covers what is released either way.

use std::collections::BTreeMap;
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
    /// Held for too long: nothing more runs on its account.
    closing: bool,
    /// Since when only confirms are missing.
    waiting: Option<Instant>,
}

/// The deliveries.
#[derive(Debug, Default)]
pub(crate) struct Parcels {
    next: u64,
    held: BTreeMap<ParcelId, Parcel>,
}

impl Parcels {
    /// A delivery; its tasks follow.
    pub(crate) fn open(&mut self, tag: Tag, now: Instant) -> ParcelId {
        self.next += 1;
        let id = ParcelId(self.next);
        let parcel =
            Parcel { tag, tasks: 0, unconfirmed: 0, received: now, closing: false, waiting: None };
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

    /// Takes out a delivery of which nothing has begun, to be given back.
    pub(crate) fn give_back(&mut self, id: ParcelId) -> Option<Tag> {
        self.held.remove(&id).map(|parcel| parcel.tag)
    }

    /// Whether the delivery can still be acknowledged.
    pub(crate) fn holds(&self, id: ParcelId) -> bool {
        self.held.contains_key(&id)
    }

    /// Whether more tasks may run on account of it.
    pub(crate) fn lends(&self, id: ParcelId) -> bool {
        self.held.get(&id).is_some_and(|parcel| !parcel.closing)
    }

    /// The deliveries that have been held for too long to trust the broker with them.
    pub(crate) fn overdue(&mut self, now: Instant, hold: Duration) -> Vec<ParcelId> {
        let late = self.held.iter_mut().filter(|(_, parcel)| now >= parcel.received + hold);
        late.map(|(id, parcel)| {
            parcel.closing = true;
            *id
        })
        .collect()
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
