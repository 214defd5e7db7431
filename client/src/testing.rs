//! Testing programs that use tasks, without servers and without workers.
//!
//! - [`Sequential`] runs a graph here, one call after the other: whether its results are right.
//! - [`Simulation`] (feature `testing`) runs it on a simulated cluster whose workers crash, whose
//!   messages get lost and whose clock is virtual: whether they are right whatever happens.

#[cfg(feature = "testing")]
mod faults;
#[cfg(feature = "testing")]
mod report;
mod sequential;
#[cfg(feature = "testing")]
mod simulation;
#[cfg(feature = "testing")]
mod weather;
#[cfg(feature = "testing")]
mod world;

#[cfg(feature = "testing")]
pub use faults::{Faults, Kind};
#[cfg(feature = "testing")]
pub use report::{Ended, Execution, Report};
pub use sequential::{Sequential, SequentialError, run_sequential};
#[cfg(feature = "testing")]
pub use simulation::{Simulation, Stuck};
#[cfg(feature = "testing")]
#[doc(hidden)]
pub use weather::Inside;
