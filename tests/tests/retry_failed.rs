//! A run that has failed or was cancelled is taken up again, and only what is missing is run.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on should fail")]

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bolthole::{Client, Delayed, ErrorKind, FailurePolicy, Handle, RunState, blocking, task};
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(60);

/// How often each task has run, by what its test calls it.
static RUNS: Mutex<Option<HashMap<String, u32>>> = Mutex::new(None);

fn note(name: &str) {
    let mut runs = RUNS.lock().unwrap_or_else(PoisonError::into_inner);
    *runs.get_or_insert_default().entry(name.to_owned()).or_insert(0) += 1;
}

fn runs_of(name: &str) -> u32 {
    let runs = RUNS.lock().unwrap_or_else(PoisonError::into_inner);
    runs.as_ref().and_then(|runs| runs.get(name).copied()).unwrap_or(0)
}

#[task]
fn source(name: &str, value: u64) -> u64 {
    note(name);
    value
}

/// Larger than what the store keeps: the worker holds it.
#[task]
fn wide(name: &str, bytes: usize) -> Vec<u8> {
    note(name);
    vec![7; bytes]
}

#[task]
fn length(bytes: &[u8]) -> u64 {
    bytes.len() as u64
}

#[task]
fn add(name: &str, a: u64, b: u64) -> u64 {
    note(name);
    a + b
}

/// Fails while its file is missing.
#[task]
fn needs(name: &str, path: &str, value: u64) -> Result<u64, String> {
    note(name);
    if Path::new(path).exists() { Ok(value) } else { Err(format!("{path} is missing")) }
}

/// Ends when its file is there.
#[task]
async fn waits_for(name: String, path: String, value: u64) -> u64 {
    note(&name);
    while !Path::new(&path).exists() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    value
}

/// Returns a task that fails while the file is missing.
#[task]
fn hands_on(name: &str, path: &str, value: u64) -> Delayed<u64> {
    note(name);
    needs::delayed(format!("{name}/returned"), path, value)
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.expect("it takes too long")
}

async fn cluster() -> Client {
    Client::embedded_builder().slots(4).start().await.unwrap()
}

/// A file that is missing until it is written.
fn flag() -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("flag").to_str().unwrap().to_owned();
    (folder, path)
}

#[tokio::test]
async fn with_continue_only_what_failed_and_what_was_skipped_is_run_again() {
    let client = cluster().await;
    let (_folder, path) = flag();
    let left = source::delayed("c/left", 1);
    let kept = wide::delayed("c/kept", 20_000);
    let right = needs::delayed("c/right", &path, 10);
    let both = add::delayed("c/both", &left, &right);
    let top = add::delayed("c/top", &both, length::delayed(&kept));
    let builder = client.unnamed().policy(FailurePolicy::Continue);
    let (left, kept, right, top): (Handle<u64>, Handle<Vec<u8>>, Handle<u64>, Handle<u64>) =
        within(builder.submit((left, kept, right, top))).await.unwrap();
    let run = top.in_run();
    assert_eq!(within(run.wait()).await.unwrap().state, RunState::Failed);
    assert!(within(top.result()).await.unwrap_err().to_string().contains("is missing"));
    assert_eq!(within(left.result()).await.unwrap(), 1);

    // The reason is still there: it fails again, and is told again.
    assert_eq!(within(run.retry_failed()).await.unwrap(), 3);
    assert_eq!(within(run.wait()).await.unwrap().state, RunState::Failed);
    assert!(within(right.result()).await.is_err());
    std::fs::write(&path, "").unwrap();
    assert_eq!(within(run.retry_failed()).await.unwrap(), 3);
    assert_eq!(within(top.result()).await.unwrap(), 20_011);
    assert_eq!(within(right.result()).await.unwrap(), 10);
    assert_eq!(within(kept.result()).await.unwrap().len(), 20_000);
    let status = within(run.wait()).await.unwrap();
    assert_eq!((status.state, status.failed), (RunState::Done, 0));
    let runs = ["c/left", "c/kept", "c/right", "c/both", "c/top"].map(runs_of);
    assert_eq!(runs, [1, 1, 3, 1, 1]);
    assert_eq!(within(run.retry_failed()).await.unwrap(), 0, "nothing to do");
}

#[tokio::test]
async fn a_run_that_failed_fast_goes_on_with_what_had_not_started() {
    let client = cluster().await;
    let (_folder, path) = flag();
    let base = source::delayed("f/base", 2);
    // Freed when its only consumer has failed, and computed again for it. It comes after the base,
    // which is thereby certain to have succeeded when the run fails.
    let freed = add::delayed("f/freed", &base, 1);
    let fails = needs::delayed("f/fails", &path, &freed);
    let mut last = add::delayed("f/chain", &base, &fails);
    for _ in 0..600 {
        last = add::delayed("f/chain", &last, 1);
    }
    let (base, last) = within(client.submit((base, last))).await.unwrap();
    let run = last.in_run();
    assert_eq!(within(run.wait()).await.unwrap().state, RunState::Failed);
    assert!(within(last.result()).await.unwrap_err().task().is_some());
    // A waiter that comes between does not miss it.
    std::fs::write(&path, "").unwrap();
    assert_eq!(within(run.retry_failed()).await.unwrap(), 1);
    let (waited, value) = within(async { tokio::join!(run.wait(), last.result()) }).await;
    assert_eq!((waited.unwrap().state, value.unwrap()), (RunState::Done, 605));
    assert_eq!(within(base.result()).await.unwrap(), 2);
    assert_eq!((runs_of("f/fails"), runs_of("f/chain")), (2, 601));
    assert_eq!(runs_of("f/base"), 1);
}

