//! A consumer of a broker in memory, and the handle that settles its deliveries.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use tokio::sync::Notify;

use super::MemoryBroker;
use super::broker::{Settlement, State, Subscriber, Subscription};
use crate::limits::ABSENT_PREFETCH;
use crate::queue::delivery::{ConsumeOptions, Epoch, Event, Tag};
use crate::queue::names::Names;

/// The receiving half. Dropping it gives back all it holds.
pub(in crate::queue) struct MemoryConsumer {
    broker: MemoryBroker,
    id: u64,
    wake: Arc<Notify>,
}

/// The settling half, from any task.
#[derive(Clone)]
pub(in crate::queue) struct MemorySettler {
    broker: MemoryBroker,
    id: u64,
}

impl MemoryConsumer {
    pub(super) fn subscribe(
        broker: &MemoryBroker,
        names: &Names,
        options: &ConsumeOptions,
    ) -> Self {
        let lanes = options.lanes().map(|(route, prefetch)| Subscription {
            queue: names.lane(&route),
            route: Some(route),
            prefetch: usize::from(prefetch),
            unsettled: 0,
        });
        let absent = options.presence.iter().map(|_| Subscription {
            queue: names.absent(),
            route: None,
            prefetch: usize::from(ABSENT_PREFETCH),
            unsettled: 0,
        });
        let wake = Arc::new(Notify::new());
        let subscriber = Subscriber {
            names: names.clone(),
            lanes: lanes.chain(absent).collect(),
            epoch: Epoch(0),
            inbox: VecDeque::new(),
            unsettled: BTreeMap::new(),
            presence: options.presence.clone(),
            lo_paused: false,
            stopped: false,
            wake: wake.clone(),
        };
        let id = broker.lock().subscribe(subscriber);
        Self { broker: broker.clone(), id, wake }
    }

    pub(in crate::queue) async fn next(&mut self) -> Option<Event> {
        loop {
            {
                let mut state = self.broker.lock();
                let subscriber = state.subscriber(self.id)?;
                if let Some(event) = subscriber.inbox.pop_front() {
                    return Some(event);
                }
                if subscriber.stopped {
                    return None;
                }
            }
            // The permit of a wake-up between the look above and here is kept for this wait.
            self.wake.notified().await;
        }
    }

    pub(in crate::queue) fn settler(&self) -> MemorySettler {
        MemorySettler { broker: self.broker.clone(), id: self.id }
    }
}

impl Drop for MemoryConsumer {
    fn drop(&mut self) {
        self.broker.lock().unsubscribe(self.id);
    }
}

impl MemorySettler {
    pub(in crate::queue) fn ack(&self, tag: Tag) -> bool {
        self.broker.lock().settle(self.id, tag, Settlement::Ack)
    }

    pub(in crate::queue) fn ack_many(&self, tags: &[Tag]) -> usize {
        let mut state = self.broker.lock();
        tags.iter().filter(|tag| state.settle(self.id, **tag, Settlement::Ack)).count()
    }

    pub(in crate::queue) fn give_back(&self, tag: Tag) -> bool {
        self.broker.lock().settle(self.id, tag, Settlement::GiveBack)
    }

    pub(in crate::queue) fn pause_lo(&self, paused: bool) {
        self.steer(|subscriber| subscriber.lo_paused = paused);
    }

    pub(in crate::queue) fn stop(&self) {
        self.steer(|subscriber| subscriber.stopped = true);
    }

    fn steer(&self, change: impl FnOnce(&mut Subscriber)) {
        let mut state = self.broker.lock();
        let state: &mut State = &mut state;
        if let Some(subscriber) = state.subscriber(self.id) {
            change(subscriber);
            subscriber.wake.notify_one();
            state.redispatch(self.id);
        }
    }
}
