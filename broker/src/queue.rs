//! The message queue: doorbells for work that the store already knows.
//!
//! ```text
//! queue.rs             Queue, Consumer, Settler: what callers use, and nothing behind it
//! queue/names.rs       queue names; what things are called on the broker
//! queue/route.rs       lanes and levels: where messages wait
//! queue/delivery.rs    events, deliveries, tags, epochs
//! queue/error.rs       what can go wrong, and what to do
//! queue/memory.rs      in memory: the executable specification
//! queue/amqp.rs        on RabbitMQ, the only place that knows lapin
//! ```
//!
//! Invariants:
//! - A publish is `Ok` only when the broker has confirmed it *and* had a queue for it.
//! - A delivery is settled in the session that delivered it, or not at all: its tag carries the
//!   session's [`Epoch`].
//! - A message may be lost (a broker that dies), duplicated or reordered. The store is the truth;
//!   whoever relies on a message alone is wrong.

mod amqp;
mod backoff;
mod delivery;
mod error;
mod memory;
mod names;
mod route;

use std::time::Duration;

use bytes::Bytes;

#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub use amqp::fuzz;
pub use amqp::{Amqp, Greeting, greeting};
pub use delivery::{ConsumeOptions, DeadLetter, Delivery, Epoch, Event, Tag};
pub use error::{ConnectError, PublishError, QueueError};
pub use memory::{Memory, MemoryBroker};
pub use names::{BadName, DELAYS, QueueName};
pub use route::{Lane, Level, Levels, Route};

use crate::limits::MESSAGE_BYTES_MAX;
use crate::line::carry;

/// A client of the message queue. Cheap to clone; all clones share their connections.
#[derive(Debug, Clone)]
pub enum Queue {
    /// On RabbitMQ.
    Amqp(Amqp),
    /// In memory.
    Memory(Memory),
}

/// How to connect.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Prefixes everything on the broker; empty for none.
    pub namespace: String,
    /// What this process is (`client`, `worker`): names its connections on the broker.
    pub role: String,
    /// Whether messages survive a restart of the broker. Off by default: the store rings again.
    pub persistent: bool,
    /// How long a publish waits, for a connection and then for the confirm.
    pub publish_deadline: Duration,
}

impl Settings {
    /// The defaults for a namespace and a role.
    pub fn new(namespace: &str, role: &str) -> Self {
        Self {
            namespace: namespace.into(),
            role: role.into(),
            persistent: false,
            publish_deadline: crate::limits::PUBLISH_DEADLINE,
        }
    }
}

impl Queue {
    /// A queue in memory, of its own, in the empty namespace.
    pub fn memory() -> Self {
        Self::Memory(Memory::default())
    }

    /// A client of a broker in memory.
    pub fn on(broker: &MemoryBroker, namespace: &str) -> Result<Self, BadName> {
        broker.client(namespace).map(Self::Memory)
    }

    /// Connects to RabbitMQ at `amqp://user:password@host:port/vhost` (or `amqps://`) and declares
    /// what is shared; of a cluster, several hosts may be named, separated by commas. Its queues are
    /// quorum queues then, unless the URL ends in `?queues=classic`: those of a host that dies come
    /// back with it. Fails within 10 s, saying what to do.
    pub async fn connect(url: &str, namespace: &str, role: &str) -> Result<Self, ConnectError> {
        Self::connect_with(url, Settings::new(namespace, role)).await
    }

    /// [`Queue::connect`] with every setting.
    pub async fn connect_with(url: &str, settings: Settings) -> Result<Self, ConnectError> {
        Amqp::connect(url, settings).await.map(Self::Amqp)
    }

    /// Makes the lanes of these queues, unless they exist. Consuming and publishing do it too.
    pub async fn declare(&self, queues: &[QueueName]) -> Result<(), QueueError> {
        match self {
            Self::Amqp(amqp) => amqp.declare(queues).await,
            Self::Memory(memory) => memory.declare(queues),
        }
    }

    /// Publishes one message, and returns when the broker has taken it. A lane that is missing is
    /// declared again, once.
    pub async fn publish(&self, route: &Route, body: Bytes) -> Result<(), PublishError> {
        check_size(&body)?;
        match self {
            Self::Amqp(amqp) => amqp.publish(route, body).await,
            Self::Memory(memory) => {
                carry(memory.line(), "publish", async { memory.publish(route, &body) }).await
            }
        }
    }

