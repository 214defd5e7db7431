//! The client on RabbitMQ and Redis, with workers of this process.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on should fail")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bolthole::{
    Client, ClientBuilder, Ctx, Delayed, ErrorKind, FailurePolicy, RunId, RunState, task, worker,
};
use bolthole_tests::servers;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

const PATIENCE: Duration = Duration::from_secs(90);

#[task]
fn echo(value: u64) -> u64 {
    value
}

#[task]
fn add(a: u64, b: u64) -> u64 {
    a + b
}

#[task]
fn sum(values: &[u64]) -> u64 {
    values.iter().sum()
}

#[task]
fn wide(bytes: usize) -> Vec<u8> {
    vec![7; bytes]
}

static PAUSES: AtomicUsize = AtomicUsize::new(0);

#[task]
fn pause(value: u64, ctx: &Ctx) -> u64 {
    PAUSES.fetch_add(1, Ordering::Relaxed);
    ctx.pause(Duration::from_millis(2));
    value
}

static INSIDE: AtomicUsize = AtomicUsize::new(0);
static MOST_INSIDE: AtomicUsize = AtomicUsize::new(0);

/// Three of them at once, in all workers.
#[task(concurrency = 3)]
fn crowded(value: u64, ctx: &Ctx) -> u64 {
    let inside = INSIDE.fetch_add(1, Ordering::SeqCst) + 1;
    MOST_INSIDE.fetch_max(inside, Ordering::SeqCst);
    ctx.pause(Duration::from_millis(5));
    INSIDE.fetch_sub(1, Ordering::SeqCst);
    value
}

#[task]
fn length(bytes: &[u8]) -> usize {
    bytes.len()
}

/// Fails while its file is missing.
#[task]
fn needs(path: &str, value: u64) -> Result<u64, String> {
    if std::path::Path::new(path).exists() { Ok(value) } else { Err(format!("no {path}")) }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.expect("it takes too long")
}

/// A namespace with workers in it.
struct Cluster {
    namespace: String,
    workers: Vec<JoinHandle<()>>,
}

impl Cluster {
    fn start(workers: usize) -> Self {
        let namespace = servers::namespace();
        let mut cluster = Self { namespace, workers: Vec::new() };
        for _ in 0..workers {
            let worker = worker::with(cluster.servers()).slots(2);
            cluster.workers.push(tokio::spawn(async move {
                worker.run_async().await.unwrap();
            }));
        }
        cluster
    }

    fn servers(&self) -> ClientBuilder {
        let pair = servers::shared();
        Client::builder(pair.rabbit.url(), pair.redis.url()).namespace(&self.namespace)
    }

    async fn client(&self) -> Client {
        within(self.servers().connect()).await.unwrap()
    }

