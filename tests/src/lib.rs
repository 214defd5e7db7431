//! What the tests of every crate share.
//!
//! - [`servers`]: private RabbitMQ and Redis servers that live no longer than the test process.

pub mod servers;
