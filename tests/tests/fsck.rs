//! `bolthole fsck`, `du` and `gc` on a store that is well, and on one that somebody has damaged.
#![cfg(test)]

use std::time::Duration;

use bolthole::{Client, Delayed, FailurePolicy, Handle, RunId, RunState, task};
use bolthole_broker::call::States;
use bolthole_broker::clock;
use bolthole_broker::queue::Queue;
use bolthole_broker::registry::Registry;
use bolthole_broker::state::TaskState;
use bolthole_broker::store::{Redis, Store};
use bolthole_tests::cluster::until;
use bolthole_tests::servers::{namespace, shared};
use bolthole_worker::{Options, Worker};

/// A text that is too long for a locator and short enough for the store.
#[task]
fn text(number: usize) -> String {
    format!("{number}{}", "x".repeat(99))
}

/// Waits for a worker that serves its queue.
#[task(queue = "gate")]
fn gate(number: usize) -> usize {
    number
}

#[task]
fn lengths(texts: &[String], more: usize) -> usize {
    texts.iter().map(String::len).sum::<usize>() + more
}

const PARTS: usize = 5;
const ANSWER: usize = PARTS * 100 + 7;
/// Segment 0 of a run of [`graph`]: the texts and the gate in some order, then what uses them.
const TASKS: usize = PARTS + 2;
const LAST: usize = TASKS - 1;

fn graph() -> Delayed<usize> {
    let texts: Vec<Delayed<String>> = (0..PARTS).map(text::delayed).collect();
    lengths::delayed(texts, gate::delayed(7))
}

struct Cluster {
    namespace: String,
    client: Client,
    store: Store,
}

impl Cluster {
    async fn new() -> Self {
        let namespace = namespace();
        let store = Redis::connect(&shared().redis.url(), &namespace).await.unwrap();
        let builder = Client::builder(shared().rabbit.url(), shared().redis.url());
        let client = builder.namespace(&namespace).connect().await.unwrap();
        Self { namespace, client, store: Store::Redis(store) }
    }

    async fn submit(&self, name: &str) -> Handle<usize> {
        let run = self.client.run(name).policy(FailurePolicy::Continue);
        run.submit(&graph()).await.unwrap()
    }

    async fn worker(&self, queues: &[&str]) -> Worker {
        let queue = Queue::connect(&shared().rabbit.url(), &self.namespace, "test").await.unwrap();
        let queues = queues.iter().map(ToString::to_string).collect();
        let reconcile = Some(Duration::from_millis(200));
        let options =
            Options { slots: 2, spill_dir: None, queues, reconcile, ..Options::default() };
        let (store, registry) = (self.store.clone(), Registry::linked().unwrap());
        Worker::start(store, queue, registry, States::new(), options).await.unwrap()
    }

    /// The exit code of a verb and what it says.
    async fn bolthole(&self, args: &[&str]) -> (u8, String) {
        let redis = shared().redis.url();
        let servers = ["--redis-url", &redis, "--namespace", &self.namespace];
        let mut out = Vec::new();
        let args = [&["bolthole"], args, &servers].concat();
        let args: Vec<String> = args.iter().map(ToString::to_string).collect();
        let code = bolthole_cli::run(args, &mut out).await;
        (code, String::from_utf8(out).unwrap())
    }

    /// Asserts the code and that a line says all of these words.
    #[track_caller]
    fn says((code, text): &(u8, String), expected: u8, words: &[&str]) {
        let said = text.lines().any(|line| words.iter().all(|word| line.contains(word)));
        assert!(said && *code == expected, "{code}, and no line says {words:?}:\n{text}");
    }

    fn key(&self, run: RunId, rest: &str) -> String {
        format!("{}:bh:{{{run}}}:{rest}", self.namespace)
    }

