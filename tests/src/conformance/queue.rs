//! What every message queue does, whatever it is made of.
//!
//! Absence is never judged by waiting: the broker's own count of what it still holds, or a message
//! that must come after, says that something did *not* arrive.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use bolthole_broker::limits::MESSAGE_BYTES_MAX;
use bolthole_broker::queue::{
    ConsumeOptions, Consumer, Delivery, Epoch, Event, Level, MemoryBroker, PublishError, Queue,
    QueueName, Route,
};
use bytes::Bytes;
use futures_util::FutureExt as _;
use tokio::time::timeout;

use crate::servers;

mod presence;
pub use presence::absence_is_told;

/// Far more than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A broker to make clients of.
#[derive(Debug, Clone)]
pub enum Backend {
    /// In memory.
    Memory(MemoryBroker),
    /// RabbitMQ at this URL.
    RabbitMq(String),
}

impl Backend {
    /// A client of this broker in a namespace.
    pub async fn client(&self, namespace: &str) -> anyhow::Result<Queue> {
        Ok(match self {
            Self::Memory(broker) => Queue::on(broker, namespace)?,
            Self::RabbitMq(url) => Queue::connect(url, namespace, "test").await?,
        })
    }

    /// A client in a namespace that nobody else uses.
    pub async fn alone(&self) -> anyhow::Result<Queue> {
        self.client(&servers::namespace()).await
    }
}

/// The user queue of most tests.
pub fn main_queue() -> QueueName {
    QueueName::default()
}

/// A consumer of the main queue that has subscribed, and its session.
pub async fn subscribed(
    queue: &Queue,
    prefetch_hi: u16,
    prefetch_lo: u16,
) -> anyhow::Result<(Consumer, Epoch)> {
    let queues = vec![main_queue()];
    let presence = None;
    let options = ConsumeOptions { queues, prefetch_hi, prefetch_lo, presence };
    let mut consumer = queue.consume(options);
    let epoch = started(&mut consumer).await?;
    Ok((consumer, epoch))
}

/// The next event, which must come.
pub async fn next(consumer: &mut Consumer) -> anyhow::Result<Event> {
    let event = timeout(PATIENCE, consumer.next()).await.context("no event came")?;
    event.context("the consumer ended")
}

/// The start of a session, which must be the next event.
pub async fn started(consumer: &mut Consumer) -> anyhow::Result<Epoch> {
    match next(consumer).await? {
        Event::SessionStarted { epoch } => Ok(epoch),
        other => anyhow::bail!("not the start of a session: {other:?}"),
    }
}

/// The end of a session, after whatever comes before it.
pub async fn lost(consumer: &mut Consumer) -> anyhow::Result<Epoch> {
    loop {
        if let Event::SessionLost { epoch, .. } = next(consumer).await? {
            return Ok(epoch);
        }
    }
}

/// A delivery, which must be the next event.
pub async fn delivery(consumer: &mut Consumer) -> anyhow::Result<Delivery> {
    match next(consumer).await? {
        Event::Delivery(delivery) => Ok(delivery),
        other => anyhow::bail!("not a delivery: {other:?}"),
    }
}

