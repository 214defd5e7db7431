//! The client's promises, on an embedded cluster.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on should fail")]

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bolthole::{
    Client, Delayed, ErrorKind, FailurePolicy, Handle, RunState, TaskErrorKind, task, wait_all,
    wait_any,
};
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(60);

#[task]
fn one() -> u64 {
    1
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
fn echo(value: u64) -> u64 {
    value
}

#[task]
fn mix(a: u64, b: u64) -> u64 {
    (a * 31 + b) % 1_000_003
}

#[task]
fn wide(bytes: usize) -> Vec<u8> {
    vec![7; bytes]
}

#[task]
fn length(bytes: &[u8]) -> usize {
    bytes.len()
}

#[task]
fn fails(why: String) -> Result<u64, String> {
    Err(why)
}

/// Calls of `counted` that have begun.
static COUNTED: AtomicU64 = AtomicU64::new(0);

#[task]
fn counted(number: u64, bytes: &[u8]) -> u64 {
    COUNTED.fetch_add(1, Ordering::Relaxed);
    number + bytes.len() as u64
}

/// Ends when its file is there.
#[task]
async fn waits_for(path: String) -> u64 {
    while !std::path::Path::new(&path).exists() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    1
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.expect("it takes too long")
}

async fn cluster() -> Client {
    Client::embedded_builder().slots(4).start().await.unwrap()
}

#[tokio::test]
async fn a_diamond_computes_once_and_leaves_nothing_behind() {
    let client = cluster().await;
    let base = one::delayed();
    let (left, right) = (add::delayed(&base, 1), add::delayed(&base, 2));
    let top = add::delayed(&left, &right);
    assert_eq!(within(top.compute(&client)).await.unwrap(), 5);
    let (a, all) = within(client.compute((&left, vec![&right, &top]))).await.unwrap();
    assert_eq!((a, all), (2, vec![3, 5]));
    let (same, again) = within(client.compute((&top, &top))).await.unwrap();
    assert_eq!((same, again), (5, 5));
    assert_eq!(client.runs().await.unwrap(), []);
}

/// Arguments fill several segments. The tasks of the first ones end before the store knows of the last
/// one, where their results are used.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_later_segment_uses_is_computed_once() {
    const CALLS: u64 = 400;
    let client = cluster().await;
    let bytes = vec![0; 60_000];
    let calls: Vec<_> = (0..CALLS).map(|number| counted::delayed(number, &bytes)).collect();
    // All that the first segments know of has used the results long before.
    let echoes: Vec<_> = calls.iter().map(echo::delayed).collect();
    let asked = (sum::delayed(&echoes), sum::delayed(&calls));
    let (same, total) = within(client.compute(asked)).await.unwrap();
    assert_eq!((same, total), (total, CALLS * (CALLS - 1) / 2 + CALLS * 60_000));
    assert_eq!(COUNTED.load(Ordering::Relaxed), CALLS);
}

/// Slots hand the ends of short tasks to each other, and to the loop, thousands of times.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_end_is_lost_between_slots_that_run_short_tasks() {
    let client = cluster().await;
    for width in [1, 2, 3, 7] {
        let mut expected: Vec<u64> = (0..width as u64).collect();
        let mut row: Vec<_> = expected.iter().map(echo::delayed).collect();
        for _ in 0..6_000 / width {
            let next = |at: usize| (at, (at + 1) % width);
            let both = (0..width).map(next);
            row = both.clone().map(|(a, b)| mix::delayed(&row[a], &row[b])).collect();
            expected = both.map(|(a, b)| (expected[a] * 31 + expected[b]) % 1_000_003).collect();
        }
        assert_eq!(within(client.compute(row)).await.unwrap(), expected, "{width} columns");
    }
}

#[tokio::test]
async fn results_of_every_size_come_back() {
    let client = cluster().await;
    let sizes = [0, 5, 100, 4_000, 5_000, 3 << 20];
    let calls: Vec<_> = sizes.iter().map(|size| wide::delayed(*size)).collect();
    let lengths: Vec<_> = calls.iter().map(length::delayed).collect();
    let (values, lengths) = within(client.compute((calls, lengths))).await.unwrap();
    assert_eq!(values.iter().map(Vec::len).collect::<Vec<_>>(), sizes);
    assert_eq!(lengths, sizes);
}

#[tokio::test]
async fn fail_fast_names_the_task_that_failed() {
    let client = cluster().await;
    let failed = fails::delayed("disk on fire");
    let after = add::delayed(&failed, 1);
    let error = within(after.compute(&client)).await.unwrap_err();
    let task = error.task().expect("a task failed");
    assert_eq!(task.kind, TaskErrorKind::User);
    assert!(task.name.ends_with("fails"), "{task}");
    assert!(error.to_string().contains("disk on fire"), "{error}");
    assert_eq!(client.runs().await.unwrap(), []);
}

#[tokio::test]
async fn a_run_that_fails_while_it_is_staged_names_the_task_too() {
    let client = cluster().await;
    // The failure comes first; several segments are still to be staged.
    let failed = fails::delayed("at once");
    let many: Vec<_> = (0..70_000).map(echo::delayed).collect();
    let error = within(client.compute((&failed, many))).await.unwrap_err();
    assert!(error.to_string().contains("at once"), "{error}");
    assert_eq!(client.runs().await.unwrap(), []);
}

