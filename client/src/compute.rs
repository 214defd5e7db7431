//! `delayed.compute(&client)`: the same words for the asynchronous and the blocking client.

use std::future::Future;
use std::pin::Pin;

use serde::de::DeserializeOwned;

use crate::client::Client;
use crate::delayed::Delayed;
use crate::error::Result;
use crate::outputs::Outputs;
use crate::run::{Run, RunBuilder};

/// What computes graphs: a client, the options of a run to be, an open run; of the asynchronous kind
/// or the blocking one.
#[diagnostic::on_unimplemented(
    message = "a graph cannot be computed on a `{Self}`",
    label = "not a client, a `RunBuilder` or an open run"
)]
pub trait Compute: sealed::Sealed {
    /// What it gives back for an answer: a future of it, or the answer itself.
    type Reply<'a, T: Send + 'static>
    where
        Self: 'a;

    /// Computes the outputs and returns their values.
    fn compute_outputs<'a, O>(&'a self, outputs: O) -> Self::Reply<'a, Result<O::Values>>
    where
        O: Outputs + Send + Sync + 'a;
}

pub(crate) mod sealed {
    pub trait Sealed {}
}

/// The reply of an asynchronous client.
pub type Computing<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

impl<T: DeserializeOwned + Send + 'static> Delayed<T> {
    /// Computes the call and everything it needs: `best.compute(&client).await?`, or without
    /// `.await` on a blocking client. For many calls at once give them to the client's own
    /// `compute`: what they share is then computed once.
    pub fn compute<'a, C: Compute>(&'a self, on: &'a C) -> C::Reply<'a, Result<T>> {
        on.compute_outputs(self)
    }
}

impl sealed::Sealed for Client {}
impl Compute for Client {
    type Reply<'a, T: Send + 'static> = Computing<'a, T>;

    fn compute_outputs<'a, O>(&'a self, outputs: O) -> Computing<'a, Result<O::Values>>
    where
        O: Outputs + Send + Sync + 'a,
    {
        Box::pin(self.compute(outputs))
    }
}

impl sealed::Sealed for RunBuilder {}
impl Compute for RunBuilder {
    type Reply<'a, T: Send + 'static> = Computing<'a, T>;

    fn compute_outputs<'a, O>(&'a self, outputs: O) -> Computing<'a, Result<O::Values>>
    where
        O: Outputs + Send + Sync + 'a,
    {
        Box::pin(self.clone().compute(outputs))
    }
}

impl sealed::Sealed for Run {}
impl Compute for Run {
    type Reply<'a, T: Send + 'static> = Computing<'a, T>;

    fn compute_outputs<'a, O>(&'a self, outputs: O) -> Computing<'a, Result<O::Values>>
    where
        O: Outputs + Send + Sync + 'a,
    {
        Box::pin(self.compute(outputs))
    }
}
