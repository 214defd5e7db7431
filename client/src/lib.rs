//! Task graphs from ordinary loops, run by stateless workers.
//!
//! | module | what it holds |
//! |---|---|
//! | [`delayed`], [`options`] | a call that has not run, and its options |
//! | [`arg`], [`blob`], [`handle`] | what may be an argument of a call |
//! | [`capture`] | from calls to a graph |
//! | [`client`], [`run`], [`compute`] | where graphs are computed |
//! | [`blocking`] | the same without an async runtime |
//! | [`submit`], [`submission`] | where calls may be submitted one by one |
//! | [`outputs`], [`gather`], [`completed`] | results: one, many, as they come |
//! | [`embedded`], [`worker`] | a cluster in this process; this program as a worker |
//! | [`draw`] | pictures of graphs |
//! | [`error`] | what can go wrong, and what to do |
//! | [`testing`] | running a graph in order, here; or on a simulated cluster with faults |
//!
//! Inside, `core` is what every part of a client shares, `capable` asks whether workers can run what
//! is submitted, `stage` makes a segment part of a run, `restage` does so again when the store has
//! lost it, `writer` cuts a stream of calls into segments, `watch` knows which tasks have finished,
//! `fetch` finds a result wherever it is, in embedded mode by way of `local`, and `recover` has it
//! computed again when it is nowhere; `reap` deletes runs that nobody uses any more; `states` makes
//! the values that tasks share; `progress` shows how a run gets on.

#[doc(hidden)]
#[path = "private.rs"]
pub mod __private;
pub mod arg;
pub mod blob;
pub mod blocking;
mod capable;
pub mod capture;
pub mod client;
pub mod completed;
pub mod compute;
mod core;
pub mod delayed;
#[cfg(feature = "draw")]
pub mod draw;
#[cfg(feature = "embedded")]
pub mod embedded;
pub mod error;
mod fetch;
pub mod gather;
pub mod handle;
mod local;
pub mod options;
pub mod outputs;
mod progress;
mod reap;
mod recover;
mod restage;
pub mod run;
mod stage;
#[cfg(feature = "worker")]
mod states;
pub mod submission;
pub mod submit;
pub mod testing;
mod watch;
#[cfg(feature = "worker")]
pub mod worker;
mod writer;

pub use bolthole_broker::call::{Ctx, State};
pub use bolthole_broker::error::{TaskError, TaskErrorKind};
pub use bolthole_broker::id::{RunId, TaskId};
pub use bolthole_broker::run::RunStatus;
pub use bolthole_broker::state::{FailurePolicy, RunState};
pub use bolthole_macros::task;

pub use arg::IntoArg;
pub use blob::Blob;
pub use capture::CaptureError;
pub use client::{Client, ClientBuilder};
pub use completed::AsCompleted;
pub use compute::Compute;
pub use delayed::Delayed;
pub use error::{Error, ErrorKind, Result};
pub use gather::{wait_all, wait_any};
pub use handle::Handle;
pub use outputs::Outputs;
pub use run::{Run, RunBuilder};
pub use submission::Submission;
pub use submit::Submit;
