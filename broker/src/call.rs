//! One call of a task's body: what the worker hands in, what comes out. The `#[task]` macro writes
//! a body as a few calls into this module.

use std::any::{Any, TypeId};
use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::fmt;
use std::ops::{Deref, Range};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use crate::args::{Arg, BlobDigest};
use crate::graph::Captured;
use crate::id::{RunId, TaskId};

mod raw;

/// A value of any task, shared between the tasks of one process.
pub type Shared = Arc<dyn Any + Send + Sync>;

/// A result: encoded, and, where it was made or decoded in this process, as the Rust value.
#[derive(Clone)]
pub struct Value {
    /// MessagePack.
    pub bytes: Bytes,
    /// The Rust value, lent to borrowed parameters without decoding.
    pub typed: Option<Shared>,
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Value({} bytes)", self.bytes.len())
    }
}

/// How a call ended.
#[derive(Debug)]
pub enum Outcome {
    /// With a result.
    Done(Value),
    /// The task returned a graph: its last task's result is this task's result.
    Forwarded(Box<Captured>),
    /// With an error of the user's; may be retried.
    Failed(Failure),
    /// The arguments do not fit the function, or the result cannot be encoded; the same on every
    /// attempt.
    Unusable(String),
}

/// An error that a task returned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The error and the errors behind it, outermost first.
    pub chain: Vec<String>,
    /// The error itself, encoded, when its type can be.
    pub encoded: Option<Bytes>,
}

impl Failure {
    /// The texts of `error` and of its sources.
    pub fn of(error: &(dyn Error + 'static)) -> Self {
        let mut chain = Vec::new();
        let mut next = Some(error);
        // A chain that long is a loop.
        while let Some(link) = next.filter(|_| chain.len() < 32) {
            chain.push(link.to_string());
            next = link.source();
        }
        Self { chain, encoded: None }
    }
}

/// Between two looks of [`Ctx::pause`] for a cancellation.
const PAUSE_SLICE: Duration = Duration::from_millis(20);

/// Units of resources, numbered from 0 on each worker, by the resource's name.
pub type Units = BTreeMap<String, Vec<Range<u32>>>;

/// What a task may ask about the attempt it runs in.
#[derive(Clone)]
pub struct Ctx {
    inner: Arc<CtxInner>,
}

struct CtxInner {
    run: RunId,
    task: TaskId,
    attempt: u32,
    cancelled: CancellationToken,
    header: Arc<BTreeMap<String, String>>,
    /// Known once the attempt has a slot; not at all when it has asked for nothing.
    units: OnceLock<Units>,
    submitted: Mutex<Vec<Captured>>,
}

impl Ctx {
    /// The context of one attempt.
    pub fn new(
        run: RunId,
        task: TaskId,
        attempt: u32,
        cancelled: CancellationToken,
        header: Arc<BTreeMap<String, String>>,
    ) -> Self {
        let submitted = Mutex::new(Vec::new());
        let units = OnceLock::new();
        let inner = CtxInner { run, task, attempt, cancelled, header, units, submitted };
        Self { inner: Arc::new(inner) }
    }

    /// The run this task belongs to.
    pub fn run(&self) -> RunId {
        self.inner.run
    }

    /// This task.
    pub fn task(&self) -> TaskId {
        self.inner.task
    }

    /// 1 for the first attempt, 2 for the first retry.
    pub fn attempt(&self) -> u32 {
        self.inner.attempt
    }

    /// The same for every attempt at this task and for no other task: hand it to services that
    /// recognise a repeated request.
    pub fn idempotency_key(&self) -> String {
        format!("{}-{}", self.inner.run, self.inner.task)
    }

    /// Whether the run or the task was cancelled, the time limit reached or the worker told to go.
    pub fn is_cancelled(&self) -> bool {
        self.inner.cancelled.is_cancelled()
    }

    /// Ends when [`Ctx::is_cancelled`] becomes true.
    pub async fn cancelled(&self) {
        self.inner.cancelled.cancelled().await;
    }

    /// Waits on this thread, for `fn` tasks; false when it was cancelled meanwhile. Looks for that
    /// every few milliseconds, so that a cancelled task does not sleep on.
    pub fn pause(&self, time: Duration) -> bool {
        let began = Instant::now();
        loop {
            if self.is_cancelled() {
                return false;
            }
            let left = time.saturating_sub(began.elapsed());
            if left.is_zero() {
                return true;
            }
            std::thread::park_timeout(left.min(PAUSE_SLICE));
        }
    }

