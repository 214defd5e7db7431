//! The value of a finished task, wherever it is: in its locator, in the store, with a worker, or
//! lost and to be computed again.

use std::collections::BTreeMap;
use std::time::Duration;

use bolthole_broker::error::TaskError;
use bolthole_broker::handoff::{Digest, FetchError, Peer, Want};
use bolthole_broker::id::{ResultKey, RunId, TaskId, WorkerIndex};
use bolthole_broker::limits::INSPECT_TASKS_MAX;
use bolthole_broker::lineage::Facts;
use bolthole_broker::locator::{HeldRecord, Locator};
use bolthole_broker::run::TaskStatus;
use bolthole_broker::state::TaskState;
use bytes::Bytes;
use tokio::time::sleep;

use crate::core::Core;
use crate::error::{Error, ErrorKind, Result};

/// The pauses before a worker that could not be reached is asked again.
const FETCH_PAUSES: [Duration; 4] = [
    Duration::from_millis(100),
    Duration::from_millis(400),
    Duration::from_millis(1_600),
    Duration::from_millis(3_200),
];

/// Where a task stands.
#[derive(Debug)]
pub(crate) enum Found {
    /// It has a result: this.
    Value(Bytes),
    /// Not finished (any more).
    Pending,
}

/// A result that a worker holds, by its place in the request.
pub(crate) struct HeldResult {
    place: usize,
    pub(crate) task: TaskId,
    pub(crate) locator: Locator,
    key: ResultKey,
    pub(crate) record: HeldRecord,
}

impl HeldResult {
    fn want(&self) -> Want {
        let HeldRecord { length, digest, .. } = self.record;
        Want { key: self.key, length, digest: Digest::from_bytes(digest) }
    }
}

/// Whether a holder that cannot be connected to, or not for the moment, may be there all the same.
fn may_be_there(error: &FetchError) -> bool {
    error.is_retryable() || matches!(error, FetchError::Refused { .. })
}

impl Core {
    /// Where tasks stand, in their order. An error of the whole request is that of each task.
    pub(crate) async fn find(&self, run: RunId, tasks: &[TaskId]) -> Vec<Result<Found>> {
        let mut found = Vec::with_capacity(tasks.len());
        for tasks in tasks.chunks(INSPECT_TASKS_MAX) {
            match self.persist_in(|| self.store.inspect(run, tasks)).await {
                Ok(statuses) => found.extend(self.resolve(run, tasks, statuses).await),
                Err(error) => found.extend(tasks.iter().map(|_| Err(error.clone()))),
            }
        }
        found
    }

    async fn resolve(
        &self,
        run: RunId,
        tasks: &[TaskId],
        statuses: Vec<Option<TaskStatus>>,
    ) -> Vec<Result<Found>> {
        let mut found: Vec<Option<Result<Found>>> = Vec::with_capacity(tasks.len());
        let mut held: BTreeMap<Option<WorkerIndex>, Vec<HeldResult>> = BTreeMap::new();
        for (place, (task, status)) in tasks.iter().zip(statuses).enumerate() {
            let here = match status {
                None => Some(Ok(Found::Pending)),
                Some(status) => match self.read(run, *task, &status).await {
                    Ok(Here::Found(value)) => Some(Ok(value)),
                    Ok(Here::Held(worker, key, record)) => {
                        let locator = status.locator;
                        let result = HeldResult { place, task: *task, locator, key, record };
                        held.entry(worker).or_default().push(result);
                        None
                    }
                    Err(error) => Some(Err(error)),
                },
            };
            found.push(here);
        }
        for (worker, results) in held {
            self.fetch(run, worker, results, &mut found).await;
        }
        found.into_iter().map(|found| found.unwrap_or(Ok(Found::Pending))).collect()
    }

