//! How the tasks of a run stand, by their names.

use std::collections::HashSet;

use bolthole_broker::descriptor::Chunk;
use bolthole_broker::id::{RunId, TaskId};
use bolthole_broker::limits::CHUNK_TASKS;
use bolthole_broker::state::{StateByte, TaskState};
use bolthole_broker::store::{Error, Store};
use bolthole_broker::task::RELAY;

/// Descriptor chunks read by one request: some 500 KiB.
const CHUNKS_MAX: usize = 64;

/// Tasks of one name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Count {
    finished: u64,
    failed: u64,
    skipped: u64,
    at_work: u64,
    ready: u64,
    waiting: u64,
}

impl Count {
    /// What is shown, in its order. Each task is in one of the columns behind the first.
    pub(super) fn columns(&self) -> [(&'static str, u64); 7] {
        let Self { finished, failed, skipped, at_work, ready, waiting } = *self;
        [
            ("tasks", finished + failed + skipped + at_work + ready + waiting),
            ("finished", finished),
            ("failed", failed),
            ("skipped", skipped),
            ("at_work", at_work),
            ("ready", ready),
            ("waiting", waiting),
        ]
    }

    /// All of them together.
    pub(super) fn sum<'a>(counts: impl Iterator<Item = &'a Self>) -> Self {
        counts.fold(Self::default(), |sum, count| Self {
            finished: sum.finished + count.finished,
            failed: sum.failed + count.failed,
            skipped: sum.skipped + count.skipped,
            at_work: sum.at_work + count.at_work,
            ready: sum.ready + count.ready,
            waiting: sum.waiting + count.waiting,
        })
    }
}

/// The tasks of a run. What is read is not of one moment.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// By the order in which the names first appear.
    pub(super) names: Vec<(String, Count)>,
    /// Tasks that have failed.
    pub(super) failed: Vec<TaskId>,
}

/// What is known of tasks that are pending.
struct Pending {
    /// With workers.
    at_work: HashSet<TaskId>,
    /// With nobody, though their inputs are there.
    ready: HashSet<TaskId>,
}

impl Tally {
    pub(super) async fn read(store: &Store, run: RunId) -> Result<Self, Error> {
        let mut tally = Self::default();
        let workers = store.workers().await?.into_iter();
        let of_run = workers.flat_map(|(_, record)| record.in_flight).filter(|(of, _)| *of == run);
        let mut pending = Pending {
            at_work: of_run.flat_map(|(_, tasks)| tasks).collect(),
            ready: HashSet::new(),
        };
        for segment in store.segments(run).await? {
            let Some(states) = store.states(run, segment).await? else { continue };
            let ready = store.ready(run, segment).await?;
            pending.ready = ready.iter().map(|ready| ready.task).collect();
            let chunks = u32::try_from(states.len().div_ceil(CHUNK_TASKS)).unwrap_or(u32::MAX);
            let places: Vec<(u32, u32)> = (0..chunks).map(|chunk| (segment, chunk)).collect();
            for some in places.chunks(CHUNKS_MAX) {
                for bytes in store.chunks(run, some).await?.into_iter().flatten() {
                    tally.add(&Chunk::decode(&bytes, segment)?, &states, &pending);
                }
            }
        }
        Ok(tally)
    }

    fn add(&mut self, chunk: &Chunk, states: &[u8], pending: &Pending) {
        for task in &chunk.tasks {
            let (Some(class), Some(byte)) =
                (chunk.class(task), states.get(usize::from(task.id.index())))
            else {
                continue;
            };
            let state = StateByte(*byte).state();
            if state == TaskState::Failed {
                self.failed.push(task.id);
            }
            // Relays are nobody's business.
            if class.task == RELAY {
                continue;
            }
            let count = self.of(class.label());
            match state {
                TaskState::Done | TaskState::Freed => count.finished += 1,
                TaskState::Failed => count.failed += 1,
                TaskState::Skipped => count.skipped += 1,
                TaskState::Pending if pending.at_work.contains(&task.id) => count.at_work += 1,
                TaskState::Pending if pending.ready.contains(&task.id) => count.ready += 1,
                TaskState::Pending => count.waiting += 1,
            }
        }
    }

    fn of(&mut self, name: &str) -> &mut Count {
        let place = self.names.iter().position(|(known, _)| known == name).unwrap_or_else(|| {
            self.names.push((name.to_owned(), Count::default()));
            self.names.len() - 1
        });
        &mut self.names[place].1
    }
}
