//! The store has begun another life, and may have forgotten what was committed last. Until that is
//! known, nothing is taken on trust and nothing committed; then what was forgotten is committed again
//! by who has it, and what was computed from what is gone is dropped.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bolthole_broker::id::{RunId, TaskId};
use bolthole_broker::limits;
use bolthole_broker::run::{Commit, End, LeaseRequest, Ready};
use bolthole_broker::task::TaskKind;
use tokio::time::Instant;

use super::finish::done;
use super::{Core, Effect, Flight, Stage};
use crate::flight::{Doubt, Kept, Key, Prepared, TaskInfo, Wanted};

/// A result that this worker committed a short while ago.
#[derive(Debug, Clone)]
pub(crate) struct Recent {
    pub(crate) key: Key,
    pub(crate) ready: Ready,
    pub(crate) info: TaskInfo,
    pub(crate) nonce: u64,
    pub(crate) result: Kept,
    pub(crate) at: Instant,
}

/// What comparing with the store came to.
#[derive(Debug, Default)]
pub(crate) struct Compared {
    /// Results that are not, or no longer, what the store says.
    pub(crate) stale: BTreeSet<Key>,
    /// Results whose commits it has forgotten, to be committed again.
    pub(crate) offers: Vec<Recent>,
}

/// Where the core stands between two lives of the store.
#[derive(Debug, Default)]
pub(super) struct Life {
    /// Lives that the store has begun with which what is here was not yet compared.
    pub(super) unsure: u32,
    /// Whether the store has refused a commit because of a life that nobody here has seen yet.
    pub(super) held: bool,
    recent: VecDeque<Recent>,
}

impl Life {
    /// Whether what is here may have been computed from what is undone.
    pub(super) fn holds_commits(&self) -> bool {
        self.unsure > 0 || self.held
    }

    /// A commit was written: should the store forget it, its results can be had again. Not those of
    /// tasks that have submitted others: these would be missing.
    pub(super) fn note(&mut self, commit: &Commit, key: Key, flight: Flight, now: Instant) {
        let Flight { ready, info: Some(info), nonce, result: Some(result), .. } = flight else {
            return;
        };
        if commit.spawn.is_some() || ready.forwarded.is_some() {
            return;
        }
        self.recent.push_back(Recent { key, ready, info, nonce, result, at: now });
        if self.recent.len() > limits::OFFERS_MAX {
            self.recent.pop_front();
        }
    }

    /// Forgets what a store has on its disk by now.
    pub(super) fn age(&mut self, now: Instant) {
        while self.recent.front().is_some_and(|recent| now >= recent.at + limits::ROLLBACK_MAX) {
            self.recent.pop_front();
        }
    }
}

impl Core {
    /// The store has begun another life. What runs takes leases, which the store refuses for tasks
    /// that it knows to be over; what is being prepared will be prepared again. What is to be compared:
    /// the inputs of all that has begun, and what was committed last.
    pub(crate) fn on_new_life(
        &mut self,
    ) -> (Vec<Effect>, BTreeMap<RunId, BTreeSet<TaskId>>, Vec<Recent>) {
        self.life.unsure += 1;
        self.life.held = false;
        let mut leases: BTreeMap<RunId, Vec<LeaseRequest>> = BTreeMap::new();
        let mut inputs: BTreeMap<RunId, BTreeSet<TaskId>> = BTreeMap::new();
        for ((run, task), flight) in &mut self.flights {
            flight.outlived |= flight.stage == Stage::Preparing;
            if flight.stage == Stage::Running && !flight.void {
                leases.entry(*run).or_default().push(flight.lease_request(*task));
            }
        }
        for (key, flight) in &self.flights {
            inputs.entry(key.0).or_default().extend(self.committed_inputs(*key, flight));
        }
        let leases = leases.into_iter();
        let effects = leases.map(|(run, requests)| Effect::Lease { run, requests }).collect();
        (effects, inputs, self.life.recent.iter().cloned().collect())
    }

    /// A task was prepared across two lives: its inputs may be what is undone, and so may be why it
    /// should end. What it needs done before it is prepared anew in any case is given back.
    pub(super) fn prepare_again(
        &mut self,
        key: Key,
        prepared: Prepared,
        effects: &mut Vec<Effect>,
    ) -> Option<Prepared> {
        let flight = self.flights.get_mut(&key)?;
        match prepared {
            Prepared::Run(runnable) if runnable.leased => {
                // Its lease goes with it.
                (flight.leased, flight.nonce) = (true, runnable.nonce);
                self.give_away_now(key, Doubt::Old, effects);
                return None;
            }
            Prepared::Relayed { nonce, .. } => effects.push(Effect::Discard(vec![(key, nonce)])),
            Prepared::Run(_) | Prepared::Skip { .. } | Prepared::Fail { .. } => {}
            Prepared::Drop { ref rearmed } if rearmed.is_empty() => {}
            // It leaves this worker, or waits, and is prepared anew when it comes back.
            other => return Some(other),
        }
        flight.rung = true;
        self.leave(key, effects);
        None
    }

