//! What is on this worker against what a store knows that has begun another life.

use std::collections::{BTreeMap, BTreeSet};

use bolthole_broker::id::{RunId, TaskId};
use bolthole_broker::limits;
use bolthole_broker::run::TaskStatus;
use bolthole_broker::state::TaskState;
use bolthole_broker::store::{Error, Store};

use crate::core::{Compared, Recent};
use crate::flight::Key;
use crate::inputs::is_current;
use crate::values::Values;

/// Compares all results that are here, and the inputs of what has begun. A result that the store does
/// not name is forgotten; one that it has forgotten itself, and that was committed a short while ago,
/// is offered instead, if it was computed from what the store knows or is offered too.
pub(crate) async fn compare(
    store: &Store,
    values: &Values,
    mut tasks: BTreeMap<RunId, BTreeSet<TaskId>>,
    recent: &[Recent],
) -> Result<Compared, Error> {
    let recent: BTreeMap<Key, &Recent> = recent.iter().map(|recent| (recent.key, recent)).collect();
    for (run, task) in values.all() {
        tasks.entry(run).or_default().insert(task);
    }
    for recent in recent.values() {
        let inputs = recent.info.inputs(&recent.ready);
        tasks.entry(recent.key.0).or_default().extend(inputs);
    }
    let mut compared = Compared::default();
    for (run, tasks) in tasks {
        let tasks: Vec<TaskId> = tasks.into_iter().collect();
        let mut pending = BTreeSet::new();
        for part in tasks.chunks(limits::COMMIT_SUCCESSORS_MAX) {
            let statuses = store.inspect(run, part).await?;
            for (task, status) in part.iter().zip(statuses) {
                let key = (run, *task);
                let open = status.as_ref().is_none_or(is_pending);
                let nonce = values.nonce_of(key);
                let current = match (&status, nonce) {
                    (Some(status), Some(_)) => is_current(values, key, status),
                    _ => !open,
                };
                if current {
                    continue;
                }
                // Ascending: what it was computed from has been looked at.
                let offer = recent.get(&key).filter(|recent| Some(recent.nonce) == nonce);
                let offer = offer.and_then(|recent| offered(recent, status.as_ref(), &pending));
                match offer {
                    Some(offer) if values.take_back(key, offer.nonce) => {
                        compared.offers.push(offer);
                    }
                    _ => {
                        pending.insert(*task);
                        values.forget(key);
                        compared.stale.insert(key);
                    }
                }
            }
        }
    }
    Ok(compared)
}

fn is_pending(status: &TaskStatus) -> bool {
    status.state.state() == TaskState::Pending
}