    /// Overwrites a word of a column of segment 0.
    fn overwrite(&self, run: RunId, offset: usize, value: u8) {
        let script = "redis.call('SETRANGE', KEYS[1], ARGV[1], string.char(0, 0, 0, ARGV[2]))";
        let (key, offset, value) = (self.key(run, "a:0"), offset.to_string(), value.to_string());
        shared().redis.cli(["EVAL", script, "1", &key, &offset, &value]).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn counts_that_somebody_has_changed_are_found_and_put_right() {
    let cluster = Cluster::new().await;
    let handle = cluster.submit("counts").await;
    let well = cluster.bolthole(&["fsck"]).await;
    Cluster::says(&well, 0, &["ok", "counts", "0 of 7 tasks finished"]);
    let (pending, consumers) = (64 + TASKS, 64 + 5 * TASKS);
    cluster.overwrite(handle.run(), pending + 4 * LAST, 9);
    cluster.overwrite(handle.run(), consumers, 3);
    let found = cluster.bolthole(&["fsck", "counts"]).await;
    Cluster::says(&found, 1, &["BAD", "waits for 9 inputs", "it is 6"]);
    Cluster::says(&found, 1, &["BAD", "has 3 consumers", "it is 0 and 1"]);
    let json = cluster.bolthole(&["fsck", "--json"]).await;
    Cluster::says(&json, 1, &["\"well\":false", "waits for 9 inputs"]);
    let repaired = cluster.bolthole(&["fsck", "--repair"]).await;
    Cluster::says(&repaired, 0, &["ok", "counts", "was put right"]);
    let worker = cluster.worker(&["default", "gate"]).await;
    assert_eq!(handle.result().await.unwrap(), ANSWER);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn totals_and_lost_results_are_put_right() {
    let cluster = Cluster::new().await;
    let handle = cluster.submit("results").await;
    let run = handle.run();
    let worker = cluster.worker(&["default"]).await;
    let done = async || {
        let status = cluster.store.status(run).await?;
        Ok(status.is_some_and(|status| status.finished == PARTS as u64).then_some(()))
    };
    until("the texts are done", done).await.unwrap();
    worker.stop().await;
    shared().redis.cli(["DEL", &cluster.key(run, "r:0:0")]).unwrap();
    // Finished tasks: the second number behind the state.
    let script = "redis.call('SETRANGE', KEYS[1], 23, string.char(1))";
    shared().redis.cli(["EVAL", script, "1", &cluster.key(run, "h")]).unwrap();
    let found = cluster.bolthole(&["fsck"]).await;
    Cluster::says(&found, 1, &["BAD", "results", "is not in the store"]);
    Cluster::says(&found, 1, &["BAD", "the run counts 7 tasks, 1 finished", "7 tasks, 5 finished"]);
    let repaired = cluster.bolthole(&["fsck", "--repair"]).await;
    Cluster::says(&repaired, 0, &["ok", "results", "was put right"]);
    let again = cluster.store.states(run, 0).await.unwrap().unwrap();
    let pending =
        |byte: &&u8| bolthole_broker::state::StateByte(**byte).state() == TaskState::Pending;
    assert_eq!(again.iter().filter(pending).count(), TASKS, "all texts are computed again");
    let worker = cluster.worker(&["default", "gate"]).await;
    assert_eq!(handle.result().await.unwrap(), ANSWER);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_graph_is_damaged_is_ended() {
    let cluster = Cluster::new().await;
    for part in ["d:0:0", "a:0"] {
        let handle = cluster.submit(part).await;
        shared().redis.cli(["DEL", &cluster.key(handle.run(), part)]).unwrap();
        let found = cluster.bolthole(&["fsck", part]).await;
        Cluster::says(&found, 1, &["BAD", part, "missing or damaged"]);
        let status = cluster.store.status(handle.run()).await.unwrap().unwrap();
        assert!(status.state.is_running(), "looking changes nothing");
        cluster.bolthole(&["fsck", part, "--repair"]).await;
        let status = cluster.client.attach(part).await.unwrap().wait().await.unwrap();
        assert_eq!(status.state, RunState::Cancelled);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_belongs_to_no_run_is_found_and_deleted() {
    let cluster = Cluster::new().await;
    let handle = cluster.submit("kept").await;
    let redis = &shared().redis;
    let (rest, gone) = (clock::new_run_id(), cluster.submit("gone").await);
    redis.cli(["SET", &cluster.key(rest, "a:0"), "columns"]).unwrap();
    for part in ["h", "m", "s", "a:0", "d:0:0", "e"] {
        redis.cli(["DEL", &cluster.key(gone.run(), part)]).unwrap();
    }
    let list = format!("{}:bh:runs", cluster.namespace);
    redis.cli(["ZREM", &list, &gone.run().to_string()]).unwrap();
    redis.cli(["ZREM", &list, &handle.run().to_string()]).unwrap();
    redis.cli(["SET", &format!("{}:bh:strange", cluster.namespace), "1"]).unwrap();
    let found = cluster.bolthole(&["fsck"]).await;
    Cluster::says(&found, 1, &["BAD", &rest.to_string(), "1 keys without a header"]);
    Cluster::says(&found, 1, &["BAD", "kept", "not on the list of runs"]);
    Cluster::says(&found, 1, &["BAD", "gone", "which is gone"]);
    Cluster::says(&found, 1, &["note", "strange keys", "bh:strange"]);
    let nobody = cluster.bolthole(&["fsck", "nobody"]).await;
    Cluster::says(&nobody, 1, &["BAD", "nobody", "no run of this name"]);
    let repaired = cluster.bolthole(&["fsck", "--repair"]).await;
    assert_eq!(repaired.0, 0, "{}", repaired.1);
    assert_eq!(cluster.bolthole(&["fsck"]).await.0, 0);
    assert_eq!(cluster.store.runs().await.unwrap(), [handle.run()]);
    assert_eq!(redis.cli(["EXISTS", &cluster.key(rest, "a:0")]).unwrap(), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_is_shown_by_run_and_waste_is_deleted_when_told_to() {
    let cluster = Cluster::new().await;
    let handle = cluster.submit("shown").await;
    let shown = cluster.bolthole(&["du"]).await;
    Cluster::says(&shown, 0, &["shown", &handle.run().to_string(), "0/7"]);
    let json = cluster.bolthole(&["du", "--json"]).await;
    Cluster::says(&json, 0, &["\"name\":\"shown\"", "\"tasks\":7", "\"held_bytes\":0"]);
    Cluster::says(&cluster.bolthole(&["gc", "--ended"]).await, 0, &["nothing to delete"]);
    cluster.client.attach("shown").await.unwrap().cancel("no more").await.unwrap();
    Cluster::says(&cluster.bolthole(&["gc"]).await, 0, &["nothing to delete"]);
    let dry = cluster.bolthole(&["gc", "--ended"]).await;
    Cluster::says(&dry, 0, &["run", &handle.run().to_string()]);
    assert!(cluster.store.status(handle.run()).await.unwrap().is_some(), "nothing was deleted");
    Cluster::says(&cluster.bolthole(&["gc", "--ended", "--yes"]).await, 0, &["deleted"]);
    assert!(cluster.store.status(handle.run()).await.unwrap().is_none());
    let empty = cluster.bolthole(&["du"]).await;
    Cluster::says(&empty, 0, &["0 B", "in 0 runs"]);
}