#[tokio::test]
async fn a_named_run_is_taken_up_by_whoever_attaches_to_it() {
    let client = cluster().await;
    let (_folder, path) = flag();
    let graph = || {
        let sources: Vec<_> = (0..200).map(|value| source::delayed("n/source", value)).collect();
        let sum = sources
            .iter()
            .skip(1)
            .fold(needs::delayed("n/needs", &path, 0), |sum, one| add::delayed("n/add", &sum, one));
        (sources, sum)
    };
    let named = || client.run("nightly").policy(FailurePolicy::Continue);
    let first = within(named().compute(graph())).await.unwrap_err();
    assert!(!first.to_string().contains("`retry_failed`"), "{first}");
    let again = within(named().compute(graph())).await.unwrap_err();
    assert!(again.to_string().contains("`retry_failed`"), "{again}");
    assert!(again.task().is_some(), "{again:?}");
    let handles: (Vec<Handle<u64>>, Handle<u64>) = within(named().submit(graph())).await.unwrap();
    assert!(within(handles.1.result()).await.is_err());

    std::fs::write(&path, "").unwrap();
    let run = client.attach("nightly").await.unwrap();
    within(run.wait()).await.unwrap();
    assert_eq!(within(run.retry_failed()).await.unwrap(), 200);
    // Also through handles that have seen the run fail and know nothing of the retry.
    assert_eq!(within(handles.1.result()).await.unwrap(), (1..200).sum::<u64>());
    assert_eq!(within(run.wait()).await.unwrap().state, RunState::Done);
    let (values, sum) = within(named().compute(graph())).await.unwrap();
    assert_eq!((values.len(), sum), (200, (1..200).sum::<u64>()));
    assert_eq!((runs_of("n/source"), runs_of("n/add")), (200, 199));
    within(run.forget()).await.unwrap();
    let gone = within(run.retry_failed()).await.unwrap_err();
    assert_eq!(gone.kind(), &ErrorKind::Gone);
}

#[tokio::test]
async fn a_cancelled_run_goes_on() {
    let client = cluster().await;
    let (_folder, path) = flag();
    let done = source::delayed("x/done", 1);
    let waits = waits_for::delayed("x/waits", &path, 2);
    let top = add::delayed("x/top", &done, &waits);
    let (done, top) = within(client.submit((done, top))).await.unwrap();
    let run = top.in_run();
    assert_eq!(within(done.result()).await.unwrap(), 1);
    let refused = within(run.retry_failed()).await.unwrap_err();
    assert_eq!(refused.kind(), &ErrorKind::Conflict, "{refused}");
    run.cancel("by mistake").await.unwrap();
    let cancelled = within(top.result()).await.unwrap_err();
    assert_eq!(cancelled.kind(), &ErrorKind::Cancelled);
    std::fs::write(&path, "").unwrap();
    assert_eq!(within(run.retry_failed()).await.unwrap(), 0, "none had failed");
    assert_eq!(within(top.result()).await.unwrap(), 3);
    assert_eq!(within(run.wait()).await.unwrap().state, RunState::Done);
    assert_eq!((runs_of("x/done"), runs_of("x/top")), (1, 1));
}

#[tokio::test]
async fn a_task_that_returned_a_failing_task_runs_again_from_its_own_inputs() {
    let client = cluster().await;
    for policy in [FailurePolicy::FailFast, FailurePolicy::Continue] {
        let (_folder, path) = flag();
        let name = format!("h/{policy:?}");
        let handed = hands_on::delayed(&name, &path, source::delayed("h/source", 5));
        let top = add::delayed("h/top", &handed, 1);
        let top: Handle<u64> = within(client.unnamed().policy(policy).submit(top)).await.unwrap();
        let run = top.in_run();
        assert!(within(top.result()).await.is_err());
        within(run.wait()).await.unwrap();
        std::fs::write(&path, "").unwrap();
        assert!(within(run.retry_failed()).await.unwrap() >= 1);
        assert_eq!(within(top.result()).await.unwrap(), 6, "{policy:?}");
        assert_eq!(within(run.wait()).await.unwrap().state, RunState::Done);
    }
}

#[test]
fn blocking_clients_retry_too() {
    let client = blocking::Client::embedded().unwrap();
    let (_folder, path) = flag();
    let call = needs::delayed("b/needs", &path, 4);
    let handle = client.run("b").submit(call).unwrap();
    assert!(handle.result().is_err());
    std::fs::write(&path, "").unwrap();
    assert_eq!(client.attach("b").unwrap().retry_failed().unwrap(), 1);
    assert_eq!(handle.result().unwrap(), 4);
}
