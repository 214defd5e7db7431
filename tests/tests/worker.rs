//! A worker against store and queue in memory: everything a task can come to.
#![cfg(test)]

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use bolthole::capture::capture;
use bolthole::{Ctx, Delayed, State, task};
use bolthole_broker::call::States;
use bolthole_broker::error::{TaskError, TaskErrorKind};
use bolthole_broker::queue::Queue;
use bolthole_broker::registry::Registry;
use bolthole_broker::state::{FailurePolicy, RunState, TaskState};
use bolthole_broker::store::{Memory, Store};
use bolthole_tests::staging::{ended, statuses, submit};
use bolthole_worker::{Options, Worker};
use serde::de::DeserializeOwned;

const PATIENCE: Duration = Duration::from_secs(30);

struct Bench {
    store: Store,
    queue: Queue,
    worker: Worker,
}

async fn bench(slots: usize) -> Bench {
    let (store, queue) = (Store::Memory(Memory::new()), Queue::memory());
    let mut states = States::new();
    let answer: std::sync::Arc<u64> = std::sync::Arc::new(42);
    states.insert(std::any::TypeId::of::<u64>(), answer);
    let resources = [("gpu".to_owned(), 1), ("licence".to_owned(), 3)].into();
    let options = Options { slots, resources, bind: None, spill_dir: None, ..Options::default() };
    let registry = Registry::linked().unwrap();
    let worker = Worker::start(store.clone(), queue.clone(), registry, states, options).await;
    Bench { worker: worker.unwrap(), store, queue }
}

impl Bench {
    async fn compute<T: DeserializeOwned>(&self, output: Delayed<T>) -> T {
        let captured = capture(&[&output]).unwrap();
        let policy = FailurePolicy::FailFast;
        let (run, outputs) = submit(&self.store, &self.queue, captured, policy).await.unwrap();
        assert_eq!(ended(&self.store, run, PATIENCE).await.unwrap(), RunState::Done);
        let status = statuses(&self.store, run, &outputs).await.unwrap().remove(0);
        let value = status.locator.value().or(status.record).unwrap();
        rmp_serde::from_slice(&value).unwrap()
    }

    async fn fail<T>(
        &self,
        output: Delayed<T>,
        policy: FailurePolicy,
    ) -> Vec<(TaskState, Option<TaskError>)> {
        let captured = capture(&[&output]).unwrap();
        let (run, _) = submit(&self.store, &self.queue, captured, policy).await.unwrap();
        assert_eq!(ended(&self.store, run, PATIENCE).await.unwrap(), RunState::Failed);
        let states = self.store.states(run, 0).await.unwrap().unwrap();
        let indexes = 0..u16::try_from(states.len()).unwrap();
        let tasks: Vec<_> =
            indexes.map(|index| bolthole_broker::id::TaskId::new(0, index)).collect();
        let statuses = statuses(&self.store, run, &tasks).await.unwrap();
        let ends = statuses.into_iter().map(|status| {
            let error = status.record.and_then(|record| TaskError::decode(&record));
            (status.state.state(), error)
        });
        ends.collect()
    }
}

#[task]
fn number(value: u64) -> u64 {
    value
}

#[task]
fn add(left: u64, right: u64) -> u64 {
    left + right
}

