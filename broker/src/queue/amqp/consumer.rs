//! A consumer: a task that keeps a subscription up, and the receiving half that it feeds.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::Amqp;
use super::settle::{AmqpSettler, Applied, Ledger, Wish};
use super::subscription::{Ended, Subscription};
use crate::limits::CONTROL_PREFETCH;
use crate::queue::backoff::backoff;
use crate::queue::delivery::{ConsumeOptions, Delivery, Epoch, Event};

/// A wait for a session that is repeated until there is one.
const SESSION_WAIT: Duration = Duration::from_secs(60);
/// A subscription that lived this long was a good one: the next attempt comes at once.
const GOOD_LIFE: Duration = Duration::from_secs(10);
const CLOSE_DEADLINE: Duration = Duration::from_secs(1);

/// The receiving half. Dropping it ends the task, and with it the subscription.
pub(in crate::queue) struct AmqpConsumer {
    events: mpsc::Receiver<Event>,
    settler: AmqpSettler,
    task: JoinHandle<()>,
    _closed: DropGuard,
}

impl AmqpConsumer {
    pub(in crate::queue) async fn next(&mut self) -> Option<Event> {
        loop {
            match self.events.recv().await? {
                // Of a session that has ended since: it will come again, and could not be settled.
                Event::Delivery(Delivery { tag, .. }) | Event::Absent { tag, .. }
                    if !self.settler.ledger.is_live(tag.epoch) => {}
                event => return Some(event),
            }
        }
    }

    pub(in crate::queue) fn settler(&self) -> AmqpSettler {
        self.settler.clone()
    }

    pub(in crate::queue) async fn close(self) {
        let Self { task, _closed: closed, .. } = self;
        drop(closed);
        // An error is a panic or the end of the runtime: either way the task is gone.
        let _ = task.await;
    }
}

/// Starts a consumer. It keeps its queue's connections up, whoever else drops them.
pub(super) fn start(queue: Amqp, options: ConsumeOptions) -> AmqpConsumer {
    let room = options.unsettled_max() + usize::from(CONTROL_PREFETCH);
    let (sender, events) = mpsc::channel(room);
    let (wish, wished) = watch::channel(Wish::ALL);
    let (applied_sender, applied) = watch::channel(Applied::Down);
    let ledger = Arc::new(Ledger::default());
    let closed = queue.0.closed.child_token();
    let keeper = Keeper {
        queue,
        options,
        wished,
        applied: applied_sender,
        ledger: ledger.clone(),
        closed: closed.clone(),
    };
    let task = tokio::spawn(keeper.run(sender));
    let settler = AmqpSettler { ledger, wish: Arc::new(wish), applied };
    AmqpConsumer { events, settler, task, _closed: closed.drop_guard() }
}

/// The task behind a consumer.
struct Keeper {
    queue: Amqp,
    options: ConsumeOptions,
    wished: watch::Receiver<Wish>,
    applied: watch::Sender<Applied>,
    ledger: Arc<Ledger>,
    closed: CancellationToken,
}

impl Keeper {
    async fn run(mut self, events: mpsc::Sender<Event>) {
        let closed = self.closed.clone();
        let stopped = tokio::select! {
            () = closed.cancelled() => false,
            () = self.keep_subscribed(&events) => true,
        };
        // The receiver sees the end only when the last sender is gone.
        drop(events);
        if stopped {
            closed.cancelled().await;
        }
        self.applied.send_replace(Applied::Down);
        self.end_session().await;
    }

    /// Subscribes again and again, until the consumer is stopped.
    async fn keep_subscribed(&mut self, events: &mpsc::Sender<Event>) {
        let mut failed_attempts = 0;
        loop {
            let began = Instant::now();
            match self.session(events).await {
                Ended::Stopped => return,
                Ended::Lost(reason) => {
                    tracing::warn!(%reason, "subscription lost");
                }
            }
            self.applied.send_replace(Applied::Down);
            self.end_session().await;
            if !self.wished.borrow().running {
                return;
            }
            failed_attempts = if began.elapsed() > GOOD_LIFE { 0 } else { failed_attempts + 1 };
            tokio::time::sleep(backoff(failed_attempts)).await;
        }
    }

    /// One life of the subscription.
    async fn session(&mut self, events: &mpsc::Sender<Event>) -> Ended {
        let session = match self.queue.consuming().session(Instant::now() + SESSION_WAIT).await {
            Ok(session) => session,
            Err(reason) => return Ended::Lost(reason),
        };
        // From here on whoever changes the wish waits until it was followed.
        self.applied.send_replace(Applied::Changing);
        let epoch = Epoch(self.queue.0.epochs.fetch_add(1, Ordering::Relaxed) + 1);
        let opening = Subscription::open(&session, &self.queue, &self.options, epoch, &self.ledger);
        let mut subscription = tokio::select! {
            reason = session.lost() => return Ended::Lost(reason),
            opened = opening => match opened {
                Ok(subscription) => subscription,
                Err(reason) => return Ended::Lost(reason),
            },
        };
        let ended = tokio::select! {
            biased;
            reason = session.lost() => Ended::Lost(reason),
            ended = subscription.run(&mut self.wished, &self.applied, events) => ended,
        };
        if let Ended::Lost(reason) = &ended {
            // Void from here on, before anybody hears of it.
            self.applied.send_replace(Applied::Down);
            self.end_session().await;
            let _ = events.send(Event::SessionLost { epoch, reason: reason.clone() }).await;
        }
        ended
    }

    /// Voids what is unsettled and closes its channel, so that the broker gives it to others.
    async fn end_session(&self) {
        if let Some(channel) = self.ledger.close()
            && channel.status().connected()
        {
            let _ = timeout(CLOSE_DEADLINE, channel.close(200, "OK".into())).await;
        }
    }
}
