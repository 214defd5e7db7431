//! How a run gets on, on standard error, while a blocking call waits for it: a bar for each task
//! name on a terminal, elsewhere a line for every 5 % of the tasks.
//!
//! What is shown is read from the store, a column of states for each segment, some times a second;
//! nothing is counted task by task.

#[cfg(feature = "progress")]
mod counts;
#[cfg(feature = "progress")]
mod display;
#[cfg(feature = "progress")]
mod shown;
#[cfg(not(feature = "progress"))]
mod silent;

#[cfg(feature = "progress")]
pub(crate) use shown::Progress;
#[cfg(not(feature = "progress"))]
pub(crate) use silent::Progress;
