//! Task graphs from ordinary loops, run by stateless workers.
//!
//! | module | what it holds |
//! |---|---|
//! | [`delayed`], [`options`] | a call that has not run, and its options |
//! | [`arg`], [`blob`], [`handle`] | what may be an argument of a call |
//! | [`capture`] | from calls to a graph |
//! | [`submit`] | where calls may be submitted |
//! | [`testing`] | running a graph in order, here, without workers |

#[doc(hidden)]
#[path = "private.rs"]
pub mod __private;
pub mod arg;
pub mod blob;
pub mod capture;
pub mod delayed;
pub mod handle;
pub mod options;
pub mod submit;
#[path = "sequential.rs"]
pub mod testing;

pub use bolthole_broker::call::{Ctx, State};
pub use bolthole_macros::task;

pub use arg::IntoArg;
pub use blob::Blob;
pub use capture::CaptureError;
pub use delayed::Delayed;
pub use handle::Handle;
pub use submit::Submit;
