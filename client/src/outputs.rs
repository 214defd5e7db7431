//! What may be asked for at once: one call, many, or a mixture, in the shape of the answer.

use std::collections::HashSet;
use std::sync::Arc;

use bolthole_broker::graph::Captured;
use bolthole_broker::id::TaskId;
use bytes::Bytes;
use serde::de::DeserializeOwned;

use crate::capture::capture;
use crate::delayed::{AnyDelayed, Delayed};
use crate::error::{Error, ErrorKind, Result};
use crate::handle::{Handle, decode};
use crate::run::RunInner;

/// Calls whose results are asked for together: a [`Delayed`], a reference to one, a vector, slice or
/// array of them, or a tuple of up to six of those. What they share is computed once.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be computed",
    label = "not a `Delayed`, nor a vector, slice, array or tuple of them",
    note = "its results must be of types that implement `serde::Deserialize`"
)]
pub trait Outputs {
    /// The results, in the same shape.
    type Values: Send + 'static;
    /// Handles of the tasks, in the same shape.
    type Handles: Send + 'static;

    #[doc(hidden)]
    fn calls<'a>(&'a self, calls: &mut Vec<&'a dyn AnyDelayed>);
    #[doc(hidden)]
    fn values(&self, results: &mut Results) -> Result<Self::Values>;
    #[doc(hidden)]
    fn handles(&self, tasks: &mut Tasks) -> Self::Handles;
}

/// Encoded results in the order of the calls.
#[doc(hidden)]
pub struct Results(std::vec::IntoIter<(TaskId, Result<Bytes>)>);

impl Results {
    pub(crate) fn new(tasks: &[TaskId], results: Vec<Result<Bytes>>) -> Self {
        let results: Vec<_> = tasks.iter().copied().zip(results).collect();
        Self(results.into_iter())
    }

    fn next<T: DeserializeOwned>(&mut self) -> Result<T> {
        let missing = || Error::new(ErrorKind::Store, "a result is missing from the answer");
        let (task, result) = self.0.next().ok_or_else(missing)?;
        decode(task, &result?)
    }
}

/// The calls' tasks in their order.
#[doc(hidden)]
pub struct Tasks {
    run: Arc<RunInner>,
    ids: std::vec::IntoIter<TaskId>,
    /// Two calls may be one task, whose handles then share its pin.
    seen: HashSet<TaskId>,
}

impl Tasks {
    pub(crate) fn new(run: Arc<RunInner>, tasks: Vec<TaskId>) -> Self {
        Self { run, ids: tasks.into_iter(), seen: HashSet::new() }
    }

    fn next<T>(&mut self) -> Handle<T> {
        // There is one for each call; a call without a task would be a task that never finishes.
        let task = self.ids.next().unwrap_or(TaskId::new(u32::MAX, u16::MAX));
        if !self.seen.insert(task) {
            self.run.share(task);
        }
        Handle::new(Arc::clone(&self.run), task)
    }
}

/// The graph of some outputs.
pub(crate) fn captured(outputs: &(impl Outputs + ?Sized)) -> Result<Captured> {
    let mut calls = Vec::new();
    outputs.calls(&mut calls);
    Ok(capture(&calls)?)
}

impl<T: DeserializeOwned + Send + 'static> Outputs for Delayed<T> {
    type Values = T;
    type Handles = Handle<T>;

    fn calls<'a>(&'a self, calls: &mut Vec<&'a dyn AnyDelayed>) {
        calls.push(self);
    }

    fn values(&self, results: &mut Results) -> Result<T> {
        results.next()
    }

    fn handles(&self, tasks: &mut Tasks) -> Handle<T> {
        tasks.next()
    }
}

impl<O: Outputs + ?Sized> Outputs for &O {
    type Values = O::Values;
    type Handles = O::Handles;

    fn calls<'a>(&'a self, calls: &mut Vec<&'a dyn AnyDelayed>) {
        (**self).calls(calls);
    }

    fn values(&self, results: &mut Results) -> Result<O::Values> {
        (**self).values(results)
    }

    fn handles(&self, tasks: &mut Tasks) -> O::Handles {
        (**self).handles(tasks)
    }
}

impl<O: Outputs> Outputs for [O] {
    type Values = Vec<O::Values>;
    type Handles = Vec<O::Handles>;

    fn calls<'a>(&'a self, calls: &mut Vec<&'a dyn AnyDelayed>) {
        for output in self {
            output.calls(calls);
        }
    }

    fn values(&self, results: &mut Results) -> Result<Self::Values> {
        self.iter().map(|output| output.values(results)).collect()
    }

    fn handles(&self, tasks: &mut Tasks) -> Self::Handles {
        self.iter().map(|output| output.handles(tasks)).collect()
    }
}

/// A list that is like its slice.
macro_rules! like_a_slice {
    ($([$($generics:tt)*] $list:ty;)*) => {$(
        impl<O: Outputs, $($generics)*> Outputs for $list {
            type Values = Vec<O::Values>;
            type Handles = Vec<O::Handles>;

            fn calls<'a>(&'a self, calls: &mut Vec<&'a dyn AnyDelayed>) {
                self[..].calls(calls);
            }

            fn values(&self, results: &mut Results) -> Result<Self::Values> {
                self[..].values(results)
            }

            fn handles(&self, tasks: &mut Tasks) -> Self::Handles {
                self[..].handles(tasks)
            }
        }
    )*};
}

like_a_slice! {
    [] Vec<O>;
    [const N: usize] [O; N];
}

macro_rules! tuples {
    ($(($($part:ident $place:tt),+))*) => {$(
        impl<$($part: Outputs),+> Outputs for ($($part,)+) {
            type Values = ($($part::Values,)+);
            type Handles = ($($part::Handles,)+);

            fn calls<'a>(&'a self, calls: &mut Vec<&'a dyn AnyDelayed>) {
                $(self.$place.calls(calls);)+
            }

            fn values(&self, results: &mut Results) -> Result<Self::Values> {
                Ok(($(self.$place.values(results)?,)+))
            }

            fn handles(&self, tasks: &mut Tasks) -> Self::Handles {
                ($(self.$place.handles(tasks),)+)
            }
        }
    )*};
}

tuples! {
    (A 0)
    (A 0, B 1)
    (A 0, B 1, C 2)
    (A 0, B 1, C 2, D 3)
    (A 0, B 1, C 2, D 3, E 4)
    (A 0, B 1, C 2, D 3, E 4, F 5)
}
