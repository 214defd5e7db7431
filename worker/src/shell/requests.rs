//! What the loop asks of the store and the queue: each in a task of its own, repeated for as long as
//! that makes sense, the answer sent back to the loop.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bolthole_broker::clock;
use bolthole_broker::error::TaskError;
use bolthole_broker::failpoint::{self, Point};
use bolthole_broker::handoff::Peer;
use bolthole_broker::id::{ResultKey, RunId, TaskId, WorkerIndex};
use bolthole_broker::locator::Locator;
use bolthole_broker::presence::Presence;
use bolthole_broker::queue::Tag;
use bolthole_broker::run::{
    Commit, Committed, End, FreedResult, LeaseRequest, Ready, Retried, Retry,
};
use bolthole_broker::state::RunState;
use bolthole_broker::store::Store;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::{Answer, Shell};
use crate::commit::{send_commit, settle_all};
use crate::core::{Effect, Publish};
use crate::flight::{TaskInfo, Wanted};

/// The wait before the store is asked again, doubled each time up to the second.
pub(super) const STORE_WAIT: (Duration, Duration) =
    (Duration::from_millis(50), Duration::from_secs(2));

impl Shell {
    pub(super) fn commit(&self, run: RunId, commit: Arc<Commit>) {
        let store = self.preparer.store.clone();
        let answers = self.answers.clone();
        let stop = self.preparer.stop.clone();
        let copier = Arc::clone(&self.preparer.copier);
        let life = self.compared.clone();
        self.tracker.spawn(async move {
            let commit = copier.secure(run, commit).await;
            let mut wait = STORE_WAIT.0;
            let mut repeated = false;
            let reply = loop {
                match send_commit(&store, run, &life, &commit, repeated).await {
                    Ok(reply) => break reply,
                    Err(error) if error.is_retryable() && !stop.is_cancelled() => {
                        tracing::warn!(%run, %error, "a commit was not answered; repeating it");
                        repeated |= error.is_ambiguous();
                        sleep(wait).await;
                        wait = (wait * 2).min(STORE_WAIT.1);
                    }
                    Err(error) => {
                        tracing::error!(%run, %error, "a commit was refused");
                        // The run may be well: its other results here are kept.
                        break Some(Committed::NotRunning(Some(RunState::Failed)));
                    }
                }
            };
            let answer = match reply {
                Some(reply) => Answer::Committed(commit.outbox, reply),
                None => Answer::Outlived(commit.outbox, life),
            };
            let _ = answers.send(answer).await;
        });
    }

    pub(super) fn publish(&self, publish: Publish) {
        let publisher = Arc::clone(&self.publisher);
        let answers = self.answers.clone();
        let per_parcel = self.core().tasks_per_slot();
        let stop = self.preparer.stop.clone();
        let store = self.preparer.store.clone();
        self.tracker.spawn(async move {
            let Publish { run, ready, doubt, leases, .. } = &publish;
            if !leases.is_empty() {
                end_leases(&store, *run, leases, &stop).await;
            }
            let confirmed = publisher.ring_until(*run, ready, *doubt, per_parcel, &stop).await;
            let _ = answers.send(Answer::Published(publish, confirmed)).await;
        });
    }

    /// Prepares what needs nothing from elsewhere at once, the rest beside the loop.
    pub(super) fn prepare(&mut self, run: RunId, tasks: Vec<Wanted>) -> Vec<Effect> {
        let (here, elsewhere) = self.preparer.all_at_once(run, tasks);
        if !elsewhere.is_empty() {
            let preparer = Arc::clone(&self.preparer);
            let answers = self.answers.clone();
            self.tracker.spawn(async move {
                let answer = Answer::Prepared(preparer.prepare(run, &elsewhere).await);
                let _ = answers.send(answer).await;
            });
        }
        if here.is_empty() {
            return Vec::new();
        }
        self.core().on_prepared(here, clock::random_u64(), Instant::now())
    }

