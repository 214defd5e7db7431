//! One way through a proxy: what holds there, and what has passed.

use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// A limited way passes so many pieces in a second, so that little bytes flow rather than jump.
const PIECES_PER_SECOND: u64 = 20;

/// What holds on a way.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Rules {
    pub(super) delay: Duration,
    /// Bytes in a second.
    pub(super) rate: Option<NonZeroU64>,
    pub(super) blackhole: bool,
    /// How often the connections there were at the time have been closed.
    pub(super) half_closes: u64,
}

/// What happens once, so many bytes from now.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Once {
    pub(super) cut: Option<u64>,
    pub(super) flip: Option<u64>,
}

/// One way of all connections.
#[derive(Debug, Default)]
pub(super) struct Lane {
    pub(super) rules: watch::Sender<Rules>,
    once: Mutex<Once>,
    /// When a limited way is free for the next piece.
    free_at: Mutex<Option<Instant>>,
    pub(super) bytes: AtomicU64,
    pub(super) flips: AtomicU64,
    pub(super) half_closes: AtomicU64,
}

impl Lane {
    pub(super) fn once(&self) -> MutexGuard<'_, Once> {
        self.once.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn heal(&self) {
        *self.once() = Once::default();
        self.rules.send_modify(|rules| {
            *rules = Rules { half_closes: rules.half_closes, ..Rules::default() };
        });
    }

    /// How much of `length` bytes may pass at once.
    pub(super) fn piece(&self, length: usize) -> usize {
        let Some(rate) = self.rules.borrow().rate else { return length };
        let most = (rate.get() / PIECES_PER_SECOND).max(1);
        usize::try_from(most).unwrap_or(usize::MAX).min(length)
    }

    /// Takes the way for a piece; when it may begin.
    pub(super) fn turn(&self, length: usize) -> Instant {
        let now = Instant::now();
        let Some(rate) = self.rules.borrow().rate else { return now };
        let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
        let start = free_at.map_or(now, |free_at| free_at.max(now));
        let nanos = length as u64 * 1_000_000_000 / rate;
        *free_at = Some(start + Duration::from_nanos(nanos));
        start
    }

    /// These bytes are about to pass: flips what is to be flipped. How many of them do, when the
    /// connection is to be reset then.
    pub(super) fn strike(&self, bytes: &mut [u8]) -> Option<usize> {
        let mut once = self.once();
        let length = bytes.len() as u64;
        let reached = |place: &mut Option<u64>| {
            let at = place.take()?;
            if at >= length {
                *place = Some(at - length);
                return None;
            }
            usize::try_from(at).ok()
        };
        if let Some(byte) = reached(&mut once.flip).and_then(|at| bytes.get_mut(at)) {
            *byte ^= 1;
            self.flips.fetch_add(1, Ordering::Relaxed);
        }
        reached(&mut once.cut)
    }
}

/// Waits until bytes that came at `since` may pass; false when the way was closed since `closes`.
pub(super) async fn passage(
    rules: &mut watch::Receiver<Rules>,
    since: Instant,
    closes: u64,
) -> bool {
    loop {
        let now = *rules.borrow_and_update();
        if now.half_closes != closes {
            return false;
        }
        let due = since + now.delay;
        if !now.blackhole && Instant::now() >= due {
            return true;
        }
        tokio::select! {
            changed = rules.changed() => if changed.is_err() { return false },
            () = sleep_until(due), if !now.blackhole => {}
        }
    }
}

/// Waits until at least one of the ways is no black hole.
pub(super) async fn some_passage(one: &Lane, other: &Lane) {
    let (mut one, mut other) = (one.rules.subscribe(), other.rules.subscribe());
    tokio::select! {
        _ = one.wait_for(|rules| !rules.blackhole) => {}
        _ = other.wait_for(|rules| !rules.blackhole) => {}
    }
}
