//! From calls as they are captured to segments as they are staged.
//!
//! - [`Captured`], [`Node`]: a graph as the client's program wrote it down
//! - [`plan()`]: checked, without what nobody needs and what is there twice, in the order of its numbers
//! - [`cut`]: a plan as segments
//! - [`segment`]: calls one after the other, cut into segments; relays where a result is used by many

use std::collections::HashMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::args::{Arg, BlobDigest};
use crate::id::{RunId, TaskId};
use crate::task::TaskClass;

mod check;
mod classes;
mod cull;
pub mod cut;
mod dedupe;
mod inputs;
mod order;
pub mod plan;
mod relay;
pub mod segment;
mod successors;

pub use check::CallError;
pub use cut::{Cut, CutError};
pub use plan::{Plan, PlanError, plan};
pub use segment::{PushError, Segment, SegmentBuilder};

/// One call of a task.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its class, as an index into the graph's classes.
    pub class: u32,
    /// The calls whose results it uses, each once, by their place in the graph; all of them lower
    /// than its own.
    pub inputs: Vec<u32>,
    /// The tasks already in the run whose results it uses, each once.
    pub earlier: Vec<TaskId>,
    /// Its arguments; `Arg::Input(k)` is the result of `inputs[k]`, and from `inputs.len()` on of
    /// `earlier[k - inputs.len()]`.
    pub args: Vec<Arg>,
}

/// A graph as captured: calls in an order in which every call stands behind its inputs.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Captured {
    /// The run that `earlier` inputs belong to; `None` when no call has any.
    pub run: Option<RunId>,
    /// What the calls' `class` fields index.
    pub classes: Vec<TaskClass>,
    /// The calls.
    pub nodes: Vec<Node>,
    /// The calls whose results are asked for, in the order they were asked for.
    pub outputs: Vec<u32>,
    /// Large arguments by digest.
    pub blobs: HashMap<BlobDigest, Bytes>,
}
