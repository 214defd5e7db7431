//! What a client and a worker of bolthole agree on. This crate knows neither of them.

#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        reason = "a test that cannot go on should fail"
    )
)]

pub mod args;
pub mod call;
pub mod clock;
pub mod control;
pub mod descriptor;
pub mod error;
pub mod graph;
pub mod handoff;
pub mod id;
pub mod limits;
pub mod locator;
pub mod parcel;
pub mod queue;
pub mod registry;
pub mod run;
pub mod state;
pub mod store;
pub mod task;
pub mod wire;

pub use inventory;
