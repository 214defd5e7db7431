//! Graphs as `capture` makes them of calls.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should fail")]

use std::time::Duration;

use bolthole::capture::capture;
use bolthole::{Blob, CaptureError, Client, Delayed, Handle, task};
use bolthole_broker::args::Arg;
use bolthole_broker::graph::plan;
use bolthole_broker::id::{RunId, TaskId};
use bolthole_broker::limits;
use bolthole_broker::queue::Queue;
use bolthole_broker::store::{Memory, Store};
use bolthole_broker::task::{Backoff, TaskKind};
use serde::{Deserialize, Serialize, Serializer};

#[task]
fn next(value: u64) -> u64 {
    value + 1
}

#[task(retries = 3, backoff = "1s..2m", timeout = "10m", queue = "gpu", priority = -5)]
fn add(a: u64, b: u64) -> u64 {
    a + b
}

#[task(effect, resources(gpu = 1, disk = 20), not_before = "5m", expires = "1h", name = "sum")]
fn total(values: &[u64]) -> u64 {
    values.iter().sum()
}

/// Runs on a stack of the size that threads have by default, whatever the test's own.
fn on_a_small_stack(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::Builder::new().stack_size(2 << 20).spawn(test).unwrap();
    thread.join().unwrap();
}

#[test]
fn a_chain_of_a_million_calls_is_captured_and_dropped() {
    const CALLS: u64 = 1_000_000;
    on_a_small_stack(|| {
        let mut last = next::delayed(0);
        for _ in 1..CALLS {
            last = next::delayed(last);
        }
        let graph = capture(&[&last]).unwrap();
        assert_eq!(graph.nodes.len() as u64, CALLS);
        assert_eq!(graph.outputs, [999_999]);
        assert_eq!(graph.nodes[999_999].inputs, [999_998]);
        let kept = last.clone();
        drop(last);
        drop(kept);
    });
}

#[test]
fn a_call_used_twice_is_one_call_and_one_input() {
    let one = next::delayed(1);
    let two = next::delayed(&one);
    let sum = add::delayed(&two, two.clone());
    let all = total::delayed(vec![&one, &two, &sum, &one]);
    let graph = capture(&[&all, &two]).unwrap();
    assert_eq!(graph.outputs, [3, 1]);
    assert!(plan(graph.clone()).is_ok());
    let inputs: Vec<_> = graph.nodes.iter().map(|node| node.inputs.clone()).collect();
    assert_eq!(inputs, [vec![], vec![0], vec![1], vec![0, 1, 2]]);
    assert_eq!(graph.nodes[2].args, [Arg::Input(0), Arg::Input(0)]);
    let list = [0, 1, 2, 0].map(Arg::Input).to_vec();
    assert_eq!(graph.nodes[3].args, [Arg::List(list)]);
}

#[test]
fn a_call_with_many_inputs_names_each_once() {
    let calls: Vec<Delayed<u64>> = (0_u64..100).map(next::delayed).collect();
    let twice: Vec<&Delayed<u64>> = calls.iter().chain(&calls).collect();
    let graph = capture(&[&total::delayed(twice)]).unwrap();
    let sum = graph.nodes.last().unwrap();
    assert_eq!(sum.inputs, (0..100).collect::<Vec<_>>());
    let Arg::List(items) = &sum.args[0] else { panic!("{:?}", sum.args) };
    assert_eq!((&items[3], &items[103], items.len()), (&Arg::Input(3), &Arg::Input(3), 200));
}

#[test]
fn options_of_the_attribute_and_of_the_call_make_classes() {
    let one = next::delayed(1);
    let sum = add::delayed(&one, 2);
    let other = add::delayed(&one, 3).retries(0).name("other");
    let all = total::delayed([&sum, &other]);
    let graph = capture(&[&all, &next::delayed(2)]).unwrap();
    let [next, add, other, total] = &graph.classes[..] else { panic!("{:?}", graph.classes) };
    assert_eq!((next.task.as_str(), next.kind), ("capture::next", TaskKind::Repeatable));
    assert_eq!((add.signature.as_str(), add.options.retries), ("(u64, u64) -> u64", 3));
    let backoff = Backoff { first: Duration::from_secs(1), max: Duration::from_secs(120) };
    assert_eq!((add.options.backoff, add.options.timeout), (backoff, Some(5 * backoff.max)));
    assert_eq!((add.options.queue.as_str(), add.options.priority), ("gpu", -5));
    assert_eq!((other.options.retries, other.label()), (0, "other"));
    assert_eq!(other.options.backoff, add.options.backoff);
    assert_eq!((total.task.as_str(), total.kind), ("sum", TaskKind::Effect));
    assert_eq!(total.signature, "(Vec<u64>) -> u64");
    assert_eq!(total.options.resources, [("disk".into(), 20), ("gpu".into(), 1)].into());
    let (start, end) = (total.options.not_before_ms.unwrap(), total.options.expires_ms.unwrap());
    assert!(end > start && end - start >= 55 * 60 * 1000);
}

