//! Commits go out, answers come back.

use std::sync::Arc;

use bolthole_broker::id::{RunId, TaskId};
use bolthole_broker::locator::Locator;
use bolthole_broker::run::{Commit, Committed, OutboxId, Ready};
use bolthole_broker::state::{RunState, StateByte, TaskState};
use tokio::time::Instant;

use super::near::Near;
use super::{Core, Describe, Effect, Publish, Stage, Standing, Ticket};
use crate::flight::{Doubt, Key, Wanted};

impl Core {
    /// Commits that are due.
    pub(crate) fn due_commits(&mut self, now: Instant, standing: Standing) -> Vec<Effect> {
        if self.life.holds_commits() {
            return Vec::new();
        }
        let due = self.batches.take_due(now, self.needs_commits(standing));
        due.into_iter()
            .map(|(run, commit)| {
                let commit = Arc::new(commit);
                self.committing.insert(commit.outbox, (run, Arc::clone(&commit)));
                Effect::Commit { run, commit }
            })
            .collect()
    }

    /// Whether any are.
    pub(crate) fn has_due_commits(&self, now: Instant, standing: Standing) -> bool {
        !self.life.holds_commits() && self.batches.has_due(now, self.needs_commits(standing))
    }

    /// Whether nothing can be run before something is committed: a slot has nothing to run, and no
    /// other will be done with something short in a moment.
    fn needs_commits(&self, standing: Standing) -> bool {
        standing.starving && (standing.running == 0 || self.tasks_per_slot() == 1)
    }

    /// When to look for due commits again.
    pub(crate) fn next_commit(&self) -> Option<Instant> {
        self.batches.next_due().filter(|_| !self.life.holds_commits())
    }

    /// A commit was answered. `blocked` when the queue takes no messages: then all that was
    /// released runs here.
    pub(crate) fn on_committed(
        &mut self,
        id: OutboxId,
        reply: Committed,
        known: &impl Describe,
        blocked: bool,
        now: Instant,
    ) -> Vec<Effect> {
        let mut effects = Vec::new();
        let Some((run, commit)) = self.committing.remove(&id) else { return effects };
        self.batches.answered(run, commit.segment, now);
        match reply {
            Committed::Written { ready, freed, run: state } => {
                self.written(run, &commit, ready, known, (blocked, now), &mut effects);
                self.land_all(run, &commit, now, &mut effects);
                if !freed.is_empty() {
                    effects.push(Effect::Freed { run, freed });
                }
                if !state.is_running() {
                    self.run_over(run, Some(state), &mut effects);
                }
            }
            Committed::Superseded(states) => {
                self.superseded(run, Arc::unwrap_or_clone(commit), &states, now, &mut effects);
            }
            Committed::NotRunning(state) => {
                for finished in &commit.finished {
                    let key = (run, TaskId::new(commit.segment, finished.index));
                    self.drop_result(key, &mut effects);
                }
                self.run_over(run, state, &mut effects);
            }
        }
        self.settle_deliveries(now, &mut effects);
        effects
    }

