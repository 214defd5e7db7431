//! A plan as segments, one at a time.

use std::collections::HashMap;

use super::plan::Plan;
use super::segment::{PushError, Segment, SegmentBuilder};
use crate::id::TaskId;
use crate::limits::SEGMENT_TASKS_MAX;

/// Cuts a plan into segments. Besides one segment it keeps 12 bytes for each call and 4 for each
/// edge.
///
/// A result that a later segment uses is pinned: until that segment is active, the store does not know
/// of its consumers there, and would free it. [`Cut::take_spent`] says when that is no longer needed.
#[derive(Debug)]
pub struct Cut<'a> {
    plan: &'a Plan,
    builder: SegmentBuilder,
    pinned: Vec<bool>,
    /// The ids of the calls that have one, by place.
    ids: Vec<TaskId>,
    /// For each edge, in the order of the consumers' inputs and earlier inputs, the next consumer
    /// of the same result.
    next_uses: std::vec::IntoIter<u32>,
    /// For each call the last that uses its result, or 0.
    last_uses: Vec<u32>,
    /// The first place of the segment under construction.
    begun: usize,
    /// Calls that are pinned for later segments only, by place.
    awaited: Vec<u32>,
}

/// A call of a plan fits into no segment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("call {place} ({task}): {reason}")]
pub struct CutError {
    /// Its place in the captured graph.
    pub place: u32,
    /// The task's name.
    pub task: String,
    /// Why.
    pub reason: PushError,
}

impl Plan {
    /// Cuts the plan into segments, of which the first is number `first`. Outputs are pinned.
    pub fn cut(&self, first: u32) -> Cut<'_> {
        let mut pinned = vec![false; self.nodes.len()];
        for &output in &self.outputs {
            pinned[output as usize] = true;
        }
        let (next_uses, last_uses) = uses(self);
        Cut {
            plan: self,
            builder: SegmentBuilder::new(first),
            pinned,
            ids: Vec::with_capacity(self.nodes.len()),
            next_uses: next_uses.into_iter(),
            last_uses,
            begun: 0,
            awaited: Vec::new(),
        }
    }
}

impl Cut<'_> {
    /// The next segment; `None` after the last one.
    pub fn next_segment(&mut self) -> Result<Option<Segment>, CutError> {
        let mut inputs = Vec::new();
        while let Some(node) = self.plan.nodes.get(self.ids.len()) {
            inputs.clear();
            inputs.extend(node.inputs.iter().map(|&input| self.ids[input as usize]));
            inputs.extend_from_slice(&node.earlier);
            let place = self.ids.len();
            // Calls that the segment has room for, unless they are large: a relay that is made for
            // consumers of the next segment does no harm.
            let end = place + SEGMENT_TASKS_MAX - self.builder.len();
            let next_uses = self.next_uses.as_slice();
            let shared =
                |input: usize| next_uses.get(input).is_some_and(|&next| (next as usize) < end);
            let class = &self.plan.classes[node.class as usize];
            let pinned = self.pinned[place];
            let mut pushed = self.builder.push_shared(class, &inputs, &node.args, pinned, shared);
            if pushed == Err(PushError::Full) && self.builder.is_empty() {
                // Only its relays are too many.
                pushed = self.builder.push(class, &inputs, &node.args, pinned);
            }
            match pushed {
                Ok(id) => {
                    self.ids.push(id);
                    self.next_uses.by_ref().take(inputs.len()).for_each(drop);
                }
                Err(PushError::Full) => {
                    self.pin_for_later();
                    return Ok(self.builder.take_segment());
                }
                Err(reason) => {
                    let place = self.plan.captured[place];
                    return Err(CutError { place, task: class.task.clone(), reason });
                }
            }
        }
        Ok(self.builder.take_segment())
    }

    /// Whether every call is in a segment that has been taken.
    pub fn is_done(&self) -> bool {
        self.ids.len() == self.plan.nodes.len() && self.builder.is_empty()
    }

    /// Pins what the segment that is about to be taken has for later ones.
    fn pin_for_later(&mut self) {
        let end = self.ids.len();
        for place in std::mem::replace(&mut self.begun, end)..end {
            let last = self.last_uses.get(place).copied().unwrap_or_default();
            if last as usize >= end && self.builder.pin(self.ids[place]) {
                self.awaited.extend(u32::try_from(place));
            }
        }
    }

    /// Tasks that were pinned only for segments which have been taken by now: once these are active,
    /// the tasks are to be unpinned. Each is named once.
    pub fn take_spent(&mut self) -> Vec<TaskId> {
        let (last_uses, taken) = (&self.last_uses, self.ids.len());
        let spent = |place: &mut u32| (last_uses[*place as usize] as usize) < taken;
        self.awaited.extract_if(.., spent).map(|place| self.ids[place as usize]).collect()
    }

    /// The id of the call at this place of the plan, once its segment has been taken or begun.
    pub fn id(&self, place: u32) -> Option<TaskId> {
        self.ids.get(place as usize).copied()
    }

    /// The ids of the plan's calls by place; complete after the last segment.
    pub fn into_ids(self) -> Vec<TaskId> {
        self.ids
    }
}

/// For each edge the next consumer of the same result; for each call the last one.
fn uses(plan: &Plan) -> (Vec<u32>, Vec<u32>) {
    let mut coming = vec![u32::MAX; plan.nodes.len()];
    let mut last = vec![0; plan.nodes.len()];
    let mut coming_earlier: HashMap<TaskId, u32> = HashMap::new();
    let mut uses = Vec::new();
    // From the last edge to the first, so that what is seen last comes next.
    let places = (0..u32::try_from(plan.nodes.len()).unwrap_or(u32::MAX)).rev();
    for (place, node) in places.zip(plan.nodes.iter().rev()) {
        for &task in node.earlier.iter().rev() {
            uses.push(coming_earlier.insert(task, place).unwrap_or(u32::MAX));
        }
        for &input in node.inputs.iter().rev() {
            let next = std::mem::replace(&mut coming[input as usize], place);
            if next == u32::MAX {
                last[input as usize] = place;
            }
            uses.push(next);
        }
    }
    uses.reverse();
    (uses, last)
}
