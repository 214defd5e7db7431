//! What can happen to a Redis, and to what is stored in it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should fail")]

use std::time::{Duration, Instant};

use bolthole_broker::clock;
use bolthole_broker::id::RunId;
use bolthole_broker::run::{Committed, Stage};
use bolthole_broker::state::RunState;
use bolthole_broker::store::{Error, EventCursor, Redis, Store};
use bolthole_tests::conformance::store::sample::{self, Sample, done, open};
use bolthole_tests::servers::{self, RedisOptions, RedisServer};

fn start(config: &[&str]) -> RedisServer {
    let config = config.iter().map(|line| (*line).to_owned()).collect();
    RedisServer::start(&RedisOptions { append_only: true, config }).unwrap()
}

async fn connect(server: &RedisServer, namespace: &str) -> Store {
    Store::Redis(Redis::connect(&server.url(), namespace).await.unwrap())
}

fn written(reply: &Committed) -> RunState {
    match reply {
        Committed::Written { run, .. } => *run,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_in_the_middle_of_a_run_is_waited_for() {
    let mut server = start(&["appendfsync always"]);
    let store = connect(&server, "").await;
    let sample = Sample::chain(&store, 4).await.unwrap();
    store.commit(sample.run, &sample.finish(&[0])).await.unwrap();
    let before = store.epoch().await.unwrap();
    server.kill();
    let (commit, run) = (sample.finish(&[1]), sample.run);
    let (reader, committer) = (store.clone(), store.clone());
    let cursor = EventCursor::default();
    let reading =
        tokio::spawn(async move { reader.events(run, &cursor, Duration::from_secs(60)).await });
    let committing = tokio::spawn(async move { committer.commit(run, &commit).await });
    let server = tokio::task::spawn_blocking(move || {
        server.restart().unwrap();
        server
    });
    let _server = server.await.unwrap();
    assert_eq!(written(&committing.await.unwrap().unwrap()), RunState::Open);
    assert_ne!(store.epoch().await.unwrap(), before);
    store.commit(run, &sample.finish(&[2])).await.unwrap();
    store.commit(run, &sample.finish(&[3])).await.unwrap();
    assert_eq!(reading.await.unwrap().unwrap().finished.len(), 1);
    assert_eq!(store.close(run).await.unwrap(), Some(RunState::Done));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_functions_are_loaded_again() {
    let server = start(&[]);
    let store = connect(&server, "").await;
    let sample = Sample::chain(&store, 2).await.unwrap();
    server.cli(["FUNCTION", "FLUSH"]).unwrap();
    assert!(store.status(sample.run).await.unwrap().is_some(), "a reader");
    server.cli(["FUNCTION", "FLUSH"]).unwrap();
    written(&store.commit(sample.run, &sample.finish(&[0])).await.unwrap());
    server.cli(["FUNCTION", "FLUSH"]).unwrap();
    assert!(store.overdue().await.unwrap().is_empty(), "a pipeline");
}

/// Whoever opens a run lists it first: for a moment, or for as long as it is paused there, the run is
/// listed and not made. Nobody may delete it under its hands.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_is_just_being_opened_is_not_overdue() {
    let server = start(&[]);
    let store = connect(&server, "ns").await;
    let run = clock::new_run_id();
    server.cli(["FCALL", "bh_v1_list", "1", "ns:bh:runs", &run.to_string()]).unwrap();
    assert!(store.overdue().await.unwrap().is_empty());
    assert!(store.runs().await.unwrap().is_empty());
    // An hour ago.
    let (now, hour) = (clock::unix_ms(), 3_600_000);
    server.cli(["ZADD", "ns:bh:runs", &(now - hour).to_string(), &run.to_string()]).unwrap();
    assert_eq!(store.overdue().await.unwrap(), [run]);
    store.purge(run).await.unwrap();
    assert_eq!(server.cli(["EXISTS", "ns:bh:runs"]).unwrap(), "0");
}

/// The text of the functions that a server has.
fn functions(server: &RedisServer) -> String {
    let list = server.ask(&[b"FUNCTION", b"LIST", b"WITHCODE"]).unwrap();
    let code = list.leaves().find(|text| text.starts_with(b"#!lua")).unwrap().to_vec();
    String::from_utf8(code).unwrap()
}

/// Gives a server functions in place of those it has.
fn load(server: &RedisServer, code: &str) {
    server.ask(&[b"FUNCTION", b"LOAD", b"REPLACE", code.as_bytes()]).unwrap();
}

/// A text of functions as of another revision.
fn revised(code: &str, revision: u32) -> String {
    let (head, rest) = code.split_once("-- revision ").unwrap();
    let (_, rest) = rest.split_once('\n').unwrap();
    format!("{head}-- revision {revision}\n{rest}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn functions_of_a_later_build_stay_and_those_of_an_earlier_one_do_not() {
    let server = start(&[]);
    let store = connect(&server, "").await;
    let ours = functions(&server);
    let later = revised(&ours, u32::MAX);
    load(&server, &later);
    let sample = Sample::chain(&connect(&server, "").await, 2).await.unwrap();
    assert_eq!(functions(&server), later, "two builds would replace each other's for ever");
    written(&store.commit(sample.run, &sample.finish(&[0])).await.unwrap());
    load(&server, &revised(&ours, 0));
    connect(&server, "").await;
    assert_eq!(functions(&server), ours);
    written(&store.commit(sample.run, &sample.finish(&[1])).await.unwrap());
}

/// Whoever misses a function loads its own, unless that would take a later build's from it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_function_does_not_undo_a_later_build_s() {
    let server = start(&[]);
    let store = connect(&server, "").await;
    let ours = functions(&server);
    // The build before had no such function.
    let without = |revision| revised(&ours, revision).replace("'status'", "'other'");
    load(&server, &without(0));
    assert!(store.status(clock::new_run_id()).await.unwrap().is_none());
    assert_eq!(functions(&server), ours);
    load(&server, &without(u32::MAX));
    let error = store.status(clock::new_run_id()).await.unwrap_err();
    let why = "of a later build (revision 4294967295) and lack bh_v1_status";
    assert!(error.to_string().contains(why) && !error.is_retryable(), "{error}");
    assert_eq!(functions(&server), without(u32::MAX), "they are the other's");
    let refused = Redis::connect(&server.url(), "").await.unwrap_err();
    assert!(matches!(refused, Error::Unsuitable { .. }), "{refused}");
}

/// All keys of a server but `besides`, with their contents.
fn contents(server: &RedisServer, besides: &str) -> Vec<(String, String)> {
    let keys = server.cli(["KEYS", "*"]).unwrap();
    let mut keys: Vec<_> = keys.lines().filter(|key| *key != besides).collect();
    keys.sort_unstable();
    let dump = |key: &&str| ((*key).to_owned(), server.cli(["--no-raw", "DUMP", key]).unwrap());
    keys.iter().map(dump).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_of_a_wrong_type_is_damage_and_leaves_no_part_of_a_commit() {
    let server = start(&[]);
    let store = connect(&server, "ns").await;
    for planted in ["h", "a:0", "o", "e", "m", "x:0", "r:0:0", "s", "l", "q"] {
        let sample = Sample::chain(&store, 2).await.unwrap();
        let key = format!("ns:bh:{{{}}}:{planted}", sample.run);
        server.cli(["DEL", &key]).unwrap();
        if planted == "e" || planted == "o" || planted == "h" {
            server.cli(["SADD", &key, "planted"]).unwrap();
        } else {
            server.cli(["XADD", &key, "1-1", "planted", "1"]).unwrap();
        }
        let before = contents(&server, "");
        let failed = bolthole_broker::run::End::Failed { error: "why".into() };
        let commit = sample.commit(&[(0, failed), (1, done())], 1);
        match store.commit(sample.run, &commit).await {
            Err(Error::Corrupt(_)) => assert_eq!(contents(&server, ""), before, "{planted}"),
            // What this commit does not touch does not matter to it.
            Ok(reply) => {
                written(&reply);
                assert!(["x:0", "s", "l", "q"].contains(&planted), "{planted} was overlooked");
            }
            Err(other) => panic!("{planted}: {other}"),
        }
        server.cli(["DEL", &format!("ns:bh:{{{}}}:m", sample.run)]).unwrap();
        purge_all(&server);
    }
}

fn purge_all(server: &RedisServer) {
    server.cli(["FLUSHDB"]).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_left_of_a_purged_run() {
    let server = start(&[]);
    let store = connect(&server, "ns").await;
    let named = bolthole_broker::run::Open { name: Some("nightly".to_owned()), ..open() };
    let sample = Sample::chain(&store, 200).await.unwrap();
    store.put_blob(sample.run, [1; 32], vec![7; 2_000_000].into()).await.unwrap();
    let twin = RunId::new(1, 2);
    store.open(twin, &named).await.unwrap();
    written(&store.commit(sample.run, &sample.finish(&[0, 1, 2])).await.unwrap());
    let other = connect(&server, "other").await;
    let kept = Sample::chain(&other, 2).await.unwrap();
    assert!(store.status(kept.run).await.unwrap().is_none(), "namespaces are apart");
    for run in [sample.run, twin] {
        store.purge(run).await.unwrap();
    }
    assert_eq!(server.cli(["KEYS", "ns:*"]).unwrap(), "");
    assert_ne!(server.cli(["KEYS", "other:*"]).unwrap(), "");
    assert!(other.status(kept.run).await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_server_takes_no_new_work_and_finishes_what_it_has() {
    let server = start(&[]);
    let store = connect(&server, "").await;
    let sample = Sample::chain(&store, 2).await.unwrap();
    let record = sample::worker();
    let (long, short) = (Duration::from_secs(60), Duration::from_millis(1));
    let [living, dying] =
        [store.join(&record, long).await.unwrap(), store.join(&record, short).await.unwrap()];
    server.cli(["CONFIG", "SET", "maxmemory", "1"]).unwrap();
    assert!(
        store.beat(living, &record, 2 * long).await.unwrap(),
        "who lives is not taken for dead"
    );
    let key = format!("bh:w:{:06x}", living.get());
    let left: u64 = server.cli(["PTTL", &key]).unwrap().parse().unwrap();
    assert!(left > 60_000, "{left}");
    while store.worker(dying).await.unwrap().is_some() {
        tokio::time::sleep(short).await;
    }
    let refused = store.beat(dying, &record, long).await.unwrap_err();
    assert!(matches!(refused, Error::Full { .. }), "{refused:?}");
    let more = Stage { segment: 1, ..sample.stage.clone() };
    let refused = store.stage(sample.run, &more).await.unwrap_err();
    assert!(matches!(refused, Error::Full { .. }), "{refused:?}");
    assert!(store.status(sample.run).await.unwrap().is_some());
    written(&store.commit(sample.run, &sample.finish(&[0, 1])).await.unwrap());
    assert_eq!(store.close(sample.run).await.unwrap(), Some(RunState::Done));
    store.purge(sample.run).await.unwrap();
}

async fn refusal(url: &str) -> Error {
    let started = Instant::now();
    let error = Redis::connect(url, "").await.unwrap_err();
    assert!(started.elapsed() < Duration::from_secs(30), "{error}");
    let password = url.split_once("default:").and_then(|(_, rest)| rest.split_once('@'));
    if let Some((password, _)) = password.filter(|(password, _)| !password.is_empty()) {
        assert!(!format!("{error} {error:?}").contains(password), "{error:?}");
    }
    error
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_a_server_is_said() {
    let server = start(&[]);
    let url = server.url();
    let store = Redis::connect(&url, "").await.unwrap();
    let password = url.split_once("default:").unwrap().1.split_once('@').unwrap().0;
    assert!(!format!("{store:?}").contains(password));
    assert_eq!(store.address(), format!("127.0.0.1:{}", server.port()));

    let wrong = refusal(&url.replace(password, "mistaken")).await;
    assert!(matches!(wrong, Error::Denied { .. }), "{wrong:?}");
    let none = refusal(&format!("redis://127.0.0.1:{}/0", server.port())).await;
    assert!(matches!(none, Error::Denied { .. }), "{none:?}");
    let typo = refusal("redsi://localhost").await;
    assert!(matches!(typo, Error::Unsuitable { .. }), "{typo:?}");
    let plain = refusal(&url.replace("redis://", "rediss://")).await;
    assert!(matches!(plain, Error::Unreachable { .. } | Error::Unanswered { .. }), "{plain:?}");

    server.cli(["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]).unwrap();
    let evicting = refusal(&url).await;
    assert!(matches!(evicting, Error::Unsuitable { .. }), "{evicting:?}");
    let text = evicting.to_string();
    assert!(text.contains("allkeys-lru") && text.contains("CONFIG SET"), "{text}");

    let mut server = server;
    server.stop().unwrap();
    let nobody = refusal(&url).await;
    assert!(matches!(nobody, Error::Unreachable { .. }), "{nobody:?}");
    assert!(nobody.to_string().contains(store.address()));
}

/// What is stored must stay readable: other programs of this version share it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_stored_form_is_pinned() {
    let server = start(&[]);
    let store = connect(&server, "").await;
    let sample = Sample::chain(&store, 2).await.unwrap();
    written(&store.commit(sample.run, &sample.finish(&[0])).await.unwrap());
    let get = |rest: &str, from: &str, to: &str| {
        let key = format!("bh:{{{}}}:{rest}", sample.run);
        server.cli(["--no-raw", "GETRANGE", &key, from, to]).unwrap()
    };
    // Magic, state, policy, attempts; tasks, finished, failed; spawned, segments.
    let zeros = |count: usize| r"\x00".repeat(count);
    let head = format!(r#""BHR1\x01{}\x02{}\x01{}\x01""#, zeros(10), zeros(7), zeros(15));
    assert_eq!(get("h", "0", "39"), head);
    // Magic, tasks, cursor, later, records, digest; then states, pending, consumers, locators.
    let arena = format!(
        r#""BHA1{}\x02{}{}{}\x01{}\x00\x00\x00\x01\x80{}\x02v{}""#,
        zeros(3),
        zeros(8),
        r"\x04".repeat(16),
        zeros(32),
        zeros(9),
        zeros(3),
        zeros(14)
    );
    assert_eq!(get("a:0", "0", "-1"), arena);
    let outbox = format!("bh:{{{}}}:o", sample.run);
    let field = format!("{}:0", sample.owner);
    let ready = server.cli(["--no-raw", "HGET", &outbox, &field]).unwrap();
    assert_eq!(ready, r#""\x00\x00\x00\x00\x00\x00\x80\x01\x00\x01\x00\x01""#);
    assert_eq!(servers::namespace().len(), 17);
}