    /// What is here was compared with the store.
    pub(crate) fn on_compared(&mut self, compared: Compared, now: Instant) -> Vec<Effect> {
        let mut effects = Vec::new();
        let Compared { mut stale, offers } = compared;
        // Ascending: what a result was computed from comes before it.
        for Recent { key, ready, info, nonce, result, .. } in offers {
            let mut inputs = info.inputs(&ready).iter();
            let lacks_input = inputs.any(|input| stale.contains(&(key.0, *input)));
            if lacks_input || self.flights.contains_key(&key) {
                // Not offered after all, or about to be computed anew.
                stale.insert(key);
                effects.push(Effect::Discard(vec![(key, nonce)]));
                continue;
            }
            tracing::info!(run = %key.0, task = %key.1, "the store has forgotten a result: again");
            let effect = info.class().kind == TaskKind::Effect;
            let wanted = Wanted { ready, info: Some(info), doubt: Doubt::Old, lazy: None };
            self.take_off(key.0, &wanted, None, None, 0);
            if let Some(flight) = self.flights.get_mut(&key) {
                flight.nonce = nonce;
                // Should others have it already, this one leaves without asking again.
                flight.stage = Stage::Finished;
            }
            self.finish(key, done(result, effect), None, now);
        }
        self.link_open();
        let on_stale = |(key, flight): &(&Key, &Flight)| {
            let mut inputs = self.committed_inputs(**key, flight);
            inputs.any(|input| stale.contains(&(key.0, input)))
        };
        let doomed: Vec<Key> = self.flights.iter().filter(on_stale).map(|(key, _)| *key).collect();
        for key in doomed {
            self.ask_again(key);
            if !self.is_under_way(key) {
                self.drop_result(key, &mut effects);
            } else if let Some(flight) = self.flights.get_mut(&key) {
                flight.outlived = true;
            }
        }
        self.life.unsure = self.life.unsure.saturating_sub(1);
        self.settle_deliveries(now, &mut effects);
        effects
    }

    /// What has begun on results that are here and not committed goes when these do.
    fn link_open(&mut self) {
        let mut links = Vec::new();
        for (key, flight) in &self.flights {
            let open = |input: &&TaskId| self.is_open((key.0, **input));
            links.extend(flight.begun_with().iter().filter(open).map(|input| (*key, *input)));
        }
        for (key, input) in links {
            self.ask_again(key);
            if let Some(flight) = self.flights.get_mut(&(key.0, input))
                && !flight.continued.contains(&key)
            {
                flight.continued.push(key);
            }
        }
    }

    /// The store is asked for the task once more should it leave without a commit: what was rung for
    /// may be ready in this life of the store, too.
    fn ask_again(&mut self, key: Key) {
        if let Some(flight) = self.flights.get_mut(&key) {
            flight.rung = true;
        }
    }

    /// Whether the result of a task is here and not committed.
    fn is_open(&self, key: Key) -> bool {
        self.flights.get(&key).is_some_and(|flight| flight.stage == Stage::Finished)
    }

    /// The inputs of a task that has begun, but for those whose values are here and not committed.
    fn committed_inputs<'a>(
        &'a self,
        key: Key,
        flight: &'a Flight,
    ) -> impl Iterator<Item = TaskId> + 'a {
        flight.begun_with().iter().copied().filter(move |input| !self.is_open((key.0, *input)))
    }

    fn is_under_way(&self, key: Key) -> bool {
        self.committing.values().any(|(run, commit)| {
            let mut tasks = commit.finished.iter();
            *run == key.0
                && commit.segment == key.1.segment()
                && tasks.any(|finished: &bolthole_broker::run::Finished| {
                    finished.index == key.1.index() && !matches!(finished.end, End::Skipped { .. })
                })
        })
    }
}

impl Flight {
    /// The inputs of a task that has begun.
    fn begun_with(&self) -> &[TaskId] {
        let begun = matches!(self.stage, Stage::Running | Stage::Finished) && !self.void;
        let info = self.info.as_ref().filter(|_| begun);
        info.map(|info| info.inputs(&self.ready)).unwrap_or_default()
    }
}
