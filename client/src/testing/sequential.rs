//! Running a graph here, one call after the other, in the order in which it was captured: for unit
//! tests of programs that use tasks, and the oracle that every other way to run a graph must agree
//! with. Arguments and results are encoded and decoded as on the way to a worker.
//!
//! Waits between attempts are left out, and so are times, time limits, queues and resources.
//!
//! ```
//! use bolthole::testing::Sequential;
//! use bolthole::{Delayed, task};
//!
//! #[task]
//! fn length(line: &str) -> usize {
//!     line.len()
//! }
//!
//! #[task(retries = 3, backoff = "1s..1m")]
//! fn longest(lengths: &[usize]) -> Result<usize, String> {
//!     lengths.iter().copied().max().ok_or_else(|| "there are no lines".to_owned())
//! }
//!
//! let lengths: Vec<Delayed<usize>> = ["a", "graph"].iter().map(length::delayed).collect();
//! let longest = longest::delayed(lengths);
//! assert_eq!(Sequential::new().compute(&longest).unwrap(), 5);
//! ```

use std::any::{Any, TypeId};
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::iter::once;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bolthole_broker::call::{Call, Ctx, Failure, Outcome, States, Value};
use bolthole_broker::clock;
use bolthole_broker::graph::{Captured, Node};
use bolthole_broker::id::{RunId, TaskId};
use bolthole_broker::registry::{Body, DuplicateTask, Registry};
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use crate::capture::{CaptureError, capture};
use crate::delayed::Delayed;

