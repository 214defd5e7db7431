//! Random faults on real processes: a seed gives a graph, workers and a schedule of faults; all of it
//! is played with workers and a client as processes on RabbitMQ and Redis, and what happened is held
//! against what may happen by [`crate::check`].
//!
//! ```text
//! chaos/schedule.rs   what is played, as a value and as a file
//! chaos/fault.rs      what may go wrong, and when
//! chaos/draw.rs       a schedule from a seed
//! chaos/crew.rs       workers and client as processes, watched and replaced
//! chaos/place.rs      one of those processes after the other, their files
//! chaos/network.rs    proxies between the processes and everybody else
//! chaos/harm.rs       carrying out faults, and undoing them
//! chaos/play.rs       one schedule from start to verdict
//! chaos/verdict.rs    what is left, and everything the checker wants to know
//! chaos/member.rs     what the worker and client processes do
//! chaos/shrink.rs     the smallest schedule that still fails
//! chaos/sitting.rs    many schedules, several at a time, and their summary
//! ```

mod crew;
pub mod draw;
pub mod fault;
mod harm;
pub mod member;
mod network;
mod place;
pub mod play;
pub mod schedule;
pub mod shrink;
pub mod sitting;
mod verdict;