/// The result as it can be committed again, if it can.
fn offered(
    recent: &Recent,
    status: Option<&TaskStatus>,
    pending: &BTreeSet<TaskId>,
) -> Option<Recent> {
    let status = status.filter(|status| is_pending(status))?;
    let same = status.state.generation() == recent.ready.generation;
    let forwarded = status.forwarded();
    let known = recent.info.inputs(&recent.ready).iter().all(|input| !pending.contains(input));
    (same && forwarded.is_none() && known).then(|| recent.clone())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use bolthole_broker::call::Value;
    use bolthole_broker::clock;
    use bolthole_broker::descriptor::{Chunk, Descriptor};
    use bolthole_broker::id::WorkerIndex;
    use bolthole_broker::run::{Activate, Commit, End, Finished, Open, OutboxId, Ready, Stage};
    use bolthole_broker::state::{FailurePolicy, PINNED};
    use bolthole_broker::store::Memory;
    use bolthole_broker::task::TaskClass;
    use bytes::Bytes;
    use tokio::time::Instant;

    use super::*;
    use crate::flight::{Kept, TaskInfo};
    use crate::hold::{Held, HoldOptions};

    /// A chain of three tasks in a store that knows the result of the first, on a worker that has
    /// committed all of them.
    struct Bench {
        store: Store,
        values: Values,
        run: RunId,
        recent: Vec<Recent>,
    }

    fn task(index: u16) -> TaskId {
        TaskId::new(0, index)
    }

    impl Bench {
        async fn new() -> Self {
            let store = Store::Memory(Memory::new());
            let incarnation = clock::new_incarnation();
            let options = HoldOptions { memory_bytes: 1 << 20, spill_dir: None, incarnation };
            let values = Values::new(Held::open(options).await.unwrap(), WorkerIndex::new(1));
            let mut bench = Self { store, values, run: clock::new_run_id(), recent: vec![] };
            bench.open(bench.run).await;
            bench.recent = (0..3).map(|index| bench.compute(bench.run, index)).collect();
            bench.commit_first().await;
            bench
        }

        async fn open(&self, run: RunId) {
            let open = Open {
                name: None,
                digest: [1; 32],
                policy: FailurePolicy::Continue,
                header: BTreeMap::new(),
                client_lease_ms: 600_000,
                retention_ms: 600_000,
            };
            self.store.open(run, &open).await.unwrap();
            let stage = Stage {
                segment: 0,
                digest: [2; 16],
                pending: vec![0, 1, 1],
                consumers: vec![PINNED | 1, PINNED | 1, PINNED],
                chunks: vec![Bytes::from_static(b"-")],
            };
            self.store.stage(run, &stage).await.unwrap();
            let (digest, edges) = (stage.digest, vec![]);
            let active = Activate { segment: 0, digest, cursor: 0, edges, last: true };
            self.store.activate(run, &active).await.unwrap();
        }

        /// Keeps the result of a task as that of a commit.
        fn compute(&self, run: RunId, index: u16) -> Recent {
            let inputs = index.checked_sub(1).map(task).into_iter().collect();
            let successors = (index < 2).then(|| task(index + 1)).into_iter().collect();
            let descriptor =
                Descriptor { id: task(index), class: 0, rank: 0, inputs, successors, args: vec![] };
            let classes = vec![TaskClass::relay("default")];
            let chunk = Arc::new(Chunk { classes, tasks: vec![descriptor] });
            let (key, nonce) = ((run, task(index)), u64::from(index) + 5);
            let value = Value { bytes: Bytes::from(vec![7; 100]), typed: None };
            let result = self.values.keep(key, 0, nonce, value, false).unwrap();
            self.values.confirm(key, nonce);
            Recent {
                key,
                ready: Ready::first(task(index)),
                info: TaskInfo::find(&chunk, index).unwrap(),
                nonce,
                result,
                at: Instant::now(),
            }
        }

        async fn commit_first(&self) {
            let Kept { locator, record } = self.recent[0].result.clone();
            let end = End::Done { locator, record, keep: false };
            let commit = Commit {
                segment: 0,
                finished: vec![Finished { index: 0, generation: 0, end, lease: None }],
                releases: vec![],
                consumed: vec![],
                outbox: OutboxId { owner: clock::new_incarnation(), sequence: 1 },
                settled: vec![],
                spawn: None,
            };
            self.store.commit(self.run, &commit).await.unwrap();
        }

        /// What is forgotten, and what is offered, when these were committed a short while ago.
        async fn compared(&self, recently: &[u16]) -> (Vec<Key>, Vec<u16>) {
            let recent = recently.iter().map(|index| self.recent[usize::from(*index)].clone());
            let recent: Vec<Recent> = recent.collect();
            let compared = compare(&self.store, &self.values, BTreeMap::new(), &recent).await;
            let Compared { stale, offers } = compared.unwrap();
            assert!(stale.iter().all(|key| !self.is_committed(*key)), "they are forgotten");
            let offers: Vec<u16> = offers.iter().map(|offer| offer.key.1.index()).collect();
            assert!(offers.iter().all(|index| !self.is_committed((self.run, task(*index)))));
            assert!(self.is_committed((self.run, task(0))), "the store knows this one");
            (stale.into_iter().collect(), offers)
        }

        fn is_committed(&self, key: Key) -> bool {
            self.values.find(key, None).is_some()
        }
    }

    #[tokio::test]
    async fn what_the_store_has_forgotten_is_offered() {
        let bench = Bench::new().await;
        assert_eq!(bench.compared(&[0, 1, 2]).await, (vec![], vec![1, 2]));
    }

    #[tokio::test]
    async fn what_was_computed_from_what_is_lost_is_lost() {
        let bench = Bench::new().await;
        let lost = [(bench.run, task(1)), (bench.run, task(2))];
        assert_eq!(bench.compared(&[2]).await, (lost.to_vec(), vec![]));
    }

    #[tokio::test]
    async fn nothing_is_offered_to_a_later_generation_or_a_run_that_is_gone() {
        let mut bench = Bench::new().await;
        bench.recent[1].ready.generation = 1;
        let gone = clock::new_run_id();
        let of_gone = bench.compute(gone, 0);
        bench.recent[0] = of_gone;
        let mut lost = vec![(bench.run, task(1)), (bench.run, task(2)), (gone, task(0))];
        lost.sort_unstable();
        assert_eq!(bench.compared(&[0, 1, 2]).await, (lost, vec![]));
    }

    #[tokio::test]
    async fn another_workers_result_takes_the_place_of_the_one_here() {
        let bench = Bench::new().await;
        let key = (bench.run, task(0));
        bench.values.forget(key);
        let value = Value { bytes: Bytes::from(vec![8; 100]), typed: None };
        bench.values.keep(key, 0, 99, value, false).unwrap();
        bench.values.confirm(key, 99);
        let compared = compare(&bench.store, &bench.values, BTreeMap::new(), &[]).await.unwrap();
        assert!(compared.stale.contains(&key) && !bench.is_committed(key));
    }
}
