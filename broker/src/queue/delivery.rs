//! What a consumer hands out: events, deliveries, and the tags that settle them.

use std::fmt;

use bytes::Bytes;

use super::names::QueueName;
use super::route::{Lane, Route};
use crate::limits::ABSENT_PREFETCH;

/// The number of one subscription's life. Every reconnection begins a higher one, and what was
/// delivered in an older one can no longer be settled: the broker delivers it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Names one delivery to its consumer's [`Settler`](super::Settler).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag {
    /// The session that delivered it.
    pub epoch: Epoch,
    /// Its number there.
    pub(crate) number: u64,
}

/// One arrival of a message. It stays with this consumer until it is settled, or the session ends.
#[derive(Clone, PartialEq, Eq)]
pub struct Delivery {
    /// The lane it came from.
    pub route: Route,
    /// The message.
    pub body: Bytes,
    /// Whether it had been delivered before, to anyone.
    pub redelivered: bool,
    /// What settles it.
    pub tag: Tag,
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery")
            .field("route", &self.route)
            .field("bytes", &self.body.len())
            .field("redelivered", &self.redelivered)
            .field("tag", &self.tag)
            .finish()
    }
}

/// What happens at a consumer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Subscribed: deliveries follow.
    SessionStarted {
        /// The new session.
        epoch: Epoch,
    },
    /// A message.
    Delivery(Delivery),
    /// A control message, sent to every consumer. A hint: some may be lost.
    Control(Bytes),
    /// A consumer of the namespace that had left this with the broker has lost its session or has
    /// ended. One of the others hears of it, at least once unless the broker loses it; settled like
    /// a delivery, and held by one until then. The absent one may be back already.
    Absent {
        /// What it had left: [`ConsumeOptions::presence`].
        presence: Bytes,
        /// What settles it.
        tag: Tag,
    },
    /// The subscription ended by a fault. Its unsettled deliveries will come again, here or
    /// elsewhere; the consumer reconnects by itself.
    SessionLost {
        /// The session that ended.
        epoch: Epoch,
        /// Why.
        reason: String,
    },
}

/// What to consume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumeOptions {
    /// The user queues.
    pub queues: Vec<QueueName>,
    /// Unsettled deliveries at one time from each level of each queue's urgent lane; 0 leaves it
    /// unconsumed.
    pub prefetch_hi: u16,
    /// The same for each queue's other lane.
    pub prefetch_lo: u16,
    /// What another consumer is told when this one is gone; one that leaves nothing is told nothing.
    pub presence: Option<Bytes>,
}

impl ConsumeOptions {
    /// How many deliveries this consumer can hold unsettled at once.
    pub(crate) fn unsettled_max(&self) -> usize {
        let lanes = self.lanes().map(|(_, prefetch)| usize::from(prefetch));
        lanes.sum::<usize>() + usize::from(ABSENT_PREFETCH)
    }

    /// The lanes to consume, each with its prefetch, of each queue the urgent ones first.
    pub(crate) fn lanes(&self) -> impl Iterator<Item = (Route, u16)> + '_ {
        let all = self.queues.iter().flat_map(Route::all);
        let prefetch = |route: Route| match route.lane {
            Lane::Hi => (route, self.prefetch_hi),
            Lane::Lo => (route, self.prefetch_lo),
        };
        all.map(prefetch).filter(|(_, prefetch)| *prefetch > 0)
    }
}

/// A message that could not be used, kept for a person to look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// The message.
    pub body: Bytes,
    /// Why it could not be used.
    pub reason: String,
}