/// Why a call of a graph has no result.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum SequentialError {
    /// The calls make no graph.
    #[error("the calls make no graph")]
    Capture(#[from] CaptureError),
    /// Two tasks of this program have one name.
    #[error(transparent)]
    Duplicate(#[from] DuplicateTask),
    /// The graph has a task that is not part of this program.
    #[error("no task of this program is named {task:?}; link the crate that has it")]
    UnknownTask {
        /// The name.
        task: String,
    },
    /// A task failed with an error of its own.
    #[error("{task} failed: {}", failure.chain.join(": "))]
    Failed {
        /// The task's registered name.
        task: String,
        /// Its last error.
        failure: Failure,
    },
    /// A task panicked.
    #[error("{task} panicked: {message}")]
    Panicked {
        /// The task's registered name.
        task: String,
        /// What it said.
        message: String,
    },
    /// The arguments do not fit the task, or its result cannot be encoded or decoded.
    #[error("{task}: {reason}")]
    Unusable {
        /// The task's registered name.
        task: String,
        /// Why.
        reason: String,
    },
    /// A call was not run, since something it needs has no result.
    #[error("{task} was skipped: {cause}")]
    Skipped {
        /// The task's registered name.
        task: String,
        /// The failure that came first.
        cause: Arc<SequentialError>,
    },
    /// This machine gives no thread or no event loop.
    #[error("cannot start a runtime: {0}")]
    Runtime(String),
}

type CallResult = Result<Value, Arc<SequentialError>>;

/// Runs graphs with given worker values and a given header.
#[derive(Default)]
pub struct Sequential {
    states: States,
    header: BTreeMap<String, String>,
    /// Whether waits take no real time.
    #[cfg(feature = "testing")]
    paused: bool,
}

/// Runs `graph`; one result for each output.
pub fn run_sequential(graph: &Captured) -> Vec<Result<Value, SequentialError>> {
    Sequential::default().run(graph)
}

impl Sequential {
    /// Without worker values, with an empty header.
    pub fn new() -> Self {
        Self::default()
    }

    /// Keeps `value` for parameters of type `State<S>`.
    #[must_use]
    pub fn state<S: Any + Send + Sync>(mut self, value: S) -> Self {
        self.states.insert(TypeId::of::<S>(), Arc::new(value));
        self
    }

    /// Adds an entry to the run's header.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.header.insert(name.into(), value.into());
        self
    }

    /// Waits in tasks take no real time. For tasks that talk to nobody: an answer from outside would
    /// always come too late.
    #[cfg(feature = "testing")]
    #[must_use]
    pub fn virtual_time(mut self) -> Self {
        self.paused = true;
        self
    }

    /// Runs what `output` needs, and decodes its result.
    pub fn compute<T: DeserializeOwned>(self, output: &Delayed<T>) -> Result<T, SequentialError> {
        let graph = capture(&[output])?;
        let value = self.run(&graph).pop().unwrap_or_else(|| {
            Err(SequentialError::Runtime("a graph of one output has one result".into()))
        })?;
        rmp_serde::from_slice(&value.bytes).map_err(|error| SequentialError::Unusable {
            task: output.task().to_owned(),
            reason: format!("the result is no {}: {error}", std::any::type_name::<T>()),
        })
    }

    /// Runs `graph`, then what its tasks have submitted; one result for each output. Takes a
    /// thread of its own, so that it can be called from anywhere.
    pub fn run(self, graph: &Captured) -> Vec<Result<Value, SequentialError>> {
        let outputs = graph.outputs.len();
        let ran = std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("bolthole-sequential".into());
            let ran = thread.spawn_scoped(scope, || self.execute(graph));
            let ran = ran.map_err(|error| SequentialError::Runtime(error.to_string()))?;
            ran.join().map_err(|panic| SequentialError::Runtime(panic_message(&*panic)))?
        });
        match ran {
            Ok(results) => {
                let own = |error: Arc<SequentialError>| Arc::unwrap_or_clone(error);
                results.into_iter().map(|result| result.map_err(own)).collect()
            }
            Err(error) => vec![Err(error); outputs],
        }
    }

    fn execute(self, graph: &Captured) -> Result<Vec<CallResult>, SequentialError> {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_all();
        #[cfg(feature = "testing")]
        runtime.start_paused(self.paused);
        let runtime =
            runtime.build().map_err(|error| SequentialError::Runtime(error.to_string()))?;
        let mut execution = Execution {
            registry: Registry::linked()?,
            states: Arc::new(self.states),
            header: Arc::new(self.header),
            run: clock::new_run_id(),
            runtime,
            started: 0,
            submitted: VecDeque::new(),
        };
        let results = execution.graph(graph);
        while let Some(submitted) = execution.submitted.pop_front() {
            execution.graph(&submitted);
        }
        Ok(results)
    }
}

/// One run.
struct Execution {
    registry: Registry,
    states: Arc<States>,
    header: Arc<BTreeMap<String, String>>,
    run: RunId,
    runtime: tokio::runtime::Runtime,
    /// Calls started so far: gives each its id.
    started: u64,
    submitted: VecDeque<Captured>,
}

/// A graph under way. A task that returned a graph waits below for that graph's frame.
struct Frame<'a> {
    graph: Cow<'a, Captured>,
    results: Vec<CallResult>,
}

impl<'a> Frame<'a> {
    fn new(graph: Cow<'a, Captured>) -> Self {
        Self { results: Vec::with_capacity(graph.nodes.len()), graph }
    }
}

