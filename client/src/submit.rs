//! Where a call may be submitted.

use bolthole_broker::call::Ctx;

use crate::capture::{CaptureError, capture};
use crate::delayed::Delayed;

/// What takes calls: a client, an open run, the context of a running task.
#[diagnostic::on_unimplemented(
    message = "calls cannot be submitted to a `{Self}`",
    label = "not a client, an open run or the `Ctx` of a task"
)]
pub trait Submit {
    /// What it gives back for a call whose result is a `T`.
    type Handle<T>;

    /// Takes the call and everything it needs.
    fn submit_delayed<T>(&self, call: Delayed<T>) -> Self::Handle<T>;
}

/// Inside a task: the call becomes part of the run when this attempt succeeds, and nobody waits
/// for it.
impl Submit for Ctx {
    type Handle<T> = Result<(), CaptureError>;

    fn submit_delayed<T>(&self, call: Delayed<T>) -> Result<(), CaptureError> {
        self.push_submitted(capture(&[&call])?);
        Ok(())
    }
}