    /// What the store alone can say of a task.
    async fn read(&self, run: RunId, task: TaskId, status: &TaskStatus) -> Result<Here> {
        match status.state.state() {
            TaskState::Pending => Ok(Here::Found(Found::Pending)),
            TaskState::Freed => Err(freed(run, task)),
            TaskState::Failed | TaskState::Skipped => {
                let cause = match status.locator {
                    Locator::Cause(cause) => cause,
                    _ => task,
                };
                match self.failure(run, task, cause).await {
                    Some(error) => Err(error),
                    None => Ok(Here::Found(Found::Pending)),
                }
            }
            TaskState::Done => match status.locator {
                Locator::Held { .. } | Locator::Apart { .. } => {
                    let record = status.record.as_deref().unwrap_or_default();
                    let record = HeldRecord::from_bytes(record)?;
                    let generation = status.state.generation();
                    let key = ResultKey { run, task, generation, nonce: record.nonce };
                    let worker = match status.locator {
                        Locator::Held { worker, .. } => Some(worker),
                        _ => None,
                    };
                    Ok(Here::Held(worker, key, record))
                }
                Locator::Stored { .. } => {
                    let record = status.record.clone();
                    record.map(|bytes| Here::Found(Found::Value(bytes))).ok_or_else(|| {
                        let message = format!("the store has lost the result of task {task}");
                        Error::new(ErrorKind::Store, message)
                    })
                }
                locator => match locator.value() {
                    Some(bytes) => Ok(Here::Found(Found::Value(bytes))),
                    None => Err(freed(run, task)),
                },
            },
        }
    }

    /// Why `task` has no result, when the reason is `cause`; `None` when the store has forgotten
    /// that this one has failed.
    pub(crate) async fn failure(&self, run: RunId, task: TaskId, cause: TaskId) -> Option<Error> {
        let status = match self.inspect(run, cause).await {
            Ok(Some(status)) => status,
            Ok(None) => return Some(gone(run)),
            Err(error) => return Some(error),
        };
        let state = status.state.state();
        Some(match status.record.as_deref().and_then(TaskError::decode) {
            Some(error) if task == cause => {
                let message = error.to_string();
                Error::of_task(error, message)
            }
            Some(error) => {
                let message = format!("task {task} was skipped, because {error}");
                Error::of_task(error, message)
            }
            None if state == TaskState::Skipped => {
                let of = if task == cause { String::new() } else { format!("{cause}, which ") };
                let reason = if of.is_empty() { "" } else { "needs the result of task " };
                let message = format!("task {task} {reason}{of}was cancelled");
                Error::new(ErrorKind::Cancelled, message)
            }
            None if state != TaskState::Failed => return None,
            None => {
                let message = format!("task {cause} failed, and its error cannot be read");
                Error::new(ErrorKind::Codec, message)
            }
        })
    }

