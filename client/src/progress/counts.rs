//! How many tasks of each name have finished.

use std::collections::BTreeMap;

use bolthole_broker::descriptor::Chunk;
use bolthole_broker::id::RunId;
use bolthole_broker::limits::CHUNK_TASKS;
use bolthole_broker::state::{StateByte, TaskState};
use bolthole_broker::store::Store;
use bolthole_broker::task::RELAY;

use crate::error::Result;

/// Descriptor chunks read by one request: some 500 KiB.
const CHUNKS_MAX: usize = 64;

/// Tasks of one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Label {
    /// What people read.
    pub(super) name: String,
    /// Tasks staged so far.
    pub(super) total: u64,
    /// Those that have finished, well or not.
    pub(super) finished: u64,
}

/// The counts of one run.
pub(super) struct Counts {
    run: RunId,
    store: Store,
    labels: Vec<Label>,
    segments: BTreeMap<u32, Segment>,
}

/// What is kept of a segment: a byte or two for each task.
#[derive(Default)]
struct Segment {
    /// For each task the index of its label; `None` for relays, which are nobody's business.
    labels: Vec<Option<u16>>,
    /// For each label, finished tasks of this segment when it was last read.
    finished: Vec<u64>,
    complete: bool,
}

impl Counts {
    pub(super) fn new(run: RunId, store: Store) -> Self {
        Self { run, store, labels: Vec::new(), segments: BTreeMap::new() }
    }

    /// By the order in which the names first appeared.
    pub(super) fn labels(&self) -> &[Label] {
        &self.labels
    }

    /// Reads the states of every segment that had unfinished tasks.
    pub(super) async fn refresh(&mut self) -> Result<()> {
        for number in self.store.segments(self.run).await? {
            if self.segments.get(&number).is_some_and(|segment| segment.complete) {
                continue;
            }
            let Some(states) = self.store.states(self.run, number).await? else { continue };
            if !self.segments.contains_key(&number) {
                let segment = self.read_labels(number, states.len()).await?;
                self.segments.insert(number, segment);
            }
            self.count(number, &states);
        }
        Ok(())
    }

    fn count(&mut self, number: u32, states: &[u8]) {
        let Some(segment) = self.segments.get_mut(&number) else { return };
        let mut finished = vec![0; self.labels.len()];
        let mut complete = true;
        for (label, byte) in segment.labels.iter().zip(states) {
            if StateByte(*byte).state() == TaskState::Pending {
                complete = false;
            } else if let Some(label) = label {
                finished[usize::from(*label)] += 1;
            }
        }
        for (place, label) in self.labels.iter_mut().enumerate() {
            let before = segment.finished.get(place).copied().unwrap_or(0);
            label.finished = label.finished + finished[place] - before;
        }
        segment.finished = finished;
        segment.complete = complete;
    }

    async fn read_labels(&mut self, number: u32, tasks: usize) -> Result<Segment> {
        let chunks = u32::try_from(tasks.div_ceil(CHUNK_TASKS)).unwrap_or(u32::MAX);
        let places: Vec<(u32, u32)> = (0..chunks).map(|chunk| (number, chunk)).collect();
        let mut labels = Vec::with_capacity(tasks);
        for places in places.chunks(CHUNKS_MAX) {
            for bytes in self.store.chunks(self.run, places).await?.into_iter().flatten() {
                let chunk = Chunk::decode(&bytes, number)?;
                let known: Vec<Option<u16>> = chunk
                    .classes
                    .iter()
                    .map(|class| (class.task != RELAY).then(|| self.label(class.label())))
                    .collect();
                labels.extend(chunk.tasks.iter().map(|task| known[task.class as usize]));
            }
        }
        for label in labels.iter().flatten() {
            self.labels[usize::from(*label)].total += 1;
        }
        Ok(Segment { labels, ..Segment::default() })
    }

    /// The index of a name. Beyond what an index can say all share the last one.
    fn label(&mut self, name: &str) -> u16 {
        let known = self.labels.iter().position(|label| label.name == name);
        let place = known.unwrap_or_else(|| {
            if self.labels.len() < usize::from(u16::MAX) {
                let name = name.to_owned();
                self.labels.push(Label { name, total: 0, finished: 0 });
            }
            self.labels.len() - 1
        });
        u16::try_from(place).unwrap_or(u16::MAX)
    }
}
