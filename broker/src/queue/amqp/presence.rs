//! What a consumer leaves behind: a message in a queue of its own, which it holds unacknowledged. When
//! its session ends, however that happens, the broker takes the message back; there it has expired,
//! and so goes to the queue from which one of the other consumers is told. The broker sees the end of
//! a process at once, long before any record of it runs out.
//!
//! The message is published over the other connection, as all are, and replaced from time to time:
//! brokers do not let a message be held for ever.

use bytes::Bytes;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::Amqp;
use super::publisher::Target;
use crate::limits::{PRESENCE_HOLD_MAX, PRESENCE_RENEW};
use crate::queue::backoff::backoff;

/// The message that is held and the one that replaces it.
pub(super) const PRESENCE_PREFETCH: u16 = 2;

/// The presence of one session.
pub(super) struct Presence {
    amqp: Amqp,
    queue: String,
    body: Bytes,
    /// The delivery that is held, and since when.
    held: Option<(u64, Instant)>,
    due: Instant,
    /// At most one, which ends with the session.
    publishing: JoinSet<()>,
}

impl Presence {
    pub(super) fn new(amqp: Amqp, queue: String, body: Bytes) -> Self {
        Self { amqp, queue, body, held: None, due: Instant::now(), publishing: JoinSet::new() }
    }

    /// The queue to consume.
    pub(super) fn queue(&self) -> &str {
        &self.queue
    }

    /// When to call [`Presence::renew`].
    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// Publishes the message that replaces the one that is held. Returns the delivery that was held
    /// for too long and is to be acknowledged without another: then only the record in the store
    /// tells of the consumer, until messages are taken again.
    pub(super) fn renew(&mut self) -> Option<u64> {
        let now = Instant::now();
        self.due = now + PRESENCE_RENEW;
        self.publishing = JoinSet::new();
        let (amqp, queue, body) = (self.amqp.clone(), self.queue.clone(), self.body.clone());
        self.publishing.spawn(async move {
            let mut failed_attempts = 0;
            let target = Target::Presence(queue);
            while let Err(error) = amqp.0.publisher.publish(target.clone(), body.clone()).await {
                tracing::debug!(%error, "a presence was not published");
                failed_attempts += 1;
                sleep(backoff(failed_attempts)).await;
            }
        });
        let late = |held: &mut (u64, Instant)| now >= held.1 + PRESENCE_HOLD_MAX;
        self.held.take_if(late).map(|(number, _)| number)
    }

    /// A message has come; the one that it replaces is to be acknowledged.
    pub(super) fn arrived(&mut self, number: u64) -> Option<u64> {
        self.held.replace((number, Instant::now())).map(|(old, _)| old)
    }
}
