//! The results that a task uses: from here, from the store, from the peer that holds them.

mod holders;
mod reach;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bolthole_broker::call::Value;
use bolthole_broker::durable::Durable;
use bolthole_broker::handoff::{Digest, FetchError, Fetcher, Peer, Want};
use bolthole_broker::id::{ResultKey, RunId, TaskId, WorkerIndex};
use bolthole_broker::locator::{HeldRecord, Locator};
use bolthole_broker::run::TaskStatus;
use bolthole_broker::state::TaskState;
use bolthole_broker::store::{Error, Store};
use bytes::Bytes;
use tokio::sync::OwnedMutexGuard;
use tokio::time::{Instant, sleep};

pub(crate) use self::holders::Holders;
pub(crate) use self::reach::Reach;
use crate::flight::Key;
use crate::metrics::Number;
use crate::values::{Found, Values};

/// Tries at a peer that does not answer, and the wait between them. They are for a connection that
/// breaks, or a peer that is busy: one that took longer than this to fail would do so again.
const FETCH_TRIES: u32 = 3;
const FETCH_WAIT: Duration = Duration::from_millis(100);
const FETCH_QUICK: Duration = Duration::from_secs(1);

/// Inputs could not be looked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InputError {
    /// The store did not say where they are.
    #[error(transparent)]
    Store(#[from] Error),
    /// Their holder will not talk to this worker, or this worker can talk to nobody.
    #[error(transparent)]
    Peer(FetchError),
}

impl InputError {
    /// Whether looking again can help.
    pub(crate) fn is_retryable(&self) -> bool {
        match self {
            Self::Store(error) => error.is_retryable(),
            Self::Peer(error) => error.is_retryable(),
        }
    }
}

/// What became of an input.
#[derive(Debug, Clone)]
pub(crate) enum Input {
    /// Here.
    Value(Value),
    /// It has none, because of this task.
    NoResult(TaskId),
    /// It is done, but its result cannot be had from where this says.
    Lost(Locator),
    /// It is done, and whoever has it lives, but cannot be reached from here.
    Unreached(Locator),
    /// It is not done: the message that said so is of a past that was undone.
    Pending,
}

/// Gets inputs.
#[derive(Debug)]
pub(crate) struct Inputs {
    pub(crate) store: Store,
    pub(crate) values: Arc<Values>,
    pub(crate) fetcher: Fetcher,
    pub(crate) durable: Durable,
    pub(crate) me: WorkerIndex,
    pub(crate) reach: Reach,
    pub(crate) holders: Holders,
    /// Results being fetched: who wants one of them too waits and finds it here.
    pub(crate) gates: Gates,
    /// What came from other workers.
    pub(crate) fetched_bytes: Number,
}

/// One fetch at a time for each result.
#[derive(Debug, Default)]
pub(crate) struct Gates(Mutex<HashMap<ResultKey, Arc<Gate>>>);

type Gate = tokio::sync::Mutex<()>;

impl Gates {
    /// Waits for its turn with each of `keys`, which ascend: two that want the same results never
    /// wait for each other.
    async fn enter(&self, keys: &[ResultKey]) -> Vec<OwnedMutexGuard<()>> {
        let gates: Vec<Arc<Gate>> = {
            let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            open.retain(|_, gate| Arc::strong_count(gate) > 1);
            keys.iter().map(|key| Arc::clone(open.entry(*key).or_default())).collect()
        };
        let mut turns = Vec::with_capacity(gates.len());
        for gate in gates {
            turns.push(gate.lock_owned().await);
        }
        turns
    }
}

impl Inputs {
    /// An input that is in memory here.
    pub(crate) fn at_hand(
        &self,
        run: RunId,
        task: TaskId,
        continuing: Option<u64>,
    ) -> Option<Value> {
        match self.values.find((run, task), continuing)? {
            Found::Value(value) => Some(value),
            Found::Spilled(_) => None,
        }
    }

    /// All of `tasks`. With `check` a result that is here counts only if it is the one that the
    /// store names: it may have been computed again since.
    pub(crate) async fn gather(
        &self,
        run: RunId,
        tasks: Vec<TaskId>,
        check: bool,
    ) -> Result<HashMap<TaskId, Input>, InputError> {
        let mut inputs = HashMap::with_capacity(tasks.len());
        let mut unknown = Vec::new();
        let tasks = if check { self.forget_old(run, tasks).await? } else { tasks };
        for task in tasks {
            let found = match self.values.find((run, task), None) {
                Some(Found::Value(value)) => Some(value),
                Some(Found::Spilled(key)) => self.read_back(&key).await,
                None => None,
            };
            match found {
                Some(value) => drop(inputs.insert(task, Input::Value(value))),
                None => unknown.push(task),
            }
        }
        if unknown.is_empty() {
            return Ok(inputs);
        }
        let statuses = self.store.inspect(run, &unknown).await?;
        let mut wants: BTreeMap<WorkerIndex, Vec<(TaskId, Locator, Want)>> = BTreeMap::new();
        let mut copies = Vec::new();
        for (task, status) in unknown.into_iter().zip(statuses) {
            match self.place(run, task, status)? {
                Placed::Here(input) => drop(inputs.insert(task, input)),
                Placed::At(worker, locator, want, record) => {
                    copies.extend((!record.copies.is_empty()).then_some((task, want.key, record)));
                    wants.entry(worker).or_default().push((task, locator, want));
                }
                Placed::Apart(locator, key, record) => {
                    inputs.insert(task, Input::Lost(locator));
                    copies.push((task, key, record));
                }
            }
        }
        for (worker, wants) in wants {
            inputs.extend(self.fetch(worker, wants).await?);
        }
        self.look_for_copies(copies, &mut inputs).await?;
        Ok(inputs)
    }