#[task(expires = "1ns")]
fn too_late() -> u64 {
    1
}

#[task(not_before = "1s")]
fn not_yet() -> u64 {
    1
}

/// Also where all that they need is at hand, so that nobody has to be asked for anything.
#[tokio::test]
async fn what_is_too_late_or_too_early_does_not_start() {
    let client = cluster().await;
    let run = client.run("times").policy(FailurePolicy::Continue).open().await.unwrap();
    assert_eq!(within(run.compute(one::delayed())).await.unwrap(), 1);
    let error = within(run.compute(too_late::delayed())).await.unwrap_err();
    assert_eq!(error.task().unwrap().kind, TaskErrorKind::Expired, "{error}");
    let begun = std::time::Instant::now();
    assert_eq!(within(run.compute(not_yet::delayed())).await.unwrap(), 1);
    assert!(begun.elapsed() >= Duration::from_millis(900), "it was due a second later");
}

#[tokio::test]
async fn with_continue_other_branches_finish_and_dependents_are_skipped() {
    let client = cluster().await;
    let failed = fails::delayed("no such day");
    let skipped = add::delayed(add::delayed(&failed, 1), 1);
    let fine = add::delayed(1, 1);
    let run = client.unnamed().policy(FailurePolicy::Continue);
    let (skipped, fine) = within(run.submit((&skipped, &fine))).await.unwrap();
    assert_eq!(within(fine.result()).await.unwrap(), 2);
    let error = within(skipped.result()).await.unwrap_err();
    assert!(error.to_string().contains("was skipped"), "{error}");
    assert!(error.task().unwrap().name.ends_with("fails"), "{error}");
    let status = within(fine.in_run().wait()).await.unwrap();
    assert_eq!((status.state, status.failed), (RunState::Failed, 1));
}

#[tokio::test]
async fn a_name_stands_for_one_graph() {
    let client = cluster().await;
    let graph = || add::delayed(one::delayed(), 41);
    let nightly = client.run("nightly").header("owner", "me");
    assert_eq!(within(graph().compute(&nightly)).await.unwrap(), 42);
    let first = client.attach("nightly").await.unwrap();
    // The same again attaches: no other run comes into being.
    assert_eq!(within(graph().compute(&nightly)).await.unwrap(), 42);
    assert_eq!(client.runs().await.unwrap(), [first.id()]);
    assert_eq!(first.header().await.unwrap()["owner"], "me");

    let other = within(add::delayed(1, 1).compute(&nightly)).await.unwrap_err();
    assert_eq!(other.kind(), &ErrorKind::Conflict);
    let stream = within(client.open("nightly")).await.unwrap_err();
    assert_eq!(stream.kind(), &ErrorKind::Conflict);

    assert_eq!(within(first.wait()).await.unwrap().state, RunState::Done);
    within(first.forget()).await.unwrap();
    assert_eq!(client.attach("nightly").await.unwrap_err().kind(), &ErrorKind::Gone);
}

#[tokio::test]
async fn a_stream_of_calls_makes_few_segments_and_its_results_come_as_they_finish() {
    let client = cluster().await;
    let run = client.open("stream").await.unwrap();
    let mut handles = Vec::new();
    for value in 0..10_000_u64 {
        handles.push(echo::submit(&run, value).await.unwrap());
    }
    let mut completed = client.as_completed(handles);
    let mut total = 0;
    let mut count = 0;
    while let Some((_, value)) = within(completed.next()).await {
        total += value.unwrap();
        count += 1;
    }
    assert_eq!((count, total), (10_000, 9_999 * 10_000 / 2));
    let segments = run.status().await.unwrap().segments;
    assert!(segments <= 200, "{segments} segments");
    within(run.close()).await.unwrap();
    assert_eq!(within(run.wait()).await.unwrap().state, RunState::Done);
    let refused = echo::submit(&run, 1).await.unwrap_err();
    assert_eq!(refused.kind(), &ErrorKind::Closed);
}

#[tokio::test]
async fn handles_are_arguments_of_later_calls() {
    let client = cluster().await;
    let run = client.unnamed().open().await.unwrap();
    let mut last = echo::submit(&run, 0).await.unwrap();
    for _ in 0..200 {
        last = add::submit(&run, &last, 1).await.unwrap();
    }
    assert_eq!(within(last.result()).await.unwrap(), 200);
    let twice = within(client.compute(add::delayed(&last, &last))).await.unwrap();
    assert_eq!(twice, 400);
    let other = client.unnamed().open().await.unwrap();
    let error = add::submit(&other, &last, 1).await.unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::Config);
}

#[tokio::test]
async fn what_is_persisted_can_be_built_on() {
    let client = cluster().await;
    let parts: Vec<Delayed<u64>> = (0..10).map(echo::delayed).collect();
    let parts: Vec<Handle<u64>> = within(client.persist(&parts)).await.unwrap();
    let total = sum::delayed(&parts);
    assert_eq!(within(total.compute(&client)).await.unwrap(), 45);
    assert_eq!(within(client.gather(&parts)).await.unwrap(), (0..10).collect::<Vec<_>>());
}