/// Waits until the broker counts so many messages that nobody holds.
pub async fn depth_becomes(queue: &Queue, route: &Route, wanted: u32) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let depth = queue.depth(route).await?;
        if depth == wanted {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{route} holds {depth} messages, not {wanted}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn text(body: &'static str) -> Bytes {
    Bytes::from_static(body.as_bytes())
}

/// What is published arrives once, with its body and route, and is gone when acknowledged.
pub async fn publish_consume_ack(backend: &Backend) -> anyhow::Result<()> {
    let queue = backend.alone().await?;
    let route = Route::hi(&main_queue());
    queue.publish(&route, text("one")).await?;
    let (mut consumer, epoch) = subscribed(&queue, 10, 10).await?;
    let one = delivery(&mut consumer).await?;
    ensure!(one.route == route && one.body == "one" && !one.redelivered, "{one:?}");
    ensure!(one.tag.epoch == epoch);
    let settler = consumer.settler();
    ensure!(settler.ack(one.tag).await, "the first acknowledgement counts");
    ensure!(!settler.ack(one.tag).await, "the second does not");
    ensure!(!settler.give_back(one.tag).await, "nor does giving it back after that");
    consumer.close().await;
    // Had it not been forgotten, it would come before the next one.
    queue.publish(&route, text("two")).await?;
    let (mut consumer, _) = subscribed(&queue, 10, 10).await?;
    ensure!(delivery(&mut consumer).await?.body == "two");
    Ok(())
}

/// A consumer holds no more unsettled deliveries than its prefetch, and waiting loses nothing.
pub async fn prefetch_limits_unsettled(backend: &Backend) -> anyhow::Result<()> {
    let queue = backend.alone().await?;
    let route = Route::hi(&main_queue());
    let bodies = (0..5_u8).map(|number| (route.clone(), Bytes::from(vec![number])));
    ensure!(queue.publish_all(bodies.collect()).await.iter().all(Result::is_ok));
    let (mut consumer, _) = subscribed(&queue, 2, 1).await?;
    let settler = consumer.settler();
    let first = delivery(&mut consumer).await?;
    let second = delivery(&mut consumer).await?;
    depth_becomes(&queue, &route, 3).await?;
    ensure!(consumer.next().now_or_never().is_none(), "a third delivery above the prefetch");
    ensure!(settler.ack(first.tag).await);
    let third = delivery(&mut consumer).await?;
    ensure!([&first, &second, &third].map(|one| one.body[0]) == [0, 1, 2]);
    ensure!(settler.ack_many(&[second.tag, third.tag, first.tag]).await == 2);
    for number in [3, 4] {
        ensure!(delivery(&mut consumer).await?.body[0] == number);
    }
    Ok(())
}

/// What a consumer held when it went comes again, marked.
pub async fn dropped_consumer_gives_back(backend: &Backend) -> anyhow::Result<()> {
    let queue = backend.alone().await?;
    let route = Route::hi(&main_queue());
    for body in ["one", "two", "three"] {
        queue.publish(&route, text(body)).await?;
    }
    let (mut consumer, _) = subscribed(&queue, 2, 1).await?;
    let one = delivery(&mut consumer).await?;
    // The second is in the consumer's hands too, though nobody has asked for it.
    depth_becomes(&queue, &route, 1).await?;
    let settler = consumer.settler();
    drop(consumer);
    depth_becomes(&queue, &route, 3).await?;
    ensure!(!settler.ack(one.tag).await, "a delivery of a consumer that is gone was settled");
    let (mut consumer, _) = subscribed(&queue, 10, 1).await?;
    for (body, redelivered) in [("one", true), ("two", true), ("three", false)] {
        let again = delivery(&mut consumer).await?;
        ensure!(again.body == body && again.redelivered == redelivered, "{again:?}");
    }
    Ok(())
}

/// What is given back returns to its place, marked.
pub async fn given_back_returns(backend: &Backend) -> anyhow::Result<()> {
    let queue = backend.alone().await?;
    let route = Route::lo(&main_queue());
    queue.publish(&route, text("one")).await?;
    queue.publish(&route, text("two")).await?;
    let (mut consumer, _) = subscribed(&queue, 1, 1).await?;
    let one = delivery(&mut consumer).await?;
    ensure!(one.body == "one" && !one.redelivered);
    ensure!(consumer.settler().give_back(one.tag).await);
    let again = delivery(&mut consumer).await?;
    ensure!(again.body == "one" && again.redelivered, "{again:?}");
    ensure!(again.tag != one.tag, "a tag was used twice");
    Ok(())
}

/// A lane keeps the order of publishing, in batches larger than the window too.
pub async fn lanes_are_fifo(backend: &Backend) -> anyhow::Result<()> {
    const COUNT: u32 = 2_000;
    let queue = backend.alone().await?;
    let route = Route::hi(&main_queue());
    let body = |number: u32| Bytes::copy_from_slice(&number.to_be_bytes());
    let messages = (0..COUNT).map(|number| (route.clone(), body(number))).collect();
    let results = queue.publish_all(messages).await;
    ensure!(results.len() == COUNT as usize && results.iter().all(Result::is_ok));
    let (mut consumer, _) = subscribed(&queue, 100, 1).await?;
    let settler = consumer.settler();
    for number in 0..COUNT {
        let one = delivery(&mut consumer).await?;
        ensure!(one.body == body(number), "{number} is not next");
        ensure!(settler.ack(one.tag).await);
    }
    Ok(())
}

/// The lanes of a queue, and queues, do not mix; a lane with no prefetch is left alone.
pub async fn lanes_are_separate(backend: &Backend) -> anyhow::Result<()> {
    let queue = backend.alone().await?;
    let (hi, lo) = (Route::hi(&main_queue()), Route::lo(&main_queue()));
    let elsewhere = Route::hi(&QueueName::new("elsewhere")?);
    for (route, body) in [(&lo, "lo"), (&elsewhere, "elsewhere"), (&hi, "hi")] {
        queue.publish(route, text(body)).await?;
    }
    let (mut consumer, _) = subscribed(&queue, 5, 0).await?;
    let only = delivery(&mut consumer).await?;
    ensure!(only.body == "hi" && only.route == hi, "{only:?}");
    ensure!(queue.depth(&lo).await? == 1 && queue.depth(&elsewhere).await? == 1);
    let (mut both, _) = subscribed(&queue, 5, 5).await?;
    let other = delivery(&mut both).await?;
    ensure!(other.body == "lo" && other.route == lo, "{other:?}");
    Ok(())
}

/// A full prefetch of one lane does not hold up the other, nor one level another.
pub async fn full_lane_leaves_other_open(backend: &Backend) -> anyhow::Result<()> {
    let queue = backend.alone().await?;
    let (hi, lo) = (Route::hi(&main_queue()), Route::lo(&main_queue()).at(Level::Third));
    queue.publish(&lo, text("one")).await?;
    queue.publish(&lo, text("two")).await?;
    let (mut consumer, _) = subscribed(&queue, 1, 1).await?;
    ensure!(delivery(&mut consumer).await?.body == "one");
    queue.publish(&hi, text("urgent")).await?;
    ensure!(delivery(&mut consumer).await?.body == "urgent");
    let few = Route::lo(&main_queue());
    queue.publish(&few, text("of a small run")).await?;
    let small = delivery(&mut consumer).await?;
    ensure!(small.body == "of a small run" && small.route == few, "{small:?}");
    ensure!(queue.depth(&lo).await? == 1);
    Ok(())
}

/// While `lo` is paused nothing of it arrives, and everything afterwards.
pub async fn pausing_lo(backend: &Backend) -> anyhow::Result<()> {
    let queue = backend.alone().await?;
    let (hi, lo) = (Route::hi(&main_queue()), Route::lo(&main_queue()).at(Level::Second));
    let (mut consumer, _) = subscribed(&queue, 5, 5).await?;
    let settler = consumer.settler();
    settler.pause_lo().await;
    queue.publish(&lo, text("lo")).await?;
    queue.publish(&hi, text("hi")).await?;
    let hi = delivery(&mut consumer).await?;
    ensure!(hi.body == "hi", "{hi:?}");
    ensure!(settler.ack(hi.tag).await);
    depth_becomes(&queue, &lo, 1).await?;
    settler.resume_lo().await;
    let resumed = delivery(&mut consumer).await?;
    ensure!(resumed.body == "lo" && !resumed.redelivered, "{resumed:?}");
    ensure!(settler.ack(resumed.tag).await);
    Ok(())
}

/// Consumers of the same lane share its messages: each goes to one of them.
pub async fn consumers_share(backend: &Backend) -> anyhow::Result<()> {
    let queue = backend.alone().await?;
    let route = Route::hi(&main_queue());
    let (mut one, _) = subscribed(&queue, 1, 1).await?;
    let (mut two, _) = subscribed(&queue, 1, 1).await?;
    queue.publish(&route, text("a")).await?;
    queue.publish(&route, text("b")).await?;
    let mut bodies = [delivery(&mut one).await?.body, delivery(&mut two).await?.body];
    bodies.sort();
    ensure!(bodies == ["a", "b"], "{bodies:?}");
    Ok(())
}

/// A delayed message arrives, and not at once.
pub async fn delayed_arrives_later(backend: &Backend) -> anyhow::Result<()> {
    let queue = backend.alone().await?;
    let route = Route::hi(&main_queue());
    let (mut consumer, _) = subscribed(&queue, 5, 5).await?;
    let delay = Duration::from_secs(1);
    let before = Instant::now();
    queue.publish_delayed(&route, text("delayed"), delay).await?;
    queue.publish(&route, text("prompt")).await?;
    let prompt = delivery(&mut consumer).await?;
    // On a machine so busy that a second had passed by then, either order is right.
    if before.elapsed() < delay {
        ensure!(prompt.body == "prompt", "{prompt:?}");
    }
    let bodies = [prompt.body, delivery(&mut consumer).await?.body];
    ensure!(bodies.contains(&text("delayed")) && bodies.contains(&text("prompt")), "{bodies:?}");
    ensure!(before.elapsed() >= delay, "a message with a delay of a second came before it");
    Ok(())
}

/// Every consumer of the namespace hears a control message.
pub async fn control_reaches_all(backend: &Backend) -> anyhow::Result<()> {
    let namespace = servers::namespace();
    let (one, two) = (backend.client(&namespace).await?, backend.client(&namespace).await?);
    one.broadcast(text("nobody listens yet")).await?;
    let (mut first, _) = subscribed(&one, 1, 1).await?;
    let (mut second, _) = subscribed(&one, 1, 0).await?;
    let (mut third, _) = subscribed(&two, 0, 0).await?;
    two.broadcast(text("cancel")).await?;
    for consumer in [&mut first, &mut second, &mut third] {
        let event = next(consumer).await?;
        ensure!(event == Event::Control(text("cancel")), "{event:?}");
    }
    Ok(())
}

/// When its session is lost, a consumer says so and begins a higher one; what the old one delivered
/// cannot be settled. Deleting the queue under it is such a loss, and the queue is made again.
pub async fn stale_tags_are_refused(backend: &Backend) -> anyhow::Result<()> {
    let queue = backend.alone().await?;
    let route = Route::hi(&main_queue());
    queue.publish(&route, text("old")).await?;
    let (mut consumer, first) = subscribed(&queue, 5, 5).await?;
    let old = delivery(&mut consumer).await?;
    let settler = consumer.settler();
    queue.delete_all(&[main_queue()]).await?;
    ensure!(lost(&mut consumer).await? == first);
    ensure!(!settler.ack(old.tag).await, "a delivery of a lost session was settled");
    let mut last = first;
    loop {
        match next(&mut consumer).await? {
            Event::SessionStarted { epoch } => {
                ensure!(epoch > last, "{epoch} is not above {last}");
                last = epoch;
                queue.publish(&route, text("new")).await?;
            }
            // Deleting several queues may end a session more than once.
            Event::SessionLost { epoch, .. } => ensure!(epoch == last),
            Event::Delivery(new) => {
                ensure!(new.body == "new" && new.tag.epoch == last, "{new:?}");
                ensure!(!settler.give_back(old.tag).await);
                ensure!(settler.ack(new.tag).await);
                return Ok(());
            }
            other => anyhow::bail!("{other:?}"),
        }
    }
}

/// A message for a queue that is gone is not swallowed: the queue is made again and has it.
pub async fn missing_queue_is_made_again(backend: &Backend) -> anyhow::Result<()> {
    let namespace = servers::namespace();
    // Deleted by another client, so that this one cannot know.
    let (queue, other) = (backend.client(&namespace).await?, backend.client(&namespace).await?);
    let route = Route::lo(&main_queue());
    queue.publish(&route, text("lost")).await?;
    other.delete_all(&[main_queue()]).await?;
    ensure!(queue.depth(&route).await.is_err(), "a deleted queue was counted");
    queue.publish(&route, text("one")).await?;
    let results = queue.publish_all(vec![(route.clone(), text("two"))]).await;
    ensure!(results == [Ok(())], "{results:?}");
    let (mut consumer, _) = subscribed(&queue, 5, 5).await?;
    for body in ["one", "two"] {
        ensure!(delivery(&mut consumer).await?.body == body);
    }
    Ok(())
}

/// Dead letters are kept with their reason; reading them leaves them there.
pub async fn dead_letters_are_kept(backend: &Backend) -> anyhow::Result<()> {
    let queue = backend.alone().await?;
    ensure!(queue.dead_letters(10).await?.is_empty());
    queue.dead_letter(text("first"), "version 9 is not known").await?;
    queue.dead_letter(text("second"), &"é".repeat(5_000)).await?;
    for _ in 0..2 {
        let mut letters = queue.dead_letters(10).await?;
        // Looked at, they are given back, after which a quorum queue may have them in another order.
        letters.sort_by(|a, b| a.body.cmp(&b.body));
        ensure!(letters.len() == 2, "{letters:?}");
        ensure!(letters[0].body == "first" && letters[0].reason == "version 9 is not known");
        ensure!(letters[1].body == "second" && letters[1].reason.starts_with("éé"));
        let one = queue.dead_letters(1).await?;
        ensure!(one.len() == 1 && letters.contains(&one[0]), "{one:?}");
    }
    queue.purge_all(&[main_queue()]).await?;
    ensure!(queue.dead_letters(10).await?.is_empty());
    Ok(())
}

/// After a stop, what had arrived is handed out, then the end; settling still works.
pub async fn stopped_consumer_still_settles(backend: &Backend) -> anyhow::Result<()> {
    let queue = backend.alone().await?;
    let route = Route::hi(&main_queue());
    for body in ["one", "two", "three"] {
        queue.publish(&route, text(body)).await?;
    }
    let (mut consumer, _) = subscribed(&queue, 2, 1).await?;
    let one = delivery(&mut consumer).await?;
    depth_becomes(&queue, &route, 1).await?;
    let settler = consumer.settler();
    settler.stop().await;
    let two = delivery(&mut consumer).await?;
    ensure!(two.body == "two", "{two:?}");
    let end = timeout(PATIENCE, consumer.next()).await.context("the end did not come")?;
    ensure!(end.is_none(), "{end:?}");
    ensure!(settler.ack(one.tag).await, "an acknowledgement after the stop");
    ensure!(settler.give_back(two.tag).await, "giving back after the stop");
    depth_becomes(&queue, &route, 2).await?;
    consumer.close().await;
    let (mut consumer, _) = subscribed(&queue, 5, 5).await?;
    for (body, redelivered) in [("two", true), ("three", false)] {
        let rest = delivery(&mut consumer).await?;
        ensure!(rest.body == body && rest.redelivered == redelivered, "{rest:?}");
    }
    Ok(())
}

/// Namespaces on one broker see nothing of each other.
pub async fn namespaces_are_apart(backend: &Backend) -> anyhow::Result<()> {
    let (ours, theirs) = (backend.alone().await?, backend.alone().await?);
    let route = Route::hi(&main_queue());
    ours.publish(&route, text("ours")).await?;
    ours.dead_letter(text("ours"), "ours").await?;
    let (mut consumer, _) = subscribed(&theirs, 5, 5).await?;
    ours.broadcast(text("ours")).await?;
    theirs.publish(&route, text("theirs")).await?;
    ensure!(delivery(&mut consumer).await?.body == "theirs");
    ensure!(theirs.dead_letters(1).await?.is_empty());
    theirs.delete_all(&[main_queue()]).await?;
    ensure!(ours.depth(&route).await? == 1);
    Ok(())
}

/// The largest message passes, a larger one is refused before it is sent and stops no other.
pub async fn oversize_is_refused(backend: &Backend) -> anyhow::Result<()> {
    let queue = backend.alone().await?;
    let route = Route::hi(&main_queue());
    let largest = Bytes::from(vec![7; MESSAGE_BYTES_MAX]);
    let larger = Bytes::from(vec![7; MESSAGE_BYTES_MAX + 1]);
    let refused = queue.publish(&route, larger.clone()).await;
    let expected =
        PublishError::TooLarge { bytes: MESSAGE_BYTES_MAX + 1, limit: MESSAGE_BYTES_MAX };
    ensure!(refused == Err(expected.clone()), "{refused:?}");
    ensure!(!expected.is_retryable() && !expected.is_ambiguous());
    let messages = [text("a"), larger, largest.clone(), Bytes::new()];
    let messages = messages.map(|body| (route.clone(), body));
    let results = queue.publish_all(messages.into()).await;
    ensure!(results == [Ok(()), Err(expected), Ok(()), Ok(())], "{results:?}");
    let (mut consumer, _) = subscribed(&queue, 5, 5).await?;
    for body in [text("a"), largest, Bytes::new()] {
        ensure!(delivery(&mut consumer).await?.body == body);
    }
    Ok(())
}

/// Purging leaves the queue and takes its messages, the delayed ones too.
pub async fn purge_takes_everything(backend: &Backend) -> anyhow::Result<()> {
    let queue = backend.alone().await?;
    let (hi, lo) = (Route::hi(&main_queue()), Route::lo(&main_queue()));
    queue.publish(&hi, text("gone")).await?;
    queue.publish_delayed(&hi, text("gone"), Duration::from_secs(1)).await?;
    queue.purge_all(&[main_queue()]).await?;
    ensure!(queue.depth(&hi).await? == 0 && queue.depth(&lo).await? == 0);
    // Of the same delay: had the other survived, it would come first.
    queue.publish_delayed(&hi, text("kept"), Duration::from_secs(1)).await?;
    let (mut consumer, _) = subscribed(&queue, 5, 5).await?;
    ensure!(delivery(&mut consumer).await?.body == "kept");
    Ok(())
}
