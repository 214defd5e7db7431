//! What a client and a worker of bolthole agree on. This crate knows neither of them.
//!
//! | module | what it holds |
//! |---|---|
//! | [`state`] | the state machine: tasks, runs, what always holds |
//! | [`run`] | every operation on a run, as values; what each of them does |
//! | [`graph`] | from calls to segments |
//! | [`task`], [`args`], [`descriptor`] | what is said of a task, of its arguments, of both |
//! | [`locator`], [`parcel`], [`control`], [`presence`], [`wire`] | formats: results, messages, their parts |
//! | [`id`], [`error`], [`limits`], [`clock`] | names, failures, bounds, time and randomness |
//! | [`call`], [`registry`] | where a task's code and the worker meet |
//! | [`queue`] | doorbells: RabbitMQ, or memory |
//! | [`store`] | the truth: Redis, or memory |
//! | [`handoff`] | the data port: results from worker to worker |
//! | [`durable`], [`lineage`] | copies of results that outlive their holders; what to compute again without |
//! | [`failpoint`], [`mod@line`], `audit` | where tests and simulations make faults happen, and what they prove by |

#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        reason = "a test that cannot go on should fail"
    )
)]

pub mod args;
#[cfg(feature = "failpoints")]
pub mod audit;
pub mod call;
pub mod clock;
pub mod control;
pub mod descriptor;
pub mod durable;
pub mod error;
pub mod failpoint;
pub mod graph;
pub mod handoff;
pub mod id;
pub mod limits;
pub mod line;
pub mod lineage;
pub mod locator;
pub mod parcel;
pub mod presence;
pub mod queue;
pub mod registry;
pub mod run;
pub mod state;
pub mod store;
pub mod task;
pub mod wire;

pub use inventory;