    /// A value of the run's header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.inner.header.get(name).map(String::as_str)
    }

    /// All of the run's header.
    pub fn headers(&self) -> &BTreeMap<String, String> {
        &self.inner.header
    }

    /// Which units of a resource this attempt has to itself, of those that its worker has: `[2]` for
    /// the third GPU. None of what the task has not asked for.
    pub fn resource(&self, name: &str) -> Vec<u32> {
        let units = self.inner.units.get().and_then(|units| units.get(name));
        units.into_iter().flatten().cloned().flatten().collect()
    }

    /// All of them.
    #[doc(hidden)]
    pub fn units(&self) -> Units {
        self.inner.units.get().cloned().unwrap_or_default()
    }

    /// Gives the attempt its units; once.
    #[doc(hidden)]
    pub fn give_units(&self, units: Units) {
        let _ = self.inner.units.set(units);
    }

    /// Adds a graph to the run: it starts when this attempt succeeds and is dropped otherwise.
    #[doc(hidden)]
    pub fn push_submitted(&self, captured: Captured) {
        self.inner.submitted.lock().unwrap_or_else(PoisonError::into_inner).push(captured);
    }

    /// Takes what the attempt has submitted.
    #[doc(hidden)]
    pub fn take_submitted(&self) -> Vec<Captured> {
        std::mem::take(&mut *self.inner.submitted.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Values that a worker keeps for as long as it lives, by type: a database pool, a model.
pub type States = HashMap<TypeId, Shared>;

/// A value the worker keeps for its tasks; as a parameter of a task it is no argument of the call.
pub struct State<T>(Arc<T>);

impl<T> Deref for State<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> Clone for State<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

/// A borrowed argument: the worker's own value or a freshly decoded one.
pub struct Lent<T>(Arc<T>);

impl<T> Deref for Lent<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// One attempt's arguments and surroundings.
#[derive(Clone)]
pub struct Call {
    /// One for each parameter that is an argument.
    pub args: Vec<Arg>,
    /// The results that `Arg::Input` names.
    pub inputs: Vec<Value>,
    /// The bytes of the blobs that the arguments name.
    pub blobs: HashMap<BlobDigest, Bytes>,
    /// The worker's values.
    pub states: Arc<States>,
    /// What the task may ask.
    pub ctx: Ctx,
}

impl Call {
    /// The argument of parameter `number` as an owned value, decoded.
    pub fn take<T: DeserializeOwned + 'static>(&self, number: usize) -> Result<T, Outcome> {
        if let Some(value) = self.raw(number) {
            return Ok(value);
        }
        let bytes = self.assemble(number)?;
        rmp_serde::from_slice(&bytes).map_err(|error| {
            let type_name = std::any::type_name::<T>();
            Outcome::Unusable(format!("argument {number} is no {type_name}: {error}"))
        })
    }

    /// The argument of parameter `number` to borrow from: an input that is here as a `T` is lent
    /// as it is, anything else is decoded.
    pub fn lend<T>(&self, number: usize) -> Result<Lent<T>, Outcome>
    where
        T: DeserializeOwned + Send + Sync + 'static,
    {
        if let Some(Arg::Input(input)) = self.args.get(number) {
            let typed = self.inputs.get(*input as usize).and_then(|value| value.typed.clone());
            if let Some(Ok(value)) = typed.map(Arc::downcast::<T>) {
                return Ok(Lent(value));
            }
        }
        self.take(number).map(|value| Lent(Arc::new(value)))
    }

    /// The worker's value of type `T`.
    pub fn state<T: Send + Sync + 'static>(&self) -> Result<State<T>, Outcome> {
        let found = self.states.get(&TypeId::of::<T>()).cloned();
        match found.map(Arc::downcast::<T>) {
            Some(Ok(value)) => Ok(State(value)),
            _ => Err(Outcome::Unusable(format!(
                "this worker keeps no State<{}>; supply it with `worker.state(..)`",
                std::any::type_name::<T>()
            ))),
        }
    }

    /// One argument as one MessagePack value.
    fn assemble(&self, number: usize) -> Result<Bytes, Outcome> {
        let arg = self.args.get(number).ok_or_else(|| {
            Outcome::Unusable(format!(
                "argument {number} is missing: {} are given",
                self.args.len()
            ))
        })?;
        match arg {
            Arg::List(_) => {
                let mut out = Vec::new();
                self.assemble_into(arg, &mut out)?;
                Ok(Bytes::from(out))
            }
            leaf => self.leaf(leaf),
        }
    }

    fn assemble_into(&self, arg: &Arg, out: &mut Vec<u8>) -> Result<(), Outcome> {
        let Arg::List(items) = arg else {
            out.extend_from_slice(&self.leaf(arg)?);
            return Ok(());
        };
        put_array_header(out, items.len());
        items.iter().try_for_each(|item| self.assemble_into(item, out))
    }

    fn leaf(&self, arg: &Arg) -> Result<Bytes, Outcome> {
        let found = match arg {
            Arg::Value(bytes) => Some(bytes.clone()),
            Arg::Input(input) => self.inputs.get(*input as usize).map(|value| value.bytes.clone()),
            Arg::Blob { digest, .. } => self.blobs.get(digest).cloned(),
            Arg::List(_) => None,
        };
        found.ok_or_else(|| Outcome::Unusable("an argument names an input that is not here".into()))
    }
}

/// A MessagePack array of `count` items follows.
fn put_array_header(out: &mut Vec<u8>, count: usize) {
    match (u8::try_from(count), u16::try_from(count)) {
        (Ok(small), _) if small < 16 => out.push(0x90 | small),
        (_, Ok(medium)) => {
            out.push(0xdc);
            out.extend_from_slice(&medium.to_be_bytes());
        }
        _ => {
            out.push(0xdd);
            out.extend_from_slice(&u32::try_from(count).unwrap_or(u32::MAX).to_be_bytes());
        }
    }
}

impl Outcome {
    /// The outcome of a body that returned `value`.
    pub fn done<T: Serialize + Send + Sync + 'static>(value: T) -> Self {
        let encoded = match raw::bytes_of(&value) {
            Some(bytes) => {
                drop(value);
                raw::encoded(bytes).map(|bytes| Value { bytes, typed: None })
            }
            None => crate::args::encode(&value)
                .map(|bytes| Value { bytes: bytes.into(), typed: Some(Arc::new(value)) }),
        };
        match encoded {
            Ok(value) => Self::Done(value),
            Err(error) => Self::Unusable(format!("the result cannot be encoded: {error}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn call(args: Vec<Arg>, inputs: Vec<Value>) -> Call {
        let run = RunId::new(0, 1);
        let ctx = Ctx::new(
            run,
            TaskId::new(0, 0),
            1,
            CancellationToken::new(),
            Arc::new(BTreeMap::new()),
        );
        Call { args, inputs, blobs: HashMap::new(), states: Arc::new(States::new()), ctx }
    }

    pub(super) fn done<T: Serialize + Send + Sync + 'static>(value: T) -> Value {
        match Outcome::done(value) {
            Outcome::Done(value) => value,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn lists_of_inputs_and_values_decode_as_vectors_and_tuples() {
        let nine = Arg::Value(Bytes::from(crate::args::encode(&9_u32).unwrap()));
        let list = Arg::List(vec![Arg::Input(0), nine, Arg::Input(1)]);
        let call = call(vec![list], vec![done(7_u32), done(8_u32)]);
        assert_eq!(call.take::<Vec<u32>>(0).unwrap(), [7, 9, 8]);
        assert_eq!(call.take::<(u32, u32, u32)>(0).unwrap(), (7, 9, 8));
        assert_eq!(call.take::<[u32; 3]>(0).unwrap(), [7, 9, 8]);
        assert!(call.take::<Vec<u32>>(1).is_err());
    }

    #[test]
    fn long_lists_have_the_right_header() {
        for count in [0_usize, 15, 16, 65_535, 65_536] {
            let mut ours = Vec::new();
            put_array_header(&mut ours, count);
            ours.extend(std::iter::repeat_n(0xc0, count));
            assert_eq!(ours, crate::args::encode(&vec![(); count]).unwrap());
        }
    }

    #[test]
    fn an_input_of_the_right_type_is_lent_without_a_copy() {
        let value = done("text".to_owned());
        let typed = value.typed.clone().unwrap();
        let call = call(vec![Arg::Input(0)], vec![value]);
        let lent = call.lend::<String>(0).unwrap();
        assert!(std::ptr::addr_eq(&raw const *lent, Arc::as_ptr(&typed)));
        assert_eq!(&**call.lend::<Box<str>>(0).unwrap(), "text");
    }
}
