//! A call that has not run: a node of the graph that the program's loops build.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use bolthole_broker::args::{Arg, BlobDigest, EncodeError};
use bolthole_broker::id::{RunId, TaskId};
use bolthole_broker::registry::TaskEntry;
use bolthole_broker::task::Backoff;
use bytes::Bytes;

use crate::options::{CallOptions, When};

/// The result that a task will have. Made by `task_function::delayed(..)`; an argument of other
/// calls wherever a `T` is expected. Cloning it names the same call again: that call runs once in
/// a graph, however often it is used.
pub struct Delayed<T> {
    pub(crate) node: Arc<CallNode>,
    /// A call owns no `T`: it is `Send` and `Sync` whatever `T` is.
    value: PhantomData<fn() -> T>,
}

/// One captured call. Small, for there may be millions: what most calls do not have is boxed.
#[derive(Clone)]
#[doc(hidden)]
pub struct CallNode {
    pub(crate) entry: &'static TaskEntry,
    /// The calls whose results it uses, each once.
    pub(crate) inputs: Box<[Arc<CallNode>]>,
    pub(crate) args: Box<[Arg]>,
    pub(crate) extras: Option<Box<Extras>>,
}

/// What most calls do not have.
#[derive(Clone, Default)]
pub(crate) struct Extras {
    pub(crate) options: CallOptions,
    /// Inputs that are tasks of a run already.
    pub(crate) earlier: Vec<(RunId, TaskId)>,
    pub(crate) blobs: Vec<(BlobDigest, Bytes)>,
    /// The number of the first argument that could not be encoded, and why.
    pub(crate) error: Option<(usize, EncodeError)>,
}

impl Drop for CallNode {
    /// Takes the inputs apart in a loop: a chain of a million calls would overflow the stack.
    fn drop(&mut self) {
        let mut last_owned = std::mem::take(&mut self.inputs).into_vec();
        while let Some(input) = last_owned.pop() {
            if let Some(mut node) = Arc::into_inner(input) {
                last_owned.extend(std::mem::take(&mut node.inputs).into_vec());
            }
        }
    }
}

/// A [`Delayed`] of any type.
pub trait AnyDelayed: sealed::Sealed {
    #[doc(hidden)]
    fn node(&self) -> &Arc<CallNode>;
}

mod sealed {
    pub trait Sealed {}
    impl<T> Sealed for super::Delayed<T> {}
}

impl<T> AnyDelayed for Delayed<T> {
    fn node(&self) -> &Arc<CallNode> {
        &self.node
    }
}

impl<T> Delayed<T> {
    pub(crate) fn new(node: CallNode) -> Self {
        Self { node: Arc::new(node), value: PhantomData }
    }

    /// The registered name of its task.
    pub fn task(&self) -> &'static str {
        self.node.entry.name
    }
}

/// Options of this call, in place of those of the task's attribute. Give them where the call is
/// made: once it was cloned or used as an argument, what these return is another call.
impl<T> Delayed<T> {
    /// Shown in place of the function's name.
    #[must_use]
    pub fn name(self, name: impl Into<String>) -> Self {
        self.with(|options| options.name = Some(name.into()))
    }

    /// Attempts after the first that fails with an error of the task's own.
    #[must_use]
    pub fn retries(self, retries: u32) -> Self {
        self.with(|options| options.retries = Some(retries))
    }

    /// The waits between attempts: `first`, doubled each time up to `max`.
    #[must_use]
    pub fn backoff(self, first: Duration, max: Duration) -> Self {
        self.with(|options| options.backoff = Some(Backoff { first, max }))
    }

    /// The longest that one attempt may run.
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> Self {
        self.with(|options| options.timeout = Some(timeout))
    }

    /// Runs it in a process of its own, which a time limit or a cancellation kills and which it can
    /// bring down without harm to others.
    #[must_use]
    pub fn isolated(self) -> Self {
        self.with(|options| options.isolated = true)
    }

    /// The queue whose workers run it.
    #[must_use]
    pub fn queue(self, queue: impl Into<String>) -> Self {
        self.with(|options| options.queue = Some(queue.into()))
    }

    /// Higher runs first among what is ready.
    #[must_use]
    pub fn priority(self, priority: i8) -> Self {
        self.with(|options| options.priority = Some(priority))
    }

    /// An amount of a named resource that a worker must have free to run it. The task asks for the
    /// numbers of its units with [`Ctx::resource`](crate::Ctx::resource): for `resource("gpu", 1)` the
    /// one GPU that it has to itself.
    #[must_use]
    pub fn resource(self, name: impl Into<String>, amount: u32) -> Self {
        self.with(|options| _ = options.resources.insert(name.into(), amount))
    }

    /// How many calls of the function may run at once, whoever made them, in all workers of the
    /// namespace together; at least one. What may not run yet waits at a worker without a slot, and
    /// holds others of its queue up when there is much of it: give it a queue of its own then. A worker
    /// that is killed keeps its share until its lease has run out, and one that was cut off for longer
    /// than that may run one call too many. Where calls of one function differ, each begins only while
    /// fewer run than it allows itself.
    #[must_use]
    pub fn concurrency(self, most: u32) -> Self {
        self.with(|options| options.concurrency = Some(most.max(1)))
    }

    /// Not to be started earlier: a duration from the submission, or a `SystemTime`.
    #[must_use]
    pub fn not_before(self, when: impl Into<When>) -> Self {
        self.with(|options| options.not_before = Some(when.into()))
    }

    /// Not to be started later: a duration from the submission, or a `SystemTime`.
    #[must_use]
    pub fn expires(self, when: impl Into<When>) -> Self {
        self.with(|options| options.expires = Some(when.into()))
    }

    fn with(mut self, change: impl FnOnce(&mut CallOptions)) -> Self {
        let node = Arc::make_mut(&mut self.node);
        change(&mut node.extras.get_or_insert_default().options);
        self
    }
}

impl<T> Clone for Delayed<T> {
    fn clone(&self) -> Self {
        Self { node: Arc::clone(&self.node), value: PhantomData }
    }
}

impl<T> fmt::Debug for Delayed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Delayed({})", self.node.entry.name)
    }
}
