//! Results in the order in which they come.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bolthole_broker::id::TaskId;
use bolthole_broker::limits::INSPECT_TASKS_MAX;
use futures_util::Stream;
use futures_util::future::select_all;
use serde::de::DeserializeOwned;

use crate::core::Core;
use crate::error::Result;
use crate::handle::{Handle, decode};
use crate::run::RunInner;
use crate::watch::{Bits, Interest, Watch};

/// Handles with their results, one after the other as their tasks finish; those that have finished
/// already come first.
///
/// Costs a bit for each task beside the handle. Dropping a handle that it yields gives the result
/// up.
pub struct AsCompleted<T> {
    runs: Vec<OfRun<T>>,
    /// Results that were read together with one that was yielded.
    ready: VecDeque<(Handle<T>, Result<T>)>,
}

/// The handles of one run.
struct OfRun<T> {
    run: Arc<RunInner>,
    /// By task. What was yielded has left a handle behind that keeps nothing.
    handles: Vec<Handle<T>>,
    /// The run as seen by those.
    left_behind: Arc<RunInner>,
    wanted: BTreeMap<u32, Bits>,
    /// Finished, and about to be read.
    reading: Vec<TaskId>,
    _interest: Interest,
}

impl<T> AsCompleted<T> {
    pub(crate) fn new(handles: impl IntoIterator<Item = Handle<T>>) -> Self {
        let mut handles: Vec<Handle<T>> = handles.into_iter().collect();
        handles.sort_unstable_by_key(|handle| (handle.run(), handle.task()));
        let mut runs = Vec::new();
        while let Some(last) = handles.last() {
            let run = last.run();
            // Mostly there is one run, and nothing is moved.
            let start = handles.partition_point(|handle| handle.run() < run);
            let of_run =
                if start == 0 { std::mem::take(&mut handles) } else { handles.split_off(start) };
            runs.extend(OfRun::new(of_run));
        }
        Self { runs, ready: VecDeque::new() }
    }
}

impl<T> AsCompleted<T> {
    /// The client, unless there is no handle.
    pub(crate) fn core(&self) -> Option<Arc<Core>> {
        self.runs.first().map(|run| Arc::clone(&run.run.core))
    }
}

impl<T> OfRun<T> {
    fn new(handles: Vec<Handle<T>>) -> Option<Self> {
        let run = Arc::clone(handles.first()?.inner());
        let mut wanted: BTreeMap<u32, Bits> = BTreeMap::new();
        for handle in &handles {
            wanted.entry(handle.task().segment()).or_default().set(handle.task().index());
        }
        run.hurry();
        let interest = run.watch.follow(&run.core.runtime);
        let watch = Arc::clone(&run.watch);
        let left_behind = RunInner::new(&run.core, run.id, None, watch, None, None);
        Some(Self { run, handles, left_behind, wanted, reading: Vec::new(), _interest: interest })
    }

    /// Notes what is to be read next, if anything is.
    fn look(&mut self) -> bool {
        if self.reading.is_empty() {
            let over = self.run.watch.over().is_some();
            self.reading = self.run.watch.take_finished(&mut self.wanted, INSPECT_TASKS_MAX);
            if self.reading.is_empty() && over {
                // Nothing more will finish: reading says why.
                self.reading = take_any(&mut self.wanted, INSPECT_TASKS_MAX);
            }
        }
        !self.reading.is_empty()
    }

    /// The handles of a task.
    fn take(&mut self, task: TaskId) -> Vec<Handle<T>> {
        let start = self.handles.partition_point(|handle| handle.task() < task);
        let of_task = self.handles[start..].iter_mut().take_while(|handle| handle.task() == task);
        of_task
            .map(|handle| {
                std::mem::replace(handle, Handle::new(Arc::clone(&self.left_behind), task))
            })
            .collect()
    }
}

impl<T: DeserializeOwned> AsCompleted<T> {
    /// The next handle whose task has finished, with its result; `None` after the last. Can be
    /// cancelled without losing a result.
    pub async fn next(&mut self) -> Option<(Handle<T>, Result<T>)> {
        loop {
            if let Some(next) = self.ready.pop_front() {
                return Some(next);
            }
            if self.runs.is_empty() {
                return None;
            }
            let watches: Vec<Arc<Watch>> =
                self.runs.iter().map(|run| Arc::clone(&run.run.watch)).collect();
            let changes = watches.iter().map(|watch| {
                let mut changed = Box::pin(watch.any_changed());
                changed.as_mut().enable();
                changed
            });
            let changes: Vec<_> = changes.collect();
            if !self.read().await {
                select_all(changes).await;
            }
        }
    }

    /// The same as a stream.
    pub fn into_stream(self) -> impl Stream<Item = (Handle<T>, Result<T>)> {
        futures_util::stream::unfold(self, |mut rest| async {
            let next = rest.next().await?;
            Some((next, rest))
        })
    }

    /// Reads results of tasks that have finished; whether there were any.
    async fn read(&mut self) -> bool {
        let mut any = false;
        for run in &mut self.runs {
            if !run.look() {
                continue;
            }
            any = true;
            let results = run.run.values(&run.reading).await;
            for (task, result) in std::mem::take(&mut run.reading).into_iter().zip(results) {
                for handle in run.take(task) {
                    let value = result.clone().and_then(|bytes| decode(task, &bytes));
                    self.ready.push_back((handle, value));
                }
            }
        }
        self.runs.retain(|run| !run.wanted.is_empty() || !run.reading.is_empty());
        any
    }
}

/// Takes up to `max` tasks out of a set.
fn take_any(wanted: &mut BTreeMap<u32, Bits>, max: usize) -> Vec<TaskId> {
    let mut taken = Vec::new();
    for (segment, bits) in wanted.iter_mut() {
        let all = bits.clone();
        let indexes = bits.take_common(&all, max - taken.len());
        taken.extend(indexes.into_iter().map(|index| TaskId::new(*segment, index)));
    }
    wanted.retain(|_, bits| !bits.is_empty());
    taken
}
