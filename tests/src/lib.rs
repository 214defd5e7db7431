//! What the tests of every crate share.
//!
//! - [`conformance`]: what every implementation of a seam does.
//! - [`servers`]: private RabbitMQ and Redis servers that live no longer than the test process.

pub mod conformance;
pub mod servers;
