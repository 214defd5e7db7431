//! Results that are lost, and what must be computed again for them: no more than is needed, and all
//! of it found before any of it runs. Found step by step instead, a result that many need would be
//! computed, freed and computed again for one after the other.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::Future;

use crate::handoff::{Fetcher, Peer};
use crate::id::{RunId, TaskId, WorkerIndex};
use crate::limits;
use crate::locator::{HeldRecord, Locator};
use crate::run::{Lost, Ready, Rearmed, TaskStatus};
use crate::state::TaskState;
use crate::store::{Error, Store, WorkerRecord};

/// Tasks to make pending again at one time; what lies behind them is found when their turn comes.
const TASKS_MAX: usize = 4_096;

/// Generations up to which a result is computed again although nobody has missed it yet. Where
/// workers die one after the other, the rest is kept for when it is missed.
const TAKEN_ALONG_MAX: u8 = limits::RECOMPUTE_MAX / 2;

/// What a task is connected to, as its descriptor says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edges {
    /// The tasks whose results it uses.
    pub inputs: Vec<TaskId>,
    /// The tasks of its segment that use its result.
    pub successors: Vec<TaskId>,
}

/// What whoever has lost results knows, or finds out in a way of its own.
pub trait Facts: Sync {
    /// The record of a worker; `None` when it is no more, and what it held with it.
    ///
    /// # Errors
    /// Those of the store.
    fn holder(
        &self,
        worker: WorkerIndex,
    ) -> impl Future<Output = Result<Option<WorkerRecord>, Error>> + Send;

    /// The edges of those of the tasks that the store has descriptors of.
    ///
    /// # Errors
    /// Those of the store.
    fn edges(
        &self,
        run: RunId,
        tasks: &[TaskId],
    ) -> impl Future<Output = Result<HashMap<TaskId, Edges>, Error>> + Send;
}

/// What became of lost results.
#[derive(Debug, Default)]
pub struct Recovered {
    /// Tasks to ring for: pending again, and waiting for nothing.
    pub ready: Vec<Ready>,
    /// What the store said of each task that was asked for, and of those behind them. One that the
    /// store does not know is missing.
    pub answers: HashMap<TaskId, Rearmed>,
}

impl Recovered {
    /// Why the result of a task cannot be had, if it cannot.
    pub fn hopeless(&self, task: TaskId) -> Option<&'static str> {
        match self.answers.get(&task) {
            Some(Rearmed::TooOften) => Some("was lost too often"),
            Some(Rearmed::Kept) => {
                Some("is lost with all who held it, and effects are not run again")
            }
            _ => None,
        }
    }

    /// Whether the result is somewhere else by now.
    pub fn is_moved(&self, task: TaskId) -> bool {
        matches!(self.answers.get(&task), Some(Rearmed::Moved))
    }
}

/// Finds out what to compute again.
#[derive(Debug, Clone, Copy)]
pub struct Lineage<'a, F> {
    /// Where tasks are made pending again.
    pub store: &'a Store,
    /// How holders are asked whether they live.
    pub fetcher: &'a Fetcher,
    /// What is known besides.
    pub facts: &'a F,
}