#[tokio::test]
async fn one_call_is_submitted_to_the_client_itself() {
    let client = cluster().await;
    let handle = add::submit(&client, 20, 22).await.unwrap();
    assert_eq!(within(handle.result_within(PATIENCE)).await.unwrap(), 42);
    assert_eq!(within(handle.try_result()).await.unwrap(), Some(42));
    let run = handle.run();
    drop(handle);
    within(until_gone(&client, run)).await;
}

async fn until_gone(client: &Client, run: bolthole::RunId) {
    while client.runs().await.unwrap().contains(&run) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn dropping_handles_frees_results_and_cancels_nothing() {
    let client = cluster().await;
    let run = client.unnamed().open().await.unwrap();
    let dropped = wide::submit(&run, 100_000).await.unwrap();
    let (task, clone) = (dropped.task(), dropped.clone());
    within(dropped.wait()).await.unwrap();
    drop(dropped);
    // The clone shares the pin.
    assert_eq!(within(clone.result()).await.unwrap().len(), 100_000);
    drop(clone);
    let watched = run.handle::<Vec<u8>>(task);
    let freed = within(async {
        loop {
            match watched.result().await {
                Ok(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                Err(error) => break error,
            }
        }
    });
    let error = freed.await;
    assert_eq!(error.kind(), &ErrorKind::Gone);
    assert!(error.to_string().contains("freed"), "{error}");
    let forgotten = echo::submit(&run, 3).await.unwrap();
    let forgotten = { forgotten.task() };
    within(run.close()).await.unwrap();
    let status = within(run.wait()).await.unwrap();
    assert_eq!((status.state, status.finished), (RunState::Done, 2), "{forgotten}");
}

#[tokio::test]
async fn a_cancelled_task_skips_what_needs_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("go").to_string_lossy().into_owned();
    let client = cluster().await;
    let slow = waits_for::delayed(&path[..]);
    let after = add::delayed(&slow, 1);
    let run = client.unnamed();
    let (slow, after, free) = within(run.submit((&slow, &after, one::delayed()))).await.unwrap();
    let late = within(slow.result_within(Duration::from_millis(50))).await.unwrap_err();
    assert_eq!(late.kind(), &ErrorKind::Timeout);
    assert_eq!(slow.try_result().await.unwrap(), None);
    assert!(within(slow.cancel()).await.unwrap());
    assert!(!within(slow.cancel()).await.unwrap());
    for handle in [&slow, &after] {
        let error = within(handle.result()).await.unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::Cancelled, "{error}");
    }
    assert_eq!(within(free.result()).await.unwrap(), 1);
    assert_eq!(within(free.in_run().wait()).await.unwrap().state, RunState::Done);
    std::fs::write(&path, "").unwrap();
}

#[tokio::test]
async fn a_cancelled_run_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("go").to_string_lossy().into_owned();
    let client = cluster().await;
    let handle = waits_for::submit(&client, &path[..]).await.unwrap();
    within(handle.in_run().cancel("wrong data")).await.unwrap();
    let error = within(handle.result()).await.unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::Cancelled);
    assert!(error.to_string().contains("wrong data"), "{error}");
    std::fs::write(&path, "").unwrap();
}

#[tokio::test]
async fn waiting_for_any_and_all() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("go").to_string_lossy().into_owned();
    let client = cluster().await;
    let calls = [waits_for::delayed(&path[..]), one::delayed()];
    let handles = within(client.submit(&calls)).await.unwrap();
    assert_eq!(wait_any(&handles, PATIENCE).await.unwrap(), 1);
    let late = wait_all(&handles, Duration::from_millis(20)).await.unwrap_err();
    assert_eq!(late.kind(), &ErrorKind::Timeout);
    std::fs::write(&path, "").unwrap();
    wait_all(&handles, PATIENCE).await.unwrap();
}

#[tokio::test]
async fn bad_input_is_refused_before_anything_is_staged() {
    let client = cluster().await;
    let error = within(echo::delayed(1).queue("no.such").compute(&client)).await.unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::Config);
    let header = client.run("large").header("key", "x".repeat(20_000));
    let error = within(echo::delayed(1).compute(&header)).await.unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::Limit);
    let error = Client::connect("amqp:/x", "redis://localhost").await.unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::Config);
    assert_eq!(client.runs().await.unwrap(), []);
}

#[tokio::test]
async fn a_large_argument_is_stored_once_and_reaches_its_tasks() {
    let client = cluster().await;
    let blob = client.put(&vec![1_u8; 300_000]).unwrap();
    let calls: Vec<_> = (0..3).map(|_| length::delayed(&blob)).collect();
    assert_eq!(within(client.compute(calls)).await.unwrap(), [300_000; 3]);
    let run = client.unnamed().open().await.unwrap();
    let streamed = length::submit(&run, &blob).await.unwrap();
    assert_eq!(within(streamed.result()).await.unwrap(), 300_000);
}
