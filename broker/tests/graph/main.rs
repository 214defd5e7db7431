//! Graphs from capture to segments, as their users see them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should fail")]

mod plan;
mod segment;
mod support;
