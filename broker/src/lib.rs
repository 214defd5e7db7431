//! What a client and a worker of bolthole agree on. This crate knows neither of them.

#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        reason = "a test that cannot go on should fail"
    )
)]

pub mod clock;
pub mod handoff;
pub mod id;
pub mod limits;
pub mod queue;
