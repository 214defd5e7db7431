//! Tasks for workers that have none. One that could run more says so in the store; one that has more
//! than it runs looks there now and then, and gives half of what waits to everyone.
//!
//! These are hints: a word that is lost, or said too late, moves a task later or once too often, and
//! nothing else. Whoever receives what was given away asks the store where it stands.

use std::time::Duration;

use tokio::time::Instant;

use super::{Core, Effect, PARCEL_WORK, Stage};
use crate::flight::Key;
use crate::options::Tactic;

/// An idle worker says so after the first of these, for the next task is often on its way: single tasks
/// come and go in a millisecond. And then again and again, each time after twice as long, up to half a
/// second: many idle workers are no load.
const SEEK: (Duration, Duration) = (Duration::from_millis(3), Duration::from_millis(500));
/// How long that is heard: for longer than the longest wait of those who look, and not long after the
/// worker has found something to do.
const HEARD: Duration = Duration::from_millis(20);
/// A worker with tasks to spare looks whether they are wanted at most so often, which costs less than
/// its commits do; and less and less often for as long as they are not.
const LOOK: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(16));
/// When to say, and when to look.
#[derive(Debug)]
pub(super) struct Sharing {
    /// An idle worker says so then.
    seek_at: Option<Instant>,
    seek_pause: Duration,
    /// Not before then.
    look_at: Option<Instant>,
    look_pause: Duration,
    looking: bool,
    /// There is something to look for.
    spare: bool,
    /// Tasks that were to be given away and wait for the commit that releases them.
    owed: usize,
}

impl Default for Sharing {
    fn default() -> Self {
        Self {
            seek_at: None,
            seek_pause: SEEK.0,
            look_at: None,
            look_pause: LOOK.0,
            looking: false,
            spare: false,
            owed: 0,
        }
    }
}

impl Sharing {
    /// One more is to go to others when it is released.
    pub(super) fn owe(&mut self) {
        self.owed += 1;
    }

    /// Whether what was released is to go to others.
    pub(super) fn pay(&mut self) -> bool {
        let pays = self.owed > 0;
        self.owed = self.owed.saturating_sub(1);
        pays
    }
}

/// What waits for slots and what runs, and whether a slot has nothing to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) waiting: usize,
    pub(crate) running: usize,
    pub(crate) starving: bool,
}

impl Core {
    /// What is to be said or looked for now.
    pub(crate) fn due_sharing(&mut self, now: Instant, standing: Standing) -> Option<Effect> {
        if self.draining || !self.does(Tactic::Sharing) {
            return None;
        }
        let waiting = u32::try_from(standing.waiting).unwrap_or(u32::MAX);
        let slots = u32::try_from(self.me.slots.max(1)).unwrap_or(u32::MAX);
        let spare = f64::from(waiting) * self.task_seconds / f64::from(slots);
        let idle = standing.starving && self.load() < self.me.slots;
        let sharing = &mut self.sharing;
        // Less than is fetched with one message is not worth another one.
        sharing.spare = spare >= PARCEL_WORK.as_secs_f64();
        if idle {
            let at = *sharing.seek_at.get_or_insert(now + sharing.seek_pause);
            if now < at {
                return None;
            }
            sharing.seek_pause = (sharing.seek_pause * 2).min(SEEK.1);
            sharing.seek_at = Some(now + sharing.seek_pause);
            return Some(Effect::Seek(HEARD));
        }
        sharing.seek_at = None;
        sharing.seek_pause = SEEK.0;
        let look = sharing.spare && !sharing.looking && sharing.look_at.is_none_or(|at| at <= now);
        sharing.looking |= look;
        look.then_some(Effect::Look)
    }

    /// When to ask for that again.
    pub(crate) fn next_sharing(&self) -> Option<Instant> {
        let Sharing { seek_at, look_at, looking, spare, .. } = self.sharing;
        let look_at = look_at.filter(|_| spare && !looking);
        if self.draining { None } else { seek_at.or(look_at) }
    }

    /// Whether another worker could use tasks.
    pub(crate) fn on_sought(&mut self, sought: bool, now: Instant) -> Vec<Effect> {
        let sharing = &mut self.sharing;
        sharing.looking = false;
        sharing.owed = 0;
        sharing.look_pause = if sought { LOOK.0 } else { (sharing.look_pause * 2).min(LOOK.1) };
        sharing.look_at = Some(now + sharing.look_pause);
        if sought && !self.draining { vec![Effect::Share] } else { Vec::new() }
    }

    /// Whether another worker could run it as well, of those that wait for a slot.
    pub(crate) fn may_share(&self, key: Key) -> bool {
        self.flights.get(&key).is_some_and(|flight| {
            let free = !flight.void && !flight.leased && flight.suspect == 0;
            flight.stage == Stage::Running && free && flight.stays_until.is_none()
        })
    }
}

#[cfg(test)]
impl Standing {
    /// Of a worker that has nothing to run.
    pub(crate) const IDLE: Self = Self { waiting: 0, running: 0, starving: true };
}

#[cfg(test)]
mod tests {
    use super::super::tests::core;
    use super::*;

    const BUSY: Standing = Standing { waiting: 0, running: 1, starving: false };
    const FULL: Standing = Standing { waiting: 8, running: 1, starving: false };

    #[tokio::test(start_paused = true)]
    async fn an_idle_worker_says_so_less_and_less_often() {
        let (mut core, start) = (core(), Instant::now());
        assert!(
            core.due_sharing(start, Standing::IDLE).is_none(),
            "the next task may be on its way"
        );
        let mut said = Vec::new();
        for ms in 0..4_000 {
            let now = start + Duration::from_millis(ms);
            assert!(core.next_sharing().is_some_and(|at| at > now || at > start));
            if let Some(Effect::Seek(_)) = core.due_sharing(now, Standing::IDLE) {
                said.push(ms);
            }
        }
        assert!(said.starts_with(&[3, 9, 21, 45]) && said.len() < 15, "{said:?}");
        let now = start + Duration::from_secs(5);
        assert!(core.due_sharing(now, BUSY).is_none() && core.next_sharing().is_none());
        core.due_sharing(now, Standing::IDLE);
        assert_eq!(core.next_sharing(), Some(now + SEEK.0), "it was busy in between");
    }

    #[tokio::test(start_paused = true)]
    async fn a_busy_worker_looks_while_it_has_tasks_to_spare() {
        let (mut core, now) = (core(), Instant::now());
        assert!(core.due_sharing(now, BUSY).is_none());
        assert!(matches!(core.due_sharing(now, FULL), Some(Effect::Look)));
        assert!(core.due_sharing(now, FULL).is_none(), "one at a time");
        assert!(core.on_sought(false, now).is_empty());
        assert!(core.due_sharing(now, FULL).is_none());
        let next = core.next_sharing().unwrap();
        assert!(matches!(core.due_sharing(next, FULL), Some(Effect::Look)));
        assert!(matches!(core.on_sought(true, next)[..], [Effect::Share]));
        assert_eq!(core.next_sharing(), Some(next + LOOK.0), "somebody may want more");
        core.task_seconds = 1e-6;
        assert!(core.due_sharing(next + LOOK.1, FULL).is_none(), "not worth a message");
        assert!(core.next_sharing().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_worker_can_do_without() {
        let (mut core, now) = (core(), Instant::now());
        core.me.without.push("sharing".parse().unwrap());
        assert!(core.due_sharing(now, FULL).is_none());
        assert!(core.due_sharing(now + SEEK.1, Standing::IDLE).is_none());
        assert!("share".parse::<Tactic>().is_err());
    }
}