    /// Looks elsewhere for results that their holders do not give: at their second holders, in the
    /// result folder, in the store.
    async fn look_for_copies(
        &self,
        mut copies: Vec<(TaskId, ResultKey, HeldRecord)>,
        inputs: &mut HashMap<TaskId, Input>,
    ) -> Result<(), InputError> {
        let mut seconds: BTreeMap<WorkerIndex, Vec<(TaskId, Locator, Want)>> = BTreeMap::new();
        copies.retain(|(task, key, record)| {
            let Some(Input::Lost(locator) | Input::Unreached(locator)) = inputs.get(task) else {
                return false;
            };
            if let Some(second) = record.copies.worker {
                let digest = Digest::from_bytes(record.digest);
                let want = Want { key: *key, length: record.length, digest };
                seconds.entry(second).or_default().push((*task, *locator, want));
            }
            true
        });
        for (second, wants) in seconds {
            for (task, found) in self.fetch(second, wants).await? {
                // It is lost only when both say so.
                if !matches!(found, Input::Lost(_)) {
                    inputs.insert(task, found);
                }
            }
        }
        for (task, key, mut record) in copies {
            record.copies.worker = None;
            if !matches!(inputs.get(&task), Some(Input::Value(_)))
                && let Some(bytes) = self.durable.read(key, &record).await?
            {
                let value = Value { bytes, typed: None };
                self.values.keep_copy(key, value.clone());
                inputs.insert(task, Input::Value(value));
            }
        }
        Ok(())
    }

    /// Drops copies of results that were computed again since. A task that is pending has no result
    /// any more; of one whose result is freed what is here was the last.
    async fn forget_old(&self, run: RunId, tasks: Vec<TaskId>) -> Result<Vec<TaskId>, Error> {
        let is_here = |task: &TaskId| self.values.nonce_of((run, *task)).is_some();
        let here: Vec<TaskId> = tasks.iter().copied().filter(is_here).collect();
        if here.is_empty() {
            return Ok(tasks);
        }
        let statuses = self.store.inspect(run, &here).await?;
        for (task, status) in here.into_iter().zip(statuses) {
            let key = (run, task);
            if status.is_some_and(|status| !is_current(&self.values, key, &status)) {
                self.values.forget(key);
            }
        }
        Ok(tasks)
    }

    async fn read_back(&self, key: &ResultKey) -> Option<Value> {
        let held = self.values.held().get(key).await?;
        Some(Value { bytes: held.bytes, typed: held.typed })
    }

    /// Where the store says an input is.
    fn place(&self, run: RunId, task: TaskId, status: Option<TaskStatus>) -> Result<Placed, Error> {
        let Some(status) = status else { return Ok(Placed::Here(Input::Pending)) };
        let record = status.record.unwrap_or_default();
        let here = |bytes: Bytes| {
            let generation = status.state.generation();
            let result = ResultKey { run, task, generation, nonce: 0 };
            let value = Value { bytes, typed: None };
            self.values.keep_copy(result, value.clone());
            Ok(Placed::Here(Input::Value(value)))
        };
        match (status.state.state(), status.locator) {
            (TaskState::Pending, _) => Ok(Placed::Here(Input::Pending)),
            (TaskState::Skipped, Locator::Cause(cause)) => Ok(Placed::Here(Input::NoResult(cause))),
            (TaskState::Failed | TaskState::Skipped, _) => Ok(Placed::Here(Input::NoResult(task))),
            (TaskState::Freed, locator) => Ok(Placed::Here(Input::Lost(locator))),
            (TaskState::Done, Locator::Stored { .. }) => here(record),
            (TaskState::Done, Locator::Held { .. } | Locator::Apart { .. }) => {
                let record = HeldRecord::from_bytes(&record)
                    .map_err(|error| Error::Corrupt(format!("result of {task}: {error}")))?;
                let generation = status.state.generation();
                let key = ResultKey { run, task, generation, nonce: record.nonce };
                let Locator::Held { worker, .. } = status.locator else {
                    return Ok(Placed::Apart(status.locator, key, record));
                };
                let want =
                    Want { key, length: record.length, digest: Digest::from_bytes(record.digest) };
                Ok(Placed::At(worker, status.locator, want, record))
            }
            (TaskState::Done, locator) => match locator.value() {
                Some(bytes) => here(bytes),
                None => Ok(Placed::Here(Input::Lost(locator))),
            },
        }
    }

