//! The state of a broker in memory, and its rules. Nothing here waits.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Notify;

use crate::limits::{CONTROL_BACKLOG_MAX, DEAD_LETTERS_MAX};
use crate::queue::delivery::{DeadLetter, Delivery, Epoch, Event, Tag};
use crate::queue::names::Names;
use crate::queue::route::{Lane, Route};

/// Everything a broker knows.
#[derive(Default)]
pub(super) struct State {
    queues: HashMap<String, LaneQueue>,
    subscribers: BTreeMap<u64, Subscriber>,
    dead: HashMap<String, VecDeque<DeadLetter>>,
    /// The source of every number that must not repeat: messages, tags, epochs, subscribers.
    last_number: u64,
    /// Whether declaring is refused.
    pub(super) frozen: bool,
}

/// One lane: ready messages by their order of arrival. A message given back returns to its place.
#[derive(Default)]
struct LaneQueue {
    ready: BTreeMap<u64, Message>,
    /// Renewed when the queue is purged or made again.
    generation: u64,
    /// The subscriber that received last: the next one is served first.
    served: u64,
}

struct Message {
    body: Bytes,
    redelivered: bool,
}

/// One consumer as the broker sees it.
pub(super) struct Subscriber {
    pub(super) names: Names,
    pub(super) lanes: Vec<Subscription>,
    pub(super) epoch: Epoch,
    pub(super) inbox: VecDeque<Event>,
    /// Delivered and not settled, by the tag's number.
    pub(super) unsettled: BTreeMap<u64, Held>,
    /// What others are told when it is gone.
    pub(super) presence: Option<Bytes>,
    pub(super) lo_paused: bool,
    pub(super) stopped: bool,
    pub(super) wake: Arc<Notify>,
}

/// A consumer's share of one lane.
pub(super) struct Subscription {
    /// `None` is where consumers that are gone are told of.
    pub(super) route: Option<Route>,
    pub(super) queue: String,
    pub(super) prefetch: usize,
    pub(super) unsettled: usize,
}

/// A message in a consumer's hands.
pub(super) struct Held {
    queue: String,
    order: u64,
    body: Bytes,
}

/// How a delivery ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Settlement {
    Ack,
    GiveBack,
}

impl Subscriber {
    fn wants(&self, subscription: &Subscription) -> bool {
        // Between two sessions it could not settle what it got.
        let in_session = self.epoch != Epoch(0);
        let is_lo = subscription.route.as_ref().is_some_and(|route| route.lane == Lane::Lo);
        in_session
            && !(self.stopped || self.lo_paused && is_lo)
            && subscription.unsettled < subscription.prefetch
    }

    /// The subscription through which this consumer could take a message of the queue now.
    fn taker(&self, queue: &str) -> Option<usize> {
        self.lanes.iter().position(|lane| lane.queue == queue && self.wants(lane))
    }

    fn put(&mut self, event: Event) {
        self.inbox.push_back(event);
        self.wake.notify_one();
    }
}

impl State {
    fn number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    /// Makes the queue unless it exists. False if it does not exist and may not be made.
    pub(super) fn declare(&mut self, queue: &str) -> bool {
        if self.queues.contains_key(queue) {
            return true;
        }
        if !self.frozen {
            let generation = self.number();
            self.queues.insert(queue.into(), LaneQueue { generation, ..LaneQueue::default() });
        }
        !self.frozen
    }

    pub(super) fn generation(&self, queue: &str) -> Option<u64> {
        self.queues.get(queue).map(|lane| lane.generation)
    }

    pub(super) fn depth(&self, queue: &str) -> Option<u32> {
        self.queues.get(queue).map(|lane| u32::try_from(lane.ready.len()).unwrap_or(u32::MAX))
    }

    pub(super) fn unsettled(&self) -> usize {
        self.subscribers.values().map(|subscriber| subscriber.unsettled.len()).sum()
    }

    pub(super) fn enqueue(&mut self, queue: &str, body: Bytes) {
        let order = self.number();
        if let Some(lane) = self.queues.get_mut(queue) {
            lane.ready.insert(order, Message { body, redelivered: false });
            self.dispatch(queue);
        }
    }