    /// Publishes many, in order, with a bounded number unconfirmed at a time. The answers are in
    /// the order of the messages; one that fails does not stop the others.
    pub async fn publish_all(
        &self,
        messages: Vec<(Route, Bytes)>,
    ) -> Vec<Result<(), PublishError>> {
        match self {
            Self::Amqp(amqp) => amqp.publish_all(messages).await,
            Self::Memory(memory) => {
                let count = messages.len();
                let publish = async { Ok(memory.publish_all(messages)) };
                let all = carry(memory.line(), "publish_all", publish).await;
                all.unwrap_or_else(|error: PublishError| vec![Err(error); count])
            }
        }
    }

    /// Publishes a message that arrives later: after the longest of [`DELAYS`] that does not exceed
    /// `delay`, or the shortest there is. Good for a reminder, not for keeping time.
    pub async fn publish_delayed(
        &self,
        route: &Route,
        body: Bytes,
        delay: Duration,
    ) -> Result<(), PublishError> {
        check_size(&body)?;
        match self {
            Self::Amqp(amqp) => amqp.publish_delayed(route, body, delay).await,
            Self::Memory(memory) => {
                let publish = async { memory.publish_delayed(route, &body, delay) };
                carry(memory.line(), "publish_delayed", publish).await
            }
        }
    }

    /// Sends a control message to every consumer of the namespace. A hint: none may be there.
    pub async fn broadcast(&self, body: Bytes) -> Result<(), PublishError> {
        check_size(&body)?;
        match self {
            Self::Amqp(amqp) => amqp.broadcast(body).await,
            Self::Memory(memory) => {
                carry(memory.line(), "broadcast", async { memory.broadcast(&body) }).await
            }
        }
    }

    /// Keeps a message that cannot be used, with the reason, for a person to look at. The oldest
    /// go when there are too many.
    pub async fn dead_letter(&self, body: Bytes, reason: &str) -> Result<(), PublishError> {
        check_size(&body)?;
        match self {
            Self::Amqp(amqp) => amqp.dead_letter(body, reason).await,
            Self::Memory(memory) => memory.dead_letter(body, reason),
        }
    }

    /// Reads up to `max` dead letters, the oldest first, and leaves them where they are.
    pub async fn dead_letters(&self, max: usize) -> Result<Vec<DeadLetter>, QueueError> {
        match self {
            Self::Amqp(amqp) => amqp.dead_letters(max).await,
            Self::Memory(memory) => Ok(memory.dead_letters(max)),
        }
    }

    /// Subscribes. Returns at once: the consumer connects, and reconnects, by itself, and says so
    /// by [`Event`]s.
    pub fn consume(&self, options: ConsumeOptions) -> Consumer {
        match self {
            Self::Amqp(amqp) => Consumer(ConsumerKind::Amqp(amqp.consume(options))),
            Self::Memory(memory) => Consumer(ConsumerKind::Memory(memory.consume(&options))),
        }
    }

    /// Messages of a lane that no consumer holds.
    pub async fn depth(&self, route: &Route) -> Result<u32, QueueError> {
        match self {
            Self::Amqp(amqp) => amqp.depth(route).await,
            Self::Memory(memory) => memory.depth(route),
        }
    }

    /// Removes every waiting message of these queues, the delayed and the dead ones too, and
    /// leaves them declared.
    pub async fn purge_all(&self, queues: &[QueueName]) -> Result<(), QueueError> {
        match self {
            Self::Amqp(amqp) => amqp.purge_all(queues).await,
            Self::Memory(memory) => {
                memory.purge_all(queues);
                Ok(())
            }
        }
    }

    /// Deletes everything of these queues, and the dead letters. A consumer that is still there
    /// declares its queues anew.
    pub async fn delete_all(&self, queues: &[QueueName]) -> Result<(), QueueError> {
        match self {
            Self::Amqp(amqp) => amqp.delete_all(queues).await,
            Self::Memory(memory) => {
                memory.delete_all(queues);
                Ok(())
            }
        }
    }

    /// Whether the broker takes no messages for lack of memory or disk.
    pub fn is_blocked(&self) -> bool {
        match self {
            Self::Amqp(amqp) => amqp.blocked().borrow().is_some(),
            Self::Memory(memory) => memory.is_blocked(),
        }
    }

    /// Returns once the broker takes messages (again). Puts no bound on the wait: under an alarm
    /// there is none.
    pub async fn unblocked(&self) {
        match self {
            // An error means that the last sender is gone, and with it what could block.
            Self::Amqp(amqp) => drop(amqp.blocked().wait_for(Option::is_none).await),
            Self::Memory(memory) => memory.unblocked().await,
        }
    }

