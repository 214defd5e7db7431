//! The message queue in memory: the executable specification, the embedded mode and the simulator.
//!
//! Everything happens under one lock, at once and in order; only [`Memory::publish_delayed`] waits,
//! on tokio's clock, so a paused clock moves it. A [`MemoryBroker`] is the server: clients of the
//! same one, in the same namespace, see the same queues. Its other methods are the faults a real
//! broker has, to be caused on purpose.

mod broker;
mod consumer;

use std::fmt;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;

use super::check_size;
use super::delivery::{ConsumeOptions, DeadLetter};
use super::error::{PublishError, QueueError};
use super::names::{BadName, Names, QueueName, delay_class};
use super::route::Route;
use crate::line::Line;
use broker::State;
pub(super) use consumer::{MemoryConsumer, MemorySettler};

/// A broker in memory, shared by cloning.
#[derive(Clone, Default)]
pub struct MemoryBroker {
    state: Arc<Mutex<State>>,
    /// Why publishing is blocked, if it is. Apart from the state, so that it can be waited for.
    blocked: Arc<Mutex<Option<String>>>,
    /// Told when it is no longer. It wakes those who wait in the order in which they came, so that a
    /// simulation can be repeated; a watch draws the order anew each time.
    unblocked: Arc<Notify>,
}

impl fmt::Debug for MemoryBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MemoryBroker")
    }
}

impl MemoryBroker {
    /// An empty broker.
    pub fn new() -> Self {
        Self::default()
    }

    /// A client of this broker in a namespace (the empty one is a namespace too).
    pub fn client(&self, namespace: &str) -> Result<Memory, BadName> {
        Ok(Memory { broker: self.clone(), names: Names::new(namespace)?, line: None })
    }

    fn alarm(&self) -> MutexGuard<'_, Option<String>> {
        self.blocked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Raises (or with `None` ends) an alarm: publishing is refused, everything else goes on.
    pub fn block(&self, reason: Option<&str>) {
        *self.alarm() = reason.map(Into::into);
        if reason.is_none() {
            self.unblocked.notify_waiters();
        }
    }

    /// Ends every consumer's session and begins the next, as a restart that keeps all messages.
    pub fn drop_sessions(&self) {
        self.lock().drop_sessions("the session was dropped");
    }

    /// As [`Self::drop_sessions`], of one consumer: the one with this place among all.
    pub fn drop_session(&self, place: usize) {
        self.lock().drop_session(place, "the session was dropped");
    }

    /// Loses every queue and message, as a broker that comes back with an empty disk. Consumers
    /// lose their sessions and declare anew.
    pub fn wipe(&self) {
        self.lock().wipe();
    }

    /// While set, nothing can be declared, as for a user without that permission: publishing to a
    /// queue that is not there stays unroutable.
    pub fn freeze_topology(&self, frozen: bool) {
        self.lock().frozen = frozen;
    }

