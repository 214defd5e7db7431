//! Histories of servers that lose what they knew, and of results in workers.

use bolthole_broker::clock;
use bolthole_broker::handoff::Budget;
use bolthole_broker::id::ResultKey;
use bolthole_broker::limits::WORKER_LEASE;
use bolthole_broker::run::{Activated, Committed, LeaseRequest, Leased, Ready};
use bolthole_broker::store::{Memory, Store};
use bolthole_tests::conformance::store::world::Ground;
use bolthole_worker::hold::{Held, HoldOptions};
use bytes::Bytes;
use futures_util::FutureExt as _;

use super::little::{Little, columns, open, slice, stored, task};

/// History 2: a segment is accepted, and then the server loses its last second. It is absent, never
/// half there; the epoch tells its client, who stages it again.
#[tokio::test]
async fn accepted_then_rolled_back_in_memory() {
    let memory = Memory::new();
    let store = Store::Memory(memory.clone());
    let run = clock::new_run_id();
    store.open(run, &open()).await.unwrap();
    let (before, epoch) = (memory.snapshot(), store.epoch().await.unwrap());
    accept(&store, run).await;
    memory.restore(before);
    assert_ne!(store.epoch().await.unwrap(), epoch);
    assert!(store.segments(run).await.unwrap().is_empty());
    accept(&store, run).await;
}

/// The same on Redis, whose keys go back to what they were and which is started again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accepted_then_rolled_back_on_redis() {
    let mut ground = Ground::new().await.unwrap();
    let store = ground.redis();
    let run = clock::new_run_id();
    store.open(run, &open()).await.unwrap();
    let (before, epoch) = (ground.server().contents().unwrap(), store.epoch().await.unwrap());
    accept(&store, run).await;
    ground.server().put_back(&before).unwrap();
    ground.restart().unwrap();
    assert_ne!(store.epoch().await.unwrap(), epoch);
    assert!(store.segments(run).await.unwrap().is_empty());
    accept(&store, run).await;
}

async fn accept(store: &Store, run: bolthole_broker::id::RunId) {
    store.stage(run, &columns(0, &[&[]], &[0])).await.unwrap();
    let active = store.activate(run, &slice(0, 0, &[], true)).await.unwrap();
    assert_eq!(active, Activated::Active { ready: vec![0] });
}

/// History 11: a commit, its releases and a lease are undone. The commit is written when it is sent
/// again, a scan finds the released, and whoever has the lease makes it again.
#[tokio::test]
async fn what_a_rollback_has_undone_is_done_again() {
    let memory = Memory::new();
    let store = Store::Memory(memory.clone());
    let run = Little::new(&store, &[&[], &[0]], &[1]).await.unwrap();
    let before = memory.snapshot();
    let commit = run.commit_of(&[(0, 0, stored(1))], 1);
    let request = LeaseRequest { task: task(1), generation: 0, nonce: 5, over: None };
    let granted = [Leased::Granted { attempt: 1, crashes: None }];
    for _ in 0..2 {
        memory.restore(before.clone());
        let reply = store.commit(run.run, &commit).await.unwrap();
        let Committed::Written { ready, .. } = reply else { panic!("{reply:?}") };
        assert_eq!(ready, [Ready::first(task(1))]);
        assert_eq!(store.ready(run.run, 0).await.unwrap(), ready);
        let leased = store.lease(run.run, run.owner, WORKER_LEASE, &[request]).await.unwrap();
        assert_eq!(leased, granted);
        assert!(store.ready(run.run, 0).await.unwrap().is_empty());
    }
}

async fn held() -> Held {
    let incarnation = clock::new_incarnation();
    let options = HoldOptions { memory_bytes: 1 << 20, spill_dir: None, incarnation };
    Held::open(options).await.unwrap()
}

/// Histories 7b, 7c and 7d: an uncommitted value was served; the value of a second delivery on one
/// worker replaced the served one; a copy of generation 0 was served for generation 1.
#[tokio::test]
async fn only_the_committed_value_of_its_generation_is_served() {
    let held = held().await;
    let key = |generation, nonce| ResultKey {
        run: bolthole_broker::id::RunId::new(1, 1),
        task: task(0),
        generation,
        nonce,
    };
    let value = |byte| Bytes::from(vec![byte; 64]);
    held.insert(key(0, 1), value(1), None);
    assert!(held.serve_resident(&key(0, 1)).is_none(), "not committed");
    assert!(held.confirm(&key(0, 1)));
    held.insert(key(0, 2), value(2), None);
    let served = |key| held.serve_resident(&key).map(|value| value.bytes);
    assert_eq!(served(key(0, 1)), Some(value(1)));
    assert_eq!(served(key(0, 2)), None, "a second attempt's");
    assert_eq!(served(key(1, 1)), None, "another generation's");
}

/// History 15: two tasks each hold half of the receive budget and wait for the other half; and what is
/// larger than the budget never had its turn.
#[tokio::test]
async fn the_receive_budget_is_taken_in_one_go_and_in_turn() {
    let budget = Budget::new(64 << 10);
    let first = budget.reserve(48 << 10).await;
    let (second, third) = (budget.reserve(48 << 10), budget.reserve(48 << 10));
    let (mut second, mut third) = (Box::pin(second), Box::pin(third));
    assert!(second.as_mut().now_or_never().is_none());
    assert!(third.as_mut().now_or_never().is_none());
    drop(first);
    assert!(third.as_mut().now_or_never().is_none(), "its turn comes after the second");
    drop(second.await);
    drop(third.await);
    let _all = budget.reserve(1 << 40).await;
    assert_eq!(budget.available_bytes(), 0, "it goes in alone");
}
