//! Histories of whole workers: of what they look for, hold, and have room for.

use std::time::Duration;

use bolthole::capture::capture;
use bolthole::{Delayed, task};
use bolthole_broker::call::States;
use bolthole_broker::limits::WORKER_LEASE_MIN;
use bolthole_broker::queue::Queue;
use bolthole_broker::registry::Registry;
use bolthole_broker::state::{FailurePolicy, RunState};
use bolthole_broker::store::{Memory, Store};
use bolthole_tests::cluster::{PATIENCE, until};
use bolthole_tests::staging::{ended, submit};
use bolthole_worker::{Options, Worker};

/// A result that no locator and no store takes.
#[task]
fn executions_large(byte: u8) -> Vec<u8> {
    vec![byte; 64 << 10]
}

#[task]
fn executions_both(left: &[u8], right: &[u8]) -> Vec<u8> {
    [&left[..32 << 10], &right[..32 << 10]].concat()
}

struct Fleet {
    store: Store,
    queue: Queue,
    worker: Worker,
}

impl Fleet {
    async fn new(options: Options) -> Self {
        let (store, queue) = (Store::Memory(Memory::new()), Queue::memory());
        let (lease, reconcile) = (WORKER_LEASE_MIN, Some(Duration::from_millis(200)));
        let options = Options { bind: None, spill_dir: None, lease, reconcile, ..options };
        let registry = Registry::linked().unwrap();
        let worker = Worker::start(store.clone(), queue.clone(), registry, States::new(), options);
        let worker = worker.await.unwrap();
        Self { store, queue, worker }
    }

    /// Stages a graph whose parcels go to `queue`.
    async fn submit<T>(&self, queue: &Queue, output: Delayed<T>) -> bolthole_broker::id::RunId {
        let captured = capture(&[&output]).unwrap();
        submit(&self.store, queue, captured, FailurePolicy::FailFast).await.unwrap().0
    }

    async fn is_done(&self, run: bolthole_broker::id::RunId) -> bool {
        let status = self.store.status(run).await.unwrap();
        status.is_some_and(|status| status.state == RunState::Done)
    }
}

/// History 6: a run's parcel is lost while other runs keep the lanes busy. Only when the lanes were
/// empty did anyone look for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_parcel_is_found_while_the_lanes_are_busy() {
    let fleet = Fleet::new(Options { slots: 1, ..Options::default() }).await;
    let nowhere = Queue::memory();
    let lost = fleet.submit(&nowhere, executions_large::delayed(1)).await;
    let found = async || {
        // There is always something to do.
        let other = fleet.submit(&fleet.queue, executions_large::delayed(2)).await;
        ended(&fleet.store, other, PATIENCE).await?;
        Ok(fleet.is_done(lost).await.then_some(()))
    };
    until("the lost parcel's task is done", found).await.unwrap();
}

/// History 8: a worker does not hear that results of a run were freed, and keeps their bytes for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_run_knows_of_is_dropped_without_a_message() {
    let fleet = Fleet::new(Options { slots: 1, ..Options::default() }).await;
    let run = fleet.submit(&fleet.queue, executions_large::delayed(1)).await;
    assert_eq!(ended(&fleet.store, run, PATIENCE).await.unwrap(), RunState::Done);
    let held = fleet.worker.held().clone();
    assert_eq!(held.stats().count, 1);
    // Behind its back: nobody says so on the queue.
    fleet.store.purge(run).await.unwrap();
    let dropped = async || Ok((held.stats().count == 0).then_some(()));
    until("the worker has dropped it", dropped).await.unwrap();
}

/// History 15: the only worker has no memory left, so it took nothing, not even what would free some.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_worker_goes_on_with_what_frees_memory() {
    // Half of the leaves fill it; the ten results that the order of the tree needs at once fit.
    let memory_bytes = 640 << 10;
    let fleet = Fleet::new(Options { slots: 2, memory_bytes, ..Options::default() }).await;
    let mut layer: Vec<_> = (0..16).map(executions_large::delayed).collect();
    while layer.len() > 1 {
        layer = layer.chunks(2).map(|two| executions_both::delayed(&two[0], &two[1])).collect();
    }
    let run = fleet.submit(&fleet.queue, layer.remove(0)).await;
    assert_eq!(ended(&fleet.store, run, PATIENCE).await.unwrap(), RunState::Done);
}