impl<F: Facts> Lineage<'_, F> {
    /// Makes the tasks of lost results pending again, and with them the tasks of the results they
    /// used that are gone too. What it was in the middle of when it failed may be asked for again:
    /// what is pending by then answers that it is.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn recover(
        &self,
        run: RunId,
        lost: Vec<(TaskId, Locator)>,
    ) -> Result<Recovered, Error> {
        if lost.is_empty() {
            return Ok(Recovered::default());
        }
        let lost = self.with_the_rest(run, lost).await?;
        let closure = self.closure(run, lost).await?;
        let mut recovered = Recovered::default();
        // Descending: a freed input is wanted again once its consumer is pending.
        let requests: Vec<(Lost, Ready)> = closure.into_values().rev().collect();
        for part in requests.chunks(limits::COMMIT_TASKS_MAX) {
            let lost: Vec<Lost> = part.iter().map(|(lost, _)| lost.clone()).collect();
            let rearmed = self.store.rearm(run, &lost).await?;
            recovered.answers.extend(lost.iter().map(|lost| lost.task).zip(rearmed));
        }
        let answers = &recovered.answers;
        let pending = |task: &TaskId| matches!(answers.get(task), Some(Rearmed::Pending(_)));
        for (lost, ready) in &requests {
            let answer = answers.get(&lost.task);
            tracing::info!(%run, task = %lost.task, ?answer, "a result is lost");
            // Its inputs were made pending after it, and so are not in this count.
            if answer == Some(&Rearmed::Pending(0)) && !lost.inputs.iter().any(pending) {
                recovered.ready.push(*ready);
            }
        }
        Ok(recovered)
    }

    /// Adds what else the dead holders of lost results have taken along: it would be missed next,
    /// and then what both were computed from would be computed twice.
    async fn with_the_rest(
        &self,
        run: RunId,
        mut lost: Vec<(TaskId, Locator)>,
    ) -> Result<Vec<(TaskId, Locator)>, Error> {
        let mut holders: Vec<WorkerIndex> = lost
            .iter()
            .filter_map(|(_, locator)| match locator {
                Locator::Held { worker, .. } => Some(*worker),
                _ => None,
            })
            .collect();
        holders.sort_unstable();
        holders.dedup();
        for holder in holders {
            if !self.is_dead(holder).await? {
                continue;
            }
            for segment in self.store.segments(run).await? {
                let held = self.store.held_by(run, segment, holder).await?;
                lost.extend(self.without_copies(run, held).await?);
                if lost.len() >= TASKS_MAX {
                    break;
                }
            }
        }
        Ok(lost)
    }

    /// Those results of a dead holder that are nowhere else, and that were not computed again so
    /// often that they should be asked for first.
    async fn without_copies(
        &self,
        run: RunId,
        held: Vec<(TaskId, Locator)>,
    ) -> Result<Vec<(TaskId, Locator)>, Error> {
        let tasks: Vec<TaskId> = held.iter().map(|(task, _)| *task).collect();
        let statuses = self.store.inspect(run, &tasks).await?;
        let alone = held.into_iter().zip(statuses);
        let spared = |status: &TaskStatus| {
            has_copies(status) || status.state.generation() >= TAKEN_ALONG_MAX
        };
        let alone = alone.filter(|(_, status)| !status.as_ref().is_some_and(spared));
        Ok(alone.map(|(held, _)| held).collect())
    }

    /// The lost results, and of what they were computed from all that is gone.
    async fn closure(
        &self,
        run: RunId,
        lost: Vec<(TaskId, Locator)>,
    ) -> Result<BTreeMap<TaskId, (Lost, Ready)>, Error> {
        let mut closure = BTreeMap::new();
        let mut dead: HashMap<WorkerIndex, bool> = HashMap::new();
        let followed: BTreeMap<TaskId, Locator> = lost.into_iter().collect();
        let mut open: Vec<TaskId> = followed.keys().copied().collect();
        while !open.is_empty() && closure.len() < TASKS_MAX {
            let mut edges = self.facts.edges(run, &open).await?;
            let statuses = self.store.inspect(run, &open).await?;
            let mut behind = BTreeSet::new();
            for (task, status) in open.into_iter().zip(statuses) {
                let (Some(edges), Some(status)) = (edges.remove(&task), status) else { continue };
                let locator = match followed.get(&task) {
                    Some(locator) => *locator,
                    None if self.is_gone(&status, &mut dead).await? => status.locator,
                    None => continue,
                };
                let forwarded = status.forwarded();
                let inputs = forwarded.map_or(edges.inputs, |to| vec![to]);
                behind.extend(inputs.iter().copied());
                let generation = status.state.generation() + 1;
                let lost = Lost { task, locator, inputs, successors: edges.successors };
                closure.insert(task, (lost, Ready { task, generation, forwarded }));
            }
            open = behind.into_iter().filter(|task| !closure.contains_key(task)).collect();
        }
        Ok(closure)
    }

    /// Whether a worker is no more: it has no record, or its port refuses, or somebody else answers.
    async fn is_dead(&self, worker: WorkerIndex) -> Result<bool, Error> {
        let Some(record) = self.facts.holder(worker).await? else { return Ok(true) };
        if record.address.is_empty() {
            return Ok(false);
        }
        let peer = Peer { addr: record.address, incarnation: record.incarnation };
        Ok(self.fetcher.probe(&peer).await.is_err_and(|error| error.is_lost()))
    }

    /// Whether a result is freed, or held by a worker that is no more.
    async fn is_gone(
        &self,
        status: &TaskStatus,
        dead: &mut HashMap<WorkerIndex, bool>,
    ) -> Result<bool, Error> {
        match (status.state.state(), status.locator) {
            (TaskState::Freed, _) => Ok(true),
            (TaskState::Done, Locator::Held { .. }) if has_copies(status) => Ok(false),
            (TaskState::Done, Locator::Held { worker, .. }) => {
                if let Some(known) = dead.get(&worker) {
                    return Ok(*known);
                }
                let gone = self.is_dead(worker).await?;
                dead.insert(worker, gone);
                Ok(gone)
            }
            _ => Ok(false),
        }
    }
}

/// Whether a held result is somewhere else too. When it turns out not to be, whoever looked for it
/// says so.
fn has_copies(status: &TaskStatus) -> bool {
    let record = status.record.as_deref().map(HeldRecord::from_bytes);
    matches!(record, Some(Ok(record)) if !record.copies.is_empty())
}