    /// Fetches results that one worker holds. What it does not have any more is lost, and so is all
    /// that a worker had whose record is gone.
    async fn fetch(
        &self,
        worker: WorkerIndex,
        mut wants: Vec<(TaskId, Locator, Want)>,
    ) -> Result<Vec<(TaskId, Input)>, InputError> {
        let mut inputs = Vec::with_capacity(wants.len());
        if worker == self.me {
            for (task, locator, want) in wants {
                let value = self.read_back(&want.key).await;
                if let Some(value) = &value {
                    // A copy that was handed over is found at once from now on.
                    self.values.keep_copy(want.key, value.clone());
                }
                inputs.push((task, value.map_or(Input::Lost(locator), Input::Value)));
            }
            return Ok(inputs);
        }
        let keys: Vec<ResultKey> = wants.iter().map(|(_, _, want)| want.key).collect();
        let _turns = self.gates.enter(&keys).await;
        wants.retain(|(task, _, want)| match self.values.find((want.key.run, *task), None) {
            Some(Found::Value(value)) => {
                inputs.push((*task, Input::Value(value)));
                false
            }
            _ => true,
        });
        for attempt in 1..=FETCH_TRIES {
            if wants.is_empty() {
                return Ok(inputs);
            }
            let Some(record) = self.holders.find(worker).await? else {
                inputs.extend(wants.into_iter().map(|(task, at, _)| (task, Input::Lost(at))));
                return Ok(inputs);
            };
            if attempt == 1 && !self.reach.may_ask(worker) {
                break;
            }
            let began = Instant::now();
            let peer = Peer { addr: record.address, incarnation: record.incarnation };
            let (again, silent) = self.fetch_once(worker, &peer, wants, &mut inputs).await?;
            wants = again;
            if !silent {
                self.reach.answered(worker);
            } else if began.elapsed() >= FETCH_QUICK || attempt == FETCH_TRIES {
                self.reach.failed(worker);
                break;
            }
            if !wants.is_empty() {
                sleep(FETCH_WAIT).await;
            }
        }
        inputs.extend(wants.into_iter().map(|(task, at, _)| (task, Input::Unreached(at))));
        Ok(inputs)
    }

    /// Asks a worker for results once; those that it may give another time, and whether it was
    /// silent.
    async fn fetch_once(
        &self,
        worker: WorkerIndex,
        peer: &Peer,
        wants: Vec<(TaskId, Locator, Want)>,
        inputs: &mut Vec<(TaskId, Input)>,
    ) -> Result<(Vec<(TaskId, Locator, Want)>, bool), InputError> {
        let list = wants.iter().map(|(_, _, want)| want.clone()).collect();
        let fetched = self.fetcher.fetch(peer, list).await;
        let mut again = Vec::new();
        let mut silent = false;
        for ((task, locator, want), result) in wants.into_iter().zip(fetched) {
            match result {
                Ok(bytes) => {
                    self.fetched_bytes.add(bytes.len() as u64);
                    let value = Value { bytes, typed: None };
                    self.values.keep_copy(want.key, value.clone());
                    inputs.push((task, Input::Value(value)));
                }
                Err(error) if error.is_lost() => inputs.push((task, Input::Lost(locator))),
                // Not lost: whoever set up the cluster must act, and another worker may do.
                Err(error @ (FetchError::Auth { .. } | FetchError::Protocol { .. })) => {
                    return Err(InputError::Peer(error));
                }
                Err(error @ FetchError::Exhausted { .. }) => {
                    self.values.held().refused("a connection to a peer", &error);
                    return Err(InputError::Peer(error));
                }
                Err(error) => {
                    tracing::warn!(%task, %worker, %error, "fetch failed");
                    silent |= matches!(error, FetchError::Unreachable { .. });
                    again.push((task, locator, want));
                }
            }
        }
        Ok((again, silent))
    }
}

/// Whether a result that is here is the one that the store names.
pub(crate) fn is_current(values: &Values, key: Key, status: &TaskStatus) -> bool {
    let record = status.record.as_deref().unwrap_or_default();
    match (status.state.state(), status.locator) {
        (TaskState::Pending, _) => false,
        (TaskState::Done, Locator::Held { .. }) => {
            let record = HeldRecord::from_bytes(record).ok();
            record.map(|record| record.nonce) == values.nonce_of(key)
        }
        (TaskState::Done, Locator::Stored { .. }) => values.is_small(key, record),
        (TaskState::Done, locator) => values.is_small(key, &locator.value().unwrap_or_default()),
        _ => true,
    }
}

enum Placed {
    Here(Input),
    At(WorkerIndex, Locator, Want, HeldRecord),
    /// With no worker, but in copies.
    Apart(Locator, ResultKey, HeldRecord),
}