    /// Closes the connections in order. What is unsettled goes to other consumers; further calls
    /// fail.
    pub async fn close(&self) {
        match self {
            Self::Amqp(amqp) => amqp.close().await,
            Self::Memory(_) => {}
        }
    }
}

fn check_size(body: &Bytes) -> Result<(), PublishError> {
    if body.len() > MESSAGE_BYTES_MAX {
        return Err(PublishError::TooLarge { bytes: body.len(), limit: MESSAGE_BYTES_MAX });
    }
    Ok(())
}

/// Receives deliveries. Dropping it ends the subscription: what is unsettled goes to other
/// consumers, marked as redelivered.
pub struct Consumer(ConsumerKind);

enum ConsumerKind {
    Amqp(amqp::AmqpConsumer),
    Memory(memory::MemoryConsumer),
}

impl Consumer {
    /// The next event; waits for ever if need be. `None` once [`Settler::stop`] has taken effect
    /// and everything that had arrived was handed out. Can be cancelled without losing an event.
    pub async fn next(&mut self) -> Option<Event> {
        match &mut self.0 {
            ConsumerKind::Amqp(amqp) => amqp.next().await,
            ConsumerKind::Memory(memory) => memory.next().await,
        }
    }

    /// The handle that settles this consumer's deliveries and steers it, from any task.
    pub fn settler(&self) -> Settler {
        Settler(match &self.0 {
            ConsumerKind::Amqp(amqp) => SettlerKind::Amqp(amqp.settler()),
            ConsumerKind::Memory(memory) => SettlerKind::Memory(memory.settler()),
        })
    }

    /// Ends the subscription, and returns when the broker knows.
    pub async fn close(self) {
        match self.0 {
            ConsumerKind::Amqp(amqp) => amqp.close().await,
            ConsumerKind::Memory(memory) => drop(memory),
        }
    }
}

/// Settles a consumer's deliveries and steers it. Cheap to clone. Once the consumer is gone,
/// nothing can be settled any more.
#[derive(Clone)]
pub struct Settler(SettlerKind);

#[derive(Clone)]
enum SettlerKind {
    Amqp(amqp::AmqpSettler),
    Memory(memory::MemorySettler),
}

impl Settler {
    /// Acknowledges a delivery: the broker forgets it. False if its session is over or it was
    /// settled before; in the first case it will be delivered again.
    pub async fn ack(&self, tag: Tag) -> bool {
        match &self.0 {
            SettlerKind::Amqp(amqp) => amqp.ack(tag).await,
            SettlerKind::Memory(memory) => memory.ack(tag),
        }
    }

    /// Acknowledges several, and says how many of them [`Settler::ack`] would have.
    pub async fn ack_many(&self, tags: &[Tag]) -> usize {
        match &self.0 {
            SettlerKind::Amqp(amqp) => amqp.ack_many(tags).await,
            SettlerKind::Memory(memory) => memory.ack_many(tags),
        }
    }

    /// Gives a delivery back: it returns to its place in the lane, marked as redelivered. False as
    /// for [`Settler::ack`].
    pub async fn give_back(&self, tag: Tag) -> bool {
        match &self.0 {
            SettlerKind::Amqp(amqp) => amqp.give_back(tag).await,
            SettlerKind::Memory(memory) => memory.give_back(tag),
        }
    }

    /// Stops taking from the `lo` lanes; returns when the broker sends no more. What had arrived
    /// is still handed out. Holds across sessions.
    pub async fn pause_lo(&self) {
        match &self.0 {
            SettlerKind::Amqp(amqp) => amqp.pause_lo(true).await,
            SettlerKind::Memory(memory) => memory.pause_lo(true),
        }
    }

    /// Ends [`Settler::pause_lo`].
    pub async fn resume_lo(&self) {
        match &self.0 {
            SettlerKind::Amqp(amqp) => amqp.pause_lo(false).await,
            SettlerKind::Memory(memory) => memory.pause_lo(false),
        }
    }

    /// Stops taking anything, for good; returns when the broker sends no more. What had arrived is
    /// still handed out, then [`Consumer::next`] is `None`; settling works until the consumer is
    /// dropped.
    pub async fn stop(&self) {
        match &self.0 {
            SettlerKind::Amqp(amqp) => amqp.stop().await,
            SettlerKind::Memory(memory) => memory.stop(),
        }
    }
}
