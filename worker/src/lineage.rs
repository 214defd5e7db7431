//! Results that are lost, and what must be computed again for them: no more than is needed, and all
//! of it found before any of it runs. Found step by step instead, a result that many need would be
//! computed, freed and computed again for one after the other.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use bolthole_broker::handoff::{Fetcher, Peer};
use bolthole_broker::id::{RunId, TaskId, WorkerIndex};
use bolthole_broker::limits;
use bolthole_broker::locator::{HeldRecord, Locator};
use bolthole_broker::run::{Lost, Ready, Rearmed, TaskStatus};
use bolthole_broker::state::{StateByte, TaskState};
use bolthole_broker::store::{Error, Store};

use crate::core::Describe;
use crate::inputs::Holders;
use crate::known::Known;

/// Tasks to make pending again at one time; what lies behind them is found when their turn comes.
const TASKS_MAX: usize = 4_096;

const TOO_OFTEN: &str = "was lost too often";
const EFFECT: &str = "is lost with all who held it, and effects are not run again";

/// What became of lost results.
#[derive(Debug, Default)]
pub(crate) struct Recovered {
    /// Tasks to ring for: pending again, and waiting for nothing.
    pub(crate) ready: Vec<Ready>,
    /// Those whose results cannot be had, and why.
    pub(crate) hopeless: BTreeMap<TaskId, &'static str>,
    /// Those that are somewhere else by now.
    pub(crate) moved: HashSet<TaskId>,
}

/// Finds out what to compute again.
#[derive(Debug)]
pub(crate) struct Lineage {
    pub(crate) store: Store,
    pub(crate) known: Arc<Known>,
    pub(crate) fetcher: Fetcher,
    pub(crate) holders: Holders,
}

impl Lineage {
    /// Makes the tasks of lost results pending again, and with them the tasks of the results they
    /// used that are gone too.
    pub(crate) async fn recover(
        &self,
        run: RunId,
        lost: Vec<(TaskId, Locator)>,
    ) -> Result<Recovered, Error> {
        if lost.is_empty() {
            return Ok(Recovered::default());
        }
        let lost = self.with_the_rest(run, lost).await?;
        let closure = self.closure(run, lost).await?;
        let mut answers = HashMap::with_capacity(closure.len());
        // Descending: a freed input is wanted again once its consumer is pending.
        let requests: Vec<(Lost, Ready)> = closure.into_values().rev().collect();
        for part in requests.chunks(limits::COMMIT_TASKS_MAX) {
            let lost: Vec<Lost> = part.iter().map(|(lost, _)| lost.clone()).collect();
            let rearmed = self.store.rearm(run, &lost).await?;
            answers.extend(lost.iter().map(|lost| lost.task).zip(rearmed));
        }
        let mut recovered = Recovered::default();
        let pending = |task: &TaskId| matches!(answers.get(task), Some(Rearmed::Pending(_)));
        for (lost, ready) in &requests {
            let answer = answers.get(&lost.task);
            tracing::info!(%run, task = %lost.task, ?answer, "a result is lost");
            match answer {
                // Its inputs were made pending after it, and so are not in this count.
                Some(Rearmed::Pending(0)) if !lost.inputs.iter().any(pending) => {
                    recovered.ready.push(*ready);
                }
                Some(Rearmed::TooOften) => drop(recovered.hopeless.insert(lost.task, TOO_OFTEN)),
                Some(Rearmed::Kept) => drop(recovered.hopeless.insert(lost.task, EFFECT)),
                Some(Rearmed::Moved) => drop(recovered.moved.insert(lost.task)),
                _ => {}
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

    /// Those results of a dead holder that are nowhere else.
    async fn without_copies(
        &self,
        run: RunId,
        held: Vec<(TaskId, Locator)>,
    ) -> Result<Vec<(TaskId, Locator)>, Error> {
        let tasks: Vec<TaskId> = held.iter().map(|(task, _)| *task).collect();
        let statuses = self.store.inspect(run, &tasks).await?;
        let alone = held.into_iter().zip(statuses);
        let alone = alone.filter(|(_, status)| !status.as_ref().is_some_and(has_copies));
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
            self.known.load(run, &open).await?;
            let statuses = self.store.inspect(run, &open).await?;
            let mut behind = BTreeSet::new();
            for (task, status) in open.into_iter().zip(statuses) {
                let Some(info) = self.known.describe(run, task) else { continue };
                let Some(status) = status else { continue };
                let locator = match followed.get(&task) {
                    Some(locator) => *locator,
                    None if self.is_gone(&status, &mut dead).await? => status.locator,
                    None => continue,
                };
                let forwarded = forwarded_to(status.state, status.record.as_deref());
                let descriptor = info.descriptor();
                let inputs = forwarded.map_or_else(|| descriptor.inputs.clone(), |to| vec![to]);
                behind.extend(inputs.iter().copied());
                let generation = status.state.generation() + 1;
                let successors = descriptor.successors.clone();
                let lost = Lost { task, locator, inputs, successors };
                closure.insert(task, (lost, Ready { task, generation, forwarded }));
            }
            open = behind.into_iter().filter(|task| !closure.contains_key(task)).collect();
        }
        Ok(closure)
    }

    /// Whether a worker is no more: it has no record, or its port refuses, or somebody else answers.
    async fn is_dead(&self, worker: WorkerIndex) -> Result<bool, Error> {
        let Some(record) = self.holders.find(worker).await? else { return Ok(true) };
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

/// The task that a forwarded one waits for.
pub(crate) fn forwarded_to(state: StateByte, record: Option<&[u8]>) -> Option<TaskId> {
    let record = record.filter(|_| state.is_forwarded())?;
    let mut bits = [0; 8];
    bits[2..].copy_from_slice(record.get(..6)?);
    TaskId::from_bits(u64::from_be_bytes(bits))
}