    /// Keys of a run that Redis has.
    fn keys_of(run: RunId) -> String {
        let pattern = format!("*{run}*");
        servers::shared().redis.cli(["KEYS", &pattern]).unwrap()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.workers.iter().for_each(JoinHandle::abort);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn graphs_with_results_of_every_size() {
    let cluster = Cluster::start(2);
    let client = cluster.client().await;
    let sizes = [0, 5, 100, 4_000, 5_000, 3 << 20];
    let wides: Vec<_> = sizes.iter().map(|size| wide::delayed(*size)).collect();
    let lengths: Vec<_> = wides.iter().map(length::delayed).collect();
    let parts: Vec<Delayed<u64>> = (0..200).map(echo::delayed).collect();
    let total = sum::delayed(&parts);
    let asked = (&wides, &lengths, add::delayed(&total, &parts[1]));
    let (values, lengths, total) = within(client.compute(asked)).await.unwrap();
    assert_eq!(values.iter().map(Vec::len).collect::<Vec<_>>(), sizes);
    assert_eq!(lengths, sizes);
    assert_eq!(total, 199 * 100 + 1);
    assert_eq!(client.runs().await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_run_does_not_wait_for_a_large_one() {
    let cluster = Cluster::start(1);
    let client = cluster.client().await;
    let large: Vec<_> = (0..4_000).map(pause::delayed).collect();
    let mut large = tokio::spawn({
        let client = client.clone();
        async move { client.compute(large).await.map(|values| values.len()) }
    });
    // It is one segment, all of which is published together.
    within(async {
        while PAUSES.load(Ordering::Relaxed) == 0 {
            sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    let small: Vec<_> = (0..10).map(pause::delayed).collect();
    assert_eq!(within(client.compute(small)).await.unwrap().len(), 10);
    assert!(!large.is_finished(), "the small run came last");
    assert_eq!(within(&mut large).await.unwrap().unwrap(), 4_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_of_a_function_run_at_once_than_it_allows() {
    let cluster = Cluster::start(4);
    let client = cluster.client().await;
    let runs: Vec<_> = (0..3)
        .map(|_| {
            let client = client.clone();
            let calls: Vec<_> = (0..40).map(crowded::delayed).collect();
            tokio::spawn(async move { client.compute(calls).await })
        })
        .collect();
    for run in runs {
        assert_eq!(within(run).await.unwrap().unwrap(), (0..40).collect::<Vec<u64>>());
    }
    assert_eq!(MOST_INSIDE.load(Ordering::SeqCst), 3, "8 slots, of which 3 may");
    // A call may be stricter than the function.
    MOST_INSIDE.store(0, Ordering::SeqCst);
    let calls: Vec<_> = (0..20).map(|value| crowded::delayed(value).concurrency(1)).collect();
    assert_eq!(within(client.compute(calls)).await.unwrap().len(), 20);
    assert_eq!(MOST_INSIDE.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_is_read_as_it_finishes_and_leaves_no_key() {
    let cluster = Cluster::start(1);
    let client = cluster.client().await;
    let run = within(client.unnamed().open()).await.unwrap();
    let mut handles = Vec::new();
    for value in 0..10_000_u64 {
        handles.push(within(async { echo::submit(&run, value).await }).await.unwrap());
    }
    let mut completed = client.as_completed(handles);
    let (mut count, mut total) = (0, 0);
    while let Some((_, value)) = within(completed.next()).await {
        total += value.unwrap();
        count += 1;
    }
    assert_eq!((count, total), (10_000, 9_999 * 10_000 / 2));
    let segments = run.status().await.unwrap().segments;
    assert!(segments <= 200, "{segments} segments");
    let id = run.id();
    assert_ne!(Cluster::keys_of(id).trim(), "");
    within(run.close()).await.unwrap();
    assert_eq!(within(run.wait()).await.unwrap().state, RunState::Done);
    drop((run, completed));
    within(async {
        while !Cluster::keys_of(id).trim().is_empty() {
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_client_finds_a_run_by_its_name() {
    let mut cluster = Cluster::start(0);
    let graph = || {
        let parts: Vec<Delayed<u64>> = (0..50).map(echo::delayed).collect();
        sum::delayed(parts)
    };
    let first = cluster.client().await;
    let handle = within(first.run("nightly").submit(graph())).await.unwrap();
    let run = handle.run();
    // The first client goes before anything has run.
    drop((handle, first));
    let second = cluster.client().await;
    let attached = within(second.attach("nightly")).await.unwrap();
    assert_eq!((attached.id(), attached.status().await.unwrap().finished), (run, 0));
    let worker = worker::with(cluster.servers()).slots(1);
    cluster.workers.push(tokio::spawn(async move { worker.run_async().await.unwrap() }));
    assert_eq!(within(graph().compute(&second.run("nightly"))).await.unwrap(), 49 * 25);
    let other = within(echo::delayed(1).compute(&second.run("nightly"))).await.unwrap_err();
    assert_eq!(other.kind(), &ErrorKind::Conflict);
    assert_eq!(within(attached.wait()).await.unwrap().state, RunState::Done);
    within(attached.forget()).await.unwrap();
    assert_eq!(Cluster::keys_of(run).trim(), "");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named() {
    let pair = servers::shared();
    let nobody = "127.0.0.1:1";
    let error = within(Client::connect(&format!("amqp://{nobody}/"), &pair.redis.url())).await;
    let error = error.unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::Connect);
    assert!(error.to_string().contains(nobody), "{error}");
    let error = within(Client::connect(&pair.rabbit.url(), &format!("redis://{nobody}"))).await;
    let error = error.unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::Connect);
    assert!(error.to_string().contains(nobody), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_client_takes_up_a_stream_that_failed() {
    let cluster = Cluster::start(2);
    let (client, other) = (cluster.client().await, cluster.client().await);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("flag").to_str().unwrap().to_owned();
    for policy in [FailurePolicy::Continue, FailurePolicy::FailFast] {
        let name = format!("stream {policy:?}");
        let run = within(client.run(&name).policy(policy).open()).await.unwrap();
        let held = within(async { wide::submit(&run, 100_000).await }).await.unwrap();
        let base = within(async { length::submit(&run, &held).await }).await.unwrap();
        assert_eq!(within(base.result()).await.unwrap(), 100_000);
        let first = within(async { needs::submit(&run, &path, 5).await }).await.unwrap();
        // Its consumer is in a later segment, if the failure leaves it one.
        let last = within(async { add::submit(&run, &first, 1).await }).await.unwrap();
        assert!(within(first.result()).await.is_err());
        let _ = within(run.close()).await;
        assert_eq!(within(run.wait()).await.unwrap().state, RunState::Failed);

        let again = within(other.attach(&name)).await.unwrap();
        assert!(within(again.retry_failed()).await.unwrap() >= 1);
        assert_eq!(within(again.wait()).await.unwrap().state, RunState::Failed, "no file yet");
        std::fs::write(&path, "").unwrap();
        assert!(within(again.retry_failed()).await.unwrap() >= 1);
        assert_eq!(within(again.wait()).await.unwrap().state, RunState::Done);
        assert_eq!(within(first.result()).await.unwrap(), 5);
        if policy == FailurePolicy::Continue {
            assert_eq!(within(last.result()).await.unwrap(), 6);
        }
        assert_eq!(within(held.result()).await.unwrap().len(), 100_000);
        std::fs::remove_file(&path).unwrap();
        within(again.forget()).await.unwrap();
        assert_eq!(Cluster::keys_of(again.id()), "");
    }
}
