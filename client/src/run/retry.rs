//! A run that has failed or was cancelled is taken up again, without computing again what has
//! succeeded.

use std::collections::BTreeMap;

use bolthole_broker::descriptor::Chunk;
use bolthole_broker::id::TaskId;
use bolthole_broker::limits::CHUNK_TASKS;
use bolthole_broker::run::{Ready, Revive, Revived};
use bolthole_broker::state::{RunState, StateByte};

use super::{Run, RunInner};
use crate::error::{Error, ErrorKind, Result};
use crate::fetch::gone;

/// Chunks of descriptors to read at once.
const CHUNKS_AT_ONCE: usize = 16;

impl Run {
    /// Takes up a run that has failed or was cancelled: its failed and skipped tasks, whose number
    /// is returned, and those that had not started are run; what has succeeded is not run again,
    /// unless its result is needed and is no longer there. Handles of the run wait again. Repeating
    /// the call after an error is harmless; a run that has succeeded is left as it is.
    ///
    /// The run takes no more calls. It can be taken up 15 times.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] when the run has not ended, [`ErrorKind::Limit`] when a task was run
    /// too often, [`ErrorKind::Gone`] when the run is no longer there.
    pub async fn retry_failed(&self) -> Result<u64> {
        let inner = self.inner();
        let store = &inner.core.store;
        match inner.status().await?.state {
            RunState::Done => return Ok(0),
            RunState::Open | RunState::Closed => return Err(inner.goes_on()),
            RunState::Purging => return Err(gone(inner.id)),
            RunState::Failed | RunState::Cancelled => {}
        }
        if let Ok(writer) = inner.writer() {
            writer.begin_close();
        }
        let mut revived = 0;
        for segment in inner.core.persist_in(|| store.segments(inner.id)).await? {
            revived += inner.revive(segment).await?;
        }
        let state = inner.core.persist_in(|| store.resume(inner.id)).await?;
        state.ok_or_else(|| gone(inner.id))?;
        inner.watch.resume(&inner.core.runtime);
        if let Err(error) = inner.ring().await {
            // Its ready tasks wait until a worker looks after the run.
            tracing::warn!(run = %inner.id, %error, "the run goes on and is not yet rung for");
        }
        Ok(revived)
    }
}

impl RunInner {
    fn goes_on(&self) -> Error {
        let message = format!(
            "run {} has not ended: wait for it or cancel it, then retry what failed",
            self.id
        );
        Error::new(ErrorKind::Conflict, message)
    }

    /// Revives what a segment has of failed and skipped tasks; how many.
    async fn revive(&self, segment: u32) -> Result<u64> {
        let store = &self.core.store;
        let states = self.core.persist_in(|| store.states(self.id, segment)).await?;
        let states = states.unwrap_or_default();
        let lost = (0..=u16::MAX).zip(&states).map(|(index, byte)| (index, StateByte(*byte)));
        let lost: BTreeMap<u16, StateByte> =
            lost.filter(|(_, byte)| byte.state().has_no_result()).collect();
        let indexes: Vec<u16> = lost.keys().copied().collect();
        let mut revived = 0;
        for slice in slices(&indexes) {
            let chunks = self.chunks(segment, slice).await?;
            let tasks = chunks.iter().flat_map(|chunk| &chunk.tasks);
            let revive = tasks.filter_map(|task| {
                let generation = lost.get(&task.id.index())?.generation();
                let (inputs, successors) = (task.inputs.clone(), task.successors.clone());
                Some(Revive { task: task.id, generation, inputs, successors })
            });
            let revive: Vec<Revive> = revive.collect();
            for one in &revive {
                self.watch.unfinish(one.task);
            }
            let answers = self.core.persist_in(|| store.revive(self.id, &revive)).await?;
            for (one, answer) in revive.iter().zip(answers) {
                match answer {
                    Revived::Pending(_) => revived += 1,
                    // Another client takes the run up too.
                    Revived::Stale => {}
                    Revived::NotEnded => return Err(self.goes_on()),
                    Revived::TooOften => return Err(self.too_often(one.task)),
                }
            }
        }
        Ok(revived)
    }

    fn too_often(&self, task: TaskId) -> Error {
        let message = format!(
            "task {task} of run {} was run again too often: submit the graph again",
            self.id
        );
        Error::new(ErrorKind::Limit, message)
    }

    /// The chunks that describe the tasks of these ascending indexes.
    async fn chunks(&self, segment: u32, indexes: &[u16]) -> Result<Vec<Chunk>> {
        let mut places: Vec<(u32, u32)> =
            indexes.iter().map(|index| (segment, u32::from(chunk_of(*index)))).collect();
        places.dedup();
        let store = &self.core.store;
        let chunks = self.core.persist_in(|| store.chunks(self.id, &places)).await?;
        let decoded = chunks.into_iter().map(|bytes| {
            let bytes = bytes.ok_or_else(|| gone(self.id))?;
            Ok(Chunk::decode(&bytes, segment)?)
        });
        decoded.collect()
    }

    /// Rings for everything that is ready.
    async fn ring(&self) -> Result<()> {
        let store = &self.core.store;
        for segment in self.core.persist_in(|| store.segments(self.id)).await? {
            let ready = self.core.persist_in(|| store.ready(self.id, segment)).await?;
            let by_index: BTreeMap<u16, Ready> =
                ready.into_iter().map(|ready| (ready.task.index(), ready)).collect();
            let indexes: Vec<u16> = by_index.keys().copied().collect();
            for slice in slices(&indexes) {
                let mut queues: BTreeMap<String, Vec<Ready>> = BTreeMap::new();
                for chunk in self.chunks(segment, slice).await? {
                    for task in &chunk.tasks {
                        let ready = by_index.get(&task.id.index());
                        if let (Some(ready), Some(class)) = (ready, chunk.class(task)) {
                            let queue = class.options.queue.clone();
                            queues.entry(queue).or_default().push(*ready);
                        }
                    }
                }
                for (queue, ready) in queues {
                    self.core.ring_doubtful(self.id, &queue, &ready).await;
                }
            }
        }
        Ok(())
    }
}

/// The number of the chunk that describes the task of this index.
fn chunk_of(index: u16) -> u16 {
    u16::try_from(usize::from(index) / CHUNK_TASKS).unwrap_or(u16::MAX)
}

/// Ascending indexes in slices of so many chunks at the most.
fn slices(indexes: &[u16]) -> impl Iterator<Item = &[u16]> {
    let slice = |index: &u16| usize::from(chunk_of(*index)) / CHUNKS_AT_ONCE;
    indexes.chunk_by(move |a, b| slice(a) == slice(b))
}
