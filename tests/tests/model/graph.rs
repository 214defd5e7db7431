//! The graphs that the model runs, as one segment each.

use bolthole_broker::id::TaskId;
use bolthole_broker::run::spec::Run;
use bolthole_broker::run::{Activate, Open, SegmentDigest, Stage};
use bolthole_broker::state::{FailurePolicy, PINNED};
use bytes::Bytes;

const DIGEST: SegmentDigest = [1; 16];

/// The index of a task in the only segment.
pub(crate) type Task = u16;

/// A graph whose edges go from lower to higher tasks; its last task is the output.
#[derive(Debug, Clone)]
pub(crate) struct Graph {
    pub(crate) inputs: Vec<Vec<Task>>,
    /// A task that acts on the outside: leased before it runs, committed alone, its result kept.
    pub(crate) effect: Option<Task>,
    /// A task that may fail and is then tried once more.
    pub(crate) fails: Option<Task>,
}

impl Graph {
    pub(crate) fn new(inputs: &[&[Task]]) -> Self {
        let inputs = inputs.iter().map(|inputs| inputs.to_vec()).collect();
        Self { inputs, effect: None, fails: None }
    }

    pub(crate) fn with_effect(self, task: Task) -> Self {
        Self { effect: Some(task), ..self }
    }

    pub(crate) fn with_failures_of(self, task: Task) -> Self {
        Self { fails: Some(task), ..self }
    }

    pub(crate) fn tasks(&self) -> impl Iterator<Item = Task> + use<> {
        0..Task::try_from(self.inputs.len()).unwrap()
    }

    pub(crate) fn successors(&self, task: Task) -> impl Iterator<Item = Task> {
        self.tasks().filter(move |other| self.inputs[usize::from(*other)].contains(&task))
    }

    pub(crate) fn inputs(&self, task: Task) -> &[Task] {
        &self.inputs[usize::from(task)]
    }

    /// The run as its client leaves it: staged, activated, closed; and its ready tasks.
    pub(crate) fn accepted(&self) -> (Run, Vec<Task>) {
        let open = Open {
            name: None,
            digest: [0; 32],
            policy: FailurePolicy::Continue,
            header: std::collections::BTreeMap::new(),
            client_lease_ms: 0,
            retention_ms: 0,
        };
        let mut run = Run::new(open, 0);
        let last = self.tasks().last();
        let stage = Stage {
            segment: 0,
            digest: DIGEST,
            pending: self
                .inputs
                .iter()
                .map(|inputs| u32::try_from(inputs.len()).unwrap())
                .collect(),
            consumers: self
                .tasks()
                .map(|task| {
                    let pin = if Some(task) == last { PINNED } else { 0 };
                    u32::try_from(self.successors(task).count()).unwrap() | pin
                })
                .collect(),
            chunks: vec![Bytes::new()],
        };
        run.stage(&stage).unwrap();
        let slice = Activate { segment: 0, digest: DIGEST, cursor: 0, edges: vec![], last: true };
        run.activate(&slice).unwrap();
        assert!(run.close(1, 0).is_ok(), "it has all its segments");
        let sources = self.tasks().filter(|task| self.inputs(*task).is_empty());
        (run, sources.collect())
    }
}

/// A task's id.
pub(crate) fn id(task: Task) -> TaskId {
    TaskId::new(0, task)
}
