//! What becomes of tasks whose inputs are not all here.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use bolthole_broker::descriptor::Descriptor;
use bolthole_broker::error::TaskErrorKind;
use bolthole_broker::id::{RunId, TaskId, WorkerIndex};
use bolthole_broker::lineage::{Edges, Facts, Recovered};
use bolthole_broker::locator::Locator;
use bolthole_broker::run::Ready;
use bolthole_broker::store::{Error, WorkerRecord};

use super::{Preparer, Waiting};
use crate::flight::{Prepared, TaskInfo};
use crate::inputs::Input;

impl Facts for Preparer {
    async fn holder(&self, worker: WorkerIndex) -> Result<Option<WorkerRecord>, Error> {
        self.inputs.holders.find(worker).await
    }

    async fn edges(&self, run: RunId, tasks: &[TaskId]) -> Result<HashMap<TaskId, Edges>, Error> {
        self.known.load(run, tasks).await?;
        let edges = |task: &TaskId| {
            let info = self.known.describe(run, *task)?;
            let Descriptor { inputs, successors, .. } = info.descriptor();
            let (inputs, successors) = (inputs.clone(), successors.clone());
            Some((*task, Edges { inputs, successors }))
        };
        Ok(tasks.iter().filter_map(edges).collect())
    }
}

impl Preparer {
    /// Of the tasks with inputs that cannot be reached from here, those that are handed back, and for
    /// how long; the holders are asked for relays. What was waited for in this way for long enough
    /// is lost from now on.
    pub(super) async fn hand_back(
        &self,
        run: RunId,
        waiting: &[Waiting],
        inputs: &mut HashMap<TaskId, Input>,
    ) -> BTreeMap<TaskId, Duration> {
        let mut waits = BTreeMap::new();
        for Waiting { ready, info, .. } in waiting {
            let of_task = info.inputs(ready);
            let unreached =
                |input: &&TaskId| matches!(inputs.get(input), Some(Input::Unreached(_)));
            let unreached: Vec<TaskId> = of_task.iter().filter(unreached).copied().collect();
            if unreached.is_empty() || is_skipped(of_task, inputs) {
                continue;
            }
            if let Some(wait) = self.inputs.reach.hand_back((run, ready.task)) {
                waits.insert(ready.task, wait);
                continue;
            }
            for input in unreached {
                if let Some(Input::Unreached(locator)) = inputs.get(&input).cloned() {
                    tracing::warn!(%run, task = %input, "it cannot be reached: computed again");
                    inputs.insert(input, Input::Lost(locator));
                }
            }
        }
        let mut wanted: BTreeMap<WorkerIndex, BTreeSet<TaskId>> = BTreeMap::new();
        let waits_too = |one: &&Waiting| waits.contains_key(&one.ready.task);
        for Waiting { ready, info, .. } in waiting.iter().filter(waits_too) {
            for input in info.inputs(ready) {
                if let Some(Input::Unreached(Locator::Held { worker, .. })) = inputs.get(input) {
                    wanted.entry(*worker).or_default().insert(*input);
                }
            }
        }
        for (holder, tasks) in wanted {
            let tasks: Vec<TaskId> = tasks.into_iter().collect();
            self.inputs.reach.ask(run, holder, &tasks).await;
        }
        waits
    }
}

/// Whether a task with these inputs is skipped, whatever becomes of the others.
fn is_skipped(of_task: &[TaskId], inputs: &HashMap<TaskId, Input>) -> bool {
    of_task.iter().any(|input| matches!(inputs.get(input), Some(Input::NoResult(_))))
}

/// The lost inputs of those tasks that will run: one that is skipped needs none of its inputs.
pub(super) fn lost_of(
    waiting: &[Waiting],
    inputs: &HashMap<TaskId, Input>,
) -> Vec<(TaskId, Locator)> {
    let all = waiting.iter().map(|one| one.info.inputs(&one.ready));
    let needed = all.filter(|all| !is_skipped(all, inputs)).flatten();
    let lost = needed.filter_map(|task| match inputs.get(task) {
        Some(Input::Lost(locator)) => Some((*task, *locator)),
        _ => None,
    });
    lost.collect()
}

/// What becomes of a task one of whose inputs is not here; `None` when all are. The first task that
/// waits for lost results takes `rearmed` along, to ring for them; one that is handed back does so
/// after `wait`.
pub(super) fn without_inputs(
    ready: Ready,
    info: &TaskInfo,
    inputs: &HashMap<TaskId, Input>,
    wait: Option<Duration>,
    recovered: &Recovered,
    rearmed: &mut Vec<Ready>,
) -> Option<Prepared> {
    let info = info.clone();
    let mut missing = false;
    let (mut moved, mut unreached) = (false, false);
    for input in info.inputs(&ready) {
        match inputs.get(input) {
            Some(Input::Value(_)) => {}
            Some(Input::NoResult(cause)) => {
                return Some(Prepared::Skip { ready, info: info.clone(), cause: *cause });
            }
            Some(Input::Lost(_)) => {
                if let Some(why) = recovered.hopeless(*input) {
                    let message = format!("the result of {input} {why}");
                    let kind = TaskErrorKind::DataLost;
                    return Some(Prepared::Fail { ready, info, attempt: 1, kind, message });
                }
                missing = true;
                moved |= recovered.is_moved(*input);
            }
            Some(Input::Unreached(_)) => unreached = true,
            Some(Input::Pending) | None => missing = true,
        }
    }
    let mut ring = std::mem::take(rearmed);
    // Where it has moved is found out when this task is rung for again.
    ring.extend(moved.then_some(ready));
    if missing {
        return Some(Prepared::Drop { rearmed: ring });
    }
    *rearmed = ring;
    let wait = wait.filter(|_| unreached)?;
    Some(Prepared::Later { ready, info, wait })
}
