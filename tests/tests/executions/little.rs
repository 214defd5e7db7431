//! Runs of one small segment.

use std::collections::BTreeMap;

use anyhow::ensure;
use bolthole_broker::clock;
use bolthole_broker::id::{Incarnation, RunId, TaskId};
use bolthole_broker::locator::Locator;
use bolthole_broker::run::{
    Activate, Activated, Commit, Committed, End, Finished, Lost, Open, OutboxId, Ready, Stage,
    TaskStatus,
};
use bolthole_broker::state::{FailurePolicy, PINNED, RunState, TaskState};
use bolthole_broker::store::Store;
use bytes::Bytes;

/// A run, and the inputs of the tasks of its first segment.
#[derive(Debug)]
pub(crate) struct Little<'a> {
    pub(crate) store: &'a Store,
    pub(crate) run: RunId,
    pub(crate) stage: Stage,
    inputs: Vec<Vec<u16>>,
    /// A worker.
    pub(crate) owner: Incarnation,
}

/// A task of the first segment.
pub(crate) fn task(index: u16) -> TaskId {
    TaskId::new(0, index)
}

/// A result that stands beside the task, and differs from others by its byte.
pub(crate) fn stored(byte: u8) -> End {
    let record = Bytes::from(vec![byte; 16]);
    End::Done { locator: Locator::Stored { length: 16 }, record, keep: false }
}

pub(crate) fn failed() -> End {
    End::Failed { error: Bytes::from_static(b"why") }
}

pub(crate) fn open() -> Open {
    Open {
        name: None,
        digest: [1; 32],
        policy: FailurePolicy::Continue,
        header: BTreeMap::new(),
        client_lease_ms: 600_000,
        retention_ms: 600_000,
    }
}

/// Columns of a segment whose tasks have these inputs in it; `pinned` ones have a handle.
pub(crate) fn columns(segment: u32, inputs: &[&[u16]], pinned: &[u16]) -> Stage {
    let mut consumers = vec![0; inputs.len()];
    for input in inputs.iter().copied().flatten() {
        consumers[usize::from(*input)] += 1;
    }
    for pinned in pinned {
        consumers[usize::from(*pinned)] |= PINNED;
    }
    Stage {
        segment,
        digest: [4; 16],
        pending: inputs.iter().map(|inputs| u32::try_from(inputs.len()).unwrap()).collect(),
        consumers,
        chunks: vec![Bytes::from_static(b"chunk"); inputs.len().div_ceil(128)],
    }
}

/// One slice of a segment's edges from earlier ones.
pub(crate) fn slice(segment: u32, cursor: u32, edges: &[(TaskId, u16)], last: bool) -> Activate {
    Activate { segment, digest: [4; 16], cursor, edges: edges.to_vec(), last }
}

impl<'a> Little<'a> {
    /// An open run with one active segment.
    pub(crate) async fn new(
        store: &'a Store,
        inputs: &[&[u16]],
        pinned: &[u16],
    ) -> anyhow::Result<Self> {
        Self::opened(store, &open(), inputs, pinned).await
    }

    pub(crate) async fn opened(
        store: &'a Store,
        open: &Open,
        inputs: &[&[u16]],
        pinned: &[u16],
    ) -> anyhow::Result<Self> {
        let run = clock::new_run_id();
        store.open(run, open).await?;
        let stage = columns(0, inputs, pinned);
        store.stage(run, &stage).await?;
        store.activate(run, &slice(0, 0, &[], true)).await?;
        let inputs = inputs.iter().map(|inputs| inputs.to_vec()).collect();
        Ok(Self { store, run, stage, inputs, owner: clock::new_incarnation() })
    }

    /// A later segment of tasks without inputs in it, but with these from earlier ones.
    pub(crate) async fn append(
        &self,
        segment: u32,
        tasks: usize,
        edges: &[(TaskId, u16)],
    ) -> anyhow::Result<Activated> {
        self.store.stage(self.run, &columns(segment, &vec![&[] as &[u16]; tasks], &[])).await?;
        Ok(self.store.activate(self.run, &slice(segment, 0, edges, true)).await?)
    }

    fn successors(&self, of: u16) -> impl Iterator<Item = TaskId> {
        let all = (0..).zip(&self.inputs);
        all.filter(move |(_, inputs)| inputs.contains(&of)).map(|(index, _)| task(index))
    }

    /// A commit of tasks of the first segment, each with its generation.
    pub(crate) fn commit_of(&self, ends: &[(u16, u8, End)], sequence: u64) -> Commit {
        let (mut releases, mut consumed) = (BTreeMap::new(), BTreeMap::new());
        for (index, ..) in ends {
            self.successors(*index).for_each(|to| *releases.entry(to).or_insert(0) += 1);
            let inputs = &self.inputs[usize::from(*index)];
            for from in inputs {
                *consumed.entry(task(*from)).or_insert(0) += 1;
            }
        }
        let finished = ends.iter().map(|(index, generation, end)| Finished {
            index: *index,
            generation: *generation,
            end: end.clone(),
            lease: None,
        });
        Commit {
            segment: 0,
            finished: finished.collect(),
            releases: releases.into_iter().collect(),
            consumed: consumed.into_iter().collect(),
            outbox: OutboxId { owner: self.owner, sequence },
            settled: vec![],
            spawn: None,
        }
    }

    /// Commits one task; what that made ready.
    pub(crate) async fn finish(
        &self,
        index: u16,
        generation: u8,
        end: End,
    ) -> anyhow::Result<Vec<Ready>> {
        let sequence = u64::from(index) << 8 | u64::from(generation);
        let commit = self.commit_of(&[(index, generation, end)], sequence);
        match self.store.commit(self.run, &commit).await? {
            Committed::Written { ready, .. } => Ok(ready),
            other => anyhow::bail!("{index}: {other:?}"),
        }
    }

    /// A report that a task's result cannot be had from where the store says that it is.
    pub(crate) async fn lost(&self, index: u16) -> anyhow::Result<Lost> {
        let inputs = &self.inputs[usize::from(index)];
        Ok(Lost {
            task: task(index),
            locator: self.status(task(index)).await?.locator,
            inputs: inputs.iter().map(|input| task(*input)).collect(),
            successors: self.successors(index).collect(),
        })
    }

    pub(crate) async fn status(&self, task: TaskId) -> anyhow::Result<TaskStatus> {
        let found = self.store.inspect(self.run, &[task]).await?.pop().flatten();
        found.ok_or_else(|| anyhow::anyhow!("{task} is not known"))
    }

    pub(crate) async fn is(&self, task: TaskId, state: TaskState) -> anyhow::Result<()> {
        let found = self.status(task).await?.state.state();
        ensure!(found == state, "{task} is {found:?}, not {state:?}");
        Ok(())
    }

    pub(crate) async fn state(&self) -> anyhow::Result<Option<RunState>> {
        Ok(self.store.status(self.run).await?.map(|status| status.state))
    }
}