    /// Hands ready messages to consumers that have room, in turn.
    fn dispatch(&mut self, queue: &str) {
        while let Some(lane) = self.queues.get_mut(queue) {
            let Some(entry) = lane.ready.first_entry() else { return };
            let after = self.subscribers.range(lane.served + 1..);
            let before = self.subscribers.range(..=lane.served);
            let mut takers = after.chain(before);
            let found = takers.find_map(|(id, taker)| taker.taker(queue).map(|at| (*id, at)));
            let Some((id, at)) = found else { return };
            let (order, message) = entry.remove_entry();
            lane.served = id;
            self.last_number += 1;
            let number = self.last_number;
            let Some(taker) = self.subscribers.get_mut(&id) else { return };
            let Message { body, redelivered } = message;
            let held = Held { queue: queue.into(), order, body: body.clone() };
            taker.unsettled.insert(number, held);
            taker.lanes[at].unsettled += 1;
            let route = taker.lanes[at].route.clone();
            let tag = Tag { epoch: taker.epoch, number };
            taker.put(match route {
                Some(route) => Event::Delivery(Delivery { route, body, redelivered, tag }),
                None => Event::Absent { presence: body, tag },
            });
        }
    }

    /// Ends a delivery. False if the tag is of an older session or was settled before.
    pub(super) fn settle(&mut self, id: u64, tag: Tag, settlement: Settlement) -> bool {
        let Some(subscriber) = self.subscribers.get_mut(&id) else { return false };
        if subscriber.epoch != tag.epoch {
            return false;
        }
        let Some(held) = subscriber.unsettled.remove(&tag.number) else { return false };
        if let Some(lane) = subscriber.lanes.iter_mut().find(|lane| lane.queue == held.queue) {
            lane.unsettled -= 1;
        }
        let queue = held.queue.clone();
        if settlement == Settlement::GiveBack {
            self.put_back(held);
        }
        self.dispatch(&queue);
        true
    }

    fn put_back(&mut self, held: Held) {
        if let Some(lane) = self.queues.get_mut(&held.queue) {
            lane.ready.insert(held.order, Message { body: held.body, redelivered: true });
        }
    }

    pub(super) fn subscribe(&mut self, mut subscriber: Subscriber) -> u64 {
        let id = self.number();
        subscriber.epoch = Epoch(id);
        self.subscribers.insert(id, subscriber);
        self.begin_session(id);
        id
    }

    pub(super) fn subscriber(&mut self, id: u64) -> Option<&mut Subscriber> {
        self.subscribers.get_mut(&id)
    }

    /// Removes a consumer: what it holds returns to its place, marked as redelivered.
    pub(super) fn unsubscribe(&mut self, id: u64) {
        if let Some(subscriber) = self.subscribers.remove(&id) {
            self.take_back(subscriber.unsettled);
            self.tell_of(&subscriber.names, subscriber.presence);
        }
    }

    /// Tells another consumer of one that is gone.
    fn tell_of(&mut self, names: &Names, presence: Option<Bytes>) {
        let queue = names.absent();
        if let Some(presence) = presence.filter(|_| self.declare(&queue)) {
            self.enqueue(&queue, presence);
        }
    }

    fn take_back(&mut self, unsettled: BTreeMap<u64, Held>) {
        let mut queues: Vec<String> = Vec::new();
        for held in unsettled.into_values() {
            if !queues.contains(&held.queue) {
                queues.push(held.queue.clone());
            }
            self.put_back(held);
        }
        for queue in queues {
            self.dispatch(&queue);
        }
    }

    /// Offers a consumer's lanes again: after something made room or ended a pause.
    pub(super) fn redispatch(&mut self, id: u64) {
        let Some(subscriber) = self.subscribers.get(&id) else { return };
        let queues: Vec<_> = subscriber.lanes.iter().map(|lane| lane.queue.clone()).collect();
        for queue in queues {
            self.dispatch(&queue);
        }
    }

    fn begin_session(&mut self, id: u64) {
        let epoch = Epoch(self.number());
        let Some(subscriber) = self.subscribers.get_mut(&id) else { return };
        subscriber.epoch = epoch;
        subscriber.put(Event::SessionStarted { epoch });
        let queues: Vec<_> = subscriber.lanes.iter().map(|lane| lane.queue.clone()).collect();
        for queue in queues {
            self.declare(&queue);
            self.dispatch(&queue);
        }
    }

