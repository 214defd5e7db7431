//! Which task a consumer is to take an input from, so that no task of a segment gets more than
//! [`FAN_OUT_MAX`] consumers there. Nobody knows in a stream how many consumers will come; so a task
//! serves the first [`DIRECT`] itself, and from then on relays are put before those who come, one
//! when the last one is full. A segment has room for so few full relays that the task serves them
//! all: the tree is two levels deep, and each relay stands right before its first consumer.
//!
//! An input of an earlier segment is taken directly by its first consumer. The second one gets a
//! relay, which is then treated as a task of this segment: an edge between segments costs a call of
//! the store, and two of them for each used task and segment are few enough. Who knows that more than
//! one consumer will come says so, gets the relay at once, and there is one.

use std::collections::HashMap;

use crate::id::TaskId;
use crate::limits::{FAN_OUT_MAX, SEGMENT_TASKS_MAX};

/// Consumers that a task serves before its first relay: all its relays in a segment, each full but
/// the last, fit into what is left.
pub(super) const DIRECT: usize = FAN_OUT_MAX - SEGMENT_TASKS_MAX / FAN_OUT_MAX;

/// Where a consumer takes an input from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Route {
    /// From this task.
    From(TaskId),
    /// From a relay of this task that is yet to be made.
    NewRelay(TaskId),
}

/// The relays of one segment.
#[derive(Debug, Default)]
pub(super) struct Relays {
    /// The relay of a task of this segment that has room, or had.
    latest: HashMap<u16, u16>,
    /// The tasks of earlier segments that are used in this one, with their relay once there is one.
    far: HashMap<TaskId, Option<u16>>,
}

impl Relays {
    /// Where a consumer in `segment` takes `input` from; `uses` counts, for each task there, its
    /// consumers so far, and `shared` says that more consumers of an earlier segment's task will
    /// come. Changes nothing.
    pub(super) fn route(&self, segment: u32, uses: &[u16], input: TaskId, shared: bool) -> Route {
        if input.segment() == segment {
            return self.near(segment, uses, input.index());
        }
        match self.far.get(&input) {
            None if shared => Route::NewRelay(input),
            None => Route::From(input),
            Some(None) => Route::NewRelay(input),
            Some(Some(relay)) => self.near(segment, uses, *relay),
        }
    }

    fn near(&self, segment: u32, uses: &[u16], index: u16) -> Route {
        let count =
            |index: u16| uses.get(usize::from(index)).map_or(0, |uses| usize::from(uses & !PINNED));
        if count(index) < DIRECT {
            return Route::From(TaskId::new(segment, index));
        }
        match self.latest.get(&index) {
            Some(&relay) if count(relay) < FAN_OUT_MAX => Route::From(TaskId::new(segment, relay)),
            _ => Route::NewRelay(TaskId::new(segment, index)),
        }
    }

    /// A consumer in `segment` takes its input from `source`.
    pub(super) fn used(&mut self, segment: u32, source: TaskId) {
        if source.segment() != segment {
            self.far.entry(source).or_insert(None);
        }
    }

    /// The task at `relay` of `segment` is now a relay of `source`.
    pub(super) fn made(&mut self, segment: u32, source: TaskId, relay: u16) {
        if source.segment() == segment {
            self.latest.insert(source.index(), relay);
        } else {
            self.far.insert(source, Some(relay));
        }
    }
}

/// The bit beside a count of consumers that says the task is pinned.
pub(super) const PINNED: u16 = 1 << 15;
