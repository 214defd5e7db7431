//! The unsettled deliveries of one consumer, and the frames that settle them.
//!
//! Each tag settles once. A second acknowledgement of the same delivery would make the broker close
//! the channel, and with it void every other delivery.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::join_all;
use lapin::Channel;
use lapin::options::{BasicAckOptions, BasicNackOptions};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::limits::BROKER_DEADLINE;
use crate::queue::delivery::{Epoch, Tag};

/// What a consumer is wanted to take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wish {
    pub(super) lo: bool,
    pub(super) running: bool,
}

impl Wish {
    pub(super) const ALL: Self = Self { lo: true, running: true };
}

/// How far the broker has been told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Applied {
    /// No subscription: nothing arrives whatever the wish.
    Down,
    /// It is being told.
    Changing,
    /// It does this.
    Done(Wish),
}

struct Live {
    epoch: Epoch,
    channel: Channel,
    unsettled: HashSet<u64>,
}

/// Shared by a consumer's task, its receiving half and its settlers.
#[derive(Default)]
pub(super) struct Ledger(Mutex<Option<Live>>);

impl Ledger {
    fn lock(&self) -> MutexGuard<'_, Option<Live>> {
        // No code panics while it holds this lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a session.
    pub(super) fn open(&self, epoch: Epoch, channel: Channel) {
        *self.lock() = Some(Live { epoch, channel, unsettled: HashSet::new() });
    }

    /// Ends the session: from here on none of its deliveries can be settled.
    pub(super) fn close(&self) -> Option<Channel> {
        self.lock().take().map(|live| live.channel)
    }

    /// Notes a delivery.
    pub(super) fn add(&self, tag: Tag) {
        if let Some(live) = &mut *self.lock()
            && live.epoch == tag.epoch
        {
            live.unsettled.insert(tag.number);
        }
    }

    /// Whether a session is the living one.
    pub(super) fn is_live(&self, epoch: Epoch) -> bool {
        self.lock().as_ref().is_some_and(|live| live.epoch == epoch)
    }

    /// Takes a tag out, for the one who will settle it.
    fn take(&self, tag: Tag) -> Option<Channel> {
        let mut live = self.lock();
        let live = live.as_mut().filter(|live| live.epoch == tag.epoch)?;
        live.unsettled.remove(&tag.number).then(|| live.channel.clone())
    }
}

/// The settling half of a consumer.
#[derive(Clone)]
pub(in crate::queue) struct AmqpSettler {
    pub(super) ledger: Arc<Ledger>,
    pub(super) wish: Arc<watch::Sender<Wish>>,
    pub(super) applied: watch::Receiver<Applied>,
}

impl AmqpSettler {
    pub(in crate::queue) async fn ack(&self, tag: Tag) -> bool {
        let Some(channel) = self.ledger.take(tag) else { return false };
        let sending = channel.basic_ack(tag.number, BasicAckOptions::default());
        matches!(timeout(BROKER_DEADLINE, sending).await, Ok(Ok(())))
    }

    /// One frame each, all handed over before the first is waited for. Not the protocol's
    /// `multiple` flag: it would cover deliveries of the other lane that nobody has seen yet.
    pub(in crate::queue) async fn ack_many(&self, tags: &[Tag]) -> usize {
        let sent = join_all(tags.iter().map(|tag| self.ack(*tag))).await;
        sent.into_iter().filter(|sent| *sent).count()
    }

    pub(in crate::queue) async fn give_back(&self, tag: Tag) -> bool {
        let Some(channel) = self.ledger.take(tag) else { return false };
        let requeue = BasicNackOptions { requeue: true, multiple: false };
        let sending = channel.basic_nack(tag.number, requeue);
        matches!(timeout(BROKER_DEADLINE, sending).await, Ok(Ok(())))
    }

    pub(in crate::queue) async fn pause_lo(&self, paused: bool) {
        self.steer(|wish| wish.lo = !paused).await;
    }

    pub(in crate::queue) async fn stop(&self) {
        self.steer(|wish| wish.running = false).await;
    }

    async fn steer(&self, change: impl FnOnce(&mut Wish)) {
        self.wish.send_modify(change);
        let mut applied = self.applied.clone();
        // An error means that the consumer is gone: nothing arrives any more.
        let _ = applied
            .wait_for(|applied| match applied {
                Applied::Down => true,
                Applied::Changing => false,
                Applied::Done(done) => *done == *self.wish.borrow(),
            })
            .await;
    }
}