    fn written(
        &mut self,
        run: RunId,
        commit: &Commit,
        ready: Vec<Ready>,
        known: &impl Describe,
        (blocked, now): (bool, Instant),
        effects: &mut Vec<Effect>,
    ) {
        let sequence = commit.outbox.sequence;
        if !ready.is_empty() {
            self.releasing.insert((run, sequence), ready.len());
        }
        // What was released runs on the account of the delivery that released it.
        let parcel = commit.finished.iter().find_map(|finished| {
            let flight = self.flights.get(&(run, TaskId::new(commit.segment, finished.index)));
            flight?.parcel.filter(|parcel| self.parcels.lends(*parcel))
        });
        let suspect = self.suspicion_of(run, commit);
        let computed_again = commit.finished.iter().any(|finished| finished.generation > 0);
        let again = computed_again || self.life.unsure > 0;
        let near = Near::of(commit);
        let ahead = if near.is_empty() { 0 } else { self.ahead() };
        let stays = |core: &Self, ready: &Ready, kept: usize| {
            let patience = core.stays(&near, (run, ready), ahead + kept, known)?;
            Some(now + patience)
        };
        let (kept, published) = self.share(run, ready, sequence, blocked, stays);
        let tasks: Vec<Wanted> = kept
            .into_iter()
            .map(|(ready, stays_until)| {
                let info = known.describe(run, ready.task);
                let reach = info.as_ref().map_or(suspect, |info| suspect.min(info.ahead_max()));
                let doubt = if reach > 0 {
                    Doubt::Deadly(reach)
                } else if again || ready.generation > 0 {
                    // A recomputation or a forwarded task brings its own history; and of what was
                    // computed again there may be an older copy here.
                    Doubt::Old
                } else {
                    Doubt::None
                };
                let wanted = Wanted { ready, info, doubt, lazy: None };
                self.take_off(run, &wanted, parcel, Some(sequence), 0);
                if let Some(flight) = self.flights.get_mut(&(run, ready.task)) {
                    flight.stays_until = stays_until;
                }
                wanted
            })
            .collect();
        if let Some(parcel) = parcel {
            self.parcels.add_tasks(parcel, tasks.len());
            self.parcels.publishing(parcel, published.len());
        }
        if !tasks.is_empty() {
            effects.push(Effect::Prepare { run, tasks });
        }
        if !published.is_empty() {
            let old = |ready: &Ready| ready.generation > 0 || ready.forwarded.is_some();
            let doubt = if suspect > 0 {
                Doubt::DEADLY
            } else if again || published.iter().any(old) {
                Doubt::Old
            } else {
                Doubt::None
            };
            let ticket = Ticket { outbox: Some(sequence), parcel };
            let leases = Vec::new();
            effects.push(Effect::Publish(Publish { run, ready: published, doubt, ticket, leases }));
        }
    }

    /// The tasks of a commit leave.
    fn land_all(&mut self, run: RunId, commit: &Commit, now: Instant, effects: &mut Vec<Effect>) {
        let mut confirmed = Vec::with_capacity(commit.finished.len());
        for finished in &commit.finished {
            let key = (run, TaskId::new(commit.segment, finished.index));
            if let Some(flight) = self.land(key) {
                confirmed.push((key, flight.nonce));
                self.life.note(commit, key, flight, now);
            }
        }
        effects.push(Effect::Confirm(confirmed));
    }

    /// How many of those in a row are suspects that follow the tasks of a commit: a worker that died
    /// may have run on with them, before it had committed anything.
    fn suspicion_of(&self, run: RunId, commit: &Commit) -> u16 {
        let finished = commit.finished.iter();
        let flights = finished.filter_map(|finished| {
            self.flights.get(&(run, TaskId::new(commit.segment, finished.index)))
        });
        flights.map(|flight| flight.suspect.saturating_sub(1)).max().unwrap_or(0)
    }

    /// Which of the released tasks run here: those that run already, as many as the slots are short
    /// of, and those that stay for what they use, until then. The rest is for everyone.
    fn share(
        &mut self,
        run: RunId,
        ready: Vec<Ready>,
        sequence: u64,
        blocked: bool,
        stays: impl Fn(&Self, &Ready, usize) -> Option<Instant>,
    ) -> (Vec<(Ready, Option<Instant>)>, Vec<Ready>) {
        let mut room = self.room();
        if blocked && !self.draining {
            room = usize::MAX;
        }
        let (mut kept, mut published) = (Vec::new(), Vec::new());
        for ready in ready {
            if let Some(flight) = self.flights.get_mut(&(run, ready.task)) {
                flight.rung = true;
                if let Some(earlier) = flight.outbox.replace(sequence) {
                    self.release_settled(run, earlier, 1);
                }
            } else if !blocked && self.sharing.pay() {
                published.push(ready);
            } else if room > 0 {
                room -= 1;
                kept.push((ready, None));
            } else if let Some(until) = stays(self, &ready, kept.len()) {
                kept.push((ready, Some(until)));
            } else {
                published.push(ready);
            }
        }
        (kept, published)
    }