impl Execution {
    /// The results of the graph's outputs. Keeps a stack of its own: a task that returns a call of
    /// itself may do so a million times.
    fn graph(&mut self, graph: &Captured) -> Vec<CallResult> {
        let mut frame = Frame::new(Cow::Borrowed(graph));
        let mut below = Vec::new();
        loop {
            while let Some(node) = frame.graph.nodes.get(frame.results.len()) {
                match self.node(&frame, node) {
                    Ok(Outcome::Forwarded(inner)) => {
                        let inner = Frame::new(Cow::Owned(*inner));
                        below.push(std::mem::replace(&mut frame, inner));
                    }
                    Ok(Outcome::Done(value)) => frame.results.push(Ok(value)),
                    Ok(Outcome::Failed(failure)) => {
                        let task = frame.graph.classes[node.class as usize].task.clone();
                        let error = SequentialError::Failed { task, failure };
                        frame.results.push(Err(Arc::new(error)));
                    }
                    Ok(Outcome::Unusable(reason)) => {
                        let task = frame.graph.classes[node.class as usize].task.clone();
                        let error = SequentialError::Unusable { task, reason };
                        frame.results.push(Err(Arc::new(error)));
                    }
                    Err(error) => frame.results.push(Err(error)),
                }
            }
            let outputs = frame.graph.outputs.iter();
            let mut outputs: Vec<_> =
                outputs.map(|place| frame.results[*place as usize].clone()).collect();
            let Some(waiting) = below.pop() else { return outputs };
            frame = waiting;
            // A returned graph has exactly one output: the call that was returned.
            frame.results.extend(outputs.pop());
        }
    }

    fn node(&mut self, frame: &Frame<'_>, node: &Node) -> Result<Outcome, Arc<SequentialError>> {
        let class = &frame.graph.classes[node.class as usize];
        let task = || class.task.clone();
        let mut inputs = Vec::with_capacity(node.inputs.len());
        for input in &node.inputs {
            match &frame.results[*input as usize] {
                Ok(value) => inputs.push(value.clone()),
                Err(cause) => {
                    let cause = match &**cause {
                        SequentialError::Skipped { cause, .. } => Arc::clone(cause),
                        _ => Arc::clone(cause),
                    };
                    return Err(Arc::new(SequentialError::Skipped { task: task(), cause }));
                }
            }
        }
        if !node.earlier.is_empty() {
            let reason = "it uses a task of a run elsewhere".to_owned();
            return Err(Arc::new(SequentialError::Unusable { task: task(), reason }));
        }
        let entry = self.registry.get(&class.task);
        let entry = entry.ok_or_else(|| Arc::new(SequentialError::UnknownTask { task: task() }))?;
        let id = TaskId::from_bits(self.started).unwrap_or(TaskId::new(0, 0));
        self.started += 1;
        let mut attempt = 1;
        loop {
            match self.attempt(entry.body, frame, node, inputs.clone(), id, attempt) {
                Ok(Outcome::Failed(_)) if attempt <= class.options.retries => attempt += 1,
                Ok(ended) => return Ok(ended),
                Err(message) => {
                    return Err(Arc::new(SequentialError::Panicked { task: task(), message }));
                }
            }
        }
    }

    /// One attempt; the error is the message of a panic.
    fn attempt(
        &mut self,
        body: Body,
        frame: &Frame<'_>,
        node: &Node,
        inputs: Vec<Value>,
        id: TaskId,
        attempt: u32,
    ) -> Result<Outcome, String> {
        let header = Arc::clone(&self.header);
        let ctx = Ctx::new(self.run, id, attempt, CancellationToken::new(), header);
        // One call at a time has the first units of everything.
        let asked = frame.graph.classes[node.class as usize].options.resources.iter();
        let first = asked.map(|(name, amount)| (name.clone(), once(0..*amount).collect()));
        ctx.give_units(first.collect());
        let call = Call {
            args: node.args.clone(),
            inputs,
            blobs: HashMap::clone(&frame.graph.blobs),
            states: Arc::clone(&self.states),
            ctx: ctx.clone(),
        };
        // What a panic leaves half done goes with the call.
        let ended = catch_unwind(AssertUnwindSafe(|| match body {
            Body::Sync(body) => body(&call),
            Body::Async(body) => self.runtime.block_on(body(call)),
        }));
        let outcome = ended.map_err(|panic| panic_message(&*panic))?;
        if matches!(outcome, Outcome::Done(_) | Outcome::Forwarded(_)) {
            self.submitted.extend(ctx.take_submitted());
        }
        Ok(outcome)
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a value that is no text".to_owned())
}