#[task]
fn sum(values: &[u64]) -> u64 {
    values.iter().sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tree_is_summed() {
    let bench = bench(2).await;
    let mut layer: Vec<Delayed<u64>> = (0..256).map(number::delayed).collect();
    while layer.len() > 1 {
        layer = layer.chunks(2).map(|pair| add::delayed(&pair[0], &pair[1])).collect();
    }
    assert_eq!(bench.compute(layer.remove(0)).await, 255 * 128);
    assert!(bench.worker.drain(PATIENCE).await);
}

#[task]
fn increment(value: u64) -> u64 {
    value + 1
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chain_runs_to_its_end_on_one_slot() {
    let bench = bench(1).await;
    let mut last = number::delayed(0);
    for _ in 0..2_000 {
        last = increment::delayed(last);
    }
    assert_eq!(bench.compute(last).await, 2_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_results_meet_in_one() {
    let bench = bench(2).await;
    let parts: Vec<Delayed<u64>> = (0..3_000).map(number::delayed).collect();
    assert_eq!(bench.compute(sum::delayed(parts)).await, 2_999 * 1_500);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_result_is_used_by_many() {
    let bench = bench(2).await;
    let one = number::delayed(1);
    let many: Vec<Delayed<u64>> = (0..2_000).map(|n| add::delayed(&one, n)).collect();
    assert_eq!(bench.compute(sum::delayed(many)).await, 2_000 + 1_999 * 1_000);
}

#[task]
fn large(bytes: usize) -> Vec<u64> {
    vec![7; bytes / 8]
}

#[task]
fn total(values: &[u64]) -> u64 {
    values.iter().sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_results_are_held_and_freed() {
    let bench = bench(2).await;
    let parts: Vec<Delayed<u64>> =
        (0..20).map(|_| total::delayed(large::delayed(80_000))).collect();
    assert_eq!(bench.compute(sum::delayed(parts)).await, 20 * 70_000);
    let held = bench.worker.held();
    tokio::time::timeout(PATIENCE, async {
        while held.stats().count > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .unwrap();
}

#[task]
fn fib(n: u64) -> Delayed<u64> {
    if n < 2 { number::delayed(n) } else { add::delayed(fib::delayed(n - 1), fib::delayed(n - 2)) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_that_return_tasks_need_one_slot_at_any_depth() {
    let bench = bench(1).await;
    assert_eq!(bench.compute(fib::delayed(12)).await, 144);
}

#[task]
fn picky(value: u64) -> Result<u64, std::num::ParseIntError> {
    if value == 3 { "three".parse() } else { Ok(value) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_skips_what_depends_on_it_and_nothing_else() {
    let bench = bench(2).await;
    let parts: Vec<Delayed<u64>> = (0..6).map(|n| increment::delayed(picky::delayed(n))).collect();
    let ends = bench.fail(sum::delayed(parts), FailurePolicy::Continue).await;
    let count = |state| ends.iter().filter(|(end, _)| *end == state).count();
    assert_eq!(count(TaskState::Failed), 1);
    assert_eq!(count(TaskState::Skipped), 2, "its increment and the sum");
    assert_eq!(count(TaskState::Pending), 0);
    let error = ends.iter().find_map(|(_, error)| error.clone()).unwrap();
    assert_eq!(error.kind, TaskErrorKind::User);
    assert!(error.to_string().contains("invalid digit"), "{error}");
}

#[task]
fn broken(value: u64) -> u64 {
    assert!(value > 100, "the value {value} is too small");
    value
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_is_the_tasks_failure_and_the_worker_lives() {
    let bench = bench(1).await;
    let ends = bench.fail(broken::delayed(1), FailurePolicy::FailFast).await;
    let error = ends[0].1.clone().unwrap();
    assert_eq!(error.kind, TaskErrorKind::Panic);
    assert!(error.to_string().contains("the value 1 is too small"), "{error}");
    assert!(error.backtrace.unwrap().contains("worker.rs"));
    assert_eq!(bench.compute(broken::delayed(101)).await, 101);
}

static TRIES: AtomicU32 = AtomicU32::new(0);

#[task(retries = 3, backoff = "10ms..50ms")]
fn flaky(ctx: &Ctx) -> Result<u32, String> {
    let earlier = TRIES.fetch_add(1, Ordering::SeqCst);
    if earlier < 2 { Err(format!("try {earlier}")) } else { Ok(ctx.attempt()) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_attempts_are_repeated_and_counted() {
    let bench = bench(1).await;
    assert_eq!(bench.compute(flaky::delayed()).await, 3);
    assert_eq!(TRIES.load(Ordering::SeqCst), 3);
}

#[task]
async fn surroundings(ctx: &Ctx, answer: State<u64>) -> (String, u64, bool) {
    tokio::time::sleep(Duration::from_millis(1)).await;
    let greeting = ctx.header("greeting").unwrap_or_default().to_owned();
    (greeting, *answer, ctx.idempotency_key().len() > 32)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_sees_its_run_and_its_workers_state() {
    let bench = bench(1).await;
    assert_eq!(bench.compute(surroundings::delayed()).await, ("hello".to_owned(), 42, true));
}

#[task(timeout = "50ms")]
fn endless(ctx: &Ctx) -> u64 {
    u64::from(ctx.pause(Duration::from_secs(3_600)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_out_of_time_fails_and_its_slot_goes_on() {
    let bench = bench(1).await;
    let ends = bench.fail(endless::delayed(), FailurePolicy::FailFast).await;
    assert_eq!(ends[0].1.clone().unwrap().kind, TaskErrorKind::Timeout);
    assert_eq!(bench.compute(number::delayed(5)).await, 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_arguments_travel_as_blobs() {
    let bench = bench(1).await;
    let values: Vec<u64> = (0..50_000).collect();
    assert_eq!(bench.compute(total::delayed(&values)).await, values.iter().sum::<u64>());
}

static ON_GPU: AtomicU32 = AtomicU32::new(0);

/// How many were on the GPU at once, itself included.
#[task(resources(gpu = 1))]
fn on_gpu(ctx: &Ctx) -> u32 {
    let together = ON_GPU.fetch_add(1, Ordering::SeqCst) + 1;
    ctx.pause(Duration::from_millis(2));
    ON_GPU.fetch_sub(1, Ordering::SeqCst);
    together
}

#[task]
fn most(counts: &[u32]) -> u32 {
    counts.iter().copied().max().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resource_is_taken_by_as_many_as_there_is_of_it() {
    let bench = bench(4).await;
    let uses: Vec<Delayed<u32>> = (0..40).map(|_| on_gpu::delayed()).collect();
    assert_eq!(bench.compute(most::delayed(uses)).await, 1);
}

static LICENCES: [AtomicBool; 3] = [const { AtomicBool::new(false) }; 3];

/// The licences it has, unless another task has one of them at the same time; and the GPU, which it
/// has not asked for.
#[task(resources(licence = 2))]
fn licensed(ctx: &Ctx) -> Option<(Vec<u32>, Vec<u32>)> {
    let own = ctx.resource("licence");
    let licences = || own.iter().filter_map(|unit| LICENCES.get(*unit as usize));
    let alone = licences().all(|licence| !licence.swap(true, Ordering::SeqCst));
    ctx.pause(Duration::from_millis(2));
    licences().for_each(|licence| licence.store(false, Ordering::SeqCst));
    alone.then(|| (own.clone(), ctx.resource("gpu")))
}

#[task(resources(licence = 1))]
fn with_one(before: Option<(Vec<u32>, Vec<u32>)>, ctx: &Ctx) -> Vec<u32> {
    let mut all = before.map(|(own, _)| own).unwrap_or_default();
    all.extend(ctx.resource("licence"));
    all
}

#[task]
fn lengths(all: &[Vec<u32>]) -> Vec<usize> {
    all.iter().map(Vec::len).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_attempt_has_units_of_its_own() {
    let bench = bench(4).await;
    let (own, gpu) = bench.compute(licensed::delayed()).await.unwrap();
    assert_eq!((own, gpu), (vec![0, 1], vec![]));
    let uses: Vec<_> = (0..30).map(|_| with_one::delayed(licensed::delayed())).collect();
    assert_eq!(bench.compute(lengths::delayed(uses)).await, [3; 30]);
}
