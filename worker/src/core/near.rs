//! Tasks that use a large result of this worker: they wait here for a slot when that takes less time
//! than the result would take to another worker. Delay scheduling (Zaharia and others, 2010) with
//! the delay that pays; whoever waits longer than was thought goes to everyone after all.

use std::time::Duration;

use bolthole_broker::id::{RunId, TaskId};
use bolthole_broker::locator::Locator;
use bolthole_broker::run::{Commit, End, Ready};
use tokio::time::Instant;

use super::{Core, Describe, Effect, Flight, Stage};
use crate::flight::Key;
use crate::options::Tactic;

/// A result below this moves to another worker in less time than its message takes.
const LARGE_BYTES: u64 = 256 << 10;
/// A result moves at 400 MB/s, with the memory that it needs there: measured between processes of
/// one machine, and about what a network of 4 GBit/s gives.
const BYTES_PER_MICROSECOND: u64 = 400;
/// Tasks that wait for slots beyond which none stays for what it uses.
const STAYING_MAX: u32 = 1_024;
/// A task waits at least so long before it goes to others: they get it with the next look at the
/// clock.
const PATIENCE_MIN: Duration = Duration::from_millis(50);

/// Large results that a commit has named.
pub(super) struct Near(Vec<(TaskId, u64)>);

impl Near {
    pub(super) fn of(commit: &Commit) -> Self {
        let large = commit.finished.iter().filter_map(|finished| match &finished.end {
            End::Done { locator: Locator::Held { about_bytes, .. }, .. }
                if *about_bytes >= LARGE_BYTES =>
            {
                Some((TaskId::new(commit.segment, finished.index), *about_bytes))
            }
            _ => None,
        });
        Self(large.collect())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How much of it a task uses.
    fn bytes(&self, run: RunId, ready: &Ready, known: &impl Describe) -> u64 {
        let Some(info) = known.describe(run, ready.task) else { return 0 };
        let used = |(task, _): &&(TaskId, u64)| info.inputs(ready).contains(task);
        self.0.iter().filter(used).map(|(_, bytes)| bytes).sum()
    }
}

impl Core {
    /// How long a released task should wait here for what it uses of this, with so many others
    /// before it.
    pub(super) fn stays(
        &self,
        near: &Near,
        (run, ready): (RunId, &Ready),
        ahead: usize,
        known: &impl Describe,
    ) -> Option<Duration> {
        if near.is_empty() || self.draining || !self.does(Tactic::Locality) {
            return None;
        }
        let bytes = near.bytes(run, ready, known);
        let transfer = Duration::from_micros(bytes / BYTES_PER_MICROSECOND);
        let each = Duration::try_from_secs_f64(self.task_seconds).unwrap_or(Duration::MAX);
        let slots = u32::try_from(self.me.slots).unwrap_or(u32::MAX).max(1);
        let ahead = u32::try_from(ahead).ok().filter(|ahead| *ahead < STAYING_MAX)?;
        let waits = each.saturating_mul(ahead) / slots;
        (bytes > 0 && waits <= transfer).then(|| transfer.max(PATIENCE_MIN))
    }

    /// Tasks that get a slot earlier: those that run, and those that wait and are no sources.
    pub(super) fn ahead(&self) -> usize {
        let here = self.flights.values().filter(|flight| flight.stage != Stage::Finished);
        let (sources, others): (Vec<_>, Vec<_>) = here.partition(|flight| flight.is_source());
        sources.len().min(self.me.slots) + others.len()
    }

    /// Those that have waited for longer than was thought are for everyone.
    pub(super) fn let_go(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        let mut late: Vec<Key> = Vec::new();
        for (key, flight) in &mut self.flights {
            if flight.stays_until.is_some_and(|until| until <= now) {
                flight.stays_until = None;
                if flight.stage == Stage::Running && !flight.void && !flight.leased {
                    late.push(*key);
                }
            }
        }
        if !late.is_empty() {
            effects.push(Effect::TakeBack(late));
        }
    }
}

impl Flight {
    fn is_source(&self) -> bool {
        self.info.as_ref().is_some_and(|info| info.inputs(&self.ready).is_empty())
    }
}
