//! A worker of bolthole.

#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        reason = "a test that cannot go on should fail"
    )
)]

pub mod health;
pub mod hold;
pub mod memory;
pub mod metrics;
pub mod serve;
