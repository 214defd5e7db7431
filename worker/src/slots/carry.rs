//! A slot takes the end of its attempt to the core by itself when the loop is not there, and puts on
//! the bench what that makes ready: between short tasks nobody has to be woken. What else is to be
//! done, and all that is not so simple, is the loop's.
//!
//! Locks are taken in this order: the core, then what has ended, or the bench, or what is left.

use std::sync::{MutexGuard, PoisonError, TryLockError};

use bolthole_broker::clock;
use bolthole_broker::failpoint::{self, Point};
use tokio::time::Instant;

use super::Shared;
use crate::core::{Core, Effect, Standing};
use crate::flight::{Ended, Finish, Runnable};

/// What slots have done that the loop must know, and what they have left to it.
#[derive(Debug, Default)]
pub(super) struct Left {
    pub(super) started: u64,
    pub(super) effects: Vec<Effect>,
}

impl Finish {
    /// Whether all that can follow from it is that other tasks may run.
    fn is_plain(&self) -> bool {
        matches!(self.ended, Ended::Done(_)) && self.spawn.is_none()
    }
}

impl Shared {
    pub(super) fn left(&self) -> MutexGuard<'_, Left> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes all that has ended to the core; false when the loop is to. `free` when the slot takes the
    /// next task from the bench.
    pub(super) fn carry(&self, free: bool) -> bool {
        // In a simulation all decisions are made in one place, in the order of its clock.
        if self.driven.is_some() {
            return false;
        }
        let mut core = match self.core.try_lock() {
            Ok(core) => core,
            Err(TryLockError::Poisoned(core)) => core.into_inner(),
            // Whoever is there may have looked already.
            Err(TryLockError::WouldBlock) => return false,
        };
        let finished = {
            let mut done = self.done();
            if !done.iter().all(Finish::is_plain) {
                return false;
            }
            std::mem::take(&mut *done)
        };
        let now = Instant::now();
        let waits = core.next_commit().is_some();
        let followed = finished.iter().filter(|finish| finish.next.is_some()).count();
        let (start, effects) = self.end(&mut core, finished, now);
        let started = (followed + start.len()) as u64;
        let standing = self.seat(&core, start, free);
        // It wakes by itself for a commit that is to come, if it knew of one.
        let due = core.has_due_commits(now, standing) || !waits && core.next_commit().is_some();
        let done = effects.is_empty() && !due;
        // Before anyone else sees what the core has made of it: a worker that leaves leaves nothing.
        let mut left = self.left();
        left.started += started;
        left.effects.extend(effects);
        done
    }

    /// What can be done here of what their ends mean: the tasks to start, and the rest.
    fn end(
        &self,
        core: &mut Core,
        finished: Vec<Finish>,
        now: Instant,
    ) -> (Vec<Runnable>, Vec<Effect>) {
        let random = clock::random_u64();
        let (mut start, mut left) = (Vec::new(), Vec::new());
        let mut open = core.on_finished(finished, &*self.preparer, random, now);
        while !open.is_empty() {
            let mut next = Vec::new();
            for effect in open {
                match effect {
                    Effect::Start(tasks) => start.extend(tasks),
                    Effect::Prepare { run, tasks } => {
                        failpoint::hit(Point::PrepareBefore);
                        let (here, elsewhere) = self.preparer.all_at_once(run, tasks);
                        if !elsewhere.is_empty() {
                            left.push(Effect::Prepare { run, tasks: elsewhere });
                        }
                        if !here.is_empty() {
                            next.extend(core.on_prepared(here, random, now));
                        }
                    }
                    other => left.push(other),
                }
            }
            open = next;
        }
        (start, left)
    }

    /// Puts tasks on the bench, and wakes others for those that this slot does not take.
    fn seat(&self, core: &Core, start: Vec<Runnable>, free: bool) -> Standing {
        let others = start.len().saturating_sub(usize::from(free));
        let mut bench = self.bench();
        bench.set_order(core.order());
        if !start.is_empty() {
            bench.extend(start);
            self.tell_of_permits(&bench);
        }
        let (standing, slots) = (bench.standing(), bench.slots);
        drop(bench);
        for _ in 0..others.min(slots) {
            self.work.notify_one();
        }
        standing
    }
}
