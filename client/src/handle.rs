//! A handle to a task that is already part of a run.

use std::fmt;
use std::marker::PhantomData;

use bolthole_broker::id::{RunId, TaskId};

/// A submitted call: names its task in its run and may be an argument of later calls there.
pub struct Handle<T> {
    run: RunId,
    task: TaskId,
    /// A handle owns no `T`: it is `Send` and `Sync` whatever `T` is.
    value: PhantomData<fn() -> T>,
}

impl<T> Handle<T> {
    /// The handle of a task of which the caller knows that its result is a `T`: a worker that
    /// decodes something else says so.
    pub fn new(run: RunId, task: TaskId) -> Self {
        Self { run, task, value: PhantomData }
    }

    /// The run.
    pub fn run(&self) -> RunId {
        self.run
    }

    /// The task.
    pub fn task(&self) -> TaskId {
        self.task
    }
}

impl<T> fmt::Debug for Handle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Handle({}, {})", self.run, self.task)
    }
}