    /// Some of the tasks were finished, rearmed or leased by others: those are dropped with all that
    /// was computed from them here, the others are committed again.
    fn superseded(
        &mut self,
        run: RunId,
        commit: Commit,
        states: &[(StateByte, Locator)],
        now: Instant,
        effects: &mut Vec<Effect>,
    ) {
        // The releases of single tasks are not in the commit any more; their descriptors have them.
        for sequence in &commit.settled {
            self.batches.settle(run, *sequence);
        }
        for (finished, (state, locator)) in commit.finished.into_iter().zip(states) {
            let key = (run, TaskId::new(commit.segment, finished.index));
            // Dropped with what it came from, and possibly on its way again.
            if self.flights.get(&key).is_none_or(|flight| flight.stage != Stage::Finished) {
                continue;
            }
            let pending = state.state() == TaskState::Pending;
            // One that stands alone and is pending still was fenced off by another's lease, or its
            // own tasks are gone: the same commit would be refused again.
            let strict = super::batch::stands_alone(&finished.end, commit.spawn.as_ref());
            let again = pending && state.generation() == finished.generation && !strict;
            if again {
                self.finish(key, finished.end, None, now);
            } else if !pending && self.is_mine(key, *locator) {
                if let Some(flight) = self.land(key) {
                    effects.push(Effect::Confirm(vec![(key, flight.nonce)]));
                }
            } else {
                self.drop_result(key, effects);
                let unused = commit.spawn.map(|(segment, _)| Effect::Unstage { run, segment });
                effects.extend(unused);
            }
        }
    }

    /// The store has begun another life since the commit was made, and has not taken it. What is still
    /// sound is committed again once all was compared; `unnoticed` when nobody here knows of that
    /// life yet.
    pub(crate) fn on_outlived(
        &mut self,
        id: OutboxId,
        unnoticed: bool,
        now: Instant,
    ) -> Vec<Effect> {
        let mut effects = Vec::new();
        let Some((run, commit)) = self.committing.remove(&id) else { return effects };
        self.batches.answered(run, commit.segment, now);
        self.life.held |= unnoticed && self.life.unsure == 0;
        let commit = Arc::unwrap_or_clone(commit);
        for sequence in &commit.settled {
            self.batches.settle(run, *sequence);
        }
        for finished in commit.finished {
            let key = (run, TaskId::new(commit.segment, finished.index));
            let Some(flight) = self.flights.get(&key) else { continue };
            if flight.stage != Stage::Finished {
                continue;
            }
            if flight.outlived {
                self.drop_result(key, &mut effects);
                let unused = commit.spawn.map(|(segment, _)| Effect::Unstage { run, segment });
                effects.extend(unused);
            } else {
                self.finish(key, finished.end, commit.spawn, now);
            }
        }
        self.settle_deliveries(now, &mut effects);
        effects
    }

    /// Whether the committed locator is the one of this attempt: its own commit, whose answer was
    /// lost, or a twin's with the same value.
    fn is_mine(&self, key: Key, locator: Locator) -> bool {
        let result = self.flights.get(&key).and_then(|flight| flight.result.as_ref());
        result.is_some_and(|result| result.locator == locator)
    }

    /// The end of this attempt does not count; nor does anything computed from it.
    pub(super) fn drop_result(&mut self, key: Key, effects: &mut Vec<Effect>) {
        let mut doomed = vec![key];
        while let Some(key) = doomed.pop() {
            let Some(flight) = self.flights.get_mut(&key) else { continue };
            doomed.append(&mut flight.continued);
            if let Some(cancel) = &flight.cancel {
                cancel.cancel();
            }
            effects.push(Effect::Discard(vec![(key, flight.nonce)]));
            if flight.stage == Stage::Finished {
                let entry = self.batches.remove(key.0, key.1);
                let unused = entry.and_then(|entry| entry.spawn);
                let unused = unused.map(|(segment, _)| Effect::Unstage { run: key.0, segment });
                effects.extend(unused);
                self.leave(key, effects);
            } else {
                flight.void = true;
            }
        }
    }

    /// The run takes no commits any more: everything of it here is dropped.
    pub(crate) fn run_over(
        &mut self,
        run: RunId,
        state: Option<RunState>,
        effects: &mut Vec<Effect>,
    ) {
        let keys: Vec<Key> = self.flights.keys().filter(|key| key.0 == run).copied().collect();
        let under_way: Vec<Key> = self
            .committing
            .values()
            .filter(|(of, _)| *of == run)
            .flat_map(|(_, commit)| {
                let tasks = commit.finished.iter();
                tasks.map(move |finished| (run, TaskId::new(commit.segment, finished.index)))
            })
            .collect();
        for key in keys {
            if let Some(flight) = self.flights.get_mut(&key) {
                flight.rung = false;
            }
            if !under_way.contains(&key) {
                self.drop_result(key, effects);
            }
        }
        self.batches.drop_run(run);
        self.releasing.retain(|(of, _), _| *of != run);
        let gone =
            state.is_none_or(|state| matches!(state, RunState::Cancelled | RunState::Purging));
        effects.push(Effect::RunOver { run, gone });
    }
}