    /// Says that this worker could run more tasks.
    pub(super) fn seek(&self, hold: Duration) {
        let preparer = Arc::clone(&self.preparer);
        self.tracker.spawn(async move {
            let mut queues: Vec<String> = preparer.queues.iter().cloned().collect();
            queues.sort_unstable();
            if let Err(error) = preparer.store.seek(&queues, hold).await {
                tracing::debug!(%error, "nobody is told that this worker could run more");
            }
        });
    }

    /// Chooses what to give away.
    pub(super) fn share(&self) -> Effect {
        let core = self.core();
        let keys = self.slots.last_half(|key| core.may_share(key));
        drop(core);
        self.pulse.shared.add(keys.len() as u64);
        Effect::TakeBack(keys)
    }

    /// Looks whether another worker could run more tasks.
    pub(super) fn look(&self) {
        let store = self.preparer.store.clone();
        let answers = self.answers.clone();
        let queue = self.slots.queue();
        self.tracker.spawn(async move {
            let sought = match &queue {
                Some(queue) => store.sought(queue).await,
                None => Ok(false),
            };
            let sought = sought.unwrap_or_else(|error| {
                tracing::debug!(%error, "whether others could run more is not known");
                false
            });
            let _ = answers.send(Answer::Sought(sought)).await;
        });
    }

    /// Drops freed results and tells the workers that hold others: a hint, they sweep as well.
    pub(super) fn forget(&self, run: RunId, freed: &[FreedResult]) {
        let mut elsewhere: BTreeMap<WorkerIndex, Vec<ResultKey>> = BTreeMap::new();
        for result in freed {
            let FreedResult { task, generation, .. } = *result;
            self.preparer.values.forget((run, task));
            if let Locator::Held { worker, .. } = result.locator
                && worker != self.preparer.inputs.me
            {
                let key = ResultKey { run, task, generation, nonce: 0 };
                elsewhere.entry(worker).or_default().push(key);
            }
        }
        if elsewhere.is_empty() {
            return;
        }
        let preparer = Arc::clone(&self.preparer);
        self.tracker.spawn(async move {
            for (worker, keys) in elsewhere {
                let Ok(Some(record)) = preparer.store.worker(worker).await else { continue };
                let peer = Peer { addr: record.address, incarnation: record.incarnation };
                if let Err(error) = preparer.inputs.fetcher.forget(&peer, &keys).await {
                    tracing::debug!(%run, %error, "a holder was not told; its sweep will find them");
                }
            }
        });
    }

    /// A worker may be gone.
    pub(super) fn take_over(&self, presence: &[u8], tag: Tag) {
        let (takeover, settler) = (Arc::clone(&self.takeover), self.settler.clone());
        let presence = Presence::decode(presence);
        self.tracker.spawn(async move {
            match presence {
                Ok(presence) => takeover.on_absent(&presence).await,
                Err(error) => tracing::warn!(%error, "a presence is not understood"),
            }
            settler.ack(tag).await;
        });
    }

    /// Gives results that are here another place, for a worker that cannot reach this one.
    pub(super) fn relay(
        &self,
        run: RunId,
        holder: WorkerIndex,
        to: WorkerIndex,
        tasks: Vec<TaskId>,
    ) {
        let copier = &self.preparer.copier;
        if holder == copier.me {
            self.tracker.spawn(Arc::clone(copier).relay(run, to, tasks));
        }
    }