    /// Fetches what one worker holds; rearms what it no longer does.
    async fn fetch(
        &self,
        run: RunId,
        worker: Option<WorkerIndex>,
        mut results: Vec<HeldResult>,
        found: &mut [Option<Result<Found>>],
    ) {
        if let Some(local) = &self.local {
            let mut elsewhere = Vec::new();
            for result in results {
                match local.get(result.key).await {
                    Some(bytes) => found[result.place] = Some(Ok(Found::Value(bytes))),
                    None => elsewhere.push(result),
                }
            }
            results = elsewhere;
        }
        if results.is_empty() {
            return;
        }
        let peer = match worker {
            Some(worker) => self.peer(worker).await,
            None => Ok(None),
        };
        let peer = match peer {
            Ok(peer) => peer,
            Err(error) => {
                for result in results {
                    found[result.place] = Some(Err(error.clone()));
                }
                return;
            }
        };
        let holder = worker.zip(peer.as_ref());
        let fetched = match holder {
            // The worker is gone, and what it held with it.
            None => results.iter().map(|_| Err(FetchError::NotHeld)).collect(),
            Some((worker, peer)) => {
                let wants = results.iter().map(HeldResult::want).collect();
                self.fetch_patiently(worker, peer, wants, FetchError::is_retryable).await
            }
        };
        let mut lost = Vec::new();
        for (result, fetched) in results.iter().zip(fetched) {
            found[result.place] = match fetched {
                Ok(bytes) => Some(Ok(Found::Value(bytes))),
                Err(why) => match self.copy_of(result).await {
                    Ok(Some(bytes)) => Some(Ok(Found::Value(bytes))),
                    Ok(None) if why.is_lost() => {
                        lost.push((result, why));
                        None
                    }
                    Ok(None) => Some(Err(why.into())),
                    Err(error) => Some(Err(error)),
                },
            };
        }
        for ((result, why), mut value) in lost.iter().zip(self.recompute(run, &lost).await) {
            let refused = matches!(why, FetchError::Refused { .. });
            let gone = value.as_ref().is_err_and(|error| *error.kind() == ErrorKind::Gone);
            // Nobody will compute it again: whether its holder is only cut off is worth a wait.
            if refused
                && gone
                && let Some((worker, peer)) = holder
            {
                let wants = vec![result.want()];
                let again = self.fetch_patiently(worker, peer, wants, may_be_there).await;
                if let Some(Ok(bytes)) = again.into_iter().next() {
                    value = Ok(Found::Value(bytes));
                }
            }
            found[result.place] = Some(value);
        }
    }

    /// Where a worker is reached; `None` when it is no more, or never was to be reached.
    async fn peer(&self, worker: WorkerIndex) -> Result<Option<Peer>> {
        let record = self.persist_in(|| self.holder(worker)).await?;
        let reached = record.filter(|record| !record.address.is_empty());
        Ok(reached.map(|record| Peer { addr: record.address, incarnation: record.incarnation }))
    }

    /// Fetches, and again what failed for a reason that, as `passes` says, may pass: a worker that is
    /// busy or cut off for a moment. One that is no more by then holds nothing.
    async fn fetch_patiently(
        &self,
        worker: WorkerIndex,
        peer: &Peer,
        wants: Vec<Want>,
        passes: fn(&FetchError) -> bool,
    ) -> Vec<Result<Bytes, FetchError>> {
        let mut fetched = self.fetcher.fetch(peer, wants.clone()).await;
        for pause in FETCH_PAUSES {
            let passing = |place: &usize| fetched[*place].as_ref().is_err_and(passes);
            let failed: Vec<usize> = (0..wants.len()).filter(passing).collect();
            if failed.is_empty() {
                break;
            }
            sleep(pause).await;
            let gone = self.peer(worker).await.is_ok_and(|now| now.as_ref() != Some(peer));
            if gone {
                for place in failed {
                    fetched[place] = Err(FetchError::NotHeld);
                }
                break;
            }
            let again = failed.iter().map(|place| wants[*place].clone()).collect();
            for (place, result) in failed.iter().zip(self.fetcher.fetch(peer, again).await) {
                fetched[*place] = result;
            }
        }
        fetched
    }

    /// A copy of a result that its holder did not hand over.
    async fn copy_of(&self, missing: &HeldResult) -> Result<Option<Bytes>> {
        let HeldResult { key, record, .. } = missing;
        self.persist_in(|| self.durable.read(*key, record)).await
    }
}

/// What the store says of a finished task.
enum Here {
    Found(Found),
    /// With a worker, or in copies alone.
    Held(Option<WorkerIndex>, ResultKey, HeldRecord),
}

/// The run is not there.
pub(crate) fn gone(run: RunId) -> Error {
    let message = format!(
        "the store knows nothing of run {run}: it was deleted, its time has run out, or the store \
         has lost its data"
    );
    Error::new(ErrorKind::Gone, message)
}

fn freed(run: RunId, task: TaskId) -> Error {
    let message = format!(
        "the result of task {task} of run {run} was freed when its last handle was dropped: keep a \
         handle for as long as the result is wanted"
    );
    Error::new(ErrorKind::Gone, message)
}
