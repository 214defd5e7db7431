//! A staged segment becomes part of the run.

use super::Run;
use crate::id::TaskId;
use crate::limits;
use crate::run::{Activate, Activated, Refused, SPAWNED_SEGMENTS, SegmentDigest};
use crate::state::RunState;

impl Run {
    /// Registers a slice of the segment's edges from earlier ones and, with the last slice, makes
    /// it active. An input that is pending blocks its consumer; one that is not is registered all
    /// the same, because a recomputation must find its consumers. An input that has failed or was
    /// freed refuses nothing: the consumer is skipped or the input rearmed when its turn comes.
    pub fn activate(&mut self, activate: &Activate) -> Result<Activated, Refused> {
        let staged = self.arenas.get(&activate.segment);
        let spawned = activate.segment >= SPAWNED_SEGMENTS;
        let again = staged.is_some_and(|arena| arena.active && arena.digest == activate.digest);
        if again && !spawned {
            return Ok(Activated::Already);
        }
        if self.state != RunState::Open || spawned {
            return Err(Refused::NotOpen(self.state));
        }
        let arena = staged.ok_or(Refused::Malformed("it was not staged"))?;
        if arena.digest != activate.digest {
            return Err(Refused::Conflict);
        }
        if arena.cursor != activate.cursor {
            return Ok(Activated::More { cursor: arena.cursor });
        }
        if activate.edges.len() > limits::ACTIVATE_EDGES_MAX {
            return Err(Refused::Malformed("a slice has too many edges"));
        }
        let tasks = arena.states.len();
        for (input, index) in &activate.edges {
            let known = self.active(input.segment());
            let known = known.is_some_and(|arena| usize::from(input.index()) < arena.states.len());
            if input.segment() >= activate.segment || !known || usize::from(*index) >= tasks {
                return Err(Refused::Malformed("an edge does not come from an earlier segment"));
            }
        }
        for (input, index) in &activate.edges {
            self.connect(*input, TaskId::new(activate.segment, *index));
        }
        let cursor = activate.cursor + u32::try_from(activate.edges.len()).unwrap_or(u32::MAX);
        let Some(arena) = self.arenas.get_mut(&activate.segment) else {
            return Err(Refused::Unknown);
        };
        arena.cursor = cursor;
        if !activate.last {
            return Ok(Activated::More { cursor });
        }
        Ok(Activated::Active { ready: self.start(activate.segment) })
    }

    /// Adds the edge `input` → `consumer` between segments.
    pub(super) fn connect(&mut self, input: TaskId, consumer: TaskId) {
        let blocks = self.is_pending(input);
        if let Some(arena) = self.arenas.get_mut(&input.segment()) {
            arena.consumers[usize::from(input.index())] += 1;
            arena.later.entry(input.index()).or_default().push(consumer);
        }
        if let Some(arena) = self.arenas.get_mut(&consumer.segment()).filter(|_| blocks) {
            arena.pending[usize::from(consumer.index())] += 1;
        }
    }

    /// Makes a staged segment active; its ready tasks.
    fn start(&mut self, segment: u32) -> Vec<u16> {
        let Some(arena) = self.arenas.get_mut(&segment) else { return Vec::new() };
        arena.active = true;
        self.tasks += arena.states.len() as u64;
        let ready = arena.pending.iter().enumerate().filter(|(_, pending)| **pending == 0);
        ready.filter_map(|(place, _)| u16::try_from(place).ok()).collect()
    }

    /// Whether a segment that a task has submitted can be started by the commit of that task.
    pub(super) fn can_spawn(&self, segment: u32, digest: SegmentDigest) -> bool {
        let arena = self.arenas.get(&segment).filter(|_| segment >= SPAWNED_SEGMENTS);
        arena.is_some_and(|arena| !arena.active && arena.digest == digest)
    }

    /// Starts it.
    pub(super) fn spawn(&mut self, segment: u32) -> Vec<TaskId> {
        self.start(segment).into_iter().map(|index| TaskId::new(segment, index)).collect()
    }
}