    /// Ends a consumer's session. Deliveries it has not seen yet are void, so it never sees them.
    fn end_session(&mut self, id: u64, reason: &str) -> BTreeMap<u64, Held> {
        let Some(subscriber) = self.subscribers.get_mut(&id) else { return BTreeMap::new() };
        subscriber
            .inbox
            .retain(|event| !matches!(event, Event::Delivery(_) | Event::Absent { .. }));
        for lane in &mut subscriber.lanes {
            lane.unsettled = 0;
        }
        let epoch = subscriber.epoch;
        subscriber.epoch = Epoch(0);
        subscriber.put(Event::SessionLost { epoch, reason: reason.into() });
        std::mem::take(&mut subscriber.unsettled)
    }

    fn restart_sessions(&mut self, ids: &[u64], reason: &str) {
        let held: Vec<_> = ids.iter().map(|id| self.end_session(*id, reason)).collect();
        // All return before any is offered again, as when a server stops: order is kept.
        held.into_iter().flat_map(BTreeMap::into_values).for_each(|held| self.put_back(held));
        for id in ids {
            if self.subscribers.get(id).is_some_and(|subscriber| !subscriber.stopped) {
                self.begin_session(*id);
            }
        }
        for id in ids {
            let lost = self.subscribers.get(id);
            let lost =
                lost.map(|subscriber| (subscriber.names.clone(), subscriber.presence.clone()));
            if let Some((names, presence)) = lost {
                self.tell_of(&names, presence);
            }
        }
    }

    pub(super) fn drop_sessions(&mut self, reason: &str) {
        let ids: Vec<_> = self.subscribers.keys().copied().collect();
        self.restart_sessions(&ids, reason);
    }

    pub(super) fn drop_session(&mut self, place: usize, reason: &str) {
        let id = self.subscribers.keys().nth(place % self.subscribers.len().max(1)).copied();
        self.restart_sessions(id.as_slice(), reason);
    }

    pub(super) fn wipe(&mut self) {
        self.queues.clear();
        self.dead.clear();
        self.drop_sessions("the broker lost its data");
    }

    pub(super) fn purge(&mut self, queue: &str) {
        let generation = self.number();
        if let Some(lane) = self.queues.get_mut(queue) {
            lane.ready.clear();
            lane.generation = generation;
        }
    }

    /// Deletes queues with what they hold. Their consumers lose their sessions, and declare anew.
    pub(super) fn delete(&mut self, queues: &[String]) {
        self.queues.retain(|name, _| !queues.contains(name));
        let consumes = |subscriber: &Subscriber| {
            subscriber.lanes.iter().any(|lane| queues.contains(&lane.queue))
        };
        let affected = self.subscribers.iter().filter(|(_, subscriber)| consumes(subscriber));
        let ids: Vec<_> = affected.map(|(id, _)| *id).collect();
        self.restart_sessions(&ids, "the queue was deleted");
    }

    pub(super) fn broadcast(&mut self, names: &Names, body: &Bytes) {
        let listeners = self.subscribers.values_mut();
        for subscriber in listeners.filter(|one| one.names == *names && !one.stopped) {
            let is_control = |event: &Event| matches!(event, Event::Control(_));
            if subscriber.inbox.iter().filter(|event| is_control(event)).count()
                >= CONTROL_BACKLOG_MAX
            {
                let oldest = subscriber.inbox.iter().position(is_control);
                oldest.and_then(|at| subscriber.inbox.remove(at));
            }
            subscriber.put(Event::Control(body.clone()));
        }
    }

    pub(super) fn bury(&mut self, names: &Names, letter: DeadLetter) {
        let dead = self.dead.entry(names.dead()).or_default();
        if dead.len() >= DEAD_LETTERS_MAX {
            dead.pop_front();
        }
        dead.push_back(letter);
    }

    pub(super) fn dead_letters(&self, names: &Names, max: usize) -> Vec<DeadLetter> {
        let dead = self.dead.get(&names.dead());
        dead.map(|dead| dead.iter().take(max).cloned().collect()).unwrap_or_default()
    }

    pub(super) fn forget_dead(&mut self, names: &Names) {
        self.dead.remove(&names.dead());
    }
}
