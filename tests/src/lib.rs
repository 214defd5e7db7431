//! What the tests of every crate share.
//!
//! - [`conformance`]: what every implementation of a seam does.
//! - [`servers`]: private RabbitMQ and Redis servers that live no longer than the test process.
//! - [`staging`]: a graph in store and queue without a client.

pub mod conformance;
pub mod servers;
pub mod staging;
