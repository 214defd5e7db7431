//! The blocking client.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on should fail")]

use std::time::Duration;

use bolthole::blocking::{Client, wait_all, wait_any};
use bolthole::{Delayed, ErrorKind, RunState, task};

const PATIENCE: Duration = Duration::from_secs(60);

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

fn cluster() -> Client {
    Client::embedded().unwrap().progress(false)
}

#[test]
fn the_same_verbs_without_await() {
    let client = cluster();
    let parts: Vec<Delayed<u64>> = (0..20).map(echo::delayed).collect();
    let total = sum::delayed(&parts);
    assert_eq!(total.compute(&client).unwrap(), 190);
    let (first, all) = client.compute((&parts[1], &total)).unwrap();
    assert_eq!((first, all), (1, 190));
    let named = client.run("again").header("key", "value");
    assert_eq!(total.compute(&named).unwrap(), 190);
    assert_eq!(total.compute(&named).unwrap(), 190);
    let run = client.attach("again").unwrap();
    assert_eq!(run.header().unwrap()["key"], "value");
    assert_eq!(run.wait_within(PATIENCE).unwrap().state, RunState::Done);
    run.forget().unwrap();
    assert_eq!(client.runs().unwrap(), []);
}

#[test]
fn a_stream_of_calls_with_handles_as_arguments() {
    let client = cluster();
    let run = client.open("stream").unwrap();
    let handles: Vec<_> = (0..5_000).map(|value| echo::submit(&run, value).unwrap()).collect();
    let total = sum::submit(&run, &handles[..10]).unwrap();
    assert_eq!(total.result_within(PATIENCE).unwrap(), 45);
    let pair = add::submit(&run, &handles[1], handles[2].clone()).unwrap();
    assert_eq!(pair.result().unwrap(), 3);
    assert_eq!(client.gather(&handles[..3]).unwrap(), [0, 1, 2]);
    wait_all(&handles, PATIENCE).unwrap();
    assert!(wait_any(&handles, PATIENCE).unwrap() < 5_000);
    let mut total = 0;
    for (_, value) in client.as_completed(handles) {
        total += value.unwrap();
    }
    assert_eq!(total, 4_999 * 5_000 / 2);
    run.close().unwrap();
    assert_eq!(run.wait_within(PATIENCE).unwrap().state, RunState::Done);
}

#[test]
fn what_is_persisted_can_be_built_on() {
    let client = cluster();
    let (one, rest) = client.persist((echo::delayed(1), vec![echo::delayed(2)])).unwrap();
    assert_eq!(add::delayed(&one, &rest[0]).compute(&client).unwrap(), 3);
    let alone = add::submit(&client, 1, 1).unwrap();
    assert_eq!(alone.result_within(PATIENCE).unwrap(), 2);
    assert_eq!(alone.try_result().unwrap(), Some(2));
}

#[test]
fn inside_an_async_runtime_it_says_what_to_use() {
    let client = cluster();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (made, computed) = runtime.block_on(async {
        (Client::embedded().unwrap_err(), echo::delayed(1).compute(&client).unwrap_err())
    });
    for error in [made, computed] {
        assert_eq!(error.kind(), &ErrorKind::Config);
        assert!(error.to_string().contains("bolthole::Client"), "{error}");
    }
    // Dropped in there it must not panic either.
    runtime.block_on(async { drop(client) });
}

#[test]
fn a_progress_bar_changes_no_answer() {
    let client = Client::embedded().unwrap();
    let parts: Vec<Delayed<u64>> = (0..300).map(echo::delayed).collect();
    assert_eq!(sum::delayed(parts).compute(&client).unwrap(), 299 * 300 / 2);
}
