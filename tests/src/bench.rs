//! What the benchmarks run and how they are measured. The graphs are those on which other systems
//! are measured too: same shapes, same seeds, same answers.
//!
//! - [`driver`]: one measurement of one system, as a process with a limit to its time.
//! - [`draw`]: the random numbers of Python's `random`, so that every system draws the same graph.
//! - [`etl`]: the graph of a custom ETL, with fixed durations.
//! - [`schedule`]: how long a graph takes on ideal slots.
//! - [`tasks`]: the functions.
//! - [`trace`]: recorded executions of real workflows.
//! - [`usage`]: what processes have used.

pub mod draw;
pub mod driver;
pub mod etl;
pub mod schedule;
pub mod tasks;
pub mod trace;
pub mod usage;
