//! What effects returned has a second place before it is committed.

use bolthole_broker::clock;
use bolthole_broker::handoff::Budget;
use bolthole_broker::id::Incarnation;
use bolthole_broker::run::{Finished, Open, OutboxId};
use bolthole_broker::state::FailurePolicy;
use bolthole_broker::store::{Memory, WorkerRecord};

use super::*;
use crate::hold::HoldOptions;

const LENGTH: usize = 20_000;

struct Bench {
    copier: Arc<Copier>,
    run: RunId,
    key: ResultKey,
    record: HeldRecord,
}

impl Bench {
    /// A worker that holds the result of task 0 of a run.
    async fn new(folder: Option<Folder>) -> Self {
        let store = Store::Memory(Memory::new());
        let run = clock::new_run_id();
        let open = Open {
            name: None,
            digest: [1; 32],
            policy: FailurePolicy::Continue,
            header: std::collections::BTreeMap::new(),
            client_lease_ms: 600_000,
            retention_ms: 600_000,
        };
        store.open(run, &open).await.unwrap();
        let incarnation = clock::new_incarnation();
        let options = HoldOptions { memory_bytes: 1 << 20, spill_dir: None, incarnation };
        let held = Held::open(options).await.unwrap();
        let key = ResultKey { run, task: TaskId::new(0, 0), generation: 0, nonce: 9 };
        let digest = held.insert(key, Bytes::from(vec![7; LENGTH]), None);
        let record = HeldRecord {
            length: LENGTH as u64,
            digest: digest.to_bytes(),
            nonce: key.nonce,
            copies: Copies::default(),
        };
        let fetcher = Fetcher::new(None, Budget::new(1 << 20));
        let copier = Copier::new(&store, &held, &fetcher, WorkerIndex::new(1), folder);
        Self { copier, run, key, record }
    }

    /// The commit of that result; an effect's is to be kept.
    fn commit(&self, keep: bool) -> Arc<Commit> {
        let locator = Locator::held(self.copier.me, self.record.length);
        let end = End::Done { locator, record: self.record.to_bytes().into(), keep };
        let owner = clock::new_incarnation();
        Arc::new(Commit {
            segment: 0,
            finished: vec![Finished { index: 0, generation: 0, end, lease: None }],
            releases: vec![],
            consumed: vec![],
            outbox: OutboxId { owner, sequence: 1 },
            settled: vec![],
            spawn: None,
        })
    }

    /// The copies that the record names once the commit was secured.
    async fn secured(&self) -> Copies {
        let commit = self.copier.secure(self.run, self.commit(true)).await;
        let End::Done { record, locator, keep: true } = &commit.finished[0].end else {
            panic!("{commit:?}")
        };
        assert_eq!(*locator, Locator::held(self.copier.me, self.record.length));
        let secured = HeldRecord::from_bytes(record).unwrap();
        assert_eq!(HeldRecord { copies: Copies::default(), ..secured }, self.record);
        secured.copies
    }

    async fn stored(&self) -> Option<Bytes> {
        self.copier.store.blob(self.run, self.record.blob()).await.unwrap()
    }
}

#[tokio::test]
async fn without_peers_the_store_takes_what_an_effect_returned() {
    let bench = Bench::new(None).await;
    assert_eq!(bench.secured().await, Copies { store: true, ..Copies::default() });
    assert_eq!(bench.stored().await.unwrap(), vec![7; LENGTH]);
}

#[tokio::test]
async fn a_peer_that_does_not_answer_is_no_second_place() {
    let bench = Bench::new(None).await;
    let gone = WorkerRecord {
        incarnation: Incarnation::new(2),
        // Nothing listens there.
        address: "127.0.0.1:1".to_owned(),
        slots: 1,
        queues: Vec::new(),
        in_flight: Vec::new(),
        held_bytes: 0,
        tasks: Vec::new(),
    };
    bench.copier.store.join(&gone, Duration::from_secs(600)).await.unwrap();
    assert_eq!(bench.secured().await, Copies { store: true, ..Copies::default() });
}

#[tokio::test]
async fn the_result_folder_comes_first() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("file://{}", folder.path().display());
    let folder = Folder::open(&url, "test").unwrap();
    let bench = Bench::new(Some(folder.clone())).await;
    assert_eq!(bench.secured().await, Copies { folder: true, ..Copies::default() });
    assert!(bench.stored().await.is_none());
    let read = folder.read(bench.key, &bench.record).await.unwrap();
    assert_eq!(read, vec![7; LENGTH]);
}

#[tokio::test]
async fn what_can_be_computed_again_is_not_copied_and_what_is_gone_cannot_be() {
    let bench = Bench::new(None).await;
    let plain = bench.commit(false);
    assert!(Arc::ptr_eq(&plain, &bench.copier.secure(bench.run, Arc::clone(&plain)).await));
    assert!(bench.copier.held.drop_key(&bench.key));
    assert!(bench.secured().await.is_empty(), "the effect has happened all the same");
    assert!(bench.stored().await.is_none());
}
