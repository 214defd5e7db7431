//! A worker of bolthole: takes ready tasks from the queue, gets their inputs, runs them, commits
//! their results, rings for what that released.
//!
//! | module | what it does |
//! |---|---|
//! | [`worker`](Worker), [`options`](Options) | start and end |
//! | `core` | every decision, as functions from events to effects |
//! | `shell` | the loop that feeds the core and carries out its effects |
//! | `flight` | a task on its way through, step by step |
//! | `prepare`, `inputs`, `known`, `turns` | what a task needs: inputs, descriptor, header, blobs, lease |
//! | `compare` | what a store has forgotten |
//! | `copies`, `leaving` | second places for outputs; handing on what only this worker has |
//! | `slots`, `executor`, [`child`] | running bodies, on threads and in child processes |
//! | `permits` | tasks that may run only so often at once in all workers |
//! | `spawn` | tasks that tasks submit |
//! | `commit` | commits whose reply may have been lost |
//! | `publish`, `reconcile`, `presence` | ringing for ready tasks, finding lost ones, being seen |
//! | `takeover` | ringing for what a worker that is gone had |
//! | `values`, [`hold`], [`serve`], [`memory`] | results that are here, on disk, for peers |
//! | `tasks`, [`simulate`] | where the futures of a worker run; a worker in a simulation |
//! | `pulse`, [`health`], [`metrics`] | what operators ask |

#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        reason = "a test that cannot go on should fail"
    )
)]

pub mod child;
mod commit;
mod compare;
mod copies;
mod core;
mod executor;
mod flight;
pub mod health;
pub mod hold;
mod inputs;
mod known;
mod leaving;
pub mod memory;
pub mod metrics;
mod options;
mod permits;
mod prepare;
mod presence;
mod publish;
mod pulse;
mod reconcile;
pub mod serve;
mod shell;
pub mod simulate;
mod slots;
mod spawn;
mod takeover;
mod tasks;
mod turns;
mod values;
mod worker;

pub use options::{ChildOptions, Options, Order, Tactic};
pub use worker::{StartError, Worker};