    /// Deliveries that consumers hold and have not settled.
    pub fn unsettled(&self) -> usize {
        self.lock().unsettled()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code panics while it holds this lock; were it to, the state would still be whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A client of a [`MemoryBroker`]. The semantics of each method are those of
/// [`Queue`](super::Queue).
#[derive(Debug, Clone)]
pub struct Memory {
    broker: MemoryBroker,
    names: Names,
    /// What messages of this client travel on.
    line: Option<Arc<dyn Line>>,
}

impl Default for Memory {
    /// A client of a broker of its own, in the empty namespace.
    fn default() -> Self {
        Self { broker: MemoryBroker::new(), names: Names::default(), line: None }
    }
}

impl Memory {
    /// The same client at the end of a line.
    #[must_use]
    pub fn over(mut self, line: Arc<dyn Line>) -> Self {
        self.line = Some(line);
        self
    }

    pub(super) fn line(&self) -> Option<&Arc<dyn Line>> {
        self.line.as_ref()
    }

    /// The broker behind it, to cause faults on.
    pub fn broker(&self) -> &MemoryBroker {
        &self.broker
    }

    pub(super) fn declare(&self, queues: &[QueueName]) -> Result<(), QueueError> {
        let mut state = self.broker.lock();
        for route in queues.iter().flat_map(Route::all) {
            if !state.declare(&self.names.lane(&route)) {
                return Err(QueueError::Refused("the topology is frozen".into()));
            }
        }
        Ok(())
    }

    fn refuse_if_blocked(&self) -> Result<(), PublishError> {
        match self.broker.alarm().clone() {
            Some(reason) => Err(PublishError::Blocked { reason, sent: false }),
            None => Ok(()),
        }
    }

    pub(super) fn publish(&self, route: &Route, body: &Bytes) -> Result<(), PublishError> {
        self.refuse_if_blocked()?;
        let queue = self.names.lane(route);
        if !self.broker.lock().declare(&queue) {
            return Err(PublishError::Unroutable(route.clone()));
        }
        for late in self.copies(body) {
            if late.is_zero() {
                self.broker.lock().enqueue(&queue, body.clone());
            } else {
                self.enqueue_later(queue.clone(), body.clone(), late);
            }
        }
        Ok(())
    }

    pub(super) fn publish_all(
        &self,
        messages: Vec<(Route, Bytes)>,
    ) -> Vec<Result<(), PublishError>> {
        let publish = |(route, body)| check_size(&body).and_then(|()| self.publish(&route, &body));
        messages.into_iter().map(publish).collect()
    }

    pub(super) fn publish_delayed(
        &self,
        route: &Route,
        body: &Bytes,
        delay: Duration,
    ) -> Result<(), PublishError> {
        self.refuse_if_blocked()?;
        let queue = self.names.lane(route);
        if !self.broker.lock().declare(&queue) {
            return Err(PublishError::Unroutable(route.clone()));
        }
        for late in self.copies(body) {
            self.enqueue_later(queue.clone(), body.clone(), delay_class(delay) + late);
        }
        Ok(())
    }

    /// When the copies of a message arrive.
    fn copies(&self, body: &Bytes) -> Vec<Duration> {
        self.line.as_ref().map_or_else(|| vec![Duration::ZERO], |line| line.copies(body))
    }

    fn enqueue_later(&self, queue: String, body: Bytes, delay: Duration) {
        let generation = self.broker.lock().generation(&queue);
        let state = Arc::downgrade(&self.broker.state);
        let due = tokio::time::Instant::now() + delay;
        tokio::spawn(async move {
            tokio::time::sleep_until(due).await;
            let Some(state) = state.upgrade() else { return };
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            // A queue purged or deleted meanwhile took what it was to receive along.
            if generation.is_some() && state.generation(&queue) == generation {
                state.enqueue(&queue, body);
            }
        });
    }

    pub(super) fn broadcast(&self, body: &Bytes) -> Result<(), PublishError> {
        self.refuse_if_blocked()?;
        self.broker.lock().broadcast(&self.names, body);
        Ok(())
    }

    pub(super) fn dead_letter(&self, body: Bytes, reason: &str) -> Result<(), PublishError> {
        self.refuse_if_blocked()?;
        self.broker.lock().bury(&self.names, DeadLetter { body, reason: reason.into() });
        Ok(())
    }

    pub(super) fn dead_letters(&self, max: usize) -> Vec<DeadLetter> {
        self.broker.lock().dead_letters(&self.names, max)
    }

    pub(super) fn consume(&self, options: &ConsumeOptions) -> MemoryConsumer {
        MemoryConsumer::subscribe(&self.broker, &self.names, options)
    }

    pub(super) fn depth(&self, route: &Route) -> Result<u32, QueueError> {
        let queue = self.names.lane(route);
        self.broker.lock().depth(&queue).ok_or(QueueError::NoSuchQueue(queue))
    }

    pub(super) fn purge_all(&self, queues: &[QueueName]) {
        let mut state = self.broker.lock();
        for route in queues.iter().flat_map(Route::all) {
            let queue = self.names.lane(&route);
            state.declare(&queue);
            state.purge(&queue);
        }
        state.forget_dead(&self.names);
    }

    pub(super) fn delete_all(&self, queues: &[QueueName]) {
        let lanes = queues.iter().flat_map(Route::all).map(|route| self.names.lane(&route));
        let mut state = self.broker.lock();
        state.delete(&lanes.collect::<Vec<_>>());
        state.forget_dead(&self.names);
    }

    pub(super) fn is_blocked(&self) -> bool {
        self.broker.alarm().is_some()
    }

    pub(super) async fn unblocked(&self) {
        loop {
            // Before looking, so that no end is missed.
            let mut ended = pin!(self.broker.unblocked.notified());
            ended.as_mut().enable();
            if !self.is_blocked() {
                return;
            }
            ended.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Event, Queue};
    use super::*;

    fn route() -> Route {
        Route::hi(&QueueName::default())
    }

    fn options() -> ConsumeOptions {
        let queues = vec![QueueName::default()];
        ConsumeOptions { queues, prefetch_hi: 5, prefetch_lo: 5, presence: None }
    }

    #[tokio::test]
    async fn faults_can_be_caused() {
        let broker = MemoryBroker::new();
        let queue = Queue::on(&broker, "").unwrap();
        broker.freeze_topology(true);
        let error = queue.publish(&route(), "one".into()).await.unwrap_err();
        assert_eq!(error, PublishError::Unroutable(route()));
        broker.freeze_topology(false);
        queue.publish(&route(), "one".into()).await.unwrap();

        broker.block(Some("low on memory"));
        let error = queue.publish(&route(), "two".into()).await.unwrap_err();
        assert!(matches!(error, PublishError::Blocked { sent: false, .. }) && queue.is_blocked());
        let (unblocked, ()) = tokio::join!(queue.unblocked(), async { broker.block(None) });
        assert_eq!((unblocked, queue.is_blocked()), ((), false));
    }

    #[tokio::test]
    async fn a_lost_session_gives_back_in_order() {
        let broker = MemoryBroker::new();
        let queue = Queue::on(&broker, "").unwrap();
        let bodies = ["one", "two"].map(|body| (route(), Bytes::from_static(body.as_bytes())));
        assert_eq!(queue.publish_all(bodies.into()).await, [Ok(()), Ok(())]);
        let mut consumer = queue.consume(options());
        let Some(Event::SessionStarted { epoch: first }) = consumer.next().await else { panic!() };
        let Some(Event::Delivery(one)) = consumer.next().await else { panic!() };
        broker.drop_sessions();
        assert!(!consumer.settler().ack(one.tag).await);
        let lost = consumer.next().await;
        assert!(matches!(lost, Some(Event::SessionLost { epoch, .. }) if epoch == first));
        let begun = consumer.next().await;
        assert!(matches!(begun, Some(Event::SessionStarted { epoch }) if epoch > first));
        for body in ["one", "two"] {
            let Some(Event::Delivery(again)) = consumer.next().await else { panic!() };
            assert!(again.body == body && again.redelivered);
        }
        broker.wipe();
        assert!(matches!(consumer.next().await, Some(Event::SessionLost { .. })));
        assert_eq!(queue.depth(&route()).await, Ok(0));
    }

    #[tokio::test]
    async fn a_waiting_consumer_is_woken() {
        let queue = Queue::memory();
        let mut consumer = queue.consume(options());
        assert!(matches!(consumer.next().await, Some(Event::SessionStarted { .. })));
        let waiting = tokio::spawn(async move { consumer.next().await });
        tokio::task::yield_now().await;
        queue.publish(&route(), "one".into()).await.unwrap();
        assert!(matches!(waiting.await.unwrap(), Some(Event::Delivery(_))));
    }
}