#[test]
fn the_same_calls_an_hour_later_are_the_same_graph() {
    let graph = capture(&[&total::delayed([1])]).unwrap();
    let mut later = graph.clone();
    let options = &mut later.classes[0].options;
    options.not_before_ms = options.not_before_ms.map(|time| time + 3_600_000);
    options.expires_ms = options.expires_ms.map(|time| time + 3_600_000);
    assert_eq!(plan(graph).unwrap().digest, plan(later.clone()).unwrap().digest);
    let mut sooner = later.clone();
    sooner.classes[0].options.not_before_ms = None;
    assert_ne!(plan(sooner).unwrap().digest, plan(later).unwrap().digest);
}

#[test]
fn options_of_a_shared_call_make_another_call() {
    let one = next::delayed(1);
    let other = one.clone().priority(1);
    assert_eq!(capture(&[&one, &other]).unwrap().nodes.len(), 2);
    assert_eq!(capture(&[&one, &one.clone()]).unwrap().nodes.len(), 1);
}

#[tokio::test]
async fn tasks_of_the_run_follow_the_other_inputs() {
    let client = Client::with(Store::Memory(Memory::new()), Queue::memory()).await.unwrap();
    let run = RunId::new(1, 1);
    let (first, second) = (TaskId::new(0, 7), TaskId::new(0, 8));
    let attached = client.attach_id(run);
    let [first, second] = [first, second].map(|task| attached.handle::<u64>(task));
    let one = next::delayed(1);
    let all = total::delayed(vec![&first, &second, &first]);
    let sum = add::delayed(&second, &one);
    let graph = capture(&[&add::delayed(all, sum)]).unwrap();
    assert_eq!(graph.run, Some(run));
    assert_eq!(graph.nodes[0].earlier, [first.task(), second.task()]);
    assert_eq!(graph.nodes[0].args, [Arg::List([0, 1, 0].map(Arg::Input).to_vec())]);
    assert_eq!(
        (&graph.nodes[2].inputs[..], &graph.nodes[2].earlier[..]),
        (&[1][..], &[second.task()][..])
    );
    assert_eq!(graph.nodes[2].args, [Arg::Input(1), Arg::Input(0)]);
    assert!(plan(graph).is_ok());

    let other: Handle<u64> = client.attach_id(RunId::new(2, 2)).handle(TaskId::new(0, 0));
    let mixed = capture(&[&add::delayed(&first, other)]);
    assert!(matches!(mixed, Err(CaptureError::OtherRun { .. })), "{mixed:?}");
}

#[derive(Deserialize)]
struct Stubborn;

impl Serialize for Stubborn {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("will not"))
    }
}

#[task]
fn takes(_number: u8, _value: &Stubborn, _more: &[u8]) {}

#[test]
fn what_cannot_be_encoded_is_an_error_of_the_capture() {
    let call = takes::delayed(1, Stubborn, b"more");
    let Err(CaptureError::Argument { task, number, source }) = capture(&[&call]) else {
        panic!("captured")
    };
    assert_eq!((task, number), ("capture::takes", 1));
    assert!(source.to_string().ends_with("will not"), "{source}");
}

#[test]
fn large_arguments_are_stored_once() {
    let text = "x".repeat(limits::INLINE_ARGUMENT_MAX);
    let blob = Blob::new(&text).unwrap();
    let calls = [length::delayed(&text), length::delayed(&text), length::delayed(&blob)];
    let graph = capture(&[&calls[0], &calls[1], &calls[2]]).unwrap();
    assert_eq!(graph.blobs.len(), 1);
    assert_eq!(graph.blobs[&blob.digest()], *blob.bytes());
    assert!(graph.nodes.iter().all(|node| matches!(node.args[0], Arg::Blob { .. })));
}

#[task]
fn length(text: &str) -> usize {
    text.len()
}