    /// Notes a failed attempt, then rings for the next one when it is due.
    pub(super) fn retry(&self, run: RunId, retry: Retry, info: TaskInfo) {
        let store = self.preparer.store.clone();
        let publisher = Arc::clone(&self.publisher);
        let answers = self.answers.clone();
        let stop = self.preparer.stop.clone();
        self.tracker.spawn(async move {
            let mut wait = STORE_WAIT.0;
            while !stop.is_cancelled() {
                match store.retry(run, &retry).await {
                    Ok(Retried::Due { .. }) => {
                        let delay = Duration::from_millis(retry.delay_ms);
                        let ready = Ready::first(retry.task);
                        publisher.ring_later(run, ready, &info, delay).await;
                        break;
                    }
                    // Counted or finished by another attempt. Should it be neither running nor
                    // finished, nobody else would remember it before reconciling does.
                    Ok(Retried::Stale) => {
                        let delay = Duration::from_millis(retry.delay_ms);
                        publisher.ring_later(run, Ready::first(retry.task), &info, delay).await;
                        break;
                    }
                    Err(error) if error.is_retryable() => {
                        tracing::warn!(%run, %error, "a failed attempt was not noted; repeating");
                        sleep(wait).await;
                        wait = (wait * 2).min(STORE_WAIT.1);
                    }
                    Err(error) => {
                        tracing::error!(%run, %error, "a failed attempt was not noted");
                        break;
                    }
                }
            }
            let _ = answers.send(Answer::Retried((run, retry.task))).await;
        });
    }

    pub(super) fn lease(&self, run: RunId, requests: Vec<LeaseRequest>) {
        let store = self.preparer.store.clone();
        let answers = self.answers.clone();
        let (me, hold) = (self.me, self.preparer.turns.lease);
        self.tracker.spawn(async move {
            failpoint::reach(Point::LeaseBefore).await;
            let reply = store.lease(run, me, hold, &requests).await;
            failpoint::reach(Point::LeaseAfter).await;
            match reply {
                Ok(leased) => {
                    let answer = requests.into_iter().zip(leased).collect();
                    let _ = answers.send(Answer::Leased(run, answer)).await;
                }
                // The next tick asks again; a lease that runs out costs a repetition, no more.
                Err(error) => tracing::warn!(%run, %error, "leases were not renewed"),
            }
        });
    }

    pub(super) fn ring_later(&self, run: RunId, ready: Ready, info: TaskInfo, wait: Duration) {
        let publisher = Arc::clone(&self.publisher);
        self.tracker.spawn(async move {
            publisher.ring_later(run, ready, &info, wait).await;
        });
    }

    pub(super) fn settle(&self, run: RunId, sequences: Vec<u64>) {
        let store = self.preparer.store.clone();
        let (owner, stop) = (self.me, self.preparer.stop.clone());
        self.tracker.spawn(async move {
            let mut wait = STORE_WAIT.0;
            while let Err(error) = settle_all(&store, run, owner, &sequences).await {
                if !error.is_retryable() || stop.is_cancelled() {
                    tracing::warn!(%run, %error, "outbox entries were not settled");
                    return;
                }
                sleep(wait).await;
                wait = (wait * 2).min(STORE_WAIT.1);
            }
        });
    }

    /// What it would cost to leave it is memory of the store, until the run is purged.
    pub(super) fn unstage(&self, run: RunId, segment: u32) {
        let store = self.preparer.store.clone();
        self.tracker.spawn(async move {
            if let Err(error) = store.unstage(run, segment).await {
                tracing::debug!(%run, segment, %error, "a segment was not dropped");
            }
        });
    }

    /// Another thread for a slot whose own is stuck, unless too many are.
    pub(super) fn spare_slot(&self, nonce: u64) {
        if !self.slots.replace(nonce) {
            self.pulse.worn_out.cancel();
        }
    }

    pub(super) fn count_failures(&self, commit: &Commit) {
        for finished in &commit.finished {
            if let End::Failed { error } = &finished.end
                && let Some(error) = TaskError::decode(error)
            {
                self.pulse.failed.with(&error.name).add(1);
            }
        }
    }
}

/// Ends leases of ours. Those that the store does not hear of run out.
async fn end_leases(store: &Store, run: RunId, leases: &[(TaskId, u64)], stop: &CancellationToken) {
    let mut wait = STORE_WAIT.0;
    while let Err(error) = store.unlease(run, leases).await {
        if !error.is_retryable() || stop.is_cancelled() {
            tracing::warn!(%run, %error, "leases were not ended; they will run out");
            return;
        }
        sleep(wait).await;
        wait = (wait * 2).min(STORE_WAIT.1);
    }
}
