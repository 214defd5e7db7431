//! Small runs whose every commit can be written down in one line.

use std::collections::BTreeMap;
use std::time::Duration;

use bolthole_broker::clock;
use bolthole_broker::id::{Incarnation, RunId, TaskId};
use bolthole_broker::locator::Locator;
use bolthole_broker::run::{Activate, Commit, End, Finished, Open, OutboxId, Stage};
use bolthole_broker::state::{FailurePolicy, PINNED};
use bolthole_broker::store::{Error, Store, WorkerRecord};
use bytes::Bytes;

/// Far more than anything here takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// The digest of every sample segment.
pub const DIGEST: [u8; 16] = [4; 16];

/// A task of segment 0.
pub fn task(index: u16) -> TaskId {
    TaskId::new(0, index)
}

/// A worker that has just begun.
pub fn worker() -> WorkerRecord {
    WorkerRecord {
        incarnation: clock::new_incarnation(),
        address: "127.0.0.1:1".to_owned(),
        slots: 2,
        queues: vec!["default".to_owned()],
        in_flight: Vec::new(),
        held_bytes: 0,
        tasks: Vec::new(),
    }
}

/// An unnamed run that fails fast.
pub fn open() -> Open {
    Open {
        name: None,
        digest: [1; 32],
        policy: FailurePolicy::FailFast,
        header: BTreeMap::from([("tag".to_owned(), "value".to_owned())]),
        client_lease_ms: 600_000,
        retention_ms: 600_000,
    }
}

/// A result that its locator carries.
pub fn done() -> End {
    let locator = Locator::embed(b"v").unwrap_or(Locator::Empty);
    End::Done { locator, record: Bytes::new(), keep: false }
}

/// A run of one segment in which each task has the one before as its input; the last is pinned.
#[derive(Debug)]
pub struct Sample {
    /// The run.
    pub run: RunId,
    /// Its segment as it was staged.
    pub stage: Stage,
    /// Who commits.
    pub owner: Incarnation,
}

impl Sample {
    /// A chain that fails fast.
    pub async fn chain(store: &Store, tasks: u16) -> Result<Self, Error> {
        Self::start(store, tasks, open()).await
    }

    /// A chain that goes on when a task fails.
    pub async fn tolerant_chain(store: &Store, tasks: u16) -> Result<Self, Error> {
        Self::start(store, tasks, Open { policy: FailurePolicy::Continue, ..open() }).await
    }

    async fn start(store: &Store, tasks: u16, words: Open) -> Result<Self, Error> {
        let run = clock::new_run_id();
        store.open(run, &words).await?;
        let stage = Stage {
            segment: 0,
            digest: DIGEST,
            pending: (0..tasks).map(|index| u32::from(index > 0)).collect(),
            consumers: (1..=tasks).map(|next| if next == tasks { PINNED } else { 1 }).collect(),
            chunks: vec![Bytes::from_static(b"chunk"); usize::from(tasks).div_ceil(128)],
        };
        store.stage(run, &stage).await?;
        store.activate(run, &activate()).await?;
        Ok(Self { run, stage, owner: clock::new_incarnation() })
    }

    /// Finishes tasks with a small result; the first of them numbers the commit.
    pub fn finish(&self, indexes: &[u16]) -> Commit {
        let ends: Vec<_> = indexes.iter().map(|index| (*index, done())).collect();
        self.commit(&ends, indexes.first().copied().unwrap_or(0).into())
    }

    /// Finishes tasks at generation 0 without leases.
    pub fn commit(&self, ends: &[(u16, End)], sequence: u64) -> Commit {
        let last = u16::try_from(self.stage.pending.len()).unwrap_or(u16::MAX) - 1;
        let one = |(index, end): &(u16, End)| Finished {
            index: *index,
            generation: 0,
            end: end.clone(),
            lease: None,
        };
        let next = ends.iter().filter(|(index, _)| *index < last);
        let inputs = ends.iter().filter(|(index, _)| *index > 0);
        Commit {
            segment: 0,
            finished: ends.iter().map(one).collect(),
            releases: next.map(|(index, _)| (task(index + 1), 1)).collect(),
            consumed: inputs.map(|(index, _)| (task(index - 1), 1)).collect(),
            outbox: OutboxId { owner: self.owner, sequence },
            settled: vec![],
            spawn: None,
        }
    }
}

/// The only slice of the sample segment.
pub fn activate() -> Activate {
    Activate { segment: 0, digest: DIGEST, cursor: 0, edges: vec![], last: true }
}
