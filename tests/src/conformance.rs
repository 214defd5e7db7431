//! One suite per seam of the system, run against every implementation of it.

pub mod queue;
pub mod store;
